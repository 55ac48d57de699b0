"""Outcomes → NumPy files: vectors as npy or npz, feature maps as one npz per photo."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npvgg.cli.predict import Outcome
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write
from npvgg.ops import Array


def as_npy(outcomes: Iterable[Outcome], count: int, length: int, dtype: str) -> Iterator[bytes]:
    """Write a (count, length) array row by row; the row of a photo that failed is NaN."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        header, {"descr": descr, "fortran_order": False, "shape": (count, length)}
    )
    yield header.getvalue()
    for outcome in outcomes:
        yield _vector(outcome, length, dtype).tobytes()


def as_npz(outcomes: Iterable[Outcome], count: int, length: int, dtype: str) -> Iterator[bytes]:
    """Write `embeddings` (count, length), and `path`, `status` and `error` of each photo."""
    embeddings = np.full((count, length), np.nan, dtype)
    texts: dict[str, list[str]] = {"path": [], "status": [], "error": []}
    for row, outcome in zip(embeddings, outcomes, strict=True):
        row[:] = _vector(outcome, length, dtype)
        for name, column in texts.items():
            column.append(getattr(outcome, name))
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.array(column, dtype=str) for name, column in texts.items()}
    np.savez(buffer, embeddings=embeddings, **arrays)
    yield buffer.getvalue()


def save_maps(
    folder: str, number: int, path: str, maps: Mapping[str, Array], *, overwrite: bool
) -> str:
    """Write one photo's maps as `<number>_<name>.npz` into a folder, which is made; give the file's
    path.

    The number is the photo's place in the run, so photos of one name do not meet.
    Raises ArgumentError where the file cannot be written.
    """
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(path).stem) or "stdin"
    target = os.path.join(folder, f"{number:05d}_{stem[:100]}.npz")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(maps)
    np.savez(buffer, **arrays)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise ArgumentError(f"--output: expected a folder, got the file {folder}")
    try:
        os.makedirs(folder, exist_ok=True)
        atomic_write(target, buffer.getvalue(), overwrite=overwrite)
    except FileExistsError:
        raise ArgumentError(f"--output: {target} exists; --force replaces it") from None
    except OSError as error:
        raise ArgumentError(f"--output: {target}: {error.strerror or error}") from None
    return target


def _vector(outcome: Outcome, length: int, dtype: str) -> Array:
    if outcome.answer is None:
        return np.full(length, np.nan, dtype)
    return np.ascontiguousarray(outcome.answer, dtype)
