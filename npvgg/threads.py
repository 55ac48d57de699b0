"""How many threads, and which.

Work is shared like a stack of tickets: `run` calls one function in the caller's thread and in
helpers', and every call takes tickets until there are none. Nobody waits for a helper to come, so
nothing can deadlock: helpers that are busy elsewhere, or that were lost in a fork, only make it
slower. The function must be right for any number of calls of it, one included.

A helper is a daemon thread of Python that sleeps between runs; compiled code lets go of the
interpreter's lock. Numba's own threading layers are not used: one of them aborts when two threads
enter it at once, another one kills the child of a fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from npvgg.errors import ArgumentError

MAX_THREADS = 256
_default: int | None = None


def set_num_threads(threads: int | None) -> None:
    """Choose how many threads models use that were not given a number; None for `available()`."""
    global _default
    _default = None if threads is None else _checked(threads)


def resolve(threads: int | None) -> int:
    """Give the number of threads for a model that was asked to use `threads`."""
    return _checked(threads) if threads is not None else _default or available()


def available() -> int:
    """Count the processors that this process may use: its affinity, and its cgroup's quota.

    Source: Linux cgroup v2 `cpu.max`, cgroup v1 `cpu.cfs_quota_us`, `cpu.cfs_period_us`.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    return max(1, min(count, _quota() or count, MAX_THREADS))


def _quota() -> int | None:
    """Processors' worth of time that the control group grants, rounded up; None for no limit."""
    try:
        quota, period = _words("/sys/fs/cgroup/cpu.max")
    except (OSError, ValueError):
        try:
            (quota,) = _words("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
            (period,) = _words("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
        except (OSError, ValueError):
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:  # "max", "-1"
        return None
    return max(1, -(-int(quota) // int(period)))


def _words(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.read().split()


def _checked(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 < threads <= MAX_THREADS:
        raise ArgumentError(f"threads: expected 1 … {MAX_THREADS}, got {threads!r}")
    return threads


# --- Helpers --------------------------------------------------------------------------------------

_helpers: list[SimpleQueue[Callable[[], None]]] = []
_idle: list[SimpleQueue[Callable[[], None]]] = []
_lock = threading.Lock()


def _after_fork() -> None:
    """Forget the helpers: they stayed in the parent."""
    global _lock
    _lock = threading.Lock()
    _helpers.clear()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(function: Callable[[], None], threads: int) -> None:
    """Call a function in this thread and in up to threads − 1 idle helpers; return when it returns
    here.

    The function must return here only when the whole work is done, whoever did it.
    """
    for inbox in _take_idle(threads - 1):
        inbox.put(function)
    function()


def _take_idle(count: int) -> list[SimpleQueue[Callable[[], None]]]:
    """Take idle helpers, hiring some where there are fewer than asked for."""
    with _lock:
        while len(_helpers) < count:
            inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
            try:
                threading.Thread(target=_help, args=(inbox,), name="npvgg", daemon=True).start()
            except RuntimeError:  # no more threads to be had, or the interpreter is going down
                break
            _helpers.append(inbox)
            _idle.append(inbox)
        taken = _idle[:count]
        del _idle[:count]
    return taken


def _help(inbox: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        function = inbox.get()
        try:
            function()
        finally:
            del function  # and with it the arrays that it holds
            with _lock:
                _idle.append(inbox)
