"""Mistakes about batch norms: their eps, their four vectors, and which statistics they use.

    y = (x − mean) · gamma / √(var + eps) + beta

Those of a fold, w' = w · t and b' = beta − mean · t with t = gamma / √(var + eps), are here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from npvgg import ops
from npvgg.ops import BN_EPS, Array
from npvgg.reparam import BatchNorm
from npvgg.testing.diagnosis.mistake import (
    BRANCHES,
    EVERY,
    Mistake,
    collector,
    in_convs,
    in_normalizing,
    in_norms,
    with_branches,
)
from npvgg.testing.diagnosis.recipe import Conv, Recipe, cast

NORMS: list[Mistake[Recipe]] = []
mistake = collector(NORMS)

USUAL_EPS = (1e-3, 0.0, 1e-6, 1e-4, 1e-2)
"""What other frameworks and papers have; Keras the first."""

OTHER_EPS = tuple(float(f"{n}e-{e}") for e in range(9) for n in (1, 2, 5))
"""A ladder, for every branch at once."""


def none_at_all(details: list[str]) -> list[str]:
    """Of an eps that is so small that the numbers can't tell it from none, say that it is none."""
    return [detail for detail in details if detail.startswith("missing in ")] or details


@mistake(
    "the batch norm's eps is {}; it is 1e-05",
    "give eps=1e-5 to every batch norm, and to the fold: it is PyTorch's default, while Keras and "
    "TensorFlow have 1e-3",
    none_at_all,
)
def batch_norm_eps(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Another eps, or none."""
    for eps in dict.fromkeys((*USUAL_EPS, *OTHER_EPS)):
        for where, wrong in in_norms(recipe, lambda bn, eps=eps: replace(bn, eps=eps)):  # type: ignore[misc]
            if eps != BN_EPS and (eps in USUAL_EPS or where == EVERY):
                yield f"{eps:g} in {where}" if eps else f"missing in {where}", wrong


@mistake(
    "the batch norm's eps is added to the standard deviation, not to the variance, in {}",
    "divide by sqrt(var + eps), not by sqrt(var) + eps",
)
def eps_outside_the_root(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """√var + eps."""

    def normalize(bn: BatchNorm, y: Array) -> Array:
        mean, var, gamma, beta = cast(bn, y.dtype)
        return scaled(y, mean, gamma / (np.sqrt(var) + y.dtype.type(bn.eps)), beta)

    yield from in_normalizing(recipe, normalize)


@mistake(
    "the batch norm divides by the variance, not by its root, in {}",
    "running_var is a variance: divide by sqrt(var + eps)",
)
def variance_for_standard_deviation(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """var + eps in place of its root."""

    def normalize(bn: BatchNorm, y: Array) -> Array:
        mean, var, gamma, beta = cast(bn, y.dtype)
        return scaled(y, mean, gamma / (var + y.dtype.type(bn.eps)), beta)

    yield from in_normalizing(recipe, normalize)


@mistake(
    "running mean and running variance are exchanged in {}",
    "running_mean is subtracted, and running_var stands under the root; check the order of the "
    "arguments (PyTorch: mean, var, weight, bias; cuDNN and ONNX: scale, bias, mean, var)",
)
def mean_and_variance_exchanged(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Mean under the root, its sign cut off, as NaNs would have told."""
    return in_norms(recipe, lambda bn: replace(bn, mean=bn.var, var=bn.mean))


@mistake(
    "gamma and beta (weight and bias) are exchanged in {}",
    "the batch norm's `weight` multiplies and its `bias` is added",
)
def gamma_and_beta_exchanged(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Multiply by beta, add gamma."""
    return in_norms(recipe, lambda bn: replace(bn, gamma=bn.beta, beta=bn.gamma))


@mistake(
    "gamma (the batch norm's weight) is missing in {}",
    "multiply by gamma; Keras calls it scale, and leaves it out for scale=False",
)
def gamma_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Take a gamma of one."""
    return in_norms(recipe, lambda bn: replace(bn, gamma=np.ones_like(bn.gamma)))


@mistake(
    "beta (the batch norm's bias) is missing in {}",
    "add beta; Keras calls it center, and leaves it out for center=False",
)
def beta_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Take a beta of zero."""
    return in_norms(recipe, lambda bn: replace(bn, beta=np.zeros_like(bn.beta)))


@mistake(
    "gamma and beta (the batch norm's weight and bias) are missing in {}",
    "the batch norms are affine: multiply by gamma and add beta",
)
def gamma_and_beta_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Take a gamma of one and a beta of zero."""
    return in_norms(
        recipe,
        lambda bn: replace(bn, gamma=np.ones_like(bn.gamma), beta=np.zeros_like(bn.beta)),
    )


@mistake(
    "the running mean is not subtracted in {}",
    "subtract running_mean; in a fold: b = beta - mean * gamma / sqrt(var + eps)",
)
def mean_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Take a mean of zero."""
    return in_norms(recipe, lambda bn: replace(bn, mean=np.zeros_like(bn.mean)))


@mistake(
    "the running mean is added, not subtracted, in {}",
    "mind the sign: in a fold, b = beta - mean * gamma / sqrt(var + eps)",
)
def mean_added(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Take the mean with the other sign."""
    return in_norms(recipe, lambda bn: replace(bn, mean=-bn.mean))


@mistake(
    "the running mean is subtracted from beta unscaled in {}",
    "fold as b = beta - mean * gamma / sqrt(var + eps): the mean is scaled as the kernel is",
)
def mean_unscaled(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """scale · y + beta − mean."""

    def normalize(bn: BatchNorm, y: Array) -> Array:
        mean, _, _, beta = cast(bn, y.dtype)
        return scaled(y, np.zeros_like(mean), factor(bn, y), beta - mean)

    yield from in_normalizing(recipe, normalize)


@mistake(
    "beta is scaled with the rest in {}",
    "add beta last, after the scale: (x - mean) * gamma / sqrt(var + eps) + beta",
)
def beta_scaled(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """scale · (y − mean + beta)."""

    def normalize(bn: BatchNorm, y: Array) -> Array:
        mean, _, _, beta = cast(bn, y.dtype)
        return scaled(y, mean - beta, factor(bn, y), np.zeros_like(beta))

    yield from in_normalizing(recipe, normalize)


@mistake(
    "the kernel is not scaled by gamma / sqrt(var + eps) in {}, though the bias is folded",
    "fold both: w' = w * gamma / sqrt(var + eps), b' = beta - mean * gamma / sqrt(var + eps)",
)
def kernel_unscaled(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """y + beta − scale · mean."""

    def normalize(bn: BatchNorm, y: Array) -> Array:
        mean, _, _, beta = cast(bn, y.dtype)
        shifted: Array = y + (beta - mean * factor(bn, y))[:, None, None]
        return shifted

    yield from in_normalizing(recipe, normalize)


@mistake(
    "the bias is {}",
    "a convolution folded with its batch norm has a bias, even where it had none before: "
    "b' = beta - mean * gamma / sqrt(var + eps)",
)
def bias_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """No bias, or one of another sign or twice; or batch norms that only scale."""

    def change(conv: Conv, factor: float) -> Conv | None:
        return None if conv.bias is None else replace(conv, bias=conv.bias * factor)

    for factor, what in ((0, "missing"), (-1, "subtracted"), (2, "added twice")):
        for where, wrong in in_convs(recipe, partial(change, factor=factor)):
            yield f"{what} in {where}", wrong
    for where, wrong in in_norms(
        recipe,
        lambda bn: replace(bn, mean=np.zeros_like(bn.mean), beta=np.zeros_like(bn.beta)),
    ):
        yield f"missing in {where}", wrong


@mistake(
    "the batch norm is missing in {}",
    "every branch has its batch norm, the identity branch as well: it is no plain skip connection",
)
def batch_norm_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Skip the batch norm."""
    return in_normalizing(recipe, lambda bn, y: y)


@mistake(
    "the batch norm uses the statistics of {}, not the running ones",
    "switch to inference (`model.eval()`, `training=False`): running_mean and running_var are used",
)
def batch_statistics(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Training mode: mean and variance of what is there, over the batch or over each image."""

    def over(axes: tuple[int, ...], bn: BatchNorm, y: Array) -> Array:
        _, _, gamma, beta = cast(bn, y.dtype)
        centred = y - y.mean(axis=axes, keepdims=True)
        var = (centred * centred).mean(axis=axes, keepdims=True)
        normal = centred / np.sqrt(var + y.dtype.type(bn.eps))
        answer: Array = normal * gamma[:, None, None] + beta[:, None, None]
        return answer

    for what, axes in (("the batch", (0, 2, 3)), ("each image", (2, 3))):
        for where, wrong in in_normalizing(
            recipe,
            lambda bn, y, axes=axes: over(axes, bn, y),  # type: ignore[misc]
        ):
            yield f"{what} in {where}", wrong


@mistake(
    "the batch norms of {} are exchanged",
    "each branch has a batch norm of its own: conv_kxk.bn, conv_1x1.bn, identity (rbr_dense.bn, "
    "rbr_1x1.bn, rbr_identity)",
)
def batch_norms_exchanged(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Two branches with each other's batch norm; or one used twice."""
    normed = [branch for branch in recipe.branches if branch.bn is not None]
    for index, a in enumerate(normed):
        for b in normed[index + 1 :]:
            both = {a.name: replace(a, bn=b.bn), b.name: replace(b, bn=a.bn)}
            yield f"{BRANCHES[a.name]} and {BRANCHES[b.name]}", with_branches(recipe, both)


@mistake(
    "the batch norm of {} as well",
    "each branch has a batch norm of its own: conv_kxk.bn, conv_1x1.bn, identity (rbr_dense.bn, "
    "rbr_1x1.bn, rbr_identity)",
)
def batch_norm_used_twice(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """One branch with the batch norm of another."""
    normed = [branch for branch in recipe.branches if branch.bn is not None]
    for a in normed:
        for b in normed:
            if a is not b:
                yield (
                    f"{BRANCHES[a.name]} is used in {BRANCHES[b.name]}",
                    with_branches(recipe, {b.name: replace(b, bn=a.bn)}),
                )


@mistake(
    "gamma and beta are those of {}",
    "each branch has a batch norm of its own, with its own gamma and beta, mean and variance",
)
def affine_of_another_branch(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """One branch with another's gamma and beta, or with its mean and variance."""
    normed = [branch for branch in recipe.branches if branch.bn is not None]
    for a in normed:
        for b in normed:
            if a is b or a.bn is None or b.bn is None:
                continue
            affine = replace(b.bn, gamma=a.bn.gamma, beta=a.bn.beta)
            where = f"{BRANCHES[a.name]} in {BRANCHES[b.name]}"
            yield where, with_branches(recipe, {b.name: replace(b, bn=affine)})
            statistics = replace(b.bn, mean=a.bn.mean, var=a.bn.var)
            yield (
                f"its own branch, but mean and variance are those of {where}",
                with_branches(recipe, {b.name: replace(b, bn=statistics)}),
            )


@mistake(
    "the batch norm {}",
    "divide by sqrt(var + eps), once",
)
def standard_deviation_misused(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Take the root twice, or multiply by the standard deviation."""

    def by_power(power: float, bn: BatchNorm, y: Array) -> Array:
        mean, var, gamma, beta = cast(bn, y.dtype)
        return scaled(y, mean, gamma * (var + y.dtype.type(bn.eps)) ** y.dtype.type(power), beta)

    for power, what in (
        (-0.25, "divides by the root of the standard deviation (the root is taken twice) in "),
        (0.5, "multiplies by the standard deviation, where it should divide, in "),
        (1.0, "multiplies by the variance, where it should divide by its root, in "),
    ):
        for where, wrong in in_normalizing(recipe, partial(by_power, power)):
            yield what + where, wrong


@mistake(
    "the batch norm {}",
    "switch to inference (`model.eval()`, `training=False`), and use running_mean and running_var "
    "as they are in the file",
)
def statistics_corrected(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Bessel's correction of the batch's variance; running statistics that move at inference."""

    def of_batch(y: Array, *, bessel: bool) -> tuple[Array, Array]:
        count = y.size // y.shape[1]
        mean = y.mean(axis=(0, 2, 3))
        centred = y - mean[:, None, None]
        return mean, (centred * centred).sum(axis=(0, 2, 3)) / max(count - bessel, 1)

    def unbiased(bn: BatchNorm, y: Array) -> Array:
        _, _, gamma, beta = cast(bn, y.dtype)
        mean, var = of_batch(y, bessel=True)
        return scaled(y, mean, gamma / np.sqrt(var + y.dtype.type(bn.eps)), beta)

    def corrected(bn: BatchNorm, y: Array) -> Array:
        mean, var, gamma, beta = cast(bn, y.dtype)
        count = y.size // y.shape[1]
        var = var * y.dtype.type(count / max(count - 1, 1))
        return scaled(y, mean, gamma / np.sqrt(var + y.dtype.type(bn.eps)), beta)

    def moved(momentum: float, bessel: bool, bn: BatchNorm, y: Array) -> Array:
        mean, var, gamma, beta = cast(bn, y.dtype)
        m, v = of_batch(y, bessel=bessel)
        part = y.dtype.type(momentum)
        mean, var = mean + part * (m - mean), var + part * (v - var)
        return scaled(y, mean, gamma / np.sqrt(var + y.dtype.type(bn.eps)), beta)

    changes: dict[str, Callable[[BatchNorm, Array], Array]] = {
        "uses the batch's statistics, with Bessel's correction, in ": unbiased,
        "applies Bessel's correction to the running variance in ": corrected,
    }
    for momentum in (0.1, 0.01, 0.9, 0.99):
        changes[f"moves its statistics by {momentum:g} towards the batch's first, in "] = partial(
            moved, momentum, True
        )
    changes["moves its statistics by 0.1 towards the batch's first, uncorrected, in "] = partial(
        moved, 0.1, False
    )
    for what, change in changes.items():
        for where, wrong in in_normalizing(recipe, change):
            yield what + where, wrong


def factor(bn: BatchNorm, y: Array) -> Array:
    """Gamma / √(var + eps), in the dtype of y."""
    _, var, gamma, _ = cast(bn, y.dtype)
    scale: Array = gamma / np.sqrt(var + y.dtype.type(bn.eps))
    return scale


def scaled(y: Array, mean: Array, scale: Array, beta: Array) -> Array:
    """(y − mean) · scale + beta, channel by channel."""
    return ops.batch_norm(y, mean, np.ones_like(mean), scale, beta, 0.0)
