"""How far one tensor is off, in numbers and in words; `bounds.shares` says when it is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from npvgg.ops import Array
from npvgg.rounding import ulp
from npvgg.testing.bounds.shares import errors, shares


@dataclass(frozen=True)
class Measured:
    """The errors of one tensor.

    absolute: the largest error      relative: that, by the largest magnitude of ours
    ulp: that, in units of the last place (float32) of the largest magnitude of ours
    share: the largest share of the bound
    where: the index of that, or, if there are wrong elements, of the one that is the furthest
        beyond its bound; there it is `got`, and should be `want` within `bound`
    wrong: how many elements, of `size`, are beyond their bounds
    not_finite: how many of theirs are NaN or infinite
    """

    absolute: float
    relative: float
    ulp: float
    share: float
    where: tuple[int, ...]
    got: float
    want: float
    bound: float
    wrong: int
    not_finite: int
    size: int


def measure(got: Array, want: Array, bound: Array) -> Measured:
    """Compare a tensor of theirs with ours: all of one shape, of at least one element."""
    error, share = errors(got, want), shares(got, want, bound)
    scale = float(np.abs(want.astype(np.float64)).max())
    worst = share if share.max() <= 1 else np.where(share > 1, error - bound, -np.inf)
    where = tuple(map(int, np.unravel_index(int(np.argmax(worst)), worst.shape)))
    largest = float(error.max())
    return Measured(
        absolute=largest,
        relative=largest / scale if scale else (np.inf if largest else 0.0),
        ulp=largest / ulp(scale),
        share=float(share.max()),
        where=where,
        got=float(got[where]),
        want=float(want[where]),
        bound=float(bound[where]),
        wrong=int((share > 1).sum()),
        not_finite=int(got.size - np.isfinite(got).sum()),
        size=int(got.size),
    )


def pattern(wrong: Array) -> Iterator[str]:
    """Return what the wrong elements of a map (N, K, P, Q) or of rows (N, K) have in common, in
    words.
    """
    places = np.argwhere(wrong)
    for axis, (one, many) in enumerate((("image", "images"), ("channel", "channels"))):
        size, hit = wrong.shape[axis], np.unique(places[:, axis])
        if len(hit) <= size // 2:  # of more, some are but zero behind a ReLU
            names = ", ".join(map(str, hit[:6])) + (", …" if len(hit) > 6 else "")
            yield f"only in {one if len(hit) == 1 else many} {names} of {size}"
    if wrong.ndim == 4:
        yield from _where_on_the_map(np.any(wrong, axis=(0, 1)))


def _where_on_the_map(wrong: Array) -> Iterator[str]:
    """Edges, a checkerboard's colour, or nothing that has a name; wrong (P, Q)."""
    p, q = wrong.shape
    edges = {"top row": wrong[0], "bottom row": wrong[-1],
             "left column": wrong[:, 0], "right column": wrong[:, -1]}  # fmt: skip
    inside = wrong[1:-1, 1:-1]
    if min(p, q) > 2 and not inside.any():
        hit = [name for name, line in edges.items() if line[1:-1].any()]
        yield "only along the edge of the maps: " + (", ".join(hit) or "in the corners")
    elif not wrong.all() and min(p, q) > 3:
        for axis, lines in enumerate(("rows", "columns")):
            at = np.flatnonzero(wrong.any(axis=1 - axis))
            if len(set(at % 2)) == 1 and len(at) > 1:
                yield f"only in {'odd' if at[0] % 2 else 'even'} {lines} of the maps"
