"""Winograd's algorithm in NumPy: the page to read before the compiled engine.

A 3×3 convolution (stride 1, padding 1) whose output is cut into tiles of m × m pixels. For one tile
of one channel, d the n × n input pixels under it, n = m + 2, and g the 3 × 3 kernel, the matrices
of `cook_toom` give all m² outputs by n² products in place of 9·m²:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

Summing over input channels commutes with Aᵀ · A, so it is done before transforming back; and for
one of the n² places (i, j) of a tile that sum is a matrix product, (tiles × C) · (C × K):

    V = Bᵀ d B                          per tile and input channel
    U = G g Gᵀ                          per output and input channel
    M[i, j] = V[i, j] · U[i, j]         n² products of matrices
    Y = Aᵀ M A + bias                   per tile and output channel

What the compiled engine adds: U is made row by row where it is needed, never stored whole
(`program.add_products`), and G's denominators are in V (`transforms`); vectors of 16 channels
(`layout`, `transforms`); products in registers (`microkernel`); stride 2 (`cook_toom`); threads
(`program.run`).

What must not be broken here: nothing is hidden. No function but `cook_toom`'s and NumPy's.
Source: Lavin & Gray 2015, arXiv:1509.09308, section 4.1 and algorithm 1.
"""

from __future__ import annotations

import numpy as np

from npvgg.engines.cook_toom import as_array, cook_toom
from npvgg.ops import Array


def conv2d_winograd(x: Array, weight: Array, bias: Array | None = None, *, m: int = 4) -> Array:
    """Convolve with 3×3 kernels, stride 1, padding 1, by F(m × m, 3 × 3):  y = x ∗ weight + bias.

    x: (N, C, H, W).  weight: (K, C, 3, 3).  bias: (K,) or None.  m: 1 … 6
    Returns (N, K, H, W) in the dtype of x. Raises ArgumentError for an m without matrices.
    """
    fast = cook_toom(m)
    at, g, bt = (as_array(matrix).astype(x.dtype) for matrix in (fast.at, fast.g, fast.bt))
    (count, chs, height, width), filters = x.shape, len(weight)

    # Tiles: the last ones reach over the edge; what they read there is zero, what they make is cut.
    rows, cols = -(-height // m), -(-width // m)
    below, right = rows * m - height, cols * m - width
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1 + below), (1, 1 + right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (fast.n, fast.n), axis=(2, 3))
    tiles = windows[:, :, ::m, ::m]  # (N, C, rows, cols, n, n); neighbours share two pixels

    # Transform: from here on, one matrix per place (i, j) of a tile.
    v = np.einsum("ia,zcyxab,jb->ijzyxc", bt, tiles, bt, optimize=True)
    u = np.einsum("ia,kcab,jb->ijck", g, weight.astype(x.dtype), g, optimize=True)

    # Multiply: the sum over the channels.
    products = v.reshape(fast.n, fast.n, -1, chs) @ u  # (n, n, tiles, K)

    # Transform back, and put the tiles side by side.
    y = np.einsum("pi,ijtk,qj->tkpq", at, products, at, optimize=True)
    y = y.reshape(count, rows, cols, filters, m, m).transpose(0, 3, 1, 4, 2, 5)
    y = np.ascontiguousarray(y.reshape(count, filters, rows * m, cols * m)[:, :, :height, :width])
    return y if bias is None else y + bias[:, None, None].astype(x.dtype)
