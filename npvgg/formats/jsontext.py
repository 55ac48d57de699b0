"""JSON of a stranger, read strictly, in one place.

What Python's `json` would let through is refused: a key twice (one value of the two would win in
silence), NaN and Infinity (which JSON does not have), 1e999 (which becomes an infinity), integers
of any length (`int` of a text is quadratic), nests of any depth (which overflow the stack of
whoever walks them), UTF-16 and 32. A text is measured before it is parsed.

Source: RFC 8259.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any, NoReturn

import numpy as np

from npvgg.errors import WeightsError
from npvgg.formats.untrusted import shown

MAX_DEPTH = 32
"""Most lists and objects inside one another."""

MAX_DIGITS = 19
"""Longest integer: every offset in a file of 2**63 bytes has as many digits at most."""

_STRING = re.compile(rb'"(?>[^"\\]+|\\.)*+"', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))

Reader = Callable[[str], Any]


def parse(data: bytes | bytearray | str, what: str, limit: int, *, numbers: str = "any") -> Any:
    """Return the value that a text of JSON states. Raises WeightsError, which begins with `what`.

    data: at most `limit` bytes of UTF-8 (a byte order mark is skipped), or as many characters
    numbers: "any"; "natural", integers of 0 or more alone; "real", each as a float, the NaN and
        Infinity that Python writes among them
    """
    what = _before(what)
    if len(data) > limit:
        raise WeightsError(f"{what}expected at most {limit} bytes, got {len(data)}")
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if (depth := _depth(raw)) > MAX_DEPTH:
        raise WeightsError(f"{what}expected a nesting of at most {MAX_DEPTH}, got {depth}")
    integer, real, constant = _readers(numbers, what)
    try:
        return json.loads(
            data if isinstance(data, str) else data.decode("utf-8-sig"),
            object_pairs_hook=lambda pairs: _unique(pairs, what),
            parse_int=integer, parse_float=real, parse_constant=constant,
        )  # fmt: skip
    except WeightsError:
        raise
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise WeightsError(f"{what}expected JSON in UTF-8, got {shown(str(error))}") from None


def parse_object(
    data: bytes | bytearray | str, what: str, limit: int, *, numbers: str = "any"
) -> dict[str, Any]:
    """Return the object that a text of JSON states; arguments and errors as of `parse`."""
    value = parse(data, what, limit, numbers=numbers)
    if not isinstance(value, dict):
        raise WeightsError(f"{_before(what)}expected a JSON object, got {shown(value)}")
    return value


def _before(what: str) -> str:
    return f"{what}: " if what else ""


def _depth(raw: bytes | bytearray) -> int:
    """Return how many brackets outside of texts are open at once, at most."""
    brackets = np.frombuffer(_STRING.sub(b"", raw).translate(None, _NO_BRACKET), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def _unique(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise WeightsError(f"{what}expected unique names, got {shown(twice)} twice")
    return table


def _readers(numbers: str, what: str) -> tuple[Reader, Reader, Reader]:
    """Return what reads an integer, a number with a point or exponent, and NaN or Infinity."""

    def integer(digits: str) -> int:
        if len(digits.removeprefix("-")) > MAX_DIGITS:
            raise WeightsError(f"{what}expected integers of at most {MAX_DIGITS} digits")
        return int(digits)

    def natural(digits: str) -> int:
        if digits.startswith("-"):  # "-0" is a float in JSON
            raise WeightsError(f"{what}expected numbers of 0 or more, got {shown(digits)}")
        return integer(digits)

    def finite(text: str) -> float:
        if not isfinite(value := float(text)):
            raise WeightsError(f"{what}expected numbers within float64, got {shown(text)}")
        return value

    def no_integer(text: str) -> NoReturn:
        raise WeightsError(f"{what}expected integers only, got {shown(text)}")

    def no_number(text: str) -> NoReturn:
        raise WeightsError(f"{what}expected numbers, got {text}")

    readers: dict[str, tuple[Reader, Reader, Reader]] = {
        "any": (integer, finite, no_number),
        "natural": (natural, no_integer, no_integer),
        "real": (float, float, float),
    }
    return readers[numbers]
