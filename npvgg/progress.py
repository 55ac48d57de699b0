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


def noun(count: int, one: str) -> str:
    """What so many are called: 1 photo, 2 photos, 10 classes."""
    return one if count == 1 else one + ("es" if one.endswith("s") else "s")


def on_terminal() -> bool:
    """Whether somebody watches: there the hub's client draws bars, and logs get lines instead."""
    return sys.stderr.isatty()


def counted(items: Iterable[T], total: int, one: str) -> Iterator[T]:
    """Pass items through, and count them on standard error once it takes over a second, unless
    `quiet`; `one` names an item.

    The rate is of the items after the first, which may have waited for a compiler.
    """
    if quiet:
        yield from items
        return
    terminal = on_terminal()
    start = shown = first = time.monotonic()
    ever = False
    try:
        for count, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            first = now if count == 1 else first
            pause = TERMINAL_SECONDS if terminal else LOG_SECONDS
            if now - start > SILENT_SECONDS and now - shown >= pause:
                text = f"npvgg: {count:,} of {total:,} {noun(total, one)}"
                if now > first:
                    text += f", {(count - 1) / (now - first):.1f}/s"
                print(
                    f"\r{text}\x1b[K" if terminal else text,
                    file=sys.stderr,
                    end="" if terminal else "\n",
                    flush=True,
                )
                shown, ever = now, True
    finally:
        if ever and terminal:  # nothing is written behind the count
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
