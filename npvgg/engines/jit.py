"""Compiling with Numba: one decorator, one place for the results, and a word when it takes long.

Compiled kernels are kept in a directory of the user's, `kernel_cache()`, so that the second process
starts warm, also where the package itself is read-only. The directory's name holds a digest of
everything that decides what the machine code is: these sources, Numba, LLVM and the processor.
What is found there is as trusted as code. A damaged or foreign file means compiling again, never a
failure.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from llvmlite import binding
from numba.core import caching, config, event
from numba.core.codegen import get_host_cpu_features
from numba.core.compiler_lock import global_compiler_lock

_log = logging.getLogger("npvgg")

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "_npvgg_kernel"

NOTICE_AFTER = 1.0
"""Seconds of compiling, all kernels together, after which a warning says so."""


def kernel(function: Function) -> Function:
    """Compile a function when it is first called, without the interpreter's lock.

    Division by zero follows IEEE 754, and no index is checked: the callers' contracts say what must
    hold. Floating-point operations are never reordered: results have the same bits for any threads
    and any batch, on processors of one kind (those without fused multiply-adds round more often).
    """
    if config.DISABLE_JIT:
        return function
    setattr(function, _MARK, True)
    before, directory = config.CACHE_DIR, kernel_cache()
    config.CACHE_DIR = str(directory or "")
    try:
        compiled = numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)
        if directory is not None:
            compiled._cache = _TolerantCache(function)  # as numba.njit(cache=True) does
    except OSError:  # no place to keep it
        pass
    finally:
        config.CACHE_DIR = before
    return compiled  # type: ignore[no-any-return]


@cache
def kernel_cache() -> Path | None:
    """Give the directory of the compiled kernels, or None where nothing can be kept.

    In $NUMBA_CACHE_DIR, else in $XDG_CACHE_HOME or ~/.cache, else among the temporary files. What
    others could write to is not taken, unless it is the first, the user's own word for it.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    if config.CACHE_DIR:
        candidates = [Path(config.CACHE_DIR) / "npvgg"]
    else:
        home = os.path.expanduser("~")
        caches = [os.environ.get("XDG_CACHE_HOME", ""), os.path.join(home, ".cache")]
        candidates = [Path(path) / "npvgg" for path in caches if os.path.isabs(path)]
        candidates.append(Path(tempfile.gettempdir()) / f"npvgg-{user}")
    for parent in candidates:
        try:
            path = parent / f"kernels-{_digest()}"
            path.mkdir(mode=0o777 if config.CACHE_DIR else 0o700, parents=True, exist_ok=True)
            path = path.resolve()  # links are followed now, and never again
            if hasattr(os, "getuid") and not config.CACHE_DIR and not _only_ours(path, user):
                continue  # what is in there would be run
            with tempfile.TemporaryFile(dir=path):
                return path
        except OSError:
            continue
    return None


def _only_ours(path: Path, user: int) -> bool:
    """Tell whether nobody else can write there; close the folder above, if it is open."""
    parent, own = path.parent.stat(), path.stat()
    if (parent.st_uid, own.st_uid) != (user, user) or own.st_mode & 0o022:
        return False
    if parent.st_mode & 0o022:
        path.parent.chmod(parent.st_mode & 0o7755)
    return True


def processor() -> tuple[str, str]:
    """Give name and features of the processor that Numba compiles for, in LLVM's words."""
    features = config.CPU_FEATURES
    if features is None:
        features = get_host_cpu_features()  # without AVX where $NUMBA_ENABLE_AVX says so
    return config.CPU_NAME or binding.get_host_cpu_name(), features


@cache
def _digest() -> str:
    """Name everything on which the machine code depends."""
    state = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.read_bytes())
    switches = f"{config.OPT} {config.LOOP_VECTORIZE} {config.SLP_VECTORIZE}"
    for part in (numba.__version__, llvmlite.__version__, *processor(), switches, sys.version):
        state.update(part.encode())
    return state.hexdigest()[:16]


class _CheckedFiles(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's files, with two checks of what they give back.

    A digest behind the data: a damaged pickle may still be read, and its machine code be run. The
    key beside it: of two processes that compile at once, one may have overwritten what the other
    one's index points to.
    """

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))

    def load(self, key: Any) -> Any:
        of, data = super().load(key) or (None, None)
        return data if of == key else None

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()  # pickle's loader stops before it

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        whole = hashlib.sha256(data[:-32]).digest() == data[-32:]
        return super()._load_data(name) if whole else None


class _TolerantCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache, for which no file is too damaged and no disk too full."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _CheckedFiles(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=locator.get_source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load what was compiled for a signature, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever a damaged pickle raises
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if it can be kept."""
        try:
            super().save_overload(sig, data)
        except Exception:  # a damaged index, a full disk
            try:
                self.flush()
                super().save_overload(sig, data)
            except Exception:
                return


class _Clock(event.Listener):  # type: ignore[misc]
    """Says that kernels are being compiled, once their compiling has taken a while in all.

    Numba tells it of every compilation's begin and end, of whatever package. They are compiled
    under one lock, each while those that call it wait.
    """

    def __init__(self) -> None:
        self.running = 0
        self.left = NOTICE_AFTER
        self.began = 0.0
        self.timer: threading.Timer | None = None

    def on_start(self, compilation: Any) -> None:
        """Begin with a kernel, if it is one of ours."""
        if not _ours(compilation):
            return
        self.running += 1
        if self.running == 1 and self.left > 0:
            self.began = time.monotonic()
            self.timer = threading.Timer(self.left, self._say)
            self.timer.daemon = True
            with suppress(RuntimeError):  # no thread to be had: no word
                self.timer.start()

    def on_end(self, compilation: Any) -> None:
        """End with a kernel, compiled or not."""
        if not _ours(compilation):
            return
        self.running -= 1
        if self.running == 0 and self.timer is not None:
            self.timer.cancel()
            self.left -= time.monotonic() - self.began

    def _say(self) -> None:
        self.left = 0
        _log.warning("compiling the kernels for this processor, once")


def _ours(compilation: Any) -> bool:
    return hasattr(compilation.data["dispatcher"].py_func, _MARK)


event.register("numba:compile", _Clock())


# --- Forks ----------------------------------------------------------------------------------------

if hasattr(os, "register_at_fork"):
    # The child of a fork would wait forever for a compiler that another thread was using.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
