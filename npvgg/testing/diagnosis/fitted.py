"""Mistakes with numbers of their own, which are fitted to what is wrong: no table can list them.

    y = act(Σ branches + c[k])            one number for each channel, c fitted
    y = act(Σ branches + (s − 1) · branch)      one branch scaled, s fitted

They are fitted by least squares where a ReLU lets numbers pass, and count as evidence against
themselves: each fitted number makes one number of theirs worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.ops import Array
from npvgg.testing.diagnosis.hypotheses import Hypothesis, Way, forms
from npvgg.testing.diagnosis.mistake import BRANCHES, Mistake
from npvgg.testing.diagnosis.recipe import Recipe, Replay, add, recipe
from npvgg.testing.packs.pack import Pack
from npvgg.testing.trace import Probe

NUMBER_PER_CHANNEL: Mistake[Any] = Mistake(
    "number-per-channel-added",
    "one number per channel is added that does not belong there, {}",
    "a convolution in front of a batch norm has no bias: is one left in (bias=False in PyTorch, "
    "use_bias=False in Keras)? or is a bias of the fold computed wrongly?",
    lambda _: iter(()),
)
SCALED_BRANCH: Mistake[Any] = Mistake(
    "branch-scaled",
    "{}",
    "every branch is added as it is",
    lambda _: iter(()),
)


@dataclass(frozen=True)
class Fitted:
    """A hypothesis with numbers that were fitted, and how many."""

    hypothesis: Hypothesis
    numbers: int


def fitted(pack: Pack, probe: Probe, way: Way, got: Array) -> Iterator[Fitted]:
    """Return what can be fitted to a tensor inside a block that needs no attention layer."""
    target = probe.name.removeprefix(probe.block).removeprefix(".")
    if not probe.block or got.shape != probe.shape or target in ("attn", "act"):
        return
    if not np.isfinite(got).all():
        return
    exact = Replay(way.given, np.float64)
    blocks = next(forms(pack))
    right = recipe(next(block for block in blocks if block.spec.name == probe.block))
    if target == "" and (len(right.tail) != 1 or right.spec.act_layer != "relu"):
        return
    try:
        total = exact(right, "sum" if target == "" else target)
    except ArgumentError:
        return
    passing = got > 0 if target == "" else np.ones(got.shape, bool)
    error = np.where(passing, got - total, 0.0)
    counts = passing.sum(axis=(0, 2, 3))
    shut = np.minimum(-total.max(axis=(0, 2, 3)), 0)  # so much, at least, where nothing passes
    added = np.where(counts > 0, error.sum(axis=(0, 2, 3)) / np.maximum(counts, 1), shut)
    largest = ", ".join(f"{added[k]:.3g} in {k}" for k in np.argsort(-np.abs(added))[:3])
    detail = f"the largest in the channels {largest}"
    yield _hypothesis(
        NUMBER_PER_CHANNEL, detail, with_added(right, target, added), way, target, len(added)
    )
    if target not in ("", "sum"):
        return
    for branch in right.branches:
        part = np.where(passing, exact(right, branch.output), 0.0)
        size = float((part * part).sum())
        scale = 1 + float((error * part).sum()) / size if size else 1.0
        wrong = replace(right, combine=partial(add_scaled, right, branch.name, scale))
        said = f"{BRANCHES[branch.name]} is scaled by {scale:.6g}"
        yield _hypothesis(SCALED_BRANCH, said, wrong, way, target, 1)


def _hypothesis(
    mistake: Mistake[Any], detail: str, wrong: Recipe, way: Way, target: str, numbers: int
) -> Fitted:
    def run(dtype: Any) -> Array:
        return Replay(way.given, dtype)(wrong, target)

    return Fitted(Hypothesis(mistake, detail, run), numbers)


def with_added(right: Recipe, target: str, added: Array) -> Recipe:
    """Return the recipe with a number per channel added to its sum, or to the tensor itself."""

    def more(y: Array) -> Array:
        total: Array = y + added.astype(y.dtype)[:, None, None]
        return total

    if target not in ("", "sum"):
        return replace(right, after=more)
    combine: Callable[[list[Array]], Array] = lambda ys: more(add(ys))  # noqa: E731
    return replace(right, combine=combine)


def add_scaled(right: Recipe, name: str, scale: float, ys: list[Array]) -> Array:
    """Return the sum of the branches, one of them scaled."""
    names = [branch.name for branch in right.branches]
    return add(
        [y * y.dtype.type(scale) if n == name else y for n, y in zip(names, ys, strict=True)]
    )
