"""Text on its way to a terminal: the one gate for what files and their names say."""

from __future__ import annotations

from npvgg.formats.untrusted import printable


def escaped(text: str) -> str:
    """Return lines of text with escapes for whatever else a terminal might act on: control
    characters, and the invisible or direction-changing ones of Unicode.
    """
    if text.isprintable():
        return text
    return "\n".join(printable(line) for line in text.split("\n"))


def noun(count: int, one: str) -> str:
    """Return what so many are called: 1 photo, 2 photos, 10 classes."""
    return one if count == 1 else one + ("es" if one.endswith("s") else "s")
