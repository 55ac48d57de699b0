"""bfloat16, which NumPy lacks: the upper half of a float32, kept as uint16."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 values of bfloat16 bit patterns; exact, NaN payloads included.

        float32 bits = bits · 2¹⁶

    bits: any shape, uint16   →   the same shape, float32
    """
    wide = np.empty(bits.shape, np.uint32)
    np.left_shift(bits, 16, out=wide, dtype=np.uint32)
    return wide.view(np.float32)


def narrow(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Return the bfloat16 bit patterns nearest to the values, ties to even, as IEEE 754 rounds.

        bits = (u + 0x7FFF + lowest kept bit of u) >> 16        u: the float32 bits

    values: any shape, float16, float32 or float64   →   the same shape, uint16
    Beyond the largest bfloat16 (3.3895e38) lies infinity; a NaN stays a NaN, and becomes quiet.
    """
    u = _float32_to_odd(values).view(np.uint32)
    rounded = (u + (np.uint32(0x7FFF) + ((u >> 16) & 1))) >> 16  # NaNs may wrap; replaced below
    nan = (u & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (u >> 16) | 0x0040, rounded).astype(np.uint16)


def _float32_to_odd(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """float32 where an inexact result is truncated and its last bit set.

    Rounding float64 to nearest twice (first to float32) can cross a tie of the second rounding.
    Rounding the first time "to odd" cannot: the last bit remembers that something was cut off
    (Boldo & Melquiond, "When double rounding is odd", 2005).
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        near = np.ascontiguousarray(values, dtype=np.float32).reshape(values.shape)
    if values.dtype.itemsize <= 4:
        return near
    inexact = np.isfinite(values) & (near != values)
    bits = near.view(np.uint32)
    truncated = bits - (np.abs(near) > np.abs(values))  # one step towards zero where rounded away
    return np.where(inexact, truncated | 1, bits).astype(np.uint32).view(np.float32)
