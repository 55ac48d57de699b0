"""Plant every mistake in a port, at every level, and see what the cross-check kit calls it.

    PYTHONPATH=. python weights_tools/confusion.py

It writes weights_tools/confusion.md: for each level a table of planted mistakes by packs, how often
they were named; every entry off the diagonal; why the unknown ones are; mistakes that are not in
the catalogue, which must end in "unknown" with their place; and honest arithmetic, which must be
called right. Exit status 1 if a mistake was called another that makes other numbers, or something
right was called wrong. It takes some ten minutes of one core.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npvgg.config import expand
from npvgg.testing import Pack, compare, conformance_pack
from npvgg.testing.diagnosis.diagnose import COINCIDENCE, UNKNOWN, Wrong, judged
from npvgg.testing.diagnosis.hypotheses import hypotheses, way_to
from npvgg.testing.tiny import TINY
from npvgg.testing.trace import operations, run
from npvgg.weights.build import flatten
from tests import test_kit_bounds as arithmetic
from tests.oracles import plants, porter

LEVELS = ("block", "branch", "op", "logits")
"""The pack's level, with all tensors that the port has; or its logits alone, the mistake in every
block."""

F = np.float32

PARTS = {
    "same-padding-and-eps": frozenset({"same-padding", "batch-norm-eps"}),
    "pointwise-in-the-corner-and-eps": frozenset({"pointwise-off-centre", "batch-norm-eps"}),
}
"""Pairs of mistakes, of which the first wrong tensor of level op shows one."""


class Outcome(NamedTuple):
    """What a planted mistake was called: where it was planted, the names, and where it was seen.

    why: of an unknown one, why; of one that could not be planted, that it could not
    """

    planted: str
    network: str
    place: str
    level: str
    named: frozenset[str]
    first: str
    also: frozenset[str]
    why: str = ""

    @property
    def kind(self) -> str:
        """One word for it."""
        if not self.first:
            return "not made" if self.why else "hidden"
        if self.named == {UNKNOWN}:
            return "unknown"
        if self.named <= PARTS.get(self.planted, frozenset()):
            return "named"
        if self.planted not in self.named:
            return "another"
        return "named" if self.named <= {self.planted} | self.also else "among others"

    @property
    def others(self) -> tuple[str, ...]:
        """The names that are not its own."""
        return tuple(sorted(self.named - {self.planted}))


@cache
def pack(network: str, level: str, form: str) -> Pack:
    """Return a tiny pack with its own seed."""
    return conformance_pack(network, level=level, form=form)


@cache
def tensors(network: str) -> dict[str, np.ndarray]:
    """Train-form weights of a tiny pack, float32."""
    arrays = flatten(pack(network, "block", "train").network("train"))
    return {name: array.astype(F) for name, array in arrays.items()}


def outcome(plant: plants.Plant, level: str) -> Outcome:
    """Plant a mistake, compare, and note what is said of the first wrong tensor."""
    deploy = plant.form is porter.Folded and level != "logits"
    one = pack(plant.network, "block" if level == "logits" else level,
               "deploy" if deploy else "train")  # fmt: skip
    places, x = expand(one.config), one.tensor("input")
    said = Outcome(plant.mistake, plant.network, place_of(plant), level, frozenset(), "",
                   frozenset(plant.also))  # fmt: skip
    if level == "logits":
        kind = type("Planted", (plant.form,), plant.hooks)
        try:
            theirs = porter.run(tensors(plant.network), places, x, form=kind)
        except (KeyError, ValueError, IndexError):
            theirs = {}
        theirs = {name: theirs[name] for name in ("logits",) if name in theirs}
        if not theirs:
            return said._replace(why="it cannot be made in every block")
    else:
        theirs = porter.run(
            tensors(plant.network), places, x, wrong=plant.block, hooks=plant.hooks, form=plant.form
        )
    report = compare(theirs, one, by="name")
    if report.first_wrong is None:
        return said
    named = frozenset(found.mistake for found in report.mistakes)
    said = said._replace(named=named, first=report.first_wrong.name)
    if said.kind == "unknown":
        return said._replace(why=why_unknown(one, said.first, theirs, plant.mistake))
    return said


def place_of(plant: plants.Plant) -> str:
    """Say where it is planted, and whether in a folded block."""
    return plant.block + ", folded" * (plant.form is porter.Folded)


def why_unknown(one: Pack, name: str, theirs: dict[str, np.ndarray], mistake: str) -> str:
    """Why a planted mistake is not named: the numbers are too few, or no variant makes them."""
    probe, got = one.probe(name), np.asarray(theirs[name], np.float64)
    if not np.isfinite(got).any():
        return "no number is finite"
    way = way_to(one, probe, theirs)
    wrong = Wrong(got, one.tensor(name).astype(np.float64))
    verdicts, _ = judged(hypotheses(one, probe, way), wrong, way.slack)
    own = [v for v in verdicts if v.mistake.name == mistake and v.reproduced]
    if not own and name != "logits":
        return "a tensor inside of the block that no variant makes so, where its output would tell"
    if not own:
        return "no variant of the catalogue is made in the same way in every block"
    chance = min(wrong.chance(v.rms, len(verdicts)) for v in own)
    if chance <= COINCIDENCE:
        return "another comes nearer"
    return f"{wrong.evidence} numbers: a coincidence has a chance of {chance:.1g}"


# --- Mistakes that are not in the catalogue -------------------------------------------------------


def normed(change: Callable[..., Any]) -> dict[str, Any]:
    """Return a batch norm whose four vectors are changed."""
    return {"norm": lambda port, branch, y: porter.norm(y, *change(*port.numbers(branch)))}


def kernel(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """3×3 kernels that are changed."""
    return {"kernel": plants.kernels(change)}


def _noise(w: np.ndarray, size: float) -> np.ndarray:
    return w * (1 + size * np.random.default_rng(1).standard_normal(w.shape)).astype(F)


def _swapped(w: np.ndarray) -> np.ndarray:
    w = w.copy()
    w[[1, 2]] = w[[2, 1]]
    return w


def _some_zero(w: np.ndarray) -> np.ndarray:
    w = w.copy()
    w[3, :, 0] = 0
    return w


def _blurred(y: np.ndarray) -> np.ndarray:
    wide = np.pad(y, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="edge")
    return (wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]) / F(4)


FOREIGN: dict[str, dict[str, Any]] = {
    "eps of 7e-4": {"norm": plants.eps(7e-4)},
    "gamma off by 0.05 %": normed(lambda g, b, m, v: (g * F(1.0005), b, m, v)),
    "variance off by 3 %": normed(lambda g, b, m, v: (g, b, m, v * F(1.03))),
    "second moment for variance": normed(lambda g, b, m, v: (g, b, m, v + m * m)),
    "noise of 0.1 % on the kernels": kernel(lambda w: _noise(w, 1e-3)),
    "noise of 10 % on the kernels": kernel(lambda w: _noise(w, 0.1)),
    "kernel rolled by a row": kernel(lambda w: np.roll(w, 1, axis=2)),
    "two output channels exchanged": kernel(_swapped),
    "a row of one kernel zero": kernel(_some_zero),
    "kernel clipped": kernel(lambda w: np.clip(w, -abs(w).max() / 2, abs(w).max() / 2)),
    "input channels rolled": kernel(lambda w: np.roll(w, 1, axis=1)),
    "ReLU up to 4": {"act": lambda port, y: np.clip(y, 0, F(4))},
    "softplus": {"act": lambda port, y: np.log1p(np.exp(y))},
    "threshold at 0.1": {"act": lambda port, y: np.where(y > F(0.1), y, F(0))},
    "square added": {"write": lambda port, y: y + F(0.01) * y * y},
    "map blurred": {"write": lambda port, y: _blurred(y)},
    "map shifted by a pixel": {"write": lambda port, y: np.roll(y, 1, axis=3)},
    "one image number lost": {"write": lambda port, y: np.where(
        np.arange(y.size).reshape(y.shape) % 7 == 3, F(0), y)},
    "branches weighted by 1 : 2": {"join": lambda port, ys: sum(ys.values()) + ys["conv_1x1"]
                                   * F(0.5) + ys["conv_kxk"] * F(0.25)},
}  # fmt: skip
PLACES = ("tiny stages.0.1", "tiny_g2 stages.1.1", "tiny_dilated stages.2.1")


def foreign() -> Iterator[plants.Plant]:
    """Each foreign mistake in some blocks."""
    for name, hooks in FOREIGN.items():
        for place in PLACES:
            yield plants.Plant(name, *place.split(), hooks)


@cache
def planted() -> tuple[tuple[plants.Plant, str], ...]:
    """Return every plant at every level that it is to be made at.

    Those of `tiny_se` are made in `tiny_plus` as well, whose blocks are as large, where the order
    of attention and activation has no part in them. In all blocks at once each is made once.
    """
    known = list(plants.PLANTS)
    for plant in plants.PLANTS:
        ordered = plant.mistake in ("attention-on-the-wrong-side", "attention-missing")
        if plant.network == "tiny_se" and "finish" not in plant.hooks and not ordered:
            known.append(replace(plant, network="tiny_plus"))
    found, seen = [], set()
    for plant in known:
        everywhere = (plant.network, plant.mistake, id(plant.hooks), plant.form)
        levels = LEVELS[: 3 + (everywhere not in seen)]
        seen.add(everywhere)
        found += [(plant, level) for level in levels]
    return tuple(found)


def grown(number: int) -> Outcome:
    """Return what the plant of this number is called."""
    return outcome(*planted()[number])


def stranger(number: int) -> list[Outcome]:
    """Return the same of a foreign mistake."""
    return [outcome([*foreign()][number], level) for level in LEVELS[:3]]


# --- Honest arithmetic ----------------------------------------------------------------------------


class FastRoots(arithmetic.InOrder):
    """The batch norm by a reciprocal root of 12 bits, and one step of Newton's method."""

    @staticmethod
    def batch_norm(x, mean, var, gamma, beta, eps):  # type: ignore[no-untyped-def]
        v = var + x.dtype.type(eps)
        r = plants.cut_13_bits(1 / np.sqrt(v)).astype(x.dtype)
        for _ in range(2):
            r = r * (x.dtype.type(1.5) - x.dtype.type(0.5) * v * r * r)
        t = (gamma * r)[:, None, None]
        return x * t + (beta[:, None, None] - mean[:, None, None] * t)


