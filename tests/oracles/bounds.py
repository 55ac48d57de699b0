"""How far a correct computation can be from the truth: a theorem, never a number that was tuned."""

import numpy as np

UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}


def gamma(n, dtype):
    """Bound n roundings, in any order, fused or not:  γ_n = n·u / (1 − n·u).

    |fl(Σ) − Σ| ≤ γ_n Σ |terms| (Higham, Accuracy and Stability of Numerical Algorithms, §3.1).
    """
    u = UNIT[np.dtype(dtype)]
    return n * u / (1 - n * u)


def assert_within(got, want, bound):
    """|got − want| ≤ bound everywhere, and the bound is small enough to mean something."""
    want, bound = np.asarray(want, np.float64), np.asarray(bound, np.float64)
    assert got.shape == want.shape
    assert bound.max() < 0.05 * np.abs(want).max()
    error = np.abs(got.astype(np.float64) - want)
    assert (error <= bound).all(), f"error {error.max():.3g}, bound {bound.max():.3g}"
