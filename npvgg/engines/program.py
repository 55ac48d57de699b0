"""The forward pass as a list of steps, and the one compiled function that runs it.

A step is a record, STEP, whose fields are named and described below. It consists of independent
tasks. `run` is called by any number of threads on the same program, and shares the tasks by work
stealing: every thread has a share of its own, the same part of the map in every step, so that it
finds in its cache what it has just written; it takes tasks from it one by one, and when none is
left it takes from the other shares. A spin barrier ends a step: the next one begins when every task
of this one is done. For a step of 12 tasks, 4 units of 3, and 2 threads:

    unit          0        1        2        3         a unit: what reads and writes the same part
    tasks      0  1  2  3  4  5  6  7  8  9 10 11      of the maps (a row of tiles, a group of
             └──── share 0 ────┘└──── share 1 ────┘    pixels), or the same weights (a panel)
    thread 0:  0  1  2  3  4  5 ▸ 11                   its own first, then what is left of others'
    thread 1:  6  7  8  9 10                           (depth_first: unit by unit; else the first
               ──────────── time ───────────▸ barrier  task of each unit, then the next: 0 3 1 4 …)

Each counter is on a cache line of its own: per share how many tasks are begun, per step how many
are done. Which thread does what changes from run to run; what a task computes does not, so the bits
of the result are always the same.

    DIRECT   convolution as a matrix product whose left side is gathered through tables ("im2col"
             without the columns); a task is one panel of output channels × one group of pixels
    TO_V     Winograd, first half: V = Bᵀ d B ⊙ s sᵀ of all tiles; a task is one row of tiles × 16
             channels
    FROM_V   Winograd, second half: U = P g Pᵀ, M = Σ_c V ⊙ U for each of the n² products,
             Y = Aᵀ M A, bias, ReLU; a task is a few panels of output channels × one group of tiles
    SQUEEZE  the mean of every channel of a map; a task is 16 channels of one image
    SCALE    the map times one number per channel, and ReLU, in its place; a task as above

Maps live in one array of floats, as (image, 16 channels, row, column, 16 lanes), which others call
nChw16c, with a halo of zeros around (see `layout`); weights are packed in panels of output channels
(see `packing`). V has an array of its own, (place in the tile, strip of tiles, 16 channels, tile of
the strip, lanes): the micro-kernel reads a strip from its first float to its last. U, (column of
the tile, channel, lanes), of one row of places, a slice of the channels and 16 output channels, and
M, (panel, place, vector, tile of the group, lanes), are in memory that is a thread's own. A row of
U is read while it is still in the first-level cache, to which it was just written.

What must already hold: the tables are for these maps; margins are zero; each step's tasks write to
distinct places, none of which another task reads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from npvgg.engines.jit import kernel
from npvgg.engines.microkernel import LANES, MR, PANEL, accumulate, declared, multiply
from npvgg.engines.packing import VECTORS
from npvgg.engines.transforms import TAPS, finish, transform_input, transform_kernel

DIRECT, TO_V, FROM_V, SQUEEZE, SCALE = range(5)

FIELDS = (
    "kind", "tasks", "relu",
    "units", "unit_step", "task_step", "depth_first",
    "x", "x_image", "x_plane", "x_row", "y", "y_image", "y_plane", "y_row",
    "w", "bias", "depth", "slice", "cols", "cols_panel",
    "rows", "outs", "pixels", "pixel_group",
    "n", "m", "tile_step", "filter",
    "tiles", "tiles_y", "tiles_x", "tile_group", "panels", "panel_group",
    "v_plane", "v_blocks", "v_strip", "u_plane", "m_plane",
    "height", "width", "images",
)  # fmt: skip
STEP = np.dtype((np.record, [(name, np.int64) for name in FIELDS]))
"""One step: int64 fields, of which a kind uses some. All places and distances are in floats.

kind, tasks, relu: one of the above; how many tasks; 1 for max(·, 0) at the end
units, unit_step, task_step, depth_first: how tasks are shared, see `run`
x, y and x_image … y_row: where input and output begin in the maps; the way from one image, 16
    channels and row to the next
w, bias: where panels and bias begin among the weights
depth, slice: length of the sum, taps × channels or channels; how many of it are summed in one go
cols, cols_panel: where the table of the input's offsets begins; its entries per panel, or 0 where
    all panels have the same
rows, outs, pixels, pixel_group: DIRECT: tables of the pixels' offsets in x and y; how many pixels
    there are, and in one task
