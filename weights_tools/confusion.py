"""Plant every mistake in a port, at every level, and see what the cross-check kit calls it.

    PYTHONPATH=. python weights_tools/confusion.py

It writes weights_tools/confusion.md: rows of planted mistakes, and for each level how often they
were named; every entry off the diagonal; mistakes that are not in the catalogue, which must end in
"unknown" with their place; and honest arithmetic, which must be called right. Exit status 1 if a
mistake was called another that makes other numbers, or something right was called wrong.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npvgg.config import expand
from npvgg.testing import Pack, compare, conformance_pack
from npvgg.testing.diagnosis.diagnose import UNKNOWN
from npvgg.testing.tiny import TINY
from npvgg.testing.trace import operations, run
from npvgg.weights.build import flatten
from tests import test_kit_bounds as arithmetic
from tests.oracles import plants, porter

LEVELS = ("block", "op", "logits")
"""The pack's level, with all tensors that the port has; or its logits alone, the mistake in every
block."""

F = np.float32

PARTS = {
    "same-padding-and-eps": frozenset({"same-padding", "batch-norm-eps"}),
    "pointwise-in-the-corner-and-eps": frozenset({"pointwise-off-centre", "batch-norm-eps"}),
}
"""Pairs of mistakes, of which the first wrong tensor of level op shows one."""


class Outcome(NamedTuple):
    """What a planted mistake was called: by whom it was planted, where, and the names."""

    planted: str
    place: str
    level: str
    named: frozenset[str]
    first: str
    also: frozenset[str]

    @property
    def kind(self) -> str:
        """One word for it."""
        if not self.first:
            return "hidden"
        if self.named == {UNKNOWN}:
            return "unknown"
        if self.named <= PARTS.get(self.planted, frozenset()):
            return "named"
        if self.planted not in self.named:
            return "another"
        return "named" if self.named <= {self.planted} | self.also else "among others"


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
    if level == "logits":
        kind = type("Planted", (plant.form,), plant.hooks)
        try:
            theirs = porter.run(tensors(plant.network), places, x, form=kind)
        except (KeyError, ValueError, IndexError):  # it cannot be made in every block
            theirs = {}
        theirs = {name: theirs[name] for name in ("logits",) if name in theirs}
        if not theirs:
            return Outcome(plant.mistake, str(plant), level, frozenset(), "", frozenset())
    else:
        theirs = porter.run(
            tensors(plant.network), places, x, wrong=plant.block, hooks=plant.hooks, form=plant.form
        )
    report = compare(theirs, one, by="name")
    first = report.first_wrong
    named = frozenset(found.mistake for found in report.mistakes)
    place = first.name if first else ""
    return Outcome(plant.mistake, str(plant), level, named, place, frozenset(plant.also))


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


def first(count: int) -> Iterator[int]:
    """Return the numbers of the first plants of each mistake, so many of each."""
    seen: Counter[str] = Counter()
    for number, plant in enumerate(plants.PLANTS):
        seen[plant.mistake] += 1
        if seen[plant.mistake] <= count:
            yield number


def planted(number: int) -> list[Outcome]:
    """Return what the plant of this number is called at every level."""
    return [outcome(plants.PLANTS[number], level) for level in LEVELS]


def stranger(number: int) -> list[Outcome]:
    """Return the same of a foreign mistake."""
    return [outcome([*foreign()][number], level) for level in ("block", "op")]


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


def table(rows: list[Outcome]) -> Iterator[str]:
    """Return a row per planted mistake, a column per level: how often it was named, of how many."""
    yield "| planted | " + " | ".join(LEVELS) + " |"
    yield "|---|" + "---|" * len(LEVELS)
    by_mistake: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        by_mistake[row.planted][row.level][row.kind] += 1
    for mistake, levels in sorted(by_mistake.items()):
        cells = []
        for level in LEVELS:
            counts = levels[level]
            seen = sum(counts.values()) - counts["hidden"]
            text = f"{counts['named'] + counts['among others']} of {seen}" if seen else "–"
            extra = [f"{counts[kind]} {kind}" for kind in ("unknown", "another") if counts[kind]]
            cells.append(", ".join([text, *extra]))
        yield f"| {mistake} | " + " | ".join(cells) + " |"


def listed(rows: list[Outcome], kind: str) -> Iterator[str]:
    """Every outcome of a kind, a line each."""
    found = [row for row in rows if row.kind == kind]
    for row in found:
        names = ", ".join(sorted(row.named - {row.planted}))
        yield f"- {row.place}, {row.level}: {names}" + (f" (at {row.first})" if names else "")
    if not found:
        yield "- none"


def main(arguments: list[str] | None = None) -> int:
    """Make the report; 1 if something was called what it is not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=int, default=99, metavar="N", help="so many plants of each")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--output", type=Path, default=Path("weights_tools/confusion.md"))
    args = parser.parse_args(arguments)
    start = time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:
        known = [*first(args.each)]
        rows = [row for found in pool.map(planted, known) for row in found]
        unknown = range(len([*foreign()]))
        strangers = [row for found in pool.map(stranger, unknown) for row in found]
        right = [one for found in pool.map(honest, TINY) for one in found]
    kinds = Counter(row.kind for row in rows)
    wrong = [row for row in strangers if row.first and row.named != {UNKNOWN}]
    away = [row for row in strangers if row.first and row.level != "logits"
            and not row.first.startswith(row.place.split("-")[-2])]  # fmt: skip
    accused = [one for one in right if not one[2]]
    worst: dict[str, float] = {}
    for name, _, _, share in right:
        worst[name] = max(worst.get(name, 0.0), share)
    seen = sum(kinds.values()) - kinds["hidden"]
    text = "\n".join([
        "# What the cross-check kit calls planted mistakes", "",
        "Made by `weights_tools/confusion.py` on the tiny packs. `block`, `op`: the "
        "mistake stands in one block, and the port gives every tensor of that level. `logits`: it "
        "stands in every block, and the port gives the logits alone. “n of m”: named n times, of m "
        "in which it shows at all. In brackets behind a place the first wrong tensor.", "",
        f"At most {args.each} plants of each mistake. "
        f"{seen:,} planted mistakes show: {kinds['named']:,} are named alone, "
        f"{kinds['among others']:,} together with others that make the same numbers there, "
        f"{kinds['unknown']:,} are “unknown”, {kinds['another']:,} are called another. "
        f"{kinds['hidden']:,} do not show: the numbers are within the bounds of right ones.", "",
        *table(rows), "",
        "## Called another", "", *listed(rows, "another"), "",
        "## Named together with others", "", *listed(rows, "among others"), "",
        "## Unknown", "", *listed(rows, "unknown"), "",
        "## Not seen", "", *listed(rows, "hidden"), "",
        "## Mistakes that are not in the catalogue", "",
        f"{len(FOREIGN)} kinds in {len(PLACES)} blocks, at the levels block and op: "
        f"{sum(1 for row in strangers if row.first):,} show, {len(wrong)} are given a name of the "
        f"catalogue, {len(away)} a wrong place.", "",
        *(f"- {row.place}, {row.level}: {', '.join(sorted(row.named))} (at {row.first})"
          for row in [*wrong, *away]), "",
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
