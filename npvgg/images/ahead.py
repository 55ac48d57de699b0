"""Photos decoded in a few threads, ahead of the one that uses them.

The threads are daemons that take their work from a queue of the interpreter's own (`SimpleQueue`,
which no interrupt can leave locked): the end of the process does not wait for them, and Ctrl-C in
the middle of anything leaves nothing that could. A pool of `concurrent.futures` promises neither.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_DECODERS = 4
"""Threads beyond which decoding gets in the network's way."""


def ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, limit: int
) -> Iterator[R]:
    """Yield function(item) for each item, in their order; what it raises is raised in its turn.

    threads: how many call the function at once; where none can be had, it is called here
    limit: how many items beyond the one that is waited for are taken
    """
    todo: SimpleQueue[tuple[T, SimpleQueue[Any]] | None] = SimpleQueue()
    over = threading.Event()

    def work() -> None:
        while (order := todo.get()) is not None and not over.is_set():
            item, result = order
            try:
                result.put((function(item), None))
            except BaseException as error:
                result.put((None, error))

    crew = [threading.Thread(target=work, name="npvgg-decode", daemon=True) for _ in range(threads)]
    pending: deque[SimpleQueue[Any]] = deque()
    try:
        started = _started(crew)
        for item in items:
            if not started:
                yield function(item)
                continue
            pending.append(SimpleQueue())
            todo.put((item, pending[-1]))
            if len(pending) > limit:
                yield _taken(pending.popleft())
        while pending:
            yield _taken(pending.popleft())
    finally:
        over.set()
        for _ in crew:
            todo.put(None)


def _started(crew: list[threading.Thread]) -> int:
    """Start as many threads as can be had; return how many."""
    for count, thread in enumerate(crew):
        try:
            thread.start()
        except RuntimeError:  # no memory for its stack, or a limit on processes
            return count
    return len(crew)


def _taken(result: SimpleQueue[Any]) -> Any:
    value, error = result.get()
    if error is not None:
        raise error
    return value
