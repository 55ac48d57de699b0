"""Mistakes at both ends of a network: the image before the first block, the classifier after the
last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from npvgg import ops
from npvgg.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from npvgg.network import Head
from npvgg.ops import Array
from npvgg.testing.diagnosis.mistake import Mistake, collector
from npvgg.testing.diagnosis.mistaken_numbers import ORDERS, SHORT
from npvgg.testing.diagnosis.recipe import Step, same

# --- The image ------------------------------------------------------------------------------------

IMAGES: list[Mistake[Step]] = []
"""The right image goes into these steps (N, C, H, W), and the wrong one comes out."""

image_mistake = collector(IMAGES)

ADVICE = (
    "the network wants RGB, values 0 … 1, minus its mean, divided by its std (a photo's pack has "
    "them under input.transform in its manifest), and all of that once"
)

Statistics: TypeAlias = tuple[Sequence[float], Sequence[float]]

STATISTICS: ContextVar[Statistics] = ContextVar(
    "STATISTICS", default=(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
)
"""Mean and standard deviation by which the image was normalised; ImageNet's where nobody says."""


def constants(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the channels, (3, 1, 1), in the dtype of x."""
    mean, std = (np.array(values, x.dtype)[:, None, None] for values in STATISTICS.get())
    return mean, std


def pixels(x: Array) -> Array:
    """A normalised image as numbers 0 … 1 again."""
    mean, std = constants(x)
    return x * std + mean


def normalised(u: Array) -> Array:
    """Numbers 0 … 1, normalised."""
    mean, std = constants(u)
    x: Array = (u - mean) / std
    return x


def with_constants(mean: tuple[float, ...], std: tuple[float, ...], x: Array) -> Array:
    """An image normalised by other constants."""
    m, s = (np.array(values, x.dtype)[:, None, None] for values in (mean, std))
    y: Array = (pixels(x) - m) / s
    return y


NORMALISATIONS: dict[str, Step] = {
    "missing: the pixels are 0 … 1": pixels,
    "missing: the pixels are 0 … 255": lambda x: 255 * pixels(x),
    "applied twice": normalised,
    "applied to pixels 0 … 255, which were not divided by 255": lambda x: normalised(
        255 * pixels(x)
    ),
    "applied to pixels that were divided by 255 twice": lambda x: normalised(pixels(x) / 255),
    "applied to pixels that were divided by 256": lambda x: normalised(pixels(x) * (255 / 256)),
    "the subtraction of the mean alone": lambda x: pixels(x) - constants(x)[0],
    "the subtraction of the mean alone, from pixels 0 … 255": lambda x: (
        255 * (pixels(x) - constants(x)[0])
    ),
    "the division by std alone": lambda x: pixels(x) / constants(x)[1],
    "a product with std, where it should be divided": lambda x: (
        (pixels(x) - constants(x)[0]) * constants(x)[1]
    ),
    "done with mean and std exchanged": lambda x: (pixels(x) - constants(x)[1]) / constants(x)[0],
    "Inception's, to -1 … 1": lambda x: 2 * pixels(x) - 1,
    "CLIP's": partial(
        with_constants,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "one for all channels": partial(with_constants, (0.449,) * 3, (0.226,) * 3),
}
"""What normalisation may have become."""


@image_mistake("the image is BGR: {}", ADVICE)
def rgb_bgr(right: Step) -> Iterator[tuple[str, Step]]:
    """Channels in the other order, before or after normalisation (OpenCV reads BGR)."""
    yield "its channels were exchanged after normalisation", lambda x: x[:, ::-1]
    yield (
        "its channels were exchanged before normalisation",
        rgb_only(lambda x: normalised(pixels(x)[:, ::-1])),
    )
    for what, step in NORMALISATIONS.items():
        wrong = rgb_only(lambda x, step=step: step(normalised(pixels(x)[:, ::-1])))  # type: ignore[misc]
        yield f"besides, normalisation is {what}", wrong


@image_mistake("normalisation is {}", ADVICE)
def normalisation(right: Step) -> Iterator[tuple[str, Step]]:
    """Left out, done twice, or with other constants."""
    for what, step in NORMALISATIONS.items():
        yield what, rgb_only(step)


@image_mistake(
    "the image {}", "the network wants (N, 3, H, W), row by row from the top, left to right"
)
def order_of_the_image(right: Step) -> Iterator[tuple[str, Step]]:
    """NHWC, turned or mirrored."""
    for what, order in ORDERS.items():
        if "channels" not in what:
            yield what, order


@image_mistake("the image is {}", ADVICE)
def image_rounded(right: Step) -> Iterator[tuple[str, Step]]:
    """Fewer bits, or a single brightness."""
    for name, short in SHORT.items():
        yield f"rounded to {name}", short
    yield "grey", rgb_only(lambda x: normalised(grey(pixels(x))))


def grey(u: Array) -> Array:
    """The brightness of ITU-R 601, in all three channels."""
    weights = np.array([0.299, 0.587, 0.114], u.dtype)[:, None, None]
    return np.broadcast_to((u * weights).sum(axis=1, keepdims=True), u.shape)


def rgb_only(step: Step) -> Step:
    """The step for images of three channels; others stay as they are."""
    return lambda x: step(x) if x.shape[1] == 3 else x


# --- The classifier -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ending:
    """What follows the last block:  after( linear( before( pool( x ) ) ) )."""

    pool: Step
    weight: Array | None
    bias: Array | None
    before: Step = same
    after: Step = same

    def __call__(self, target: str, given: dict[str, Array]) -> Array:
        """The tensor "pool" or "logits", from the last map "x", or from "pool" if that is given."""
        pooled = given["pool"] if "pool" in given else self.pool(given["x"])
        if target == "pool" or self.weight is None or self.bias is None:
            return pooled
        features = self.before(pooled)
        weight, bias = (a.astype(features.dtype) for a in (self.weight, self.bias))
        return self.after(ops.linear(features, weight, bias))


def ending(head: Head) -> Ending:
    """The right one."""
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
        "a division by 49, whatever the size": lambda x: x.sum(axis=(2, 3)) / 49,
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
    """An activation, a normalisation or a dropout that is none of the network's."""
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
