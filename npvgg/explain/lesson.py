"""What every lesson is: numbers that were computed, and a document that shows them.

The numbers are fields. `as_json` gives them in JSON's types; a sentence or a caption is a template
that is filled from there (`says`), so that what is written is what was computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from npvgg.pages.parts import Document
from npvgg.pages.text import as_text

UNLISTED = {"json": False}
"""Metadata of a field that `as_json` leaves out: an array that is too large to be read."""


@dataclass(frozen=True, eq=False, repr=False)
class Lesson:
    """A lesson; `npvgg.explain` has a function for each kind."""

    def document(self) -> Document:
        """Return the lesson as it is shown: in text, in a page, in drawings."""
        return Document(type(self).__name__)

    def as_text(self) -> str:
        """Return the lesson as plain text."""
        return as_text(self.document())

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in JSON's types; large arrays are left out."""
        listed: dict[str, Any] = in_json(self)
        return listed

    def as_html(self) -> str:
        """Return the lesson as a page of its own. Raises ArgumentError without Jinja2."""
        from npvgg.pages.html import page

        return page(self.document())

    def as_svg(self) -> dict[str, str]:
        """Its pictures: the name of a file → SVG."""
        from npvgg.pages.draw import drawings

        return drawings(self.document())

    def says(self, template: str, **more: Any) -> str:
        """Return the template, filled with the lesson's numbers: `{bound:.2g}`,
        `{folded[norm]:.1f}`.
        """
        return template.format(**{**self._numbers, **more})

    @cached_property
    def _numbers(self) -> dict[str, Any]:
        listed: dict[str, Any] = in_json(self, null=False)
        return listed

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows; the text where there is no Jinja2."""
        from npvgg.pages.html import fragment

        return fragment(self.document())


def in_json(value: Any, *, null: bool = True) -> Any:
    """Return a value in JSON's types: arrays as lists, fractions as text, what is not finite as
    null, or, for a sentence, as the number it is.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = (f.name for f in fields(value) if f.metadata.get("json", True))
        return {name.rstrip("_"): in_json(getattr(value, name), null=null) for name in kept}
    if isinstance(value, np.ndarray | np.generic):
        return in_json(value.tolist(), null=null)
    if isinstance(value, Mapping):
        return {str(key): in_json(item, null=null) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [in_json(item, null=null) for item in value]
    if isinstance(value, Fraction):
        return str(value)
    if null and isinstance(value, float) and not math.isfinite(value):
        return None
    return value
