"""Winograd's algorithm from any points: derived in fractions, proved, counted, tiled, measured."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from npvgg.engines import cook_toom
from npvgg.engines.cook_toom import CookToom, Matrix, as_array, filter_matrices
from npvgg.errors import ArgumentError
from npvgg.explain.lesson import UNLISTED, Lesson
from npvgg.formats.untrusted import shown
from npvgg.model import RepVGG
from npvgg.ops import Array, conv2d
from npvgg.pages.parts import (
    Chart,
    Document,
    Exercise,
    Formula,
    Heading,
    Heat,
    Paragraph,
    Part,
    Source,
    Table,
)
from npvgg.summary import info
from npvgg.testing.bounds.rounding import WORST
from npvgg.testing.bounds.tiles import tiled_error

TAPS = 3
LARGEST = 6

LARGEST_PART = 2**60
"""Largest numerator and denominator of a point: every double from 1/128 to 128 has less."""

_PLAIN = re.compile(r"[+-]?[0-9.]{1,20}(/[0-9]{1,20}|e[+-]?[0-9]{1,2})?", re.IGNORECASE)

USUAL = tuple(map(Fraction, ["0", "1", "-1", "2", "-2", "1/2", "-1/2"]))
"""The points that most implementations take, in the order in which they take them."""

CHANNELS, KERNELS, SIDE = 32, 8, 14
"""Of the convolution on which errors are measured: normally distributed, from a seed."""


@dataclass(frozen=True)
class Tiling:
    """A map cut into tiles: how many, and how many outputs are computed for nothing at its edges.

    per_output: multiplications per output that is wanted, one channel; a direct sum takes 9
    """

    side: tuple[int, int]
    tiles: tuple[int, int]
    computed: int
    thrown_away: int
    per_output: float


@dataclass(frozen=True)
class Measured:
    """The error of one algorithm in float32, and the bound where it is.

    points: "ours", "usual" or "yours"
    """

    m: int
    points: str
    error: float
    bound: float
    share_of_bound: float


@dataclass(frozen=True, eq=False, repr=False)
class WinogradLesson(Lesson):
    """F(m × m, 3 × 3) from some points.

    at: Aᵀ (m, n)   g: G (n, 3)   bt: Bᵀ (n, n), in fractions, n = m + 2
    proved: how many pairs of unit vectors, all of them, the identity was computed for, exactly
    multiplications: of a tile, one channel; direct_multiplications: of the same outputs directly
    direct_error: of a direct float32 sum on the same numbers
    """

    m: int
    r: int
    points: tuple[Fraction, ...]
    at: Matrix
    g: Matrix
    bt: Matrix
    proved: int
    multiplications: int
    direct_multiplications: int
    error: float
    bound: float
    share_of_bound: float
    direct_error: float
    measured: tuple[Measured, ...]
    tilings: tuple[Tiling, ...]
    example: dict[str, Array]
    absolute: Array = field(metadata=UNLISTED)

    def document(self) -> Document:
        """Return the matrices, the proof, the counts, the tiles, the errors."""
        return Document(
            self.says("Winograd's F({m}×{m}, {r}×{r})"),
            (
                Paragraph(
                    self.says(
                        "A filter of {r} taps gives {m} outputs from {n} inputs. The plain way "
                        "multiplies {plain} times; from the values of two polynomials at {n} "
                        "points, {points} and ∞, {n} products are enough.",
                        n=self.m + 2, plain=self.m * self.r,
                        points=", ".join(map(str, self.points)),
                    )
                ),
                Formula("y = Aᵀ [(G g) ⊙ (Bᵀ d)],     Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A"),
                *(self._matrix(*each) for each in (
                    ("Aᵀ", self.at, "the powers of the points: it sums products into outputs"),
                    ("G", self.g, "the kernel's values at the points, over a common denominator"),
                    ("Bᵀ", self.bt, "the coefficients of Lagrange's polynomials"),
                )),
                Heading("Proved"),
                Paragraph(
                    self.says(
                        "Both sides are linear in d and in g, so it is enough that they agree on "
                        "unit vectors. All {proved} pairs were computed in fractions, and agree: "
                        "y[i] = d[i] g[0] + d[i + 1] g[1] + d[i + 2] g[2]."
                    )
                ),
                Heading("A tile, in numbers"),
                Heat(
                    dict(self.example),
                    "d is the input's tile and g the kernel; V = Bᵀ d B, U = G g Gᵀ, M = U ⊙ V, "
                    "Y = Aᵀ M A, the same as the direct sums.",
                    digits=2,
                ),
                Heading("Counted"),
                Paragraph(
                    self.says(
                        "A tile takes {multiplications} multiplications for {outputs} outputs, "
                        "directly {direct_multiplications}: {saving:.2f} times fewer. (Additions "
                        "grow, and the transforms move memory: the gain in time is smaller.)",
                        outputs=self.m**2,
                        saving=self.direct_multiplications / self.multiplications,
                    )
                ),
                *self._tiles(),
                Heading("What it costs: rounding"),
                Paragraph(
                    self.says(
                        "{channels} channels, {kernels} kernels, {side}×{side}, normally "
                        "distributed, float32. Largest error {error:.2g}; of a direct sum "
                        "{direct_error:.2g}. The theorem says {bound:.2g} at that number; at most "
                        "{share_of_bound:.2%} of the bound is used anywhere.",
                        channels=CHANNELS, kernels=KERNELS, side=SIDE,
                    )
                ),
                *self._errors(),
                Source(
                    "npvgg.engines.cook_toom.filter_matrices",
                    inspect.getsource(cook_toom.filter_matrices),
                ),
                Exercise(
                    "Take the points 0, 1, 2, 3, 4 for m = 4. What happens to the error, and why?",
                    "It grows: powers of 4 and differences of far points make large and small "
                    "numbers meet in one sum. `npvgg explain winograd --m 4 --points 0,1,2,3,4` "
                    "measures it.",
                ),
            ),
        )  # fmt: skip

    @staticmethod
    def _matrix(name: str, matrix: Matrix, says: str) -> Table:
        head = (name, *(str(j) for j in range(len(matrix[0]))))
        rows = tuple((str(i), *map(str, row)) for i, row in enumerate(matrix))
        return Table(head, rows, f"{name}: {says}.")

    def _tiles(self) -> list[Part]:
        last = self.tilings[-1]
        rows = tuple(
            (
                "×".join(map(str, t.side)), "×".join(map(str, t.tiles)), str(t.computed),
                str(t.thrown_away), f"{t.per_output:.2f}",
            )
            for t in self.tilings
        )  # fmt: skip
        (height, width), (down, across), m = last.side, last.tiles, self.m
        p, q = np.mgrid[: down * m, : across * m]
        board = np.where((p // m + q // m) % 2 == 0, 1.0, -1.0)
        board[(p >= height) | (q >= width)] *= 0.25
        return [
            Heading("A whole map"),
            Table(
                ("map", "tiles", "outputs computed", "thrown away", "multiplications per output"),
                rows,
                "Maps of the network, and two of ImageNet's. Tiles are whole; what lies beyond the "
                "edge is computed and thrown away. A direct sum takes nine multiplications per "
                "output.",
            ),
            Heat(
                {"tiles": board},
                f"A map of {height}×{width} in {down}×{across} tiles; pale is what is thrown away.",
                "A checkerboard of tiles; "
                f"the last {down * m - height} rows and {across * m - width} columns are pale.",
                digits=-1,
            ),
        ]

    def _errors(self) -> list[Part]:
        rows = tuple(
            (f"F({e.m})", e.points, f"{e.error:.2e}", f"{e.bound:.2e}", f"{e.share_of_bound:.2%}")
            for e in self.measured
        )
        sizes = np.arange(2, LARGEST + 1, dtype=np.float64)
        lines = {
            kind: np.array([e.error for e in self.measured if e.points == kind])
            for kind in ("ours", "usual")
        }
        lines["direct"] = np.full(len(sizes), self.direct_error)
        return [
            Table(
                ("tile", "points", "error", "bound there", "largest share"),
                rows,
                "Ours are those of the engine, found by search; usual are "
                f"{', '.join(map(str, USUAL))}.",
            ),
            Chart(
                sizes, lines, "m", "largest error",
                "Larger tiles save more multiplications and lose more digits.",
                log=True,
            ),
        ]  # fmt: skip


def winograd(
    model: RepVGG | None = None,
    m: int | None = None,
    points: Sequence[Fraction | int | float | str] | None = None,
) -> WinogradLesson:
    """Derive F(m × m, 3 × 3) from points, and show all that follows.

    m: outputs of a tile along a side, 2 … 6; by the number of points, or 4
    points: m + 1 finite ones, as numbers or text such as "1/2"; the engine's by default
    model: whose maps are tiled, beside those of 14×14 and 7×7

    Raises ArgumentError: for points that repeat, or too few, it says how many are needed.
    """
    given = None if points is None else tuple(_fraction(point) for point in points)
    if m is None:
        m = 4 if given is None else len(given) - 1
    if isinstance(m, bool) or not isinstance(m, int) or not 2 <= m <= LARGEST:
        raise ArgumentError(f"m: expected 2 … {LARGEST} (m + 1 finite points), got {m!r}")
    at, g, bt = filter_matrices(m, TAPS, given)
    f = CookToom(m, 1, at, g, bt)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    w = rng.standard_normal((KERNELS, CHANNELS, 3, 3)).astype(np.float32)
    truth = conv2d(x.astype(np.float64), w.astype(np.float64), padding=1)
    measured = [
        _measured(CookToom(size, 1, *filter_matrices(size, TAPS, chosen)), kind, x, w, truth)
        for size in range(2, LARGEST + 1)
        for kind, chosen in (("ours", None), ("usual", USUAL[: size + 1]))
    ]
    own = _measured(f, "yours", x, w, truth)
    if given is not None:
        measured.append(own)
    return WinogradLesson(
        m=m,
        r=TAPS,
        points=cook_toom.POINTS[m + 1] if given is None else given,
        at=at,
        g=g,
        bt=bt,
        proved=_prove(f),
        multiplications=f.n**2,
        direct_multiplications=(m * TAPS) ** 2,
        error=own.error,
        bound=own.bound,
        share_of_bound=own.share_of_bound,
        direct_error=float(np.abs(conv2d(x, w, padding=1) - truth).max()),
        measured=tuple(measured),
        tilings=tuple(_tiling(side, m) for side in _sides(model)),
        example=_example(f),
        absolute=np.abs(truth),
    )


def _fraction(point: Fraction | int | float | str) -> Fraction:
    """Read a point; its digits and its exponent are counted before any number is made of them."""
    fraction = None
    if not isinstance(point, str) or _PLAIN.fullmatch(point.strip()):
        with suppress(ValueError, TypeError, ZeroDivisionError, OverflowError):
            fraction = Fraction(point)
    if fraction is None or max(abs(fraction.numerator), fraction.denominator) > LARGEST_PART:
        raise ArgumentError(
            f"points: expected finite numbers such as -1 or 1/2 (∞ is there by itself), of at most "
            f"{LARGEST_PART} above and below the line, got {shown(point)}"
        )
    return fraction


def _sides(model: RepVGG | None) -> list[tuple[int, int]]:
    layers = info(model).layers if model is not None else ()
    shapes = [layer.output_shape[1:] for layer in layers if len(layer.output_shape) > 1]
    return [(h, w) for h, w in dict.fromkeys([*shapes, (14, 14), (7, 7)])]


def _tiling(side: tuple[int, int], m: int) -> Tiling:
    tiles = -(-side[0] // m), -(-side[1] // m)
    computed, wanted = tiles[0] * tiles[1] * m * m, side[0] * side[1]
    multiplied = tiles[0] * tiles[1] * (m + 2) ** 2
    return Tiling(side, tiles, computed, computed - wanted, multiplied / wanted)


def _prove(f: CookToom) -> int:
    """Compute y = Aᵀ [(G g) ⊙ (Bᵀ d)] for all unit vectors d, g in fractions: how many pairs.

    Raises ArgumentError where it is not y[i] = Σ_k d[i + k] g[k], which no distinct points give.
    """
    pairs = 0
    for a in range(f.n):
        for b in range(TAPS):
            products = [f.g[i][b] * f.bt[i][a] for i in range(f.n)]
            y = [sum(row[i] * products[i] for i in range(f.n)) for row in f.at]
            if y != [Fraction(i + b == a) for i in range(f.m)]:
                raise ArgumentError(f"points: F({f.m}, {TAPS}) is not the filter: {f.bt}")
            pairs += 1
    return pairs


def tiled_convolution(x: Array, w: Array, f: CookToom) -> Array:
    """Compute a 3×3 convolution padded by one, tile by tile, in the dtype of x.

    x: (1, C, H, W)   w: (K, C, 3, 3)   →   (1, K, H, W); what lies beyond the edge is thrown away
    """
    at, g, bt = (as_array(matrix).astype(x.dtype) for matrix in (f.at, f.g, f.bt))
    height, width = x.shape[2:]
    down, across = -(-height // f.m), -(-width // f.m)
    after = (down * f.m + 1 - height, across * f.m + 1 - width)
    padded = np.pad(x[0], ((0, 0), (1, after[0]), (1, after[1])))
    u = g @ w @ g.T  # (K, C, n, n)
    y = np.zeros((len(w), down * f.m, across * f.m), x.dtype)
    for i in range(down):
        for j in range(across):
            top, left = i * f.m, j * f.m
            v = bt @ padded[:, top : top + f.n, left : left + f.n] @ bt.T  # (C, n, n)
            y[:, top : top + f.m, left : left + f.m] = at @ (u * v).sum(axis=1) @ at.T
    return y[None, :, :height, :width]


def _measured(f: CookToom, kind: str, x: Array, w: Array, truth: Array) -> Measured:
    error = np.abs(tiled_convolution(x, w, f) - truth)
    exact = x.astype(np.float64)
    bound = tiled_error(exact, np.abs(exact), w.astype(np.float64), WORST, f, 1)
    at = np.unravel_index(int(error.argmax()), error.shape)
    return Measured(f.m, kind, float(error[at]), float(bound[at]), float((error / bound).max()))


def _example(f: CookToom) -> dict[str, Array]:
    """One tile in small integers, on its way."""
    rng = np.random.default_rng(2)
    d = rng.integers(0, 6, (f.n, f.n)).astype(np.float64)
    kernel = rng.integers(-1, 3, (3, 3)).astype(np.float64)
    at, g, bt = (as_array(matrix) for matrix in (f.at, f.g, f.bt))
    u, v = g @ kernel @ g.T, bt @ d @ bt.T
    return {"d": d, "g": kernel, "V": v, "U": u, "M": u * v, "Y": at @ (u * v) @ at.T}
