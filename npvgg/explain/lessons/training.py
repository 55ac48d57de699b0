"""A toy that trains: what branches that fold can change about training, and what they cannot.

Two weights, a convex loss, plain gradient descent in float64; every gradient is written out below.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from npvgg.explain.lesson import Lesson
from npvgg.ops import Array
from npvgg.pages.parts import Chart, Document, Exercise, Formula, Heading, Paragraph, Source, Table

STEPS, RATE = 40, 0.1
COVARIANCE = np.array([[1.0, 0.4], [0.4, 0.5]])
TARGET = np.array([2.0, -1.0])
START = np.array([0.5, 0.5])


@dataclass(frozen=True)
class Way:
    """One way to write the same weights w, and the path that gradient descent takes.

    path: (steps + 1, 2) of w      loss: (steps + 1,)
    rate: of the plain descent that comes nearest to this path      apart: how far it stays from it
    """

    name: str
    folds_to: str
    path: Array
    loss: Array
    rate: float
    apart: float


@dataclass(frozen=True, eq=False, repr=False)
class TrainingLesson(Lesson):
    """Gradient descent on L(w) = (w − w*)ᵀ Σ (w − w*) / 2, with w written in several ways.

    length: ‖v‖ before and after, of the batch-normed way: it only grows, and the step with its
    direction shrinks as it does
    """

    steps: int
    rate: float
    target: Array
    start: Array
    ways: tuple[Way, ...]
    length: tuple[float, float]

    def document(self) -> Document:
        """Return the ways, their paths, what was published."""
        return Document(
            "Why train branches, if they fold?",
            (
                Paragraph(
                    "Inference cannot tell: the folded network is the same function. What differs "
                    "is the way there. The toy has two weights, w, and a loss whose gradient is "
                    "known; gradient descent is run on w itself, and on w written as several "
                    "parameters that fold to w."
                ),
                Formula("L(w) = {1 / 2} (w − w*)ᵀ Σ (w − w*),     g = Σ (w − w*)"),
                Table(
                    ("written as", "folds to", "nearest plain rate", "apart from it",
                     "loss at the end"),
                    tuple(
                        (w.name, w.folds_to, f"{w.rate:.4f}", f"{w.apart:.1e}",
                         f"{w.loss[-1]:.2e}")
                        for w in self.ways
                    ),
                    self.says(
                        "{steps} steps of rate {rate}. `apart`: the largest distance between this "
                        "path and that of plain descent with whatever rate suits best."
                    ),
                ),
                Chart(
                    np.arange(self.steps + 1, dtype=np.float64),
                    {w.name: w.loss for w in self.ways},
                    "step", "loss", "The loss along each path.", log=True,
                ),
                Paragraph(
                    "A sum of branches takes the very path of plain descent with a larger rate: "
                    "each branch gets the same gradient, so the sum moves as often as there are "
                    "branches. Constant factors, such as a batch norm with fixed statistics, only "
                    "change that rate. A product does change the path: its step depends on where "
                    "it is. So does a batch norm that uses the batch's statistics."
                ),
                Paragraph(
                    self.says(
                        "With the batch norm the gradient of v is at right angles to v, so its "
                        "length can only grow, here from {length[0]:.3g} to {length[1]:.3g}, and "
                        "the longer it is the slower its direction turns: a rate that adapts."
                    )
                ),
                Heading("What was published"),
                Paragraph(
                    "Ding et al. trained RepVGG-B0 on ImageNet with all branches, with one of them "
                    "left out, and without any: arXiv:2101.03697, table 6. npvgg does not train, "
                    "and has no numbers of its own for it."
                ),
                Source("npvgg.explain.lessons.training.descend", inspect.getsource(descend)),
                Exercise(
                    "Three branches are added. Which plain learning rate gives the same path?",
                    "Three times the rate: the sum moves by the sum of three equal steps.",
                ),
            ),
        )  # fmt: skip


def training() -> TrainingLesson:
    """Train a toy of two weights in five ways, and compare their paths."""
    plain = _plain(RATE)
    spread = float(np.sqrt(START @ COVARIANCE @ START))
    ways = (
        ("w", "w", plain),
        ("a + b", "w = a + b", descend(
            (START / 2, START / 2), lambda p: p[0] + p[1], lambda p, g: (g, g))),
        ("2a + b, constants", "w = 2a + b", descend(
            (START / 4, START / 2), lambda p: 2 * p[0] + p[1], lambda p, g: (2 * g, g))),
        ("a · b", "w = a · b", descend(
            (np.sqrt(np.abs(START)), np.sqrt(np.abs(START)) * np.sign(START)),
            lambda p: p[0] * p[1], lambda p, g: (p[1] * g, p[0] * g))),
        ("batch norm", "w = γ v / σ(v)", descend(
            (START, np.array([spread])), _normed, _normed_gradient)),
    )  # fmt: skip
    found = []
    for name, folds_to, (path, _) in ways:
        rate, apart = _nearest(path)
        found.append(Way(name, folds_to, path, _loss(path), rate, apart))
    vectors = ways[-1][2][1]
    return TrainingLesson(
        steps=STEPS, rate=RATE, target=TARGET, start=START, ways=tuple(found),
        length=(float(np.linalg.norm(vectors[0][0])), float(np.linalg.norm(vectors[-1][0]))),
    )  # fmt: skip


Parameters = tuple[Array, ...]


def descend(
    start: Parameters,
    fold: Callable[[Parameters], Array],
    back: Callable[[Parameters, Array], Parameters],
    rate: float | Array = RATE,
) -> tuple[Array, list[Parameters]]:
    """Descend in the parameters p of w = fold(p):  p ← p − rate · back(p, g),  g = Σ (w − w*).

    back: the gradient of L with respect to p, from that with respect to w
    rate: one, or (R, 1) for R descents side by side, where start has (R, 2)
    → the path of w, (steps + 1, 2) or (steps + 1, R, 2), and that of p
    """
    p, path, parameters = start, [fold(start)], [start]
    for _ in range(STEPS):
        gradient = back(p, (fold(p) - TARGET) @ COVARIANCE)  # which is symmetric
        p = tuple(one - rate * each for one, each in zip(p, gradient, strict=True))
        path.append(fold(p))
        parameters.append(p)
    return np.stack(path), parameters


def _plain(rate: float | Array) -> tuple[Array, list[Parameters]]:
    start = START + np.zeros_like(rate)
    return descend((start,), lambda p: p[0], lambda p, g: (g,), rate)


def _normed(p: Parameters) -> Array:
    """Return the weights behind a batch norm:  γ v / σ,  σ² = vᵀ Σ v, the variance of v·x."""
    v, gamma = p
    w: Array = gamma * v / np.sqrt(v @ COVARIANCE @ v)
    return w


def _normed_gradient(p: Parameters, g: Array) -> Parameters:
    """∂L/∂v = γ (g − Σv (vᵀg) / σ²) / σ,     ∂L/∂γ = vᵀg / σ."""
    v, gamma = p
    sigma = np.sqrt(v @ COVARIANCE @ v)
    along = v @ g
    return gamma * (g - COVARIANCE @ v * along / sigma**2) / sigma, np.array([along / sigma])


def _loss(path: Array) -> Array:
    away = path - TARGET
    loss: Array = 0.5 * np.einsum("ti,ij,tj->t", away, COVARIANCE, away)
    return loss


def _nearest(path: Array) -> tuple[float, float]:
    """Return the rate of plain descent that comes nearest to a path, and how far it stays
    from it.
    """

    def nearest(rates: Array) -> tuple[float, float]:
        paths, _ = _plain(rates[:, None])  # (steps + 1, R, 2)
        apart = np.abs(paths - path[:, None]).max((0, 2))
        best = int(apart.argmin())
        return float(rates[best]), float(apart[best])

    low, high, best = 0.01, 1.2, RATE
    for _ in range(6):  # finer and finer around the best
        best, _ = nearest(np.linspace(low, high, 41))
        width = (high - low) / 40
        low, high = max(best - width, 1e-6), best + width
    return nearest(np.array([best, *(RATE * n for n in range(1, 8))]))
