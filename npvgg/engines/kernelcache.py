"""Where compiled kernels are kept, and what is believed of what is found there.

The directory is the user's, `kernel_cache()`, so that the second process starts warm, also where
the package itself is read-only; one that is read-only is read. Its name holds a digest of all that
decides what the machine code is: these sources, Numba, LLVM and the processor. Each kernel and
signature is one file: a digest of what follows, then what Numba says of the compiled function.

What is found there is as trusted as code, so nobody but the user and root may be able to change
it: neither the directory nor any above it. That is looked at from the root down, by descriptors, at
every use, and no link is followed. A damaged or foreign file means compiling again, no failure.

How a compiled function becomes bytes and comes back is Numba's private business. `jit` imports this
module where it needs it, and does without where that fails.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from types import CodeType
from typing import Any

import llvmlite
import numba
from numba import config
from numba.core import compiler, serialize

from npvgg.engines.processor import processor

MAX_BYTES = 64 * 2**20
"""Largest file read; the largest kernel takes half a megabyte."""


@cache
def kernel_cache() -> Path | None:
    """Return the directory of the compiled kernels, or None where there is none to read or write.

    In $NUMBA_CACHE_DIR, else in $XDG_CACHE_HOME or ~/.cache, else among the temporary files. What
    others could write to is not taken, unless it is the first, the user's own word for it.
    """
    for parent in _candidates():
        path = parent / f"kernels-{_digest()}"
        try:
            with _opened(path, make=True):
                if os.access(path, os.W_OK) or any(path.iterdir()):
                    return path
        except OSError:
            continue
    return None


def writable() -> bool:
    """Return whether what is compiled can be kept."""
    path = kernel_cache()
    return path is not None and os.access(path, os.W_OK)


def _candidates() -> Iterator[Path]:
    """Return the folders that may hold it. Links on the way to the user's own are followed now, and
    never again; in a shared temporary folder they are anybody's, and not followed at all.
    """
    if config.CACHE_DIR:
        yield (Path(config.CACHE_DIR) / "npvgg").resolve()
        return
    for folder in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(folder):
            yield (Path(folder) / "npvgg").resolve()
    with suppress(OSError):  # no temporary folder can be written
        yield Path(tempfile.gettempdir()).resolve() / f"npvgg-{_user()}"


@cache
def _digest() -> str:
    """Hash everything on which the machine code depends."""
    state = hashlib.sha256()
    sources = resources.files("npvgg.engines")  # also where the package is a zip file
    for source in sorted(sources.iterdir(), key=lambda entry: entry.name):
        if source.name.endswith(".py"):
            state.update(source.read_bytes())
    switches = f"{config.OPT} {config.LOOP_VECTORIZE} {config.SLP_VECTORIZE}"
    for part in (numba.__version__, llvmlite.__version__, *processor(), switches, sys.version):
        state.update(part.encode())
    return state.hexdigest()[:16]


# --- Whom a directory belongs to ------------------------------------------------------------------


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@contextmanager
def _opened(path: Path, *, make: bool = False) -> Iterator[int | None]:
    """Open a directory, from the root down, if nobody but the user and root could change what is in
    it; None on systems without such descriptors. Raises OSError.

    Where anybody may write but only owners may rename (/tmp), what belongs to the user or to root
    is safe. `$NUMBA_CACHE_DIR` is taken at its word.
    make: make what is missing, for the user alone
    """
    mode = 0o777 if config.CACHE_DIR else 0o700
    if os.open not in os.supports_dir_fd:
        if make:
            path.mkdir(mode, parents=True, exist_ok=True)
        yield None
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path.anchor, flags)
    try:
        for name in path.parts[1:]:
            _check(descriptor, last=False)
            if make:
                with suppress(OSError):  # it is there; or it cannot be made, as the next line finds
                    os.mkdir(name, mode, dir_fd=descriptor)
            below = os.open(name, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        _check(descriptor, last=True)
        yield descriptor
    finally:
        os.close(descriptor)


def _check(descriptor: int, *, last: bool) -> None:
    """Raise OSError where somebody else could change what is in a directory."""
    if config.CACHE_DIR:
        return
    status = os.fstat(descriptor)
    others = status.st_mode & stat.S_IWOTH
    group = status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid)
    if status.st_uid not in (0, _user()):
        raise PermissionError("expected a directory of the user's or of root's")
    if (others or group) and (last or not status.st_mode & stat.S_ISVTX):
        raise PermissionError("expected a directory that nobody else can write to")


@cache
def _is_private(group: int) -> bool:
    """Return whether a group is the user's own, as many systems make one for every user."""
    try:
        import grp
        import pwd

        user, entry = pwd.getpwuid(_user()), grp.getgrgid(group)
    except (ImportError, KeyError):
        return False
    return (entry.gr_gid, entry.gr_name) == (user.pw_gid, user.pw_name) and {*entry.gr_mem} <= {
        user.pw_name
    }


