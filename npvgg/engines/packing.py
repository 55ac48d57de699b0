"""Weights in the order in which the micro-kernel reads them: panels of PANEL output channels.

    direct      (panel, k, PANEL)               k in the order of `layout.kernel_order`
    Winograd    (panel, n · n, c, PANEL)        U = G g Gᵀ, computed in float64 and rounded once

Output channels past the last are zeros. With groups, a panel holds the input channels of all groups
that its output channels belong to, and zeros where the two are not of one group.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from npvgg.engines.cook_toom import as_array
from npvgg.engines.layout import kernel_order
from npvgg.engines.microkernel import PANEL
from npvgg.engines.transforms import FILTERS
from npvgg.jit import kernel
from npvgg.ops import Array
from npvgg.threads import run


@dataclass(frozen=True, eq=False)
class Filter:
    """A convolution to be done: weight (K, C/G, R, R), bias (K,) or None."""

    weight: Array
    bias: Array | None
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def size(self) -> int:
        """Taps in each direction."""
        return int(self.weight.shape[2])

    @property
    def panels(self) -> int:
        """Panels of output channels."""
        return -(-len(self.weight) // PANEL)

    def channels(self, panel: int) -> tuple[int, int]:
        """Give the first and the last + 1 of the input channels that a panel's outputs see."""
        per_group = len(self.weight) // self.groups
        first = panel * PANEL // per_group
        last = (min((panel + 1) * PANEL, len(self.weight)) - 1) // per_group
        depth = self.weight.shape[1]
        return first * depth, (last + 1) * depth

    @property
    def width(self) -> int:
        """Input channels of the panel that sees the most."""
        return max(last - first for first, last in map(self.channels, range(self.panels)))


def packed_floats(filter: Filter, m: int) -> int:
    """Floats that `pack` writes: bias, then panels. m: Winograd's tile, 0 for direct."""
    products = FILTERS[m, filter.stride].n ** 2 if m else filter.size**2
    return filter.panels * PANEL * (1 + products * filter.width)


def pack(filter: Filter, m: int, out: Array, threads: int) -> None:
    """Write bias and panels into out, (`packed_floats`,) float32."""
    out[: filter.panels * PANEL] = 0
    if filter.bias is not None:
        out[: len(filter.bias)] = filter.bias
    panels = out[filter.panels * PANEL :].reshape(filter.panels, -1, PANEL)
    g = as_array(FILTERS[m, filter.stride].g) if m else np.zeros((0, 0))
    tickets = itertools.count()

    def work() -> None:
        while (panel := next(tickets)) < filter.panels:
            first, last = filter.channels(panel)
            per_group = len(filter.weight) // filter.groups
            place = panels[panel]
            if m:
                _pack_winograd(filter.weight, panel * PANEL, first, last, per_group, g, place)
            else:
                c, i, j = kernel_order(first, last, filter.size)
                place[len(c) :] = 0
                _pack_direct(filter.weight, panel * PANEL, c, i, j, per_group, place)
            done.append(panel)

    done: list[int] = []
    run(work, threads)
    while len(done) < filter.panels:  # a helper still writes its last panel
        pass


@kernel
def _pack_direct(weight, start, c, i, j, per_group, out):
    """Out (depth, PANEL): out[k, o] = weight[start + o, c[k], i[k], j[k]]."""
    chs = weight.shape[1]
    for o in range(PANEL):
        k_out = start + o
        low = k_out // per_group * chs
        for k in range(len(c)):
            if k_out < len(weight) and low <= c[k] < low + chs:
                out[k, o] = weight[k_out, c[k] - low, i[k], j[k]]
            else:
                out[k, o] = 0.0


@kernel
def _pack_winograd(weight, start, first, last, per_group, g, out):
    """Out (n · n · width, PANEL): U = G g Gᵀ of every output and input channel."""
    n, chs = g.shape[0], weight.shape[1]
    width = out.shape[0] // (n * n)
    half = np.empty((n, 3, PANEL))
    taps = np.empty((3, 3, PANEL))
    for c in range(width):
        for o in range(PANEL):
            k = start + o
            inside = k < len(weight) and k // per_group * chs <= first + c < min(
                last, (k // per_group + 1) * chs
            )
            for i in range(3):
                for j in range(3):
                    taps[i, j, o] = (
                        weight[k, first + c - k // per_group * chs, i, j] if inside else 0.0
                    )
        for a in range(n):
            for j in range(3):
                for o in range(PANEL):
                    half[a, j, o] = (
                        g[a, 0] * taps[0, j, o] + g[a, 1] * taps[1, j, o] + g[a, 2] * taps[2, j, o]
                    )
        for a in range(n):
            for b in range(n):
                row = out[(a * n + b) * width + c]
                for o in range(PANEL):
                    row[o] = (
                        half[a, 0, o] * g[b, 0] + half[a, 1, o] * g[b, 1] + half[a, 2, o] * g[b, 2]
                    )
