"""The forward pass as a list of steps, and the one compiled function that runs it.

A step is a row of int64 numbers; its fields have the names below. A step consists of independent
tasks. `run` is called by any number of threads on the same program: each takes tasks one by one
from a counter, and the next step begins when every task of this one is done. Which thread does what
changes from run to run; what a task computes does not, so the bits of the result are always the
same.

    DIRECT   convolution as a matrix product whose left side is gathered through tables ("im2col"
             without the columns); a task is one panel of output channels × one group of pixels
    GATHER   Winograd, first half: V = Bᵀ d B of all tiles; a task is one row of tiles × 16 channels
    SCATTER  Winograd, second half: M = Σ_c V ⊙ U for each of the n² products, Y = Aᵀ M A, bias,
             ReLU; a task is one panel of output channels × one group of tiles

Maps live in one array of floats, as (image, 16 channels, row, column, 16 lanes) with a margin of
zeros around (see `layout`); weights are packed in panels (see `packing`). V has an array of its
own, (product, 16 channels, tile, lanes); M is (product, vector, tile of the group, lanes), in
memory that is a thread's own.

What must already hold: the tables are for these maps; margins are zero; each step's tasks write to
distinct places, none of which the step reads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from npvgg.engines.microkernel import LANES, MR, PANEL, multiply
from npvgg.engines.transforms import transform
from npvgg.jit import kernel

DIRECT, GATHER, SCATTER = 0, 1, 2

(
    KIND, TASKS,
    X, X_IMAGE, X_PLANE, X_ROW,  # input: start; floats from one image, 16 channels, row to the next
    Y, Y_IMAGE, Y_PLANE, Y_ROW,  # output
    W, BIAS, RELU,  # start of the panels and of the bias among the weights; 1 or 0
    COLS, COLS_STEP, DEPTH, SLICE,  # table of input offsets, its step per panel, length, piece
    ROWS, OUTS, COUNT, GROUP,  # tables of pixels (or tiles), how many, how many per task
    N, M, STEP, MATRIX, PRODUCT,  # tile: inputs, outputs, way to the next, transform; V's step
    TILES_X, TILES_Y, HEIGHT, WIDTH,  # tiles per row and column, size of the output map
    FIELDS,
) = range(31)  # fmt: skip

LINE = 8
"""int64 numbers per cache line: every counter has one of its own."""


def counters(steps: int) -> Any:
    """Give the counters of one run: of threads, and of tasks begun and done in each step."""
    return np.zeros((2 * steps + 1) * LINE, np.int64)


def scratch_floats(n: int, group: int) -> int:
    """Floats of a thread's own that a SCATTER step needs: M of its group, and one tile."""
    return n * n * PANEL * group + 2 * n * n * LANES


# --- Steps ----------------------------------------------------------------------------------------


