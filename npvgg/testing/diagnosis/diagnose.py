"""Which mistake did they make? Replay a layer with every mistake that people make, and look.

A mistake is named where its replay reproduces their numbers:

    max |theirs − y|  ≤  32 · max(e, u · max |y|)  [+ the chain bound, without their inputs]
    rms(theirs − y)   ≤  ¼ · rms(theirs − truth),   and  ≤ 4 · the best mistake's

y is the replay in float64; e = max |y − its replay in float32|, what rounding does to it in one
implementation; u = 2⁻²⁴. The first line says that rounding explains what is left (32 times one
implementation's; of A0, a plain loop was seen with 5 times the largest error of a blocked product,
and Winograd with 3). The second says that the mistake explains what is wrong, and the third drops
what is only near. Mistakes that make the same numbers on this layer are all named. (Of those that
round to few bits the first is not asked: noise decides between neighbours there.)

Numbers that are all zero, or none of them finite, are explained by nothing, and a replay without
any finite number explains nothing: NaN may become anything, and anything NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.ops import Array
from npvgg.rounding import U
from npvgg.testing.diagnosis.hypotheses import (
    Hypothesis,
    Way,
    hypotheses,
    untried,
    way_to,
)
from npvgg.testing.diagnosis.mistake import Mistake
from npvgg.testing.diagnosis.mistaken_numbers import to_bfloat16, to_float16
from npvgg.testing.packs.pack import Pack
from npvgg.testing.trace import Probe

NOISE = 32
"""How many times one implementation's rounding another's may be; see above."""

EXPLAINED = 4
"""A mistake must make the error so many times smaller."""

UNKNOWN = "unknown"
"""The name of the finding that says that there is none."""


@dataclass(frozen=True)
class Finding:
    """What somebody did.

    mistake: its name in the catalogue, or "unknown"
    sentence: what was done
    error: the largest difference that is left between their numbers and the replay's
    advice: how to mend it
    """

    mistake: str
    sentence: str
    error: float
    advice: str


@dataclass(frozen=True)
class Verdict:
    """How near a mistake's replay comes to their numbers.

    It forgets the hypothesis, which holds wrong weights, and there are hundreds.
    """

    mistake: Mistake[Any]
    detail: str
    largest: float
    rms: float
    reproduced: bool


def diagnose(
    pack: Pack, name: str, theirs: Mapping[str, Array], *, alone: bool = False
) -> list[Finding]:
    """Say which mistakes reproduce their tensor of this name; the best first.

    theirs: name → array, NCHW. The tensor's inputs are taken from there too where they are present
    and right, else from the pack.
    alone: the tensor was computed from the pack's own tensors: its bound is the sharper, local one

    → nothing where the tensor is within its bound; one finding "unknown" where no mistake fits.
    Raises ArgumentError for a name that the pack or theirs does not have.
    """
    probe = pack.probe(name)
    if name not in theirs:
        raise ArgumentError(f"theirs: expected {name!r} among them, got {', '.join(theirs)}")
    got = np.asarray(theirs[name], np.float64)
    if pack.accepts(name, got, alone=alone):
        return []
    exact = {p.name: pack.tensor(p.name) for p in pack.probes if p.name != name}
    way = way_to(pack, probe, exact if alone else theirs)
    truth = pack.tensor(name).astype(np.float64)
    wrong = distance(got, truth)[1] if got.shape == truth.shape else np.inf
    verdicts = [
        verdict
        for hypothesis in hypotheses(pack, probe, way)
        if (verdict := judge(hypothesis, got, wrong, way.slack)) is not None
    ]
    return (
        explained(verdicts, got)
        or short_of_bits(got, truth)
        or [unknown(verdicts, got, pack, probe, way)]
    )


# --- How near it comes ----------------------------------------------------------------------------


def judge(hypothesis: Hypothesis, got: Array, wrong: float, slack: float) -> Verdict | None:
    """Run a hypothesis, in float32 first; None where it cannot be run or gives another shape."""
    with np.errstate(all="ignore"):
        try:
            fast = hypothesis.run(np.float32)
        except ArgumentError:
            return None
        if fast.shape != got.shape:
            return None
        if mute(got) or not np.isfinite(fast).any():
            return None
        largest, rms = distance(got, fast)
        scale = magnitude(fast)
        if not (rms <= 2 * wrong / EXPLAINED and largest <= 0.1 * scale):
            return Verdict(hypothesis.mistake, hypothesis.detail, largest, rms, reproduced=False)
        exact = hypothesis.run(np.float64)
        noise = distance(fast, exact)[0]
        largest, rms = distance(got, exact)
    tolerance = NOISE * max(noise, U * scale) + slack
    near = largest <= tolerance or (hypothesis.mistake.rounds and np.isfinite(wrong))
    good = near and rms <= wrong / EXPLAINED
    return Verdict(hypothesis.mistake, hypothesis.detail, largest, rms, good)


def mute(got: Array) -> bool:
    """Whether their numbers say nothing: all are zero, or none is finite."""
    return not (np.isfinite(got) & (got != 0)).any()


def distance(got: Array, y: Array) -> tuple[float, float]:
    """The largest and the root mean square difference.

    Where a mistake makes y infinite or not a number, theirs must be that, too, or zero (a ReLU that
    is a comparison makes zeros of NaNs).
    """
    wild = ~np.isfinite(y)
    if wild.any():
        lost = ~np.isfinite(got) | (got == 0)
        if not lost[wild].all():
            return np.inf, np.inf
        got, y = np.where(wild, 0, got), np.where(wild, 0, y)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(got - y)
        rms = np.sqrt((error * error).mean())
    return (float(error.max()), float(rms)) if np.isfinite(rms) else (np.inf, np.inf)


def magnitude(y: Array) -> float:
    """The largest finite magnitude."""
    return float(np.abs(np.where(np.isfinite(y), y, 0)).max())


def explained(verdicts: list[Verdict], got: Array) -> list[Finding]:
    """The mistakes that reproduce their numbers, the best first."""
    good = sorted((v for v in verdicts if v.reproduced), key=lambda v: v.rms)
    limit = EXPLAINED * max(good[0].rms, U * magnitude(got) / 2) if good else 0.0
    by_mistake: dict[str, list[Verdict]] = {}
    for verdict in good:
        if verdict.rms <= limit:
            by_mistake.setdefault(verdict.mistake.name, []).append(verdict)
    return [finding(same_mistake) for same_mistake in by_mistake.values()]


def finding(verdicts: list[Verdict]) -> Finding:
    """One mistake, with all its variants that reproduce the numbers."""
    mistake = verdicts[0].mistake
    details = list(dict.fromkeys(v.detail for v in verdicts))
    without = [detail for detail in details if detail.startswith("missing in ")]
    details = without or details  # an eps so small that the numbers can't tell it from none
    sentence = mistake.sentence(", or ".join(details))
    return Finding(mistake.name, sentence, verdicts[0].largest, mistake.advice)


def short_of_bits(got: Array, truth: Array) -> list[Finding]:
    """Sums in a short type can't be replayed, for they depend on the order; but they leave a trace:
    every number is one of that type, and all are near the truth, as rounding is:

        rms(theirs − truth)  ≤  √1000 · u · rms(truth)        u: 2⁻⁸ bfloat16, 2⁻¹¹ float16

    Whole numbers are of every type, and leave none.
    """
    if got.shape != truth.shape or (np.rint(got) == got).all():
        return []
    largest, rms = distance(got, truth)
    scale = float(np.sqrt((truth * truth).mean()))
    for name, short, bits in (("bfloat16", to_bfloat16, 8), ("float16", to_float16, 11)):
        with np.errstate(invalid="ignore"):
            all_short = bool((short(got) == got).all())
        if all_short and rms <= 1000**0.5 * 2.0**-bits * scale:
            sentence = f"every number is a {name}, and near the truth: sums are kept in {name}"
            return [Finding("short-accumulator", sentence, largest, "accumulate in float32")]
    return []


def unknown(verdicts: list[Verdict], got: Array, pack: Pack, probe: Probe, way: Way) -> Finding:
    """No mistake of the catalogue explains the numbers; or the likely ones were not tried."""
    error = min((v.largest for v in verdicts), default=np.inf)
    if mute(got):
        sentence, advice = NOTHING if np.isfinite(got).all() else NOT_FINITE
        return Finding(UNKNOWN, sentence, error, advice)
    if blocks := untried(pack, probe, way):
        sentence = (
            f"no known mistake in one step reproduces these numbers; mistakes in all {len(blocks)} "
            f"blocks from {blocks[0]} to {blocks[-1]} were not tried: it would take too long"
        )
        advice = (
            "give the outputs of blocks in between: the first wrong one is replayed alone; or take "
            "a pack of smaller images (`npvgg conformance --size`)"
        )
        return Finding(UNKNOWN, sentence, error, advice)
    sentence = "no known mistake reproduces these numbers"
    return Finding(UNKNOWN, sentence, error, next_step(got, pack, probe, way))


def next_step(got: Array, pack: Pack, probe: Probe, way: Way) -> str:
    """What helps to find an unknown mistake, which depends on what is known."""
    if got.shape != probe.shape:
        return "mend the shape first: see stride, padding and the layout of the maps"
    if probe.op == "input":
        if "transform" in pack.manifest.get("input", {}):
            return (
                'see "input" in the pack\'s manifest for how the photo was opened and preprocessed'
            )
        return "take the pack's own tensor: this input was not made of a photo"
    if way.lacking:
        return f"give what it is computed from, too: {', '.join(way.lacking)}"
    if pack.manifest["level"] != "op" and probe.block:
        finer = "op" if pack.manifest["level"] == "branch" else "branch, or op"
        return (
            "give more tensors of this block, and compare with a pack that has them, made by "
            f"`npvgg conformance --level {finer}`"
        )
    return "compute one wrong number by hand, by its equation: its inputs are right"


NOTHING = (
    "every number is 0, which no known mistake makes",
    "look for a buffer that was never written, or is read before it is, and for weights of zeros",
)
NOT_FINITE = (
    "no number is finite, and no known mistake makes them so",
    "look for NaN in the weights and in memory that was never written, for the root of a negative "
    "variance, and for a type that overflows",
)
"""What to say of numbers that say nothing, and what to do."""
