"""Mistakes about blocks: a branch left out, an activation or an attention layer out of place.

    block(x) = act(attn(3×3 + 1×1 + identity))

RepVGGplus: attn(act(…)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from npvgg import ops
from npvgg.ops import Array
from npvgg.reparam import identity_kernel
from npvgg.testing.diagnosis.mistake import BRANCHES, Mistake, collector, without
from npvgg.testing.diagnosis.recipe import (
    Attention,
    Branch,
    Conv,
    Recipe,
    Replay,
    Step,
    evenly,
    same,
)

BLOCKS: list[Mistake[Recipe]] = []
mistake = collector(BLOCKS)


@mistake(
    "{} is missing",
    "a block in train form is 3×3 + 1×1 + identity, each with its batch norm; the identity is left "
    "out only where stride, channels or dilation change. Or fold the block first",
)
def branch_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """One branch is not added; or only one is there."""
    names = [branch.name for branch in recipe.branches]
    if len(names) > 1:
        for name in names:
            yield BRANCHES[name], without(recipe, name)
    if len(names) > 2:
        for name in names:
            only = tuple(branch for branch in recipe.branches if branch.name == name)
            yield f"all but {BRANCHES[name]}", replace(recipe, branches=only)


@mistake(
    "{} is added twice",
    "every branch is added once",
)
def branch_twice(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """One branch counts double."""
    if len(recipe.branches) > 1:
        for branch in recipe.branches:
            yield BRANCHES[branch.name], replace(recipe, branches=(*recipe.branches, branch))


@mistake(
    "there is a skip connection around the block, which RepVGG does not have",
    "the only skip connection of a block is its identity branch, which has a batch norm",
)
def skip_connection(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """X itself is added before or after the activation."""
    plain = Branch("skip", None, None)
    if recipe.spec.in_chs == recipe.spec.out_chs and recipe.spec.stride == 1:
        yield "", replace(recipe, branches=(*recipe.branches, plain))
        yield "", replace(recipe, late=(plain,))


@mistake(
    "there is an identity branch in a block that changes size: {}",
    "a block whose stride is 2, or whose channels change, has no identity branch",
)
def identity_at_a_change_of_size(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Every other pixel, or means of four, added; channels that are lacking are zeros."""
    spec = recipe.spec
    if any(branch.name == "identity" for branch in recipe.branches):
        return
    if spec.stride == 1 and spec.in_chs == spec.out_chs:
        return

    def fitted(x: Array, mean: bool) -> Array:
        if spec.stride == 2 and mean:
            wide = np.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2)))
            n, c, h, w = wide.shape
            x = wide.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))
        elif spec.stride == 2:
            x = x[:, :, ::2, ::2]
        lacking = max(0, spec.out_chs - x.shape[1])
        return np.pad(x[:, : spec.out_chs], ((0, 0), (0, lacking), (0, 0), (0, 0)))

    for mean, what in ((False, "every other pixel of its input"), (True, "means of 2×2 pixels")):
        if spec.stride == 2 or not mean:
            resized = Conv(
                identity_kernel(spec.out_chs, 1), None, 1, 1, 1, evenly(0),
                before=partial(fitted, mean=mean),
            )  # fmt: skip
            shortcut = Branch("shortcut", resized, None)
            yield (
                f"{what}, added before the activation",
                replace(recipe, branches=(*recipe.branches, shortcut)),
            )
            yield f"{what}, added after the activation", replace(recipe, late=(shortcut,))


