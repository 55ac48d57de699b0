"""Many photos through one network: in batches, in order, one outcome per photo.

A photo that cannot be read becomes an outcome with its error, in its place, and the run goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from npvgg.cli.inputs import Photo
from npvgg.data import Transform
from npvgg.engines.threads import resolve
from npvgg.errors import ImageError
from npvgg.ops import Array

MOST_DECODERS = 4


@dataclass(frozen=True)
class Outcome:
    """What became of one photo: the network's answer, or the error; and notes on what it held."""

    path: str
    answer: Any = None
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """Give "ok" or "error", as rows say it."""
        return "error" if self.error else "ok"


@dataclass(frozen=True)
class _Decoded:
    photo: Photo
    x: Array | None = None
    error: str = ""
    notes: tuple[str, ...] = ()


def predict(
    photos: Iterable[Photo],
    transform: Transform,
    forward: Callable[[Array], Sequence[Any]],
    batch_size: int = 1,
    *,
    threads: int | None = None,
) -> Iterator[Outcome]:
    """Give one outcome per photo, in their order.

    forward: takes a batch (N, C, H, W), gives N answers
    threads: the most that may decode, four at the most; None for the processors that this process
    may use

    Photos are decoded at most two batches ahead of the network (Pillow lets go of
    the interpreter while it decodes), so memory does not grow with the number of photos.
    """
    workers = min(MOST_DECODERS, resolve(threads))
    with ThreadPoolExecutor(workers, thread_name_prefix="npvgg-decode") as pool:
        decoded = _decode_ahead(photos, transform, pool, ahead=2 * batch_size)
        while batch := list(islice(decoded, batch_size)):
            yield from _answered(batch, forward)


def _answered(
    batch: list[_Decoded], forward: Callable[[Array], Sequence[Any]]
) -> Iterator[Outcome]:
    inputs = [item.x for item in batch if item.x is not None]
    answers = iter(forward(np.stack(inputs)) if inputs else ())
    for item in batch:
        answer = None if item.x is None else next(answers)
        yield Outcome(item.photo.path, answer, item.error, item.notes)


def _decode_ahead(
    photos: Iterable[Photo], transform: Transform, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[_Decoded]:
    pending: deque[Future[_Decoded]] = deque()
    for photo in photos:
        pending.append(pool.submit(_decode, photo, transform))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _decode(photo: Photo, transform: Transform) -> _Decoded:
    if photo.error:
        return _Decoded(photo, error=photo.error)
    try:
        x, notes = transform.apply(photo.source)
    except ImageError as error:
        return _Decoded(photo, error=str(error))
    return _Decoded(photo, x, notes=notes)
