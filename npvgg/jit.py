"""Compiling with Numba: one decorator, one place for the results, and a word when it takes long.

Compiled kernels are kept in a directory of the user's, `kernel_cache()`, so that the second process
starts warm, also where the package itself is read-only. The directory's name holds a digest of
everything that decides what the machine code is: these sources, Numba, LLVM and the processor.
What is found there is as trusted as code. A damaged or foreign file means compiling again, never a
failure.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from llvmlite import binding
from numba.core import caching, config

from npvgg import progress

Function = TypeVar("Function", bound=Callable[..., Any])

NOTICE_AFTER = 1.0
"""Seconds of compiling after which standard error says so."""


def kernel(function: Function) -> Function:
    """Compile a function when it is first called, without the interpreter's lock.

    Division by zero follows IEEE 754, and no index is checked: the callers' contracts say what must
    hold. Floating-point operations are never reordered: results have the same bits everywhere.
    """
    if config.DISABLE_JIT:
        return function
    before, directory = config.CACHE_DIR, kernel_cache()
    config.CACHE_DIR = before or str(directory or "")
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

    $NUMBA_CACHE_DIR, else $XDG_CACHE_HOME/npvgg or ~/.cache/npvgg, else a private directory among
    the temporary files.
    """
    name = f"kernels-{_digest()}"
    candidates = []
    if os.environ.get("XDG_CACHE_HOME"):
        candidates.append(Path(os.environ["XDG_CACHE_HOME"]) / "npvgg" / name)
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        candidates.append(Path(home) / ".cache" / "npvgg" / name)
    user = os.getuid() if hasattr(os, "getuid") else 0
    candidates.append(Path(tempfile.gettempdir()) / f"npvgg-{user}" / name)
    for path in [Path(config.CACHE_DIR)] if config.CACHE_DIR else candidates:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if hasattr(os, "getuid") and path.parent.stat().st_uid not in (user, 0):
                continue  # somebody else's: what is in there would be run
            with tempfile.TemporaryFile(dir=path):
                return path
        except OSError:
            continue
    return None


@cache
def _digest() -> str:
    """Name everything on which the machine code depends."""
    state = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted([Path(__file__), *package.joinpath("engines").glob("*.py")]):
        state.update(path.read_bytes())
    features = config.CPU_FEATURES
    if features is None:
        features = binding.get_host_cpu_features().flatten()
    processor = config.CPU_NAME or binding.get_host_cpu_name()
    for part in (numba.__version__, llvmlite.__version__, processor, features, sys.version):
        state.update(part.encode())
    return state.hexdigest()[:16]


class _TolerantCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache, for which no file is too damaged and no disk too full."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load what was compiled for a signature, or None."""
        try:
            loaded = super().load_overload(sig, target_context)
        except Exception:  # whatever a damaged pickle raises
            loaded = None
        if loaded is None:
            _notice_slow_compile()
        return loaded

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if it can be kept."""
        _compiled()
        try:
            super().save_overload(sig, data)
        except Exception:  # a damaged index, a full disk
            try:
                self.flush()
                super().save_overload(sig, data)
            except Exception:
                return


_timer: threading.Timer | None = None


def _notice_slow_compile() -> None:
    """Say that kernels are being compiled, if it is still so in a while."""
    global _timer
    if _timer is None:
        message = "compiling the kernels for this processor, once"
        _timer = threading.Timer(NOTICE_AFTER, progress.say, [message])
        _timer.daemon = True
        _timer.start()


def _compiled() -> None:
    if _timer is not None:
        _timer.cancel()
