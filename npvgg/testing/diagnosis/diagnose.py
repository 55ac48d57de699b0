"""Which mistake did they make? Replay a layer with every mistake that people make, and look.

A mistake is named where its replay reproduces their numbers:

    max |theirs − y|  ≤  32 · max(e, u · max |y|)  [+ the chain bound, without their inputs]
    ρ = rms(theirs − y) / rms(theirs − truth)  ≤  ¼,   and  rms(theirs − y) ≤ 4 · the best mistake's
    tried · ½ · ρⁿ⁻¹  ≤  10⁻³

y is the replay in float64; e = max |y − its replay in float32|, what rounding does to it in one
implementation; u = 2⁻²⁴. The first line says that rounding explains what is left (32 times one
implementation's; of A0, a plain loop was seen with 5 times the largest error of a blocked product,
and Winograd with 3). The second says that the mistake explains what is wrong, and drops what is
only near. Mistakes that make the same numbers on this layer are all named.

The third counts coincidences. Of n wrong numbers the error is a direction in n dimensions; that of
an unrelated replay is within the angle arcsin ρ of it with a chance below ½ ρⁿ⁻¹ (the share of a
sphere that a cap of that angle has), and `tried` replays have as many chances. So five logits prove
a replay that leaves a thousandth of the error, and not one that leaves a fifth.

Of mistakes that round to few bits the first line is not asked, for noise decides between
neighbours there; in its place, what they leave when the best common scale is taken out (in a map of
each channel, and the best shift too) must be explained, to ρ ≤ ½: a rounding that only shrinks the
numbers looks like many other mistakes.

Where no mistake fits, and one explains all but a thousandth of the squared error, it is named as
the larger of two, and every mistake is tried on top of it. Numbers that are all zero, or none of
them finite, are explained by nothing, and a replay without any finite number explains nothing: NaN
may become anything, and anything NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.ops import Array
from npvgg.rounding import U
from npvgg.testing.diagnosis.fitted import Fitted, fitted
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

COINCIDENCE = 1e-3
"""The largest chance of a coincidence with which a mistake is named."""

ALONE = 1e-9
"""The largest chance with which a mistake is named that leaves something unexplained: numbers that
collapse, as logits do to their bias where all maps are nearly zero, come near each other."""

MOSTLY = 1e-3
"""The share of the squared error that the larger of two mistakes leaves, at most. Mistakes that are
not in the catalogue were seen to leave at least 0.08 with a wrong one of it."""

UNKNOWN = "unknown"
"""The name of the finding that says that there is none."""


@dataclass(frozen=True)
class Finding:
    """What somebody did.

    mistake: its name in the catalogue, or "unknown"
    sentence: what was done
    error: the largest difference that is left between their numbers and the replay's
    advice: how to mend it
    chance: how likely a mistake that was not made is named, at most
    """

    mistake: str
    sentence: str
    error: float
    advice: str
    chance: float = 1.0


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
    if not got.size:
        return [Finding(UNKNOWN, f"it has no numbers: its shape is {got.shape}", np.inf, EMPTY)]
    if np.asarray(theirs[name]).dtype == np.float16 and is_stored_short(pack, name, got):
        return [STORED_SHORT]
    exact = {p.name: pack.tensor(p.name) for p in pack.probes if p.name != name}
    way = way_to(pack, probe, exact if alone else theirs)
    truth = pack.tensor(name).astype(np.float64)
    wrong = Wrong(got, truth)
    verdicts, best = judged(hypotheses(pack, probe, way), wrong, way.slack)
    return (
        explained(verdicts, wrong, len(verdicts))
        or short_type(got, truth, probe)
        or by_fitting(fitted(pack, probe, way, got), wrong, way.slack, len(verdicts))
        or by_two(best, wrong, way.slack, len(verdicts))
        or [unknown(verdicts, got, pack, probe, way)]
    )


class Wrong:
    """Their numbers and the truth, and how far they are from each other.

    rms: the root mean square difference; of another shape, of their numbers themselves
    evidence: how many numbers differ
    """

    def __init__(self, got: Array, truth: Array) -> None:
        self.got, self.truth = got, truth if got.shape == truth.shape else None
        base = np.zeros_like(got) if self.truth is None else self.truth
        self.rms = distance(got, base)[1]
        self.evidence = int(np.count_nonzero(got != base))

    def chance(self, rms: float, tried: int, fitted: int = 0) -> float:
        """Return the chance that one of so many unrelated replays comes so near.

        fitted: how many of its numbers were chosen for it
        """
        ratio = rms / self.rms if np.isfinite(self.rms) and self.rms else 0.0
        return float(min(1.0, tried * 0.5 * ratio ** max(self.evidence - 1 - fitted, 0)))

    def noise(self, y: Array) -> float:
        """Return what a replay leaves of the error when the best scale and shift are taken out.

        Per channel of maps; a scale alone of vectors. → rms(theirs − y)' / rms(theirs − truth)'
        """
        if self.truth is None:
            return 0.0
        maps = y.ndim == 4
        shape = (1, y.shape[1], -1) if maps else (1, 1, -1)

        def rows(a: Array) -> Array:
            return np.moveaxis(a, 1, 0).reshape(shape[1], -1) if maps else a.reshape(1, -1)

        truth = rows(self.truth)
        kept = []
        for error in (self.got - y, self.got - self.truth):
            e, t = rows(np.where(np.isfinite(error), error, 0)), truth
            if maps:
                e, t = (a - a.mean(axis=1, keepdims=True) for a in (e, t))
            size = (t * t).sum(axis=1, keepdims=True)
            scale = (e * t).sum(axis=1, keepdims=True) / np.where(size > 0, size, 1)
            kept.append(float(np.sqrt(((e - scale * t) ** 2).mean())))
        return kept[0] / kept[1] if kept[1] else np.inf


# --- How near it comes ----------------------------------------------------------------------------


def judged(
    tried: Iterable[Hypothesis], wrong: Wrong, slack: float
) -> tuple[list[Verdict], tuple[Verdict, Hypothesis] | None]:
    """Return the verdicts on hypotheses that can be run and give the right shape; and the nearest
    that does not round, which alone is kept: each holds wrong weights, and there are hundreds.
    """
    verdicts: list[Verdict] = []
    best: tuple[Verdict, Hypothesis] | None = None
    for hypothesis in tried:
        verdict = judge(hypothesis, wrong, slack)
        if verdict is None:
            continue
        verdicts.append(verdict)
        if not verdict.mistake.rounds and (best is None or verdict.rms < best[0].rms):
            best = verdict, hypothesis
    return verdicts, best


def judge(hypothesis: Hypothesis, wrong: Wrong, slack: float) -> Verdict | None:
    """Run a hypothesis, in float32 first; None where it cannot be run or gives another shape."""
    got, mistake = wrong.got, hypothesis.mistake
    with np.errstate(all="ignore"):
        try:
            fast = hypothesis.run(np.float32)
        except ArgumentError:
            return None
        if fast.shape != got.shape or mute(got) or not np.isfinite(fast).any():
            return None
        largest, rms = distance(got, fast)
        scale = magnitude(fast)
        if not (rms <= 2 * wrong.rms / EXPLAINED and largest <= 0.1 * scale):
            return Verdict(mistake, hypothesis.detail, largest, rms, reproduced=False)
        exact = hypothesis.run(np.float64)
        noise = distance(fast, exact)[0]
        largest, rms = distance(got, exact)
    if mistake.rounds and np.isfinite(wrong.rms):
        near = wrong.noise(exact) <= 2 / EXPLAINED
    else:
        near = largest <= NOISE * max(noise, U * scale) + slack + hypothesis.slack
    good = near and rms <= wrong.rms / EXPLAINED
    return Verdict(mistake, hypothesis.detail, largest, rms, good)


def mute(got: Array) -> bool:
    """Whether their numbers say nothing: all are zero, or none is finite."""
    return not (np.isfinite(got) & (got != 0)).any()


def distance(got: Array, y: Array) -> tuple[float, float]:
    """Return the largest and the root mean square difference.

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
    """Return the largest finite magnitude."""
    return float(np.abs(np.where(np.isfinite(y), y, 0)).max())


