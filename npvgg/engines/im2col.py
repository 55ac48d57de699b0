"""The im2col engine: every convolution as one matrix product, whatever its shape.

    Y (pixels, K) = X (pixels, C·R·R) · W (C·R·R, K) + bias

X is never written: a table of offsets says where each of its elements already lies (`layout`), and
the micro-kernel multiplies from there, adding bias and ReLU in the registers.
"""

from __future__ import annotations

from npvgg.engines.compiled import CompiledNetwork
from npvgg.engines.packing import Filter
from npvgg.network import Network


def direct(filter: Filter, height: int, width: int) -> int:
    """Choose for a convolution: never Winograd."""
    return 0


def prepare(network: Network, *, threads: int | None = None) -> CompiledNetwork:
    """Make ready. Every result has the same bits for any number of threads and any batch."""
    return CompiledNetwork(network, "im2col", direct, threads)
