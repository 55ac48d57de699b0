"""The report as one page that needs nothing else: a row per tensor with a picture of its errors,
and the first wrong one at large.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from npvgg.formats.untrusted import printable
from npvgg.ops import Array
from npvgg.testing.bounds.shares import errors
from npvgg.testing.comparison import pictures
from npvgg.testing.comparison.report import Report, Row, number, share_text

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1d2430; background: #fff; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
p { margin: .2rem 0; } .quiet { color: #6a7385; }
.verdict { font-size: 1.1rem; padding: .6rem .9rem; border-radius: .4rem; margin: 1rem 0; }
.right { background: #e7f5ea; color: #14532d; } .wrong { background: #fdeaea; color: #7a1020; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: #6a7385; padding: .3rem .6rem; }
td { text-align: right; padding: .25rem .6rem; border-top: 1px solid #e8ebf0; }
th:first-child, td:first-child, td.left, th.left { text-align: left; }
td:first-child { font-family: ui-monospace, monospace; white-space: nowrap; }
tr.first td { background: #fdeaea; font-weight: 600; } tr.after td { color: #9aa2b1; }
img { image-rendering: pixelated; display: block; border: 1px solid #d5dae3; }
.thumb { width: 48px; height: 48px; margin-left: auto; } .strip { width: 96px; height: 12px; }
.bar { width: 8rem; height: .7rem; background: #eef1f6; border-right: 2px solid #8a94a6; }
.bar div { height: 100%; background: #4292c6; } .wrong-bar div { background: #d92120; }
section { border: 2px solid #d92120; border-radius: .4rem; padding: 1rem; margin: 1rem 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; margin-top: .8rem; }
figure { margin: 0; } figcaption { font-size: .85rem; color: #6a7385; max-width: 16rem; }
figure img { width: 16rem; } pre { white-space: pre-wrap; margin: .3rem 0; }
.legend { width: 16rem; height: .8rem; }
"""


def page(report: Report) -> str:
    """The whole page; whatever comes from the candidate is escaped."""
    return "".join(_parts(report))


def _parts(report: Report) -> Iterator[str]:
    title = f"{report.candidate} against {report.title}"
    yield f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}"
    yield f"</title><style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
    yield f"<p class='quiet'>matched by {report.match.how}, {report.match.layout}</p>\n"
    kind = "right" if report.ok else "wrong"
    yield f"<p class='verdict {kind}'>{escape(report.verdict)}</p>\n"
    for note in report.all_notes():
        yield f"<p class='quiet'>note: {escape(note)}</p>\n"
    if first := report.first_wrong:
        yield from _closely(first, report)
    yield from _table(report)
    yield "</body></html>\n"


# --- The table ------------------------------------------------------------------------------------


def _table(report: Report) -> Iterator[str]:
    yield "<table><tr><th>tensor</th>"
    yield "<th class='left'>theirs</th>" * report.names_theirs
    yield "<th class='left'>shape</th><th>absolute</th><th>relative</th>"
    yield "<th>ulp</th><th class='left'>of its bound</th><th></th><th>where</th></tr>\n"
    after = False
    for row in report.rows:
        first = row is report.first_wrong
        kind = "first" if first else "after" if after or row.measured is None else ""
        after = after or first
        yield f"<tr class='{kind}'><td title='{escape(row.probe.equation)}'>{escape(row.name)}</td>"
        yield f"<td class='left'>{escape(printable(row.theirs))}</td>" * report.names_theirs
        yield f"<td class='left'>{_size(row.probe.shape)}</td>{_cells(row, report)}</tr>\n"
    yield "</table>\n"
    yield f"<figure><img class='legend' alt='' src='{_legend()}'><figcaption>share of the bound: "
    yield "0.001 %, 100 %, and a hundred thousand times</figcaption></figure>\n"


def _cells(row: Row, report: Report) -> str:
    m = row.measured
    if m is None:
        got = f", theirs is {_size(row.their_shape)}" if row.fails else ""
        return f"<td class='left' colspan='6'>{row.status}{got}</td>"
    thumb = _picture(
        pictures.reduced(pictures.error_map(_shares(row.name, report))), "thumb", row.name
    )
    filled = 100 if m.share > 1 else max(0.0, 100 + 20 * float(np.log10(m.share or 1e-9)))
    bar = (
        f"<div class='bar{' wrong-bar' * row.fails}'><div style='width:{filled:.0f}%'></div></div>"
    )
    return (
        f"<td>{number(m.absolute)}</td><td>{number(m.relative)}</td><td>{number(m.ulp)}</td>"
        f"<td class='left'>{bar}</td><td>{share_text(m.share)}</td><td>{thumb}</td>"
    )


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


def _picture(share: Array, kind: str, name: str) -> str:
    source = pictures.png(pictures.share_colours(share))
    return f"<img class='{kind}' src='{source}' alt='errors of {escape(name)}'>"


def _legend() -> str:
    scale = np.logspace(-pictures.DECADES, pictures.DECADES, 256)[None]
    return pictures.png(pictures.share_colours(scale))


# --- The first wrong tensor -----------------------------------------------------------------------


def _closely(row: Row, report: Report) -> Iterator[str]:
    """What is known of the first wrong tensor, and, of a map, pictures of it."""
    yield f"<section><h2>{escape(row.name)} is the first wrong tensor</h2>\n"
    yield from (f"<pre>{escape(line)}</pre>\n" for line in report.explained())
    if row.measured is not None:
        yield "<div class='pictures'>"
        for caption, colours in _views(row, report):
            yield f"<figure><img src='{pictures.png(colours)}' alt=''>"
            yield f"<figcaption>{escape(caption)}</figcaption></figure>"
        yield "</div>"
    yield "</section>\n"


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
