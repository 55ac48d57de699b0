"""Pictures of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "npvgg"  # the same picture for the same numbers
from matplotlib import pyplot as plt  # noqa: E402


def plot(what: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Draw one picture of the rows."""
    height = 1 + 0.28 * sum(len(row.get("contenders", [0])) for row in rows)
    figure, axes = plt.subplots(figsize=(8, max(3, height)))
    if "contenders" in rows[0]:
        _races(axes, rows)
    elif what == "layers":
        _layers(axes, rows)
    else:
        number = next(key for key, value in rows[0].items() if isinstance(value, float))
        axes.barh([str(row["what"]) for row in rows], [row[number] for row in rows])
        axes.set_xlabel(number)
        axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _races(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = [c["name"] for c in rows[0]["contenders"]]
    step = 1 / (len(names) + 1)
    for i, name in enumerate(names):
        values = [row["contenders"][i]["ratio"] for row in rows]
        at = [y + i * step for y in range(len(rows))]
        bars = axes.barh(at, values, height=step, label=name)
        axes.bar_label(bars, [f"{row['contenders'][i]['ms']:.1f} ms" for row in rows], padding=2)
    axes.set_yticks(
        [y + 0.5 - step for y in range(len(rows))],
        [f"{r['model']}\nbatch {r['batch']}, {r['threads']} threads" for r in rows],
    )
    axes.set_xlabel("time per image, relative to the first; shorter is faster")
    axes.invert_yaxis()
    axes.legend(fontsize="small")


def _layers(axes: Any, rows: list[dict[str, Any]]) -> None:
    peak = rows[0]["peak GFLOP/s"]
    for i, row in enumerate(rows):
        product, ideal = row["ms"], row["GFLOP"] / peak * 1e3
        axes.barh(i, product, color="C0")
        axes.barh(i, ideal, color="C1")
    axes.set_yticks(range(len(rows)), [row["step"] for row in rows], fontsize=7)
    axes.set_xlabel("ms on one thread (blue); what its products take at the measured peak (orange)")
    axes.invert_yaxis()
