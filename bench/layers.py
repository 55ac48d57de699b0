"""Every step of one inference alone, on one thread, against the micro-kernel's own peak."""

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


def peak() -> float:
    """Measure GFLOP/s of products whose operands stay in the first-level cache."""
    depth, count, repeats = 128, 4 * MR, 500
    pixels = np.tile(np.arange(count) * LANES, repeats)
    tables = np.concatenate([pixels, np.arange(depth)]).astype(np.int64)
    weights = aligned(PANEL + depth * PANEL)
    data = aligned((count + depth) * LANES + count * PANEL)
    step = np.zeros((1, p.FIELDS), np.int64)
    step[0, [p.KIND, p.TASKS, p.DEPTH, p.SLICE]] = p.DIRECT, repeats, depth, depth
    step[0, [p.COLS, p.COUNT, p.GROUP, p.W]] = len(pixels), len(pixels), count, PANEL
    step[0, [p.Y, p.Y_PLANE]] = (count + depth) * LANES, count * LANES
    seconds = _best(step, tables, weights, data, data[:0], np.zeros((1, LANES), np.float32))
    return 2e-9 * len(pixels) * depth * PANEL / seconds


def _best(program: Any, *arrays: Any) -> float:
    """Give the shortest of several runs, in seconds."""
    best = float("inf")
    for _ in range(REPEATS):
        state = p.counters(len(program))
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
    top = peak()
    rows = []
    for step in plan.steps:
        if callable(step):
            step(work.data, [])
            continue
        for row in step:
            arrays = plan.tables, plan.weights, work.data, work.v, work.scratch
            rows.append(_row(row, _best(row[None], *arrays), top))
    return rows


def _row(row: Any, seconds: float, top: float) -> dict[str, Any]:
    kind = ("im2col", "Bᵀ d B", "products, Aᵀ M A")[row[p.KIND]]
    tile = f"F({row[p.M]}) " if row[p.M] else ""
    products = {p.DIRECT: 1, p.GATHER: 0, p.SCATTER: int(row[p.N]) ** 2}[int(row[p.KIND])]
    groups = -(-int(row[p.COUNT]) // max(1, int(row[p.GROUP])))
    chs = int(row[p.TASKS]) // groups * PANEL if products else 0
    gflop = 2e-9 * int(row[p.COUNT]) * int(row[p.DEPTH]) * chs * products
    return {
        "step": f"{tile}{kind}, {row[p.HEIGHT]}×{row[p.WIDTH]}, depth {row[p.DEPTH]}",
        "ms": seconds * 1e3,
        "GFLOP": gflop,
        "GFLOP/s": gflop / seconds,
        "peak GFLOP/s": top,
    }
