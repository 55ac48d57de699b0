"""The report as one page that needs nothing else: a row per tensor with a picture of its errors,
and the first wrong one at large. `report.html` says what stands where, on `npvgg.pages`' page.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np

from npvgg.formats.untrusted import printable
from npvgg.ops import Array
from npvgg.pages import html
from npvgg.pages.colours import png
from npvgg.testing.bounds.shares import errors
from npvgg.testing.comparison import pictures
from npvgg.testing.comparison.report import Report, Row, number, share_text


def page(report: Report) -> str:
    """Return the whole page; whatever comes from the candidate is escaped.

    Raises ArgumentError without Jinja2, which is in the extra [pages].
    """
    folder, first = files("npvgg.testing.comparison"), report.first_wrong
    measured = first is not None and first.measured is not None
    return html.render(
        (folder / "report.html").read_text("utf-8"),
        style=(folder / "report.css").read_text("utf-8"),
        title=f"{report.candidate} against {report.title}",
        report=report,
        notes=report.all_notes(),
        first=first,
        explained=list(report.explained()) if first else (),
        views=[(said, png(colours)) for said, colours in _views(first, report)]
        if first is not None and measured
        else (),
        rows=list(_rows(report)),
        legend=_legend(),
    )


def _rows(report: Report) -> Iterator[dict[str, Any]]:
    """Return what the table says of each tensor."""
    after = False
    for row in report.rows:
        first = row is report.first_wrong
        kind = "first" if first else "after" if after or row.measured is None else ""
        after = after or first
        yield {
            "kind": kind, "name": row.name, "equation": row.probe.equation,
            "theirs": printable(row.theirs), "shape": _size(row.probe.shape), "fails": row.fails,
            **_cells(row, report),
        }  # fmt: skip


def _cells(row: Row, report: Report) -> dict[str, Any]:
    """Return the measurements of one row, written out, or why there are none."""
    m = row.measured
    if m is None:
        got = f", theirs is {_size(row.their_shape)}" if row.fails else ""
        return {"missing": f"{row.status}{got}"}
    thumb = pictures.reduced(pictures.error_map(_shares(row.name, report)))
    filled = 100 if m.share > 1 else max(0.0, 100 + 20 * float(np.log10(m.share or 1e-9)))
    return {
        "missing": "", "absolute": number(m.absolute), "relative": number(m.relative),
        "ulp": number(m.ulp), "share": share_text(m.share), "filled": f"{filled:.0f}",
        "thumb": png(pictures.share_colours(thumb)),
    }  # fmt: skip


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


def _shares(name: str, report: Report) -> Array:
    """Shares of the bound as they are painted.

    Behind a ReLU the bound of a zero is next to nothing, and its share says only that it is wrong.
    So a wrong element is measured by a tenth of the tensor's largest bound, if its own is smaller.
    """
    share, bound = report.shares(name), report.bound(name).astype(np.float64)
    error = errors(report.match.arrays[name], report.pack.tensor(name))
    floor = np.maximum(bound, bound.max() / 10)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(share > 1, np.fmax(error / floor, 1.001), share)


def _legend() -> str:
    scale = np.logspace(-pictures.DECADES, pictures.DECADES, 256)[None]
    return png(pictures.share_colours(scale))


def _views(row: Row, report: Report) -> Iterator[tuple[str, Array]]:
    got, want = report.match.arrays[row.name], report.pack.tensor(row.name)
    share = _shares(row.name, report)
    if share.ndim != 4 or row.measured is None:
        yield "error of each element", pictures.share_colours(pictures.error_map(share))
        return
    n, k = row.measured.where[:2]
    scale = float(np.abs(want[n, k]).max())
    which = f"channel {k} of image {n}"
    yield f"theirs, {which}", pictures.value_colours(got[n, k], scale)
    yield f"the truth, {which}", pictures.value_colours(want[n, k], scale)
    yield f"errors, {which}", pictures.share_colours(share[n, k])
    yield "errors, the largest over all channels", pictures.share_colours(share.max(axis=(0, 1)))
    yield "errors, every channel", pictures.share_colours(pictures.mosaic(share))
