"""The mistakes that people make, each made once: what was done, what changes, what it looks like.

The catalogue is that of `npvgg.testing.diagnosis`; here each mistake is made in one block (in the
image, in the ending) and the network is run on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np

from npvgg.data import resolve_model_data_config
from npvgg.engines.reference import forward_blocks
from npvgg.errors import ArgumentError
from npvgg.explain import subject
from npvgg.explain.lesson import UNLISTED, Lesson
from npvgg.model import RepVGG
from npvgg.network import Block, Network
from npvgg.ops import Array, probabilities
from npvgg.pages.parts import Document, Exercise, Formula, Heading, Heat, Paragraph, Part, Table
from npvgg.testing.diagnosis.mistake import Mistake
from npvgg.testing.diagnosis.mistaken_endings import ending
from npvgg.testing.diagnosis.mistaken_images import Image
from npvgg.testing.diagnosis.mistakes import BLOCK_MISTAKES, ENDING_MISTAKES, IMAGE_MISTAKES, names
from npvgg.testing.diagnosis.recipe import Recipe, Replay, recipe
from npvgg.testing.trace import operations

BATCH = 8
"""Wrong maps of one shape that run through the rest of the network together."""

UNSEEN = 1e-3
"""Logits that change by less, relatively, are as they were."""


@dataclass(frozen=True)
class Made:
    """One mistake, made.

    tensor, equation: the first tensor that it changes, and how that is computed if it is right
    error: the largest error of the block's output (of the image's, or the logits'), over the
        largest number of the right one
    logits: the same of the logits      before, after: the likeliest class
    error_map: (P, Q) the largest error over channels, where the output has the right shape
    """

    name: str
    where: str
    says: str
    advice: str
    tensor: str
    equation: str
    error: float
    logits: float
    before: str
    after: str
    probability: float
    error_map: Array | None = field(default=None, metadata=UNLISTED)


@dataclass(frozen=True, eq=False, repr=False)
class MistakesLesson(Lesson):
    """The gallery: every mistake that can be made in this block, or one of them."""

    model: str
    photo: str
    block: str
    top: str
    probability: float
    mistakes: tuple[Made, ...]
    unseen: int
    changed: int

    def document(self) -> Document:
        """Return a table of all, and each with its map."""
        parts: list[Part] = [
            Paragraph(
                self.says(
                    "Each is made once, in {block} of {model} where it is about blocks, on "
                    "{photo}. Right, the network says {top}, {probability:.2%}. Of {count} "
                    "mistakes {changed} change that answer; {unseen} leave the logits as they "
                    "are to one part in {part:,.0f}, on this photo{end}.",
                    count=len(self.mistakes), part=1 / UNSEEN,
                    end=": a test on one answer misses them, a test of every tensor does not"
                    if self.unseen
                    else "",
                )
            ),
            Table(
                ("mistake", "first wrong", "error there", "of the logits", "class"),
                tuple(
                    (m.name, m.tensor, f"{m.error:.2g}", f"{m.logits:.2g}",
                     f"{m.after} {m.probability:.0%}")
                    for m in self.mistakes
                ),
                "Errors are relative to the largest right number.",
            ),
        ]  # fmt: skip
        for made in self.mistakes:
            parts += [
                Heading(made.name),
                Paragraph(
                    f"{made.says[0].upper() + made.says[1:]}. The first tensor that changes is "
                    f"{made.tensor}, which should be:"
                ),
                Formula(made.equation),
                Paragraph(
                    f"Right: {made.before}; with the mistake: {made.after}, "
                    f"{made.probability:.0%}. To mend it: {made.advice}."
                ),
            ]
            if made.error_map is not None:
                parts.append(
                    Heat(
                        {"error": made.error_map},
                        f"Where {made.where} is wrong, the largest over its channels.",
                        digits=-1,
                    )
                )
        parts.append(
            Exercise(
                "Which of these would a test find that compares the class of one photo?",
                self.says("{changed} of {count}.", count=len(self.mistakes)),
            )
        )
        return Document(self.says("Mistakes in {block} of {model}"), tuple(parts))


def mistakes(
    model: RepVGG, name: str | None = None, block: str | None = None, photo: Any = None
) -> MistakesLesson:
    """Make each mistake of the catalogue once, and see what becomes of a photo.

    name: one of them alone, in all its variants      block: where, "stages.0.1"

    Raises ArgumentError, which names those that can be made; ImageError.
    """
    net = subject.network_of(model)
    subject.check_classifier(net)
    chosen = subject.named(net, block)
    x, title = subject.image(model, photo)
    bench = _Bench(model, net, chosen, x)
    known = names()
    if name is not None and name not in known:
        near = get_close_matches(name, known, n=3) or sorted(known)[:5]
        raise ArgumentError(
            f"name: expected a mistake of the catalogue, got {name!r}; there are "
            f"{', '.join(near)}, … (`npvgg explain mistakes` lists all)"
        )
    made = tuple(bench.all(name))
    if not made:
        raise ArgumentError(
            f"name: {name} cannot be made in {chosen.spec.name}; try another block, or all mistakes"
        )
    top, probability = bench.top(bench.logits)
    return MistakesLesson(
        model=model.name, photo=title, block=chosen.spec.name, top=top, probability=probability,
        mistakes=made,
        unseen=sum(m.logits < UNSEEN for m in made),
        changed=sum(m.after != m.before for m in made),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What a mistake does.

    tensor: the first that changes      place: of the block that reads the wrong map; none is left
        where `wrong` are the logits
    wrong: the image, the block's output or the logits
    """

    tensor: str
    wrong: Array
    place: int | None = None


