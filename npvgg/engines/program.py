"""The forward pass as a list of steps, and the one compiled function that runs it.

A step is a row of int64 numbers; its fields have the names below. A step consists of independent
tasks. `run` is called by any number of threads on the same program: each takes tasks one by one
from a counter, and the next step begins when every task of this one is done. Every thread has a
share of the tasks that it begins with, the same part of the map in every step, so that it finds
there what it has just written; when nothing is left of it, it helps with the others' shares. Which
thread does what changes from run to run; what a task computes does not, so the bits of the result
are always the same.

    DIRECT   convolution as a matrix product whose left side is gathered through tables ("im2col"
             without the columns); a task is one panel of output channels × one group of pixels
    TO_V     Winograd, first half: V = Bᵀ d B of all tiles; a task is one row of tiles × 16 channels
    FROM_V   Winograd, second half: U = G g Gᵀ, M = Σ_c V ⊙ U for each of the n² products,
             Y = Aᵀ M A, bias, ReLU; a task is a few panels of output channels × one group of tiles
    SQUEEZE  the mean of every channel of a map; a task is 16 channels of one image
    SCALE    the map times one number per channel, and ReLU, in its place; a task as above

Maps live in one array of floats, as (image, 16 channels, row, column, 16 lanes) with a margin of
zeros around (see `layout`); weights are packed in panels (see `packing`). V has an array of its
own, (product, strip of tiles, 16 channels, tile of the strip, lanes): the micro-kernel reads a
strip from its first float to its last. U, of a slice of the channels and one panel, and M,
(panel, product, vector, tile of the group, lanes), are in memory that is a thread's own.

What must already hold: the tables are for these maps; margins are zero; each step's tasks write to
distinct places, none of which another task reads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from npvgg.engines.jit import kernel
from npvgg.engines.microkernel import LANES, MR, PANEL, accumulate, declared, multiply
from npvgg.engines.transforms import finish, transform

DIRECT, TO_V, FROM_V, SQUEEZE, SCALE = range(5)

(
    KIND, TASKS,
    UNITS, UNIT, EACH,  # units of tasks that are shared out; way to the next, to a unit's next task
    NEAR,  # 1: a unit's tasks one after another; 0: the first of every unit, then the second …
    X, X_IMAGE, X_PLANE, X_ROW,  # input: start; floats from one image, 16 channels, row to the next
    Y, Y_IMAGE, Y_PLANE, Y_ROW,  # output
    W, BIAS, RELU,  # start of the panels and of the bias among the weights; 1 or 0
    COLS, COLS_STEP, DEPTH, SLICE,  # table of input offsets, its step per panel, length, piece
    ROWS, OUTS, COUNT, GROUP,  # tables of pixels; how many pixels, tiles or images, and per task
    N, M, STEP, MATRIX, OUTPUT,  # tile: inputs, outputs, way to the next; Bᵀ or G, and Aᵀ
    PRODUCT, BLOCKS, STRIP,  # V: floats per product, 16-channel blocks, tiles per strip
    PANELS, BUNDLE,  # of output channels in all, and per task
    U_PLANE, M_PLANE,  # floats from one product to the next
    TILES_X, TILES_Y, HEIGHT, WIDTH,  # tiles per row and column, size of the output map
    FIELDS,
) = range(42)  # fmt: skip

TAPS = 9
"""Values of a kernel that Winograd transforms."""

LINE = 8
"""int64 numbers per cache line: every counter has one of its own."""


def counters(steps: int, threads: int) -> Any:
    """Give the counters of one run: of threads; in each step of tasks done, and of tasks begun of
    each thread's share.
    """
    return np.zeros((steps * (threads + 1) + 1) * LINE, np.int64)


def apart(floats: int) -> int:
    """Round up to an odd number of cache lines: n² planes so far apart are in n² sets of the cache.

    A multiple of 4096 bytes would put them all into one, which holds 8 or 12 lines.
    """
    return (-(-floats // LANES) | 1) * LANES


def scratch_floats(step: Any) -> int:
    """Floats of a thread's own that a FROM_V step needs: U, M, and one tile at the map's edge."""
    planes = int(step[U_PLANE]) + int(step[BUNDLE]) * int(step[M_PLANE])
    return int(step[N]) ** 2 * planes + int(step[M]) ** 2 * LANES


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
    tiles = (count + MR - 1) // MR
    ahead_step = (PANEL + tiles - 1) // tiles  # the next slice's weights, evenly in this one's time
    for k in range(0, depth, step[SLICE]):
        length = min(step[SLICE], depth - k)
        multiply(
            tables, step[ROWS] + first, count, step[OUTS] + first,
            step[COLS] + panel * step[COLS_STEP] + k, length, data, step[X], weights,
            w + k * PANEL, data, y, step[Y_PLANE], weights,
            step[BIAS] + panel * PANEL if k == 0 else -1,
            0.0 if step[RELU] and k + length == depth else -np.inf,
            w + (k + length) * PANEL, ahead_step,
        )  # fmt: skip


@kernel
def to_v(step, task, data, v):
    """Transform one row of tiles of 16 channels: V = Bᵀ d B."""
    n, matrix, plane, strip = step[N], step[MATRIX], step[PRODUCT], step[STRIP]
    tiles_x, tiles_y = step[TILES_X], step[TILES_Y]
    images = step[COUNT] // (tiles_x * tiles_y)
    block, row = task // (images * tiles_y), task % (images * tiles_y)
    image, ty = row // tiles_y, row % tiles_y
    x = step[X] + image * step[X_IMAGE] + block * step[X_PLANE] + ty * step[STEP] * step[X_ROW]
    for tile in range(row * tiles_x, (row + 1) * tiles_x):
        y = (tile // strip * step[BLOCKS] + block) * strip + tile % strip
        transform(matrix, data, x, step[X_ROW], LANES, v, y * LANES, n * plane, plane)
        x += step[STEP] * LANES


@kernel
def from_v(step, task, tables, weights, data, v, mine):
    """Multiply one group of tiles by a few panels, slice by slice of the depth; transform back."""
    groups = (step[COUNT] + step[GROUP] - 1) // step[GROUP]
    bundle, first = task // groups * step[BUNDLE], task % groups * step[GROUP]
    panels = min(step[BUNDLE], step[PANELS] - bundle)
    count = min(step[GROUP], step[COUNT] - first)
    products, depth = step[N] * step[N], step[DEPTH]
    m = products * step[U_PLANE]
    panel_floats = products * step[M_PLANE]
    for k in range(0, depth, step[SLICE]):
        length = min(step[SLICE], depth - k)
        for p in range(panels):
            w = step[W] + ((bundle + p) * depth + k) * TAPS * PANEL
            ahead = w + (depth if p + 1 < panels else length - (panels - 1) * depth) * TAPS * PANEL
            expand(step, length, weights, w, mine)
            cols = step[COLS] + (bundle + p) * step[COLS_STEP] + k
            add_products(step, first, count, cols, length, k > 0, tables, weights, ahead, v, mine,
                         m + p * panel_floats)  # fmt: skip
    spare = m + panels * panel_floats
    for p in range(panels):
        for vector in range(PANEL // LANES):
            block = (bundle + p) * (PANEL // LANES) + vector
            at = m + p * panel_floats + vector * count * LANES
            for i in range(count):
                put(step, block, first + i, at + i * LANES, spare, weights, data, mine)


@kernel
def expand(step, length, weights, w, mine):
    """Transform the kernels of one panel and a slice of the channels: U = G g Gᵀ."""
    plane, row = step[U_PLANE], step[N] * step[U_PLANE]
    for c in range(length):
        for lane in range(0, PANEL, LANES):
            transform(
                step[MATRIX], weights, w + c * TAPS * PANEL + lane, 3 * PANEL, PANEL,
                mine, c * PANEL + lane, row, plane,
            )  # fmt: skip


@kernel
def add_products(step, first, count, cols, length, more, tables, weights, ahead, v, mine, m):
    """Add a slice of the depth to all products of one panel: M += V ⊙ U, or M = V ⊙ U if not more.

    ahead: the weights that come next; their lines are asked for evenly in the meantime.
    """
    products, strip = step[N] * step[N], step[STRIP]
    strips = (count + strip - 1) // strip
    ahead_step = (TAPS * PANEL + products * strips - 1) // (products * strips)
    for f in range(products):
        x = f * step[PRODUCT] + first * step[BLOCKS] * LANES
        for i in range(0, count, strip):
            accumulate(
                tables, min(strip, count - i), cols, length, v, x + i * step[BLOCKS] * LANES,
                mine, f * step[U_PLANE], mine, m + f * step[M_PLANE] + i * LANES, count * LANES,
                more, weights, ahead, ahead_step,
            )  # fmt: skip
            ahead += length * ahead_step


@kernel
def put(step, block, tile, at, spare, weights, data, mine):
    """Transform one tile of 16 channels back, Y = act(Aᵀ M A + bias), cut at the map's edge."""
    m, plane, row = step[M], step[M_PLANE], step[N] * step[M_PLANE]
    image = tile // (step[TILES_X] * step[TILES_Y])
    ty, tx = tile // step[TILES_X] % step[TILES_Y], tile % step[TILES_X]
    rows, columns = min(m, step[HEIGHT] - ty * m), min(m, step[WIDTH] - tx * m)
    bias, least = step[BIAS] + block * LANES, np.float32(0.0 if step[RELU] else -np.inf)
    y = step[Y] + image * step[Y_IMAGE] + block * step[Y_PLANE]
    y += ty * m * step[Y_ROW] + tx * m * LANES
    if rows == m and columns == m:
        finish(
            step[OUTPUT], mine, at, row, plane, data, y, step[Y_ROW], LANES,
            weights, bias, least,
        )  # fmt: skip
        return
    finish(
        step[OUTPUT], mine, at, row, plane, mine, spare, m * LANES, LANES,
        weights, bias, least,
    )  # fmt: skip
    for i in range(rows):
        for j in range(columns * LANES):
            data[y + i * step[Y_ROW] + j] = mine[spare + i * m * LANES + j]


