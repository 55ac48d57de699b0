"""Pictures of a document as drawings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from npvgg.ops import Array
from npvgg.pages import parts as p
from npvgg.pages.colours import DASHES, LINES, colours, hexadecimal, on, png
from npvgg.pages.svg import Drawing, Grid
from npvgg.pages.text import number

WIDTH = 860
GAP, TITLE = 18, 20
CELLS = 400
"""Cells of a map that are drawn one by one; a larger one is a picture of pixels."""


def drawings(document: p.Document) -> dict[str, str]:
    """Every picture of a document: the name of a file → SVG."""
    found = enumerate(pictures(document.parts), 1)
    return {
        f"{i:02}-{type(picture).__name__.lower()}.svg": draw(picture).markup(alone=True)
        for i, picture in found
    }


def pictures(parts: tuple[p.Part, ...]) -> Iterator[p.Picture]:
    """Every picture, in order; those of steps as well."""
    for part in parts:
        if isinstance(part, p.Steps):
            for step in part.steps:
                yield from pictures(step.parts)
        elif isinstance(part, p.Heat | p.Chart | p.Bars | p.Photo):
            yield part


def draw(picture: p.Picture) -> Drawing:
    """One picture."""
    match picture:
        case p.Heat():
            return _heat(picture)
        case p.Chart():
            return _chart(picture)
        case p.Bars():
            return _bars(picture)
    return _photo(picture)


# --- Maps -----------------------------------------------------------------------------------------


def _heat(picture: p.Heat) -> Drawing:
    places: list[tuple[float, float, float]] = []  # of each map: x, y, size of a cell
    x, y, below, right = 0.0, 0.0, 0.0, 260.0
    side = 400.0 if len(picture.maps) < 5 else 260.0
    for title, values in picture.maps.items():
        cell = _cell(values, picture.digits, side)
        width = max(cell * values.shape[1], 7.0 * len(title))
        if x and x + width > WIDTH:
            x, y = 0.0, below + GAP
        places.append((x, y + TITLE, cell))
        below = max(below, y + TITLE + cell * values.shape[0])
        x += width + GAP
        right = max(right, x - GAP)
    drawing = Drawing(right + 1, below + 44, picture.caption, p.alternative(picture))
    for (title, values), (x, y, cell) in zip(picture.maps.items(), places, strict=True):
        drawing.text(x, y - 6, title, size=13)
        _map(drawing, values, x, y, cell, picture)
        rows, columns = values.shape
        drawing.grids.append(Grid(title, x, y, cell * columns, cell * rows, _said(values)))
    _legend(drawing, below + 16, picture.limit)
    return drawing


def _said(values: Array) -> tuple[tuple[str, ...], ...]:
    """Return what a page says of each number."""
    return tuple(tuple(f"{v:.6g}" for v in row) for row in values)


def _cell(values: Array, digits: int, side: float) -> float:
    """Return the size of a cell: room for its number, if that is written; else a map has this
    side.
    """
    if digits >= 0 and values.size <= CELLS and values.shape[1] <= 18:
        longest = max(len(number(v, digits)) for v in values.ravel())
        return max(30.0, 7.2 * longest + 8)
    rows, columns = values.shape
    return min(24.0, max(1.0, side / float(max(rows, columns))))


def _map(drawing: Drawing, values: Array, x: float, y: float, cell: float, picture: p.Heat) -> None:
    rows, columns = values.shape
    painted = colours(values, picture.limit)
    if values.size > CELLS:
        drawing.image(x, y, cell * columns, cell * rows, png(painted))
    else:
        written = picture.digits >= 0 and cell >= 30
        for r, s in np.ndindex(rows, columns):
            left, top, value = x + s * cell, y + r * cell, float(values[r, s])
            says = f"row {r}, column {s}: {value:.6g}"  # where no script reads the grid
            drawing.rect(left, top, cell, cell, hexadecimal(painted[r, s]), says)
            if written:
                drawing.text(
                    left + cell / 2, top + cell / 2 + 4, number(value, picture.digits),
                    anchor="middle", fill=on(painted[r, s]),
                )  # fmt: skip
    drawing.frame(x, y, cell * columns, cell * rows)


def _legend(drawing: Drawing, y: float, limit: float) -> None:
    steps = 33
    scale = colours(np.linspace(-1, 1, steps), 1.0)
    for i in range(steps):
        drawing.rect(i * 6, y, 6, 8, hexadecimal(scale[i]))
    drawing.text(0, y + 22, f"−{limit:.3g}", size=11)
    drawing.text(steps * 3, y + 22, "0", size=11, anchor="middle")
    drawing.text(steps * 6, y + 22, f"{limit:.3g}", size=11, anchor="end")


# --- Lines and bars -------------------------------------------------------------------------------


def _chart(picture: p.Chart) -> Drawing:
    left, top, width, height = 70, 16, 520, 260
    drawing = Drawing(
        left + width + 220, top + height + 46, picture.caption, p.alternative(picture)
    )
    values = np.concatenate([y[_drawn(picture, y)] for y in picture.lines.values()])
    values = values if values.size else np.ones(1)
    low, high = float(values.min()), float(values.max())
    if picture.log:
        low = 10.0 ** np.floor(np.log10(low))
        high = 10.0 ** np.ceil(np.log10(max(high, low * 10)))
    elif low == high:
        low, high = low - 1, high + 1

    def up(v: float) -> float:
        share = np.log(v / low) / np.log(high / low) if picture.log else (v - low) / (high - low)
        return top + height * (1 - float(np.clip(share, 0, 1)))

    def across(v: float) -> float:
        first, last = float(picture.x[0]), float(picture.x[-1])
        return left + width * (v - first) / ((last - first) or 1)

    drawing.frame(left, top, width, height)
    marks = 10.0 ** np.arange(np.log10(low), np.log10(high) + 0.5) if picture.log else (
        np.linspace(low, high, 5)
    )  # fmt: skip
    for v in marks[:: max(1, len(marks) // 8)]:
        drawing.line([(left - 4, up(v)), (left, up(v))])
        drawing.text(left - 8, up(v) + 4, f"{v:.3g}", size=11, anchor="end")
    for v in picture.x[:: max(1, len(picture.x) // 8)]:
        drawing.text(across(v), top + height + 16, f"{v:.3g}", size=11, anchor="middle")
    drawing.text(left + width / 2, top + height + 36, picture.across, anchor="middle")
    drawing.text(left, top - 4, picture.up)
    for i, (name, line) in enumerate(picture.lines.items()):
        colour, dashes = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
        seen = [
            (across(float(x)), up(float(y)))
            for x, y in zip(picture.x, line, strict=True)
            if _drawn(picture, y)
        ]
        drawing.line(seen, colour, width=2, dashes=dashes)
        key = top + 14 + 22 * i
        ends = [(left + width + 12.0, key), (left + width + 42.0, key)]
        drawing.line(ends, colour, width=2, dashes=dashes)
        drawing.text(left + width + 48, key + 4, name)
    if len(picture.x) > 1 and np.allclose(np.diff(picture.x, 2), 0):
        step = width / (len(picture.x) - 1)
        said = tuple(
            f"{picture.across} {x:.6g}: "
            + "; ".join(f"{name} {line[i]:.6g}" for name, line in picture.lines.items())
            for i, x in enumerate(picture.x)
        )
        whole = step * len(said)
        drawing.grids.append(
            Grid(picture.up, left - step / 2, top, whole, height, (said,), numbered=False)
        )
    return drawing


def _drawn(picture: p.Chart, y: Array) -> Array:
    """Return which numbers have a place on the axis."""
    drawn: Array = np.isfinite(y) & ((y > 0) if picture.log else True)
    return drawn


def _bars(picture: p.Bars) -> Drawing:
    names = list(picture.values)
    left = 12 + 7.2 * max(map(len, names), default=0)
    drawing = Drawing(left + 420, 26 * len(names) + 8, picture.caption, p.alternative(picture))
    most = max((abs(v) for v in picture.values.values()), default=0.0) or 1.0
    for i, (name, value) in enumerate(picture.values.items()):
        length = 300 * abs(value) / most
        drawing.text(left - 8, 26 * i + 18, name, anchor="end")
        drawing.rect(left, 26 * i + 5, length, 18, LINES[0] if value >= 0 else LINES[1])
        drawing.text(left + length + 6, 26 * i + 18, f"{value:.4g}{picture.unit}")
    return drawing


# --- Photos ---------------------------------------------------------------------------------------


def _photo(picture: p.Photo) -> Drawing:
    height, width = picture.pixels.shape[:2]
    factor = 320 / max(height, width)
    w, h = width * factor, height * factor
    both = picture.overlay is not None
    drawing = Drawing(w * (2 if both else 1) + (GAP if both else 0), h + (44 if both else 0),
                      picture.caption, p.alternative(picture))  # fmt: skip
    drawing.image(0, 0, w, h, png(picture.pixels))
    if picture.overlay is not None:
        limit = float(np.abs(picture.overlay).max()) or 1.0
        drawing.image(w + GAP, 0, w, h, png(picture.pixels))
        drawing.image(w + GAP, 0, w, h, png(colours(picture.overlay, limit)), opacity=0.7)
        _legend(drawing, h + 16, limit)
        drawing.grids.append(Grid("map", w + GAP, 0, w, h, _said(picture.overlay)))
    return drawing