class NegativeZeros(arithmetic.InOrder):
    """Zeros behind a ReLU are −0.0."""

    @staticmethod
    def activation(name):  # type: ignore[no-untyped-def]
        act = arithmetic.ops.activation(name)
        return lambda x: np.where(act(x) == 0, x.dtype.type(-0.0), act(x))


HONEST = {
    "BLAS": None,
    "in order": arithmetic.InOrder,
    "backwards": arithmetic.Backwards,
    "subnormal numbers flushed": arithmetic.FlushToZero,
    "fast reciprocal roots": FastRoots,
    "zeros of the other sign": NegativeZeros,
    **{f"Winograd F({m})": arithmetic.Tiled(m) for m in range(2, 7)},
}


def honest(network: str) -> list[tuple[str, str, bool, float]]:
    """(arithmetic, pack, whether it is called right, the largest share of a bound)."""
    found = []
    for form in ("train", "deploy"):
        one = pack(network, "op", form)
        for name, maths in {**HONEST, "float64": None}.items():
            dtype = np.float64 if name == "float64" else F
            spelled = operations(one.network().astype(dtype))
            x = one.tensor("input").astype(dtype)
            with np.errstate(under="ignore"):
                theirs = {o.name: y for o, y in run(spelled, x, *((maths,) * bool(maths)))}
            report = compare(theirs, one)
            largest = max(row.measured.share for row in report.rows if row.measured)
            found.append((name, f"{network}, {form}", report.ok, largest))
    return found


