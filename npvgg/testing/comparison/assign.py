"""Which matching of several is the right one: the one in which more tensors are right.

A name may be ours by accident (the paper's five stages are called `stages.0 … 4`, of which the
first is our stem), and an order may be any. No array is within a bound by chance, so the numbers
tell:

1.  names, if two are known; where there is no stem among them, or a shape is wrong, shapes as well,
    and the names give way where more tensors are right by shape
2.  else the order in which they are given, in which people count, and backwards, each by shape
3.  what names did not find is looked for by shape where no map is known by its name, else among
    those that are right
4.  where no name tells, and in a network that was watched, a tensor that is wrong gives way to an
    array that is right in its place

Nothing is left out that was matched before, but what is right in another place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import shown
from npvgg.ops import Array
from npvgg.testing.comparison.candidates import natural
from npvgg.testing.comparison.match import Match, held, match
from npvgg.testing.packs.pack import Pack


def assign(
    theirs: Mapping[str, Array],
    pack: Pack,
    *,
    by: str | Mapping[str, str] = "auto",
    layout: str = "auto",
    alone: bool = False,
    watched: bool = False,
) -> tuple[Match, list[str]]:
    """Match their arrays with the pack's tensors, and say what has to be said of it.

    by, layout: as of `match`; only "auto" is given a choice
    alone: which bound says what is right
    watched: whether they are all that a network makes, and nobody chose their names

    Raises ArgumentError where nothing can be matched.
    """
    right = _Right(theirs, pack, alone)
    found = match(theirs, pack.probes, pack.tensor, by=by, layout=layout)
    if by != "auto":
        return found, []
    notes: list[str] = []
    if found.how == "name":
        if _is_doubtful(found, pack):
            other = _by_shape(theirs, pack, layout, right)
            if other and len(right.of(other)) > max(1, len(right.of(found))):
                found = other
                notes.append("their names are ours, and their arrays are not: matched by shape")
        if found.how == "name":
            found = _with_the_rest(theirs, found, pack, right)
    else:
        found = _by_shape(theirs, pack, layout, right, first=found) or found
    if found.how != "name" or watched:
        found, more = _moved(theirs, found, pack, right)
        notes += more
    return found, notes


class _Right:
    """Which of their arrays is within the bound of which tensor of ours, each asked once."""

    def __init__(self, theirs: Mapping[str, Array], pack: Pack, alone: bool) -> None:
        self.theirs, self.pack, self.alone = theirs, pack, alone
        self.names = list(theirs)
        self.sizes = np.array([array.size for array in theirs.values()])
        self.spans = np.array([_span(array) for array in theirs.values()]).reshape(-1, 2)
        self.known: dict[tuple[str, str], bool] = {}

    def __call__(self, found: Match, name: str) -> bool:
        """Whether the array that was taken for a tensor of ours is right."""
        key = name, found.names[name]
        if key not in self.known:
            self.known[key] = self.pack.accepts(name, found.arrays[name], alone=self.alone)
        return self.known[key]

    def of(self, found: Match) -> set[str]:
        """Return the tensors of ours, without the input, that were found and are right."""
        return {name for name in found.arrays if name != "input" and self(found, name)}

    def near(self, name: str) -> Iterator[str]:
        """Their arrays that have the size, the smallest and the largest number of one of ours."""
        truth = self.pack.tensor(name)
        margin = float(self.pack.tolerance(name, alone=self.alone).max())
        fits = self.sizes == truth.size
        with np.errstate(invalid="ignore"):
            fits &= (np.abs(self.spans - _span(truth)) <= margin).all(axis=1)
        yield from (self.names[i] for i in np.flatnonzero(fits))


def _span(array: Array) -> tuple[float, float]:
    return (float(array.min()), float(array.max())) if array.size else (np.nan, np.nan)


def _is_doubtful(found: Match, pack: Pack) -> bool:
    """Whether names may be ours by accident: no stem among them, or an array of a wrong shape."""
    stem = pack.probes[1].block
    blocks = {pack.probe(name).block for name in found.names} - {""}
    odd = any(array.shape != pack.probe(name).shape for name, array in found.arrays.items())
    return odd or bool(blocks and stem not in blocks)


def _by_shape(
    theirs: Mapping[str, Array], pack: Pack, layout: str, right: _Right, first: Match | None = None
) -> Match | None:
    """Of the matches by shape in several orders, and the first, that with most right tensors."""
    best = first
    orders: list[Callable[[list[str]], Sequence[str]]] = [
        lambda names: names, lambda names: sorted(names, key=natural), lambda names: names[::-1]
    ]  # fmt: skip
    tried: list[list[str]] = []
    for order in orders:
        if best and right.of(best) >= set(best.arrays) - {"input"}:
            return best  # all that was found is right
        names = [*order(list(theirs))]
        if names in tried:
            continue
        tried.append(names)
        try:
            found = match(
                {name: theirs[name] for name in names}, pack.probes, pack.tensor,
                by="shape", layout=layout,
            )  # fmt: skip
        except ArgumentError:
            continue
        if best is None or len(right.of(found)) > len(right.of(best)):
            best = found
    return best


def _with_the_rest(theirs: Mapping[str, Array], found: Match, pack: Pack, right: _Right) -> Match:
    """Return the match by names, and what other arrays are: by shape, or where they are right."""
    lacking = [probe for probe in pack.probes if probe.name not in found.names]
    rest = {name: theirs[name] for name in found.unused}
    if not lacking or not rest:
        return found
    if any(pack.probe(name).block for name in found.names):
        return _with_right_ones(theirs, found, [p.name for p in lacking], pack, right)[0]
    try:
        more = match(rest, lacking, pack.tensor, by="shape", layout=found.layout)
    except ArgumentError:
        return found
    return Match(
        found.how, found.layout, {**found.names, **more.names},
        {p.name: {**found.arrays, **more.arrays}[p.name] for p in pack.probes
         if p.name in found.arrays or p.name in more.arrays},
        more.unused,
    )  # fmt: skip


def _with_right_ones(
    theirs: Mapping[str, Array], found: Match, wanted: Sequence[str], pack: Pack, right: _Right
) -> tuple[Match, dict[str, str]]:
    """Return the match with arrays that are right for the wanted tensors of ours, and those."""
    taken = {found.names[name] for name in right.of(found)}
    moved: dict[str, str] = {}
    for name in wanted:
        for other in right.near(name):
            if other in taken:
                continue
            trial = held(found, other, theirs[other], pack.probe(name))
            if right(trial, name):
                moved[name], found = other, trial
                taken.add(other)
                break
    for name in [n for n, other in found.names.items() if n not in moved and other in taken]:
        if name not in right.of(found) and found.names[name] in moved.values():
            found = _left_out(found, name)  # its array is another tensor
    order = [probe.name for probe in pack.probes if probe.name in found.arrays]
    unused = tuple(name for name in theirs if name not in found.names.values())
    arrays = {name: found.arrays[name] for name in order}
    return replace(found, arrays=arrays, unused=unused), moved


def _left_out(found: Match, name: str) -> Match:
    names = {n: other for n, other in found.names.items() if n != name}
    return replace(found, names=names, arrays={n: found.arrays[n] for n in names})


def _moved(
    theirs: Mapping[str, Array], found: Match, pack: Pack, right: _Right
) -> tuple[Match, list[str]]:
    """Return the match in which arrays that are right elsewhere stand there, and what to say
    of it.
    """
    good = right.of(found)
    wanted = [probe.name for probe in pack.probes[1:] if probe.name not in good]
    found, moved = _with_right_ones(theirs, found, wanted, pack, right)
    wrong = set(found.arrays) - right.of(found) - {"input"}
    if found.how != "name" and not moved:
        places = {name: place for place, name in enumerate(theirs)}
        row = [places[found.names[p.name]] for p in pack.probes if p.name in found.names]
        moved = {} if row == sorted(row) else dict(found.names)
    if found.how == "name" or not moved:
        unsure = wrong and found.how == "order"
        note = (
            "no names are known: their arrays were taken to be in the order of execution; if they "
            "are not, say which is which (--map, by=)"
        )
        return found, [note] * bool(unsure)
    which = [f"{ours} is {shown(name)}" for ours, name in list(moved.items())[:5]]
    listed = ", ".join(which) + (", …" if len(moved) > 5 else "")
    if wrong:
        return found, [
            f"their arrays are not in the order of execution: by its numbers {listed}; say which "
            "is which (--map, by=)"
        ]
    return found, [f"their arrays are not in the order of execution; by its numbers {listed}"]
