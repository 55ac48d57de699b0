"""What was asked for → the list of photos, one after another, in an order that repeats.

    a folder                the photos in it and below it, sorted by path, hidden ones left out
    a file in .tar          its photos (webdataset's layout, not compressed), in their order
    a file in .parquet      a photo per row, from a column of paths or of bytes
    a URL, with ://         each of these, through fsspec; a pattern (*, ?, […]) is looked up
    any other file          itself
    the lines of a file     each a path or a URL, as it stands

What cannot be found is listed all the same: it becomes a row with its error, when its turn comes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Any, NamedTuple

from npvgg.batch import guests
from npvgg.errors import ArgumentError
from npvgg.formats import tararchive
from npvgg.formats.files import open_regular
from npvgg.images.opening import SUFFIXES

COLUMNS = ("path", "url", "bytes", "image")
"""Columns of a parquet file in which photos are looked for, if none is named."""


BATCH = 1024
"""Rows of a parquet file that are held at once."""

MAX_PATH = 32_768
"""Longest path or URL of a list, in characters: Windows has that many, Linux 4,096."""


class Entry(NamedTuple):
    """One photo of the list.

    path: what rows call it; where it is, unless it is inside a container
    size: bytes, if known
    stamp: what changes when the file (or the container) does, if anything tells
    container, offset: the tar file and the place of its first byte, or the parquet file and the row
    column: of the parquet file
    """

    path: str
    size: int | None = None
    stamp: str | None = None
    container: str | None = None
    offset: int | None = None
    column: str | None = None


def listed(
    arguments: Iterable[str], files_from: str | None = None, column: str | None = None
) -> Iterator[Entry]:
    """List the photos that are meant, as they are found. Raises ArgumentError."""
    for argument in arguments:
        yield from _argument(argument, column)
    if files_from is not None:
        try:
            with open_regular(files_from) as raw, io.BufferedReader(raw) as file:  # type: ignore[type-var]
                while line := file.readline(4 * MAX_PATH + 4):
                    if line.strip():
                        path = os.fsdecode(line.rstrip(b"\r\n"))
                        yield named(_sized(files_from, path))
        except OSError as error:
            reason = error.strerror or error
            raise ArgumentError(f"files_from: {files_from!r}: {reason}") from None


def _argument(argument: str, column: str | None) -> Iterator[Entry]:
    suffix = os.path.splitext(argument)[1].lower()
    if suffix == ".tar":
        yield from _in_tar(argument)
    elif suffix == ".parquet":
        yield from _in_parquet(argument, column)
    elif is_url(argument):
        yield from _at_url(argument)
    elif os.path.isdir(argument):
        yield from _in_folder(argument)
    else:
        yield named(argument)


def is_url(path: str) -> bool:
    """Tell a URL, which fsspec opens, from a path of this machine."""
    return "://" in path


def is_photo(path: str) -> bool:
    """Return whether, by the end of its name, a file is taken for a photo."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def named(path: str) -> Entry:
    """Return the entry of a file that was named itself; a URL is not asked for before its turn."""
    if is_url(path):
        return Entry(path)
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return Entry(path)
    return Entry(path, state.st_size, stamp(state))


def stamp(state: os.stat_result) -> str:
    """Return what changes when a file of this machine does: its size and time, "bytes-ns"."""
    return f"{state.st_size}-{state.st_mtime_ns}"


def _in_folder(top: str) -> Iterator[Entry]:
    waiting = [top]  # not by recursion: folders may be as deep as they like
    while waiting:
        folder = waiting.pop()
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(folder) as inside:
                for item in inside:
                    if not item.name.startswith("."):
                        (folders if item.is_dir(follow_symlinks=False) else files).append(item.name)
        except OSError:
            yield Entry(folder)
            continue
        for name in sorted(files):
            if is_photo(name):
                yield named(os.path.join(folder, name))
        waiting += (os.path.join(folder, name) for name in sorted(folders, reverse=True))


def _in_tar(archive: str) -> Iterator[Entry]:
    with opened(archive) as (file, mark), refusing(archive):
        for name, size, offset in tararchive.members(file):
            if is_photo(name):
                yield Entry(f"{archive}#{name}", size, mark, archive, offset)


