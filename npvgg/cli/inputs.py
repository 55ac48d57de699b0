"""Arguments of the command line → photos, in order: files, folders, patterns, lists of files, and
`-` for standard input.

Whatever cannot be found keeps its place as a photo with an error, so that no argument vanishes.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from glob import has_magic, iglob
from pathlib import Path
from typing import BinaryIO

from npvgg.errors import ArgumentError
from npvgg.formats.files import open_regular
from npvgg.formats.untrusted import path_text
from npvgg.images.opening import SUFFIXES

MAX_STDIN = 256 * 2**20
"""Most bytes read from standard input, for a photo or for a list."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


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
    """What arguments mean: the photos, and what of their folders was left out."""

    photos: list[Photo] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Files not known as photos."""
    links: list[str] = field(default_factory=list)
    """Linked folders that were not followed."""
    loops: list[str] = field(default_factory=list)
    """Linked folders that had been listed already."""


Stdin = Callable[[], BinaryIO | None]


def expand(
    arguments: Iterable[str],
    stdin: Stdin,
    *,
    files_from: str | None = None,
    null_separated: bool = False,
    follow: bool = False,
) -> Listing:
    """List the photos that the arguments mean, at least one entry per argument.

    A folder gives the photos in it and below it, sorted by path; hidden files are left out of all
    lists, and a folder that cannot be listed is an entry with its error. A pattern (`*`, `?`,
    `[…]`, `**`) is tried where no file has that very name; `**` is a folder and what is below it.
    Linked folders inside of folders are left out, or followed once each.

    stdin: gives standard input, None for none; called for `-` alone
    files_from: a file of more names (`-`: standard input), a line each, or null-separated; they are
    files, whatever they look like
    Raises ArgumentError where that list cannot be read.
    """
    listing = Listing()
    walk = _Walk(listing, follow)
    used = False
    for argument in arguments:
        if argument == "-":
            used, error = True, "standard input can be read only once" if used else ""
            data, error = (b"", error) if error else _all_of(stdin())
            listing.photos.append(Photo("-", data, error))
        elif _URL.match(argument) and not os.path.lexists(argument):
            reason = "URLs are not read; fetch the file first, or pipe it in and write -"
            listing.photos.append(Photo(argument, error=reason))
        elif os.path.isdir(argument):
            before = len(listing.photos)
            walk.add(argument)
            if len(listing.photos) == before:
                listing.photos.append(Photo(argument, error="no photos in this folder"))
        elif not os.path.lexists(argument) and has_magic(argument):
            before = len(listing.photos)
            walk.add_matches(argument)
            if len(listing.photos) == before:
                listing.photos.append(Photo(argument, error="no file matches this pattern"))
        else:
            listing.photos.append(Photo(argument, Path(argument)))
    if files_from is not None:
        if files_from == "-" and used:
            raise ArgumentError("--files-from: standard input can be read only once")
        names = _listed(files_from, null_separated, stdin)
        listing.photos += [Photo(name, Path(name)) for name in names]
        if not names:
            listing.photos.append(Photo(files_from, error="no names in this list"))
    return listing


def _all_of(stdin: BinaryIO | None) -> tuple[bytes, str]:
    """Read standard input: the bytes, or why there are none."""
    if stdin is None or stdin.closed:
        return b"", "standard input is closed"
    data = stdin.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        return b"", f"expected at most {MAX_STDIN:,} bytes from standard input, got more"
    return data, "" if data else "nothing came from standard input"


def _listed(path: str, null_separated: bool, stdin: Stdin) -> list[str]:
    if path == "-":
        data, error = _all_of(stdin())
    else:
        try:
            with open_regular(path) as file:
                data, error = file.read(MAX_STDIN + 1), ""
        except OSError as problem:
            data, error = b"", f"cannot be read: {problem.strerror or problem}"
    if len(data) > MAX_STDIN:
        error = f"expected at most {MAX_STDIN:,} bytes, got more"
    if error and not error.startswith("nothing came"):
        raise ArgumentError(f"--files-from: {path_text(path)}: {error}")
    if not null_separated:
        data = data.replace(b"\r\n", b"\n")
        if b"\0" in data:
            raise ArgumentError(f"--files-from: {path_text(path)}: expected lines, got nulls (-0)")
    return [os.fsdecode(name) for name in data.split(b"\0" if null_separated else b"\n") if name]


class _Walk:
    """Goes through folders; one that is reached by a link, at most once."""

    def __init__(self, listing: Listing, follow: bool) -> None:
        self.listing, self.follow = listing, follow

    def add(self, folder: str) -> None:
        """List a folder and what is below it."""
        self._add(folder, set())

    def _add(self, folder: str, seen: set[tuple[int, int]]) -> None:
        for path in self._files(folder, seen):
            if os.path.splitext(path)[1].lower() in SUFFIXES:
                self.listing.photos.append(Photo(path, Path(path)))
            else:
                self.listing.others.append(path)

    def _files(self, top: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        """Yield every file below a folder, sorted; folders wait on a stack, without recursion."""
        stack = [top]
        seen.add(_identity(top))
        while stack:
            folder = stack.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                reason = f"cannot be listed: {error.strerror}"
                self.listing.photos.append(Photo(error.filename or folder, error=reason))
                continue
            folders = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = os.path.join(folder, entry.name)
                if not os.path.isdir(path):
                    yield path
                elif not os.path.islink(path):
                    seen.add(_identity(path))
                    folders.append(path)
                elif not self.follow:
                    self.listing.links.append(path)
                elif (identity := _identity(path)) in seen:
                    self.listing.loops.append(path)
                else:
                    seen.add(identity)
                    folders.append(path)
            stack += reversed(folders)

    def add_matches(self, pattern: str) -> None:
        """List the files that match a pattern, whatever their suffix, sorted by path."""
        parts = pattern.split(os.sep)
        if "**" not in parts:
            found = [path for path in iglob(pattern) if os.path.isfile(path)]
        else:
            at = parts.index("**")
            head = os.sep.join(parts[:at]) or (os.sep if pattern.startswith(os.sep) else "")
            tops = [top for top in iglob(head) if os.path.isdir(top)] if head else ["."]
            found = []
            for top in tops:
                for path in self._files(top, set()):
                    inner = os.path.relpath(path, top).split(os.sep)
                    if _fits(inner, parts[at:]):
                        found.append(path if head else os.path.relpath(path, top))
        self.listing.photos += [Photo(path, Path(path)) for path in sorted(found)]


def _identity(folder: str) -> tuple[int, int]:
    """Return what tells a folder from all others, whatever path leads there."""
    try:
        status = os.stat(folder)
    except OSError:
        return (0, hash(folder))
    return (status.st_dev, status.st_ino)


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Return whether a path matches a pattern, component by component; `**` is any number of them.

    places[j]: whether the parts so far match the first j components of the pattern
    """
    places = [True] + [False] * len(pattern)
    for j, component in enumerate(pattern):
        places[j + 1] = places[j] and component == "**"
    for part in parts:
        step = [False] * len(places)
        for j, component in enumerate(pattern):
            if component == "**":
                step[j + 1] = step[j] or places[j + 1] or places[j]
            else:
                step[j + 1] = places[j] and fnmatch.fnmatch(part, component)
        places = step
    return places[-1]
