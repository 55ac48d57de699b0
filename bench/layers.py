"""Every step of one inference alone, on one thread, against the roofline: what the micro-kernel can
do at its best, and what memory can bring.
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
    """Give the shortest of several runs, in seconds."""
    best = float("inf")
    for _ in range(REPEATS):
        state = p.counters(len(program), 1)
        began = time.perf_counter()
        p.run(program, *arrays, state)
        best = min(best, time.perf_counter() - began)
    return best


def profile(name: str, size: int) -> list[dict[str, Any]]:
    """Time every step of the Winograd engine on one image."""
    model, x = network(name, engine="winograd", threads=1), images(1, size)
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
            rows.append(_row(step[i], _best(step[i : i + 1], *arrays), top, stream))
    return rows


def _row(row: Any, seconds: float, top: float, stream: float) -> dict[str, Any]:
    kind = ("im2col", "Bᵀ d B", "products, Aᵀ M A", "mean", "scale")[row.kind]
    tile = f"F({row.m}) " if row.m else ""
    gflop, megabytes = work(row)
    return {
        "step": f"{tile}{kind}, {row.height}×{row.width}, depth {row.depth}",
        "ms": seconds * 1e3,
        "least ms": gflop / top * 1e3,
        "GFLOP": gflop,
        "MB": megabytes,
        "GFLOP/s": gflop / seconds,
        "peak GFLOP/s": top,
        "peak GB/s": stream,
    }


def work(row: Any) -> tuple[float, float]:
    """Count a step's work on one image: GFLOP of its products; MB of weights, input and output."""
    row = SimpleNamespace(**{name: int(row[name]) for name in p.FIELDS})
    pixels, places = row.height * row.width, row.n**2
    chs = row.panels * PANEL  # of the output
    products = {p.DIRECT: row.pixels, p.FROM_V: places * row.tiles}.get(row.kind, 0)
    macs = products * row.depth * chs
    floats = {
        p.DIRECT: row.x_image + (row.depth + pixels) * chs,
        p.TO_V: row.x_image + places * row.v_plane,
        p.FROM_V: places * row.v_plane + (p.TAPS * row.depth + pixels) * chs,  # 9 lie in memory
        p.SQUEEZE: row.x_image,
        p.SCALE: 2 * row.y_image,
    }[row.kind]
    return 2e-9 * macs, 4e-6 * floats
