"""Every step of one inference alone, on one thread, and how far it is from its two floors: the time
of its products where the micro-kernel is at its best, and the time in which memory brings its
weights, input and output. What is left between a step and the higher one of them is transforms,
values of U, and caches that do not hold what is read again.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.contenders import network
from bench.measure import images
from npvgg.engines import program as p
from npvgg.engines.layout import aligned
from npvgg.engines.microkernel import LANES, MR, PANEL

REPEATS = 15

STREAM_BYTES = 2**28
"""Much more than any cache holds."""


def peak() -> float:
    """Measure GFLOP/s of products whose operands stay in the first-level cache."""
    depth, count, repeats = 128, 4 * MR, 500
    pixels = np.tile(np.arange(count) * LANES, repeats)
    tables = np.concatenate([pixels, np.arange(depth)]).astype(np.int64)
    weights = aligned(PANEL + depth * PANEL)
    data = aligned((count + depth) * LANES + count * PANEL)
    step = {"kind": p.DIRECT, "depth": depth, "slice": depth, "w": PANEL}
    step |= {"tasks": repeats, "units": repeats, "unit_step": 1}
    step |= {"cols": len(pixels), "pixels": len(pixels), "pixel_group": count}
    step |= {"y": (count + depth) * LANES, "y_plane": count * LANES}
    scratch = np.zeros((1, LANES), np.float32)
    seconds = _best(p.program_of([step]), tables, weights, data, data[:0], scratch)
    return 2e-9 * len(pixels) * depth * PANEL / seconds


def bandwidth() -> float:
    """Measure GB/s of reading an array from memory, on one thread."""
    array, best = np.ones(STREAM_BYTES // 8), float("inf")
    for _ in range(5):
        began = time.perf_counter()
        array.sum()
        best = min(best, time.perf_counter() - began)
    return STREAM_BYTES * 1e-9 / best


def _best(program: Any, *arrays: Any) -> float:
    """Return the shortest of several runs, in seconds."""
    best = float("inf")
    for _ in range(REPEATS):
        state = p.counters(len(program), 1)
        began = time.perf_counter()
        p.run(program, *arrays, state)
        best = min(best, time.perf_counter() - began)
    return best


def profile(name: str, size: int, batch: int) -> list[dict[str, Any]]:
    """Time every step of the Winograd engine on a batch, of which one slice is timed."""
    model = network(name, engine="winograd", threads=1)
    x = images(min(batch, model._engine.images_per_slice(size * size, 1)), size)
    model(x)
    engine = model._engine
    plan = engine._plan(x.shape, engine.whole, 1)
    work = plan.take(1)
    plan.image.write(work.data, x)
    top, stream = peak(), bandwidth()
    rows = []
    for step in plan.steps:
        if callable(step):
            step(work.data, [])
            continue
        for i in range(len(step)):
            arrays = plan.tables, plan.weights, work.data, work.v, work.scratch
            seconds = _best(step[i : i + 1], *arrays)
            rows.append({"batch": batch, **_row(step[i], seconds, len(x), top, stream)})
    return rows


def _row(row: Any, seconds: float, count: int, top: float, stream: float) -> dict[str, Any]:
    kind = ("im2col", "Bᵀ d B", "products, Aᵀ M A", "mean", "scale")[row.kind]
    tile = f"F({row.m}) " if row.m else ""
    gflop, megabytes = work(row, count)
    least, memory = gflop / top * 1e3, megabytes / stream
    ms = seconds * 1e3
    return {
        "step": f"{tile}{kind}, {row.height}×{row.width}, depth {row.depth}",
        "ms": ms / count,
        "least ms": least / count,
        "memory ms": memory / count,
        "× floor": ms / max(least, memory),
        "GFLOP": gflop,
        "MB": megabytes,
        "GFLOP/s": gflop / seconds,
        "peak GFLOP/s": top,
        "peak GB/s": stream,
    }


def work(row: Any, count: int) -> tuple[float, float]:
    """Count a step's work on some images: GFLOP of its products; MB of weights, input, output."""
    row = SimpleNamespace(**{name: int(row[name]) for name in p.FIELDS})
    places, chs = row.n**2, row.panels * PANEL  # of the output
    read, written = count * row.x_image, count * row.height * row.width * chs
    products = {p.DIRECT: row.pixels, p.FROM_V: places * row.tiles}.get(row.kind, 0)
    macs = products * row.depth * chs
    floats = {
        p.DIRECT: read + row.depth * chs + written,
        p.TO_V: read + places * row.v_plane,
        p.FROM_V: places * row.v_plane + p.TAPS * row.depth * chs + written,  # 9 lie in memory
        p.SQUEEZE: read,
        p.SCALE: 2 * count * row.y_image,
    }[row.kind]
    return 2e-9 * macs, 4e-6 * floats
