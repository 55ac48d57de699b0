"""A network run by compiled steps: a plan per shape of input, weights packed per choice.

Both fast engines are this module with another choice of algorithm per convolution.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npvgg import threads as workers
from npvgg.engines import program
from npvgg.engines.layout import Table, aligned
from npvgg.engines.microkernel import PANEL
from npvgg.engines.packing import Filter, pack, packed_floats
from npvgg.engines.plan import Algorithm, Plan, Workspace, sizes
from npvgg.errors import ArgumentError
from npvgg.network import Block, Network
from npvgg.ops import Array
from npvgg.reparam import FusedConv

Choice = Callable[[Filter, int, int], int]
"""(convolution, height and width of its output) → Winograd's m, or 0 for a direct product."""

SLICE_PIXELS = 8 * 224 * 224
"""Pixels of a batch that go through the network together; bounds the memory."""

PLANS, PACKINGS = 4, 2
"""How many shapes of input, and how many packings of the weights, are kept."""


class CompiledNetwork:
    """A network run by compiled steps; safe to call from many threads at once.

    Choices depend on the size of the image and not on the batch, and every sum has an order of its
    own: an image gives the same bits in any batch, with any number of threads.
    """

    def __init__(self, network: Network, name: str, choose: Choice, threads: int | None) -> None:
        if network.dtype != np.float32:
            raise ArgumentError(f"dtype: engine {name} computes in float32, got {network.dtype}")
        if threads is not None:
            workers.resolve(threads)
        self.name = name
        self._network = network
        self._choose = choose
        self._threads = threads
        self._lock = threading.Lock()
        self._filters = [_filters(block) for block in network.blocks]
        if network.head.weight is not None:
            self._filters.append([Filter(network.head.weight[:, :, None, None], network.head.bias)])
        self._packings: OrderedDict[Any, tuple[Array, list[list[Algorithm]]]] = OrderedDict()
        self._plans: OrderedDict[Any, Plan] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as the network; plans and packed weights are made there."""
        return CompiledNetwork, (self._network, self.name, self._choose, self._threads)

    def maps(self, x: Array, taps: Sequence[int]) -> list[Array]:
        """Give the outputs of the blocks with these indices: x (N, C, H, W) → (N, K, P, Q) each."""
        return self._in_slices(x, tuple(taps))

    def logits(self, x: Array) -> Array:
        """Run the whole network: x (N, C, H, W) → (N, classes), or what pooling gives."""
        return self._in_slices(x, ())[0]

    def _in_slices(self, x: Array, taps: tuple[int, ...]) -> list[Array]:
        if len(x) == 0:
            return [y[:0] for y in self._run(np.zeros((1, *x.shape[1:]), x.dtype), taps)]
        most = max(1, SLICE_PIXELS // (x.shape[2] * x.shape[3]))
        parts = [self._run(x[i : i + most], taps) for i in range(0, len(x), most)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _run(self, x: Array, taps: tuple[int, ...]) -> list[Array]:
        """Run a batch through its plan: the maps of `taps`, or the network's output without any."""
        threads = workers.resolve(self._threads)
        with self._lock:
            plan = self._plan(x.shape, taps, threads)
        work = plan.take(threads)
        plan.image.write(work.data, x)
        results: list[Array] = []
        for step in plan.steps:
            if callable(step):
                step(work.data, results)
            else:
                workers.run(_share(step, plan, work), threads)
        plan.give(work)
        return results

    def _plan(self, shape: tuple[int, ...], taps: tuple[int, ...], threads: int) -> Plan:
        """Look up the plan for a shape, or make it."""
        key = shape, taps
        if key not in self._plans:
            outputs = [*sizes(self._network.blocks, shape), (1, 1)]  # the last is the classifier's
            choices = [
                [self._choose(f, *size) for f in filters]
                for filters, size in zip(self._filters, outputs, strict=False)
            ]
            weights, algorithms = self._packed(choices, threads)
            plan = Plan(self._network, self._filters, algorithms, weights, shape, taps)
            _keep(self._plans, key, plan, PLANS)
        self._plans.move_to_end(key)
        return self._plans[key]

    def _packed(
        self, choices: list[list[int]], threads: int
    ) -> tuple[Array, list[list[Algorithm]]]:
        """Pack all weights for these choices, or look them up."""
        key = str(choices)
        if key not in self._packings:
            algorithms: list[list[Algorithm]] = []
            end, todo = PANEL, []  # the first PANEL floats stay zero
            for filters, row in zip(self._filters, choices, strict=True):
                algorithms.append([])
                for f, m in zip(filters, row, strict=True):
                    algorithms[-1].append(Algorithm(m, end))
                    todo.append((f, m, slice(end, end + packed_floats(f, m))))
                    end += packed_floats(f, m)
            weights = aligned(end)
            for f, m, place in todo:
                pack(f, m, weights[place], threads)
            _keep(self._packings, key, (weights, algorithms), PACKINGS)
        self._packings.move_to_end(key)
        return self._packings[key]


def _share(step: Table, plan: Plan, work: Workspace) -> Callable[[], None]:
    """Give the function that takes part in one run of some steps."""
    state = program.counters(len(step))
    return lambda: program.run(
        step, plan.tables, plan.weights, work.data, work.v, work.scratch, state
    )


def _keep(store: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Keep a value; forget the one unused for longest if there are too many."""
    store[key] = value
    if len(store) > most:
        store.popitem(last=False)


def _filters(block: Block) -> list[Filter]:
    """List the convolutions of a block: one, or those of its two branches."""
    spec, form = block.spec, block.form
    shape = (spec.stride, spec.dilation, spec.dilation, spec.groups)
    if isinstance(form, FusedConv):
        return [Filter(form.weight, form.bias, *shape)]
    one = Filter(form.conv_1x1.weight, None, spec.stride, groups=spec.groups)
    return [Filter(form.conv_kxk.weight, None, *shape), one]
