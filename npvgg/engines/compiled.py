"""A network run by compiled steps: weights packed once, a plan per shape of input.

Both fast engines are this module with another choice of algorithm per convolution.

What must not be broken here: weights are held once, and shared by
networks that differ in their heads; a model may be called from many threads, and
interrupted anywhere, and stays usable; what depends on the batch or the number of threads (slices,
workspaces) never decides the order of a sum.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

from npvgg.engines import packing, program
from npvgg.engines import threads as workers
from npvgg.engines.jit import compiling
from npvgg.engines.layout import Table, aligned
from npvgg.engines.packing import Filter, pack, packed_floats, unpack
from npvgg.engines.plan import Algorithm, Layer, Part, Plan, Workspace, classifier, sizes
from npvgg.errors import ArgumentError
from npvgg.network import Block, Head, Network
from npvgg.ops import Array
from npvgg.reparam import FusedConv

Choice = Callable[[Filter, int, int], int]
"""(convolution, height and width of its output) → Winograd's m, or 0 for a direct product."""

SLICE_PIXELS = 2 * 224 * 224
"""Pixels of a batch that go through the network together, for each thread: few enough that much of
a map is still in the second-level cache when the next step reads it, enough images for a U to be
worth making. A2 at 224², a batch of 8, one thread: slices of 8 images take 50.8 ms per image, of 4
44.2, of 2 45.0, of 1 48.0 (EPYC with 1 MB of L2, processor's time, least of 6, 2026-11-28)."""

MOST_PIXELS = 8 * 224 * 224
"""The same for all threads: bounds the memory of maps and V to some 70 MB for A2."""

LEAST_PIXELS = 64 * 64
"""A smaller image counts as so many: halos, and maps of one pixel and hundreds of channels, have a
size of their own, so memory does not shrink with the image below that. repvgg_nano at 32², 512
images, two threads: 0.73 ms per image with 32² in its place, 0.66 so, 0.61 with 128² (least of 12,
Zen 4, 2026-11-28)."""

PLANS = 4
"""How many shapes of input are kept ready, the last ones used: a service with one size and one
batch needs one, with a last, smaller batch two, and maps besides logits twice that. To make one
again takes as long as a run: A2 at 224² 63 ms in place of 33 (Zen 4, 2026-11-28)."""


class Weights:
    """The convolutions of a network, packed when they are first needed, and once: networks that
    differ in what is behind their blocks share them.

    filters: of every block, of the classifier last;  places: where each of them begins
    """

    def __init__(self, network: Network) -> None:
        self.layers = [_layer(block) for block in network.blocks]
        self.head = network.head
        self.filters = [list(layer.filters) for layer in self.layers]
        if network.head.weight is not None:
            self.filters.append([classifier(network.head.weight)])
        floats = [packed_floats(f) for row in self.filters for f in row]
        self.places = list(accumulate(floats, initial=0))
        self._lock = workers.Lock()
        self._source: Network | None = network  # None once the kernels are held packed alone
        self._packed: Array | None = None

    @property
    def network(self) -> Network:
        """The network as data. Kernels that are kept in packed form only are unpacked."""
        with self._lock.now:
            source, packed = self._source, self._packed
        if source is not None or packed is None:  # the second never without the first
            return source  # type: ignore[return-value]
        blocks = []
        for layer, (f, *_), at in zip(self.layers, self.filters, self.places, strict=False):
            arrays = unpack(f, packed[at : at + packed_floats(f)])
            for array in arrays:
                array.flags.writeable = False
            blocks.append(Block(layer.spec, FusedConv(*arrays), layer.attention))
        return Network(tuple(blocks), self.head, np.dtype(np.float32))

    def packed(self, threads: int) -> Array:
        """Return all of them as the micro-kernel reads them."""
        with self._lock.now:
            if self._packed is None and self._source is not None:
                weights = aligned(self.places[-1])
                arrays = [pair for block in self._source.blocks for pair in _arrays(block)]
                if self.head.weight is not None:
                    arrays.append((self.head.weight, self.head.bias))
                filters = [f for row in self.filters for f in row]
                for f, pair, at in zip(filters, arrays, self.places[:-1], strict=True):
                    pack(f, *pair, weights[at : at + packed_floats(f)], threads)
                self._packed = weights
                if self._source.form == "deploy":
                    self._source = None
            return self._packed  # type: ignore[return-value]