def explained(verdicts: list[Verdict], wrong: Wrong, tried: int) -> list[Finding]:
    """Return the mistakes that reproduce their numbers, and not by chance; the best first."""
    good = sorted((v for v in verdicts if v.reproduced), key=lambda v: v.rms)
    limit = EXPLAINED * max(good[0].rms, U * magnitude(wrong.got) / 2) if good else 0.0
    by_mistake: dict[str, list[Verdict]] = {}
    for verdict in good:
        if verdict.rms <= limit and wrong.chance(verdict.rms, tried) <= COINCIDENCE:
            by_mistake.setdefault(verdict.mistake.name, []).append(verdict)
    single = any(not same[0].mistake.two for same in by_mistake.values())
    return [
        finding(same, wrong, tried)
        for same in by_mistake.values()
        if not (single and same[0].mistake.two)
    ]


def finding(verdicts: list[Verdict], wrong: Wrong, tried: int) -> Finding:
    """One mistake, with all its variants that reproduce the numbers."""
    mistake = verdicts[0].mistake
    sentence = mistake.sentence(*(v.detail for v in verdicts))
    chance = wrong.chance(verdicts[0].rms, tried)
    return Finding(mistake.name, sentence, verdicts[0].largest, mistake.advice, chance)


def by_fitting(
    candidates: Iterable[Fitted], wrong: Wrong, slack: float, tried: int
) -> list[Finding]:
    """Mistakes whose numbers are fitted; the best alone, for all of them fit something."""
    best: Finding | None = None
    nearest = np.inf
    for one in candidates:
        verdict = judge(one.hypothesis, wrong, slack)
        if verdict is None or not verdict.reproduced or verdict.rms >= nearest:
            continue
        chance = wrong.chance(verdict.rms, tried, one.numbers)
        if chance <= COINCIDENCE:
            best = replace(finding([verdict], wrong, tried), chance=chance)
            nearest = verdict.rms
    return [best] if best else []


