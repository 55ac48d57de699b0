"""A drawing, element by element, as SVG: the same numbers give the same bytes.

Lengths are pixels, rounded to hundredths. What is not coloured takes the colour of the text around
it, so a drawing is as legible on a dark page as on a light one; a file of its own gets a white
ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

INK = "#1d2430"
FONT = "system-ui, sans-serif"


@dataclass(frozen=True)
class Grid:
    """Cells of a drawing that a page lets be read one by one: where they are, what they say.

    x, y, width, height: of all, pixels      cells: (rows, columns) of what is said
    numbered: row and column are said before it
    """

    title: str
    x: float
    y: float
    width: float
    height: float
    cells: tuple[tuple[str, ...], ...]
    numbered: bool = True


class Drawing:
    """Elements in the order in which they are painted; title and text are read to who cannot see.

    width, height: of the whole, pixels
    """

    def __init__(self, width: float, height: float, title: str, says: str) -> None:
        self.width, self.height = width, height
        self.title, self.says = title, says
        self.grids: list[Grid] = []
        self._body: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, title: str = ""
    ) -> None:
        """Return a filled rectangle; its title is what hovering shows."""
        place = f'x="{n(x)}" y="{n(y)}" width="{n(width)}" height="{n(height)}"'
        if title:
            self._body.append(f'<rect {place} fill="{fill}"><title>{escape(title)}</title></rect>')
        else:
            self._body.append(f'<rect {place} fill="{fill}"/>')

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """Return the outline of a rectangle."""
        place = f'x="{n(x)}" y="{n(y)}" width="{n(width)}" height="{n(height)}"'
        self._body.append(f'<rect {place} fill="none" stroke="currentColor" opacity="0.4"/>')

    def text(
        self, x: float, y: float, text: str, *, size: float = 12, anchor: str = "start",
        fill: str = "currentColor",
    ) -> None:  # fmt: skip
        """One line; anchor: start, middle or end."""
        self._body.append(
            f'<text x="{n(x)}" y="{n(y)}" font-size="{n(size)}" text-anchor="{anchor}" '
            f'fill="{fill}">{escape(text)}</text>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], stroke: str = "currentColor", *,
        width: float = 1, dashes: str = "",
    ) -> None:  # fmt: skip
        """Return a line through points."""
        path = " ".join(f"{n(x)},{n(y)}" for x, y in points)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._body.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{n(width)}"'
            f"{dash}/>"
        )

    def image(
        self, x: float, y: float, width: float, height: float, address: str, opacity: float = 1
    ) -> None:
        """Return a picture of pixels, whose address is of the kind `data:`."""
        faint = f' opacity="{n(opacity)}"' if opacity != 1 else ""
        self._body.append(
            f'<image x="{n(x)}" y="{n(y)}" width="{n(width)}" height="{n(height)}" '
            f'preserveAspectRatio="none" image-rendering="pixelated" href="{address}"{faint}/>'
        )

    def readings(self) -> list[dict[str, Any]]:
        """Return the grids, as the script of a page reads them."""
        return [asdict(grid) for grid in self.grids]

    def markup(self, *, alone: bool = False) -> str:
        """Return the SVG; alone: for a file of its own."""
        size = f'viewBox="0 0 {n(self.width)} {n(self.height)}" width="{n(self.width)}"'
        extra = f' xmlns="http://www.w3.org/2000/svg" color="{INK}"' if alone else ""
        ground = '<rect width="100%" height="100%" fill="#ffffff"/>' if alone else ""
        return (
            f'<svg{extra} role="img" {size} height="{n(self.height)}" font-family="{FONT}">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.says)}</desc>"
            f"{ground}{''.join(self._body)}</svg>"
        )


def n(value: float) -> str:
    """Return a length, without needless digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
