"""One photo of the list → what can be decoded, if it is still what was listed.

A file is looked at before and after it is read: one that is another by then is an error, not a row
of a photo that nobody asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from npvgg.batch import guests
from npvgg.batch.sources import Entry, filesystem, is_url, opened, refusing, stamp, told
from npvgg.errors import ArgumentError, ImageError
from npvgg.images.opening import Source

MAX_BYTES = 2**29
"""Largest photo read whole, out of a container or from a URL: max_pixels of 16-bit colours."""

CHANGED = "changed since the run was planned"


class Reader:
    """Opens photos one after another; keeps the container open that the last one came from.

    base: the folder that relative paths start from
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self._container: _Tar | _Parquet | None = None

    @contextmanager
    def photo(self, entry: Entry) -> Iterator[Source]:
        """Return what the transform can open: a path, or the bytes. Raises ImageError."""
        try:
            if entry.container is not None:
                yield self._opened(entry).read(entry)
            elif not entry.path:
                raise ImageError("the row holds no path")
            elif is_url(entry.path):
                yield _fetched(entry)
            else:
                path = self._here(entry.path)
                _unchanged(path, entry.stamp)
                try:
                    yield path
                finally:  # also where half of a file was read
                    _unchanged(path, entry.stamp)
        except ArgumentError as error:  # of a container or a URL
            raise ImageError(str(error)) from error

    def close(self) -> None:
        """Close the container, if one is open."""
        if self._container is not None:
            self._container.close()
        self._container = None

    def _here(self, path: str) -> str:
        return path if is_url(path) else os.path.join(self.base, path)

    def _opened(self, entry: Entry) -> _Tar | _Parquet:
        place = self._here(entry.container or "")
        if self._container is None or self._container.place != place:
            self.close()
            self._container = _Tar(place) if entry.column is None else _Parquet(place)
        if not is_url(place):  # a URL was asked when it was opened
            _unchanged(place, entry.stamp)
        if self._container.stamp != entry.stamp:
            self.close()
            raise ImageError(f"{place!r}: {CHANGED}")
        return self._container


class _Container:
    """A file with photos in it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._open = opened(place)
        self.file, self.stamp = self._open.__enter__()

    def close(self) -> None:
        self.file.close()


class _Tar(_Container):
    """A tar file: a photo is so many bytes from some place on."""

    def read(self, entry: Entry) -> bytes:
        size = _bounded(entry, entry.size)
        with refusing(entry.path):
            self.file.seek(entry.offset or 0)
            data = self.file.read(size)
        if len(data) != size:
            raise ImageError(f"{entry.path!r}: expected {size} bytes, the tar file has {len(data)}")
        return data


class _Parquet(_Container):
    """A parquet file: rows are read in their order, one at a time, as each may be large."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        with refusing(place):
            self.parquet = guests.arrow()[1].ParquetFile(self.file)
        self.following, self.column = 0, ""
        self.value: Any = None
        self.values: Iterator[Any] = iter(())

    def read(self, entry: Entry) -> bytes:
        row = entry.offset or 0
        if entry.column != self.column or row + 1 < self.following:
            self.column, self.following = entry.column or "", 0
            self.values = self._from(row)
        with refusing(entry.path):
            while row >= self.following:
                self.value = next(self.values)
                self.following += 1
        value = self.value
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise ImageError(f"{entry.path!r}: the row holds no bytes")
        _bounded(entry, len(value))
        return bytes(value)

    def _from(self, row: int) -> Iterator[Any]:
        """Read from the row group of a row on."""
        metadata, groups = self.parquet.metadata, list(range(self.parquet.num_row_groups))
        while groups and row >= self.following + metadata.row_group(groups[0]).num_rows:
            self.following += metadata.row_group(groups.pop(0)).num_rows
        for batch in self.parquet.iter_batches(
            1, row_groups=groups, columns=[self.column], use_threads=False
        ):
            yield from batch.column(0).to_pylist()


def _unchanged(path: str, planned: str | None) -> None:
    """Raise ImageError unless the file is there, and is what it was when the run was planned."""
    try:
        found = stamp(os.stat(path))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path!r}: {getattr(error, 'strerror', None) or error}") from None
    if planned is not None and found != planned:
        raise ImageError(f"{path!r}: {CHANGED}")


def _fetched(entry: Entry) -> bytes:
    fs, place = filesystem(entry.path)
    with refusing(entry.path):
        size, mark = told(fs.info(place))
    if entry.stamp is not None and mark != entry.stamp:
        raise ImageError(f"{entry.path!r}: {CHANGED}")
    _bounded(entry, size)
    with refusing(entry.path):
        if size is not None:
            return bytes(fs.cat_file(place))
        with fs.open(place, "rb") as file:  # which does not say how much will come
            data = bytes(file.read(MAX_BYTES + 1))
    _bounded(entry, len(data))
    return data


def _bounded(entry: Entry, size: int | None) -> int:
    """Return the size of a photo, if so much may be read at once. Raises ImageError."""
    if size is None:
        return 0
    if not 0 <= size <= MAX_BYTES:
        raise ImageError(f"{entry.path!r}: expected at most {MAX_BYTES} bytes, got {size}")
    return size
