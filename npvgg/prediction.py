"""Photos in, classes out: one photo or many, whatever they are and whatever is wrong with some.

    for outcome in predict(model, ["cat.jpg", open("dog.png", "rb").read(), image, array]):
        print(outcome.classes or outcome.error)

`model.classify(photo)` is the same for one photo, and raises what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from npvgg.data import Transform, create_transform, resolve_model_data_config
from npvgg.engines.threads import resolve
from npvgg.errors import ArgumentError, ImageError
from npvgg.images.ahead import MOST_DECODERS, ahead
from npvgg.images.labels import labels_for
from npvgg.images.opening import Source
from npvgg.ops import Array, softmax, topk


class Class(NamedTuple):
    """A class: its number, its name ("" where nothing tells it), and its probability."""

    number: int
    label: str
    probability: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one photo.

    photo: what was given
    classes: the most probable ones, the best first; () where the photo could not be read
    logits: (num_classes,), of all classes; None where the photo could not be read
    error: why it could not be read, or ""
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
    workers = min(MOST_DECODERS, resolve(threads))
    return _outcomes(model, iter(photos), k, batch_size, transform, workers)


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
    transform: Transform,
    workers: int,
) -> Iterator[Outcome]:
    def decode(photo: Source) -> tuple[Array | None, str, tuple[str, ...]]:
        try:
            x, notes = transform.apply(photo)
        except ImageError as error:
            return None, str(error), ()
        return x, "", notes

    while batch := list(islice(photos, batch_size)):
        decoded = list(ahead(decode, batch, threads=min(workers, len(batch)), limit=len(batch)))
        inputs = [x for x, _, _ in decoded if x is not None]
        logits: Iterator[Array] = iter(model(np.stack(inputs)) if inputs else ())
        for photo, (x, error, notes) in zip(batch, decoded, strict=True):
            if x is None:
                yield Outcome(photo, error=error)
            else:
                answer = next(logits)
                yield Outcome(photo, best(answer, model.pretrained_cfg, k), answer, "", notes)


def best(logits: Array, pretrained_cfg: Mapping[str, Any], k: int) -> tuple[Class, ...]:
    """Name the k most probable classes, or all where there are fewer: logits (classes,)."""
    labels = labels_for(pretrained_cfg)
    values, indices = topk(softmax(logits), min(k, len(logits)))
    return tuple(
        Class(index, labels[index].name if labels else "", probability)
        for index, probability in zip(indices.tolist(), values.tolist(), strict=True)
    )
