"""What is tried on a wrong tensor: every mistake that can be made on the way to it.

The way begins at the last tensor of theirs that is there and right. Where that is what the tensor's
block reads, the block alone is replayed, with each mistake and all its variants. Where tensors in
between are missing, because only the logits were kept, say, each mistake is made in every block of
the way: people who take a wrong eps take it everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.network import Block
from npvgg.ops import Array
from npvgg.testing.diagnosis.mistake import BRANCHES, Mistake
from npvgg.testing.diagnosis.mistaken_blocks import block_repeated, branch_missing
from npvgg.testing.diagnosis.mistaken_endings import Ending, ending
from npvgg.testing.diagnosis.mistaken_images import Image, image_of
from npvgg.testing.diagnosis.mistaken_numbers import order_of_the_input
from npvgg.testing.diagnosis.mistakes import BLOCK_MISTAKES, ENDING_MISTAKES, IMAGE_MISTAKES
from npvgg.testing.diagnosis.recipe import Recipe, Replay, recipe
from npvgg.testing.packs.pack import Pack
from npvgg.testing.trace import Probe

MAX_WORK = 3e8
"""Multiplications of a way through several blocks: those of A0 at 64×64 pixels, twice. A longer one
is not tried, some 300 times (`untried`), but asks for more tensors to be given."""

IN_ONE_BRANCH = (f" in {BRANCHES['conv_1x1']}", f" in {BRANCHES['identity']}")
"""Details that are not tried in every block of a way: what people do everywhere, they do to all."""

OTHER_WEIGHTS: Mistake[Any] = Mistake(
    "weights-of-another-block",
    "the weights are those of {}",
    "check the names of the weights: each block has its own",
    lambda _: iter(()),
)
OTHER_NORMS: Mistake[Any] = Mistake(
    "batch-norms-of-another-block",
    "the batch norms are those of {}",
    "check the names of the batch norms: each branch of each block has its own",
    lambda _: iter(()),
)
OTHER_TENSOR: Mistake[Any] = Mistake(
    "another-tensor",
    "this is the tensor {}",
    "check which tensor is handed over under this name",
    lambda _: iter(()),
)


@dataclass(frozen=True)
class Hypothesis:
    """A mistake's variant, and the tensor that comes of it in float32 or float64.

    further: every mistake on top of this one
    slack: how far another implementation that makes the same mistake may be off, besides rounding
    """

    mistake: Mistake[Any]
    detail: str
    run: Callable[[Any], Array]
    further: Callable[[], Iterator[Hypothesis]] = lambda: iter(())
    slack: float = 0.0


@dataclass(frozen=True)
class Way:
    """What a tensor is computed from.

    given: the nearest inputs by their names inside the block: "x" what the block reads, theirs if
        it is right, else the pack's; others only where theirs are right, else they are replayed
    slack: how far the numbers of theirs that are missing may have been off
    start: name of the last tensor before it that theirs have and that is right, and its array
    lacking: names of its inputs that are not there, or not right
    output: of a tensor inside a block, what theirs have of the block's output
    """

    given: Mapping[str, Array]
    slack: float
    start: tuple[str, Array]
    lacking: tuple[str, ...] = ()
    output: Array | None = None


def way_to(pack: Pack, probe: Probe, theirs: Mapping[str, Array]) -> Way:
    """Return what theirs have of a tensor's inputs."""
    image = pack.tensor("input")
    if probe.op == "input":
        return Way({"x": image}, 0.0, ("input", image))
    before = [p.name for p in pack.probes[: pack.probes.index(probe)]]
    right = {
        name: np.asarray(theirs[name])
        for name in before
        if name in theirs and pack.accepts(name, np.asarray(theirs[name]))
    }
    source = source_of(pack, probe)
    given = {
        name.removeprefix(f"{probe.block}."): right[name]
        for name in probe.inputs
        if name in right and name != source
    }
    given["x"] = right.get(source, pack.tensor(source))
    own = source in right or all(name in right for name in probe.inputs)
    maps = [name for name in right if pack.probe(name).block == name]
    start = (maps[-1], right[maps[-1]]) if maps else ("input", image)
    lacking = tuple(name for name in probe.inputs if name not in right)
    output = np.asarray(theirs[probe.block]) if probe.block in theirs else None
    return Way(given, 0.0 if own else float(pack.bound(probe.name).max()), start, lacking, output)


