"""How far a long run is, on standard error.

Silent for the first second; then one line that is overwritten on a terminal, and a line now and
then elsewhere, so that logs stay short.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

SILENT_SECONDS = 1.0
TERMINAL_SECONDS = 0.2
LOG_SECONDS = 10.0

quiet = False
"""Whether only what went wrong is said, as --quiet asks."""


def say(message: str) -> None:
    """Tell the person at the terminal what went wrong."""
    print(f"npvgg: {message}", file=sys.stderr, flush=True)


def notice(message: str) -> None:
    """Tell what is going on, unless `quiet`."""
    if not quiet:
        say(message)


def how_many(count: int, one: str) -> str:
    """A number and what is counted: "1 photo", "2,000 photos"."""
    return f"{count:,} {one}{'s' * (count != 1)}"


def on_terminal() -> bool:
    """Whether somebody watches: there the hub's client draws bars, and logs get lines instead."""
    return sys.stderr.isatty()


def counted(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Pass items through, and count them on standard error once it takes over a second, unless
    `quiet`.
    """
    if quiet:
        yield from items
        return
    terminal = on_terminal()
    start = shown = time.monotonic()
    ever = False
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        pause = TERMINAL_SECONDS if terminal else LOG_SECONDS
        if now - start > SILENT_SECONDS and now - shown >= pause:
            text = f"npvgg: {count:,} of {total:,} {unit}, {count / (now - start):.1f}/s"
            print(
                f"\r{text}\x1b[K" if terminal else text,
                file=sys.stderr,
                end="" if terminal else "\n",
                flush=True,
            )
            shown, ever = now, True
    if ever and terminal:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
