"""Measure npvgg beside its rivals, and write what was found as data, tables and pictures.

    python -m bench              RepVGG-A2: batch 1 and 16, one and more threads
    python -m bench variants     other networks at their own sizes
    python -m bench layers       every step of the Winograd engine against the roofline
    python -m bench startup      whole processes, from nothing to printed classes
    python -m bench memory       peak memory of a process
    python -m bench threads      one thread to all of them
    python -m bench readable     the reference engine and onnx's evaluator, both in NumPy
    python -m bench batch        a batch run: what it costs beside the network, and its plan
    python -m bench folder       photos of the web and of a camera, from files to classes
    python -m bench constants    the constants of the fast engines, each beside its neighbours

Every contender's output is checked before it is timed. Rivals that are not installed are left out,
by name; install them with `pip install 'npvgg[bench]'`. Results go to bench/results as .json, .md,
.svg and .png. Keep the machine quiet meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import report
from bench.contenders import CONTENDERS, FILES, MODULES, READABLE
from bench.measure import race
from bench.numbers import compared
from bench.report import Row, Rows
from npvgg.engines.threads import available

VARIANTS = {
    "repvgg_a0": 224, "repvgg_a2": 224, "repvgg_b0": 224, "repvgg_b1g4": 224, "repvgg_b3": 224,
    "repvgg_d2se": 320,
}  # fmt: skip
"""Network → the size of image that it was trained for."""


def installed(*, readable: bool = False) -> list[str]:
    """List the contenders that are here: the fast ones, or the readable ones."""
    found = []
    for name in CONTENDERS:
        if (name in READABLE) != readable:
            continue
        if name in MODULES and importlib.util.find_spec(MODULES[name]) is None:
            report.say(f"{name} is not installed: left out")
        else:
            found.append(name)
    return found


def headline(args: argparse.Namespace) -> Rows:
    """Race on A2 in the cases that people have."""
    cases = sorted({(1, available()), (1, 1), (16, available())}, key=lambda c: (c[0], -c[1]))
    return [_case("repvgg_a2", 224, batch, threads, args) for batch, threads in cases]


def variants(args: argparse.Namespace) -> Rows:
    """Race on several networks, one image at a time."""
    return [_case(name, size, 1, available(), args) for name, size in VARIANTS.items()]


def threads(args: argparse.Namespace) -> Rows:
    """Race on A2 with one thread, two, four … all."""
    counts = sorted({min(2**i, available()) for i in range(9)})
    return [_case("repvgg_a2", 224, 1, count, args) for count in counts]


def readable(args: argparse.Namespace) -> Rows:
    """Race what is written to be read, on A2, one image, with NumPy's own threads."""
    args.only = args.only or installed(readable=True)
    return [_case("repvgg_a2", 224, 1, available(), args)]


def layers(args: argparse.Namespace) -> Rows:
    """Time every step of one inference alone."""
    from bench.layers import profile

    return [row for batch in (1, 16) for row in profile("repvgg_a2", 224, batch)]


def constants(args: argparse.Namespace) -> Rows:
    """Time the Winograd engine with other constants."""
    from bench.constants import compare

    cases = ((1, 1), (16, 1), (1, available()), (16, available()))
    return [row for case in cases for row in compare("repvgg_a2", 224, *case, args.turns)]


def startup(args: argparse.Namespace) -> Rows:
    """Time whole processes."""
    from bench.processes import startup as measure

    return measure(args.turns, args.only or installed(), available())


def memory(args: argparse.Namespace) -> Rows:
    """Measure the peak memory of whole processes."""
    from bench.processes import memory as measure

    return measure(args.only or installed(), available())


def batch(args: argparse.Namespace) -> Rows:
    """Measure batch runs."""
    from bench.batch import batch as measure

    return measure(args.photos)


def folder(args: argparse.Namespace) -> Rows:
    """Measure folders of photos."""
    from bench.folder import folder as measure

    return measure("repvgg_a0", args.photos, args.turns)


def _case(model: str, size: int, batch: int, count: int, args: argparse.Namespace) -> Row:
    names = args.only or installed()
    results = race(
        names, model, threads=count, batch=batch, size=size, turns=args.turns, seconds=args.seconds
    )
    contenders = compared(names, [result.turns for result in results])
    for entry, result in zip(contenders, results, strict=True):
        entry["error"] = result.error
        if result.failed:
            entry["failed"] = result.failed
            report.say(f"{result.name} took no part: {result.failed}")
    return {
        "model": model, "size": size, "batch": batch, "threads": count, "contenders": contenders,
    }  # fmt: skip


WHAT: dict[str, Callable[[argparse.Namespace], Rows]] = {
    f.__name__: f
    for f in (headline, variants, layers, startup, memory, threads, readable, constants)
} | {"batch": batch, "folder": folder}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for, and write it down."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=WHAT, default="headline")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="these contenders")
    parser.add_argument("--turns", type=int, default=7, help="turns of each contender (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (1)")
    parser.add_argument("--photos", type=int, default=1000, help="of `batch` and `folder` (1000)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench/results"), help="folder to write to"
    )
    args = parser.parse_args(argv)
    where = report.machine()
    with tempfile.TemporaryDirectory(prefix="npvgg-bench-") as folder:
        os.environ[FILES] = folder
        rows = WHAT[args.what](args)
    report.write(args.what, rows, where, args.out)


if __name__ == "__main__":
    main()