# --- The report -----------------------------------------------------------------------------------


def table(rows: list[Outcome], level: str) -> Iterator[str]:
    """Return a row per planted mistake, a column per pack: how often it was named, of how many."""
    yield "| planted | " + " | ".join(TINY) + " |"
    yield "|---|" + "---|" * len(TINY)
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        if row.level == level:
            counts[row.planted][row.network][row.kind] += 1
    for mistake, packs in sorted(counts.items()):
        cells = []
        for network in TINY:
            kinds = packs[network]
            seen = sum(kinds[kind] for kind in SEEN)
            text = f"{kinds['named'] + kinds['among others']} of {seen}" if seen else "–"
            extra = [f"{kinds[kind]} {kind}" for kind in SEEN[2:] if kinds[kind]]
            cells.append(", ".join([text, *extra]))
        if any(cell != "–" for cell in cells):
            yield f"| {mistake} | " + " | ".join(cells) + " |"


SEEN = ("named", "among others", "unknown", "another")
"""What becomes of mistakes that show."""


def off_the_diagonal(rows: list[Outcome], kind: str) -> Iterator[str]:
    """Return the entries off the diagonal of this kind: planted, named, where, and how often."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for row in rows:
        if row.kind == kind:
            counts[row.planted, ", ".join(row.others), row.level, row.network] += 1
    yield "| planted | named as well | level | pack | times |"
    yield "|---|---|---|---|---|"
    for entry, count in sorted(counts.items()):
        yield f"| {' | '.join(entry)} | {count} |"
    if not counts:
        yield "| none | | | | |"


def reasons(rows: list[Outcome], kind: str) -> Iterator[str]:
    """Return the outcomes of a kind with their places, gathered by the reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.kind == kind:
            why = row.why or "the numbers are within the bounds of right ones"
            where = f"{row.planted} ({row.network} {row.place}, {row.level})"
            by_reason[why].append(where)
    for why, places in sorted(by_reason.items()):
        yield f"- {why}: {'; '.join(dict.fromkeys(places))}"
    if not by_reason:
        yield "- none"


