"""The errors of the house: each names the argument, what was expected and what was found.

All of them are `ValueError`s as well, so code that knows nothing of npvgg can still catch them.
Imports the standard library alone.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn


class NpvggError(ValueError):
    """Everything that npvgg raises on purpose."""


class ArgumentError(NpvggError):
    """A call was made with something it cannot serve: a name, a number, a shape, a dtype."""


class AbsentError(ArgumentError, AttributeError):
    """A name was asked for that timm or torch has and npvgg has not; it says what to do instead."""


class WeightsError(NpvggError):
    """A file or a dict of weights is not what it must be; nothing of it has been used."""


class ImageError(NpvggError):
    """An image cannot be read, or is not one that may be read."""


def refuse_keyword(name: str, of: str, known: Iterable[str]) -> NoReturn:
    """Raise ArgumentError for a keyword that a function lacks, with the nearest of those it has."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    raise ArgumentError(f"{name}: not a keyword of {of}; {hint}")
