"""What appears on standard error: the messages of the package, and how far a long run is.

All of it goes through the logger "npvgg": `log.error` for what went wrong, `log.info` for what is
going on, which `--quiet` leaves out. `counted` says nothing for the first second; then it writes
one line that is overwritten on a terminal, and a line now and then elsewhere: logs stay short.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from npvgg.cli.text import escaped, noun

T = TypeVar("T")

SILENT_SECONDS = 1.0
TERMINAL_SECONDS = 0.2
LOG_SECONDS = 10.0

log = logging.getLogger("npvgg")

_PASSING = {"passing": True}
"""Marks a record whose line is overwritten by the next one, where standard error is a terminal."""


class _StandardError(logging.Handler):
    """Writes `npvgg: <message>` lines to what is standard error at that moment.

    Whatever follows the end of a line in a message is set in: no name can look like another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending = False
        """Whether the cursor stands behind a line that is to be overwritten."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message; a passing one without text only removes the one before."""
        stay = not (hasattr(record, "passing") and on_terminal())
        message = re.sub("\n(?!  )", "\n  ", escaped(record.getMessage()))
        text = ("\r\x1b[K" if self.pending else "") + (f"npvgg: {message}" if message else "")
        self.pending = bool(message) and not stay
        _write(text + ("\n" if stay and message else ""))


def _write(text: str) -> None:
    if sys.stderr is not None and not sys.stderr.closed:
        sys.stderr.write(text)
        sys.stderr.flush()


def write(text: str) -> None:
    """Write lines for programs to standard error, as they are but for the gate."""
    _write(escaped(text))


@contextmanager
def shown() -> Iterator[None]:
    """Show the package's messages on standard error for a while."""
    handler = _StandardError()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def silence() -> None:
    """Show what goes wrong alone, for the rest of `shown`."""
    log.setLevel(logging.ERROR)


def on_terminal() -> bool:
    """Return whether somebody watches."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def passing(text: str) -> None:
    """Say something that the next message overwrites on a terminal; "" leaves a clean line."""
    log.info(text, extra=_PASSING)


def counted(items: Iterable[T], total: int, one: str) -> Iterator[T]:
    """Pass items through, and count them on standard error once it takes over a second, if messages
    of that level are shown; `one` names an item.

    The rate is of the items after the first, which may have waited for a compiler.
    """
    if not log.isEnabledFor(logging.INFO):
        yield from items
        return
    pause = TERMINAL_SECONDS if on_terminal() else LOG_SECONDS
    start = said = first = time.monotonic()
    try:
        for count, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            first = now if count == 1 else first
            if now - start > SILENT_SECONDS and now - said >= pause:
                rate = f", {(count - 1) / (now - first):.1f}/s" if now > first else ""
                passing(f"{count:,} of {total:,} {noun(total, one)}{rate}")
                said = now
    finally:
        passing("")  # nothing is written behind the count
