"""How many threads, and the worker threads themselves.

`run` calls one function in the caller's thread and in up to threads − 1 workers; each call takes
tasks from shared counters until none is left (`program.run`, `share`). Nobody waits for a worker to
begin: workers that are busy elsewhere, or that were lost in a fork, only make it slower.

What must not be broken here: the function is right for any number of calls of it, one included, so
nothing can deadlock; a lock that is taken is given back, whatever interrupts its holder (`Lock`);
the child of a fork begins with no workers and free locks.

A worker is a daemon thread of Python that sleeps between runs; compiled code does not hold the GIL.
Numba's own threading layers are not used: workqueue aborts when two threads enter it at once,
GNU OpenMP kills the child of a fork.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from queue import SimpleQueue

from npvgg.errors import ArgumentError

MAX_THREADS = 256
_default: int | None = None


def set_num_threads(threads: int | None) -> None:
    """Choose how many threads models use that were not given a number; None for `available()`."""
    global _default
    _default = None if threads is None else _checked(threads)


def resolve(threads: int | None) -> int:
    """Return the number of threads for a model that was asked to use `threads`."""
    return _checked(threads) if threads is not None else _default or available()


def available() -> int:
    """Count the processors that this process may use: its affinity now, and the quotas that its
    cgroups had when they were first looked up.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    return max(1, min(count, _quota() or count, MAX_THREADS))


@cache
def _quota() -> int | None:
    """Processors' worth of time that the control groups grant, rounded up; None for no limit.

    A group's quota binds the groups below it, so the smallest on the way to the root counts. In a
    container the way may begin outside of what can be seen; its root is then at the mount.
    Source: Linux cgroup v2 `cpu.max`; v1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    quotas = []
    for folder in _cgroups():
        try:
            quota, period = _read(f"{folder}/cpu.max").split()
        except (OSError, ValueError):
            try:
                quota = _read(f"{folder}/cpu.cfs_quota_us").strip()
                period = _read(f"{folder}/cpu.cfs_period_us").strip()
            except (OSError, ValueError):
                continue
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # not "max", not "-1"
            quotas.append(max(1, -(-int(quota) // int(period))))
    return min(quotas, default=None)


def _cgroups() -> list[str]:
    """List the folders of this process's CPU groups, v2 and v1, each from itself to the root."""
    try:
        lines = [line.split(":", 2) for line in _read("/proc/self/cgroup").splitlines()]
    except (OSError, ValueError):
        lines = []
    folders = ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"]
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers == "" or "cpu" in controllers.split(","):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            base = "/sys/fs/cgroup/cpu" if controllers else "/sys/fs/cgroup"
            folders += ["/".join([base, *parts[:depth]]) for depth in range(1, len(parts) + 1)]
    return folders


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _checked(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 < threads <= MAX_THREADS:
        raise ArgumentError(f"threads: expected 1 … {MAX_THREADS}, got {threads!r}")
    return threads


# --- Workers --------------------------------------------------------------------------------------

Job = Callable[[], None]


class _Crew:
    """The workers of one process, and their queue.

    An entry of the queue is a list that holds the job, and is emptied when the run ends, so that a
    worker that comes late finds nothing to do. A caller that is interrupted, wherever that is,
    loses no worker.
    """

    def __init__(self) -> None:
        self.invitations: SimpleQueue[list[Job]] = SimpleQueue()
        self.lock = threading.Lock()
        self.hired = 0

    def hire(self, count: int) -> None:
        """See to it that there are so many helpers, if so many can be had."""
        with self.lock:
            while self.hired < count:
                thread = threading.Thread(target=self._help, name="npvgg", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more to be had, or the interpreter is going down
                    return
                self.hired += 1

    def _help(self) -> None:
        try:
            while True:
                self._follow()
        finally:  # a job failed: Python reports it, and the next run hires another helper
            with self.lock:
                self.hired -= 1

    def _follow(self) -> None:
        """Wait for an invitation and follow it; the job's arrays are let go of at the return."""
        for job in tuple(self.invitations.get()):
            job()


_crew = _Crew()


def run(job: Job, threads: int) -> None:
    """Call a function in this thread and in up to threads − 1 helpers; return when it returns here.

    The function must return here only when the whole work is done, whoever did it. A helper that is
    busy comes later, and not at all when the call has returned.
    """
    if _crew.hired < threads - 1:
        _crew.hire(threads - 1)
    invitation = [job]
    for _ in range(min(threads - 1, _crew.hired)):
        _crew.invitations.put(invitation)
    try:
        job()
    finally:
        invitation.clear()


def share(task: Callable[[int], None], count: int, threads: int) -> None:
    """Call task(0) … task(count − 1), each once, here and in helpers; return when all are done.

    Raises what a task raises: one that failed in a helper is tried again here.
    """
    tickets: Iterator[int] = itertools.count()
    ended: SimpleQueue[int | None] = SimpleQueue()

    def work() -> None:
        while (ticket := next(tickets)) < count:
            failed: int | None = ticket
            try:
                task(ticket)
                failed = None
            finally:
                ended.put(failed)

    run(work, threads)
    for _ in range(count):
        if (again := ended.get()) is not None:
            task(again)


# --- Forks ----------------------------------------------------------------------------------------


class Lock:
    """A lock that is free in the child of a fork, whoever held it in the parent.

    Taken by `with lock.now:`. A method of ours around it could be interrupted when the lock is
    taken already and its holder does not know yet: nobody would give it back.
    """

    def __init__(self) -> None:
        self.now = threading.Lock()
        _locks.add(self)

    def renew(self) -> None:
        """Forget who holds it."""
        self.now = threading.Lock()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _after_fork() -> None:
    """Forget the other threads: they stayed in the parent."""
    global _crew
    _crew = _Crew()
    for lock in _locks:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
