"""Whole processes: how long from nothing to printed classes, and how much memory at the peak."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "tests" / "photos" / "chelsea.png"

MEMORY = """
import resource, sys
from bench.contenders import CONTENDERS
from bench.measure import images
x = images(1, 224)
CONTENDERS[sys.argv[1]]("repvgg_a2", 1)(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def startup(turns: int) -> list[dict[str, Any]]:
    """Time `npvgg classify` with the bundled network and with A2 from a file, warm and cold."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "a2.safetensors"
        make = "import npvgg, sys; npvgg.create_model('repvgg_a2').save(sys.argv[1])"
        _timed([sys.executable, "-c", make, str(weights)], {})
        cold = {"XDG_CACHE_HOME": str(Path(folder) / "cache")}
        classify = [sys.executable, "-m", "npvgg", "classify", str(PHOTO)]
        from_file = [*classify, "--weights", str(weights)]
        rows = [_row("bundled network, first run ever (compiles)", [_timed(classify, cold)])]
        for what, command in (
            ("bundled network, warm", classify),
            ("A2 from a file, warm", from_file),
        ):
            _timed(command, cold)
            rows.append(_row(what, [_timed(command, cold) for _ in range(turns)]))
        rows.append(_row("import npvgg", [_timed([sys.executable, "-c", "import npvgg"], {})
                                           for _ in range(turns)]))  # fmt: skip
    return rows


def memory(names: Sequence[str]) -> list[dict[str, Any]]:
    """Measure peak resident memory of A2 at batch 1; making the rivals' files counts as theirs."""
    rows = []
    for name in names:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, name], cwd=ROOT, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        rows.append({"what": name, "MB": float(done.stdout)})
    return rows


def _timed(command: Sequence[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True
    )
    return time.perf_counter() - began


def _row(what: str, seconds: Sequence[float]) -> dict[str, Any]:
    return {"what": what, "seconds": statistics.median(seconds), "runs": len(seconds)}
