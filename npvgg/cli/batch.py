"""`npvgg batch`: plan a run, work on it, say how far it is, and end it with the right status."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from npvgg.batch import clusters
from npvgg.batch.local import Workers
from npvgg.batch.predictor import identified
from npvgg.batch.run import PLAN, SUMMARY, Run, described, numbers, plan
from npvgg.batch.shards import BATCH_SIZE, Done
from npvgg.batch.sources import listed
from npvgg.batch.spec import OPENING, refuse_another
from npvgg.cli import progress
from npvgg.cli.output import Parting, say
from npvgg.cli.progress import log
from npvgg.cli.text import noun
from npvgg.engines.threads import available
from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import printable

OK, SOME_FAILED, ABORTED = 0, 1, 2

SHARD_SIZE = 5000

SPEC = (
    "model", "weights", "wrapper", "prefix", "dtype", "labels", "want", "topk", "embedding_dtype",
    *OPENING,
)  # fmt: skip
"""Options of the command line that are fields of a Spec."""

LATER = ("batch_size", "max_failure_rate")
"""Options that decide no bit: the plan keeps them for those who go on and do not give their own."""


def batch(args: argparse.Namespace) -> int:
    """Work on a run until it is done: planned first, if it is none yet."""
    with Parting(lambda: _how_to_go_on(args.output)), _kept(args.files_from) as args.files_from:
        return _batch(args)


@contextmanager
def _kept(files_from: str | None) -> Iterator[str | None]:
    """Give the list of photos as a file: `-` is read to its end, into one that is removed later."""
    if files_from != "-":
        yield files_from
        return
    if sys.stdin is None:
        raise ArgumentError("--files-from: expected names on standard input, found it closed")
    with tempfile.NamedTemporaryFile(prefix="npvgg-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield file.name


def _how_to_go_on(output: str) -> str:
    if not os.path.exists(Path(output) / PLAN):
        return "nothing is planned yet: run the same command again"
    run = Run.open(output)
    return (
        f"{len(run.done()):,} of {run.shards:,} {noun(run.shards, 'shard')} are done: go on with "
        f"npvgg batch --output {printable(output)}"
    )


def _batch(args: argparse.Namespace) -> int:
    if os.path.exists(Path(args.output) / PLAN):
        run = Run.open(args.output)
        _refuse_other(args, run)
    elif args.status or args.retry_failed:
        raise ArgumentError(f"--output: expected a run, found none in {args.output!r}")
    else:
        run = _planned(args)
    if args.status:
        return _status(args, run)
    run.check_inputs()
    done = run.done()
    failed = run.failed(done)
    wanted = failed.keys() if args.retry_failed else set(range(run.shards)) - done
    shards = [number for number in numbers(run, args.part) if number in wanted]
    sizes = {n: failed[n] if args.retry_failed else run.size(n) for n in shards}
    watch, limit = _Watch(sizes, args.progress == "json"), _option(args, run, "max_failure_rate")
    for result in _computed(args, run, shards, watch) if shards else ():
        failed[result.shard] = result.failed
        watch.shard(result)
        if _beyond(run, limit, sum(failed.values())):
            return ABORTED
    return _ended(run, watch.rates() if shards else None, limit, sum(failed.values()))


def _ended(run: Run, rates: dict[str, float] | None, limit: float | None, failed: int) -> int:
    """Finish the run if all shards are done; say how it ended, and give the exit status.

    rates: of what was computed, None for nothing
    """
    progress.passing("")
    left = run.shards - len(run.done())
    if left:
        log.info(f"this part is done; {left:,} {noun(left, 'shard')} of other parts are not")
    else:
        if rates is not None or not (run.folder / SUMMARY).exists():
            failed = run.finish(rates or {})
        log.info(f"{run.photos:,} {noun(run.photos, 'photo')} in {printable(str(run.folder))}")
    if failed:
        log.error(f"{failed:,} {noun(failed, 'photo')} failed: see errors.parquet, --retry-failed")
    if _beyond(run, limit, failed):
        return ABORTED
    return SOME_FAILED if failed else OK


def _beyond(run: Run, limit: float | None, failed: int) -> bool:
    """Return whether more photos failed than may, and say so."""
    if limit is None or failed <= limit * run.photos:
        return False
    log.error(
        f"error: --max-failure-rate: {failed:,} of {run.photos:,} {noun(run.photos, 'photo')} "
        f"failed, more than {limit:g}"
    )
    return True


# --- The plan -------------------------------------------------------------------------------------


def _planned(args: argparse.Namespace) -> Run:
    if not args.sources and args.files_from is None:
        raise ArgumentError(
            f"source: expected photos, or --output of a run to go on with; {args.output!r} is none"
        )
    spec, identity = identified(_given(args))
    model = printable(str(spec.model or spec.weights))
    log.info(f"listing photos for {model}, engine {spec.engine}")
    run = plan(
        args.output,
        listed(args.sources, args.files_from, args.column),
        spec=spec,
        identity=identity,
        sources=described(args.sources, args.files_from, args.column),
        shard_size=args.shard_size or SHARD_SIZE,
        options={name: getattr(args, name) for name in LATER},
    )
    refuse_another(run.identity, identity)  # where another process was faster
    _refuse_other(args, run)
    log.info(
        f"planned {run.photos:,} {noun(run.photos, 'photo')} in {run.shards:,} "
        f"{noun(run.shards, 'shard')}"
    )
    return run


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Collect the options that were given, as fields of a Spec."""
    fields = {name: value for name in SPEC if (value := getattr(args, name)) is not None}
    return fields | ({"engine": args.inference_engine} if args.inference_engine else {})


