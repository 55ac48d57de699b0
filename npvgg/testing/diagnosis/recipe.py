"""A block as somebody may have computed it: its steps as data, so that a mistake is a change of
data.

    block(x) = after( tail( Σ branches( before(x) ) ) + Σ late branches( x ) )

A `Recipe` is a block's operations (`trace`) gathered by branches, with places where a mistake can
be made; `recipe` makes it of them, and it holds nothing else. The operations themselves will not
do: a mistake puts steps where a list of operations has none (before the branches part, between a
convolution and its batch norm, behind the last step, after every one of them), a replay begins at
whatever tensor is given, and hundreds of them share what none of them changed. The catalogue
(`mistakes`) changes it. A `Replay` runs recipes on what is given, up to any named tensor, in
float32 or float64.

Tensors are named inside their block: "x" what it reads, "conv_kxk.conv", "conv_kxk.bn",
"conv_1x1.conv", "conv_1x1.bn", "identity", "sum" (deploy form: "reparam_conv"), "attn", "act", and
"" for the block's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from npvgg import ops
from npvgg.attention import attend
from npvgg.config import BlockSpec
from npvgg.errors import ArgumentError
from npvgg.network import Block
from npvgg.ops import Array
from npvgg.reparam import BatchNorm
from npvgg.testing.trace import Operation, attention_options, block_operations

Step: TypeAlias = Callable[[Array], Array]
Pads: TypeAlias = Callable[[int], tuple[int, int]]
"""How many zeros before and after a side of this length; a negative number cuts off."""


def same(x: Array) -> Array:
    """Leave it as it is."""
    return x


def evenly(padding: int) -> Pads:
    """As many zeros before as after."""
    return lambda size: (padding, padding)


@dataclass(frozen=True, eq=False)
class Conv:
    """One convolution, weight (K, C/G, R, S), and what may be done to its input and its output."""

    weight: Array
    bias: Array | None
    stride: int
    dilation: int
    groups: int
    pads: Pads
    pad_mode: str = "constant"
    pad_value: Array | None = None
    before: Step = same
    after: Step = same

    def __call__(self, x: Array) -> Array:
        """Compute in the dtype of x. Raises ArgumentError where kernel and map do not fit."""
        x = self.before(x)
        if self.pad_value is None:
            x = padded(x, self.pads, self.pad_mode)
        else:  # a number for each channel, or one
            value = self.pad_value.astype(x.dtype).reshape(1, -1, 1, 1)
            x = padded(x - value, self.pads) + value
        taps = max(self.weight.shape[2:])
        fits = x.shape[1] == self.weight.shape[1] * self.groups
        if not fits or min(x.shape[2:]) < self.dilation * (taps - 1) + 1:
            raise ArgumentError(
                f"x: expected a map for a kernel {self.weight.shape}, got {x.shape}"
            )
        bias = None if self.bias is None else self.bias.astype(x.dtype)
        return self.after(
            ops.conv2d(
                x,
                weight_in(self, x.dtype),
                bias,
                stride=self.stride,
                dilation=self.dilation,
                groups=self.groups,
            )
        )


def weight_in(conv: Conv, dtype: Any) -> Array:
    """Return the weight in this dtype. The copy in float32 is kept as long as the convolution
    lives.
    """
    if conv.weight.dtype == dtype:
        return conv.weight
    if conv not in _FLOAT32:
        _FLOAT32[conv] = conv.weight.astype(np.float32)
    return _FLOAT32[conv].astype(dtype, copy=False)


_FLOAT32: WeakKeyDictionary[Conv, Array] = WeakKeyDictionary()


def padded(x: Array, pads: Pads, mode: Any = "constant") -> Array:
    """Widen, or cut, rows and columns:  (N, C, H, W) → (N, C, before + H + after, …)."""
    margins = [pads(size) for size in x.shape[2:]]
    low = [max(0, -before) for before, _ in margins]
    high = [size + min(0, after) for size, (_, after) in zip(x.shape[2:], margins, strict=True)]
    x = x[:, :, low[0] : high[0], low[1] : high[1]]
    width = [(max(0, before), max(0, after)) for before, after in margins]
    return np.pad(x, ((0, 0), (0, 0), *width), mode=mode) if np.any(width) else x


def by_running_statistics(bn: BatchNorm, y: Array) -> Array:
    """Return what a batch norm is at inference."""
    return ops.batch_norm(y, *cast(bn, y.dtype), bn.eps)


def cast(bn: BatchNorm, dtype: Any) -> tuple[Array, Array, Array, Array]:
    """Mean, var, gamma, beta in this dtype."""
    mean, var, gamma, beta = (a.astype(dtype) for a in (bn.mean, bn.var, bn.gamma, bn.beta))
    return mean, var, gamma, beta


@dataclass(frozen=True, eq=False)
class Branch:
    """One way through a block: a convolution, a batch norm, or both."""

    name: str
    conv: Conv | None
    bn: BatchNorm | None
    normalize: Callable[[BatchNorm, Array], Array] = by_running_statistics

    @property
    def output(self) -> str:
        """The name of the branch's tensor after its batch norm."""
        return {"identity": "identity", "reparam_conv": "sum"}.get(self.name, f"{self.name}.bn")


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention layer with its weights and options."""

    layer: str
    weights: Mapping[str, Array]
    options: Mapping[str, Any]

    def __call__(self, y: Array) -> Array:
        """Scale a map by its gates, in the dtype of y."""
        weights = {name: array.astype(y.dtype) for name, array in self.weights.items()}
        return attend(y, self.layer, weights, self.options)


def add(outputs: list[Array]) -> Array:
    """Return the sum of the branches."""
    y: Array = sum(outputs[1:], outputs[0])
    return y


@dataclass(frozen=True, eq=False)
class Recipe:
    """All steps of a block.

    tail: attention ("attn") and activation ("act") in the block's order
    late: branches that are added after the tail; only a mistake has them
    store: what happens to every result before the next step reads it (rounding)
    """

    spec: BlockSpec
    branches: tuple[Branch, ...]
    tail: tuple[tuple[str, Step], ...]
    before: Step = same
    combine: Callable[[list[Array]], Array] = add
    late: tuple[Branch, ...] = ()
    after: Step = same
    store: Step = same


def recipe(block: Block) -> Recipe:
    """Return the right recipe of a block in train or deploy form: its operations, by branches."""
    branches: dict[str, Branch] = {}
    tail: list[tuple[str, Step]] = []
    for o in block_operations(block):
        name = o.name.removeprefix(f"{o.block}.").partition(".")[0]
        branch = branches.get(name, Branch(name, None, None))
        match o.op:
            case "conv":
                branches[name] = replace(branch, conv=conv_of(o))
            case "batch_norm":
                branches[name] = replace(branch, bn=norm_of(o))
            case "activation":
                tail.append(("act", ops.activation(o.parameters["function"])))
            case "attention":
                options = attention_options(o.parameters)
                tail.append(("attn", Attention(o.parameters["layer"], o.weights, options)))
    return Recipe(block.spec, tuple(branches.values()), tuple(tail))


def conv_of(o: Operation) -> Conv:
    """Return the convolution of an operation."""
    stride, padding, dilation, groups = (
        o.parameters[name] for name in ("stride", "padding", "dilation", "groups")
    )
    weight, bias = o.weights["weight"], o.weights.get("bias")
    return Conv(weight, bias, stride, dilation, groups, evenly(padding))


def norm_of(o: Operation) -> BatchNorm:
    """Return the batch norm of an operation."""
    gamma, beta, mean, var = (
        o.weights[name] for name in ("weight", "bias", "running_mean", "running_var")
    )
    return BatchNorm(gamma, beta, mean, var, o.parameters["eps"])


class Replay:
    """Runs recipes on given tensors (name inside the block → array), in one floating-point type.

    What recipes share, a branch or a convolution that a mistake left as it was, is computed once.
    """

    def __init__(self, given: Mapping[str, Array], dtype: Any) -> None:
        self.given = {name: array.astype(dtype) for name, array in given.items()}
        self._kept: WeakKeyDictionary[Branch | Conv, Array] = WeakKeyDictionary()

    def __call__(self, recipe: Recipe, target: str) -> Array:
        """Return the tensor of this name. Raises ArgumentError where the recipe does not come to
        it.
        """
        target = "sum" if target == "reparam_conv" else target
        for branch in recipe.branches:
            if branch.conv is not None and target == f"{branch.name}.conv":
                return recipe.after(self._convolve(recipe, branch.conv))
            if target == branch.output:
                return recipe.after(self._branch(recipe, branch))
        if target == "sum":
            return recipe.after(self._sum(recipe))
        steps = [name for name, _ in recipe.tail]
        if target in steps:
            return recipe.after(self._tail(recipe, steps.index(target) + 1))
        if target:
            raise ArgumentError(f"target: expected a tensor of the recipe, got {target!r}")
        late = [self._branch(recipe, branch) for branch in recipe.late]
        return recipe.after(add_fitting([self._tail(recipe, len(steps)), *late], add))

    def _tail(self, recipe: Recipe, steps: int) -> Array:
        if not steps:
            return self._sum(recipe)
        name, step = recipe.tail[steps - 1]
        if name in self.given:
            return self.given[name]
        return recipe.store(step(self._tail(recipe, steps - 1)))

    def _sum(self, recipe: Recipe) -> Array:
        if "sum" in self.given:
            return self.given["sum"]
        outputs = [self._branch(recipe, branch) for branch in recipe.branches]
        return recipe.store(add_fitting(outputs, recipe.combine))

    def _branch(self, recipe: Recipe, branch: Branch) -> Array:
        if branch.output in self.given:
            return self.given[branch.output]
        if plain(recipe) and branch in self._kept:
            return self._kept[branch]
        if branch.conv is None:
            y = recipe.store(recipe.before(self.given["x"]))
        else:
            y = self._convolve(recipe, branch.conv, branch.name)
        if branch.bn is not None:
            y = recipe.store(branch.normalize(branch.bn, y))
        if plain(recipe):
            self._kept[branch] = y
        return y

    def _convolve(self, recipe: Recipe, conv: Conv, name: str = "") -> Array:
        if f"{name}.conv" in self.given:
            return self.given[f"{name}.conv"]
        if plain(recipe) and conv in self._kept:
            return self._kept[conv]
        y = recipe.store(conv(recipe.store(recipe.before(self.given["x"]))))
        if plain(recipe):
            self._kept[conv] = y
        return y


def plain(recipe: Recipe) -> bool:
    """Whether nothing is done to what the branches read and give."""
    return recipe.before is same and recipe.store is same


def add_fitting(outputs: list[Array], combine: Callable[[list[Array]], Array]) -> Array:
    """Combine maps of one shape. Raises ArgumentError for several: NumPy might stretch them."""
    shapes = {y.shape for y in outputs}
    if len(shapes) > 1:
        raise ArgumentError(f"branches: expected maps of one shape, got {sorted(shapes)}")
    return combine(outputs)
