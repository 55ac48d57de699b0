"""Arguments of the command line → photos, in order: files, folders, globs, and `-` for standard
input.

Whatever cannot be found keeps its place as a photo with an error, so that no argument vanishes.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
))  # fmt: skip
"""What counts as a photo inside a folder; a file that is named itself is always tried."""


@dataclass(frozen=True)
class Photo:
    """One photo to be read: what rows call it, where it is (a path, or the bytes), or why it is
    not.
    """

    path: str
    source: Path | bytes = b""
    error: str = ""


@dataclass
class Listing:
    """What arguments mean: the photos, and the paths of the other files in their folders."""

    photos: list[Photo]
    others: list[str]


def expand(arguments: Iterable[str], stdin: BinaryIO) -> Listing:
    """List the photos that the arguments mean, at least one entry per argument.

    A folder gives the photos in it and below it, sorted by path; hidden files are left out of
    both lists, and a folder that cannot be listed is an entry with its error. A pattern (`*`, `?`,
    `[…]`, `**`) is tried where no file has that very name.
    """
    photos: list[Photo] = []
    others: list[str] = []
    for argument in arguments:
        if argument == "-":
            photos.append(_from_stdin(stdin, again=any(p.path == "-" for p in photos)))
        elif os.path.isdir(argument):
            closed: list[OSError] = []
            paths = list(_in_folder(argument, closed.append))
            found = [Photo(path, Path(path)) for path in paths if _is_photo(path)]
            found += [Photo(e.filename, error=f"cannot be listed: {e.strerror}") for e in closed]
            others += [path for path in paths if not _is_photo(path)]
            photos += found or [Photo(argument, error="no photos in this folder")]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            files = [Photo(path, Path(path)) for path in matches if os.path.isfile(path)]
            photos += files or [Photo(argument, error="no file matches this pattern")]
        else:
            photos.append(Photo(argument, Path(argument)))
    return Listing(photos, others)


def _from_stdin(stdin: BinaryIO, *, again: bool) -> Photo:
    if again:
        return Photo("-", error="standard input can be read only once")
    data = stdin.read()
    return Photo("-", data, "" if data else "nothing came from standard input")


def _is_photo(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _in_folder(folder: str, closed: Callable[[OSError], None]) -> Iterator[str]:
    for root, folders, files in os.walk(folder, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(root, name) for name in sorted(files) if name[0] != ".")