def _refuse_other(args: argparse.Namespace, run: Run) -> None:
    """Raise ArgumentError where what was asked for is not what the run was planned with."""
    if args.sources or args.files_from is not None:
        asked = described(args.sources, args.files_from, args.column)
        refuse_another({"inputs": run.plan["sources"]}, {"inputs": asked})
    if args.shard_size is not None:
        refuse_another({"shard_size": run.plan["shard_size"]}, {"shard_size": args.shard_size})
    spec = replace(run.spec, **_given(args)).resolved()
    if spec != run.spec:  # the same weights under another name, perhaps
        refuse_another(run.identity, identified(spec)[1])


def _option(args: argparse.Namespace, run: Run, name: str) -> Any:
    given = getattr(args, name)
    return run.plan["options"].get(name) if given is None else given


# --- The work -------------------------------------------------------------------------------------


def _computed(
    args: argparse.Namespace, run: Run, shards: list[int], watch: _Watch
) -> Iterator[Done]:
    workers = args.workers or available()
    size = _option(args, run, "batch_size") or BATCH_SIZE
    if args.engine == "local":
        count = min(workers, len(shards))
        with Workers(run, count=count, threads=args.threads, batch_size=size) as crew:
            yield from crew.compute(shards, retry=args.retry_failed, opened=watch.photo)
        return
    compute = clusters.with_dask if args.engine == "dask" else clusters.with_ray
    yield from compute(
        run,
        shards,
        address=args.address,
        workers=workers,
        threads=args.threads or 1,
        batch_size=size,
        retry=args.retry_failed,
    )


class _Watch:
    """Tells how far the work is: on a terminal in one line, in a log now and then, or as JSON."""

    def __init__(self, sizes: dict[int, int], json: bool) -> None:
        self.sizes, self.json = sizes, json
        self.photos, self.shards = sum(sizes.values()), len(sizes)
        self.opened = self.rows = 0
        self.began = self.ended = self.said = time.monotonic()

    def photo(self, number: int) -> None:
        """Take note of a photo that is being opened; the time before the first one was for
        starting.
        """
        if not self.opened:
            self.began = self.said = time.monotonic()
        self.opened += 1
        self._say()

    def shard(self, done: Done) -> None:
        """Take note of a shard that is done."""
        self.shards -= 1
        self.rows += self.sizes[done.shard]
        self.ended = time.monotonic()
        if self.json:
            line = {
                **done._asdict(), "shards_left": self.shards, "photos_done": self.rows,
                "photos": self.photos, **self.rates(), "seconds_left": self.seconds_left(),
            }  # fmt: skip
            progress.write(json.dumps(line) + "\n")
        self._say()

    def rates(self) -> dict[str, float]:
        """Return what was measured of this process's work, up to the last shard."""
        seconds = self.ended - self.began
        rate = self.rows / seconds if seconds > 0 else 0.0
        return {"photos_per_second": round(rate, 3), "seconds": round(seconds, 3)}

    def seconds_left(self) -> float | None:
        """Guess how long the rest takes, by what was opened until now; None before anything was."""
        done = min(max(self.opened, self.rows), self.photos)  # photos are opened again after deaths
        seconds = time.monotonic() - self.began
        return round((self.photos - done) * seconds / done, 1) if done else None

    def _say(self) -> None:
        now = time.monotonic()
        pause = progress.TERMINAL_SECONDS if progress.on_terminal() else progress.LOG_SECONDS
        if self.json or now - self.said < pause:
            return
        self.said = now
        done = min(max(self.opened, self.rows), self.photos)
        rate = done / (now - self.began) if now > self.began else 0.0
        progress.passing(
            f"{done:,} of {self.photos:,} {noun(self.photos, 'photo')}, {rate:.1f}/s, "
            f"{_clock(self.seconds_left())} left"
        )


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _status(args: argparse.Namespace, run: Run) -> int:
    """Print how far a run is; exit status 0: done, 1: done, but rows failed, 2: not done."""
    done = run.done()
    failed = sum(run.failed(done).values())
    state = {
        "photos": run.photos,
        "photos_done": sum(map(run.size, done)),
        "failed": failed,
        "shards": run.shards,
        "shards_done": len(done),
        "model": run.spec.model or run.spec.weights,
        "engine": run.spec.engine,
        "want": ", ".join(run.spec.want),
    }
    if args.progress == "json":
        say(json.dumps(state) + "\n")
    else:
        for name, value in state.items():
            text = f"{value:,}" if isinstance(value, int) else printable(str(value))
            say(f"{name.replace('_', ' '):12} {text}\n")
    return ABORTED if len(done) < run.shards else SOME_FAILED if failed else OK