n, m, tile_step: a tile's input and output pixels per side; input pixels from one to the next
filter: which matrices, an index of `transforms.FILTERS`
tiles, tiles_y, tiles_x, tile_group: of all images, per column, per row, per task
panels, panel_group: panels of output channels in all, and in one task
v_plane, v_blocks, v_strip: V: floats per place of a tile, blocks of 16 channels, tiles per strip
u_plane, m_plane: floats from one place of a tile to the next, in U in its row, in M
height, width: of the output;  images: of SQUEEZE and SCALE
"""

LINE = 8
"""int64 numbers per cache line: every counter has one of its own."""


def counters(steps: int, threads: int) -> Any:
    """Return the counters of one run: of threads; in each step of tasks done, and of tasks begun of
    each thread's share.
    """
    return np.zeros((steps * (threads + 1) + 1) * LINE, np.int64)


def apart(floats: int) -> int:
    """Round up to an odd number of cache lines: n² planes so far apart are in n² sets of the cache.

    A multiple of 4096 bytes would put them all into one, which holds 8 or 12 lines.
    """
    return (-(-floats // LANES) | 1) * LANES


def program_of(steps: Sequence[Mapping[str, int]]) -> Any:
    """Return steps given by their fields as an array, (steps,) STEP; what is not named is 0."""
    program = np.zeros(len(steps), STEP)
    for row, step in zip(program, steps, strict=True):
        for name, value in step.items():
            row[name] = value
    return program


def scratch_floats(step: Mapping[str, int]) -> int:
    """Floats of a thread's own that a FROM_V step needs: U, M, and one tile at the map's edge."""
    n, m = step["n"], step["m"]
    return n * step["u_plane"] + step["panel_group"] * n**2 * step["m_plane"] + m**2 * LANES


# --- Steps ----------------------------------------------------------------------------------------


@kernel
def direct(step, task, tables, weights, data):
    """Multiply one group of pixels by one panel, a slice of the depth at a time."""
    groups = (step.pixels + step.pixel_group - 1) // step.pixel_group
    panel, first = task // groups, task % groups * step.pixel_group
    count = min(step.pixel_group, step.pixels - first)
    depth = step.depth
    w = step.w + panel * depth * PANEL
    y = step.y + panel * VECTORS * step.y_plane
    tiles = (count + MR - 1) // MR
    ahead_step = (LANES + tiles - 1) // tiles  # the next slice's weights, evenly in this one's time
    for k in range(0, depth, step.slice):
        length = min(step.slice, depth - k)
        multiply(
            tables, step.rows + first, count, step.outs + first,
            step.cols + panel * step.cols_panel + k, length, data, step.x, weights,
            w + k * LANES, depth * LANES, data, y, step.y_plane, weights,
            step.bias + panel * PANEL if k == 0 else -1,
            0.0 if step.relu and k + length == depth else -np.inf,
            w + (k + length) * LANES, ahead_step,
        )  # fmt: skip


@kernel
def to_v(step, task, data, v):
    """Transform one row of tiles of 16 channels: V = Bᵀ d B ⊙ s sᵀ."""
    n, filter, plane, strip = step.n, step.filter, step.v_plane, step.v_strip
    tiles_x, tiles_y = step.tiles_x, step.tiles_y
    images = step.tiles // (tiles_x * tiles_y)
    block, row = task // (images * tiles_y), task % (images * tiles_y)
    image, ty = row // tiles_y, row % tiles_y
    x = step.x + image * step.x_image + block * step.x_plane + ty * step.tile_step * step.x_row
    for tile in range(row * tiles_x, (row + 1) * tiles_x):
        y = (tile // strip * step.v_blocks + block) * strip + tile % strip
        transform_input(filter, data, x, step.x_row, LANES, v, y * LANES, n * plane, plane)
        x += step.tile_step * LANES


@kernel
def from_v(step, task, tables, weights, data, v, mine):
    """Multiply one group of tiles by a few panels, slice by slice of the depth; transform back."""
    groups = (step.tiles + step.tile_group - 1) // step.tile_group
    bundle, first = task // groups * step.panel_group, task % groups * step.tile_group
    panels = min(step.panel_group, step.panels - bundle)
    count = min(step.tile_group, step.tiles - first)
    depth, vectors = step.depth, panels * VECTORS
    m = step.n * step.u_plane
    panel_floats = step.n * step.n * step.m_plane
    for k in range(0, depth, step.slice):
        length = min(step.slice, depth - k)
        for vector in range(vectors):
            p = vector // VECTORS
            w = step.w + ((bundle * VECTORS + vector) * depth + k) * TAPS * LANES
            following = depth if vector + 1 < vectors else length - (vectors - 1) * depth
            add_products(
                step, first, count, step.cols + (bundle + p) * step.cols_panel + k, length, k > 0,
                tables, weights, w, w + following * TAPS * LANES, v, mine,
                m + p * panel_floats + vector % VECTORS * count * LANES,
            )  # fmt: skip
    spare = m + panels * panel_floats
    for vector in range(vectors):
        at = m + vector // VECTORS * panel_floats + vector % VECTORS * count * LANES
        for i in range(count):
            put(
                step, bundle * VECTORS + vector, first + i, at + i * LANES, spare, weights, data,
                mine,
            )  # fmt: skip


@kernel
def add_products(step, first, count, cols, length, more, tables, weights, w, ahead, v, mine, m):
    """Add a slice of the depth to all products of 16 output channels: M += V ⊙ U, or M = V ⊙ U if
    not more. U is made row by row of the tile's places, each time in the same memory.

    ahead: the weights that come next; their lines are asked for evenly in the meantime.
    """
    n, strip = step.n, step.v_strip
    calls = n * n * ((count + strip - 1) // strip)
    ahead_step = (TAPS * LANES + calls - 1) // calls
    for f in range(n * n):
        column = f % n
        if column == 0:
            transform_kernel(step.filter, f // n, length, weights, w, mine, 0, step.u_plane)
        x = f * step.v_plane + first * step.v_blocks * LANES
        for i in range(0, count, strip):
            accumulate(
                tables, min(strip, count - i), cols, length, v, x + i * step.v_blocks * LANES,
                mine, column * step.u_plane, mine, m + f * step.m_plane + i * LANES,
                more, weights, ahead, ahead_step,
            )  # fmt: skip
            ahead += length * ahead_step


@kernel
def put(step, block, tile, at, spare, weights, data, mine):
    """Transform one tile of 16 channels back, Y = act(Aᵀ M A + bias), cut at the map's edge."""
    m, plane, row = step.m, step.m_plane, step.n * step.m_plane
    image = tile // (step.tiles_x * step.tiles_y)
    ty, tx = tile // step.tiles_x % step.tiles_y, tile % step.tiles_x
    rows, columns = min(m, step.height - ty * m), min(m, step.width - tx * m)
    bias, least = step.bias + block * LANES, np.float32(0.0 if step.relu else -np.inf)
    y = step.y + image * step.y_image + block * step.y_plane
    y += ty * m * step.y_row + tx * m * LANES
    whole = rows == m and columns == m
    target, to, to_row = (data, y, step.y_row) if whole else (mine, spare, m * LANES)
    finish(
        step.filter, mine, at, row, plane, target, to, to_row, LANES, weights, bias, least
    )  # fmt: skip
    if whole:
        return
    for i in range(rows):
        for j in range(columns * LANES):
            data[y + i * step.y_row + j] = mine[spare + i * m * LANES + j]