class CompiledNetwork:
    """A network run by compiled steps; it may be called from many threads at once.

    Choices depend on the size of the image and not on the batch, and every sum has an order of its
    own: an image gives the same bits in any batch, with any number of threads.
    """

    def __init__(self, network: Network, name: str, choose: Choice, threads: int | None) -> None:
        if network.dtype != np.float32:
            raise ArgumentError(f"dtype: engine {name} computes in float32, got {network.dtype}")
        if threads is not None:
            workers.resolve(threads)
        self.name = name
        self._choose = choose
        self._threads = threads
        self._weights = Weights(network)
        self._layers = self._weights.layers
        self._head = network.head
        self._lock = workers.Lock()
        self._plans: OrderedDict[Any, Plan] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as the network; plans and packed weights are made there."""
        return CompiledNetwork, (self.network, self.name, self._choose, self._threads)

    @property
    def whole(self) -> Part:
        """All blocks and the head, without taps."""
        return Part(0, len(self._layers), head=True)

    @property
    def network(self) -> Network:
        """The network as data, as `Weights.network`."""
        return replace(self._weights.network, head=self._head)

    def with_head(self, head: Head) -> CompiledNetwork:
        """Return the network with another head; with its own classifier or none it shares the
        weights.
        """
        if head.weight is not None and head.weight is not self._weights.head.weight:
            network = replace(self.network, head=head)
            return CompiledNetwork(network, self.name, self._choose, self._threads)
        shared = CompiledNetwork.__new__(CompiledNetwork)
        own = {"_head": head, "_lock": workers.Lock(), "_plans": OrderedDict()}
        vars(shared).update(vars(self) | own)
        return shared

    def load(self) -> None:
        """Compile the kernels, or load them from where they are kept; the first run does so too.

        Raises ArgumentError where Numba cannot compile them.
        """
        try:
            load_kernels()
        except MemoryError:
            raise
        except Exception as error:
            raise ArgumentError(
                f"engine: expected one that can be compiled, got {self.name!r}: "
                f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            ) from error

    def maps(self, x: Array, taps: Sequence[int]) -> list[Array]:
        """Return the outputs of the blocks with these indices: (N, C, H, W) → (N, K, P, Q) each."""
        return self._in_slices(x, Part(0, max(taps) + 1, tuple(taps)), ())

    def logits(self, x: Array) -> Array:
        """Run the whole network: x (N, C, H, W) → (N, classes), or what pooling gives."""
        return self._in_slices(x, self.whole, ("logits",))[0]

    def outputs(self, x: Array, taps: Sequence[int]) -> tuple[list[Array], Array, Array]:
        """Return maps, pooled vector and logits of one run."""
        part = Part(0, len(self._layers), tuple(taps), head=True)
        *maps, pooled, logits = self._in_slices(x, part, ("pooled", "logits"))
        return maps, pooled, logits

    def head(self, x: Array) -> tuple[Array, Array]:
        """Pool and classify the last map: (N, K, P, Q) → (N, K), (N, classes)."""
        blocks = len(self._layers)
        pooled, logits = self._in_slices(x, Part(blocks, blocks, head=True), ("pooled", "logits"))
        return pooled, logits

    def images_per_slice(self, pixels: int, threads: int) -> int:
        """Return how many images of so many pixels go through the network together."""
        together = min(SLICE_PIXELS * threads, MOST_PIXELS)
        return max(1, together // max(pixels, LEAST_PIXELS))

    def _in_slices(self, x: Array, part: Part, ends: Sequence[str]) -> list[Array]:
        if len(x) == 0:
            return [y[:0] for y in self._run(np.zeros((1, *x.shape[1:]), x.dtype), part, ends)]
        most = self.images_per_slice(x.shape[2] * x.shape[3], workers.resolve(self._threads))
        slices = [self._run(x[i : i + most], part, ends) for i in range(0, len(x), most)]
        return [np.concatenate(column) for column in zip(*slices, strict=True)]

    def _run(self, x: Array, part: Part, ends: Sequence[str]) -> list[Array]:
        """Run a batch through its plan; return the maps of its taps, then those named in `ends`."""
        self.load()
        threads = workers.resolve(self._threads)
        with self._lock.now:
            plan = self._plan(x.shape, part, threads)
        work = plan.take(threads)
        plan.image.write(work.data, x)
        results: list[Array] = []
        for step in plan.steps:
            if callable(step):
                step(work.data, results)
            else:
                workers.run(_share(step, plan, work, threads), threads)
        results += [plan.end(name, work.data) for name in ends]
        plan.give(work)
        return results

    def _plan(self, shape: tuple[int, ...], part: Part, threads: int) -> Plan:
        """Look up the plan for a shape, or make it."""
        key = shape, part
        if key not in self._plans:
            outputs = [*sizes(self._layers, shape), (1, 1)]  # the last is the classifier's
            places = iter(self._weights.places)
            algorithms = [
                [Algorithm(self._choose(f, *size), next(places)) for f in filters]
                for filters, size in zip(self._weights.filters, outputs, strict=False)
            ]
            weights = self._weights.packed(threads)
            self._plans[key] = Plan(self._layers, self._head, algorithms, weights, shape, part)
            while len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]


@cache
def load_kernels() -> None:
    """Compile or load all that a run calls: here, in the thread of the first caller."""
    with compiling():
        packing.load_kernels()
        program.load_kernels()


def _share(step: Table, plan: Plan, work: Workspace, threads: int) -> Callable[[], None]:
    """Return the function that takes part in one run of some steps."""
    state, scratch = program.counters(len(step), threads), work.scratch[:threads]
    return lambda: program.run(step, plan.tables, plan.weights, work.data, work.v, scratch, state)


def _layer(block: Block) -> Layer:
    """Describe a block without its kernels."""
    spec, form = block.spec, block.form
    geometry = (spec.stride, spec.dilation, spec.dilation, spec.groups)
    if isinstance(form, FusedConv):
        return Layer(spec, (Filter(form.weight.shape, *geometry),), None, block.attention)
    kxk = Filter(form.conv_kxk.weight.shape, *geometry)
    one = Filter(form.conv_1x1.weight.shape, spec.stride, groups=spec.groups)
    return Layer(spec, (kxk, one), form, block.attention)


def _arrays(block: Block) -> list[tuple[Array, Array | None]]:
    """List weight and bias of a block's convolutions: of one, or of its two branches."""
    form = block.form
    if isinstance(form, FusedConv):
        return [(form.weight, form.bias)]
    return [(form.conv_kxk.weight, None), (form.conv_1x1.weight, None)]
