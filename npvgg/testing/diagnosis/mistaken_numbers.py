"""Mistakes about numbers and bytes: too few bits, and maps read in the wrong order.

They can be made in every network. Maps are stored as (N, C, H, W), "NCHW", in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from npvgg.formats.bfloat16 import narrow, widen
from npvgg.ops import Array
from npvgg.reparam import BatchNorm
from npvgg.testing.diagnosis.mistake import Mistake, collector
from npvgg.testing.diagnosis.recipe import Branch, Recipe, Step, same

NUMBERS: list[Mistake[Recipe]] = []
mistake = collector(NUMBERS)
rounding = collector(NUMBERS, rounds=True)


def to_float16(y: Array) -> Array:
    """Rounded to the 11 bits of float16; what is too large becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return y.astype(np.float16).astype(y.dtype)


def to_bfloat16(y: Array) -> Array:
    """Rounded to the 8 bits of bfloat16."""
    return widen(narrow(y)).astype(y.dtype)


def to_tf32(y: Array) -> Array:
    """Rounded to the 11 bits of TensorFloat-32, which has the exponents of float32."""
    bits = np.ascontiguousarray(y, np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x0FFF) + ((bits >> 13) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(y.dtype)


def cut_to_tf32(y: Array) -> Array:
    """The same, but cut off."""
    bits = np.ascontiguousarray(y, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(y.dtype)


SHORT: dict[str, Step] = {"float16": to_float16, "bfloat16": to_bfloat16}
"""Floating-point types with fewer bits than float32."""

OPERANDS: dict[str, Step] = {
    **SHORT,
    "TensorFloat-32": to_tf32,
    "TensorFloat-32 (cut off)": cut_to_tf32,
}
"""What matrix units round the two factors of a product to."""


@rounding(
    "the weights are {}",
    "keep the weights in float32, and fold batch norms in float32 or float64",
)
def weights_rounded(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Stored with fewer bits: the kernels, or all."""
    for name, short in SHORT.items():
        yield f"rounded to {name}", with_weights(recipe, short, short)
        yield f"rounded to {name}, kernels only", with_weights(recipe, short)


@rounding(
    "the weights are quantised to 8 bits, {}",
    "compare in float32 first; int8 needs tolerances of its own, and folded RepVGG kernels lose "
    "much by it",
)
def weights_quantised(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Integers −127 … 127 times a scale, one for the kernel or one per output channel."""
    for what, axes in (("one scale per kernel", None), ("one scale per output channel", (1, 2, 3))):
        yield what, with_weights(recipe, partial(quantised, axes=axes))


@rounding(
    "the convolutions multiply in {}",
    "switch it off to compare (in PyTorch: torch.backends.cudnn.allow_tf32 = False, no autocast)",
)
def factors_rounded(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Both factors of every product rounded, and summed in float32, as matrix units do."""
    for name, short in OPERANDS.items():
        yield name, rounding_factors(with_weights(recipe, short), short)


@rounding(
    "every result is stored in {}",
    "compute in float32: no half precision, no autocast",
)
def results_rounded(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Weights, maps and everything between in a short type."""
    for name, short in SHORT.items():
        yield name, replace(with_weights(recipe, short, short), store=short, after=short)


@rounding(
    "the tensor is computed in float32, and handed over in {}",
    "write tensors as float32",
)
def tensor_rounded(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Rounded at the very end."""
    for name, short in SHORT.items():
        yield name, replace(recipe, after=short)


def with_weights(recipe: Recipe, kernels: Step, others: Step = same) -> Recipe:
    """The recipe with other numbers in its kernels, and in its biases and batch norms."""

    def change(branch: Branch) -> Branch:
        conv, bn = branch.conv, branch.bn
        if conv is not None:
            bias = None if conv.bias is None else others(conv.bias)
            conv = replace(conv, weight=kernels(conv.weight), bias=bias)
        if bn is not None:
            gamma, beta, mean, var = (others(a) for a in (bn.gamma, bn.beta, bn.mean, bn.var))
            bn = BatchNorm(gamma, beta, mean, var, bn.eps)
        return replace(branch, conv=conv, bn=bn)

    return replace(recipe, branches=tuple(change(branch) for branch in recipe.branches))


def rounding_factors(recipe: Recipe, short: Step) -> Recipe:
    """The recipe whose convolutions, but not whose identity, read a rounded map."""

    def change(branch: Branch) -> Branch:
        conv = branch.conv and replace(branch.conv, before=short)
        return replace(branch, conv=conv)

    return replace(recipe, branches=tuple(change(branch) for branch in recipe.branches))


def quantised(weight: Array, axes: tuple[int, ...] | None) -> Array:
    """The nearest of 255 evenly spaced numbers, the outermost at ± the largest magnitude."""
    largest = np.abs(weight).max(axis=axes, keepdims=True)
    step = np.where(largest > 0, largest, 1) / 127
    rounded: Array = np.rint(weight / step) * step
    return rounded


# --- Order ----------------------------------------------------------------------------------------


def nhwc_bytes(x: Array) -> Array:
    """NHWC bytes taken for NCHW."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(x.shape)


def nchw_bytes(x: Array) -> Array:
    """NCHW bytes taken for NHWC."""
    n, c, h, w = x.shape
    return np.ascontiguousarray(x).reshape(n, h, w, c).transpose(0, 3, 1, 2)


ORDERS: dict[str, Step] = {
    "is in NHWC, not in NCHW": lambda x: x.transpose(0, 2, 3, 1),
    "has NHWC bytes, which are taken for NCHW": nhwc_bytes,
    "has NCHW bytes, which are taken for NHWC": nchw_bytes,
    "has rows and columns exchanged": lambda x: x.swapaxes(2, 3),
    "is upside down": lambda x: x[:, :, ::-1],
    "is mirrored left to right": lambda x: x[:, :, :, ::-1],
    "has its channels in the reverse order": lambda x: x[:, ::-1],
    "has its images in the reverse order": lambda x: x[::-1],
    "has the first image in the place of every other": lambda x: np.repeat(x[:1], len(x), axis=0),
    "has zeros in the place of every image but the first": lambda x: np.concatenate(
        [x[:1], np.zeros_like(x[1:])]
    ),
}
"""What may happen to the order of a map's numbers."""


@mistake(
    "the tensor {}",
    "hand tensors over as NCHW: np.transpose(y, (0, 3, 1, 2)) makes it of NHWC, a reshape does not",
)
def order_of_the_output(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The block is right, and what is handed over is not in NCHW."""
    for what, order in ORDERS.items():
        yield what, replace(recipe, after=order)


@mistake(
    "what the block reads {}",
    "read maps as NCHW: transpose (np.transpose(x, (0, 3, 1, 2)) from NHWC), do not reshape",
)
def order_of_the_input(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The block reads its input in another order."""
    for what, order in ORDERS.items():
        if "in NHWC" not in what and "image" not in what:
            yield what, replace(recipe, before=order)
