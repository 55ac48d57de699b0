"""How far Winograd's algorithms may be off: their matrices, taken absolutely.

F(m × m, 3 × 3) computes a tile of outputs as Y = Aᵀ [Σ_c (G w_c Gᵀ) ⊙ (Bᵀ x_c B)] A
(`npvgg.engines.cook_toom`). Its roundings are relative to the numbers on this way, which may be
much larger than the answer: where large and small numbers meet in a tile, the small ones drown, and
no bound in terms of Σ|x||w| at a pixel holds. By the same theorem as for plain sums, it is

    WORST      |Ŷ − Y| ≤ γ_n |Aᵀ| M̃ |A|,        M̃ = Σ_c (|G||w_c||Gᵀ|) ⊙ (|Bᵀ||x_c||B|)
    PROBABLE   the errors of M, γ̃_n M̃, through A in squares; and γ̃ of the last step, |Aᵀ||M||A|

n = C + 4·(m + 2) + 8 roundings at most: the sum over channels, two transforms in two dimensions
each, and that of the kernel.
"""

from __future__ import annotations

import numpy as np

from npvgg.config import output_size
from npvgg.engines.cook_toom import CookToom, as_array, cook_toom
from npvgg.errors import ArgumentError
from npvgg.ops import Array
from npvgg.testing.bounds.rounding import Rule

LARGEST = 6
"""Tiles of others go as far: ncnn's F(6 × 6, 3 × 3)."""


def check_tile(winograd: object) -> None:
    """Raise ArgumentError unless it is the size of a tile, or 0."""
    if winograd not in (0, *range(2, LARGEST + 1)) or isinstance(winograd, bool):
        raise ArgumentError(f"winograd: expected 0 or 2 … {LARGEST}, got {winograd!r}")


def winograd_error(
    x: Array, mass: Array, weight: Array, rule: Rule, *,
    largest: int, stride: int, groups: int,
) -> Array:  # fmt: skip
    """How far 3×3 convolutions padded by 1 may be off by any F(m), m = 2 … largest.

    x: (N, C, H, W) the input   mass: of its size, ≥ |x|   weight: (K, C/G, 3, 3)   → (N, K, P, Q)
    The tiles begin at the first output.
    """
    errors = [
        tiled_error(x, mass, weight, rule, cook_toom(m, stride), groups)
        for m in range(2, largest + 1)
    ]
    worst: Array = np.maximum.reduce(errors)
    return worst


def tiled_error(
    x: Array, mass: Array, weight: Array, rule: Rule, f: CookToom, groups: int
) -> Array:
    """How far one algorithm may be off; the rest as of `winograd_error`."""
    at, g, bt = (as_array(matrix) for matrix in (f.at, f.g, f.bt))
    size = [output_size(side, f.stride) for side in x.shape[2:]]
    absolute = _products(
        _tiles(mass, f), np.abs(weight), np.abs(bt), np.abs(g), groups
    )  # (N, K, tiles, tiles, n, n)
    actual = np.abs(_products(_tiles(x, f), weight, bt, g, groups))
    roundings = weight.shape[1] + 4 * f.n + 8
    through = rule.back(_both_sides(rule.through(at), rule.through(absolute)))
    last = _both_sides(np.abs(at), actual)
    error = rule.join(rule.grow(roundings) * through, rule.grow(2 * f.n) * last)
    n, k, rows, columns = error.shape[:4]
    whole = error.transpose(0, 1, 2, 4, 3, 5).reshape(n, k, rows * f.m, columns * f.m)
    return whole[:, :, : size[0], : size[1]]


def _tiles(x: Array, f: CookToom) -> Array:
    """Cut the padded map into tiles' inputs: (N, C, H, W) → (N, C, tiles, tiles, n, n)."""
    counts = [output_size(output_size(side, f.stride), f.m) for side in x.shape[2:]]
    reach = [(count - 1) * f.step + f.n for count in counts]
    ends = [(1, r - side - 1) for r, side in zip(reach, x.shape[2:], strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *((1, max(after, 0)) for _, after in ends)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (f.n, f.n), axis=(2, 3))
    return windows[:, :, :: f.step, :: f.step][:, :, : counts[0], : counts[1]]


def _products(tiles: Array, weight: Array, bt: Array, g: Array, groups: int) -> Array:
    """M = Σ_c (G w_c Gᵀ) ⊙ (Bᵀ x_c B), added channel by channel: (N, K, tiles, tiles, n, n)."""
    u, v = _both_sides(g, weight), _both_sides(bt, tiles)
    k, c_group = weight.shape[:2]
    total = np.zeros((len(tiles), k, *v.shape[2:]))
    group = np.arange(k) // (k // groups) * c_group
    for c in range(c_group):
        total += u[:, c, None, None] * v[:, group + c]
    return total


def _both_sides(matrix: Array, x: Array) -> Array:
    """matrix · x · matrixᵀ over the last two axes, added in order."""
    for axis in (-2, -1):
        moved = np.moveaxis(x, axis, 0)
        rows = [
            sum(float(a) * moved[j] for j, a in enumerate(row) if a) + np.zeros(moved.shape[1:])
            for row in matrix
        ]
        x = np.moveaxis(np.stack(rows), 0, axis)
    return x