def source_of(pack: Pack, probe: Probe) -> str:
    """Return the tensor that a block, or the ending, reads."""
    inside = [other for other in pack.probes if other.block == probe.block and other.op != "input"]
    names = {other.name for other in inside}
    return next(name for other in inside for name in other.inputs if name not in names)


def hypotheses(pack: Pack, probe: Probe, way: Way) -> Iterator[Hypothesis]:
    """Every mistake that can be made on the way to a tensor, in all its variants."""
    image = image_of(pack)
    if probe.block:
        yield from in_the_block(pack, probe, way, image)
    elif probe.op == "input":
        yield from in_the_image(image, way.given["x"])
    else:
        yield from in_the_ending(pack, probe, way)
    if way.lacking:
        yield from in_every_block(pack, probe, way, image)
    for other in pack.probes:
        if other.name != probe.name and other.shape == probe.shape:
            truth = pack.tensor(other.name)
            yield Hypothesis(OTHER_TENSOR, other.name, lambda dtype, y=truth: y.astype(dtype))  # type: ignore[misc]


def in_the_image(image: Image, x: Array) -> Iterator[Hypothesis]:
    """Try what the input itself may be instead."""
    for mistake in IMAGE_MISTAKES:
        for detail, wrong in mistake.variants(image):
            run: Callable[[Any], Array] = lambda dtype, w=wrong: w(x.astype(dtype))  # type: ignore[misc]  # noqa: E731
            yield Hypothesis(mistake, detail, run, slack=wrong.slack)


def in_the_ending(pack: Pack, probe: Probe, way: Way) -> Iterator[Hypothesis]:
    """Pooling or classifier are wrong."""

    def run(wrong: Ending, dtype: Any) -> Array:
        return wrong(probe.name, {name: a.astype(dtype) for name, a in way.given.items()})

    for mistake in ENDING_MISTAKES:
        for detail, wrong in mistake.variants(ending(pack.network().head)):
            yield Hypothesis(mistake, detail, lambda dtype, w=wrong: run(w, dtype))  # type: ignore[misc]


def in_the_block(pack: Pack, probe: Probe, way: Way, image: Image) -> Iterator[Hypothesis]:
    """Return the mistakes of a block, made in its branches and in its folded convolution."""
    replays = {dtype: Replay(way.given, dtype) for dtype in (np.float32, np.float64)}
    target = probe.name.removeprefix(probe.block).removeprefix(".")

    def hypothesis(mistake: Mistake[Any], detail: str, wrong: Recipe) -> Hypothesis:
        def further() -> Iterator[Hypothesis]:
            for second, more, both in wrong_recipes(wrong, None):
                yield Hypothesis(second, more, lambda dtype, w=both: replays[dtype](w, target))  # type: ignore[misc]

        return Hypothesis(mistake, detail, lambda dtype: replays[dtype](wrong, target), further)

    for number, blocks in enumerate(forms(pack)):
        index = [block.spec.name for block in blocks].index(probe.block)
        right = recipe(blocks[index])
        for mistake, detail, wrong in wrong_recipes(right, None if index else image):
            if number and wrong.branches is right.branches:
                continue  # what is not done to branches makes the same numbers in both forms
            if contradicted(right, wrong, way.given):
                continue
            if target == "sum" and not agrees(
                pack, mistake, detail, wrong, way, replays[np.float32]
            ):
                continue
            yield hypothesis(mistake, detail, wrong)
        for other in blocks[max(0, index - 1) : index + 2]:
            if other is not blocks[index] and fits(other, blocks[index]):
                wrong = replace(right, branches=recipe(other).branches)
                if contradicted(right, wrong, way.given):
                    continue
                yield hypothesis(OTHER_WEIGHTS, other.spec.name, wrong)
        for other in blocks[max(0, index - 2) : index + 3]:
            wrong = with_norms_of(right, recipe(other))
            if other is blocks[index] or wrong is right or contradicted(right, wrong, way.given):
                continue
            yield hypothesis(OTHER_NORMS, other.spec.name, wrong)


