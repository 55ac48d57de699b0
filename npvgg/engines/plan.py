"""A plan: the steps of one network for one shape of input, and the places of its maps.

What the steps of `program` cannot say (spatial attention, activations other than ReLU, the sum of
branches, pooling) is done between them, by the same NumPy functions as in the reference engine.

What must not be broken here: how a sum is cut into slices (`SLICE`, `_fitting`) depends on the
shapes of the filter and the image, never on the batch or the number of threads; else an image's
bits would depend on its neighbours. The constants below decide speed, and `SLICE` rounding too;
`python -m bench constants` times each beside its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from npvgg import attention, ops
from npvgg.config import BlockSpec
from npvgg.engines import program as p
from npvgg.engines.layout import MapLayout, Table, aligned
from npvgg.engines.microkernel import LANES, MR, PANEL, SIDE_BY_SIDE
from npvgg.engines.packing import Filter
from npvgg.engines.reference import activate
from npvgg.engines.transforms import FILTERS, INDEX, TAPS
from npvgg.network import Head
from npvgg.ops import Array
from npvgg.reparam import Branches

Function = Callable[[Array, list[Array]], None]
"""What is done between the steps: it sees the maps, and may append a result."""

SLICE = 192
"""Terms that are summed in one accumulator; longer sums are sums of such sums, whose rounding
errors grow with 192 + n/192 terms in place of n. Error of A2 at 224², of the largest logit: 8.4e-7
without slices, 5.5e-7 with 384, 3.0e-7 with 192, 2.0e-7 with 96."""

CACHE_FLOATS = 96 * 1024
"""Floats of M that stay in the second-level cache (L2) while one task adds to them: 0.4 MB, which
leaves room in an L2 of 1 MB for the strip of V that streams through."""

FEW_TILES, NEAR_KERNELS, FAR_KERNELS = 28, 6 * 1024, 24 * 1024
"""Floats of the kernels of one slice of the depth, for 16 output channels, with those of a row of U
that is made of them. For images of at most FEW_TILES tiles both stay in the first-level cache, as
making U decides: it takes 0.63 ns per vector there, which is what storing costs, and 1.2 ns where
they come from L2. For more tiles, loading and storing M once per slice decides, and slices are
longer. The 14² layers of A2 for one image took 1.68 ms with 6 K, 1.71 with 12 K, 1.73 with 24 K;
the second of 56² 1.42, 1.41 and 1.29 (one thread, EPYC with 32 KB of L1, least of 150,
2026-11-28)."""

GROUP_PIXELS = 12 * MR
"""The grain of a direct task: pixels that are multiplied by a panel while it is in L2, twelve tiles
of the micro-kernel. Twice as many where that still leaves `MANY_TASKS`: the panel is read half as
often."""

NEAR_FLOATS = 256 * 1024
"""Loop order of a step. Weights of at most a megabyte stay in cache: all panels for one group of
pixels, then the next group (depth first). Larger weights: all groups for one panel, then the next
panel, so that each panel comes from memory once."""

MANY_TASKS = 32
"""From so many tasks on, the last task of a step is a small part of it, and threads that finish
earlier wait for a small part of its time."""

GROUP_TILES = 8 * SIDE_BY_SIDE
"""The grain of a Winograd task: tiles that are multiplied by the same U, eight strips of the
micro-kernel. Making U costs n² values per channel pair, once per task."""


PING, PONG, IMAGE, MEANS, GATES = "ping", "pong", "image", "means", "gates"
"""What a map's place is for. Blocks read from one of the ping-pong buffers and write to the other;
the image, and maps of one number per channel, have buffers of their own. In train form the two
convolutions of a block write to the last two."""

Step = dict[str, int]
"""Some fields of `program.STEP`; those that are not named are 0."""


@dataclass(frozen=True)
class Algorithm:
    """How a convolution is done: Winograd's m, or 0; where its packed bias and weights begin."""

    m: int
    at: int


