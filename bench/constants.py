"""The constants of the fast engines, each beside its neighbours: is the value that stands there the
best one on this machine?

One model, one process. Every alternative has a plan of its own over the same packed weights, and
they take turns with the model as it is; a ratio over 1 means that the constant is better as it is.
"""

from __future__ import annotations

import copy
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.contenders import network
from bench.measure import error_of, images
from bench.numbers import compared
from npvgg.engines import compiled, plan, winograd
from npvgg.engines.microkernel import MR, SIDE_BY_SIDE

MODULES = {"plan": plan, "compiled": compiled, "winograd": winograd}

ALTERNATIVES: dict[str, Sequence[Any]] = {
    "plan.SLICE": (96, 384, 2**40),
    "plan.CACHE_FLOATS": (48 * 1024, 192 * 1024),
    "plan.NEAR_KERNELS": (3 * 1024, 12 * 1024),
    "plan.FAR_KERNELS": (12 * 1024, 48 * 1024),
    "plan.GROUP_PIXELS": (6 * MR, 24 * MR),
    "plan.NEAR_FLOATS": (0, 2**40),
    "plan.MANY_TASKS": (8, 128),
    "plan.GROUP_TILES": (2 * SIDE_BY_SIDE, 8 * SIDE_BY_SIDE),
    "compiled.SLICE_PIXELS": tuple(n * 224 * 224 for n in (1, 4, 8)),
    "winograd.IMAGES": (1, 4),
    "winograd.MAKING_U": (2, 10),
}
"""Constant → other values."""


@contextmanager
def changed(name: str, value: Any) -> Iterator[None]:
    """Let a constant have another value."""
    module, constant = MODULES[name.partition(".")[0]], name.partition(".")[2]
    before = getattr(module, constant)
    setattr(module, constant, value)
    try:
        yield
    finally:
        setattr(module, constant, before)


def compare(
    model: str, size: int, batch: int, threads: int, turns: int, only: str = ""
) -> list[dict[str, Any]]:
    """Time A2 with every alternative, in turns; a row per alternative."""
    x = images(batch, size)
    truth = network(model, dtype=np.float64)(x[:1].astype(np.float64))
    engine: Any = network(model, engine="winograd", threads=threads)._engine
    engine.logits(x)
    names = [(n, v) for n in ALTERNATIVES if only in n for v in ALTERNATIVES[n]]
    subjects = [("as it is", None, engine)]
    for name, value in names:
        other = copy.copy(engine)
        other._plans = OrderedDict()
        subjects.append((name, value, other))
    clock = time.thread_time if threads == 1 else time.perf_counter  # less others' load
    times: list[list[float]] = [[] for _ in subjects]
    errors = [0.0] * len(subjects)
    for turn in range(turns):
        print(f"\rbatch {batch}, {threads} threads: turn {turn + 1}/{turns} ",
              end="", file=sys.stderr, flush=True)  # fmt: skip
        order = range(len(subjects))
        for i in order if turn % 2 == 0 else reversed(order):
            name, value, subject = subjects[i]
            with changed(name, value) if value is not None else changed("plan.SLICE", plan.SLICE):
                errors[i] = error_of(subject.logits(x)[:1], truth)
                best = float("inf")
                for _ in range(2):
                    began = clock()
                    subject.logits(x)
                    best = min(best, clock() - began)
            times[i].append(best * 1e3 / batch)
    print(file=sys.stderr)
    labels = [f"{name} = {value}" if value is not None else name for name, value, _ in subjects]
    return [
        {
            "constant": found["name"], "batch": batch, "threads": threads,
            "least ms": min(found["turns"]), "ms": found["ms"],
            "ms quartiles": found["ms_quartiles"],
            "ratio": found["ratio"], "ratio quartiles": found["ratio_quartiles"], "error": error,
        }
        for found, error in zip(compared(labels, times), errors, strict=True)
    ]  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return the rows as lines."""
    for row in rows:
        low, high = row["ratio quartiles"]
        yield (
            f"{row['ratio']:.3f} ({low:.3f} … {high:.3f})  least {row['least ms']:.2f} ms  "
            f"error {row['error']:.1e}  {row['constant']}"
        )
