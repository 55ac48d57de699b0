"""From times to numbers that can be compared: medians, quartiles, ratios pair by pair.

A machine has moods: all of a minute may be a fifth slower than all of the next. Contenders take
turns, so only the ratio of two neighbouring turns tells which one is faster, and the spread of
these ratios tells how sure that is.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third; a single value is all three."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def pairwise(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Divide turn by turn: over 1 where ours was faster."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def compared(names: Sequence[str], turns: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Sum up a race: turns[i][k] is the median of contender i's turn k, in ms per image.

    A contender without turns took no part. Ratios are to the first that did.
    """
    ours = next((t for t in turns if t), ())
    found = []
    for name, mine in zip(names, turns, strict=True):
        if mine:
            first, median, third = quartiles(mine)
            low, ratio, high = quartiles(pairwise(mine, ours))
            found.append({
                "name": name, "ms": median, "ms_quartiles": [first, third], "ratio": ratio,
                "ratio_quartiles": [low, high], "turns": list(mine),
            })  # fmt: skip
        else:
            found.append({"name": name, "ms": None})
    return found


def roof(intensity: float, peak: float, bandwidth: float) -> float:
    """GFLOP/s that are possible at so many FLOP per byte: peak in GFLOP/s, bandwidth in GB/s.

    Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
    """
    return min(peak, intensity * bandwidth)
