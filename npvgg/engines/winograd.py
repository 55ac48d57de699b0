"""The Winograd engine: 3×3 convolutions with a quarter to three fifths of the multiplications.

A tile of m × m outputs needs n × n products per input channel instead of m × m × 9, n = m + 2 for
stride 1, n = 2m + 1 for stride 2 (`cook_toom`). Summing over channels comes before transforming
back, so per tile the transforms are paid once and the products are C·K each:

    V = Bᵀ d B  per channel       M = Σ_c V_c ⊙ U_c        Y = Aᵀ M A + bias

Every product is a matrix product (tiles × C) · (C × K): the micro-kernel's.

A large m saves more multiplications, and costs more: n² values are made of the 9 of every kernel,
once per group of tiles, and there are fewer tiles to share them; the last tiles reach over the
map's edge; rounding errors grow.
"""

from __future__ import annotations

from npvgg.engines.compiled import CompiledNetwork
from npvgg.engines.packing import Filter
from npvgg.network import Network

TILES = {1: ((28, 4), (14, 3), (8, 4)), 2: ((28, 4), (14, 3))}
"""Stride → (from this height and width of the output on, m), the largest first. What decides:
products per output, n²/m², counting tiles that reach over the edge (14 = 4·4 − 2 = 3·5 − 1); values
of U to be made of nine; rounding. `python -m bench constants` times other choices."""


def tile(filter: Filter, height: int, width: int) -> int:
    """Choose m for a convolution, or 0: the im2col kernels serve it."""
    if filter.size != 3 or filter.dilation != 1 or filter.shape[1] < 16:
        return 0
    return next((m for least, m in TILES[filter.stride] if min(height, width) >= least), 0)


def prepare(network: Network, *, threads: int | None = None) -> CompiledNetwork:
    """Make ready. Every result has the same bits for any number of threads and any batch."""
    return CompiledNetwork(network, "winograd", tile, threads)
