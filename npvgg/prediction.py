"""Photos in, classes out: one photo or many, whatever they are and whatever is wrong with some.

    for outcome in predict(model, ["cat.jpg", open("dog.png", "rb").read(), image, array]):
        print(outcome.classes or outcome.error)

`model.classify(photo)` is the same for one photo, and raises what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from npvgg import pipeline
from npvgg.data import Transform, create_transform, resolve_model_data_config
from npvgg.engines.threads import resolve
from npvgg.errors import ArgumentError
from npvgg.images.labels import labels_for
from npvgg.images.opening import Source
from npvgg.ops import Array, probabilities, topk
from npvgg.pipeline import Result


class Class(NamedTuple):
    """A class: its number, its name ("" where nothing tells it), and its probability."""

    number: int
    label: str
    probability: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one photo.

    photo: what was given
    classes: the most probable ones, the best first; () where there is an error
    logits: (num_classes,), of all classes; None where there is an error
    error: why the photo could not be read, or that the network's answer is not finite; or ""
    notes: what the photo holds that the network does not see (`images.open_image`)
    """

    photo: Source
    classes: tuple[Class, ...] = ()
    logits: Array | None = None
    error: str = ""
    notes: tuple[str, ...] = ()


class Classifying(Protocol):
    """What `predict` needs of a model."""

    pretrained_cfg: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    def __call__(self, x: Array) -> Array:
        """Classify: (N, C, H, W) → (N, num_classes)."""


def predict(
    model: Classifying,
    photos: Iterable[Source],
    *,
    k: int = 5,
    batch_size: int = 8,
    transform: Transform | None = None,
    threads: int | None = None,
) -> Iterator[Outcome]:
    """Classify photos in batches; give one outcome for each, in their order.

    model: a model with a classifier
    photos: paths, bytes of files, uint8 arrays (H, W, 3) or Pillow images, in any mixture; taken a
        batch at a time, so there may be any number of them
    k: how many classes each outcome has, at most
    transform: photo → (C, H, W) float32; by default that of the model's data configuration
    threads: the most that may decode, four at the most; None for the processors of this process

    Raises ArgumentError, for what is no photo at all too.
    """
    check_classes(model, k)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(f"batch_size: expected an integer of at least 1, got {batch_size!r}")
    if isinstance(photos, str | bytes | np.ndarray) or not isinstance(photos, Iterable):
        raise ArgumentError(
            f"photos: expected several, as a list say, got {type(photos).__name__}; "
            "model.classify takes one"
        )
    transform = transform or create_transform(**resolve_model_data_config(model))
    decode = partial(pipeline.decoded, transform=transform)
    through = partial(
        pipeline.results, decode=decode, forward=model, batch_size=batch_size,
        threads=resolve(threads),
    )  # fmt: skip
    return _outcomes(model, iter(photos), k, batch_size, through)


def check_classes(model: Classifying, k: int) -> None:
    """Raise ArgumentError unless the model has classes and k is a number of them."""
    if not model.num_classes:
        raise ArgumentError("model: expected one with a classifier, got num_classes=0")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ArgumentError(f"k: expected an integer of at least 1, got {k!r}")


def _outcomes(
    model: Classifying,
    photos: Iterator[Source],
    k: int,
    batch_size: int,
    through: Callable[[list[Source]], Iterator[Result[Source]]],
) -> Iterator[Outcome]:
    while batch := list(islice(photos, batch_size)):  # never more: they may come from a camera
        for r in through(batch):
            classes = () if r.error else best(r.answer, model.pretrained_cfg, k)
            yield Outcome(r.photo, classes, r.answer, r.error, r.notes)


def best(logits: Array, pretrained_cfg: Mapping[str, Any], k: int) -> tuple[Class, ...]:
    """Name the k most probable classes, or all where there are fewer: logits (classes,)."""
    labels = labels_for(pretrained_cfg)
    values, indices = topk(probabilities(logits), min(k, len(logits)))
    return tuple(
        Class(index, labels[index].name if labels else "", probability)
        for index, probability in zip(indices.tolist(), values.tolist(), strict=True)
    )