@mistake(
    "the block is {}",
    "every block of the list is run once, in order",
)
def block_repeated(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Run twice, or left out; where its input and output have one shape."""
    spec = recipe.spec
    if spec.stride == 1 and spec.in_chs == spec.out_chs:

        def again(y: Array) -> Array:
            return Replay({"x": y}, y.dtype)(recipe, "")

        yield "run twice", replace(recipe, after=again)
        nothing = Branch("skip", None, None)
        yield "left out", replace(recipe, branches=(nothing,), tail=())


@mistake(
    "the branches are {}",
    "the branches are added up, nothing else",
)
def branches_not_added(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Averaged, multiplied, or the largest of them."""
    if len(recipe.branches) > 1:
        count = len(recipe.branches)
        yield "averaged", replace(recipe, combine=lambda ys: sum(ys[1:], ys[0]) / count)
        yield "multiplied", replace(recipe, combine=lambda ys: np.prod(ys, axis=0))
        yield "compared, and the largest taken", replace(recipe, combine=np.maximum.reduce)


@mistake(
    "the identity branch is added after {}",
    "all branches are added before attention and activation",
)
def identity_after_the_activation(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Add the identity after the activation instead of before it."""
    for branch in recipe.branches:
        if branch.name == "identity":
            yield "the activation", replace(without(recipe, "identity"), late=(branch,))


# --- Activation -----------------------------------------------------------------------------------


@mistake(
    "the activation comes before the sum: in {}",
    "add the branches first; there is one activation per block, after the sum",
)
def activation_before_the_sum(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """act(3×3) + act(1×1) + act(identity), with and without the activation after the sum."""
    act = ops.activation(recipe.spec.act_layer)
    names = [branch.name for branch in recipe.branches]
    choices = [("every branch", names)] + [(BRANCHES[name], [name]) for name in names]
    if "identity" in names:
        choices.insert(1, ("both convolutions' branches", ["conv_kxk", "conv_1x1"]))
    if len(names) > 1:
        for what, chosen in choices:
            wrong = replace(recipe, combine=partial(add_activated, act, names, chosen))
            yield what, wrong
            yield f"{what}, and not after it", replace(wrong, tail=without_step(recipe, "act"))


def add_activated(act: Step, names: list[str], chosen: list[str], ys: list[Array]) -> Array:
    """Sum the branches, the chosen ones after an activation."""
    terms = [act(y) if name in chosen else y for name, y in zip(names, ys, strict=True)]
    total: Array = sum(terms[1:], terms[0])
    return total


@mistake(
    "the activation is {}",
    "every block ends with its activation, the last one as well (before or after its attention)",
)
def activation_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Give what comes before the activation."""
    missing = replace(recipe, tail=without_step(recipe, "act"))
    yield "missing", missing
    act = ops.activation(recipe.spec.act_layer)
    yield "applied to what the block reads, not to its output", replace(missing, before=act)


@mistake(
    "the activation is applied {}",
    "one activation per block, after the sum of the branches",
)
def activation_doubled(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Twice (seen of those that are not like ReLU), or to what the block reads as well."""
    act = ops.activation(recipe.spec.act_layer)
    yield "twice", replace(recipe, tail=(*recipe.tail, ("act again", act)))
    yield "to what the block reads as well", replace(recipe, before=act)


@mistake(
    "the activation is {}",
    "take the network's own activation; see act_layer in its configuration",
)
def another_activation(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Every one that is known, and leaky ReLUs of other slopes."""
    right = recipe.spec.act_layer
    others: dict[str, Step] = {
        name.replace("_", " "): act.formula
        for name, act in ops.ACTIVATIONS.items()
        if name != right
    }
    for slope in (0.1, 0.2, 0.3):
        others[f"leaky relu with slope {slope:g}"] = partial(leaky, slope)
    others["the absolute value"] = np.abs
    for name, act in others.items():
        steps = tuple((step, act if step == "act" else f) for step, f in recipe.tail)
        if name not in ("identity", "swish"):
            yield f"{name}, not {right.replace('_', ' ')}", replace(recipe, tail=steps)


def leaky(slope: float, x: Array) -> Array:
    """x where x > 0, else slope · x."""
    return np.where(x > 0, x, slope * x)


# --- Attention ------------------------------------------------------------------------------------


@mistake(
    "the attention is on the wrong side of the activation: it comes {}",
    "timm and RepVGG D2se: act(attn(y)); RepVGGplus: attn(act(y)); see attn_after_act",
)
def attention_on_the_wrong_side(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Attention and activation change places."""
    if len(recipe.tail) == 2:
        side = "before it" if recipe.spec.attn_after_act else "after it"
        yield side, replace(recipe, tail=recipe.tail[::-1])
        act = ("act again", ops.activation(recipe.spec.act_layer))
        yield "between two activations", replace(recipe, tail=(act, *recipe.tail, act))


@mistake(
    "the attention is missing",
    "this network has an attention layer in every block",
)
def attention_missing(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Give the activation alone."""
    if recipe.spec.attn_layer is not None:
        yield "", replace(recipe, tail=without_step(recipe, "attn"))


@mistake(
    "inside the attention, {}",
    "squeeze-excite has ReLU between its two convolutions and a sigmoid after them; effective "
    "squeeze-excite has a hard sigmoid, min(max(x + 3, 0), 6) / 6",
)
def attention_activations(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Another hidden activation, or another gate."""
    layer = recipe.spec.attn_layer
    if layer is None:
        return
    for option, what in (("act_layer", "the hidden activation"), ("gate_layer", "the gate")):
        if option == "act_layer" and layer != "se":
            continue
        usual = {"act_layer": "relu", "gate_layer": "hard_sigmoid" if layer == "ese" else "sigmoid"}
        right = recipe.spec.attn_kwargs.get(option, usual[option])
        for name in [name for name in ops.ACTIVATIONS if name != right]:
            said = "missing" if name == "identity" else name.replace("_", " ")
            yield (
                f"{what} is {said}",
                with_attention(recipe, lambda a, o=option, n=name: with_option(a, o, n)),  # type: ignore[misc]
            )


@mistake(
    "inside the attention, the gate is {}",
    "PyTorch's hard sigmoid is min(max(x + 3, 0), 6) / 6; Keras's was min(max(0.2·x + 0.5, 0), 1), "
    "and squeeze-excite has neither, but a sigmoid",
)
def gate_of_another_framework(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Keras's hard sigmoid, and a tanh that is moved to 0 … 1."""
    gates: dict[str, Step] = {
        "Keras's hard sigmoid": lambda y: np.clip(y * y.dtype.type(0.2) + y.dtype.type(0.5), 0, 1),
        "a tanh moved to 0 … 1": lambda y: (np.tanh(y) + 1) / 2,
        "a softmax over the channels": lambda y: softmax_of_channels(y),
    }
    if recipe.spec.attn_layer in ("se", "ese"):
        for what, gate in gates.items():
            yield what, with_attention(recipe, lambda a, gate=gate: partial(gated, a, gate))  # type: ignore[misc]


def softmax_of_channels(y: Array) -> Array:
    """Softmax over axis 1."""
    e = np.exp(y - y.max(axis=1, keepdims=True))
    shares: Array = e / e.sum(axis=1, keepdims=True)
    return shares


def gated(attention: Attention, gate: Step, y: Array) -> Array:
    """Squeeze-excite, effective or not, with a gate of one's own."""
    w = {name: array.astype(y.dtype) for name, array in attention.weights.items()}
    squeezed = mean_of(y)
    if attention.layer == "se":
        hidden = ops.conv2d(squeezed, w["fc1.weight"], w.get("fc1.bias"))
        hidden = ops.activation(attention.options.get("act_layer", "relu"))(hidden)
        return y * gate(ops.conv2d(hidden, w["fc2.weight"], w.get("fc2.bias")))
    return y * gate(ops.conv2d(squeezed, w["fc.weight"], w["fc.bias"]))


@mistake(
    "the attention's weights are wrong: {}",
    "fc1 (down) has shape (hidden, K, 1, 1), fc2 (up) has (K, hidden, 1, 1), and both have biases",
)
def attention_weights(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Leave out a bias, or read a matrix column by column."""

    def change(attention: Attention, name: str, new: Callable[[Array], Array]) -> Attention:
        weights = attention.weights
        return replace(attention, weights={**weights, name: new(weights[name])})

    for name, array in attention_of(recipe).items():
        if name.endswith(".bias"):
            yield (
                f"{name} is missing",
                with_attention(recipe, partial(change, name=name, new=np.zeros_like)),
            )
        elif array.ndim == 4 and array.shape[2:] == (1, 1):
            yield (
                f"{name} is transposed",
                with_attention(recipe, partial(change, name=name, new=transposed)),
            )
    biases = {n: a for n, a in attention_of(recipe).items() if n.endswith(".bias")}
    if len(biases) > 1:
        none = {name: np.zeros_like(array) for name, array in biases.items()}
        yield (
            "all biases are missing",
            with_attention(recipe, lambda a: replace(a, weights={**a.weights, **none})),
        )


@mistake(
    "the attention {}",
    "squeeze-excite squeezes by the mean over all pixels of the map that it scales, and multiplies",
)
def attention_applied_wrongly(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Squeezed by another number, or its gates added."""
    if recipe.spec.attn_layer not in ("se", "ese", "eca", "ceca"):
        return  # the others see more of the map than its mean
    uses: dict[str, Callable[[Array, Array], Array]] = {
        "adds its gates, where it should multiply": lambda y, gates: y + gates,
        "is added to its input, as a residual": lambda y, gates: y + y * gates,
        "gives its gates alone": lambda y, gates: 0 * y + gates,
    }
    for what, use in uses.items():
        yield what, with_attention(recipe, lambda f, use=use: partial(regated, f, use, mean_of))  # type: ignore[misc]
    squeezes: dict[str, Step] = {
        "squeezes by the maximum, not by the mean": lambda y: y.max(axis=(2, 3), keepdims=True),
        "squeezes by the sum, not by the mean": lambda y: y.sum(axis=(2, 3), keepdims=True),
        "squeezes over the whole batch": lambda y: y.mean(axis=(0, 2, 3), keepdims=True),
        "squeezes by half the sum of mean and maximum": lambda y: (
            0.5 * (mean_of(y) + y.max(axis=(2, 3), keepdims=True))
        ),
    }
    for what, squeeze in squeezes.items():
        yield what, with_attention(recipe, lambda f, s=squeeze: partial(regated, f, np.multiply, s))  # type: ignore[misc]


# --- Parts ----------------------------------------------------------------------------------------


def without_step(recipe: Recipe, name: str) -> tuple[tuple[str, Step], ...]:
    """Return the tail without one of its steps; that still has its name, and does nothing."""
    return tuple((step, same if step == name else f) for step, f in recipe.tail)


def attention_of(recipe: Recipe) -> dict[str, Array]:
    """Return the weights of the attention layer, if there is one."""
    for _, step in recipe.tail:
        if isinstance(step, Attention):
            return dict(step.weights)
    return {}


def with_attention(recipe: Recipe, change: Callable[[Attention], Step]) -> Recipe:
    """Return the recipe with another attention layer."""
    tail = tuple(
        (name, change(step) if isinstance(step, Attention) else step) for name, step in recipe.tail
    )
    return replace(recipe, tail=tail)


def with_option(attention: Attention, option: str, value: str) -> Attention:
    """Return the attention layer with another option."""
    return replace(attention, options={**attention.options, option: value})


def transposed(weight: Array) -> Array:
    """Return a matrix whose bytes are read in the other order: (K, C, 1, 1) as (C, K)ᵀ."""
    k, c = weight.shape[:2]
    return weight.reshape(c, k).T.reshape(weight.shape)


def mean_of(y: Array) -> Array:
    """Return the mean over the pixels, (N, K, 1, 1)."""
    mean: Array = y.mean(axis=(2, 3), keepdims=True)
    return mean


def regated(
    attention: Step, use: Callable[[Array, Array], Array], squeeze: Step, y: Array
) -> Array:
    """Use the gates that an attention layer gives for another number per channel.

    Its gates follow from the mean alone, so two pixels, one above the number and one below, show
    them:  gate = (attention(number + 1) − attention(number − 1)) / 2
    """
    pair = np.array([1, -1], y.dtype)
    answer = attention(squeeze(y) + pair)
    return use(y, (answer[..., :1] - answer[..., 1:]) / 2)
