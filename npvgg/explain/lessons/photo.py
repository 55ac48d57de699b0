"""The way of a photo: what the network is given, what its channels see, and what decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npvgg.data import create_transform, resolve_model_data_config
from npvgg.engines import prepare
from npvgg.engines.reference import forward_blocks, forward_head
from npvgg.errors import ArgumentError
from npvgg.explain import subject
from npvgg.explain.lesson import UNLISTED, Lesson
from npvgg.model import RepVGG
from npvgg.network import Network
from npvgg.ops import Array, probabilities, topk
from npvgg.pages.parts import (
    Document,
    Exercise,
    Formula,
    Heading,
    Heat,
    Paragraph,
    Part,
    Photo,
    Table,
)
from npvgg.summary import info

STRONGEST, TOP = 6, 5
GRID = 8
"""Squares along a side that are covered, one after the other."""

COARSE = 4
"""A class map of so few cells along a side does not tell where; covering squares does."""

MUCH = 30e9
"""Multiply-accumulates from which on it pays to load the compiled engine: the reference needs about
a second for them."""


@dataclass(frozen=True)
class ClassEntry:
    """One of the likeliest classes."""

    index: int
    name: str
    probability: float
    logit: float


@dataclass(frozen=True)
class BlockMaps:
    """A block's output: its shape (K, P, Q) and its channels of the largest mean, largest first."""

    name: str
    shape: tuple[int, ...]
    strongest: tuple[int, ...]
    means: tuple[float, ...]
    zeros: float
    maps: Array = field(metadata=UNLISTED)


@dataclass(frozen=True, eq=False, repr=False)
class PhotoLesson(Lesson):
    """A photo's way through a network.

    class_map: (P, Q) what each cell of the last map adds to the logit of `class`, so that
        Σ class_map + bias = logit, up to `check`, the difference that rounding makes
    between: the two likeliest classes, and (P, Q) what each cell adds to their difference
    occlusion: (GRID, GRID) how far the logit falls when a square of the image is covered by the
        mean colour; none where the class map is fine enough
    """

    model: str
    photo: str
    transform: dict[str, Any]
    topk: tuple[ClassEntry, ...]
    class_: int
    class_name: str
    class_map: Array
    bias: float
    logit: float
    check: float
    sees: int
    between: tuple[str, ...]
    between_map: Array | None
    margin: float
    occlusion: Array | None
    occlusion_drop: float
    blocks: tuple[BlockMaps, ...]
    resolutions: tuple[str, ...]
    pixels: Array = field(metadata=UNLISTED)

    def document(self) -> Document:
        """From the file to the classes, and back to the pixels."""
        steps = self.transform
        return Document(
            self.says("{photo} through {model}"),
            (
                Paragraph(
                    self.says(
                        "The photo is {steps}, and its channels lose their mean and are divided by "
                        "their standard deviation. What is left is all that the network sees.",
                        steps=", ".join(f"{k} {v}" for k, v in steps.items()),
                    )
                ),
                Photo(
                    self.pixels,
                    self.says("{photo}, as the network is given it."),
                    self.says("The network says {topk[0][name]}, {topk[0][probability]:.2%}."),
                ),
                Table(
                    ("class", "probability", "logit"),
                    tuple(
                        (f"{c.index} {c.name}", f"{c.probability:.2%}", f"{c.logit:.3f}")
                        for c in self.topk
                    ),
                ),
                Heading("What the channels see"),
                *self._channels(),
                Heading(self.says("What speaks for {class_name}")),
                Formula("logit[k] = b[k] + Σ{p,q} {1 / (P·Q)} Σ{c} w[k,c] · x[c,p,q]"),
                Heat(
                    {self.class_name: self.class_map},
                    self.says(
                        "What each cell of the last map adds to the logit. Their sum is "
                        "{total:.4f}; with the bias {bias:.4f} it is the logit {logit:.4f}, up "
                        "to {check:.1g}. Each cell sees {sees} pixels along a side.",
                        total=float(self.class_map.sum()),
                    ),
                    digits=2,
                ),
                *self._between(),
                *self._occlusion(),
                Exercise(
                    "Why do the cells of the class map add up to the logit, and why would they not "
                    "behind a maximum pooling?",
                    "Mean and classifier are linear, so they may change places. A maximum is not: "
                    "it takes each channel from another cell, and drops the others.",
                ),
            ),
        )

    def _channels(self) -> list[Part]:
        parts: list[Part] = []
        for block in self.blocks:
            if block.name in self.resolutions:
                maps = dict(zip((f"channel {k}" for k in block.strongest), block.maps, strict=True))
                parts.append(
                    Heat(
                        maps,
                        f"{block.name}: {'×'.join(map(str, block.shape))} numbers, the channels "
                        f"of the largest mean ({block.means[0]:.3g} the first). {block.zeros:.0%} "
                        "of all its numbers are zero.",
                        digits=-1,
                    )
                )
        return parts

    def _between(self) -> list[Part]:
        if self.between_map is None:
            return []
        first, second = self.between
        return [
            Heading("What it was between"),
            Heat(
                {f"{first} − {second}": self.between_map},
                self.says(
                    "{first} leads {second} by {margin:.3f}. Orange cells speak for {first}, blue "
                    "ones for {second}.",
                    first=first, second=second,
                ),
            ),
        ]  # fmt: skip

    def _occlusion(self) -> list[Part]:
        if self.occlusion is None:
            return []
        return [
            Heading("Where it looks"),
            Paragraph(
                self.says(
                    "A class map this coarse, whose cells see {sees} pixels each, does not tell "
                    "where. Covering one square of the image after the other with the mean colour "
                    "does, and needs no gradient: where the logit falls most, most was needed."
                )
            ),
            Photo(
                self.pixels,
                self.says(
                    "How far the logit of {class_name} falls when a square is covered; at most by "
                    "{occlusion_drop:.3f}."
                    if self.occlusion_drop > 0
                    else "How far the logit of {class_name} falls when a square is covered: it "
                    "does nowhere."
                ),
                "Orange squares were needed, blue ones stood in the way.",
                self.occlusion,
            ),
        ]


