"""What rounding does: unit roundoffs, γ_n, units of the last place, and values that are no numbers.

    fl(a ∘ b) = (a ∘ b)(1 + δ),  |δ| ≤ u          one operation, rounded to nearest
    Π (1 + δ_i)^±1 = 1 + θ,      |θ| ≤ γ_n        n of them,  γ_n = n·u / (1 − n·u)

so a sum Σ t_i whose every term goes through at most n roundings, in whatever order they are added,
is off by at most γ_n · Σ|t_i|. `npvgg.testing.bounds` builds on that.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §2.2 and §3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import WeightsError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The unit roundoff u of each type: half of the distance from 1 to the next number."""

U = UNITS["float32"]

FLOAT16_SMALLEST_NORMAL = 2.0**-14
"""Below it, the roundings of float16 no longer shrink with the number."""

LARGEST_BINADE = 2.0**127
"""From here to the largest float32, and for what a float64 holds beyond it, one ulp is the same."""


def gamma(n: int) -> float:
    """Return γ_n = n·u / (1 − n·u): what n float32 roundings amount to, at most."""
    return n * U / (1 - n * U)


def ulp(magnitude: float) -> float:
    """Return the distance from a float32 of this magnitude to the next, in which errors count."""
    return float(np.spacing(np.float32(min(magnitude, LARGEST_BINADE))))


def check_finite(y: NDArray[Any], where: str) -> None:
    """Raise WeightsError, which names `where`, for activations that have overflown.

    Random weights explode, and so do batch norms whose statistics were never collected.
    """
    if not np.isfinite(y).all():
        raise WeightsError(
            f"{where}: the activations overflow {y.dtype}: these are not the weights of a trained "
            "network, or its batch norms have not seen its images"
        )


def whatever_seterr_says(
    function: Callable[Arguments, Result],
) -> Callable[Arguments, Result]:
    """Run a function under NumPy's default reactions to overflow and its like, or none at all where
    somebody above ignores one.

    A caller's np.seterr(all="raise") would turn an underflow to 0, which is right, into an error in
    the middle of a network.
    """

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = np.geterr()
        with np.errstate(
            divide="ignore" if before["divide"] == "ignore" else "warn",
            over="ignore" if before["over"] == "ignore" else "warn",
            invalid="ignore" if before["invalid"] == "ignore" else "warn",
            under="ignore",
        ):
            return function(*args, **kwargs)

    return run
