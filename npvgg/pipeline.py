"""Photos through a network: decoded ahead, in batches, one result for each photo, in their order.

    photos → decode, in a few threads → a batch → forward → results

A photo that cannot be read is a result with its error, in its place, and the run goes on; so is one
for which the network's answer is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from npvgg.data import Transform
from npvgg.engines.threads import resolve
from npvgg.errors import ImageError
from npvgg.images.ahead import MOST_DECODERS, ahead
from npvgg.images.opening import Source
from npvgg.ops import Array

Photo = TypeVar("Photo")
Answer = Array | tuple[Array, ...]

NOT_FINITE = "the network's answer is not finite"


@dataclass(frozen=True, eq=False)
class Decoded:
    """A photo as the network reads it, (C, H, W), or why it cannot be read; notes on what it holds
    that the network does not see (`images.open_image`).
    """

    x: Array | None = None
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Result(Generic[Photo]):
    """What became of one photo: the network's answer, or the error; and notes."""

    photo: Photo
    answer: Any = None
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """Return "ok" or "error", as rows say it."""
        return "error" if self.error else "ok"


def decoded(source: Source, transform: Transform) -> Decoded:
    """Open a photo and prepare it; what goes wrong is in what is returned."""
    try:
        x, notes = transform.apply(source)
    except ImageError as error:
        return Decoded(error=str(error))
    return Decoded(x, notes=notes)


def results(
    photos: Iterable[Photo],
    decode: Callable[[Photo], Decoded],
    forward: Callable[[Array], Iterable[Answer]],
    *,
    batch_size: int,
    threads: int | None,
) -> Iterator[Result[Photo]]:
    """Yield one result per photo, in their order.

    forward: takes a batch (N, C, H, W), gives N answers, each an array or several
    threads: the most that may decode, four at the most; None for the processors that this process
        may use

    Photos are taken and decoded at most two batches ahead of the network (Pillow lets go of the
    interpreter while it decodes), so memory does not grow with their number.
    """

    def step(photo: Photo) -> tuple[Photo, Decoded]:
        return photo, decode(photo)

    decoders = min(MOST_DECODERS, resolve(threads))
    ready = ahead(step, photos, threads=decoders, limit=2 * batch_size)
    while batch := list(islice(ready, batch_size)):
        inputs = [item.x for _, item in batch if item.x is not None]
        answers = iter(forward(np.stack(inputs)) if inputs else ())
        for photo, item in batch:
            if item.x is None:
                yield Result(photo, None, item.error, item.notes)
            elif _is_finite(answer := next(answers)):
                yield Result(photo, answer, "", item.notes)
            else:
                yield Result(photo, None, NOT_FINITE, item.notes)


def _is_finite(answer: Answer) -> bool:
    arrays = answer if isinstance(answer, tuple) else (answer,)
    return all(np.isfinite(array).all() for array in arrays)
