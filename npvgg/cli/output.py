"""Where results go: standard output as they come, or a file that is there whole or not at all.

Until it is whole, a file has its partial name, `rows.partial.jsonl` for `rows.jsonl`. That name is
taken before any work begins, so that of two runs with one target the second is refused at once; and
whatever ends a run, its finished rows are there.

Text of files and their names reaches a terminal through `text.escaped` alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self, TextIO

from npvgg.cli.progress import log
from npvgg.cli.text import escaped
from npvgg.errors import ArgumentError
from npvgg.formats.files import publish, sync, write_all
from npvgg.formats.untrusted import path_text, printable

MOST_NAME_BYTES = 255
"""Of most file systems."""

Ending = Callable[[int], tuple[bytes, bytes] | None]
"""Bytes written so far → what replaces the head of an unfinished file, and what closes it; or None
where nothing that could be read is finished."""


def say(text: str) -> None:
    """Write text for people to standard output. Raises ArgumentError where there is none."""
    with _blamed(None):
        _standard_output().write(escaped(text))


def flush() -> None:
    """Write what standard output still holds. Raises ArgumentError where it cannot be written."""
    if sys.stdout is not None and not sys.stdout.closed:
        with _blamed(None):
            sys.stdout.flush()


def abandon() -> None:
    """Give what standard output still holds to nobody: its reader has left, or its disk is full,
    and the interpreter would try again when it ends.
    """
    with suppress(OSError, AttributeError):  # a stream of its own, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_painted(line: str, paints: Iterable[str], plain: str) -> None:
    """Write one line that may be painted as a whole: of what a terminal acts on, that alone."""
    for paint in paints:
        if line.startswith(paint) and line.endswith(plain + "\n"):
            inner = printable(line[len(paint) : -len(plain) - 1])
            with _blamed(None):
                _standard_output().write(f"{paint}{inner}{plain}\n")
            return
    say(line)


def _standard_output() -> TextIO:
    if sys.stdout is None or sys.stdout.closed:
        raise ArgumentError("standard output: expected an open one or --output FILE, got none")
    return sys.stdout


class Place:
    """Where pieces of a result go, for the length of a `with` block."""

    ending: Ending | None = None
    """How an unfinished file becomes a readable one; None where it cannot, and is removed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        pass

    def write(self, piece: bytes) -> None:
        """Write a piece."""


class Standard(Place):
    """Standard output, for bytes; each piece is out as soon as it is there.

    A terminal is given no byte of a file's text that it could act on, a program all of them.
    """

    def __enter__(self) -> Self:
        _standard_output()
        return self

    def write(self, piece: bytes) -> None:
        """Write a piece, through what the stream has: bytes, or text alone as in a notebook."""
        binary = getattr(sys.stdout, "buffer", None)
        with _blamed(None):
            if binary is None or getattr(sys.stdout, "isatty", bool)():
                text = piece.decode(errors="backslashreplace")
                sys.stdout.write("\t".join(map(escaped, text.split("\t"))))
            else:
                binary.write(piece)
            sys.stdout.flush()


class InPlace(Place):
    """What is there and no file, as a pipe or a device: written as it comes."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Self:
        with _blamed(self.path):
            self.file = open(self.path, "wb", buffering=0, opener=_with_a_reader)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.file.close()

    def write(self, piece: bytes) -> None:
        """Write a piece."""
        with _blamed(self.path):
            write_all(self.file, memoryview(piece))


def _with_a_reader(path: str, flags: int) -> int:
    """Open for writing; say so where that waits, for a pipe that nobody reads yet."""
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
            raise
        log.error("--output: %s is a pipe: waiting for a program that reads it", _shown(path))
        return os.open(path, flags, 0o666)
    if hasattr(os, "set_blocking"):
        os.set_blocking(descriptor, True)
    return descriptor


class WholeFile(Place):
    """A file under its partial name, which gets its own name when the block ends well.

    A name that ends in `.gz` is compressed. Raises ArgumentError at the beginning of the block
    where the file is there (unless `overwrite`), another run is writing it, or an earlier run was
    ended amid it; and whenever it cannot be written.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.path, self.overwrite = path, overwrite
        self.target = Path(os.path.realpath(path)) if overwrite else Path(path)
        self.partial = _partial_name(self.target)
        self.lock = threading.Lock()
        self.done = 0
        compressed = self.target.suffix.lower() == ".gz"
        self.compressor = zlib.compressobj(6, wbits=31) if compressed else None

    def __enter__(self) -> Self:
        with _claiming, self.lock, _blamed(self.path):  # a signal that comes now waits for the end
            if os.path.isdir(self.target):
                name = _shown(self.path)
                raise ArgumentError(f"--output: expected a file, got the folder {name}")
            if os.path.lexists(self.target) and not self.overwrite:
                raise ArgumentError(f"--output: {_shown(self.path)} exists; --force replaces it")
            _open.add(self)
            try:
                self.file = _claimed(self.partial, self.overwrite)
            except BaseException:
                _open.discard(self)
                raise
        return self

    def write(self, piece: bytes) -> None:
        """Write a piece: one row, as a rule, for an unfinished file ends between two pieces."""
        with self.lock, _blamed(self.path):
            self._append(piece)
            self.done += len(piece)

    def _append(self, piece: bytes) -> None:
        if self.compressor is not None:
            piece = self.compressor.compress(piece)
        write_all(self.file, memoryview(piece))

    def __exit__(self, kind: object, *error: object) -> None:
        whole = False
        try:
            if kind is None:
                self._publish()
                whole = True
        finally:
            kept = "" if whole else self.leave()
            if kept:
                log.error(kept)

    def _publish(self) -> None:
        with self.lock, _blamed(self.path):
            if self.compressor is not None:
                write_all(self.file, memoryview(self.compressor.flush()))
            sync(self.file.fileno())
            if os.name == "nt":  # where no open file can be renamed, and none is locked
                self.file.close()
            publish(self.partial, self.target, overwrite=self.overwrite)
            _open.discard(self)
            self.file.close()

    def leave(self, patience: float = -1) -> str:
        """Close the file unfinished; return a sentence on what is kept, "" where nothing is.

        patience: seconds to wait for a piece that another thread is writing
        """
        taken = self.lock.acquire(timeout=patience)
        try:
            if self not in _open:
                return ""
            _open.discard(self)
            ending = self.ending(self.done) if self.done and self.ending else None
            if ending is None:
                os.unlink(self.partial)
                self.file.close()
                return ""
            head, tail = ending
            if taken:
                self._append(tail)
                if self.compressor is not None:
                    write_all(self.file, memoryview(self.compressor.flush()))
                elif head:
                    self.file.seek(0)
                    write_all(self.file, memoryview(head))
            self.file.close()
        except OSError:  # the disk is full: what is there is there
            pass
        finally:
            if taken:
                self.lock.release()
        return f"what was finished is kept in {_shown(self.partial)}"


