"""Files read whole or not at all, and written whole or not at all.

Nothing is memory-mapped: a file that is truncated under a map kills the process (SIGBUS), and one
that is rewritten under a map changes the weights of a running model.
"""

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from npvgg.formats.untrusted import blaming, shown

Chunk = bytes | bytearray | memoryview


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Return the file at `path`, open for unbuffered reading; devices, pipes and directories are
    refused.

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
    """Fill the whole buffer with the next bytes of the file. Raises OSError where it ends first."""
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
    """Make the chunks the file at `path` in one step: complete and on the disk, or not at all.

    They are written under a temporary name in the same directory, flushed to the disk and renamed.
    A reader sees the old file or the new one; on any failure, an interrupt included, the temporary
    file is removed. Permission bits are those of a new file under the umask. A symbolic link is
    followed when `overwrite` is true. Raises OSError (FileExistsError where a file is in the way).
    """
    if "\0" in os.fspath(path):
        raise OSError("expected a path without null characters")
    target = Path(os.path.realpath(path)) if overwrite else Path(path)
    _check_vacant(target, overwrite)
    with _temporary(target, _new_file) as (temporary, file):
        with file, _naming(path):
            for chunk in (chunks,) if isinstance(chunks, Chunk) else chunks:
                write_all(file, memoryview(chunk).cast("B"))
            sync(file.fileno())
        with _beginning:
            publish(temporary, target, overwrite=overwrite)


# --- Temporary files ------------------------------------------------------------------------------

T = TypeVar("T")

_unfinished: set[Path] = set()
_beginning = threading.Lock()
"""Held while a temporary file or folder is made, and while one gets its name."""


def _renew_lock() -> None:
    global _beginning
    _beginning = threading.Lock()


if hasattr(os, "register_at_fork"):  # another thread may hold it, which the child does not have
    os.register_at_fork(after_in_child=_renew_lock)


def remove_unfinished(patience: float = 5.0) -> None:
    """Remove the temporary files of every write under way, in whatever thread, for a process that
    ends now: no write can begin, and no folder be replaced, after this.

    patience: seconds to wait for a step that must not be cut in two
    """
    _beginning.acquire(timeout=patience)  # and never released
    for path in list(_unfinished):
        _remove(path)


@contextmanager
def _temporary(target: Path, make: Callable[[Path], T]) -> Iterator[tuple[Path, T]]:
    """Make a file or folder under a hidden name beside the target; what is left of it goes away."""
    path = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with _beginning:
            _unfinished.add(path)
            made = make(path)
        yield path, made
    finally:
        _remove(path)
        _unfinished.discard(path)


def _new_file(path: Path) -> BinaryIO:
    return open(path, "xb", buffering=0)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name, in one step, and make the name durable.

    A target that cannot be renamed onto, as a file that is mounted on its own into a container, is
    written in place; that alone is no single step.
    Raises OSError (FileExistsError where a file is in the way and overwrite is false).
    """
    if not overwrite:
        _publish_new(temporary, target)
    else:
        try:
            os.replace(temporary, target)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            _copy_into(temporary, target)
    _sync_directory(target.parent)


def _copy_into(source: Path, target: Path) -> None:
    with open(source, "rb") as new, open(target, "r+b") as old:
        shutil.copyfileobj(new, old, 2**20)
        old.truncate()
        old.flush()
        sync(old.fileno())
    os.unlink(source)


def _check_vacant(target: Path, overwrite: bool) -> None:
    """Fail early, before any byte is written, where the target cannot be (re)placed."""
    if target.exists() and not target.is_file():
        raise OSError("expected a regular file to replace, got a directory or a device")
    if os.path.lexists(target) and not overwrite:
        raise _in_the_way()


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an error of the system that names no file, as a full disk's, the name of this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _in_the_way() -> FileExistsError:
    return FileExistsError(errno.EEXIST, "a file is there; overwrite=True replaces it")


def write_all(file: BinaryIO, view: memoryview) -> None:
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


def sync(descriptor: int) -> None:
    """Flush to the disk, where the file system knows how."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _sync_directory(directory: Path) -> None:
    """Make the new name itself durable; only POSIX lets a directory be synced.

    The file is there already, whole: a directory that may be written but not read is no failure.
    """
    if hasattr(os, "O_DIRECTORY"):
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a folder to be filled, which gets its name at the end of the block, in one step; or goes
    away.

    Raises OSError, also where something is in the way that is not an empty folder.
    """
    target = Path(path)
    with _temporary(target, os.mkdir) as (temporary, _):
        yield temporary
        with _beginning:
            os.rename(temporary, target)
    _sync_directory(target.parent)


def write_folder(
    path: str | os.PathLike[str],
    files: Mapping[str, Chunk],
    *,
    overwrite: bool = False,
    replaces: Set[str] = frozenset(),
) -> None:
    """Make the files a new folder at `path` in one step, or do nothing.

    overwrite: replace a folder that is there, if all that is in it are files with suffixes of the
    new ones, or suffixes in `replaces`; the two change places in one step, or, where the system
    cannot do that, the old one is moved aside first, and comes back where the new one cannot take
    its place. A symbolic link is followed.
    Raises OSError.
    """
    target = Path(os.path.realpath(path)) if overwrite else Path(path)
    check_replaceable(target, {Path(name).suffix for name in files} | replaces, overwrite)
    old = target.parent / f".{secrets.token_hex(8)}.tmp"
    with _temporary(target, os.mkdir) as (temporary, _):
        for name, chunk in files.items():
            atomic_write(temporary / name, chunk)
        with _beginning:
            if not _exchanged(temporary, target):
                if os.path.lexists(target):
                    os.rename(target, old)
                try:
                    os.rename(temporary, target)
                except BaseException:
                    if os.path.lexists(old):
                        os.rename(old, target)
                    raise
    shutil.rmtree(old, ignore_errors=True)
    _sync_directory(target.parent)


def check_replaceable(path: str | os.PathLike[str], suffixes: Set[str], overwrite: bool) -> None:
    """Fail early where `write_folder` could not take the place of what is there, or would lose a
    file that is not of its kind: a device, a home folder, a folder of notes.

    suffixes: of the files to come, such as ".svg".  Raises OSError.
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise _in_the_way()
    if not os.path.isdir(path):
        raise OSError(errno.ENOTDIR, "expected a folder to replace, got something else")
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False) or Path(entry).suffix not in suffixes:
                raise OSError(errno.ENOTEMPTY, f"holds {shown(entry.name)}, which would be lost")


_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""


def _exchanged(a: Path, b: Path) -> bool:
    """Let two folders change their names in one step; False where the system cannot (`renameat2` is
    Linux's), or one of them is not there.
    """
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return int(rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE)) == 0