@kernel
def squeeze(step, task, data, mine):
    """Average 16 channels of one image: a sum per row, then the sum of the rows' sums."""
    block, image = task // step[COUNT], task % step[COUNT]
    x = step[X] + image * step[X_IMAGE] + block * step[X_PLANE]
    y = step[Y] + image * step[Y_IMAGE] + block * step[Y_PLANE]
    for lane in range(LANES):
        data[y + lane] = 0.0
    for i in range(step[HEIGHT]):
        for lane in range(LANES):
            mine[lane] = 0.0
        for j in range(step[WIDTH]):
            for lane in range(LANES):
                mine[lane] += data[x + i * step[X_ROW] + j * LANES + lane]
        for lane in range(LANES):
            data[y + lane] += mine[lane]
    pixels = np.float32(step[HEIGHT] * step[WIDTH])
    for lane in range(LANES):
        data[y + lane] /= pixels


@kernel
def scale(step, task, data, mine):
    """Multiply 16 channels of one image by their numbers: Y = max(Y · X, least)."""
    block, image = task // step[COUNT], task % step[COUNT]
    x = step[X] + image * step[X_IMAGE] + block * step[X_PLANE]
    y = step[Y] + image * step[Y_IMAGE] + block * step[Y_PLANE]
    least = np.float32(0.0 if step[RELU] else -np.inf)
    for lane in range(LANES):
        mine[lane] = data[x + lane]
    for i in range(step[HEIGHT]):
        for j in range(step[WIDTH] * LANES):
            at = y + i * step[Y_ROW] + j
            value = data[at] * mine[j % LANES]
            data[at] = least if value < least else value


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
def _look_atomically(typing: Any, array: Any, index: Any) -> Any:
    """Emit array[index], as the last of all threads left it: a read, so that waiting threads do not
    take the cache line from those that count.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "seq_cst", 8)

    return types.int64(array, types.int64), emit


@intrinsic
def _give_way(typing: Any) -> Any:
    """Emit a call that offers the processor to another thread."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        builder.call(declared(builder, name, ir.FunctionType(ir.IntType(32), [])), [])
        return context.get_dummy_value()

    return types.void(), emit


