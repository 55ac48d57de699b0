"""When a tensor is right: every element is within its bound.

    error[i] = |theirs[i] − ours[i]|       share[i] = error[i] / bound[i]       right:  share[i] ≤ 1

An error where nothing may be off, and a NaN or an infinity of theirs, are an infinite share. Both
the comparison and the diagnosis judge by this.
"""

from __future__ import annotations

import numpy as np

from npvgg.ops import Array


def errors(got: Array, want: Array) -> Array:
    """Return |theirs − ours|, in float64; infinite where theirs is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(got.astype(np.float64) - want)
    return np.where(np.isfinite(error), error, np.inf)


def shares(got: Array, want: Array, bound: Array) -> Array:
    """Return the shares of the bound, error / bound, in float64; 0 where there is no error."""
    error = errors(got, want)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(error > 0, error / bound.astype(np.float64), 0.0)


def within(got: Array, want: Array, bound: Array) -> bool:
    """Return whether a tensor of theirs has our shape, and every element is within its bound."""
    return got.shape == want.shape and bool((shares(got, want, bound) <= 1).all())