# --- Files ----------------------------------------------------------------------------------------


def read(name: str) -> Any:
    """Return what was kept under a name, or None: for no file, and for one that is not ours."""
    path = kernel_cache()
    if path is None:
        return None
    with _opened(path) as folder:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        place = path / name if folder is None else name
        descriptor = os.open(place, flags | getattr(os, "O_BINARY", 0), dir_fd=folder)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        if folder is not None:
            _check(descriptor, last=True)
        data = file.read(MAX_BYTES)
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    kept, value = pickle.loads(data[32:])
    return value if kept == name else None


def write(name: str, value: Any) -> None:
    """Keep something under a name, in one step. Raises OSError."""
    path = kernel_cache()
    if path is None:
        return
    data = serialize.dumps((name, value))
    temporary = f".{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with _opened(path) as folder:
        old, new = (path / n if folder is None else n for n in (temporary, name))
        descriptor = os.open(old, flags, 0o644, dir_fd=folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(old, dir_fd=folder)
            raise


# --- Numba's side ---------------------------------------------------------------------------------


lost: list[str] = []
"""Why kernels that this process compiled could not be kept, one by one."""


def keep(compiled: Any, function: Callable[..., Any]) -> None:
    """Let a function that Numba compiles be kept, as `numba.njit(cache=True)` does."""
    if kernel_cache() is not None:
        compiled._cache = KernelCache(function)


def _described(code: CodeType) -> tuple[Any, ...]:
    """Return what a function does; its globals are of the sources that name the directory."""
    constants = (
        _described(value)
        if isinstance(value, CodeType)
        else sorted(map(repr, value))
        if isinstance(value, frozenset)  # in an order of its own in each process
        else value
        for value in code.co_consts
    )
    return (code.co_code, code.co_names, *constants)


class KernelCache:
    """What Numba asks of a cache of one function; no file is too damaged and no disk too full."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.cache_path = str(kernel_cache())

    def _name(self, signature: Any, codegen: Any) -> str:
        """Name the file of a signature: whatever differs where the machine code may."""
        function = self.function
        cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
        key = repr((
            function.__module__, function.__qualname__, str(signature), codegen.magic_tuple(),
            _described(function.__code__), serialize.dumps(cells),
        ))  # fmt: skip
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        plain = "".join(c if c.isalnum() or c == "_" else "" for c in self.function.__name__)
        return f"{plain}-{digest}"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Load what was compiled for a signature, or None."""
        target_context.refresh()
        try:
            payload = read(self._name(signature, target_context.codegen()))
            if payload is None:
                return None
            return compiler.CompileResult._rebuild(target_context, *payload)
        except Exception:  # whatever a damaged pickle raises
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled, if it can be kept."""
        try:
            machine_code = result._asdict()["library"]
            if not machine_code.has_dynamic_globals and writable():
                write(self._name(signature, result.codegen), result._reduce())
        except Exception as error:  # a full disk, another Numba
            lost.append(f"{type(error).__name__}: {error}")

    def flush(self) -> None:
        """Forget nothing: the names of files say what they hold."""
