"""Mistakes about windows: padding, stride and dilation.

The 3×3 kernel is padded by its dilation, evenly, with zeros; the 1×1 kernel not at all. Both are
centred on the pixels 0, stride, 2·stride, …
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from npvgg.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from npvgg.ops import Array
from npvgg.testing.diagnosis.mistake import EVERY, Mistake, collector, in_convs, in_norms
from npvgg.testing.diagnosis.recipe import Conv, Pads, Recipe, Step, evenly, same

WINDOWS: list[Mistake[Recipe]] = []
mistake = collector(WINDOWS)
two_mistakes = collector(WINDOWS, two=True)


@mistake(
    "there is no padding in {}",
    "pad the 3×3 convolution by its dilation on every side; timm's RepVggBlock(inference_mode="
    "True) forgets it as well: reparameterize the trained model instead",
)
def padding_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Take valid windows only, so the map is smaller."""
    return in_convs(recipe, lambda conv: replace(conv, pads=evenly(0)), taps=3)


@mistake(
    "the padding is TensorFlow's SAME, which starts at another pixel, in {}",
    "at stride 2, SAME pads an even side (0, 1); pad (1, 1) yourself and use VALID",
)
def same_padding(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """As much as ⌈H/stride⌉ windows need, the odd row at the end."""

    def change(conv: Conv) -> Conv:
        span = conv.dilation * 2 + 1

        def pads(size: int) -> tuple[int, int]:
            needed = max(0, (-(-size // conv.stride) - 1) * conv.stride + span - size)
            return needed // 2, needed - needed // 2

        return replace(conv, pads=pads)

    if recipe.spec.stride > 1:
        yield from in_convs(recipe, change, taps=3)


@mistake(
    "the padding is uneven: {}",
    "as many zeros before the first row and column as after the last",
)
def uneven_padding(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """All of it on one side. (At stride 2, behind is the same as SAME, which see.)"""
    before: Callable[[int], Pads] = lambda d: lambda size: (2 * d, 0)  # noqa: E731
    behind: Callable[[int], Pads] = lambda d: lambda size: (0, 2 * d)  # noqa: E731
    choices = [("all of it above and to the left", before)]
    if recipe.spec.stride == 1:
        choices.append(("all of it below and to the right", behind))
    for what, make in choices:
        for where, wrong in in_convs(
            recipe,
            lambda conv, make=make: replace(conv, pads=make(conv.dilation)),  # type: ignore[misc]
            taps=3,
        ):
            yield f"{what} in {where}", wrong


@mistake(
    "the map is padded with {}",
    "pad with zeros",
)
def padding_of_another_kind(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Mirrored, repeated or wrapped pixels in place of zeros."""
    for mode, what in (
        ("reflect", "mirrored pixels"),
        ("edge", "repeated pixels"),
        ("wrap", "pixels of the other side"),
        ("symmetric", "mirrored pixels, the edge twice"),
    ):
        for where, wrong in in_convs(
            recipe,
            lambda conv, mode=mode: replace(conv, pad_mode=mode),  # type: ignore[misc]
            taps=3,
        ):
            yield f"{what} in {where}", wrong


@mistake(
    "the map is padded with {}",
    "pad with zeros, after the image was normalised",
)
def padding_with_a_constant(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Pad with a black or white pixel, normalised; or with another number."""
    values: dict[str, tuple[float, ...]] = {f"the constant {v:g}": (v,) for v in (1, -1, 0.5, 255)}
    if recipe.spec.in_chs == 3:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        values["black pixels (0 before normalisation)"] = tuple(
            -m / s for m, s in zip(mean, std, strict=True)
        )
        values["white pixels (255 before normalisation)"] = tuple(
            (1 - m) / s for m, s in zip(mean, std, strict=True)
        )
        values["grey pixels (114 before normalisation)"] = tuple(
            (114 / 255 - m) / s for m, s in zip(mean, std, strict=True)
        )
    for what, numbers in values.items():
        for where, wrong in in_convs(
            recipe,
            lambda conv, numbers=numbers: replace(conv, pad_value=np.array(numbers)),  # type: ignore[misc]
            taps=3,
        ):
            yield f"{what} in {where}", wrong


@two_mistakes(
    "the padding is TensorFlow's SAME, which starts at another pixel, and the batch norm's eps is "
    "0.001, in {}",
    "Keras's defaults are padding='same' and epsilon=0.001: pad (1, 1) yourself and use 'valid', "
    "and give epsilon=1e-5",
)
def same_padding_and_eps(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Keras's defaults, both."""
    for where, padded in same_padding.variants(recipe):
        for what, wrong in in_norms(padded, lambda bn: replace(bn, eps=1e-3)):
            if what == EVERY:
                yield where, wrong


# --- Dilation -------------------------------------------------------------------------------------


@mistake(
    "the padding is 1, not the dilation, in {}",
    "a dilated 3×3 kernel needs padding=dilation to keep the size of the map",
)
def padding_not_dilated(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Keep padding 1 at a larger dilation, so the map is smaller."""
    if recipe.spec.dilation > 1:
        yield from in_convs(recipe, lambda conv: replace(conv, pads=evenly(1)), taps=3)


@mistake(
    "{}",
    "the 3×3 convolution of a dilated block is dilated and padded by as much; the 1×1 is neither",
)
def dilation_ignored(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Dilation 1, padded by 1 or by the dilation."""
    if recipe.spec.dilation == 1:
        return
    for padding, what in ((1, ""), (recipe.spec.dilation, ", though its padding is not")):
        for where, wrong in in_convs(
            recipe,
            lambda conv, p=padding: replace(conv, dilation=1, pads=evenly(p)),  # type: ignore[misc]
            taps=3,
        ):
            yield f"the dilation is ignored in {where}{what}", wrong


BEYOND = "so large that the kernel's centre alone meets the map"


def classed(details: list[str]) -> list[str]:
    """Say "3 or more" of dilations that no map so small can tell apart.

    A dilation that is not less than a side of the map leaves the kernel's centre alone; and so does
    every larger one.
    """
    found: dict[str, list[str]] = {}
    for detail in details:
        dilation, _, rest = detail.partition(", ")
        found.setdefault(rest, []).append(dilation)
    said = []
    for rest, dilations in found.items():
        known = sorted((d for d in dilations if d != BEYOND), key=int)
        if known and BEYOND in dilations:
            said.append(f"{known[0]} or more, {rest}")
        else:
            said += [f"{dilation}, {rest}" for dilation in known or dilations]
    return said


@mistake(
    "the dilation is {}",
    "the first block of a stage takes dilation 1 where the stage's is 1 or 2, and 2 where it is "
    "more, and has no identity branch where that differs; without output_stride nothing is dilated",
    classed,
)
def dilation_of_another_block(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Any up to four times, and one beyond the map."""
    right = recipe.spec.dilation
    for dilation in sorted({1, 2, 3, 4, 2 * right, 4 * right} - {1, right}):
        for where, wrong in in_convs(
            recipe,
            lambda conv, d=dilation: replace(conv, dilation=d, pads=evenly(d)),  # type: ignore[misc]
            taps=3,
        ):
            yield f"{dilation}, not {right}, in {where}", wrong
    for where, wrong in in_convs(
        recipe,
        lambda conv: replace(conv, weight=conv.weight[:, :, 1:2, 1:2], dilation=1, pads=evenly(0)),
        taps=3,
    ):
        yield f"{BEYOND}, not {right}, in {where}", wrong


# --- Stride ---------------------------------------------------------------------------------------


@mistake(
    "the stride is ignored",
    "the block's stride belongs to both its convolutions, 3×3 and 1×1",
)
def stride_ignored(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Stride 1 everywhere, so the map is larger."""
    if recipe.spec.stride > 1:
        for _, wrong in in_convs(recipe, lambda conv: replace(conv, stride=1)):
            yield "", wrong


@mistake(
    "the stride is not the convolution's: {}",
    "both convolutions of the block, 3×3 and 1×1, have its stride: they read the pixels around "
    "0, 2, 4 …, and nothing is pooled or cut off",
)
def stride_elsewhere(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Stride 1, and the map made to fit in another way, before or behind."""
    if recipe.spec.stride != 2:
        return
    for what, before, after in FITTINGS:
        for where, wrong in in_convs(
            recipe,
            lambda conv, before=before, after=after: replace(  # type: ignore[misc]
                conv, stride=1, before=before, after=after
            ),
        ):
            yield f"in {where}, {what}", wrong


def top_left(y: Array) -> Array:
    """Cut to ⌈H/2⌉ × ⌈W/2⌉."""
    return y[:, :, : (y.shape[2] + 1) // 2, : (y.shape[3] + 1) // 2]


def in_twos(y: Array) -> Array:
    """Return the 2×2 squares of a map: (N, C, H, W) → (N, C, H/2, W/2, 4); an odd row is left
    out.
    """
    n, c, h, w = y.shape
    squares = y[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return np.moveaxis(squares, 3, 4).reshape(n, c, h // 2, w // 2, 4)


def mean_of_four(y: Array) -> Array:
    """Average pooling, 2×2."""
    pooled: Array = in_twos(y).mean(axis=4)
    return pooled


def largest_of_four(y: Array) -> Array:
    """Maximum pooling, 2×2."""
    pooled: Array = in_twos(y).max(axis=4)
    return pooled


FITTINGS: tuple[tuple[str, Step, Step], ...] = (
    ("the top left quarter is kept", same, top_left),
    ("the input is averaged 2×2 first", mean_of_four, same),
    ("the largest of 2×2 is taken first", largest_of_four, same),
    ("the output is averaged 2×2", same, mean_of_four),
    ("the largest of 2×2 is kept", same, largest_of_four),
)
