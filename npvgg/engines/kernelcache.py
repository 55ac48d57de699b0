"""Where compiled kernels are kept, and what is believed of what is found there.

The directory is the user's, `kernel_cache()`, so that the second process starts warm, also where
the package itself is read-only. Its name holds a digest of everything that decides what the machine
code is: these sources, Numba, LLVM and the processor. What is found there is as trusted as code: it
must belong to the user, and nobody else may write to it. A damaged or foreign file means compiling
again, never a failure.

`TolerantCache` is built from private classes of Numba. `jit` imports this module where it needs it,
and does without where that fails.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import config
from numba.core import caching

from npvgg.engines.processor import processor


@cache
def kernel_cache() -> Path | None:
    """Return the directory of the compiled kernels, or None where nothing can be kept.

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


@cache
def _digest() -> str:
    """Hash everything on which the machine code depends."""
    state = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.read_bytes())
    switches = f"{config.OPT} {config.LOOP_VECTORIZE} {config.SLP_VECTORIZE}"
    for part in (numba.__version__, llvmlite.__version__, *processor(), switches, sys.version):
        state.update(part.encode())
    return state.hexdigest()[:16]


def keep(compiled: Any, function: Callable[..., Any]) -> None:
    """Let a function that Numba compiles be kept, as `numba.njit(cache=True)` does, if it can be.

    Numba asks its own setting for the directory, once, when the cache is made.
    """
    directory, before = kernel_cache(), config.CACHE_DIR
    if directory is None:
        return
    config.CACHE_DIR = str(directory)
    try:
        compiled._cache = TolerantCache(function)
    except OSError:  # the directory went away
        return
    finally:
        config.CACHE_DIR = before


class CheckedFiles(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's files, with two checks of what they give back.

    A digest behind the data: a damaged pickle may still be read, and its machine code be run. The
    key beside it: of two processes that compile at once, one may have overwritten what the other
    one's index points to.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write the data of a key, with the key."""
        super().save(key, (key, data))

    def load(self, key: Any) -> Any:
        """Read the data of a key, or None."""
        of, data = super().load(key) or (None, None)
        return data if of == key else None

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()  # pickle's loader stops before it

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        whole = hashlib.sha256(data[:-32]).digest() == data[-32:]
        return super()._load_data(name) if whole else None


class TolerantCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache, for which no file is too damaged and no disk too full."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = CheckedFiles(
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
