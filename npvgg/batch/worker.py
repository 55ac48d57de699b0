"""The process that computes shards: `python -m npvgg.batch.worker`, which `local` starts and feeds.

On Linux one process makes the Predictor, compiles what has to be compiled, and forks a worker
whenever it is sent one end of a channel: all workers share one copy of the weights, and a new one
is there in milliseconds. Elsewhere every worker is started as a process of its own.

No worker outlives its driver. The kernel kills it with its parent (Linux), and a thread waits for
the other end of the channel to be closed (anywhere).
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from npvgg.batch import guests
from npvgg.batch.predictor import Predictor
from npvgg.batch.run import Run
from npvgg.batch.shards import run_shard
from npvgg.batch.spec import refuse_another
from npvgg.errors import NpvggError

FORKS = sys.platform == "linux"
"""Whether workers are forked: only there the kernel can be asked to kill them with their parent."""

PR_SET_PDEATHSIG = 1  # Source: Linux, include/uapi/linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """Be what `local` asks for: arguments are channel, run, threads, batch size, level of messages,
    and "fork" or "work". What goes wrong is told through the channel.
    """
    descriptor, folder, threads, batch_size, level, kind = arguments
    logging.basicConfig(format="npvgg: %(message)s", level=int(level))
    channel = socket.socket(fileno=int(descriptor))
    die_with(os.getppid())
    gc.disable()  # and freeze, before forks: as Python's documentation of `gc.freeze` has it
    try:
        guests.arrow()
        run = Run.open(folder)
        predictor = Predictor(run.spec, threads=int(threads))
        refuse_another(run.identity, predictor.identity)  # before the weights are packed
        predictor.warm_up()
    except (NpvggError, OSError) as error:
        tell(channel, "failed", str(error))
        return 1
    if kind == "work":
        work(channel, run, predictor, int(batch_size))
        return 0
    tell(channel, "ready")
    gc.freeze()
    nurse = os.getpid()
    while ends := socket.recv_fds(channel, 1, 1)[1]:
        with warnings.catch_warnings():
            # the engine's threads sleep, and a forked engine hires others
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            channel.close()
            die_with(nurse)
            work(socket.socket(fileno=ends[0]), run, predictor, int(batch_size))
            os._exit(0)
        os.close(ends[0])
        _bury(os.WNOHANG)
    _bury(0)
    return 0


def work(channel: socket.socket, run: Run, predictor: Predictor, batch_size: int) -> None:
    """Compute the shards that come through the channel; tell of every photo and every shard."""
    gc.enable()
    threading.Thread(target=_watch, args=[channel.fileno()], daemon=True).start()
    tell(channel, "ready")
    for line in channel.makefile(encoding="utf-8"):
        task = json.loads(line)
        try:
            done = run_shard(
                run,
                task["shard"],
                predictor,
                batch_size=batch_size,
                killers=task["killers"],
                retry=task["retry"],
                report=lambda photo: tell(channel, "at", photo),
            )
        except OSError as error:
            where = run.shard(task["shard"])
            tell(channel, "failed", f"{str(where)!r}: {error.strerror or error}")
        except NpvggError as error:
            tell(channel, "failed", str(error))
        except Exception:  # a fault of ours: the run must end with it, not blame a photo
            tell(channel, "failed", traceback.format_exc())
        else:
            tell(channel, "done", *done)


def _bury(options: int) -> None:
    """Wait for workers that are dead, or for all: their time is then counted as their parent's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def tell(channel: socket.socket, *message: Any) -> None:
    """Send a message; a driver that is gone ends the process."""
    try:
        channel.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        os._exit(1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, or die now if it has."""
    if FORKS:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _watch(descriptor: int) -> None:
    """Wait for the other end of the channel to be closed, and end the process then."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
    poll.poll()
    os._exit(1)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # Python would take Numba apart first, for a third of a second
