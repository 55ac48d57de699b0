"""Mistakes about kernels: the order of their axes, of their taps, and which channels they read.

A kernel is stored as (K, C/G, R, S), "OIHW": output channel, input channel of the group, row,
column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from npvgg.ops import Array
from npvgg.reparam import identity_kernel
from npvgg.testing.diagnosis.mistake import (
    EVERY,
    Mistake,
    collector,
    in_branches,
    in_convs,
    in_kernels,
    in_norms,
    with_branches,
)
from npvgg.testing.diagnosis.recipe import Branch, Conv, Recipe, evenly

KERNELS: list[Mistake[Recipe]] = []
mistake = collector(KERNELS)
two_mistakes = collector(KERNELS, two=True)


@mistake(
    "the kernel is flipped in {}: a convolution in the mathematicians' sense",
    "frameworks correlate: w[0, 0] meets the pixel at the top left; use correlate, not convolve",
)
def kernel_flipped(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Turn the kernel by 180°."""
    return in_kernels(recipe, lambda w: w[:, :, ::-1, ::-1], taps=3)


@mistake(
    "the kernel's rows and columns are exchanged in {}",
    "the last axis of a stored kernel is the column",
)
def kernel_transposed(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Mirrored along its diagonal."""
    return in_kernels(recipe, lambda w: w.swapaxes(2, 3), taps=3)


@mistake(
    "the kernel is upside down: {}",
    "row 0 of a kernel meets the row above the centre",
)
def kernel_upside_down(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Rows in the other order."""
    return in_kernels(recipe, lambda w: w[:, :, ::-1], taps=3)


@mistake(
    "the kernel is mirrored left to right: {}",
    "column 0 of a kernel meets the column left of the centre",
)
def kernel_mirrored(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Columns in the other order."""
    return in_kernels(recipe, lambda w: w[:, :, :, ::-1], taps=3)


@mistake(
    "the kernel's input and output channels are exchanged in {}",
    "the first axis of a stored kernel is the output channel (OIHW); a transposed convolution's "
    "kernel is IOHW",
)
def input_and_output_channels_exchanged(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """OIHW read as IOHW."""
    return in_kernels(recipe, lambda w: read_as(w, "IOHW"))


@mistake(
    "the kernel's bytes are read in the wrong order: {}",
    "the bytes of a stored kernel are OIHW; transpose to the order that you need (TensorFlow and "
    "JAX: HWIO; TFLite: OHWI), do not reshape",
)
def kernel_layout(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """OIHW read as HWIO or OHWI, and the other way round."""
    for layout in ("HWIO", "OHWI"):
        for where, wrong in in_kernels(recipe, lambda w, to=layout: read_as(w, to)):  # type: ignore[misc]
            yield f"OIHW read as {layout} in {where}", wrong
        for where, wrong in in_kernels(recipe, lambda w, to=layout: written_as(w, to)):  # type: ignore[misc]
            yield f"{layout} read as OIHW in {where}", wrong


@mistake(
    "the kernel's {}",
    "a kernel that was trained on RGB wants RGB; channels keep the order of the file",
)
def channels_reversed(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Last channel first."""
    for axis, what in ((1, "input"), (0, "output")):
        for where, wrong in in_kernels(recipe, lambda w, axis=axis: np.flip(w, axis)):  # type: ignore[misc]
            yield f"{what} channels are in the reverse order in {where}", wrong


# --- Groups ---------------------------------------------------------------------------------------


@mistake(
    "the groups are ignored in {}: every output channel reads the channels of the first group",
    "output channel k reads the input channels of its group, g*C/G … (g+1)*C/G with g = k // (K/G)",
)
def groups_ignored(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Every kernel over the first C/G channels."""

    def change(conv: Conv) -> Conv | None:
        if conv.groups == 1:
            return None
        size = conv.weight.shape[1]
        return replace(conv, groups=1, before=lambda x: x[:, :size])

    return in_convs(recipe, change)


@mistake(
    "the groups are taken as {}",
    "groups are blocks of neighbouring channels: with g = k // (K/G), output channel k reads the "
    "input channels g*C/G … (g+1)*C/G",
)
def groups_interleaved(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Channel k in group k mod G: of the input, of the output, or of both."""

    def change(conv: Conv, inputs: bool, outputs: bool) -> Conv | None:
        if conv.groups == 1:
            return None
        if outputs:  # kernel k works for the group k mod G
            weight = dealt(conv.weight[None], conv.groups)[0]
            gather = partial(dealt, hands=len(weight) // conv.groups)
            conv = replace(conv, weight=weight, after=gather)
        return replace(conv, before=partial(dealt, hands=conv.groups)) if inputs else conv

    for inputs, outputs, what in (
        (True, True, "every G-th channel"),
        (True, False, "every G-th input channel"),
        (False, True, "every G-th output channel"),
    ):
        for where, wrong in in_convs(
            recipe,
            lambda conv, i=inputs, o=outputs: change(conv, i, o),  # type: ignore[misc]
        ):
            yield f"{what} in {where}", wrong


@mistake(
    "the block is computed in groups, though it has none: {}",
    "count the blocks of each stage from 0 and group the odd ones only (the original counts over "
    "the whole network from 1 after the stem, and groups the even ones)",
)
def grouped_at_the_wrong_parity(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Run a dense kernel in groups: what it says about other groups' channels is lost."""
    spec = recipe.spec
    for groups in (2, 4, 8):
        if spec.groups != 1 or spec.in_chs % groups or spec.out_chs % groups:
            continue
        for own, what in ((True, "each with its own channels"), (False, "with the first columns")):

            def change(conv: Conv, groups: int = groups, own: bool = own) -> Conv:
                weight = (
                    own_columns(conv.weight, groups) if own else first_columns(conv.weight, groups)
                )
                return replace(conv, weight=weight, groups=groups)

            for where, wrong in in_convs(recipe, change):
                yield f"{groups} groups, {what} of the kernel, in {where}", wrong


@mistake(
    "the groups are {}",
    "group g reads the input channels g*C/G … (g+1)*C/G and writes the output channels "
    "g*K/G … (g+1)*K/G; nothing is shuffled",
)
def groups_in_another_order(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Last group first, in what is read, in the kernels or in what is written; or shuffled."""

    def turned(conv: Conv, what: str) -> Conv | None:
        if conv.groups == 1:
            return None
        turn = partial(last_group_first, groups=conv.groups)
        match what:
            case "read in the reverse order":
                return replace(conv, before=turn)
            case "written in the reverse order":
                return replace(conv, after=turn)
            case "given each other's kernels, the last first":
                return replace(conv, weight=turn(conv.weight[None])[0])
        return replace(conv, after=partial(dealt, hands=len(conv.weight) // conv.groups))

    for what in (
        "read in the reverse order",
        "written in the reverse order",
        "given each other's kernels, the last first",
        "shuffled in the output, as in ShuffleNet",
    ):
        for where, wrong in in_convs(recipe, partial(turned, what=what)):
            yield f"{what} in {where}", wrong


# --- Remainders -----------------------------------------------------------------------------------


@mistake(
    "{}",
    "loops that are unrolled or vectorised need a rest: see what is left of channels, rows and "
    "columns behind the last whole step",
)
def remainder_left_out(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Leave the last channels, rows or columns uncomputed, or input channels unread."""

    def blind(conv: Conv, count: int) -> Conv | None:
        if conv.weight.shape[1] <= count:
            return None
        weight = conv.weight.copy()
        weight[:, -count:] = 0
        return replace(conv, weight=weight)

    def empty(y: Array, axis: int, count: int) -> Array:
        out = y.copy()
        np.moveaxis(out, axis, 0)[-count:] = 0
        return out

    channels, inputs = recipe.spec.out_chs, recipe.spec.in_chs // recipe.spec.groups
    for count in sorted({1, *(channels % n for n in (4, 8, 16, 32))} - {0, channels}):
        yield (
            f"the last {count} output channels are not written",
            replace(recipe, after=partial(empty, axis=1, count=count)),
        )
    for axis, what in ((2, "row"), (3, "column")):
        yield (
            f"the last {what} of the map is not written",
            replace(recipe, after=partial(empty, axis=axis, count=1)),
        )
    for count in sorted({1, *(inputs % n for n in (4, 8, 16, 32))} - {0}):
        for where, wrong in in_convs(recipe, partial(blind, count=count)):
            yield f"the last {count} input channels are not read in {where}", wrong


# --- 1×1 and identity as 3×3 kernels --------------------------------------------------------------


@mistake(
    "the identity's kernel has its ones in the wrong places: {}",
    "output channel k is input channel k, whose number inside its group is k mod (C/G): "
    "w[k, k % (C//G), 1, 1] = 1",
)
def identity_in_the_wrong_place(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Put the diagonal of a dense kernel into a grouped one, and into other wrong columns."""
    K, G = recipe.spec.out_chs, recipe.spec.groups
    k, size = np.arange(K), K // G
    for what, columns in (
        ("[k, k], and none for the channels behind the first group", k),
        ("[k, k // G]", k // G),
        ("[k, k // (C/G)], the number of the group", k // size),
        ("[k, k mod G]", k % G),
        ("[k, 0]", 0 * k),
        ("[k, C/G - 1 - k mod (C/G)]", size - 1 - k % size),
    ):
        kernel = np.zeros((K, size, 1, 1))
        inside = columns < size
        kernel[k[inside], columns[inside]] = 1
        if not np.array_equal(kernel, identity_kernel(K, G)):
            yield from with_identity(recipe, what, kernel)


@mistake(
    "{}",
    "pad a 1×1 kernel by one on every side: its weight stands in the middle, w[:, :, 1, 1]; a "
    "strided 1×1 convolution reads the pixels 0, 2, 4 …, without padding",
)
def pointwise_off_centre(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Put a 1×1 kernel, or the identity's, at another tap of the 3×3 kernel."""
    rows, columns = ("above", "level with", "below"), ("left of", "level with", "right of")
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            if (row, column) == (0, 0):
                continue
            place = f"{rows[row + 1]} and {columns[column + 1]} the centre"
            if recipe.spec.stride == 2 and row == column == 1:
                place += ": the pixels 1, 3, 5 …"

            def change(branch: Branch, row: int = row, column: int = column) -> Branch | None:
                return moved(branch, recipe, row, column)

            for where, wrong in in_branches(recipe, change):
                yield f"{where} reads the pixel {place}", wrong


@two_mistakes(
    "{}",
    "pad a 1×1 kernel by one on every side, and give eps=1e-5 to every batch norm",
)
def pointwise_in_the_corner_and_eps(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Append zeros to a 1×1 kernel, and take an eps of another framework."""
    for branch in recipe.branches:
        for row, column, corner in ((-1, -1, "top left"), (1, 1, "bottom right")):
            wrong = moved(branch, recipe, row, column) if branch.name == "conv_1x1" else None
            if wrong is None:
                continue
            for eps in (1e-3, 0.0, 1e-6):
                off = with_branches(recipe, {branch.name: wrong})
                for where, both in in_norms(off, lambda bn, eps=eps: replace(bn, eps=eps)):  # type: ignore[misc]
                    if where == EVERY:
                        yield (
                            f"the 1×1 kernel stands in the {corner} corner of the 3×3, and the "
                            f"batch norm's eps is {eps:g}",
                            both,
                        )


@mistake(
    "{} stands at all nine taps",
    "a 1×1 kernel, and the identity, become a 3×3 kernel that is zero around its centre",
)
def pointwise_at_every_tap(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Repeated, where it should be padded."""

    def change(branch: Branch) -> Branch | None:
        if branch.name == "identity":
            kernel = identity_kernel(recipe.spec.out_chs, recipe.spec.groups)
            conv = Conv(kernel, None, 1, 1, recipe.spec.groups, evenly(0))
        elif branch.conv is None or branch.conv.weight.shape[2] != 1:
            return None
        else:
            conv = branch.conv
        weight = np.broadcast_to(conv.weight, (*conv.weight.shape[:2], 3, 3))
        dilation = recipe.spec.dilation
        return replace(
            branch, conv=replace(conv, weight=weight, dilation=dilation, pads=evenly(dilation))
        )

    return in_branches(recipe, change)


# --- Kernels --------------------------------------------------------------------------------------

OIHW = "OIHW"


def read_as(weight: Array, layout: str) -> Array:
    """Return the kernel that comes of OIHW bytes when they are taken for another layout."""
    sizes = dict(zip(OIHW, weight.shape, strict=True))
    bytes_as = weight.reshape([sizes[axis] for axis in layout])
    return bytes_as.transpose([layout.index(axis) for axis in OIHW])


def written_as(weight: Array, layout: str) -> Array:
    """Return the kernel that comes of another layout's bytes when they are taken for OIHW."""
    return weight.transpose([OIHW.index(axis) for axis in layout]).reshape(weight.shape)


def dealt(y: Array, hands: int) -> Array:
    """Channels dealt to so many hands: 0, hands, 2·hands …, then 1, 1 + hands, …"""
    n, c, *rest = y.shape
    return y.reshape(n, c // hands, hands, *rest).swapaxes(1, 2).reshape(y.shape)


def last_group_first(y: Array, groups: int) -> Array:
    """Channels (N, C, …) with their groups in the reverse order."""
    n, c, *rest = y.shape
    return y.reshape(n, groups, c // groups, *rest)[:, ::-1].reshape(y.shape)


def own_columns(weight: Array, groups: int) -> Array:
    """Of a dense kernel, the blocks on the diagonal: (K, C, R, S) → (K, C/G, R, S)."""
    k, c = weight.shape[:2]
    blocks = weight.reshape(groups, k // groups, groups, c // groups, *weight.shape[2:])
    return np.concatenate([blocks[g, :, g] for g in range(groups)])


def first_columns(weight: Array, groups: int) -> Array:
    """Of a dense kernel, the first C/G input channels."""
    return np.ascontiguousarray(weight[:, : weight.shape[1] // groups])


def with_identity(recipe: Recipe, what: str, kernel: Array) -> Iterator[tuple[str, Recipe]]:
    """Return the recipe with this 1×1 kernel in the identity branch."""
    for branch in recipe.branches:
        if branch.name == "identity":
            conv = Conv(kernel, None, 1, 1, recipe.spec.groups, evenly(0))
            yield what, with_branches(recipe, {"identity": replace(branch, conv=conv)})


def moved(branch: Branch, recipe: Recipe, row: int, column: int) -> Branch | None:
    """Let a 1×1 or identity branch read another pixel, so many taps from its own."""
    step = recipe.spec.dilation

    def shift(x: Array) -> Array:
        moved_map = np.zeros_like(x)
        H, W = x.shape[2:]
        to, fro = spans(row * step, H), spans(column * step, W)
        moved_map[:, :, to[0], fro[0]] = x[:, :, to[1], fro[1]]
        return moved_map

    if branch.name == "identity":
        kernel = identity_kernel(recipe.spec.out_chs, recipe.spec.groups)
        conv = Conv(kernel, None, 1, 1, recipe.spec.groups, evenly(0), before=shift)
        return replace(branch, conv=conv)
    if branch.conv is None or branch.conv.weight.shape[2] != 1:
        return None
    return replace(branch, conv=replace(branch.conv, before=shift))


def spans(offset: int, size: int) -> tuple[slice, slice]:
    """Where to write, and where to read: pixel i becomes pixel i + offset."""
    return (
        slice(max(0, -offset), size - max(0, offset)),
        slice(max(0, offset), size + min(0, offset)),
    )
