"""Many photos through one network: in batches, in order, one outcome per photo.

A photo that cannot be read becomes an outcome with its error, in its place, and the run goes on; so
does one for which the network's answer is not finite.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from npvgg.cli.inputs import Photo
from npvgg.cli.progress import log
from npvgg.data import Transform
from npvgg.engines.threads import resolve
from npvgg.errors import ImageError
from npvgg.images.ahead import MOST_DECODERS, ahead
from npvgg.ops import Array

MOST_WARNINGS = 10

Answer = Array | tuple[Array, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one photo: the network's answer, or the error; and notes on what it held."""

    path: str
    answer: Any = None
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """Return "ok" or "error", as rows say it."""
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
    forward: Callable[[Array], Sequence[Answer]],
    batch_size: int = 1,
    *,
    threads: int | None = None,
) -> Iterator[Outcome]:
    """Return one outcome per photo, in their order.

    forward: takes a batch (N, C, H, W), gives N answers, each an array or several
    threads: the most that may decode, four at the most; None for the processors that this process
    may use

    Photos are decoded at most two batches ahead of the network (Pillow lets go of the interpreter
    while it decodes), so memory does not grow with the number of photos.
    """
    decoders = min(MOST_DECODERS, resolve(threads))
    decode = partial(_decode, transform=transform)
    decoded = ahead(decode, photos, threads=decoders, limit=2 * batch_size)
    while batch := list(islice(decoded, batch_size)):
        yield from _answered(batch, forward)


def _answered(
    batch: list[_Decoded], forward: Callable[[Array], Sequence[Answer]]
) -> Iterator[Outcome]:
    inputs = [item.x for item in batch if item.x is not None]
    answers = iter(forward(np.stack(inputs)) if inputs else ())
    for item in batch:
        answer, error = None, item.error
        if item.x is not None:
            answer = next(answers)
            arrays = answer if isinstance(answer, tuple) else (answer,)
            if not all(np.isfinite(array).all() for array in arrays):
                answer, error = None, "the network's answer is not finite"
        yield Outcome(item.photo.path, answer, error, item.notes)


# --- Decoding -------------------------------------------------------------------------------------


def _decode(photo: Photo, transform: Transform) -> _Decoded:
    if photo.error:
        return _Decoded(photo, error=photo.error)
    try:
        with _warned() as warned:
            x, notes = transform.apply(photo.source)
    except ImageError as error:
        return _Decoded(photo, error=str(error))
    return _Decoded(photo, x, notes=(*notes, *warned))


# --- Warnings -------------------------------------------------------------------------------------

_decoding = threading.local()


@contextmanager
def _warned() -> Iterator[list[str]]:
    """Collect the warnings of this thread, where `warnings_as_notes` is in force."""
    notes: list[str] = []
    _decoding.notes = notes
    try:
        yield notes
    finally:
        _decoding.notes = None


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """For a while, make warnings that come while a photo is decoded notes of that photo, and others
    messages. Filters of warnings belong to the whole process: this is for the command line alone.
    """

    def show(message: Any, category: type[Warning], *args: Any, **options: Any) -> None:
        notes = getattr(_decoding, "notes", None)
        if notes is None:
            log.warning(f"{category.__name__}: {message}")
        elif len(notes) < MOST_WARNINGS and (text := str(message)[:200]) not in notes:
            notes.append(text)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")  # each photo's, not the first one's
        warnings.showwarning = show
        yield
