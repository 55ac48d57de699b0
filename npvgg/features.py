"""Which maps of a network are offered under timm's names, and how some of them are selected.

Source: timm `models/_features.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeGuard, overload

import numpy as np

from npvgg.errors import ArgumentError

Selection = int | Sequence[int] | None
"""Of the maps: None for all, n for the last n, a sequence for these; negative from the end."""


class FeatureInfo(list[dict[str, Any]]):
    """What is known of each map that can be tapped, and which of them are: timm's `FeatureInfo`.

    A list of all maps, a dict each: num_chs, reduction, module, stage, index, and block, the index
    of the block that makes it. The methods read the maps of `out_indices`, or those of `idx`.

    out_indices: which maps are given, ascending, as they come (timm keeps the order of the asking,
    and gives the maps in this one)
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Selection = None) -> None:
        super().__init__({**entry, "index": index} for index, entry in enumerate(info))
        self.out_indices = tuple(sorted(set(take_indices(len(self), out_indices))))

    @property
    def info(self) -> list[dict[str, Any]]:
        """All maps, whichever are given."""
        return list(self)

    def from_other(self, out_indices: Selection) -> FeatureInfo:
        """Copy it, with other maps given."""
        return FeatureInfo(deepcopy(list(self)), out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Read a column: of the maps that are given, of one map, or of several."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> Any:
        """Read several columns, or all: of the maps that are given, of one map, or of several."""
        if isinstance(idx, int):
            return {key: self[idx][key] for key in keys or self[idx]}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    @overload
    def channels(self, idx: Sequence[int] | None = None) -> list[int]: ...
    @overload
    def channels(self, idx: int) -> int: ...
    def channels(self, idx: Selection = None) -> list[int] | int:
        """Channels of each map."""
        found: list[int] | int = self.get("num_chs", idx)
        return found

    @overload
    def reduction(self, idx: Sequence[int] | None = None) -> list[int]: ...
    @overload
    def reduction(self, idx: int) -> int: ...
    def reduction(self, idx: Selection = None) -> list[int] | int:
        """Input pixels per map pixel, along a side."""
        found: list[int] | int = self.get("reduction", idx)
        return found

    @overload
    def module_name(self, idx: Sequence[int] | None = None) -> list[str]: ...
    @overload
    def module_name(self, idx: int) -> str: ...
    def module_name(self, idx: Selection = None) -> list[str] | str:
        """timm's path of the module that each map comes from."""
        found: list[str] | str = self.get("module", idx)
        return found


def take_indices(count: int, indices: Selection) -> list[int]:
    """Turn "all", "the last n" or a selection into absolute indices below `count`.

    Source: timm `models/_features.py` `feature_take_indices`.
    Raises ArgumentError where one is out of range.
    """
    if indices is None:
        return list(range(count))
    if _is_integer(indices):
        if not 1 <= indices <= count:
            raise ArgumentError(f"indices: expected the last 1 … {count} maps, got {indices}")
        return list(range(count - indices, count))
    taken = list(indices) if isinstance(indices, Sequence | np.ndarray) else []
    if not taken or not all(_is_integer(i) and -count <= i < count for i in taken):
        raise ArgumentError(
            f"indices: expected integers in {-count} … {count - 1}, got {indices!r}"
        )
    return [int(i) % count for i in taken]


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