@dataclass(frozen=True)
class Layer:
    """What a plan knows of a block: no kernel, as those are packed.

    filters: its convolution, or those of its two branches
    branches: batch norms and all, of a block in train form; None in deploy form
    """

    spec: BlockSpec
    filters: tuple[Filter, ...]
    branches: Branches | None
    attention: Mapping[str, Array]


@dataclass(frozen=True)
class Part:
    """What of a network is run: the blocks first … last − 1, and the head or not; the blocks among
    them, ascending, whose maps are wanted.
    """

    first: int
    last: int
    taps: tuple[int, ...] = ()
    head: bool = False


@dataclass
class Workspace:
    """Memory for one run: the maps, Winograd's V, and every thread's own."""

    data: Array
    v: Array
    scratch: Array


def sizes(layers: Sequence[Layer], shape: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width of every block's output, for an input (N, C, H, W)."""
    height, width = shape[2:]
    found = []
    for layer in layers:
        height, width = -(-height // layer.spec.stride), -(-width // layer.spec.stride)
        found.append((height, width))
    return found


def classifier(weight: Array) -> Filter:
    """Return the classifier, (classes, features), as a convolution of a map of one pixel."""
    return Filter((*weight.shape, 1, 1))


class Plan:
    """The steps for one part of a network and one shape of its input.

    steps: tables of steps and functions, in turn.  tables, weights: what `program.run` needs
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        head: Head,
        algorithms: Sequence[Sequence[Algorithm]],
        weights: Array,
        shape: tuple[int, ...],
        part: Part,
    ) -> None:
        self.weights = weights
        self.steps: list[Table | Function] = []
        self._rows: list[Step] = []
        self._tables: list[Table] = []
        self._table_at: dict[bytes, int] = {}
        self._table_end = 0
        self._maps: dict[tuple[str, MapLayout], MapLayout] = {}
        self._end = 0
        self._v_floats = 0
        self._scratch_floats = LANES
        self._free: list[Workspace] = []
        self._ends: dict[str, MapLayout] = {}
        self._pooling = head.global_pool

        n, chs, height, width = shape
        readers = [
            list(zip(layer.filters, chosen, strict=True))
            for layer, chosen in zip(layers, algorithms, strict=False)  # the last is the head's
        ]
        lanes = LANES if chs >= LANES or part.first else 1
        after = readers[part.first] if part.first < len(layers) else []
        x = self.image = self._map((n, chs, height, width), after, IMAGE, lanes=lanes)
        run = layers[part.first : part.last]
        for index, (layer, size) in enumerate(zip(run, sizes(run, shape), strict=True), part.first):
            after = readers[index + 1] if index + 1 < len(layers) else []
            y = self._map((n, layer.spec.out_chs, *size), after, PONG if index % 2 else PING)
            self._block(layer, readers[index], x, y)
            if index in part.taps:
                self._then(_copying(y))
            x = y
        if part.head:
            self._head(head, algorithms[-1], x)
        self._flush()
        self.tables = np.concatenate([*self._tables, np.zeros(1, np.int64)])

    # Workspaces -----------------------------------------------------------------------------------

    def take(self, threads: int) -> Workspace:
        """Take a workspace that nobody uses, or make one."""
        try:
            work = self._free.pop()
        except IndexError:
            nobodys = np.empty((0, 0), np.float32)
            work = Workspace(aligned(self._end), aligned(self._v_floats), nobodys)
        if len(work.scratch) < threads:
            floats = aligned(threads * self._scratch_floats)
            work.scratch = floats.reshape(threads, self._scratch_floats)
        return work

    def give(self, work: Workspace) -> None:
        """Give it back for the next run; two are kept."""
        if len(self._free) < 2:
            self._free.append(work)

    def end(self, name: str, data: Array) -> Array:
        """Copy out what the head made last: "pooled" or "logits"."""
        y = self._ends[name].read(data)
        return y[:, :, 0, 0] if self._pooling else y

    # Maps and tables ------------------------------------------------------------------------------

    def _map(
        self,
        shape: tuple[int, int, int, int],
        readers: Sequence[tuple[Filter, Algorithm]],
        buffer: str,
        lanes: int = LANES,
    ) -> MapLayout:
        """Give a map its place, with the margin that its readers need.

        Maps of one layout share one place per buffer; margins once zero stay zero.
        """
        n, chs, height, width = shape
        margin = max((f.padding for f, _ in readers), default=0)
        rows, cols = height + 2 * margin, width + 2 * margin
        for f, algorithm in readers:
            if algorithm.m:  # the last tiles read past the edge
                fast = FILTERS[algorithm.m, f.stride]
                reach = [
                    margin - f.padding + (_ceil(_ceil(size, f.stride), fast.m) - 1) * fast.step
                    for size in (height, width)
                ]
                rows, cols = max(rows, reach[0] + fast.n), max(cols, reach[1] + fast.n)
        layout = MapLayout(0, n, chs, height, width, margin, rows, cols, lanes)
        if (buffer, layout) not in self._maps:
            self._maps[buffer, layout] = layout.moved(self._end)
            self._end += layout.size
        return self._maps[buffer, layout]

    def _table(self, values: Table) -> int:
        """Keep a table, once; give its place."""
        key = values.astype(np.int64).tobytes()
        if key not in self._table_at:
            self._table_at[key] = self._table_end
            self._table_end += len(values)
            self._tables.append(values)
        return self._table_at[key]

    # Steps ----------------------------------------------------------------------------------------

    def _then(self, function: Function) -> None:
        self._flush()
        self.steps.append(function)

    def _flush(self) -> None:
        if self._rows:
            self.steps.append(p.program_of(self._rows))
            self._rows = []

    def _block(
        self, block: Layer, readers: Sequence[tuple[Filter, Algorithm]], x: MapLayout, y: MapLayout
    ) -> None:
        """Plan one block, in either form."""
        spec, form = block.spec, block.branches
        if form is None:
            straight, relu = spec.act_layer in ("relu", "identity"), spec.act_layer == "relu"
            gated = attention.sees_means_alone(spec.attn_layer, spec.attn_kwargs)
            if straight and spec.attn_layer is None:
                self._convolve(*readers[0], x, y, relu=relu)
            elif straight and gated:
                self._convolve(*readers[0], x, y, relu=relu and spec.attn_after_act)
                self._gate(block, y, relu=relu and not spec.attn_after_act)
            else:
                self._convolve(*readers[0], x, y, relu=False)
                self._then(lambda data, _: y.write(data, activate(block, y.read(data))))
            return
        shape = (y.n, y.chs, y.height, y.width)
        kxk, one = self._map(shape, [], MEANS), self._map(shape, [], GATES)
        self._convolve(*readers[0], x, kxk, relu=False)
        self._convolve(*readers[1], x, one, relu=False)

        def add(data: Array, _: list[Array]) -> None:
            total = form.conv_kxk.bn(kxk.read(data))
            total += form.conv_1x1.bn(one.read(data))
            if form.identity is not None:
                total += form.identity(x.read(data))
            y.write(data, activate(block, total))

        self._then(add)

    def _gate(self, block: Layer, y: MapLayout, *, relu: bool) -> None:
        """Plan an attention layer that is a gate per channel: means, gate, product."""
        spec, weights = block.spec, block.attention
        means, gates = (self._map((y.n, y.chs, 1, 1), [], use) for use in (MEANS, GATES))
        self._squeeze(y, means)
        scale = _of_channels(p.SCALE, y) | {"relu": int(relu)}
        scale |= _reading(gates, gates.at) | _writing(y, _inside(y))

        def gate(data: Array, _: list[Array]) -> None:
            layer = spec.attn_layer or ""
            gates.write(data, attention.gate(means.read(data), layer, weights, spec.attn_kwargs))

        self._then(gate)
        self._rows.append(scale)

    def _squeeze(self, x: MapLayout, means: MapLayout) -> None:
        """Plan the mean of every channel."""
        step = _of_channels(p.SQUEEZE, x)
        self._rows.append(step | _reading(x, _inside(x)) | _writing(means, means.at))

    def _head(self, head: Head, chosen: Sequence[Algorithm], x: MapLayout) -> None:
        """Plan pooling and classifier."""
        if not head.global_pool:
            self._ends = {"pooled": x, "logits": x}
            return
        features = x.chs * (2 if head.global_pool == "catavgmax" else 1)
        pooled = result = self._map((x.n, features, 1, 1), [], MEANS)

        def pool(data: Array, _: list[Array]) -> None:
            pooled.write(data, ops.global_pool(x.read(data), head.global_pool)[:, :, None, None])

        if head.global_pool == "avg":
            self._squeeze(x, pooled)
        else:
            self._then(pool)
        if head.weight is not None:
            result = self._map((x.n, len(head.weight), 1, 1), [], GATES)
            self._convolve(classifier(head.weight), chosen[0], pooled, result, relu=False)
        self._ends = {"pooled": pooled, "logits": result}

    def _convolve(
        self, f: Filter, algorithm: Algorithm, x: MapLayout, y: MapLayout, *, relu: bool
    ) -> None:
        """Plan one convolution."""
        step = {"bias": algorithm.at, "w": algorithm.at + f.panels * PANEL, "panels": f.panels}
        step |= {"relu": int(relu), "height": y.height, "width": y.width}
        near = f.panels * f.width * f.size**2 * PANEL <= NEAR_FLOATS
        step |= {"depth_first": int(near)}
        if algorithm.m:
            self._winograd(f, algorithm.m, x, y, step)
        else:
            self._direct(f, x, y, step)

    def _direct(self, f: Filter, x: MapLayout, y: MapLayout, step: Step) -> None:
        depth = f.width * f.size**2
        rows, outs = x.pixels(y.height, y.width, f.stride, f.padding), y.pixels(*_size(y), 1, 0)
        groups = _ceil(len(outs), 2 * GROUP_PIXELS)  # the larger ones, where that leaves many tasks
        most = 2 * GROUP_PIXELS if groups * f.panels >= MANY_TASKS else GROUP_PIXELS
        group = _ceil(_evenly(len(outs), most), MR) * MR  # of whole tiles of the micro-kernel
        step |= {"kind": p.DIRECT, "depth": depth, "slice": SLICE}
        step |= self._columns(f, lambda c, d: x.taps(c, d, f.size, f.dilation), depth)
        step |= {"rows": self._table(rows), "outs": self._table(outs)}
        step |= {"pixels": len(outs), "pixel_group": group}
        step |= _shares(f.panels, _ceil(len(outs), group)) | _reading(x, x.at) | _writing(y, y.at)
        self._rows.append(step)

    def _winograd(self, f: Filter, m: int, x: MapLayout, y: MapLayout, step: Step) -> None:
        fast = FILTERS[m, f.stride]
        tiles_y, tiles_x = _ceil(y.height, m), _ceil(y.width, m)
        count, blocks = y.n * tiles_y * tiles_x, _ceil(x.chs, LANES)
        strip = _evenly(count, SIDE_BY_SIDE)
        v_plane = p.apart(_ceil(count, strip) * strip * blocks * LANES)
        depth, group, panels = _fitting(fast.n, f.width, tiles_y * tiles_x, count, strip, f.panels)
        step |= {"n": fast.n, "m": m, "tile_step": fast.step, "filter": INDEX[m, f.stride]}
        step |= {"tiles": count, "tiles_y": tiles_y, "tiles_x": tiles_x, "tile_group": group}
        step |= {"v_plane": v_plane, "v_blocks": blocks, "v_strip": strip}
        to_v = step | {"kind": p.TO_V}
        to_v |= _reading(x, x.at + (x.margin - f.padding) * (x.row + x.lanes))
        to_v |= _shares(blocks, y.n * tiles_y, local=group < count)
        from_v = step | {"kind": p.FROM_V}
        from_v |= {"depth": f.width, "slice": depth, "panel_group": panels}
        from_v |= {"u_plane": p.apart(depth * LANES), "m_plane": p.apart(group * PANEL)}
        from_v |= self._columns(f, lambda c, d: _segments(c, d, strip), f.width)
        from_v |= _shares(_ceil(f.panels, panels), _ceil(count, group)) | _writing(y, _inside(y))

        self._v_floats = max(self._v_floats, fast.n**2 * v_plane)  # all convolutions use one V
        self._scratch_floats = max(self._scratch_floats, p.scratch_floats(from_v))
        self._rows += [to_v, from_v]

    def _columns(self, f: Filter, offsets: Callable[[int, int], Table], depth: int) -> Step:
        """Keep the input's offsets: where they begin, and how many entries a panel has."""
        panels = range(f.panels if f.groups > 1 else 1)
        rows = [offsets(*f.channels(panel)) for panel in panels]
        rows = [np.pad(row, (0, depth - len(row)), mode="edge") for row in rows]
        at = self._table(np.concatenate(rows))
        return {"cols": at, "cols_panel": depth if f.groups > 1 else 0}


def _reading(x: MapLayout, at: int) -> Step:
    """Where a step begins to read, and the ways to the next image, 16 channels and row."""
    return {"x": at, "x_image": x.image, "x_plane": x.plane, "x_row": x.row}


def _writing(y: MapLayout, at: int) -> Step:
    """Where a step begins to write, and the ways to the next image, 16 channels and row."""
    return {"y": at, "y_image": y.image, "y_plane": y.plane, "y_row": y.row}


def _inside(layout: MapLayout) -> int:
    """Where the map's first pixel is, behind the margin."""
    return layout.at + layout.margin * (layout.row + layout.lanes)


def _size(layout: MapLayout) -> tuple[int, int]:
    return layout.height, layout.width


def _of_channels(kind: int, layout: MapLayout) -> Step:
    """Begin a step whose tasks are 16 channels of one image each."""
    step = {"kind": kind, "images": layout.n, "height": layout.height, "width": layout.width}
    return step | _shares(_ceil(layout.chs, LANES), layout.n)


def _shares(chs: int, pixels: int, *, local: bool = True) -> Step:
    """Divide chs × pixels tasks, numbered channel by channel, among threads.

    By pixels if `local` and there are several: a thread then reads what it has just written. Else
    by channels.
    """
    if local and pixels > 1:
        return {"tasks": chs * pixels, "units": pixels, "unit_step": 1, "task_step": pixels}
    return {"tasks": chs * pixels, "units": chs, "unit_step": pixels, "task_step": 1}


def _copying(y: MapLayout) -> Function:
    return lambda data, results: results.append(y.read(data))


def _fitting(
    n: int, channels: int, tiles: int, count: int, strip: int, panels: int
) -> tuple[int, int, int]:
    """Divide Winograd's n² products so that U and M of a task fit a core's caches; tiles: of one
    image, count: of all.

    Gives channels per slice, tiles per group (whole strips of them), panels per task.
    """
    fits = CACHE_FLOATS // (n * n * PANEL)
    kernels = NEAR_KERNELS if tiles <= FEW_TILES else FAR_KERNELS
    depth = _evenly(channels, kernels // ((TAPS + n) * LANES))
    group = strip * _evenly(_ceil(count, strip), max(1, min(fits, GROUP_TILES) // strip))
    bundle = max(1, min(panels, fits // group)) if group < count else 1
    return depth, group, bundle


def _segments(first: int, last: int, strip: int) -> Table:
    """Offset of every channel in a strip of V."""
    block, lane = np.divmod(np.arange(first, last), LANES)
    return block * strip * LANES + lane


def _evenly(count: int, most: int) -> int:
    """Return the size of the parts, at most `most`, that divide a count as equally as may be."""
    return _ceil(count, _ceil(count, most))


def _ceil(a: int, b: int) -> int:
    """Return ⌈a / b⌉."""
    return (a + b - 1) // b
