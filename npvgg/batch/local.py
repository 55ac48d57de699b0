"""The processes of one machine: hired, fed with the numbers of shards, watched, and replaced.

A worker says which photo it opens. If it dies over one, the shard is given to another worker; if
that one dies over the same photo, the photo gets a row that says so and is not opened again. What
is lost with a worker is the shard in its hands, of which nothing was written.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from npvgg.batch.run import Run
from npvgg.batch.shards import BATCH_SIZE, Done
from npvgg.batch.worker import FORKS
from npvgg.engines.threads import available
from npvgg.errors import ArgumentError

STRIKES = 2
"""Workers that a photo may kill before it is not opened any more."""

BLAMELESS = 3
"""Times that the workers of a shard may die while no photo is being opened."""

PATIENCE = 1.0
"""Seconds to wait for processes that have been told to end, before they are killed."""

ENVIRONMENT = {
    # the engine has threads of its own; the bits of BLAS may depend on how many it uses
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}  # fmt: skip

PILLOW_BLOCKS = {"PILLOW_BLOCKS_MAX": "8"}
"""Blocks of 16 MB that Pillow keeps for the next photo: 12 megapixels decode in 70 ms, not 110."""

UNWANTED = {"MALLOC_TRIM_THRESHOLD_"}
"""Set by Dask for its workers: a heap that is trimmed after each photo costs a fifth more time."""


@dataclass
class _Task:
    shard: int
    retry: bool
    killers: set[int] = field(default_factory=set)


class _Worker:
    """One worker: the driver's end of its channel, and what it is at."""

    def __init__(self, channel: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
        self.channel, self.process = channel, process
        self.task: _Task | None = None
        self.photo: int | None = None
        self._unread = b""

    def give(self, task: _Task) -> None:
        """Send it a shard; if it is dead, that is found out when its answer is awaited."""
        self.task, self.photo = task, None
        message = {"shard": task.shard, "retry": task.retry, "killers": sorted(task.killers)}
        with suppress(OSError):
            self.channel.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> list[Any] | None:
        """Read what it has sent; None where it is dead."""
        try:
            data = self.channel.recv(2**16)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Workers:
    """So many worker processes for one run, hired when they are needed.

    with Workers(run, count=2) as workers:
        for done in workers.compute(run.missing()):
            ...

    count: how many at most
    threads: of the compiled engine in each; by default its share of those that may be used
    batch_size: photos at once
    """

    def __init__(
        self,
        run: Run,
        *,
        count: int = 1,
        threads: int | None = None,
        batch_size: int = BATCH_SIZE,
        forks: bool = FORKS,
    ) -> None:
        if os.name != "posix":
            raise ArgumentError("workers: expected Linux or macOS; see `run_shard` for others")
        self.run, self.count, self.batch_size = run, count, batch_size
        self.threads = threads or max(1, available() // count)
        self._forks = forks
        self._hired: list[_Worker] = []
        self._nurse: _Worker | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and return when none of them can write any more."""
        everybody = [*self._hired, *([self._nurse] if self._nurse else [])]
        for worker in everybody:
            with suppress(OSError):
                worker.channel.shutdown(socket.SHUT_WR)
        for process in [worker.process for worker in everybody if worker.process]:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for worker in everybody:  # forked ones die with the process that forked them
            worker.channel.settimeout(10)
            with suppress(OSError):
                while worker.channel.recv(2**16):
                    pass
            worker.channel.close()
        self._hired, self._nurse = [], None

    def compute(
        self,
        shards: Iterable[int],
        *,
        retry: bool = False,
        opened: Callable[[int], None] | None = None,
    ) -> Iterator[Done]:
        """Compute shards; give each when it is done.

        retry: they are there, and their failed rows are to be computed again
        opened: told the number of each photo that is being opened

        Raises ArgumentError where a worker cannot start, work or write.
        """
        tasks = deque(_Task(shard, retry) for shard in shards)
        strikes: Counter[tuple[str, int]] = Counter()
        busy = 0
        with selectors.DefaultSelector() as selector:
            for worker in self._hired:
                selector.register(worker.channel, selectors.EVENT_READ, worker)
            while tasks or busy:
                while tasks and busy < self.count:
                    worker = next((w for w in self._hired if w.task is None), None) or self._hire()
                    if worker.channel.fileno() not in selector.get_map():
                        selector.register(worker.channel, selectors.EVENT_READ, worker)
                    worker.give(tasks.popleft())
                    busy += 1
                for key, _ in selector.select():
                    worker = key.data
                    messages = worker.messages()
                    if messages is None:
                        selector.unregister(worker.channel)
                        self._dismiss(worker)
                        if worker.task is not None:
                            busy -= 1
                            tasks.appendleft(_struck(worker, strikes))
                        continue
                    for kind, *values in messages:
                        if kind == "failed":
                            raise ArgumentError(values[0])
                        if kind == "at":
                            worker.photo = values[0]
                            if opened and values[0] is not None:
                                opened(values[0])
                        if kind == "done":
                            worker.task, worker.photo = None, None
                            busy -= 1
                            yield Done(*values)

    def _hire(self) -> _Worker:
        """Start a worker."""
        ours, theirs = socket.socketpair()
        worker, first = _Worker(ours, None), not self._hired
        self._hired.append(worker)
        with theirs:
            if self._forks:
                self._fork(theirs)
            else:
                worker.process = self._start(theirs, "work")
        if first and not self._forks:  # the others find what this one compiles
            _await_ready(worker)
        return worker

    def _fork(self, theirs: socket.socket) -> None:
        """Have a worker forked that has this end of a channel."""
        for _ in range(2):
            if self._nurse is None or (self._nurse.process and self._nurse.process.poll()):
                ours, end = socket.socketpair()
                with end:
                    self._nurse = _Worker(ours, self._start(end, "fork"))
                _await_ready(self._nurse)
            with suppress(OSError):  # it was killed just now
                socket.send_fds(self._nurse.channel, [b"w"], [theirs.fileno()])
                return
        raise ArgumentError("workers: the process that forks them was killed twice")

    def _start(self, theirs: socket.socket, kind: str) -> subprocess.Popen[bytes]:
        """Start a process with one end of a channel, in a process group of its own: what the
        terminal sends (Ctrl-C) is for the driver to act on.
        """
        level = logging.getLogger("npvgg").getEffectiveLevel()
        arguments = [theirs.fileno(), self.run.folder, self.threads, self.batch_size, level]
        environment = {k: v for k, v in os.environ.items() if k not in UNWANTED}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "npvgg.batch.worker", *map(str, arguments), kind],
                env={**PILLOW_BLOCKS, **environment, **ENVIRONMENT},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,
            )

        if threading.current_thread() is threading.main_thread():
            return start()
        # the kernel takes the end of the thread that started it for the end of the parent
        return _hiring.submit(start).result()

    def _dismiss(self, worker: _Worker) -> None:
        """Forget a worker that is dead."""
        worker.channel.close()
        if worker.process:
            worker.process.wait()
        self._hired.remove(worker)


_hiring = ThreadPoolExecutor(1, thread_name_prefix="npvgg-hiring")


def _await_ready(worker: _Worker) -> None:
    """Return when a process has said that it is ready. Raises ArgumentError where it fails."""
    while True:
        messages = worker.messages()
        for kind, *values in messages or ():
            if kind == "failed":
                raise ArgumentError(values[0])
            if kind == "ready":
                return
        if messages is None:
            status = worker.process.wait() if worker.process else None
            raise ArgumentError(f"workers: the process ended before it was ready ({status})")


def _struck(worker: _Worker, strikes: Counter[tuple[str, int]]) -> _Task:
    """Return the task of a worker that died over it, with what was learnt. Raises ArgumentError."""
    task = worker.task
    if task is None:
        raise ArgumentError("workers: one died that had nothing to do")
    place = ("shard", task.shard) if worker.photo is None else ("photo", worker.photo)
    strikes[place] += 1
    if worker.photo is not None and strikes[place] >= STRIKES:
        task.killers.add(worker.photo)
    elif worker.photo is None and strikes[place] >= BLAMELESS:
        raise ArgumentError(
            f"workers: {BLAMELESS} died over shard {task.shard}, of no photo in particular; "
            "is there memory enough? (--workers, --max-pixels, --batch-size)"
        )
    return task
