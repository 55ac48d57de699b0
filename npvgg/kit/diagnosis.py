"""Which mistake did they make? Replay a layer with every mistake that people make, and look.

A mistake is named where its replay reproduces their numbers:

    max |theirs − y|  ≤  32 · max(e, u · max |y|)  [+ the chain bound, without their inputs]
    rms(theirs − y)   ≤  ¼ · rms(theirs − truth),   and  ≤ 4 · the best mistake's

y is the replay in float64; e = max |y − its replay in float32|, what rounding does to it in one
implementation; u = 2⁻²⁴. The first line says that rounding explains what is left (32 times one
implementation's: a plain loop has about 5 times the error of a blocked product, Winograd 11). The
second says that the mistake explains what is wrong, and the third drops what is only near. Mistakes
that make the same numbers on this layer are all named. (Of those that round to few bits the first
is not asked: noise decides between neighbours there.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.kit.mistake import Mistake
from npvgg.kit.mistaken_ends import ending
from npvgg.kit.mistaken_numbers import order_of_the_input
from npvgg.kit.mistakes import BLOCK_MISTAKES, ENDING_MISTAKES, IMAGE_MISTAKES
from npvgg.kit.pack import Pack
from npvgg.kit.recipe import Recipe, Replay, recipe, same
from npvgg.kit.trace import Probe
from npvgg.network import Block
from npvgg.ops import Array

U32 = 2.0**-24
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
class Hypothesis:
    """A mistake's variant, and the tensor that comes of it in float32 or float64."""

    mistake: Mistake[Any]
    detail: str
    run: Callable[[Any], Array]


@dataclass(frozen=True)
class Verdict:
    """How near a replay comes to their numbers."""

    hypothesis: Hypothesis
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
    if is_right(pack, name, got, alone=alone):
        return []
    exact = {p.name: pack.tensor(p.name) for p in pack.probes if p.name != name}
    given, slack = inputs_of(pack, probe, exact if alone else theirs)
    truth = pack.tensor(name).astype(np.float64)
    wrong = distance(got, truth)[1] if got.shape == truth.shape else np.inf
    verdicts = [
        verdict
        for hypothesis in hypotheses(pack, probe, given)
        if (verdict := judge(hypothesis, got, wrong, slack)) is not None
    ]
    return findings(verdicts, got, wrong)


# --- What is tried --------------------------------------------------------------------------------


def hypotheses(pack: Pack, probe: Probe, given: Mapping[str, Array]) -> Iterator[Hypothesis]:
    """Every mistake that can be made on the way to a tensor, in all its variants."""
    if probe.block:
        yield from block_hypotheses(pack, probe, given)
    elif probe.op == "input":
        x = given["x"]
        for mistake in IMAGE_MISTAKES:
            for detail, step in mistake.variants(same):
                yield Hypothesis(mistake, detail, lambda dtype, s=step: s(x.astype(dtype)))  # type: ignore[misc]
    else:
        right = ending(pack.network().head)
        for ending_mistake in ENDING_MISTAKES:
            for detail, wrong in ending_mistake.variants(right):
                yield Hypothesis(
                    ending_mistake,
                    detail,
                    lambda dtype, w=wrong: w(  # type: ignore[misc]
                        probe.name, {name: a.astype(dtype) for name, a in given.items()}
                    ),
                )
    yield from other_tensors(pack, probe)


def block_hypotheses(pack: Pack, probe: Probe, given: Mapping[str, Array]) -> Iterator[Hypothesis]:
    """The mistakes of a block, made in its branches and in its folded convolution."""
    replays = {dtype: Replay(given, dtype) for dtype in (np.float32, np.float64)}
    target = probe.name.removeprefix(probe.block).removeprefix(".")

    def hypothesis(mistake: Mistake[Any], detail: str, wrong: Recipe) -> Hypothesis:
        return Hypothesis(mistake, detail, lambda dtype: replays[dtype](wrong, target))

    for blocks, index in forms(pack, probe.block):
        right = recipe(blocks[index])
        for mistake in BLOCK_MISTAKES:
            if index == 0 and mistake is order_of_the_input:
                continue  # said of images below
            for detail, wrong in mistake.variants(right):
                yield hypothesis(mistake, detail, wrong)
        if index == 0:
            for image_mistake in IMAGE_MISTAKES:
                for detail, step in image_mistake.variants(same):
                    yield hypothesis(image_mistake, detail, replace(right, before=step))
        for other in blocks[max(0, index - 1) : index + 2]:
            if other is not blocks[index] and fits(other, blocks[index]):
                wrong = replace(right, branches=recipe(other).branches)
                yield hypothesis(OTHER_WEIGHTS, other.spec.name, wrong)


OTHER_WEIGHTS: Mistake[Any] = Mistake(
    "weights-of-another-block",
    "the weights are those of {}",
    "check the names of the weights: each block has its own",
    lambda _: iter(()),
)
OTHER_TENSOR: Mistake[Any] = Mistake(
    "another-tensor",
    "this is the tensor {}",
    "check which tensor is handed over under this name",
    lambda _: iter(()),
)


