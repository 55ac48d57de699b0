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
from npvgg.reparam import BatchNorm, identity_kernel
from npvgg.testing.diagnosis.mistake import Mistake, collector
from npvgg.testing.diagnosis.recipe import Branch, Conv, Recipe, Step, evenly, same

NUMBERS: list[Mistake[Recipe]] = []
mistake = collector(NUMBERS)
rounding = collector(NUMBERS, rounds=True)


def to_float16(y: Array) -> Array:
    """Round to the 11 bits of float16; what is too large becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return y.astype(np.float16).astype(y.dtype)


def to_bfloat16(y: Array) -> Array:
    """Round to the 8 bits of bfloat16."""
    return widen(narrow(y)).astype(y.dtype)


def to_tf32(y: Array) -> Array:
    """Round to the 11 bits of TensorFloat-32, which has the exponents of float32."""
    bits = np.ascontiguousarray(y, np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x0FFF) + ((bits >> 13) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(y.dtype)


def cut_to_tf32(y: Array) -> Array:
    """Cut off to the 11 bits of TensorFloat-32."""
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
    """Store with fewer bits: the kernels, or all."""
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
    """Round at the very end."""
    for name, short in SHORT.items():
        yield name, replace(recipe, after=short)


@rounding(
    "mixed precision: the convolutions take and give {}, the rest is float32",
    "switch autocast off to compare",
)
def convolutions_rounded(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Factors and results of the convolutions in a short type, batch norms in float32."""
    for name, short in SHORT.items():

        def change(branch: Branch, short: Step = short) -> Branch:
            if branch.conv is None:
                return branch
            return replace(branch, conv=replace(branch.conv, before=short, after=short))

        rounded = with_weights(recipe, short, same if recipe.branches[-1].bn else short)
        yield name, replace(rounded, branches=tuple(map(change, rounded.branches)))


@rounding(
    "the block was folded in {}",
    "fold in float32 or float64, and round the folded weights, if need be",
)
def fold_rounded(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Every step of the fold in a short type: gamma / √(var + eps), the products, the sums."""
    if len(recipe.branches) > 1 and all(branch.bn for branch in recipe.branches):
        for name, short in SHORT.items():
            with np.errstate(all="ignore"):
                yield name, folded_in(recipe, short)


def folded_in(recipe: Recipe, r: Step) -> Recipe:
    """Return the recipe as one convolution, each step of the fold rounded."""
    spec = recipe.spec
    kernel: Array | None = None
    bias: Array | None = None
    for branch in recipe.branches:
        bn = branch.bn
        if bn is None:
            continue
        one = identity_kernel(spec.out_chs, spec.groups)
        weight = one if branch.conv is None else branch.conv.weight
        margin = (3 - weight.shape[2]) // 2
        weight = np.pad(weight, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        root = r(np.sqrt(r(r(bn.var) + r(np.array(bn.eps)))))
        t = r(r(bn.gamma) / root)
        w, b = r(r(weight) * t[:, None, None, None]), r(r(bn.beta) - r(r(bn.mean) * t))
        kernel = w if kernel is None else r(kernel + w)
        bias = b if bias is None else r(bias + b)
    if kernel is None:
        return recipe
    conv = Conv(kernel, bias, spec.stride, spec.dilation, spec.groups, evenly(spec.dilation))
    return replace(recipe, branches=(Branch("reparam_conv", conv, None),))


@rounding(
    "the maps are quantised to 8 bits, {}",
    "compare in float32 first; int8 needs tolerances of its own",
)
def maps_quantised(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Make the block's output, or what it reads, 8-bit integers; with quantised weights, too."""
    steps: dict[str, Step] = {
        "-127 … 127, one scale": partial(quantised, axes=None),
        "-127 … 127, one scale per channel": partial(quantised, axes=(0, 2, 3)),
        "0 … 255, one scale": partial(unsigned, axes=None),
        "0 … 255, one scale per channel": partial(unsigned, axes=(0, 2, 3)),
    }
    kernels = {
        "": None,
        ", as the weights, one scale per kernel": None,
        ", as the weights, one scale per output channel": (1, 2, 3),
    }
    for what, step in steps.items():
        for weights, axes in kernels.items():
            wrong = with_weights(recipe, partial(quantised, axes=axes)) if weights else recipe
            yield f"the output, {what}{weights}", replace(wrong, after=step)
            yield f"what is read, {what}{weights}", rounding_factors(wrong, step)
            both = rounding_factors(wrong, step)
            yield f"what is read and the output, {what}{weights}", replace(both, after=step)


def unsigned(y: Array, axes: tuple[int, ...] | None) -> Array:
    """Return the nearest of 256 evenly spaced numbers from the least, or 0, to the largest."""
    low = np.minimum(y.min(axis=axes, keepdims=True), 0)
    high = np.maximum(y.max(axis=axes, keepdims=True), 0)
    step = np.where(high > low, high - low, 1) / 255
    zero = np.rint(-low / step)
    rounded: Array = (np.clip(np.rint(y / step) + zero, 0, 255) - zero) * step
    return rounded


def with_weights(recipe: Recipe, kernels: Step, others: Step = same) -> Recipe:
    """Return the recipe with other numbers in its kernels, and in its biases and batch norms."""

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
    """Return the recipe whose convolutions, but not whose identity, read a rounded map."""

    def change(branch: Branch) -> Branch:
        conv = branch.conv and replace(branch.conv, before=short)
        return replace(branch, conv=conv)

    return replace(recipe, branches=tuple(change(branch) for branch in recipe.branches))


def quantised(weight: Array, axes: tuple[int, ...] | None) -> Array:
    """Return the nearest of 255 evenly spaced numbers, the outermost at ± the largest magnitude."""
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
    """Leave the block right, and hand over its output in another order than NCHW."""
    for what, order in ORDERS.items():
        yield what, replace(recipe, after=order)


@mistake(
    "what the block reads {}",
    "read maps as NCHW: transpose (np.transpose(x, (0, 3, 1, 2)) from NHWC), do not reshape",
)
def order_of_the_input(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Let the block read its input in another order."""
    for what, order in ORDERS.items():
        if "in NHWC" not in what and "image" not in what:
            yield what, replace(recipe, before=order)
