"""Mistakes behind the last block: the pooling and the classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from npvgg import ops
from npvgg.network import Head
from npvgg.ops import Array
from npvgg.testing.diagnosis.mistake import Mistake, collector
from npvgg.testing.diagnosis.mistaken_numbers import SHORT
from npvgg.testing.diagnosis.recipe import Step, same


@dataclass(frozen=True, eq=False)
class Ending:
    """What follows the last block:  after( linear( before( pool( x ) ) ) )."""

    pool: Step
    weight: Array | None
    bias: Array | None
    before: Step = same
    after: Step = same

    def __call__(self, target: str, given: dict[str, Array]) -> Array:
        """Return the tensor "pool" or "logits", from the last map "x", or from "pool" if that is
        given.
        """
        pooled = given["pool"] if "pool" in given else self.pool(given["x"])
        if target == "pool" or self.weight is None or self.bias is None:
            return pooled
        features = self.before(pooled)
        weight, bias = (a.astype(features.dtype) for a in (self.weight, self.bias))
        return self.after(ops.linear(features, weight, bias))


def ending(head: Head) -> Ending:
    """Return the right one."""
    pool = partial(ops.global_pool, kind=head.global_pool)
    return Ending(pool, head.weight, head.bias)


ENDINGS: list[Mistake[Ending]] = []
mistake = collector(ENDINGS)
rounding = collector(ENDINGS, rounds=True)


@mistake(
    "the map is pooled by {}",
    "pool by the mean over all pixels of the map, whatever its size (unless global_pool says "
    "otherwise)",
)
def another_pool(right: Ending) -> Iterator[tuple[str, Ending]]:
    """Another kind, or not over all pixels."""
    pools: dict[str, Step] = {
        "the mean": lambda x: x.mean(axis=(2, 3)),
        "the maximum": lambda x: x.max(axis=(2, 3)),
        "half the sum of mean and maximum": partial(ops.global_pool, kind="avgmax"),
        "the sum": lambda x: x.sum(axis=(2, 3)),
        "the mean over 7×7 pixels": lambda x: x[:, :, :7, :7].mean(axis=(2, 3)),
        "a division by 49, whatever the size (a 7×7 pool that counts its padding)": lambda x: (
            x.sum(axis=(2, 3)) / 49
        ),
        "a mean that counts a border of padding (count_include_pad)": lambda x: (
            x.sum(axis=(2, 3)) / ((x.shape[2] + 2) * (x.shape[3] + 2))
        ),
        "the pixel at the centre": lambda x: x[:, :, x.shape[2] // 2, x.shape[3] // 2],
        "the pixel at the top left": lambda x: x[:, :, 0, 0],
        "the root of the mean of squares": lambda x: np.sqrt((x * x).mean(axis=(2, 3))),
    }
    for what, pool in pools.items():
        yield what, replace(right, pool=pool)


@mistake(
    "the classifier's matrix is transposed",
    "head.fc.weight is (classes, features): y = x @ W.T + b",
)
def classifier_transposed(right: Ending) -> Iterator[tuple[str, Ending]]:
    """(K, C) bytes read as (C, K)."""
    if right.weight is not None:
        yield "", replace(right, weight=right.weight.reshape(right.weight.shape[::-1]).T)
        yield "", replace(right, weight=right.weight.T.reshape(right.weight.shape))


@mistake("the classifier's bias is {}", "add head.fc.bias once")
def classifier_bias(right: Ending) -> Iterator[tuple[str, Ending]]:
    """Left out, or wrong."""
    if right.bias is not None:
        for factor, what in ((0, "missing"), (-1, "subtracted"), (2, "added twice")):
            yield what, replace(right, bias=factor * right.bias)


@mistake("the answer went through {}", "the network ends with the classifier: its answer is logits")
def logits_activated(right: Ending) -> Iterator[tuple[str, Ending]]:
    """Softmax, or another function, applied already."""
    steps: dict[str, Step] = {
        "softmax": ops.softmax,
        "the logarithm of softmax": lambda y: y - np.log(np.exp(y).sum(axis=-1, keepdims=True)),
        "softmax twice": lambda y: ops.softmax(ops.softmax(y)),
        "a sigmoid": ops.sigmoid,
        "ReLU": ops.relu,
        "a normalisation to length 1": lambda y: y / np.sqrt((y * y).sum(-1, keepdims=True)),
    }
    for what, step in steps.items():
        yield what, replace(right, after=step)


@mistake(
    "the features went through {} before the classifier",
    "between pooling and classifier there is nothing (dropout does nothing at inference)",
)
def features_changed(right: Ending) -> Iterator[tuple[str, Ending]]:
    """Add an activation, a normalisation or a dropout that is none of the network's."""
    steps: dict[str, Step] = {
        "a normalisation to length 1": lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
        "a layer norm": lambda x: (
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        ),
        "a dropout's scaling by 2": lambda x: 2 * x,
        "a dropout's scaling by 1.25": lambda x: 1.25 * x,
    }
    for what, step in steps.items():
        yield what, replace(right, before=step)


@mistake(
    "the classes are shifted by one, {}",
    "class 0 is the tench (n01440764); TensorFlow's lists of 1001 classes have a background first",
)
def classes_shifted(right: Ending) -> Iterator[tuple[str, Ending]]:
    """One place up or down, the last one going around or a zero coming in."""
    for shift, what in ((1, "upwards"), (-1, "downwards")):
        yield what, replace(right, after=lambda y, s=shift: np.roll(y, s, axis=-1))  # type: ignore[misc]
    for last, what in ((None, ""), (-1, ", and the last of them cut off")):
        yield (
            f"a background class before them{what}",
            replace(right, after=lambda y, last=last: np.pad(y[:, :last], ((0, 0), (1, 0)))),  # type: ignore[misc]
        )


@rounding("the classifier computes in {}", "keep the classifier in float32")
def classifier_rounded(right: Ending) -> Iterator[tuple[str, Ending]]:
    """Its weights, its features, its answer in a short type."""
    if right.weight is None or right.bias is None:
        return
    for name, short in SHORT.items():
        weights = replace(right, weight=short(right.weight), bias=short(right.bias))
        yield f"{name}: its weights", weights
        yield f"{name}: its weights and features", replace(weights, before=short)
        yield f"{name}: all of it", replace(weights, before=short, after=short)
        yield f"{name}: its answer", replace(right, after=short)
