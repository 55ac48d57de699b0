"""Winograd's matrices, derived exactly: fewer multiplications for a short filter.

A filter of r taps gives m outputs from n = m + r − 1 inputs. The plain way multiplies m·r times,

    y[i] = Σ_k d[i + k] · g[k],

the way of Toom, Cook and Winograd only n times:

    y = Aᵀ [ (G g) ⊙ (Bᵀ d) ].

Where from: the product of two polynomials, s(x) = g(x)·h(x), of r and m coefficients, has n
coefficients, so n values determine it. Evaluate g and h at n points, multiply value by value,
interpolate. With V_k the matrix of the powers 0 … k−1 of the points,

    s = V_n⁻¹ [ (V_r g) ⊙ (V_m h) ].

The filter is the transpose of that product as a linear map of h, and a product's transpose takes
its factors in reverse:  Aᵀ = V_mᵀ,  G = V_r,  Bᵀ = V_n⁻ᵀ.  Row i of V_n⁻ᵀ holds the coefficients of
Lagrange's polynomial  Π_{j≠i} (x − a_j) / (a_i − a_j); its denominator is moved from there into
row i of G, so that Bᵀ and Aᵀ can be exact in float32. The last point is ∞, where a polynomial's
value is its leading coefficient.

In two dimensions the same matrices act on rows and on columns: Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A.

Everything is a fraction until the engine rounds it; nothing here is tuned but the choice of points.
Source: Winograd 1980, Arithmetic Complexity of Computations; Lavin & Gray 2015, arXiv:1509.09308,
section 4; that the points decide the error: Barabasz et al. 2018, arXiv:1803.10986, and Alam et
al. 2022, doi:10.1145/3524069.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import ArgumentError

Matrix = tuple[tuple[Fraction, ...], ...]

POINTS: dict[int, tuple[Fraction, ...]] = {
    len(row.split()): tuple(map(Fraction, row.split()))
    for row in (
        "0",
        "0 1",
        "0 1 -1",
        "0 3/4 -3/4 2",
        "0 5/8 -5/8 3/2 -3/2",
        "0 1/2 -1/2 9/8 -9/8 5/2",
        "0 1/2 -1/2 1 -1 7/4 -7/4",
    )
}
"""How many finite points → which: near ±1, as their powers are multiplied with; spread, as their
differences are divided by; in pairs ±a, whose rows share their sums; eighths at the finest, so that
Aᵀ and Bᵀ are exact in float32. Found by search over such sets, which `python -m bench.points`
repeats: of 23, 506, 253, 5313 and 1771 candidates for F(2) … F(6) these come 1st, 12th, 4th, 6th
and 4th, at most 13 % behind the first; their root-mean-square errors over 32 channels are 0.7, 1.8,
1.8, 5.3 and 8.7 times those of a direct sum."""


@dataclass(frozen=True)
class CookToom:
    """The matrices of one short filter: m outputs, every `stride` samples, by `n` products.

    at: (m, n) Aᵀ, of the output.  g: (n, taps) G, of the kernel.  bt: (n, n) Bᵀ, of the input.
    """

    m: int
    stride: int
    at: Matrix
    g: Matrix
    bt: Matrix

    @property
    def n(self) -> int:
        """Products per output tile and dimension, and samples of its input."""
        return len(self.bt)

    @property
    def scales(self) -> tuple[Fraction, ...]:
        """s (n,): what every row of G has in common, G = diag(s) · `powers`."""
        return tuple(next(value for value in row if value) for row in self.g)

    @property
    def powers(self) -> Matrix:
        """G without its denominators, (n, taps): rows of the powers of a point, from 1 on."""
        rows = zip(self.g, self.scales, strict=True)
        return tuple(tuple(value / scale for value in row) for row, scale in rows)

    @property
    def step(self) -> int:
        """Samples from one tile's input to the next one's."""
        return self.m * self.stride


def filter_matrices(
    m: int, taps: int, points: tuple[Fraction, ...] | None = None
) -> tuple[Matrix, Matrix, Matrix]:
    """Derive (Aᵀ, G, Bᵀ) of F(m, taps) with stride 1, as the module's text says.

    points: the m + taps − 2 finite ones, each once; those of `POINTS` by default
    Raises ArgumentError.
    """
    if points is None and m + taps - 2 not in POINTS:
        raise ArgumentError(f"m, taps: expected 2 … {len(POINTS) + 1} products, got F({m}, {taps})")
    finite = POINTS[m + taps - 2] if points is None else points
    if len(finite) != m + taps - 2 or len(set(finite)) != len(finite):
        raise ArgumentError(
            f"points: expected {m + taps - 2} finite points for F({m}, {taps}), each once (∞ is "
            f"there by itself), got {', '.join(map(str, finite))}"
        )
    bt, scales = [], []
    for i, point in enumerate(finite):
        others = finite[:i] + finite[i + 1 :]
        bt.append((*_with_roots(others), Fraction(0)))
        scales.append(_product(point - other for other in others))
    bt.append(_with_roots(finite))
    scales.append(Fraction(1))
    at = tuple(zip(*_powers(finite, m), strict=True))
    g = tuple(
        tuple(value / scale for value in row)
        for row, scale in zip(_powers(finite, taps), scales, strict=True)
    )
    return at, g, tuple(bt)


def cook_toom(m: int, stride: int = 1) -> CookToom:
    """Derive the matrices of a 3-tap filter with m outputs, for stride 1 or 2.

    With stride 2 a filter is two filters of stride 1, side by side: taps 0 and 2 meet only the even
    samples, tap 1 only the odd ones,

        y[i] = Σ_{k = 0, 1} e[i + k] · (g0, g2)[k]  +  o[i] · g1,     e = d[0::2],  o = d[1::2],

    of m + 1 and m products; the columns of Bᵀ are put where their samples stand.
    """
    if stride == 1:
        at, g, bt = filter_matrices(m, 3)
        return CookToom(m, 1, at, g, bt)
    at2, g2, bt2 = filter_matrices(m, 2)
    n, zero, one = 2 * m + 1, Fraction(0), Fraction(1)
    even = [tuple(_spread(row, range(0, n, 2), n)) for row in bt2]
    odd = [tuple(_spread((one,), (2 * i + 1,), n)) for i in range(m)]
    g = (*((a, zero, b) for a, b in g2), *((zero, one, zero) for _ in range(m)))
    at = tuple((*row, *_spread((one,), (i,), m)) for i, row in enumerate(at2))
    return CookToom(m, 2, at, g, (*even, *odd))


def as_array(matrix: Matrix) -> NDArray[np.float64]:
    """Round every fraction to float64."""
    return np.array([[float(value) for value in row] for row in matrix])


def _powers(finite: tuple[Fraction, ...], count: int) -> Matrix:
    """V: one row of powers per point; the row of ∞ is the leading coefficient's."""
    rows = [tuple(point**k for k in range(count)) for point in finite]
    return (*rows, tuple(Fraction(k == count - 1) for k in range(count)))


def _with_roots(roots: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Coefficients of Π (x − root), the constant one first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return tuple(coefficients)


def _product(values: object) -> Fraction:
    total = Fraction(1)
    for value in values:  # type: ignore[attr-defined]
        total *= value
    return total


def _spread(values: tuple[Fraction, ...], places: object, n: int) -> list[Fraction]:
    row = [Fraction(0)] * n
    for value, place in zip(values, places, strict=True):  # type: ignore[call-overload]
        row[place] = value
    return row