def _in_parquet(table: str, column: str | None) -> Iterator[Entry]:
    pa, pq = guests.arrow()
    with opened(table) as (file, mark), refusing(table):
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise ArgumentError(f"source: {table!r}: not a parquet file: {error}") from None
        name = column or next((c for c in COLUMNS if c in schema.names), None)
        if name is None or schema.names.count(name) != 1:
            raise ArgumentError(
                f"column: expected one of {', '.join(schema.names)} of {table!r}, got {name!r}"
            )
        rows = parquet.metadata.num_rows
        if rows > file.seek(0, os.SEEK_END):  # a few bytes can state any number
            raise ArgumentError(
                f"source: {table!r}: expected at most a row for each of its bytes, got {rows}"
            )
        kind = schema.field(name).type
        if holds_text(pa, kind):
            for batch in parquet.iter_batches(BATCH, columns=[name], use_threads=False):
                for path in batch.column(0).to_pylist():
                    yield named(_sized(table, path)) if path else Entry("")
        elif holds_bytes(pa, kind):
            for row in range(rows):
                yield Entry(f"{table}#{row}", None, mark, table, row, name)
        else:
            raise ArgumentError(
                f"column: expected text or bytes, {name!r} of {table!r} holds {kind}"
            )


def _sized(source: str, path: str) -> str:
    """Return a path, if it is no longer than paths are. Raises ArgumentError."""
    if len(path) > MAX_PATH:
        raise ArgumentError(
            f"source: {source!r}: expected paths of at most {MAX_PATH} characters, got {len(path)}"
        )
    return path


def holds_text(pa: Any, kind: Any) -> bool:
    """Return whether a column holds text, each as it stands or by its number in a dictionary, as
    pandas writes categories.
    """
    if pa.types.is_dictionary(kind):
        return holds_text(pa, kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def holds_bytes(pa: Any, kind: Any) -> bool:
    """Return whether a column holds files: bytes, or a structure with a field `bytes`, as Hugging
    Face's data sets store images.
    """
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and holds_bytes(pa, field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _at_url(url: str) -> Iterator[Entry]:
    fs, path = filesystem(url)
    with refusing(url):
        if any(c in path for c in "*[") and not is_photo_url(fs, path):
            found = fs.glob(path, detail=True)
        elif is_photo(path):
            yield Entry(url, *told(fs.info(path)) if fs.exists(path) else ())
            return
        else:
            found = fs.find(path, detail=True)
        inside = sorted((p, info) for p, info in found.items() if is_photo(p))
    for place, info in inside:
        yield Entry(fs.unstrip_protocol(place), *told(info))
    if not inside:
        yield Entry(url)


def is_photo_url(fs: Any, path: str) -> bool:
    """Return whether a path of a file system that looks like a pattern is a file of that name."""
    return bool(is_photo(path) and fs.exists(path))


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it. Raises ArgumentError."""
    with refusing(url):
        found: tuple[Any, str] = guests.fsspec().core.url_to_fs(url)
    return found


@contextmanager
def refusing(url: str) -> Iterator[None]:
    """Whatever a file system raises leaves as ArgumentError."""
    try:
        yield
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(f"source: {url!r}: {error or type(error).__name__}") from error


@contextmanager
def opened(path: str) -> Iterator[tuple[IO[bytes], str | None]]:
    """Open a container, of this machine or a URL; give its stamp as well. Raises ArgumentError."""
    if is_url(path):
        fs, place = filesystem(path)
        with refusing(path):
            mark, file = told(fs.info(place))[1], fs.open(place, "rb")
    else:
        try:
            file = io.BufferedReader(open_regular(path))
        except OSError as error:
            raise ArgumentError(f"source: {path!r}: {error.strerror or error}") from None
        mark = stamp(os.fstat(file.fileno()))
    with file:
        yield file, mark


def told(info: dict[str, Any]) -> tuple[int | None, str | None]:
    """Return size and stamp of a file as its file system tells them: its etag, or its time."""
    keys = (
        "ETag", "etag", "mtime", "LastModified", "last_modified", "Last-Modified", "created",
    )  # fmt: skip
    mark = next((info[key] for key in keys if info.get(key) is not None), None)
    size = info.get("size")
    if mark is None:
        return size, None
    if isinstance(mark, datetime):  # where `info` has a date, `find` may have seconds
        mark = mark.timestamp()
    return size, f"{size}-{mark}"
