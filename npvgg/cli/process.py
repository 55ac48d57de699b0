"""The command line as a process of its own, which one signal ends, always.

The command runs in a thread; the main thread, in which alone Python's signal handlers run, does
nothing but wait, for the command or for a signal. So no signal interrupts a line of the command,
which could then hold a lock for ever, lose the signal in a callback, or leave half of a step. When
a signal comes, the main thread settles the files under way (what was finished is kept under a name
that is told, the rest is removed) and ends the process at once, wherever the command is; a second
signal ends it without that.

Exit status: that of `main`; 128 + number for a signal, 130 for Ctrl-C; 2 for a crash, after its
traceback: 1 says that something is wrong with a photo or a file.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from mmap import mmap
from queue import SimpleQueue
from typing import NoReturn

from npvgg.cli import lacks_memory, output
from npvgg.cli.progress import on_terminal
from npvgg.cli.text import escaped
from npvgg.formats.files import remove_unfinished

SIGNALS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
STACK_BYTES = 16 * 2**20  # some systems give threads much less than the main thread
ABORTED = 2
NO_MEMORY = "npvgg: error: out of memory\n"

BLAS_BYTES = 96 * 2**20
"""Address space that loading NumPy takes with one thread of OpenBLAS: 83 MiB, and some room."""

PATIENCE = 5.0
"""Seconds to wait for a write that must not be cut in two: a disk may hang."""


def main() -> NoReturn:
    """Run the command line with the process's arguments; end the process."""
    sys.exit(run(_command))  # nothing before: a signal would meet it


def _command() -> int:
    """Import the command line and run it: a signal that meets an import ends it like any other."""
    _fill_missing_streams()
    _limit_blas()
    if not _blas_has_memory():
        with suppress(AttributeError, OSError):  # no standard error
            sys.stderr.write(NO_MEMORY)
        return ABORTED
    from npvgg.cli.main import main as run_command

    return run_command()


def run(command: Callable[[], int]) -> int:
    """Run a command in a thread, and give its exit status; a signal ends the process."""
    events: SimpleQueue[int | None] = SimpleQueue()
    signals = _listen(events)
    statuses: list[int | str | None] = []

    def work() -> None:
        try:
            statuses.append(command())
        except SystemExit as exit:  # by argparse
            statuses.append(exit.code)
        except BaseException as error:
            said = NO_MEMORY if lacks_memory(error) else None
            with suppress(OSError, ValueError, AttributeError):  # no standard error
                sys.stderr.write(said or escaped(traceback.format_exc()))
        events.put(None)

    before = threading.stack_size(STACK_BYTES)
    try:
        threading.Thread(target=work, name="npvgg-command", daemon=True).start()
    except RuntimeError:  # no thread to be had: a signal ends it as any program
        _let_go(signals)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # it answers with a SIGINT of its own
        work()
    finally:
        threading.stack_size(before)
    number = events.get()  # the only place where a signal finds the main thread
    if number is not None:
        _end(number, signals[number])
    _let_go(signals)  # the interpreter goes down; nothing needs settling
    status = statuses[0] if statuses else ABORTED
    return status if isinstance(status, int) else ABORTED if status else 0


def _listen(events: SimpleQueue[int | None]) -> dict[int, str]:
    """Put the number of every signal that comes into the queue; the second ends the process."""
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            os._exit(128 + number)
        events.put(number)

    words = {}
    for name, word in SIGNALS.items():
        number = getattr(signal, name, None)  # no SIGHUP on Windows
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as for nohup
            signal.signal(number, handle)
            words[int(number)] = word
    return words


def _let_go(signals: Iterable[int]) -> None:
    for number in signals:
        signal.signal(number, signal.SIG_DFL)


def _end(number: int, word: str) -> NoReturn:
    """Settle the files under way, say so, and end the process; each may take a while, not for ever.

    The command may hold any lock, that of standard error too, so this is done in a thread.
    """

    def settle() -> None:
        kept = output.leave(PATIENCE)
        remove_unfinished(PATIENCE)
        clear = "\r\x1b[K" if on_terminal() else ""
        sys.stderr.write(clear + escaped(f"npvgg: {'; '.join([word, *kept])}\n"))
        sys.stderr.flush()

    with suppress(RuntimeError):
        thread = threading.Thread(target=settle, daemon=True)
        thread.start()
        thread.join(PATIENCE)
    os._exit(128 + number)


def _limit_blas() -> None:
    """Let BLAS, NumPy's and SciPy's, start no threads where that does harm.

    Where memory is limited (ulimit -v): without memory for them its import never ends, nor lets a
    signal be handled. In lessons: their products are small, and its threads wait for each other,
    spinning (on a machine with other work the lesson `photo` took 4.6 CPU seconds with two threads,
    0.8 with one, 2026-11-28).
    """
    if sys.argv[1:2] == ["explain"] or _memory_is_limited():
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _blas_has_memory() -> bool:
    """Return whether NumPy can be loaded: OpenBLAS ends the process with status 1 where there is no
    memory for its buffers.
    """
    try:
        if _memory_is_limited():
            mmap(-1, BLAS_BYTES).close()
    except OSError:
        return False
    return True


def _memory_is_limited() -> bool:
    try:
        import resource
    except ImportError:  # not POSIX
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _fill_missing_streams() -> None:
    """Open what was closed of descriptors 0, 1 and 2, lest the next file that is opened becomes
    standard output.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number
