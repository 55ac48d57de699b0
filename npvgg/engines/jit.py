"""Compiling with Numba: a decorator for kernels, and a place where they are compiled.

`kernel` marks a function to be compiled when it is first called. `compiling` surrounds that first
call (`compiled.load_kernels`): inside it signals wait and forks wait, since neither LLVM nor Numba
can be left halfway, and a word is said when it takes long. Outside of it nothing is changed for
anybody else: no event of Numba's, no lock of Numba's, no handler of a signal.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import numba
from numba import config

Function = TypeVar("Function", bound=Callable[..., Any])

_log = logging.getLogger("npvgg")

NOTICE_AFTER = 1.0
"""Seconds of compiling after which standard error says so."""

ROOM = 230 * 2**20
"""Bytes of address space that must be left: where LLVM gets none, it aborts the process. Compiling
all kernels took 216 MiB, loading them 159 (x86-64 with AVX-512, 2026-11-28)."""

_kernels: list[Any] = []


def kernel(function: Function) -> Function:
    """Compile a function when it is first called; the compiled code does not hold the GIL.

    Division by zero follows IEEE 754, and no index is checked: the callers' contracts say what must
    hold. Floating-point operations are never reordered: results have the same bits for any threads
    and any batch, on processors of one kind (those without fused multiply-adds round more often).
    """
    if config.DISABLE_JIT:
        return function
    compiled = numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)
    try:
        from npvgg.engines import kernelcache

        kernelcache.keep(compiled, function)
    except Exception as error:  # the cache is made of private parts of Numba
        _say_uncached(f"{type(error).__name__}: {error}")
    _kernels.append(compiled)
    return compiled  # type: ignore[no-any-return]


@cache
def _say_uncached(reason: str) -> None:
    _log.warning(f"compiled kernels cannot be kept, every process compiles them: {reason}")


# --- While kernels are compiled -------------------------------------------------------------------

_busy = threading.RLock()


@contextmanager
def compiling() -> Iterator[None]:
    """Compile kernels, or load them, in here: undisturbed, and one thread at a time.

    Raises MemoryError where the process may not have so much memory (`ROOM`).
    """
    _check_room()
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(ended,), name="npvgg-notice", daemon=True)
    with _busy, _signals_held():
        with suppress(RuntimeError):  # no thread to be had: no word
            watch.start()
        try:
            yield
        finally:
            ended.set()


def _check_room() -> None:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        return
    if limit - used < ROOM:
        raise MemoryError(
            f"expected {ROOM // 2**20} MiB of address space for compiling kernels, got "
            f"{max(0, limit - used) // 2**20} (ulimit -v)"
        )


def _watch(ended: threading.Event) -> None:
    """Say once that kernels are being compiled, if that takes long; of loading say nothing."""
    while not ended.wait(NOTICE_AFTER):
        if _missed():
            _log.warning(f"compiling the kernels for this processor, {_how_often()}")
            return


def _how_often() -> str:
    with suppress(Exception):  # as in `kernel`
        from npvgg.engines import kernelcache

        if kernelcache.writable():
            return "once"
    return "in every process: there is no folder to keep them"


def _missed() -> bool:
    """Return whether any kernel was not found in the cache."""
    return any(compiled.stats.cache_misses for compiled in _kernels)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait whose handlers are functions of Python, Ctrl-C first of all.

    An exception in the middle of a callback of LLVM's is lost, or ends the process. Python runs
    handlers in the main thread only; in another one there is nothing to hold.
    """
    numbers = map(int, signal.valid_signals())
    handlers: dict[int, Any] = {n: h for n in numbers if callable(h := signal.getsignal(n))}
    waiting: list[tuple[int, Any]] = []
    over = False

    def hold(number: int, frame: Any) -> None:
        if over:  # a handler interrupted the end of this: it is held no longer, though still ours
            handlers[number](number, frame)
        else:
            waiting.append((number, frame))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        for number in handlers:
            signal.signal(number, hold)
        yield
    finally:
        over = True
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in waiting:
            handlers[number](number, frame)


if hasattr(os, "register_at_fork"):
    # The child of a fork would wait forever for kernels that another thread was compiling.
    os.register_at_fork(
        before=_busy.acquire, after_in_parent=_busy.release, after_in_child=_busy.release
    )