class Parting:
    """Something to be said where a signal ends the command within a `with` block."""

    def __init__(self, sentence: Callable[[], str]) -> None:
        self.sentence = sentence

    def __enter__(self) -> Self:
        _open.add(self)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        _open.discard(self)

    def leave(self, patience: float = -1) -> str:
        """Return the sentence."""
        return self.sentence()


_open: set[WholeFile | Parting] = set()
_claiming = threading.Lock()


def leave(patience: float) -> list[str]:
    """Close every file under way, in whatever thread; return what is to be said of each. None can
    be begun after this: the process ends.
    """
    _claiming.acquire(timeout=patience)  # and never released
    return [kept for file in list(_open) if (kept := file.leave(patience))]


def opened(path: str | None, *, overwrite: bool) -> Place:
    """Return where `--output PATH` goes; none of it is touched before it is entered."""
    if path is None or path == "-":
        return Standard()
    if not path or "\0" in path or not Path(path).name:
        raise ArgumentError(f"--output: expected the name of a file, got {path!r}")
    try:
        mode = os.stat(path).st_mode
    except OSError:
        mode = stat.S_IFREG
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.startswith(("/dev/", "/proc/")):
        return InPlace(path)
    return WholeFile(path, overwrite=overwrite)


def check_vacant(option: str, path: str | None, *, force: bool) -> None:
    """Refuse at once a file that could not be written after long work. Raises ArgumentError.

    option: what to blame, such as --html
    """
    if not path:
        return
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        why = "is a folder"
    elif os.path.lexists(path) and not force:
        why = "exists; --force replaces it"
    elif os.path.exists(path) and not os.path.isfile(path):
        why = "cannot be written: expected a file to replace, got a device or a pipe"
    elif not os.path.isdir(folder):
        why = f"cannot be written: there is no folder {_shown(os.path.dirname(path))}"
    elif not os.access(folder, os.W_OK):
        why = f"cannot be written: no permission in {_shown(folder)}"
    else:
        return
    raise ArgumentError(f"{option}: {_shown(path)} {why}")


def send(pieces: Iterable[bytes], place: Place) -> None:
    """Write pieces as they come."""
    for piece in pieces:
        place.write(piece)


def _partial_name(target: Path) -> Path:
    """Return rows.partial.csv.gz for rows.csv.gz; or a digest where that gets too long."""
    hidden = target.name[: len(target.name) - len(target.name.lstrip("."))]
    stem, dot, suffixes = target.name.lstrip(".").partition(".")
    name = f"{hidden}{stem}.partial{dot}{suffixes}"
    if len(os.fsencode(name)) > MOST_NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        name = f"{digest}.partial{dot}{suffixes[-40:]}"
    return target.with_name(name)


def _claimed(path: Path, overwrite: bool) -> BinaryIO:
    """Open a file that no other run writes. Raises OSError, ArgumentError."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    try:
        descriptor, fresh = os.open(path, flags | os.O_EXCL, 0o666), True
    except FileExistsError:  # empty, if its run was ended at once
        descriptor, fresh = os.open(path, flags, 0o666), False
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        if not _locked(descriptor):
            raise ArgumentError(f"--output: another run is writing {_shown(path)}")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArgumentError(f"--output: expected no pipe or device at {_shown(path)}")
        if not (fresh or overwrite) and os.fstat(descriptor).st_size:
            raise ArgumentError(
                f"--output: {_shown(path)} holds what an earlier run had finished when it was "
                "ended; move it away, or --force replaces it"
            )
        file.truncate()
    except BaseException:
        file.close()
        raise
    return file


def _locked(descriptor: int) -> bool:
    """Lock an open file until it is closed; tell whether nobody else had. Systems without such
    locks always get it.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


@contextmanager
def _blamed(path: str | None) -> Iterator[None]:
    """Turn the system's errors into ArgumentErrors that name the option and the path; None for
    standard output.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except FileExistsError:
        raise ArgumentError(f"--output: {_shown(path or '')} exists; --force replaces it") from None
    except OSError as error:
        reason = error.strerror or error
        if path is None:
            abandon()
        what = "standard output" if path is None else f"--output: {_shown(path)}"
        raise ArgumentError(f"{what} cannot be written: {reason}") from None


def _shown(path: str | Path) -> str:
    return path_text(path)
