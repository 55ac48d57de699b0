"""What was measured, as JSON, as a Markdown table and as a picture."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from npvgg.threads import available

PACKAGES = (
    "npvgg", "numpy", "numba", "llvmlite", "scipy", "onnxruntime", "openvino", "ncnn", "torch",
)  # fmt: skip


def say(line: str) -> None:
    """Speak on standard error."""
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Say where and with what this was measured."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(": ")[2] if names else processor
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--short"], capture_output=True, text=True)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "processors": available(),
        "system": platform.system(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() + (" with changes" if changed.stdout.strip() else ""),
        "versions": versions,
    }


def write(what: str, rows: list[dict[str, Any]], folder: Path) -> None:
    """Write <what>.json, .md and, where matplotlib is installed, .svg; print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    where = machine()
    (folder / f"{what}.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=1))
    text = table(rows) + "\n" + footnote(where)
    (folder / f"{what}.md").write_text(text, encoding="utf-8")
    print(text)
    try:
        from bench.plots import plot
    except ImportError:
        say("matplotlib is not installed: no picture")
        return
    plot(what, rows, folder / f"{what}.svg")


def table(rows: list[dict[str, Any]]) -> str:
    """Give a Markdown table: one line per case where contenders raced, else one per row."""
    if "contenders" not in rows[0]:
        heads = list(rows[0])
        lines = [[_shown(row.get(head)) for head in heads] for row in rows]
        return _markdown(heads, lines)
    names = [c["name"] for c in rows[0]["contenders"]]
    lines = []
    for row in rows:
        case = f"{row['model']}, {row['size']}², batch {row['batch']}, {row['threads']} threads"
        cells = [f"{c['ms']:.2f} ({c['ratio']:.2f}×)" for c in row["contenders"]]
        lines.append([case, *cells])
    worst = ["largest error"]
    for i in range(len(names)):
        worst.append(f"{max(row['contenders'][i]['error'] for row in rows):.1e}")
    return _markdown(["ms per image (ratio to the first)", *names], [*lines, worst])


def footnote(where: dict[str, Any]) -> str:
    """Say where it was measured, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"{where['processor']}, {where['processors']} processors, {where['system']}, "
        f"Python {where['python']}; {versions}; commit {where['commit']}, {where['date']}. "
        "Medians of turns taken alternately, one process each; errors against float64, of the "
        "largest output. ncnn stores weights in half precision and takes one image at a time.\n"
    )


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
