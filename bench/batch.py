"""Batch runs: what a photo costs beside network and decoding, and what a million paths cost.

CPU seconds, children included, where nothing else is said; wall seconds need a quiet machine.

What network and decoding need is measured by a bare loop: it decodes sixteen photos, runs them
through the network, and takes the next sixteen, in as many processes at once as the run has
workers. Each by itself needs less, since neither then drives the other's data out of the caches.
Whatever else a run takes is the executor's: starting Python, Numba and the network, planning,
messages, parquet files.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

import npvgg
from bench.folder import KINDS, write_photos
from bench.report import Row, Rows
from npvgg.batch.local import ENVIRONMENT, PILLOW_BLOCKS
from npvgg.batch.predictor import Predictor
from npvgg.batch.run import Run
from npvgg.batch.spec import Spec

TURNS = 2
"""Runs and bare loops of each kind, one after the other; the least of each counts."""

SECONDS = 0.5
"""Between two looks at the memory of workers."""

PLAN = """
import json, resource, sys, time
from pathlib import Path
from npvgg.batch.run import plan
from npvgg.batch.sources import listed
from npvgg.batch.spec import Spec
began = time.perf_counter()
identity = {"weights": "", "versions": {}}  # nothing is computed
photos = listed([], sys.argv[2])
run = plan(sys.argv[1], photos, spec=Spec().resolved(), identity=identity, sources={})
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(json.dumps([time.perf_counter() - began, peak, run.photos]))
"""

LOOP = """
import json, resource, sys
import numpy as np
from npvgg.batch.predictor import Predictor
predictor = Predictor(json.loads(sys.argv[1]))
predictor.warm_up()
began = resource.getrusage(resource.RUSAGE_SELF)
for at in range(2, len(sys.argv), 16):
    decoded = [predictor.decode(path) for path in sys.argv[at : at + 16]]
    predictor.model.outputs(np.stack([photo.x for photo in decoded]))
