"""What a pickle says, written down: inert, and never what it speaks of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle mentions: two texts, no more."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Outside:
    """Something that lies outside the pickle, by its persistent id."""

    id: Any


def is_name(value: Any, names: Collection[Name]) -> bool:
    """Whether a value is one of these names.

    Only names are compared: anything else from a pickle may have no hash, or one that overflows the
    stack, as a tuple's in a tuple's in a tuple's … does.
    """
    return isinstance(value, Name) and value in names


class Record:
    """What would have been an object: `maker(*args)`, then filled with items, pairs and a state."""

    __slots__ = ("args", "items", "maker", "pairs", "state")

    def __init__(self, maker: Any, args: tuple[Any, ...]) -> None:
        self.maker = maker
        self.args = args
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []
        self.state: Any = None


DICT = Name("builtins", "dict")
SET = Name("builtins", "set")
FROZENSET = Name("builtins", "frozenset")