def photo(model: RepVGG, photo: Any = None, class_: int | None = None) -> PhotoLesson:
    """Follow a photo through a network.

    photo: a cat by default      class_: whose map is made, the likeliest by default

    Raises ArgumentError where the class map would be untrue, and says what can be shown instead;
    ImageError.
    """
    given = subject.network_of(model)
    net, head = given.reparameterized(), given.head
    subject.check_classifier(given)
    if head.global_pool != "avg":
        raise ArgumentError(
            f"model: expected average pooling, got {head.global_pool!r}: behind any maximum a "
            "class map is untrue, as its cells do not add up to the logit; "
            f"{subject.showable(given)} can be shown"
        )
    x, name = subject.image(model, photo)
    maps = list(forward_blocks(net.blocks, x))
    last = maps[-1][0].astype(np.float64)
    logits = forward_head(head, maps[-1])[1][0]
    shares = probabilities(logits)
    count = min(TOP, len(logits))
    order = topk(shares, count)[1].tolist()
    index = subject.index_below("class", class_, len(logits), order[0])
    weight, biases = np.asarray(head.weight), np.asarray(head.bias)
    evidence = _class_map(weight[index], last)
    bias = float(biases[index])
    rival = order[1] if count > 1 else None
    between = None
    if rival is not None:
        between = _class_map(weight[order[0]] - weight[rival], last)
    coarse = min(last.shape[1:]) <= COARSE
    engine = "auto" if info(model).deploy.macs * GRID**2 > MUCH else "reference"
    occlusion = _occlusion(net, engine, x, index, float(logits[index])) if coarse else None
    taps = {entry["block"] for entry in model.feature_info}
    names = [block.spec.name for block in net.blocks]
    return PhotoLesson(
        model=model.name,
        photo=name,
        transform=_transform(model),
        topk=tuple(
            ClassEntry(k, subject.class_name(model, k), float(shares[k]), float(logits[k]))
            for k in order
        ),
        class_=index,
        class_name=subject.class_name(model, index),
        class_map=evidence,
        bias=bias,
        logit=float(logits[index]),
        check=abs(float(evidence.sum()) + bias - float(logits[index])),
        sees=_sees(net),
        between=tuple(subject.class_name(model, k) for k in order[:2]),
        between_map=between,
        margin=float(logits[order[0]] - logits[rival]) if rival is not None else 0.0,
        occlusion=occlusion,
        occlusion_drop=float(occlusion.max()) if occlusion is not None else 0.0,
        blocks=tuple(_strongest(n, m[0]) for n, m in zip(names, maps, strict=True)),
        resolutions=tuple(names[i] for i in sorted(taps)),
        pixels=subject.pixels(model, x),
    )


def _class_map(weight: Array, last: Array) -> Array:
    """(C,), (C, P, Q) → (P, Q): what each cell adds to the logit, float64."""
    shares: Array = np.tensordot(weight.astype(np.float64), last, 1) / last[0].size
    return shares


def _strongest(name: str, maps: Array) -> BlockMaps:
    means = maps.mean((1, 2), dtype=np.float64)
    order = topk(means, min(STRONGEST, len(means)))[1].tolist()
    return BlockMaps(
        name, maps.shape, tuple(order), tuple(float(means[k]) for k in order),
        float((maps == 0).mean()), maps[order],
    )  # fmt: skip


def _occlusion(net: Network, engine: str, x: Array, index: int, logit: float) -> Array:
    """How far a logit falls when a square is covered by the mean colour, which is 0 here."""
    rows, columns = (np.linspace(0, side, GRID + 1).astype(int) for side in x.shape[2:])
    covered = np.repeat(x, GRID * GRID, axis=0)
    for i, (r, s) in enumerate(np.ndindex(GRID, GRID)):
        covered[i, :, rows[r] : rows[r + 1], columns[s] : columns[s + 1]] = 0
    runner = prepare(net, engine)
    answers = [runner.logits(part)[:, index] for part in np.array_split(covered, GRID)]
    fall: Array = (logit - np.concatenate(answers).astype(np.float64)).reshape(GRID, GRID)
    return fall


def _transform(model: RepVGG) -> dict[str, Any]:
    transform = create_transform(**resolve_model_data_config(model))
    height, width = transform.input_size[1:]
    return {
        "resized with": transform.interpolation,
        "then cropped to": f"{height}×{width} at the centre",
    }


def _sees(net: Network) -> int:
    field_, step = 1, 1
    for block in net.blocks:
        field_ += 2 * block.spec.dilation * step
        step *= block.spec.stride
    return field_