def fits(other: Block, block: Block) -> bool:
    """Whether another block's weights could stand in this one."""
    shapes = [
        [b.conv.weight.shape if b.conv else None for b in recipe(one).branches]
        for one in (other, block)
    ]
    return shapes[0] == shapes[1]


def forms(pack: Pack, block: str) -> Iterator[tuple[tuple[Block, ...], int]]:
    """The network's blocks in the forms that can be had, and the number of the block: the branches
    first, then the folded convolutions, of which float64 has the exact ones where it can.
    """
    try:
        networks = [pack.network("train")]
        networks.append(networks[0].reparameterized())
    except ArgumentError:
        networks = [pack.network("deploy")]
    for network in networks:
        names = [b.spec.name for b in network.blocks]
        yield network.blocks, names.index(block)


def other_tensors(pack: Pack, probe: Probe) -> Iterator[Hypothesis]:
    """Another tensor of the pack under this name."""
    for other in pack.probes:
        if other.name != probe.name and other.shape == probe.shape:
            truth = pack.tensor(other.name)
            yield Hypothesis(OTHER_TENSOR, other.name, lambda dtype, y=truth: y.astype(dtype))  # type: ignore[misc]


# --- What it is computed from ---------------------------------------------------------------------


def inputs_of(
    pack: Pack, probe: Probe, theirs: Mapping[str, Array]
) -> tuple[dict[str, Array], float]:
    """The inputs of a tensor by their names inside the block, and how far their numbers may be off.

    What the block reads is "x": theirs if it is right, else the pack's. Other inputs are given only
    where theirs are right; else they are replayed from x, mistakes included.
    """
    if probe.op == "input":
        return {"x": pack.tensor(probe.name)}, 0.0
    source = source_of(pack, probe)
    right = {
        name: np.asarray(theirs[name])
        for name in (source, *probe.inputs)
        if name in theirs and is_right(pack, name, np.asarray(theirs[name], np.float64))
    }
    local = {
        name.removeprefix(f"{probe.block}."): array
        for name, array in right.items()
        if name != source and (probe.block or name == "pool")
    }
    given = {"x": right.get(source, pack.tensor(source)), **local}
    own = all(name in right for name in probe.inputs) or source in right
    return given, 0.0 if own else float(pack.bound(probe.name).max())


def source_of(pack: Pack, probe: Probe) -> str:
    """The tensor that a block, or the ending, reads."""
    inside = [other for other in pack.probes if other.block == probe.block and other.op != "input"]
    names = {other.name for other in inside}
    return next(name for other in inside for name in other.inputs if name not in names)


def is_right(pack: Pack, name: str, got: Array, *, alone: bool = False) -> bool:
    """Whether a tensor is within its bound."""
    truth = pack.tensor(name)
    bound = pack.local_bound(name) if alone else pack.bound(name)
    return got.shape == truth.shape and bool((np.abs(got - truth) <= bound).all())


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
        largest, rms = distance(got, fast)
        scale = magnitude(fast)
        if not (rms <= 2 * wrong / EXPLAINED and largest <= 0.1 * scale):
            return Verdict(hypothesis, largest, rms, reproduced=False)
        exact = hypothesis.run(np.float64)
        noise = distance(fast, exact)[0]
        largest, rms = distance(got, exact)
    tolerance = NOISE * max(noise, U32 * scale) + slack
    good = rms <= wrong / EXPLAINED and (hypothesis.mistake.rounds or largest <= tolerance)
    return Verdict(hypothesis, largest, rms, good)


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
    error = np.abs(got - y)
    if not np.isfinite(error).all():
        return np.inf, np.inf
    return float(error.max()), float(np.sqrt((error * error).mean()))


def magnitude(y: Array) -> float:
    """The largest finite magnitude."""
    return float(np.abs(np.where(np.isfinite(y), y, 0)).max())


def findings(verdicts: list[Verdict], got: Array, wrong: float) -> list[Finding]:
    """The mistakes that reproduce their numbers, the best first; or that there is none."""
    good = sorted((v for v in verdicts if v.reproduced), key=lambda v: v.rms)
    if not good:
        return [unknown(verdicts, got)]
    limit = EXPLAINED * max(good[0].rms, U32 * magnitude(got) / 2)
    by_mistake: dict[str, list[Verdict]] = {}
    for verdict in good:
        if verdict.rms <= limit:
            by_mistake.setdefault(verdict.hypothesis.mistake.name, []).append(verdict)
    return [finding(same_mistake) for same_mistake in by_mistake.values()]


def finding(verdicts: list[Verdict]) -> Finding:
    """One mistake, with all its variants that reproduce the numbers."""
    mistake = verdicts[0].hypothesis.mistake
    details = list(dict.fromkeys(v.hypothesis.detail for v in verdicts))
    sentence = mistake.sentence(", or ".join(details))
    return Finding(mistake.name, sentence, verdicts[0].largest, mistake.advice)


def unknown(verdicts: list[Verdict], got: Array) -> Finding:
    """No mistake of the catalogue explains the numbers."""
    sentence = "no known mistake reproduces these numbers"
    nearest = min(verdicts, key=lambda v: v.rms, default=None)
    error = np.inf if nearest is None else nearest.largest
    return Finding(UNKNOWN, sentence, error, "compare operation by operation: --level op")
