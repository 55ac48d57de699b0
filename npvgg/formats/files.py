"""Files read whole or not at all, and written whole or not at all.

Nothing is memory-mapped: a file that is truncated under a map kills the process (SIGBUS), and one
that is rewritten under a map changes the weights of a running model.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from npvgg.formats.untrusted import blaming

Chunk = bytes | bytearray | memoryview


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The file at `path`, open for unbuffered reading; devices, pipes and directories are refused.

    Raises OSError; for a pipe at once, where a plain `open` would wait for its writer.
    """
    if "\0" in os.fspath(path):
        raise OSError("expected a path without null characters")

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", buffering=0, opener=opener)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("expected a regular file, got a device, pipe or socket")
    return file


def read_into(file: BinaryIO, buffer: memoryview) -> None:
    """The next bytes of the file fill the whole buffer. Raises OSError where it ends first."""
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"expected {len(buffer)} more bytes, got {done}: the file was cut short")
        done += count


def sha256(*paths: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file or of several one after another, hexadecimal.

    Raises WeightsError.
    """
    digest = hashlib.sha256()
    for path in paths:
        with blaming(path), open_regular(path) as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()


def atomic_write(
    path: str | os.PathLike[str], chunks: Chunk | Iterable[Chunk], *, overwrite: bool = False
) -> None:
    """The chunks become the file at `path` in one step: complete and on the disk, or not at all.

    They are written under a temporary name in the same directory, flushed to the disk and renamed.
    A reader sees the old file or the new one; on any failure, an interrupt included, the temporary
    file is removed. Permission bits are those of a new file under the umask. A symbolic link is
    followed when `overwrite` is true. Raises OSError (FileExistsError where a file is in the way).
    """
    if "\0" in os.fspath(path):
        raise OSError("expected a path without null characters")
    target = Path(os.path.realpath(path)) if overwrite else Path(path)
    _check_vacant(target, overwrite)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb", buffering=0) as file:
            for chunk in (chunks,) if isinstance(chunks, Chunk) else chunks:
                _write_all(file, memoryview(chunk).cast("B"))
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, target)
        else:
            _publish_new(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(target.parent)


def _check_vacant(target: Path, overwrite: bool) -> None:
    """Fail early, before any byte is written, where the target cannot be (re)placed."""
    if target.exists() and not target.is_file():
        raise OSError("expected a regular file to replace, got a directory or a device")
    if os.path.lexists(target) and not overwrite:
        raise _in_the_way()


def _in_the_way() -> FileExistsError:
    return FileExistsError(errno.EEXIST, "a file is there; overwrite=True replaces it")


def _write_all(file: BinaryIO, view: memoryview) -> None:
    """Write every byte: a raw file may take only a part at a time."""
    while len(view):
        view = view[file.write(view) :]


def _publish_new(temporary: Path, target: Path) -> None:
    """Rename without replacing: `link` fails where another process was faster, `rename` would not.

    File systems without hard links get the check and the rename, which leave a small gap.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _in_the_way() from None
    except OSError:
        _check_vacant(target, overwrite=False)
        os.replace(temporary, target)
    else:
        os.unlink(temporary)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself durable; only POSIX lets a directory be synced."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_folder(
    path: str | os.PathLike[str], files: Mapping[str, Chunk], *, overwrite: bool = False
) -> None:
    """The files become a new folder at `path` in one step, or nothing does.

    overwrite: replace a folder that is there, with all that is in it; it is moved aside first, and
    comes back where the new one cannot take its place
    Raises OSError.
    """
    target = Path(path)
    if os.path.lexists(target) and not overwrite:
        raise _in_the_way()
    temporary, old = (target.parent / f".{secrets.token_hex(8)}.tmp" for _ in range(2))
    try:
        os.mkdir(temporary)
        for name, chunk in files.items():
            atomic_write(temporary / name, chunk)
        if os.path.lexists(target):
            os.rename(target, old)
        try:
            os.rename(temporary, target)
        except BaseException:
            if os.path.lexists(old):
                os.rename(old, target)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync_directory(target.parent)
