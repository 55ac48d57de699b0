"""Contenders in processes of their own, which take turns.

One process per contender keeps their thread pools and allocators apart; the turns, a few runs each,
let a change of the machine's mood meet all of them. While one runs, the others wait for a message.
"""

from __future__ import annotations

import multiprocessing as mp
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WARM_UP_SECONDS = 0.25
"""Runs that are not counted before every turn: idle threads, caches and clocks wake up."""

WORST_ERROR = 0.01
"""Of the largest logit; whoever is further off computes something else, and takes no part."""


@dataclass
class Contender:
    """One that takes part, in its process: how far off its output is, the median of every turn in
    ms per image, and why it is out, if it is.
    """

    name: str
    process: Any
    pipe: Any
    error: float | None = None
    turns: list[float] = field(default_factory=list)
    failed: str = ""

    def ask(self, question: Any = None) -> Any:
        """Send a question, if there is one, and wait for the answer; None where there is none."""
        try:
            if question is not None:
                self.pipe.send(question)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            answer = f"its process ended: {self.process.exitcode}"
        if isinstance(answer, str):
            self.failed, self.turns = answer, []
            return None
        return answer


def images(batch: int, size: int) -> Any:
    """Return the same noise to everybody."""
    return np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)


def _work(name: str, model: str, threads: int, batch: int, size: int, pipe: Any) -> None:
    from bench.contenders import CONTENDERS

    try:
        x = images(batch, size)
        run = CONTENDERS[name](model, threads)
        pipe.send(np.asarray(run(x)))
        while (seconds := pipe.recv()) is not None:
            times, until = [], time.perf_counter() + min(seconds, WARM_UP_SECONDS)
            while time.perf_counter() < until:
                run(x)
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or len(times) < 3:
                began = time.perf_counter()
                run(x)
                times.append((time.perf_counter() - began) * 1e3 / batch)
            pipe.send(times)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def race(
    names: Sequence[str], model: str, *, threads: int, batch: int, size: int,
    turns: int = 7, seconds: float = 1.0,
) -> list[Contender]:  # fmt: skip
    """Let contenders take turns on one case, once their output has been found right.

    One that fails, or whose output is off, is out: its `failed` says why.
    """
    from bench.contenders import network

    truth = network(model, dtype=np.float64)(images(batch, size).astype(np.float64))
    running: list[Contender] = []
    try:
        for name in names:
            running.append(_started(name, model, threads, batch, size))
            _check(running[-1], truth)
        for turn in range(turns):
            print(f"\r{model}, batch {batch}, {threads} threads: turn {turn + 1}/{turns} ",
                  end="", file=sys.stderr, flush=True)  # fmt: skip
            present = [contender for contender in running if not contender.failed]
            for contender in present if turn % 2 == 0 else reversed(present):
                if (times := contender.ask(seconds)) is not None:
                    contender.turns.append(statistics.median(times))
    finally:
        print(file=sys.stderr)
        for contender in running:
            with suppress(OSError):
                contender.pipe.send(None)
            contender.process.join(5)
            contender.process.kill()
    return running


def _started(name: str, model: str, threads: int, batch: int, size: int) -> Contender:
    context = mp.get_context("spawn")
    here, there = context.Pipe()
    args = (name, model, threads, batch, size, there)
    process = context.Process(target=_work, args=args, daemon=True)
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    return Contender(name, process, here)


def _check(contender: Contender, truth: Any) -> None:
    logits = contender.ask()
    if logits is None:
        return
    contender.error = error_of(logits, truth)
    if not contender.error < WORST_ERROR:
        contender.failed = f"its output is off by {contender.error:.2g} of the largest logit"


def error_of(got: Any, truth: Any) -> float:
    """Return the largest error, as a part of the largest value of the truth."""
    return float(np.abs(got - truth).max() / np.abs(truth).max())