def contradicted(right: Recipe, wrong: Recipe, given: Mapping[str, Array]) -> bool:
    """Whether a mistake changes how a tensor of theirs is made that is right."""
    known = given.keys() - {"x"}
    old = {branch.name: branch for branch in right.branches}
    changed = [b for b in wrong.branches if old.get(b.name) is not b]
    if known & {"sum", "reparam_conv", "attn"}:
        same_sum = wrong.combine is right.combine and len(wrong.branches) == len(right.branches)
        return bool(changed) or not same_sum or wrong.before is not right.before
    if wrong.before is not right.before:
        return bool(known)
    return any(
        b.output in known or (f"{b.name}.conv" in known and b.conv is not old[b.name].conv)
        for b in changed
        if b.name in old
    )


def agrees(
    pack: Pack, mistake: Mistake[Any], detail: str, wrong: Recipe, way: Way, replay: Replay
) -> bool:
    """Whether what becomes of an identity branch that is given agrees with the block's output.

    If it is not in the sum, it may be missing, or be added later; who computed it, adds it later,
    unless the output is there and says otherwise: it and the replay, from the same tensors, are
    both within the block's bound of what the mistake makes.
    """
    if "identity" not in way.given:
        return True
    missing = mistake is branch_missing and detail == BRANCHES["identity"]
    if not missing and not wrong.late:
        return True
    if way.output is None:
        return not missing
    try:
        y = replay(wrong, "")
    except ArgumentError:
        return False
    limit = 2 * float(pack.bound(wrong.spec.name).max())
    return y.shape == way.output.shape and bool((np.abs(way.output - y) <= limit).all())


def wrong_recipes(right: Recipe, image: Image | None) -> Iterator[tuple[Mistake[Any], str, Recipe]]:
    """Return a recipe with every mistake, those of an image that it reads as well: (mistake,
    detail, wrong recipe).
    """
    for mistake in BLOCK_MISTAKES:
        if image and mistake is order_of_the_input:
            continue  # the mistakes about images say it
        for detail, wrong in mistake.variants(right):
            yield mistake, detail, wrong
    if image:
        yield from wrong_images(right, image)


def wrong_images(right: Recipe, image: Image) -> Iterator[tuple[Mistake[Any], str, Recipe]]:
    """Return the first block's recipe with every mistake about the image that it reads."""
    for mistake in IMAGE_MISTAKES:
        if mistake.two:
            continue  # too many to go through a block, or all of them: the image itself will tell
        for detail, wrong in mistake.variants(image):
            yield mistake, detail, replace(right, before=wrong)


def in_every_block(pack: Pack, probe: Probe, way: Way, image: Image) -> Iterator[Hypothesis]:
    """Mistakes in all blocks from the last right tensor on, where some in between are missing."""
    name, x = way.start
    end = ending(pack.network().head)
    last = probe.block or pack.network().blocks[-1].spec.name
    for number, passed in passages(pack, probe, way):
        if work(pack, passed) > MAX_WORK:
            continue
        passage = Passage(probe, tuple(recipe(block) for block in passed), end, x)
        for mistake, detail, recipes in passage.mistaken(last):
            branches = [each.branches for each in passage.recipes]
            if number and all(w.branches is b for w, b in zip(recipes, branches, strict=True)):
                continue  # as in a single block
            wrong = replace(passage, recipes=recipes)
            yield Hypothesis(mistake, detail, wrong, partial(on_top_of, wrong, last))
        for at, one in enumerate(passage.recipes):
            for detail, repeated in block_repeated.variants(one):
                recipes = (*passage.recipes[:at], repeated, *passage.recipes[at + 1 :])
                wrong = replace(passage, recipes=recipes)
                yield Hypothesis(block_repeated, f"{detail}: {one.spec.name}", wrong)
        if name == "input":
            for mistake, detail, first in wrong_images(passage.recipes[0], image):
                wrong = replace(passage, recipes=(first, *passage.recipes[1:]))
                yield Hypothesis(mistake, detail, wrong, partial(on_top_of, wrong, last))


