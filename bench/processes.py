"""Whole processes: how long from nothing to printed classes, and how much memory at the peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contenders import exported
from bench.numbers import quartiles

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "tests" / "photos" / "chelsea.png"

MEMORY = """
import json, resource, sys
from bench.contenders import CONTENDERS
from bench.measure import images
def peak():  # ru_maxrss: KiB, on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (10 + 10 * (sys.platform == "darwin"))
x = images(1, 224)
before = peak()
y = CONTENDERS[sys.argv[1]]("repvgg_a2", int(sys.argv[2]))(x)
print(json.dumps([peak(), before]))
"""  # noqa: E501

ONNX = """
import sys, numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
image = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize((224, 224)), np.float32)
x = ((image / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None]
print(session.run(None, {"x": x})[0][0].argsort()[-5:])
"""

TORCH = """
import sys, numpy as np, torch
from bench.contenders import make_torch
from PIL import Image
image = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize((224, 224)), np.float32)
x = ((image / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None]
print(make_torch("repvgg_a2", int(sys.argv[1]))(np.ascontiguousarray(x))[0].argsort()[-5:])
"""


def startup(turns: int, names: Sequence[str], threads: int) -> list[dict[str, Any]]:
    """Time `npvgg classify` with the bundled network and with A2 from a file, cold and warm; and
    the shortest script that does the same with some rivals.
    """
    file, python = str(exported("repvgg_a2", ".safetensors")), sys.executable
    classify = [python, "-m", "npvgg", "classify", str(PHOTO)]
    commands = {
        "npvgg, bundled network": classify,
        "npvgg, A2 from a file": [*classify, "--model", "repvgg_a2", "--weights", file],
        "import npvgg": [python, "-c", "import npvgg"],
    }
    if "onnxruntime" in names:
        model = str(exported("repvgg_a2", ".onnx"))
        commands["onnxruntime, A2 from a file"] = [python, "-c", ONNX, model, str(PHOTO)]
    if "pytorch" in names:
        commands["pytorch, A2 from a file"] = [python, "-c", TORCH, str(threads), str(PHOTO)]
    with tempfile.TemporaryDirectory() as folder:
        cache = {"XDG_CACHE_HOME": folder}
        cold = [_timed(commands["npvgg, bundled network"], {"XDG_CACHE_HOME": f"{folder}/{turn}"})
                for turn in range(min(turns, 3))]  # fmt: skip
        rows = [_row("npvgg, bundled network, first run ever (compiles)", cold)]
        times: dict[str, list[float]] = {what: [] for what in commands}
        for command in commands.values():
            _timed(command, cache)
        for _ in range(turns):
            for what, command in commands.items():
                times[what].append(_timed(command, cache))
    return rows + [_row(what, seconds) for what, seconds in times.items()]


def memory(names: Sequence[str], threads: int) -> list[dict[str, Any]]:
    """Measure peak resident memory of A2 at batch 1, everybody loading a file of their own."""
    rows = []
    for name in names:
        command = [sys.executable, "-c", MEMORY, name, str(threads)]
        for _ in range(2):  # the first one may write the file
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peak, before = json.loads(done.stdout.splitlines()[-1])
        rows.append({"what": name, "MB": peak, "before MB": before})
    return rows


def _timed(command: Sequence[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True
    )
    return time.perf_counter() - began


def _row(what: str, seconds: Sequence[float]) -> dict[str, Any]:
    first, median, third = quartiles(seconds)
    return {
        "what": what, "seconds": median, "seconds quartiles": [first, third], "runs": len(seconds),
    }  # fmt: skip
