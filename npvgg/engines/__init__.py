"""The engines: what runs a network, in three ways that differ in speed and by rounding alone.

An engine is one function,

    prepare(network, *, threads=None) -> Prepared

that returns an object with six verbs; what needs doing once (pack weights, choose algorithms,
allocate) is done once, at the first call at the latest. The contract is the whole chain of blocks,
not one layer, because the fast engines keep a memory layout of their own from the first convolution
to the last. (Winograd adds and subtracts neighbours first: numbers near the largest float32
overflow sooner, and an infinity spreads over its tile.)

To be read in this order: `reference`, the forward pass; `winograd_plain` and `cook_toom`, the
algorithm and its matrices; then the compiled engines from the inside out: `microkernel`,
`transforms`, `layout`, `packing`, `program`, `plan`, `compiled`, and `im2col` and `winograd`, which
choose an algorithm for each convolution; `threads`, `jit`, `kernelcache`, `processor` serve them.

May import: the root's operations and network, NumPy; all but `reference` and `winograd_plain` Numba
and llvmlite as well. What must not be broken here: `import npvgg` loads neither Numba nor LLVM, and
the reference engine works on a machine that has neither, so ENGINES holds names of modules; the
fast engines give an image the same bits in any batch and with any number of threads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.network import Head, Network
from npvgg.ops import Array

_log = logging.getLogger("npvgg")

ENGINES = {
    "reference": "npvgg.engines.reference",
    "im2col": "npvgg.engines.im2col",
    "winograd": "npvgg.engines.winograd",
}

FASTEST = "winograd"
"""What "auto" takes."""


class Prepared(Protocol):
    """A network made ready by an engine; its methods may be called from many threads at once."""

    @property
    def name(self) -> str:
        """The engine's name, out of ENGINES."""

    @property
    def network(self) -> Network:
        """The network as data: what was given to `prepare`, to the bit."""

    def with_head(self, head: Head) -> Prepared:
        """Return the network behind another head; with its own classifier or none it shares the
        weights, packed ones too.
        """

    def load(self) -> None:
        """Do now what the first run would do once per process: compile kernels, or load them.

        Raises ArgumentError where they cannot be compiled.
        """

    def outputs(self, x: Array, taps: Sequence[int]) -> tuple[list[Array], Array, Array]:
        """Run the whole network once: x (N, C, H, W) → maps, pooled vector, logits.

        taps: indices of the blocks whose maps (N, K, P, Q) are wanted, ascending; () for none
        pooled: (N, features); without pooling the last map
        logits: (N, classes); without a classifier what `pooled` is
        Every one of them has the bits that the verbs below give.
        """

    def maps(self, x: Array, taps: Sequence[int]) -> list[Array]:
        """Return the outputs of the blocks with these indices, ascending; run no block past the
        last of them.
        """

    def logits(self, x: Array) -> Array:
        """Run the whole network for the last of its `outputs`."""

    def head(self, x: Array) -> tuple[Array, Array]:
        """Pool and classify a last map (N, K, P, Q): the second and third of the `outputs`."""


def prepare(
    network: Network,
    engine: str = "auto",
    *,
    threads: int | None = None,
) -> Prepared:
    """Make a network ready to run with the named engine.

    "auto" takes the fastest engine that serves the network's dtype. Where it cannot be imported, or
    its kernels turn out not to compile in the first run, that is said, and the reference engine
    takes its place. threads: for the compiled
    engines, None for `npvgg.engines.threads.resolve(None)`; any number gives the same bits.
    Raises ArgumentError for an unknown engine, one that cannot serve the dtype or be imported, or
    an impossible number of threads.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ArgumentError(f"threads: expected an integer of at least 1, got {threads!r}")
    prepared: Prepared
    if engine == "auto":
        fast = network.dtype == np.float32 and _fastest_can_be_imported()
        prepared = _module(FASTEST if fast else "reference").prepare(network, threads=threads)
        return Fastest(prepared) if fast else prepared
    if engine not in ENGINES:
        raise ArgumentError(f"engine: expected auto, {', '.join(ENGINES)}, got {engine!r}")
    prepared = _module(engine).prepare(network, threads=threads)
    return prepared


def _module(engine: str) -> Any:
    try:
        return import_module(ENGINES[engine])
    except Exception as error:  # of another Numba than ours, anything
        raise ArgumentError(
            f"engine: expected one that can be imported, got {engine!r}: {error}"
        ) from error


@cache
def _fastest_can_be_imported() -> bool:
    try:
        _module(FASTEST)
    except ArgumentError as error:
        _say_slow(str(error))
        return False
    return True


@cache
def _say_slow(reason: str) -> None:
    _log.warning(f"the reference engine takes the place of {FASTEST}, slowly: {reason}")


class Fastest:
    """What "auto" gives: an engine, until its kernels turn out not to compile; then the reference
    engine.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    @property
    def name(self) -> str:
        """The name of the engine that runs it."""
        return self.prepared.name

    @property
    def network(self) -> Network:
        """The network as data."""
        return self.prepared.network

    def with_head(self, head: Head) -> Fastest:
        """Return the network behind another head."""
        return Fastest(self.prepared.with_head(head))

    def load(self) -> None:
        """Compile or load the kernels, or do without."""
        try:
            self.prepared.load()
        except ArgumentError as error:
            _say_slow(str(error))
            self.prepared = prepare(self.prepared.network, "reference")

    def outputs(self, x: Array, taps: Sequence[int]) -> tuple[list[Array], Array, Array]:
        """Return maps, pooled vector and logits of one run."""
        self.load()
        return self.prepared.outputs(x, taps)

    def maps(self, x: Array, taps: Sequence[int]) -> list[Array]:
        """Return the outputs of the blocks with these indices."""
        self.load()
        return self.prepared.maps(x, taps)

    def logits(self, x: Array) -> Array:
        """Run the whole network."""
        self.load()
        return self.prepared.logits(x)

    def head(self, x: Array) -> tuple[Array, Array]:
        """Pool and classify the last map."""
        self.load()
        return self.prepared.head(x)