def by_two(
    best: tuple[Verdict, Hypothesis] | None, wrong: Wrong, slack: float, tried: int
) -> list[Finding]:
    """Two mistakes at once: the one that leaves next to nothing, and what was done besides."""
    if best is None or not np.isfinite(wrong.rms):
        return []
    verdict, hypothesis = best
    if verdict.rms**2 > MOSTLY * wrong.rms**2 or wrong.chance(verdict.rms, tried) > COINCIDENCE:
        return []
    first = finding([verdict], wrong, tried)
    rest, _ = judged(hypothesis.further(), wrong, slack)
    nearer = [v for v in rest if v.rms <= verdict.rms / EXPLAINED]
    more = explained(nearer, wrong, tried + len(rest))
    if not more and first.chance > ALONE:
        return []
    if not more:
        said = f"mostly this: {first.sentence}; something smaller remains"
        return [replace(first, sentence=said)]
    return [
        Finding(
            f"{first.mistake} + {second.mistake}",
            f"{first.sentence}; and besides, {second.sentence}",
            second.error,
            f"{first.advice}; {second.advice}",
            second.chance,
        )
        for second in more
    ]


def short_type(got: Array, truth: Array, probe: Probe) -> list[Finding]:
    """Look for sums in a short type: they can't be replayed, for they depend on the order; but they
    leave a trace: every number is one of that type, and all are near the truth, as rounding is:

        rms(theirs − truth)  ≤  √1000 · u · rms(truth)        u: 2⁻⁸ bfloat16, 2⁻¹¹ float16

    Numbers on an even grid, as those of int8, or of few values, as those of float8, are of every
    type, and leave none. An image says nothing of how it was computed.
    """
    if got.shape != truth.shape or probe.op == "input" or on_a_grid(got):
        return []
    largest, rms = distance(got, truth)
    scale = float(np.sqrt((truth * truth).mean()))
    for name, short, bits in (("bfloat16", to_bfloat16, 8), ("float16", to_float16, 11)):
        with np.errstate(invalid="ignore"):
            all_short = bool((short(got) == got).all())
        if all_short and rms <= 1000**0.5 * 2.0**-bits * scale:
            sentence = (
                f"every number is a {name}, and near the truth: it is computed or stored in {name}"
            )
            advice = "compute and store in float32; switch autocast off, if it is on"
            chance = 0.5 ** min(1000, (24 - bits) * int(np.count_nonzero(got)))
            return [Finding("short-type", sentence, largest, advice, chance)]
    return []


def on_a_grid(got: Array) -> bool:
    """Whether all numbers are multiples of one step, or have only 256 values."""
    values = np.unique(got[np.isfinite(got)])
    if len(values) <= 256 < got.size / 2:
        return True
    steps = np.diff(values)
    if not len(steps):
        return True
    counts = values / steps.min()
    whole = np.abs(counts - np.rint(counts)) <= 1e-6 * np.maximum(np.abs(counts), 1)
    return bool(whole.all() and np.abs(counts).max() < 2048)


STORED_SHORT = Finding(
    "tensor-rounded",
    "the array is in float16, and right but for that rounding",
    0.0,
    "write tensors as float32; whether the computation is right cannot be seen behind it",
    0.0,
)


def is_stored_short(pack: Pack, name: str, got: Array) -> bool:
    """Whether a rounding to float16 more makes the tensor right: |theirs − y| ≤ bound + ½ ulp."""
    truth = pack.tensor(name).astype(np.float64)
    if got.shape != truth.shape:
        return False
    half = np.maximum(2.0**-11 * np.abs(truth), 2.0**-25)
    return bool((np.abs(got - truth) <= 1.001 * (pack.bound(name) + half)).all())


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
    """Return what helps to find an unknown mistake, which depends on what is known."""
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
            "give more tensors of this block, of a folded one what its convolution gives, and "
            f"compare with a pack that has them, made by `npvgg conformance --level {finer}"
            f"{' --form deploy' * (pack.manifest['form'] == 'deploy')}`"
        )
    return "compute one wrong number by hand, by its equation: its inputs are right"


EMPTY = "look for a slice that selects nothing, and for a batch of no images"
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