@kernel
def direct(step, task, tables, weights, data):
    """Multiply one group of pixels by one panel, a slice of the depth at a time."""
    groups = (step[COUNT] + step[GROUP] - 1) // step[GROUP]
    panel, first = task // groups, task % groups * step[GROUP]
    count = min(step[GROUP], step[COUNT] - first)
    depth = step[DEPTH]
    w = step[W] + panel * depth * PANEL
    y = step[Y] + panel * (PANEL // LANES) * step[Y_PLANE]
    for k in range(0, depth, step[SLICE]):
        length = min(step[SLICE], depth - k)
        multiply(
            tables, step[ROWS] + first, count, step[OUTS] + first,
            step[COLS] + panel * step[COLS_STEP] + k, length, data, step[X], weights,
            w + k * PANEL, data, y, step[Y_PLANE], weights,
            step[BIAS] + panel * PANEL if k == 0 else -1,
            0.0 if step[RELU] and k + length == depth else -np.inf, w + (k + length) * PANEL, 16,
        )  # fmt: skip


@kernel
def gather(step, task, data, v, mine):
    """Transform one row of tiles of 16 channels: rows of Bᵀ d first, then columns."""
    n, matrix, product = step[N], step[MATRIX], step[PRODUCT]
    tiles_x, tiles_y = step[TILES_X], step[TILES_Y]
    images = step[COUNT] // (tiles_x * tiles_y)
    block, row = task // (images * tiles_y), task % (images * tiles_y)
    image, ty = row // tiles_y, row % tiles_y
    x = step[X] + image * step[X_IMAGE] + block * step[X_PLANE] + ty * step[STEP] * step[X_ROW]
    y = (block * step[COUNT] + row * tiles_x) * LANES
    for _ in range(tiles_x):
        for j in range(n):
            transform(matrix, data, x + j * LANES, step[X_ROW], mine, j * LANES, n * LANES)
        for i in range(n):
            transform(matrix, mine, i * n * LANES, LANES, v, y + i * n * product, product)
        x += step[STEP] * LANES
        y += LANES


@kernel
def scatter(step, task, tables, weights, data, v, mine):
    """Multiply one group of tiles by one panel, product by product, and transform it back."""
    groups = (step[COUNT] + step[GROUP] - 1) // step[GROUP]
    panel, first = task // groups, task % groups * step[GROUP]
    count = min(step[GROUP], step[COUNT] - first)
    n, depth, plane = step[N], step[DEPTH], count * LANES
    ahead = -(-PANEL // ((count + MR - 1) // MR * LANES)) * LANES
    w = step[W] + panel * n * n * depth * PANEL
    cols = step[COLS] + panel * step[COLS_STEP]
    for f in range(n * n):
        x = f * step[PRODUCT]
        for k in range(0, depth, step[SLICE]):
            length = min(step[SLICE], depth - k)
            multiply(
                tables, step[ROWS] + first, count, step[ROWS], cols + k, length, v, x, weights,
                w + k * PANEL, mine, f * PANEL * count, plane, weights, 0 if k == 0 else -1,
                -np.inf, w + (k + length) * PANEL, ahead,
            )  # fmt: skip
        w += depth * PANEL
    tile = n * n * PANEL * count
    for i in range(count):
        for vector in range(PANEL // LANES):
            block, at = panel * (PANEL // LANES) + vector, vector * plane + i * LANES
            finish(step, block, first + i, at, count * PANEL, tile, weights, data, mine)


@kernel
def finish(step, block, tile, at, product, spare, weights, data, mine):
    """Transform one tile of 16 channels: Y = act(Aᵀ M A + bias), cut at the map's edge."""
    n, m, matrix = step[N], step[M], step[MATRIX]
    for j in range(n):
        transform(matrix, mine, at + j * product, n * product, mine, spare + j * LANES, n * LANES)
    image = tile // (step[TILES_X] * step[TILES_Y])
    ty, tx = tile // step[TILES_X] % step[TILES_Y], tile % step[TILES_X]
    rows, columns = min(m, step[HEIGHT] - ty * m), min(m, step[WIDTH] - tx * m)
    bias, ready = step[BIAS] + block * LANES, spare + n * n * LANES
    least = np.float32(0.0 if step[RELU] else -np.inf)
    y = step[Y] + image * step[Y_IMAGE] + block * step[Y_PLANE]
    y += ty * m * step[Y_ROW] + tx * m * LANES
    for i in range(rows):
        transform(matrix, mine, spare + i * n * LANES, LANES, mine, ready, LANES)
        for j in range(columns):
            for lane in range(LANES):
                value = mine[ready + j * LANES + lane] + weights[bias + lane]
                data[y + i * step[Y_ROW] + j * LANES + lane] = least if value < least else value


# --- Threads --------------------------------------------------------------------------------------


@intrinsic
def _add_atomically(typing: Any, array: Any, index: Any, amount: Any) -> Any:
    """Emit array[index] += amount, seen by all threads in one order; give the old value."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), emit


@intrinsic
def _give_way(typing: Any) -> Any:
    """Emit a call that offers the processor to another thread."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, name), [])
        return context.get_dummy_value()

    return types.void(), emit


def _add_plainly(array: Any, index: int, amount: int) -> Any:
    before = array[index]
    array[index] += amount
    return before


add: Callable[..., Any] = _add_plainly if config.DISABLE_JIT else _add_atomically
give_way: Callable[..., None] = (lambda: None) if config.DISABLE_JIT else _give_way

PATIENCE = 4000
"""Looks at a counter before giving way: some 20 µs, longer than most waits, shorter than a slice of
the scheduler's."""


@kernel
def run(program, tables, weights, data, v, scratch, state):
    """Take part in a run of the program; return when all of it is done.

    program (steps, FIELDS) int64, tables int64, weights, data, v float32, scratch (threads, floats)
    float32, state: `counters`, fresh for each run. More threads than rows of scratch go home.
    """
    me = add(state, 0, 1)
    if me >= scratch.shape[0]:
        return
    mine = scratch[me]
    for s in range(program.shape[0]):
        step = program[s]
        begun, done = (2 * s + 1) * LINE, (2 * s + 2) * LINE
        task = add(state, begun, 1)
        while task < step[TASKS]:
            if step[KIND] == DIRECT:
                direct(step, task, tables, weights, data)
            elif step[KIND] == GATHER:
                gather(step, task, data, v, mine)
            else:
                scatter(step, task, tables, weights, data, v, mine)
            add(state, done, 1)
            task = add(state, begun, 1)
        looks = 0
        while add(state, done, 0) < step[TASKS]:
            looks += 1
            if looks > PATIENCE:
                give_way()