class _Bench:
    """The right run, and wrong ones beside it."""

    def __init__(self, model: RepVGG, net: Network, block: Block, x: Array) -> None:
        self.model, self.net, self.block, self.x = model, net, block, x
        places = [b.spec.name for b in net.blocks]
        self.place = places.index(block.spec.name)
        self.folded = net.reparameterized().blocks  # what runs before and behind the block
        self.right = recipe(block)
        self.replay = Replay({"x": self._through(0, self.place, x)}, np.float32)
        self.ending = ending(net.head)
        self.output = self.replay(self.right, "")
        self.last = self._through(self.place + 1, None, self.output)
        self.logits = self._end(self.last)
        self.operations = {o.name: o for o in operations(net)}

    def all(self, name: str | None) -> list[Made]:
        """Every mistake, in its first variant that changes something; or one in all variants."""
        tables: tuple[tuple[Any, Any, Any], ...] = (
            (IMAGE_MISTAKES, self._image(), self._of_image),
            (BLOCK_MISTAKES, self.right, self._of_block),
            (ENDING_MISTAKES, self.ending, self._of_ending),
        )
        found: list[tuple[Mistake[Any], str, _Outcome]] = []
        for catalogue, right, outcome in tables:
            for mistake in catalogue:
                if name in (None, mistake.name):
                    for detail, wrong in mistake.variants(right):
                        what = outcome(wrong)
                        if what is not None:
                            found.append((mistake, detail, what))
                            if name is None:
                                break
        logits = self._run_on([what for _, _, what in found])
        return [
            self._made(mistake, detail, what, answer)
            for (mistake, detail, what), answer in zip(found, logits, strict=True)
        ]

    def top(self, logits: Array) -> tuple[str, float]:
        """Return the likeliest class and its probability."""
        with np.errstate(all="ignore"):
            shares = probabilities(logits)[0]
        if not np.isfinite(shares).all():
            return "nothing: NaN", 0.0
        best = int(shares.argmax())
        return subject.class_name(self.model, best), float(shares[best])

    def _made(self, mistake: Mistake[Any], detail: str, what: _Outcome, logits: Array) -> Made:
        tensor = what.tensor
        truth = {"input": self.x, "logits": self.logits, "pool": self.logits}.get(
            tensor, self.output
        )
        wrong = logits if what.place is None else what.wrong
        fits = wrong.shape == truth.shape
        error = np.abs(wrong.astype(np.float64) - truth) if fits else np.array([np.inf])
        shape = logits.shape == self.logits.shape
        away = np.abs(logits.astype(np.float64) - self.logits) if shape else np.array([np.inf])
        where = {"input": "the image", "pool": "the logits", "logits": "the logits"}
        after, probability = self.top(logits)
        return Made(
            name=mistake.name,
            where=where.get(tensor, self.block.spec.name),
            says=mistake.sentence(detail),
            advice=mistake.advice,
            tensor=tensor,
            equation=self.operations[tensor].equation,
            error=float(error.max() / np.abs(truth).max()),
            logits=float(away.max() / np.abs(self.logits).max()),
            before=self.top(self.logits)[0],
            after=after,
            probability=probability,
            error_map=error.max((0, 1)) if fits and error.ndim == 4 else None,
        )

    def _through(self, start: int, end: int | None, x: Array) -> Array:
        """Run the folded blocks from one place to another."""
        for y in forward_blocks(self.folded[start:end], x):
            x = y
        return x

    def _run_on(self, outcomes: list[_Outcome]) -> list[Array]:
        """Return the logits of each, (1, classes): wrong maps of one shape run as batches."""
        alike: dict[Any, list[int]] = {}
        answers = [what.wrong for what in outcomes]  # logits where nothing is left to run
        for i, what in enumerate(outcomes):
            if what.place is not None:
                alike.setdefault((what.place, what.wrong.shape), []).append(i)
        for (place, _), members in alike.items():
            for start in range(0, len(members), BATCH):
                some = members[start : start + BATCH]
                with np.errstate(all="ignore"):
                    x = np.concatenate([answers[i] for i in some]).astype(np.float32)
                    logits = self._end(self._through(place, None, x))
                for i, one in zip(some, logits, strict=True):
                    answers[i] = one[None]
        return answers

    def _image(self) -> Image:
        cfg = resolve_model_data_config(self.model)
        mean, std = cfg["mean"], cfg["std"]
        return Image(mean, std) if len(mean) == 3 else Image()

    def _of_image(self, wrong: Any) -> _Outcome | None:
        x = np.asarray(wrong(self.x), np.float32)
        if x.shape[1] != self.x.shape[1] or np.array_equal(x, self.x):
            return None
        return _Outcome("input", x, 0)

    def _of_block(self, wrong: Recipe) -> _Outcome | None:
        try:
            with np.errstate(all="ignore"):
                output = self.replay(wrong, "")
                if np.array_equal(output, self.output, equal_nan=True):
                    return None
        except ArgumentError:
            return None
        if output.shape[1] != self.output.shape[1]:
            return None  # the next block would refuse it
        return _Outcome(self._first(wrong), output, self.place + 1)

    def _first(self, wrong: Recipe) -> str:
        """Return the first tensor of the block that a wrong recipe changes."""
        name = self.block.spec.name
        for o in self.operations.values():
            if o.block != name or o.name == name:
                continue
            inner = o.name.removeprefix(f"{name}.")
            try:
                with np.errstate(all="ignore"):
                    same = np.array_equal(
                        self.replay(wrong, inner), self.replay(self.right, inner), equal_nan=True
                    )
            except ArgumentError:
                same = False
            if not same:
                return o.name
        return name

    def _of_ending(self, wrong: Any) -> _Outcome | None:
        with np.errstate(all="ignore"):
            pooled, right = (end("pool", {"x": self.last}) for end in (wrong, self.ending))
            if pooled.shape != right.shape:
                return None  # the classifier would refuse it
            logits = self._end(self.last, wrong)
        if logits.shape == self.logits.shape and np.array_equal(logits, self.logits):
            return None
        return _Outcome("logits" if np.array_equal(pooled, right) else "pool", logits)

    def _end(self, x: Array, end: Any = None) -> Array:
        answer: Array = (end or self.ending)("logits", {"x": x})
        return answer
