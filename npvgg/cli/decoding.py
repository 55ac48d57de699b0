"""Decoding for the command line: an argument that is no photo is an error in its place, and what
Pillow warns of is a note of the photo.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from npvgg import pipeline
from npvgg.cli.inputs import Photo
from npvgg.cli.progress import log
from npvgg.data import Transform
from npvgg.pipeline import Decoded

MOST_WARNINGS = 10

_decoding = threading.local()


def decode(photo: Photo, transform: Transform) -> Decoded:
    """Open a photo and prepare it; what goes wrong is in what is returned."""
    if photo.error:
        return Decoded(error=photo.error)
    with _warned() as warned:
        found = pipeline.decoded(photo.source, transform)
    return replace(found, notes=(*found.notes, *warned)) if warned and not found.error else found


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
