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


@dataclass
class Result:
    """Milliseconds per image of one contender, one number per counted run."""

    name: str
    error: float
    turns: list[list[float]] = field(default_factory=list)

    @property
    def best_of_turns(self) -> list[float]:
        """The median of every turn."""
        return [statistics.median(turn) for turn in self.turns]

    @property
    def median(self) -> float:
        """The median over all turns."""
        return statistics.median(self.best_of_turns)


def images(batch: int, size: int) -> Any:
    """Give the same noise to everybody."""
    return np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)


def _work(name: str, model: str, threads: int, batch: int, size: int, pipe: Any) -> None:
    from bench.contenders import CONTENDERS

    try:
        x = images(batch, size)
        run = CONTENDERS[name](model, threads)
        pipe.send(np.asarray(run(x)))
        while (seconds := pipe.recv()) is not None:
            times, until = [], time.perf_counter() + WARM_UP_SECONDS
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
    turns: int = 7, seconds: float = 1.0, truth: Any = None,
) -> list[Result]:  # fmt: skip
    """Let contenders take turns on one case; check every output first.

    Raises RuntimeError where an output is off by more than 1 % of the largest logit.
    """
    context = mp.get_context("spawn")
    if truth is None:
        from bench.contenders import network

        truth = network(model, dtype=np.float64)(images(batch, size).astype(np.float64))
    running, results = [], []
    try:
        for name in names:
            here, there = context.Pipe()
            args = (name, model, threads, batch, size, there)
            process = context.Process(target=_work, args=args, daemon=True)
            process.start()
            running.append((process, here))
            logits = here.recv()
            if isinstance(logits, str):
                raise RuntimeError(f"{name}: {logits}")
            error = float(np.abs(logits - truth).max() / np.abs(truth).max())
            if not error < 0.01:
                raise RuntimeError(f"{name}: the output is off by {error:.2g} of the largest logit")
            results.append(Result(name, error))
        for turn in range(turns):
            print(f"\r{model}, batch {batch}, {threads} threads: turn {turn + 1}/{turns} ",
                  end="", file=sys.stderr, flush=True)  # fmt: skip
            order = range(len(running))
            for i in order if turn % 2 == 0 else reversed(order):
                running[i][1].send(seconds)
                times = running[i][1].recv()
                if isinstance(times, str):
                    raise RuntimeError(f"{results[i].name}: {times}")
                results[i].turns.append(times)
    finally:
        print(file=sys.stderr)
        for process, pipe in running:
            with suppress(OSError):
                pipe.send(None)
            process.join(5)
            process.kill()
    return results
