"""A document as plain text, 100 columns wide at most where its tables allow it."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent, wrap

from npvgg.ops import Array
from npvgg.pages import parts as p
from npvgg.pages.mathml import plain

WIDTH = 100
FEW = 18
"""Columns of a map whose numbers are printed; a wider one is described."""


def as_text(document: p.Document) -> str:
    """Return the whole document."""
    lines = [document.title, "═" * len(document.title)]
    for part in document.parts:
        lines += ["", *_lines(part)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _lines(part: p.Part) -> Iterator[str]:
    match part:
        case p.Heading():
            yield from (part.text, "─" * len(part.text))
        case p.Paragraph():
            yield from wrap(part.text, WIDTH, break_long_words=False, break_on_hyphens=False)
        case p.Formula():
            yield f"    {plain(part.text)}"
        case p.Table():
            yield from _table(part.head, part.rows)
            yield from _caption(part.caption)
        case p.Contents():
            for number, (_, title, text) in enumerate(part.entries, 1):
                yield f"{number}. {title}: {text}"
        case p.Heat():
            yield from _heat(part)
            yield from _caption(part.caption)
        case p.Chart():
            names = list(part.lines)
            rows = zip(part.x, *part.lines.values(), strict=True)
            cells = tuple(tuple(f"{value:.4g}" for value in row) for row in rows)
            yield from _table((part.across, *names), cells)
            yield from _caption(f"{part.up}. {part.caption}")
        case p.Bars():
            yield from _bars(part)
            yield from _caption(part.caption)
        case p.Photo():
            if part.overlay is not None:
                yield from _map(part.overlay, 3)
            yield from _caption(f"{part.caption} {part.says}")
        case p.Source():
            yield f"{part.name}:"
            yield indent(part.text.rstrip(), "    ")
        case p.Exercise():
            yield from wrap(f"Exercise. {part.question}", WIDTH)
            yield from wrap(f"Answer. {part.answer}", WIDTH)
        case p.Steps():
            for number, step in enumerate(part.steps, 1):
                yield f"{number}. {step.title}"
                for inner in step.parts:
                    yield from (f"   {line}" for line in "\n".join(_lines(inner)).split("\n"))


def _caption(text: str) -> Iterator[str]:
    if text:
        yield from wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _table(head: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    for row in (head, *rows):
        first = row[0].ljust(widths[0])
        yield "  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])


def _heat(part: p.Heat) -> Iterator[str]:
    blocks = []
    for title, values in part.maps.items():
        lines = [title, *_map(values, part.digits)]
        width = max(map(len, lines))
        blocks.append([line.ljust(width) for line in lines])
    row: list[list[str]] = []
    for block in [*blocks, None]:
        full = row and (block is None or sum(len(b[0]) + 4 for b in row) + len(block[0]) > WIDTH)
        if full:
            height = max(map(len, row))
            padded = [b + [" " * len(b[0])] * (height - len(b)) for b in row]
            yield from ("    ".join(line) for line in zip(*padded, strict=True))
            row = []
        if block is not None:
            row.append(block)


def _map(values: Array, digits: int) -> Iterator[str]:
    """Return the numbers, or a sentence about them."""
    if digits < 0 or values.shape[1] > FEW:
        yield from wrap(p.described(values), WIDTH - 8)
        return
    texts = [[number(v, digits) for v in row] for row in values]
    width = max(len(text) for row in texts for text in row)
    yield from (" ".join(text.rjust(width) for text in row) for row in texts)


def number(value: float, digits: int) -> str:
    """Return a number with so many digits behind the point; integers without."""
    text = f"{value:.{digits}f}"
    return "0" if digits and float(text) == 0 and value == 0 else text


def _bars(part: p.Bars) -> Iterator[str]:
    most = max((abs(v) for v in part.values.values()), default=0.0) or 1.0
    width = max(map(len, part.values), default=0)
    for name, value in part.values.items():
        bar = "█" * round(40 * abs(value) / most)
        yield f"{name:{width}}  {value:>10.4g}{part.unit}  {'−' * (value < 0)}{bar}"