def main(arguments: list[str] | None = None) -> int:
    """Make the report; 1 if something was called what it is not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th plant")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--output", type=Path, default=Path("weights_tools/confusion.md"))
    args = parser.parse_args(arguments)
    start = time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:
        known = range(0, len(planted()), args.every)
        rows = [*pool.map(grown, known, chunksize=8)]
        unknown = range(len([*foreign()]))
        strangers = [row for found in pool.map(stranger, unknown) for row in found]
        right = [one for found in pool.map(honest, TINY) for one in found]
    kinds = Counter(row.kind for row in rows)
    wrong = [row for row in strangers if row.first and row.named != {UNKNOWN}]
    away = [row for row in strangers
            if row.first and row.first.split(".conv_")[0] != row.place
            and not row.first.startswith(f"{row.place}.")]  # fmt: skip
    accused = [one for one in right if not one[2]]
    worst: dict[str, float] = {}
    for name, _, _, share in right:
        worst[name] = max(worst.get(name, 0.0), share)
    seen = sum(kinds[kind] for kind in SEEN)
    listed = sum(1 for row in rows if row.kind == "named" and row.others)
    tables = [line for level in LEVELS for line in (f"### {level}", "", *table(rows, level), "")]
    text = "\n".join([
        "# What the cross-check kit calls planted mistakes", "",
        "Made by `weights_tools/confusion.py` on the tiny packs. `block`, `branch`, `op`: the "
        "mistake stands in one block, and the port gives every tensor of that level. `logits`: it "
        "stands in every block, and the port gives the logits alone, five numbers.", "",
        f"{seen:,} planted mistakes of {len({row.planted for row in rows})} kinds show: "
        f"{kinds['named']:,} are named alone (of them {listed:,} with an equivalent that the plant "
        f"lists, or as one half of a pair), {kinds['among others']:,} together with others that "
        f"make the same numbers there, {kinds['unknown']:,} are “unknown”, {kinds['another']:,} "
        f"are called another. {kinds['hidden']:,} do not show: the numbers are within the bounds "
        f"of right ones. {kinds['not made']:,} cannot be made in every block at once.", "",
        "## Planted, by pack and level", "",
        "“n of m”: named n times, of m in which it shows.", "", *tables,
        "## Called another", "", *off_the_diagonal(rows, "another"), "",
        "## Named together with others", "", *off_the_diagonal(rows, "among others"), "",
        "## Unknown, and why", "",
        "A mistake is named if a coincidence has a chance below "
        f"{COINCIDENCE:g}; five numbers prove little. And who makes a mistake in every block, but "
        "in one branch alone, or in the way of a strided block in the others too, makes none that "
        "the catalogue tries in all blocks: it would be found by the outputs of the blocks.", "",
        *reasons(rows, "unknown"), "",
        "## Not seen", "", *reasons(rows, "hidden"), "", *reasons(rows, "not made"), "",
        "## Mistakes that are not in the catalogue", "",
        f"{len(FOREIGN)} kinds in {len(PLACES)} blocks, at the levels block, branch and op: "
        f"{sum(1 for row in strangers if row.first):,} show, {len(wrong)} are given a name of the "
        f"catalogue, {len(away)} a wrong place.", "",
        *(f"- {row.planted}, {row.network} {row.place}, {row.level}: "
          f"{', '.join(sorted(row.named))} (at {row.first})" for row in [*wrong, *away]), "",
        "## Honest arithmetic", "",
        f"{len(right):,} runs, {len(accused)} called wrong. The largest share of a bound:", "",
        *(f"- {name}: {share:.3g}" for name, share in worst.items()),
        *(f"- called wrong: {name}, {where}" for name, where, _, _ in accused), "",
    ])  # fmt: skip
    args.output.write_text(text, encoding="utf-8")
    print(f"{time.monotonic() - start:.0f} s: {dict(kinds)}, {len(wrong)} foreign with a name")
    return 1 if accused or wrong or kinds["another"] else 0


if __name__ == "__main__":
    sys.exit(main())
