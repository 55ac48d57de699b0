"""What a document is made of: paragraphs, formulas, tables and pictures, as data.

A picture holds its numbers, not its looks: `text` prints them, `draw` turns them into SVG, `html`
puts that into a page. Every picture has `says`, one or two sentences that a reader who does not
see it is given in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from npvgg.ops import Array


@dataclass(frozen=True)
class Heading:
    """The title of what follows."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: str


@dataclass(frozen=True)
class Formula:
    """One line of mathematics, as `mathml` reads it."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column is text, the others are numbers, already written out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Contents:
    """Pages in an order: address, title, a sentence about it."""

    entries: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, eq=False)
class Heat:
    """Maps of numbers, side by side, on one signed scale with zero in its middle.

    maps: title → (rows, columns); scale: the number at its ends, the largest of all by default
    digits: of the numbers in the cells, if they are to be written there; below 0 none are
    """

    maps: Mapping[str, Array]
    caption: str
    says: str = ""
    scale: float | None = None
    digits: int = 2

    @property
    def limit(self) -> float:
        """The number at the ends of the scale."""
        if self.scale is not None:
            return self.scale
        finite = [np.abs(m[np.isfinite(m)]).max(initial=0.0) for m in self.maps.values()]
        return float(max(finite, default=0.0)) or 1.0


@dataclass(frozen=True, eq=False)
class Chart:
    """Lines over one axis.

    x: (n,); lines: name → (n,); log: the vertical axis is one of powers of ten
    """

    x: Array
    lines: Mapping[str, Array]
    across: str
    up: str
    caption: str
    says: str = ""
    log: bool = False


@dataclass(frozen=True, eq=False)
class Bars:
    """Named lengths, from zero."""

    values: Mapping[str, float]
    caption: str
    says: str = ""
    unit: str = ""


@dataclass(frozen=True, eq=False)
class Photo:
    """Pixels, (H, W, 3) uint8; overlay: (rows, columns) of a signed map that is laid over them."""

    pixels: Array
    caption: str
    says: str
    overlay: Array | None = None


@dataclass(frozen=True)
class Source:
    """A function's source, or another text whose lines are kept.

    folded: a page shows its name alone until it is opened, as it does if the text is long
    """

    name: str
    text: str
    says: str = "as it stands in the package"
    folded: bool = False


@dataclass(frozen=True)
class Exercise:
    """A question, whose answer is folded away."""

    question: str
    answer: str


@dataclass(frozen=True)
class Step:
    """One of several that are shown one after the other."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Steps:
    """Stages of one computation, in order."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Document:
    """A title, and what follows."""

    title: str
    parts: tuple[Part, ...] = field(default_factory=tuple)


Picture: TypeAlias = Heat | Chart | Bars | Photo
Part: TypeAlias = (
    Heading
    | Paragraph
    | Formula
    | Table
    | Contents
    | Heat
    | Chart
    | Bars
    | Photo
    | Source
    | Exercise
    | Steps
)


def alternative(picture: Picture) -> str:
    """Return what the picture shows, in words."""
    if picture.says:
        return picture.says
    match picture:
        case Heat():
            return " ".join(f"{title}: {described(m)}" for title, m in picture.maps.items())
        case Chart():
            ends = (f"{name} from {y[0]:.3g} to {y[-1]:.3g}" for name, y in picture.lines.items())
            return f"{picture.up} over {picture.across}: {'; '.join(ends)}."
        case Bars():
            return "; ".join(f"{n}: {v:.3g}{picture.unit}" for n, v in picture.values.items()) + "."
    return picture.caption


def described(values: Array) -> str:
    """Return a map in a sentence: its size, its ends and where they are."""
    rows, columns = values.shape
    if not np.isfinite(values).any():
        return f"{rows}×{columns} numbers, none of them finite."
    low, high = (
        np.unravel_index(int(f(values)), values.shape) for f in (np.nanargmin, np.nanargmax)
    )
    return (
        f"{rows}×{columns} numbers, the least {values[low]:.3g} at row {low[0]}, column {low[1]}, "
        f"the largest {values[high]:.3g} at row {high[0]}, column {high[1]}."
    )