_adding = threading.Lock()


def _add_plainly(array: Any, index: int, amount: int) -> Any:
    with _adding:
        before = array[index]
        array[index] += amount
    return before


def _look_plainly(array: Any, index: int) -> Any:
    return array[index]


add: Callable[..., Any] = _add_plainly if config.DISABLE_JIT else _add_atomically
look: Callable[..., Any] = _look_plainly if config.DISABLE_JIT else _look_atomically
give_way: Callable[..., None] = (lambda: None) if config.DISABLE_JIT else _give_way

PATIENCE = 4000
"""Looks at a counter before giving way: some 20 µs, longer than most waits, shorter than a slice of
the scheduler's."""


def load_kernels() -> None:
    """Compile `run`, or load it: call it for no step at all."""
    nothing = np.zeros(0, np.float32)
    steps, tables = np.zeros((0, FIELDS), np.int64), np.zeros(0, np.int64)
    run(steps, tables, nothing, nothing, nothing, np.zeros((1, 0), np.float32), counters(0, 1))


@kernel
def run(program, tables, weights, data, v, scratch, state):
    """Take part in a run of the program; return when all of it is done.

    program (steps, FIELDS) int64, tables int64, weights, data, v float32, scratch (threads, floats)
    float32, state: `counters`, fresh for each run. More threads than rows of scratch go home.
    """
    crew = scratch.shape[0]
    me = add(state, 0, 1)
    if me >= crew:
        return
    mine = scratch[me]
    for s in range(program.shape[0]):
        step = program[s]
        done = (s * (crew + 1) + 1) * LINE
        units, shares = step[UNITS], min(crew, step[UNITS])
        own = step[TASKS] // units
        for turn in range(shares):
            share = (me + turn) % shares
            begun = done + (share + 1) * LINE
            first = share * units // shares
            wide = (share + 1) * units // shares - first
            ticket = add(state, begun, 1)
            while ticket < wide * own:
                if step[NEAR]:
                    unit, each = ticket // own, ticket % own
                else:
                    unit, each = ticket % wide, ticket // wide
                task = (first + unit) * step[UNIT] + each * step[EACH]
                if step[KIND] == DIRECT:
                    direct(step, task, tables, weights, data)
                elif step[KIND] == TO_V:
                    to_v(step, task, data, v)
                elif step[KIND] == FROM_V:
                    from_v(step, task, tables, weights, data, v, mine)
                elif step[KIND] == SQUEEZE:
                    squeeze(step, task, data, mine)
                else:
                    scale(step, task, data, mine)
                add(state, done, 1)
                ticket = add(state, begun, 1)
        looks = 0
        while look(state, done) < step[TASKS]:
            looks += 1
            if looks > PATIENCE:
                give_way()
