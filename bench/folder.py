"""From photos to rows: a folder's rate beside the network's own, and beside decoding alone.

Decoding and the network share the processors, so the least time of a photo is the sum of both
times, each measured with all processors; the rate of the slower one alone would need processors of
its own for the other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.contenders import network
from bench.report import Row, Rows
from npvgg.data import create_transform, resolve_model_data_config
from npvgg.engines.threads import available
from npvgg.images.ahead import MOST_DECODERS, ahead
from npvgg.pipeline import decoded, results

KINDS = {"500×375": (500, 375, 4), "4000×3000": (4000, 3000, 8)}
"""Photos of the web and of a camera: width, height, and side of the squares that are smoothed."""

BATCH = 16


def folder(model: str, count: int, turns: int) -> Rows:
    """Measure so many photos of the web, and a tenth as many of a camera, through a network."""
    net = network(model)
    with tempfile.TemporaryDirectory(prefix="npvgg-bench-folder-") as name:
        rows = []
        for kind, photos in (("500×375", count), ("4000×3000", max(BATCH, count // 10))):
            files = write_photos(Path(name) / kind, photos, *KINDS[kind])
            rows += _measure(f"{model}, {kind}", net, files, turns)
        return rows


def write_photos(folder: Path, count: int, width: int, height: int, square: int) -> list[Path]:
    """Write JPEG files that compress as photos do: smooth noise. A few patterns do for all."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = []
    for n in range(count):
        if n < BATCH:
            small = rng.integers(0, 256, (height // square, width // square, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        files.append(folder / f"{n:05}.jpg")
        if n < BATCH:
            image.save(files[-1], quality=92)
        else:
            files[-1].write_bytes(files[n % BATCH].read_bytes())
    return files


def _measure(what: str, net: Any, files: list[Path], turns: int) -> Rows:
    transform = create_transform(**resolve_model_data_config(net))
    decode = partial(decoded, transform=transform)
    x = np.zeros((BATCH, *transform.input_size), np.float32)
    decoders = min(MOST_DECODERS, available())
    ways: dict[str, Callable[[], Iterable[Any]]] = {
        "decoding": lambda: ahead(decode, files, threads=decoders, limit=2 * BATCH),
        "network": lambda: (net(x) for _ in range(-(-len(files) // BATCH))),
        "folder": lambda: results(files, decode, net, batch_size=BATCH, threads=None),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    net(x)
    for _ in range(turns):
        for way, run in ways.items():
            began = time.perf_counter()
            done = sum(1 for _ in run()) * (BATCH if way == "network" else 1)
            times[way].append((time.perf_counter() - began) / done)
    rates = {way: 1 / statistics.median(mine) for way, mine in times.items()}
    shares = [
        (d + n) / f
        for d, n, f in zip(times["decoding"], times["network"], times["folder"], strict=True)
    ]
    slower = min(rates["decoding"], rates["network"])
    return [_row(f"{what}: {way}", rate, "photos/s") for way, rate in rates.items()] + [
        _row(f"{what}: of what both together allow", statistics.median(shares), "×"),
        _row(f"{what}: of the slower one's rate alone", rates["folder"] / slower, "×"),
    ]


def _row(what: str, value: float, unit: str) -> Row:
    return {"what": what, "value": float(value), "unit": unit}
