"""The search that Winograd's points come from:  python -m bench.points [products]

Sets of 0, pairs ±a, and one more point where their number is even, all of them eighths: so Aᵀ and
Bᵀ have few digits. Each set is judged by the root-mean-square error of its F(m, 3) in two
dimensions and 32 channels, all in float32, as a multiple of a direct sum's, over the same samples;
the sets that are in use are marked. No clock and no machine decides: the same list everywhere, but
for rounding that differs without fused multiply-adds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations

import numpy as np

from npvgg.engines.cook_toom import POINTS, as_array, filter_matrices

CHANNELS, TILES, SHOWN = 32, 64, 5

EIGHTHS = [Fraction(i, 8) for i in range(2, 25)]
"""Candidates: a quarter to three. Smaller and larger ones make the powers and differences worse."""


def candidates(count: int) -> Iterator[tuple[Fraction, ...]]:
    """List sets of so many finite points: 0, pairs, and a single one where that leaves one over."""
    for pairs in combinations(EIGHTHS, (count - 1) // 2):
        points = (Fraction(0), *(p for a in pairs for p in (a, -a)))
        if count % 2:
            yield points
        else:
            yield from ((*points, single) for single in EIGHTHS if single not in points)


class Samples:
    """Tiles and kernels, and the direct sums of them, in float64 and float32."""

    def __init__(self, m: int) -> None:
        rng = np.random.default_rng(0)
        self.d = rng.standard_normal((TILES, CHANNELS, m + 2, m + 2)).astype(np.float32)
        self.g = rng.standard_normal((CHANNELS, 3, 3)).astype(np.float32)
        self.m = m
        windows = np.lib.stride_tricks.sliding_window_view(self.d, (3, 3), axis=(2, 3))
        terms = (windows.astype(np.float64) * self.g[:, None, None]).reshape(*windows.shape[:4], 9)
        self.truth = terms.sum((1, -1))
        total = np.zeros_like(self.truth, np.float32)
        for c in range(CHANNELS):
            for tap in range(9):
                total += terms[:, c, :, :, tap].astype(np.float32)
        self.direct = _rms(total - self.truth)

    def error(self, points: tuple[Fraction, ...]) -> float:
        """Return the error of F(m, 3) with these points, as a multiple of the direct sum's."""
        at, g, bt = (as_array(x).astype(np.float32) for x in filter_matrices(self.m, 3, points))
        v, u = bt @ self.d @ bt.T, g @ self.g @ g.T
        products = np.zeros_like(v[:, 0])
        for c in range(CHANNELS):
            products += v[:, c] * u[c]
        return _rms(at @ products @ at.T - self.truth) / self.direct


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


def search(m: int) -> list[tuple[float, tuple[Fraction, ...]]]:
    """Judge all candidates for F(m, 3), the best first."""
    samples = Samples(m)
    return sorted((samples.error(points), points) for points in candidates(m + 1))


def main() -> None:
    """Print the best sets for each m, and where the one in use stands."""
    for m in map(int, sys.argv[1:] or ("2", "3", "4", "5", "6")):
        found = search(m)
        ours = {frozenset(POINTS[m + 1])}
        for place, (error, points) in enumerate(found, 1):
            used = frozenset(points) in ours
            if used or place <= SHOWN:
                mark = "   in use" if used else ""
                print(
                    f"F({m})  {place:5} of {len(found)}  {error:6.2f} × a direct sum's  "
                    f"{' '.join(map(str, points))}{mark}", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
