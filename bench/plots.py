"""Pictures of what was measured, as SVG and as PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "npvgg"  # the same picture for the same numbers
from matplotlib import pyplot as plt  # noqa: E402

from bench.numbers import roof  # noqa: E402
from bench.report import Rows, case  # noqa: E402


def draw(what: str, rows: Rows, folder: Path) -> None:
    """Draw what there is to see in the rows: <what>.svg, .png, and for some a second picture."""
    pictures: dict[str, Callable[[Any, Rows], None]] = {what: _bars}
    if "contenders" in rows[0]:
        pictures = {what: _races, f"{what}-accuracy": _accuracy}
    if what == "threads":
        pictures = {what: _threads}
    if what == "layers":
        rows = [row for row in rows if row["batch"] == 1]
        pictures = {what: _layers, f"{what}-roofline": _roofline}
    if what in ("batch", "folder"):  # units of all kinds
        pictures = {}
    for name, picture in pictures.items():
        tall = 1.5 + 0.26 * sum(len(row.get("contenders", [0])) for row in rows)
        level = picture in (_accuracy, _roofline, _threads)
        figure, axes = plt.subplots(figsize=(8, 5 if level else max(3, tall)))
        picture(axes, rows)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})
        plt.close(figure)


def _names(rows: Rows) -> list[str]:
    return [contender["name"] for contender in rows[0]["contenders"]]


def _races(axes: Any, rows: Rows) -> None:
    """Ms per image of every contender, by case; the thin line is from quartile to quartile."""
    names = _names(rows)
    step = 1 / (len(names) + 1)
    for i, name in enumerate(names):
        at = [y + i * step for y in range(len(rows))]
        mine = [row["contenders"][i] for row in rows]
        values = [contender["ms"] or 0 for contender in mine]
        spread = [contender.get("ms_quartiles", [0, 0]) for contender in mine]
        below = [value - low for value, (low, _) in zip(values, spread, strict=True)]
        above = [high - value for value, (_, high) in zip(values, spread, strict=True)]
        bars = axes.barh(at, values, height=step, label=name, xerr=[below, above])
        texts = [f"{c['ms']:.1f}" if c["ms"] else "failed" for c in mine]
        axes.bar_label(bars, texts, padding=3, fontsize=7)
    axes.set_yticks(
        [y + 0.5 - step for y in range(len(rows))], [case(r).replace(", batch", "\nbatch")
                                                     for r in rows])  # fmt: skip
    axes.set_xlabel("ms per image")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.legend(fontsize="small")


def _accuracy(axes: Any, rows: Rows) -> None:
    """Draw the first case, error against time: down and to the left is better."""
    for contender in rows[0]["contenders"]:
        if contender["ms"]:
            axes.scatter(contender["ms"], contender["error"], label=contender["name"])
    axes.legend(fontsize="small")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"ms per image ({case(rows[0])})")
    axes.set_ylabel("error against float64, of the largest output")


def _threads(axes: Any, rows: Rows) -> None:
    """Images per second by number of threads."""
    for i, name in enumerate(_names(rows)):
        ran = [row for row in rows if row["contenders"][i]["ms"]]
        axes.plot(
            [row["threads"] for row in ran], [1e3 / row["contenders"][i]["ms"] for row in ran],
            marker="o", label=name,
        )  # fmt: skip
    axes.set_xticks([row["threads"] for row in rows])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threads")
    axes.set_ylabel("images per second")
    axes.legend(fontsize="small")


def _layers(axes: Any, rows: Rows) -> None:
    """Every step's time for one image, and that of its products at the measured peak."""
    for i, row in enumerate(rows):
        axes.barh(i, row["ms"], color="C0", label="measured" if i == 0 else None)
        axes.barh(
            i,
            row["least ms"],
            color="C1",
            height=0.4,
            label="products at the peak" if i == 0 else None,
        )
    axes.set_yticks(range(len(rows)), [row["step"] for row in rows], fontsize=7)
    axes.set_xlabel("ms on one thread")
    axes.invert_yaxis()
    axes.legend()


def _roofline(axes: Any, rows: Rows) -> None:
    """Draw the steps that multiply as points under the roof."""
    peak, bandwidth = rows[0]["peak GFLOP/s"], rows[0]["peak GB/s"]
    points = [row for row in rows if row["GFLOP"]]
    at = [row["GFLOP"] * 1e3 / row["MB"] for row in points]
    for kind in sorted({row["step"].split()[0] for row in points}):
        mine = [i for i, row in enumerate(points) if row["step"].split()[0] == kind]
        axes.scatter([at[i] for i in mine], [points[i]["GFLOP/s"] for i in mine], label=kind)
    ends = [min(*at, 1.0) / 2, peak / bandwidth, 2 * max(*at, peak / bandwidth)]
    axes.plot(ends, [roof(x, peak, bandwidth) for x in ends], color="black")
    axes.legend()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte of weights, input and output (left of the bend: from memory)")
    axes.set_ylabel(f"GFLOP/s on one thread (roof: {peak:.0f} GFLOP/s, {bandwidth:.0f} GB/s)")


def _bars(axes: Any, rows: Rows) -> None:
    """One bar per row: its first number."""
    number = next(key for key, value in rows[0].items() if isinstance(value, float))
    values = [row[number] for row in rows]
    spread = [row.get(f"{number} quartiles", [row[number]] * 2) for row in rows]
    below = [value - low for value, (low, _) in zip(values, spread, strict=True)]
    above = [high - value for value, (_, high) in zip(values, spread, strict=True)]
    bars = axes.barh([row["what"] for row in rows], values, xerr=[below, above])
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3)
    axes.set_xlabel(number)
    axes.invert_yaxis()
