"""The Winograd engine: 3×3 convolutions with a quarter to three fifths of the multiplications.

A tile of m × m outputs needs n × n products per input channel instead of m × m × 9, n = m + 2 for
stride 1, n = 2m + 1 for stride 2 (`cook_toom`). Summing over channels comes before transforming
back, so per tile the transforms are paid once and the products are C·K each:

    V = Bᵀ d B  per channel       M = Σ_c V_c ⊙ U_c        Y = Aᵀ M A + bias

Every product is a matrix product (tiles × C) · (C × K): the micro-kernel's.

A large m saves more multiplications, and costs more: n² values are made of the 9 of every kernel,
once per group of tiles, and there are fewer tiles to share them; the last tiles reach over the
map's edge; rounding errors grow. `cost` reckons that for one size of map, 14² for instance as

    F(3)  25 products per tile  5 × 5 tiles          F(5)  49 products per tile  3 × 3 tiles

What must not be broken here: the choice depends on the map's size and never on the batch; else an
image's bits would depend on its neighbours.

Where it holds: an output's rounding error is relative to the largest number of its tile (n × n
pixels of all channels), where a direct sum's is relative to its own 3 × 3 window. With one pixel R
times its neighbours, outputs whose windows do not even hold it are off by 1e-7 · R (F(4)) to
1.7e-7 · R (F(3)) of their size, C = 64, by `winograd_plain` against float64: 1e-4 at R = 1000, no
digit left at 1e7. In the maps of the network that ships the largest number is at most 23 times the
root mean square (64 photos). Where numbers of such different sizes meet, im2col has a direct sum's
error. Nothing detects it: that would cost a pass over V.

Measured with other choices (A2 at 224², one thread, processor's time, 2026-11-28): F(3) at 14²
takes 1.08 of the time for one image and 1.14 for four, F(4) 1.07 and 1.11; F(5) at 28² 1.01 and
1.00. F(6) at 56² or 28² took 0.99 to 1.02, at a larger rounding error, so it isn't compiled. Tiles
of two sizes that share U (14 = 5 + 5 + 4, 400 products in place of 441) have not been tried.
"""

from __future__ import annotations

from npvgg.engines.compiled import CompiledNetwork
from npvgg.engines.packing import Filter
from npvgg.engines.transforms import FILTERS
from npvgg.network import Network

IMAGES = 2
"""Images that share U, in the reckoning below: between one alone and the few of a slice."""

MAKING_U = 4
"""What making a value of U costs, in products of that value: 49 values for 384 × 384 kernels took
0.42 ms, where as many products of one tile take 0.13 (F(5) at 14² on one thread, EPYC, 2026-11-28).
Rounded up: with 3, the stride-2 layer of A2 at 7² would be F(2), and the network 1.6 % slower. With
4 in place of 10, A2 takes 0.96 of its time at 288², 0.99 at 192², 1.00 at 400²."""

LONG_SUM = 128
"""Input channels from which F(5) is taken. Alone it is off by 5 to 10 times as much as a direct
sum, for any number of channels (F(3) 1 to 2, F(4) 1.3 to 3: `winograd_plain` on random numbers). In
the networks of the table the layers before are off by more: the late ones have many channels. One
of 16 channels at the beginning was off by 7.7 times PyTorch's error; 6 is promised (2026-11-28)."""


def cost(m: int, stride: int, height: int, width: int) -> int:
    """Reckon what F(m) costs for a map of this size, in products per pair of channels; 0: direct.

    Each of n² values of U is made once, and multiplied once per tile.
    """
    if not m:
        return 9 * height * width * IMAGES
    tiles = -(-height // m) * -(-width // m)
    return FILTERS[m, stride].n ** 2 * (tiles * IMAGES + MAKING_U)


def tile(filter: Filter, height: int, width: int) -> int:
    """Choose m for a convolution, or 0: the im2col kernels serve it."""
    if filter.size != 3 or filter.dilation != 1 or filter.shape[1] < 16:
        return 0
    largest = 5 if filter.shape[1] >= LONG_SUM else 4
    sizes = [m for m, stride in FILTERS if stride == filter.stride and m <= largest]
    return min((0, *sizes), key=lambda m: cost(m, filter.stride, height, width))


def prepare(network: Network, *, threads: int | None = None) -> CompiledNetwork:
    """Make ready. Every result has the same bits for any number of threads and any batch."""
    return CompiledNetwork(network, "winograd", tile, threads)
