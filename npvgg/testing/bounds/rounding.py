"""How roundings add up: two rules, one that is a theorem and one that is true almost always.

A computed number is the sum of its terms, each changed by the roundings on its way:
ŷ = Σ t_i (1 + θ_i), where θ_i gathers at most n roundings δ, |δ| ≤ u = 2⁻²⁴, in whatever order the
terms are added, with or without fused multiply-add.

    WORST       |ŷ − y| ≤ γ_n Σ|t_i|,  γ_n = n·u / (1 − n·u);  errors of different numbers add up.
                Always.
    PROBABLE    |ŷ − y| ≤ γ̃_n Σ|t_i|,  γ̃_n ≈ λ·√n·u;  errors of different numbers add up in
                squares. With probability 1 − 2·exp(−λ²/2), if roundings are independent of each
                other and 0 on average, and if the errors of the numbers that a sum reads are.

Sources: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1; Higham & Mary, A new
approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from npvgg.ops import Array
from npvgg.rounding import U, gamma
from npvgg.testing.steady import conv2d

FLOOR = 2.0**-82
"""Added to every Σ|t_i|, so that grow(n)·FLOOR, at least n·2⁻¹⁰⁶, covers n results below the
smallest normal float32, 2⁻¹²⁶, that an implementation takes for zero."""

LAMBDA = 8.5
"""2·exp(−λ²/2) = 4e-16: a pack of 10⁹ numbers sets off a false alarm about once in 2.4 million."""


@dataclass(frozen=True)
class Rule:
    """How errors grow with n roundings, join each other, and go through a convolution."""

    grow: Callable[[int], float]
    join: Callable[[Array, Array], Array]
    through: Callable[[Array], Array]
    """What is done to errors and weights before they are multiplied and summed, …"""
    back: Callable[[Array], Array]
    """… and to the sum, to make it an error again."""

    def carry(self, error: Array, weight: Array, **how: Any) -> Array:
        """Return what a convolution makes of the errors of its input: (N, C, H, W) → (N, K,
        P, Q).
        """
        return self.back(conv2d(self.through(error), self.through(weight), **how))


def probable_gamma(n: int) -> float:
    """γ̃_n = exp(λ√n·u + n·u² / (1 − u)) − 1, rounded up: what n roundings amount to, almost always.

    eᵃ − 1 ≤ a / (1 − a) for 0 ≤ a < 1 spares the exponential.
    """
    a = LAMBDA * sqrt(n) * U + n * U**2 / (1 - U)
    return a / (1 - a)


WORST = Rule(gamma, np.add, np.abs, lambda total: total)
PROBABLE = Rule(probable_gamma, lambda a, b: np.sqrt(a * a + b * b), np.square, np.sqrt)


def stored(y: Array) -> Array:
    """How far the float32 nearest to y may be from y."""
    return U * np.abs(y) + 2.0**-150
