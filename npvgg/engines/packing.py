"""Weights in the order in which the micro-kernel reads them: panels of PANEL output channels.

    bias (panels · PANEL,), then panels (panel, vector, k, 16), k in the order of
    `layout.kernel_order`

A panel is one or two vectors of 16 output channels, each with all its kernels in one stretch: the
micro-kernel reads both vectors side by side for im2col, one after the other for Winograd.

Output channels past the last are zeros. With groups, a panel holds the input channels of all groups
that its output channels belong to, and zeros where the two are not of one group.

Winograd reads the same panels and transforms them on its way: nine values per kernel are read from
memory instead of n · n, and memory is what a network waits for that runs one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from npvgg.engines.jit import kernel
from npvgg.engines.microkernel import LANES, PANEL
from npvgg.engines.threads import share
from npvgg.ops import Array

VECTORS = PANEL // LANES
"""Vectors of 16 output channels in a panel."""


@dataclass(frozen=True)
class Filter:
    """A convolution by its shape: of kernels (K, C/G, R, R), without their values."""

    shape: tuple[int, int, int, int]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def size(self) -> int:
        """Taps in each direction."""
        return self.shape[2]

    @property
    def panels(self) -> int:
        """Panels of output channels."""
        return -(-self.shape[0] // PANEL)

    def channels(self, panel: int) -> tuple[int, int]:
        """Return the first and the last + 1 of the input channels that a panel's outputs see."""
        count, depth, *_ = self.shape
        per_group = count // self.groups
        first = panel * PANEL // per_group
        last = (min((panel + 1) * PANEL, count) - 1) // per_group
        return first * depth, (last + 1) * depth

    @property
    def width(self) -> int:
        """Input channels of the panel that sees the most."""
        return max(last - first for first, last in map(self.channels, range(self.panels)))


def packed_floats(filter: Filter) -> int:
    """Floats that `pack` writes: bias, then panels."""
    return filter.panels * PANEL * (1 + filter.size**2 * filter.width)


def pack(filter: Filter, weight: Array, bias: Array | None, out: Array, threads: int) -> None:
    """Write bias (K,), zeros for None, and weight (K, C/G, R, R) into out, (`packed_floats`,)."""
    count = filter.shape[0]
    out[: filter.panels * PANEL] = 0
    if bias is not None:
        out[:count] = bias
    vectors = out[filter.panels * PANEL :].reshape(filter.panels * VECTORS, -1, LANES)
    per_group = count // filter.groups
    kernels = _readable(weight.reshape(count, -1))

    def work(panel: int) -> None:
        first = filter.channels(panel)[0] * filter.size**2
        for vector in range(panel * VECTORS, (panel + 1) * VECTORS):
            _pack_panel(kernels, vector * LANES, first, per_group, vectors[vector])

    share(work, filter.panels, threads)


def unpack(filter: Filter, packed: Array) -> tuple[Array, Array]:
    """Read weight (K, C/G, R, R) and bias (K,) back from what `pack` wrote: the same bits."""
    count, depth, rows, cols = filter.shape
    length = depth * rows * cols
    vectors = packed[filter.panels * PANEL :].reshape(filter.panels * VECTORS, -1, LANES)
    kernels = np.empty((count, length), np.float32)
    for k in range(count):
        vector, o = divmod(k, LANES)
        group = k // (count // filter.groups)
        skip = group * length - filter.channels(k // PANEL)[0] * filter.size**2
        kernels[k] = vectors[vector, skip : skip + length, o]
    return kernels.reshape(filter.shape), packed[:count].copy()


def load_kernels() -> None:
    """Compile `_pack_panel`, or load it: call it for a panel of no rows."""
    _pack_panel(_readable(np.zeros((1, 1), np.float32)), 0, 0, 1, np.zeros((0, LANES), np.float32))


def _readable(array: Array) -> Array:
    """View an array as one that can't be written to, in C order: one type for the compiler."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@kernel
def _pack_panel(kernels, start, first, per_group, out):
    """Transpose 16 kernels: out[k, o] = kernels[start + o, first + k − where its group begins].

    kernels (K, C/G · R · R), out (depth, 16); zero where there is no such element
    """
    count, length = kernels.shape
    for o in range(LANES):
        k_out = start + o
        skip = first - k_out // per_group * length
        for k in range(len(out)):
            inside = k_out < count and 0 <= skip + k < length
            out[k, o] = kernels[k_out, skip + k] if inside else 0.0