@kernel
def squeeze(step, task, data, mine):
    """Average 16 channels of one image: a sum per row, then the sum of the rows' sums."""
    block, image = task // step.images, task % step.images
    x = step.x + image * step.x_image + block * step.x_plane
    y = step.y + image * step.y_image + block * step.y_plane
    for lane in range(LANES):
        data[y + lane] = 0.0
    for i in range(step.height):
        for lane in range(LANES):
            mine[lane] = 0.0
        for j in range(step.width):
            for lane in range(LANES):
                mine[lane] += data[x + i * step.x_row + j * LANES + lane]
        for lane in range(LANES):
            data[y + lane] += mine[lane]
    pixels = np.float32(step.height * step.width)
    for lane in range(LANES):
        data[y + lane] /= pixels


@kernel
def scale(step, task, data, mine):
    """Multiply 16 channels of one image by their numbers: Y = max(Y · X, least)."""
    block, image = task // step.images, task % step.images
    x = step.x + image * step.x_image + block * step.x_plane
    y = step.y + image * step.y_image + block * step.y_plane
    least = np.float32(0.0 if step.relu else -np.inf)
    for lane in range(LANES):
        mine[lane] = data[x + lane]
    for i in range(step.height):
        for j in range(step.width * LANES):
            at = y + i * step.y_row + j
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
the scheduler's. On a quiet machine it decides nothing: with 40, 400, 4,000 and 40,000 A2 at 224²
takes 23.8, 23.6, 23.7 and 23.8 ms (two threads, least of 125, Zen 4, 2026-11-28)."""


def load_kernels() -> None:
    """Compile `run`, or load it: call it for no step at all."""
    nothing = np.zeros(0, np.float32)
    steps, tables = np.zeros(0, STEP), np.zeros(0, np.int64)
    run(steps, tables, nothing, nothing, nothing, np.zeros((1, 0), np.float32), counters(0, 1))


@kernel
def run(program, tables, weights, data, v, scratch, state):
    """Take part in a run of the program; return when all of it is done.

    program (steps,) STEP, tables int64, weights, data, v float32, scratch (threads, floats)
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
        units, shares = step.units, min(crew, step.units)
        own = step.tasks // units
        for turn in range(shares):
            share = (me + turn) % shares
            begun = done + (share + 1) * LINE
            first = share * units // shares
            wide = (share + 1) * units // shares - first
            ticket = add(state, begun, 1)
            while ticket < wide * own:
                if step.depth_first:
                    unit, each = ticket // own, ticket % own
                else:
                    unit, each = ticket % wide, ticket // wide
                task = (first + unit) * step.unit_step + each * step.task_step
                if step.kind == DIRECT:
                    direct(step, task, tables, weights, data)
                elif step.kind == TO_V:
                    to_v(step, task, data, v)
                elif step.kind == FROM_V:
                    from_v(step, task, tables, weights, data, v, mine)
                elif step.kind == SQUEEZE:
                    squeeze(step, task, data, mine)
                else:
                    scale(step, task, data, mine)
                add(state, done, 1)
                ticket = add(state, begun, 1)
        looks = 0
        while look(state, done) < step.tasks:
            looks += 1
            if looks > PATIENCE:
                give_way()