ended = resource.getrusage(resource.RUSAGE_SELF)
print(ended.ru_utime - began.ru_utime + ended.ru_stime - began.ru_stime)
"""


def batch(photos: int, paths: int = 1_000_000) -> Rows:
    """Measure a run of so many photos with one worker and with two, and plans of so many paths."""
    with tempfile.TemporaryDirectory(prefix="npvgg-bench-batch-") as name:
        folder = Path(name)
        rows = list(_work(folder, photos))
        return rows + list(_paths(folder, paths))


def _work(folder: Path, count: int) -> Iterator[Row]:
    weights = folder / "a0.safetensors"
    npvgg.create_model("repvgg_a0").save(weights)
    spec = Spec(model="repvgg_a0", weights=str(weights))
    files = write_photos(folder / "photos", count, *KINDS["500×375"])
    predictor = Predictor(spec)
    predictor.warm_up()
    with _measured() as decoding:
        decoded = [predictor.decode(path) for path in files[: count // 4]]
    x = np.stack([photo.x for photo in decoded[:16] if photo.x is not None])
    with _measured() as forward:
        for _ in range(0, count // 4, len(x)):
            predictor.model.outputs(x)
    shared = Predictor(spec, threads=2)
    shared.warm_up()
    with _measured() as two:
        for _ in range(0, count // 4, len(x)):
            shared.model.outputs(x)
    runs = -(-(count // 4) // len(x)) * len(x)
    decode, engine = decoding["cpu"] / len(decoded), forward["cpu"] / runs
    yield _row("decoding and transform, one photo", 1000 * decode, "CPU ms")
    yield _row("the network, one thread, batch 16, one photo", 1000 * engine, "CPU ms")
    rate = runs / two["wall"]
    yield _row("the network, two threads, batch 16", rate, "photos/s")
    yield _row("two threads less decoding on both", 1 / (1 / rate + decode / 2), "photos/s")
    for workers in (1, 2):
        bares, pers, rated, peaks, shares = [], [], [], [], []
        for turn in range(TURNS):
            bares.append(_bare(spec, files, workers) / count)
            run = folder / f"run{workers}-{turn}"
            command = [sys.executable, "-m", "npvgg", "batch", folder / "photos", "--output", run]
            command += ["--weights", weights, "--model", "repvgg_a0", "--workers", workers]
            command += ["--threads", 1, "--shard-size", max(1, count // 8)]
            with _measured(resource.RUSAGE_CHILDREN) as whole:
                peak, share = _watched(list(map(str, command)))
            summary = json.loads((run / "summary.json").read_text())
            pers.append(whole["cpu"] / count)
            rated.append(summary["rates"]["photos_per_second"])
            peaks.append(peak)
            shares.append(share)
        bare, per, rates, peak, share = (
            min(bares), min(pers), max(rated), max(peaks), max(shares),
        )  # fmt: skip
        s = "s" * (workers > 1)
        yield _row(f"{workers} worker{s}: first photo to last shard", rates, "photos/s")
        yield _row(f"{workers} worker{s}: all processes, one photo", 1000 * per, "CPU ms")
        yield _row(f"{workers} bare loop{s}: one photo", 1000 * bare, "CPU ms")
        fixed = 1000 * (per - bare)
        yield _row(
            f"{workers} worker{s}: beside network and decoding", fixed, "CPU s per 1000 photos"
        )
        yield _row(f"{workers} worker{s}: a million photos", per * 1e6 / 3600, "core-hours")
        yield _row(f"{workers} worker{s}: peak memory of the largest", peak, "MB")
        yield _row(f"{workers} worker{s}: the largest less what is shared (PSS)", share, "MB")
        if workers == 2:
            yield _row(
                "two workers / two threads less decoding", rates * (1 / rate + decode / 2), "×"
            )


def _bare(spec: Spec, files: Sequence[Path], count: int) -> float:
    """Decode and run photos in bare loops, so many at once; return their CPU seconds."""
    loops = []
    for n in range(count):
        command = [sys.executable, "-c", LOOP, json.dumps(spec.as_dict())]
        command += map(str, files[n::count])
        environment = {**PILLOW_BLOCKS, **os.environ, **ENVIRONMENT}
        loops.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
    return sum(float(loop.communicate()[0]) for loop in loops)


def _paths(folder: Path, count: int) -> Iterator[Row]:
    lines = (f"/data/photos/{n // 1000:06}/{n:09}.jpg\n" for n in range(count))
    (folder / "list.txt").write_text("".join(lines))
    command = [sys.executable, "-c", PLAN, str(folder / "million"), str(folder / "list.txt")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak, photos = json.loads(done.stdout)
    yield _row(f"planning {photos:,} paths", seconds, "s")
    yield _row(f"planning {photos:,} paths, peak memory", peak, "MB")
    _finished(Run.open(folder / "million"))
    with _measured() as again:
        command = [sys.executable, "-m", "npvgg", "batch", "--output", str(folder / "million")]
        subprocess.run(command, check=True, capture_output=True)
    yield _row(f"going on with a finished run of {photos:,} rows", again["wall"], "s")


def _finished(run: Run) -> None:
    """Write shards without results, as if all photos had been done."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(run.shards):
        ids, entries = zip(*run.entries(number), strict=True)
        empty = pa.nulls(len(ids), pa.string())
        table = {"id": ids, "path": [entry.path for entry in entries], "status": ["ok"] * len(ids)}
        pq.write_table(pa.table({**table, "error": empty}), run.shard(number))


def _watched(command: list[str]) -> tuple[float, float]:
    """Run a command; return the peak memory (MB) of the largest worker, and its largest
    proportional share: pages that several processes have are divided among them.
    """
    peak = share = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        while True:
            try:
                status = driver.wait(SECONDS)
                break
            except subprocess.TimeoutExpired:
                forking = _children(driver.pid)
            for worker in [pid for parent in forking for pid in _children(parent)]:
                with suppress(OSError):
                    peak = max(peak, _memory(worker, "status", "VmHWM"))
                    share = max(share, _memory(worker, "smaps_rollup", "Pss"))
    if status:
        raise subprocess.CalledProcessError(status, command)
    return peak, share


def _children(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _memory(pid: int, file: str, name: str) -> float:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((int(x.split()[1]) / 2**10 for x in lines if x.startswith(f"{name}:")), 0.0)


@contextmanager
def _measured(*kinds: int) -> Iterator[dict[str, float]]:
    """Measure CPU seconds, of children that have ended too (or of `kinds`), and wall seconds."""
    kinds = kinds or (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

    def cpu() -> float:
        return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)

    found: dict[str, float] = {}
    began, before = time.perf_counter(), cpu()
    yield found
    found |= {"cpu": cpu() - before, "wall": time.perf_counter() - began}


def _row(what: str, value: float, unit: str) -> Row:
    return {"what": what, "value": float(value), "unit": unit}
