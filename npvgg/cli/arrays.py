"""Results → NumPy files: vectors as npy or npz, feature maps as one npz per photo."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npvgg.cli.inputs import Photo
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write
from npvgg.formats.untrusted import path_text
from npvgg.ops import Array
from npvgg.pipeline import Result


def as_npy(
    outcomes: Iterable[Result[Photo]], photos: Sequence[Photo], length: int, dtype: str
) -> Iterator[bytes]:
    """Write a (photos, length) array row by row; the row of a photo that failed is NaN."""
    yield npy_header(len(photos), length, dtype)
    for outcome in outcomes:
        yield _vector(outcome, length, dtype).tobytes()


def npy_header(count: int, length: int, dtype: str) -> bytes:
    """Return the bytes before the numbers of a (count, length) array; as many for any count."""
    shape = (count, length) if length else (count,)
    fields = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    text = f"{fields!r}".encode()
    room = 118  # of 128 bytes: NumPy's own headers take 128, too, up to 21 digits of shape
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


def as_npz(
    outcomes: Iterable[Result[Photo]], photos: Sequence[Photo], length: int, dtype: str
) -> Iterator[bytes]:
    """Write `embeddings` (photos, length), and `path`, `status` and `error` of each photo.

    The vectors go out as they come; only the errors are held. Texts have the width of the longest
    (NumPy's `<U`), compressed.
    """
    errors: dict[int, str] = {}
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            for piece in as_npy(_seen(outcomes, errors), photos, length, dtype):
                member.write(piece)
                yield sink.taken()
        places = range(len(photos))
        paths = [photo.path for photo in photos]
        for name, column, longest in (
            ("path", iter(paths), paths),
            ("status", ("error" if place in errors else "ok" for place in places), ["error"]),
            ("error", (errors.get(place, "") for place in places), errors.values()),
        ):
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            descr = f"<U{max(map(len, longest), default=1) or 1}"
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(npy_header(len(photos), 0, descr))
                for text in column:
                    member.write(np.array([text], descr).tobytes())
            yield sink.taken()
    yield sink.taken()


def _seen(outcomes: Iterable[Result[Photo]], errors: dict[int, str]) -> Iterator[Result[Photo]]:
    """Pass outcomes through, and note the errors by their place."""
    for number, outcome in enumerate(outcomes):
        if outcome.error:
            errors[number] = outcome.error
        yield outcome


class _Sink(io.RawIOBase):
    """A stream to be written forwards alone; what was written can be taken out."""

    def __init__(self) -> None:
        self.held = bytearray()

    def writable(self) -> bool:
        """Say that it can be written, as zipfile asks."""
        return True

    def write(self, data: Any) -> int:
        """Hold some bytes."""
        self.held += data
        return len(data)

    def taken(self) -> bytes:
        """Return what has been written since the last time."""
        data = bytes(self.held)
        self.held.clear()
        return data


# --- Feature maps ---------------------------------------------------------------------------------


def maps_path(folder: str, photo: Photo) -> str:
    """Return the file of one photo's maps: its name, and a digest of its whole path, or of the
    bytes that came from standard input. So it depends on the photo alone, not on the run.
    """
    if isinstance(photo.source, bytes):
        stem, identity = "stdin", photo.source
    else:
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(photo.path).stem)
        identity = os.fsencode(os.path.abspath(photo.path))
    digest = hashlib.sha256(identity).hexdigest()[:12]
    return os.path.join(folder, f"{stem[:100] or '_'}_{digest}.npz")


def save_maps(target: str, maps: Mapping[str, Array], *, overwrite: bool) -> None:
    """Write one photo's maps into a file, whose folder is made.

    Raises ArgumentError where the file cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(maps)
    np.savez(buffer, **arrays)
    try:
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        atomic_write(target, buffer.getvalue(), overwrite=overwrite)
    except FileExistsError:
        raise ArgumentError(f"--output: {path_text(target)} exists; --force replaces it") from None
    except OSError as error:
        raise ArgumentError(f"--output: {path_text(target)}: {error.strerror or error}") from None


def _vector(outcome: Result[Photo], length: int, dtype: str) -> Array:
    if outcome.answer is None:
        return np.full(length, np.nan, dtype)
    return np.ascontiguousarray(outcome.answer, dtype)