def on_top_of(passage: Passage, last: str) -> Iterator[Hypothesis]:
    """Every mistake in all blocks, made in a passage that has one already."""
    for mistake, detail, recipes in passage.mistaken(last):
        yield Hypothesis(mistake, detail, replace(passage, recipes=recipes))


def passages(pack: Pack, probe: Probe, way: Way) -> Iterator[tuple[int, Sequence[Block]]]:
    """Return the blocks from the last right tensor to this one, in each form, if they are several:
    (number of the form, blocks).
    """
    for number, blocks in enumerate(forms(pack)):
        names = ["input", *(block.spec.name for block in blocks)]
        passed = blocks[names.index(way.start[0]) : names.index(probe.block or names[-1])]
        if len(passed) >= 1 + bool(probe.block):
            yield number, passed


def untried(pack: Pack, probe: Probe, way: Way) -> list[str]:
    """Return the names of the blocks on the way if no mistake was made in all of them: they are too
    much work.
    """
    for _, passed in passages(pack, probe, way) if way.lacking else ():
        if work(pack, passed) > MAX_WORK:
            return [block.spec.name for block in passed]
    return []


@dataclass(frozen=True)
class Passage:
    """A way through several blocks to a tensor, the last of them or what follows."""

    probe: Probe
    recipes: tuple[Recipe, ...]
    end: Ending
    x: Array

    def __call__(self, dtype: Any) -> Array:
        """Return the tensor, computed in this dtype."""
        x = self.x.astype(dtype)
        for each in self.recipes:
            block = each.spec.name
            target = self.probe.name.removeprefix(block) if block == self.probe.block else ""
            x = Replay({"x": x}, dtype)(each, target.removeprefix("."))
        return x if self.probe.block else self.end(self.probe.name, {"x": x})

    def mistaken(self, last: str) -> Iterator[tuple[Mistake[Any], str, tuple[Recipe, ...]]]:
        """Every mistake, made in all blocks that it can be made in."""
        for mistake in BLOCK_MISTAKES:
            changed: dict[str, list[Recipe]] = {}
            for index, right in enumerate(self.recipes):
                for detail, wrong in mistake.variants(right):
                    if not detail.endswith(IN_ONE_BRANCH):
                        changed.setdefault(detail, list(self.recipes))[index] = wrong
            for detail, recipes in changed.items():
                where = f"{detail}, in every block up to {last}".removeprefix(", ")
                yield mistake, where, tuple(recipes)


def work(pack: Pack, blocks: Sequence[Block]) -> float:
    """Return the multiplications of these blocks."""
    total = 0.0
    for block in blocks:
        kernels = [b.conv.weight[0].size for b in recipe(block).branches if b.conv is not None]
        total += sum(kernels) * prod(pack.probe(block.spec.name).shape)
    return total


def with_norms_of(right: Recipe, other: Recipe) -> Recipe:
    """Return the recipe with the batch norms of another; itself where those do not fit."""
    norms = {branch.name: branch.bn for branch in other.branches if branch.bn is not None}
    if right.spec.out_chs != other.spec.out_chs or not norms:
        return right
    branches = (replace(b, bn=norms.get(b.name, b.bn)) for b in right.branches)
    return replace(right, branches=tuple(branches))


def fits(other: Block, block: Block) -> bool:
    """Whether another block's weights could stand in this one."""
    shapes = [
        [b.conv.weight.shape if b.conv else None for b in recipe(one).branches]
        for one in (other, block)
    ]
    return shapes[0] == shapes[1]


def forms(pack: Pack) -> Iterator[tuple[Block, ...]]:
    """Return the network's blocks in the forms that can be had: the branches first, then the folded
    convolutions, of which float64 has the exact ones where it can.
    """
    try:
        train = pack.network("train")
    except ArgumentError:
        yield pack.network("deploy").blocks
    else:
        yield train.blocks
        yield train.reparameterized().blocks
