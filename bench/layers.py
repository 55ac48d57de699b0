"""Every step of one inference alone, on one thread, against the roofline: what the micro-kernel can
do at its best, and what memory can bring.
"""

from __future__ import annotations

import time
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
    step = np.zeros((1, p.FIELDS), np.int64)
    step[0, [p.KIND, p.DEPTH, p.SLICE]] = p.DIRECT, depth, depth
    step[0, [p.TASKS, p.UNITS, p.UNIT]] = repeats, repeats, 1
    step[0, [p.COLS, p.COUNT, p.GROUP, p.W]] = len(pixels), len(pixels), count, PANEL
    step[0, [p.Y, p.Y_PLANE]] = (count + depth) * LANES, count * LANES
    seconds = _best(step, tables, weights, data, data[:0], np.zeros((1, LANES), np.float32))
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
    plan = engine._plan(x.shape, (), 1)
    work = plan.take(1)
    plan.image.write(work.data, x)
    top, stream = peak(), bandwidth()
    rows = []
    for step in plan.steps:
        if callable(step):
            step(work.data, [])
            continue
        for row in step:
            arrays = plan.tables, plan.weights, work.data, work.v, work.scratch
            rows.append(_row(row, _best(row[None], *arrays), top, stream))
    return rows


def _row(row: Any, seconds: float, top: float, stream: float) -> dict[str, Any]:
    kind = ("im2col", "Bᵀ d B", "products, Aᵀ M A", "mean", "scale")[row[p.KIND]]
    tile = f"F({row[p.M]}) " if row[p.M] else ""
    gflop, megabytes = work(row)
    return {
        "step": f"{tile}{kind}, {row[p.HEIGHT]}×{row[p.WIDTH]}, depth {row[p.DEPTH]}",
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
    row = [int(field) for field in row]
    groups = max(1, -(-row[p.COUNT] // max(1, row[p.GROUP])))
    panels = row[p.PANELS] if row[p.KIND] == p.FROM_V else row[p.TASKS] // groups
    chs = panels * PANEL  # of the output
    maps = {p.DIRECT: 1, p.FROM_V: row[p.N] ** 2}.get(row[p.KIND], 0)
    products = maps * row[p.DEPTH] * chs
    transformed = row[p.N] ** 2 * row[p.PRODUCT]
    weights = p.TAPS * row[p.DEPTH] * chs  # as they lie in memory
    floats = {
        p.DIRECT: row[p.X_IMAGE] + products + chs * row[p.HEIGHT] * row[p.WIDTH],
        p.TO_V: row[p.X_IMAGE] + transformed,
        p.FROM_V: transformed + weights + chs * row[p.HEIGHT] * row[p.WIDTH],
        p.SQUEEZE: row[p.X_IMAGE],
        p.SCALE: 2 * row[p.Y_IMAGE],
    }[row[p.KIND]]
    return 2e-9 * products * row[p.COUNT], 4e-6 * floats
