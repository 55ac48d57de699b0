"""A document as one page that needs nothing else: no request, no style or script from outside.

Whatever is text is escaped by Jinja2; style and script are those of this folder, and the page's
Content-Security-Policy lets no other in. Without a script everything can be read.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.pages import parts as p
from npvgg.pages.draw import CELLS, draw
from npvgg.pages.mathml import mathml

if TYPE_CHECKING:
    from jinja2 import Environment

Links = Sequence[tuple[str, str]]

_TEMPLATES = files("npvgg.pages") / "templates"
STYLE, *SCRIPTS = (
    (_TEMPLATES / name).read_text("utf-8") for name in ("style.css", "steps.js", "grids.js")
)
"""How every page looks; how those of a document show steps one by one, and let pictures be read."""


def page(document: p.Document, *, links: Links = (), here: str = "") -> str:
    """Return the whole page; links: address and name of each page beside it; here: its own address.

    Raises ArgumentError without Jinja2.
    """
    return render(
        '{% extends "page.html" %}', scripts=SCRIPTS, document=document, links=links, here=here
    )


def render(
    template: str, *, style: str = "", scripts: Sequence[str] = (), links: Links = (),
    here: str = "", **values: Any,
) -> str:  # fmt: skip
    """Return a template of somebody else's, filled; what is not `safe` is escaped.

    style: rules that are added to those of every page      scripts: what may run on it
    It may extend "page.html", whose blocks are title and main.

    Raises ArgumentError without Jinja2.
    """
    made: str = (
        _environment()
        .from_string(template)
        .render(
            values,
            style=safe(STYLE + style),
            scripts=[safe(script) for script in scripts],
            policy=policy(STYLE + style, *scripts),
            links=links,
            here=here,
        )
    )
    return made


def policy(style: str, *scripts: str) -> str:
    """Return the Content-Security-Policy of a page: this style, these scripts, and nothing else."""
    allowed = " ".join(f"'{_hash(script)}'" for script in scripts) or "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )


def fragment(document: p.Document) -> str | None:
    """Return the document for a notebook, or None without Jinja2."""
    try:
        environment = _environment()
    except ArgumentError:
        return None
    shown = environment.get_template("parts.html").module.show(document.parts)  # type: ignore[attr-defined]
    return f"<div>{shown}</div>"


def require() -> None:
    """Raise ArgumentError without Jinja2: before long work, rather than after it."""
    _environment()


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise ArgumentError(
            'html: expected Jinja2, which pages need (pip install "npvgg[pages]"); text, JSON and '
            "SVG do without"
        ) from None
    environment = Environment(
        loader=FileSystemLoader(str(_TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals |= {
        "kind_of": lambda part: type(part).__name__,
        "slug": lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-"),
        "inline": _inline,
        "textual": _textual,
        "mathml": lambda text: safe(mathml(text)),
        "draw": draw,
        "beside": _beside,
        "alternative": p.alternative,
        "numbers": lambda picture: list(_numbers(picture)),
    }
    return environment


def _numbers(picture: p.Picture) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Return the numbers of a picture as tables, where they are few: (title, head, rows)."""
    if isinstance(picture, p.Heat):
        for title, values in picture.maps.items():
            if values.size <= CELLS:
                head = ["", *(str(s) for s in range(values.shape[1]))]
                yield title, head, [[str(r), *map(_number, v)] for r, v in enumerate(values)]
    elif isinstance(picture, p.Photo) and picture.overlay is not None:
        values = picture.overlay
        head = ["", *(str(s) for s in range(values.shape[1]))]
        yield "map", head, [[str(r), *map(_number, v)] for r, v in enumerate(values)]
    elif isinstance(picture, p.Chart):
        head = [picture.across, *picture.lines]
        rows = np.stack([picture.x, *picture.lines.values()], axis=1)
        yield picture.up, head, [list(map(_number, row)) for row in rows]


def _beside(links: Links, here: str) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """Return the pages before and after this one."""
    at = [address for address, _ in links].index(here) if here else len(links)
    return (links[at - 1] if 0 < at < len(links) else None), (*links[at + 1 :], None)[0]


def _inline(text: str) -> Any:
    """Escape a sentence; what stands in `grave accents` is code."""
    return safe(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def _textual(rows: Sequence[Sequence[str]]) -> set[int]:
    """Return the columns that hold words, not numbers."""
    numeric = re.compile(r"[−-]?[\d.,]|nan|inf|$")
    return {
        j for j, column in enumerate(zip(*rows, strict=True))
        if not all(numeric.match(cell) for cell in column)
    }  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.5g}"


def safe(text: str) -> Any:
    """Mark text of our own, which is not to be escaped."""
    from markupsafe import Markup

    return Markup(text)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
