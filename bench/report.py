"""What was measured, as JSON, as a Markdown table and as pictures."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from npvgg import __version__
from npvgg.engines.threads import available

PACKAGES = (
    "numpy", "numba", "llvmlite", "scipy", "onnx", "onnxruntime", "openvino", "ncnn", "torch",
)  # fmt: skip

UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Linux's names of what decides a race: 256-bit and 512-bit FMA, and products in bfloat16."""

Row = dict[str, Any]
Rows = list[Row]

NOTES = {
    "races": "ms per image: median of turns taken alternately, one process each (quartiles); "
    "× the first's time, turn by turn (quartiles). Errors against float64, of the largest output. "
    "ncnn stores weights in half precision and takes one image at a time. OpenVINO as it comes and "
    "PyTorch's autocast compute in bfloat16.",
    "layers": "Every step alone, on one thread, best of several runs, ms per image. Its floors: "
    "least ms, of the products at the peak (operands in the first-level cache); memory ms, of "
    "weights, input and output, each counted once, at the bandwidth of summing an array much "
    "larger than the caches; × floor is the time over the larger one. Both are measured. What is "
    "still in a cache comes faster than that.",
    "constants": "One model, each constant changed in turn: least and median of turns taken "
    "alternately (quartiles); ratio to the model as it is, turn by turn. With one thread the time "
    "is the processor's.",
    "batch": "A0 with random weights, photos of 500 × 375 pixels in JPEG. CPU seconds count all "
    "processes. What is beside network and decoding holds the start of the processes as well.",
    "folder": "A0 with random weights, JPEG, batches of 16; as many threads decode as there are "
    "processors, four at the most; medians of turns taken alternately. Decoding and network share "
    "the processors: together they allow the sum of their times.",
    "startup": "Whole processes, from the shell to the printed classes: median (quartiles).",
    "memory": "Peak resident memory of a process that loads A2 from its file and runs one image; "
    "“before” is the part that was there first: Python, NumPy, npvgg's front door, the image.",
}


def say(line: str) -> None:
    """Speak on standard error."""
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Say where and with what this was measured, and how busy the machine was before."""
    processor = platform.processor() or platform.machine()
    units: list[str] = []
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        facts = {key.strip(): value.strip() for key, _, value in lines}
        processor = facts.get("model name", processor)
        units = [unit for unit in UNITS if unit in facts.get("flags", "").split()]
    versions = {"npvgg": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "units": units,
        "processors": available(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": versions,
    }


def _commit() -> str:
    """Return the commit that is measured, and whether files but results were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        changed = subprocess.run(
            [*git, "status", "--short", "..", ":!results"], capture_output=True, text=True
        )
    except OSError:  # no git here
        return "unknown"
    return (commit.stdout.strip() or "unknown") + " with changes" * bool(changed.stdout.strip())


def write(what: str, rows: Rows, where: dict[str, Any], folder: Path) -> None:
    """Write <what>.json, .md and, where matplotlib is installed, pictures; print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"what": what, "machine": where, "rows": rows}
    (folder / f"{what}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = f"{table(what, rows)}\n{footnote(what, where)}\n"
    (folder / f"{what}.md").write_text(text, encoding="utf-8")
    print(text, end="")
    try:
        from bench.plots import draw
    except ImportError:
        say("matplotlib is not installed: no pictures")
        return
    draw(what, rows, folder)


# --- Tables ---------------------------------------------------------------------------------------


def table(what: str, rows: Rows) -> str:
    """Return a Markdown table: one line per case where contenders raced, else one per row."""
    if "contenders" in rows[0]:
        return _races(rows)
    heads = [head for head in rows[0] if not isinstance(rows[0][head], list)]
    return _markdown(heads, [[_cell(row, head) for head in heads] for row in rows])


def _races(rows: Rows) -> str:
    """Return a line per case, a column per contender; below, everybody's largest error."""
    names = [contender["name"] for contender in rows[0]["contenders"]]
    lines = [[case(row), *(_result(c) for c in row["contenders"])] for row in rows]
    worst = ["largest error"]
    for i in range(len(names)):
        errors = [row["contenders"][i].get("error") for row in rows]
        known = [error for error in errors if error is not None]
        worst.append(f"{max(known):.1e}" if known else "–")
    text = _markdown(["ms per image", *names], [*lines, worst])
    failures = [
        f"{contender['name']} took no part in {case(row)}: {contender['failed']}\n"
        for row in rows
        for contender in row["contenders"]
        if contender.get("failed")
    ]
    return text + "\n" * bool(failures) + "\n".join(failures)


def case(row: Row) -> str:
    """Name what was raced on."""
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    return f"{row['model']}, {row['size']}², batch {row['batch']}, {threads}"


def _result(contender: dict[str, Any]) -> str:
    if contender["ms"] is None:
        return "–"
    low, high = contender["ms_quartiles"]
    least, most = contender["ratio_quartiles"]
    return (
        f"**{contender['ms']:.2f}** ({low:.2f} … {high:.2f}), "
        f"{contender['ratio']:.2f}× ({least:.2f} … {most:.2f})"
    )


def _cell(row: Row, head: str) -> str:
    """Return a number with its quartiles, if the row has them."""
    value = row.get(head)
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    spread = row.get(f"{head} quartiles")
    return f"{value:.3g}" + (f" ({spread[0]:.3g} … {spread[1]:.3g})" if spread else "")


def footnote(what: str, where: dict[str, Any]) -> str:
    """Say how and where it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    note = NOTES.get(what, NOTES["races"])
    busy = (where["load"] or 0) > 0.5
    processor = f"{where['processor']} ({', '.join(where['units'])})"
    return (
        f"{note} {processor}, {where['processors']} processors, {where['system']}, "
        f"Python {where['python']}; {versions}; commit {where['commit']}, {where['date']}."
        + (f" The machine had been busy before it began: load {where['load']:.1f}." if busy else "")
    )


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
