"""Errors through activations and attention layers.

An activation f multiplies an error by at most its Lipschitz constant sup |f′|, which stands in
`ops.ACTIVATIONS`, and adds its own roundings. An attention layer multiplies a map by a gate that it
computes from the map: both err,

    |x̂·ĝ − x·g| ≤ |g|·e_x + (|x| + e_x)·e_g + roundings

and the errors of the gate are followed through the layer's own pooling, convolutions and
activations. All of it holds for each `Rule`; y, x, g: float64, the truth; e: its error, ≥ 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from npvgg.ops import ACTIVATIONS, BN_EPS, Array
from npvgg.testing import steady
from npvgg.testing.bounds.rounding import FLOOR, Rule

SMOOTH_ROUNDINGS = 8
"""Of an activation that takes an exponential, in units of 1 + |x| + |y|: 1 + erf(x/√2) and e^x − 1
cancel, so their error does not shrink with them."""


class Ball(NamedTuple):
    """A tensor and how far a correct implementation may be from it."""

    y: Array
    error: Array


def activate(x: Ball, name: str, rule: Rule) -> Ball:
    """Errors through an activation.

    A ReLU is exact, and cuts off the error where even x + e is below zero.
    """
    y = steady.activation(name)(x.y)
    error = ACTIVATIONS[name].lipschitz * x.error
    if name == "relu":
        return Ball(y, np.where(x.y + x.error > 0, error, 0.0))
    if name == "identity":
        return x
    own = rule.grow(SMOOTH_ROUNDINGS) * (1 + np.abs(x.y) + np.abs(y))
    return Ball(y, rule.join(error, own))


def attend(
    x: Ball, layer: str, weights: Mapping[str, Array], options: Mapping[str, Any], rule: Rule
) -> Ball:
    """Errors through an attention layer."""
    return LAYERS[layer](x, weights, options, rule)


def multiply(x: Ball, g: Ball, rule: Rule) -> Ball:
    """x·g, each with its error, and one rounding."""
    own = (np.abs(x.y) + x.error) * g.error + rule.grow(1) * (np.abs(x.y * g.y) + FLOOR)
    return Ball(x.y * g.y, rule.join(np.abs(g.y) * x.error, own))


def average(x: Ball, axis: tuple[int, ...], rule: Rule) -> Ball:
    """Return the mean over axes, which stay as ones.

    By either rule the errors of what is averaged add up plainly: neighbours on a smooth map make
    the same roundings, and would not cancel.
    """
    n = int(np.prod([x.y.shape[a] for a in axis]))
    mass = steady.mean(np.abs(x.y) + x.error, axis)
    error = steady.mean(x.error, axis) + rule.grow(n + 1) * (mass + FLOOR)
    return Ball(steady.mean(x.y, axis), error)


def largest(x: Ball, axis: tuple[int, ...]) -> Ball:
    """Return the maximum over axes, which stay as ones: as far off as the worst of its numbers."""
    return Ball(x.y.max(axis, keepdims=True), x.error.max(axis, keepdims=True))


def pool(x: Ball, kind: str, rule: Rule) -> Array:
    """Return the errors of the pooled vector, (N, K)."""
    mean, maximum = average(x, (2, 3), rule), largest(x, (2, 3))
    errors = {
        "avg": mean.error, "max": maximum.error, "avgmax": half_sum(mean, maximum, rule).error,
        "catavgmax": np.concatenate([mean.error, maximum.error], axis=1),
    }  # fmt: skip
    return errors[kind][:, :, 0, 0]


def half_sum(a: Ball, b: Ball, rule: Rule) -> Ball:
    """Return (a + b) / 2."""
    mass = 0.5 * (np.abs(a.y) + np.abs(b.y) + a.error + b.error)
    error = 0.5 * (a.error + b.error) + rule.grow(2) * (mass + FLOOR)
    return Ball(0.5 * (a.y + b.y), error)


def convolve(x: Ball, weight: Array, bias: Array | None, rule: Rule, **how: Any) -> Ball:
    """Errors through a convolution: x ∗ w + b."""
    y = steady.conv2d(x.y, weight, bias, **how)
    n = weight[0].size + (bias is not None)
    size = None if bias is None else np.abs(bias)
    mass = steady.conv2d(np.abs(x.y) + x.error, np.abs(weight), size, **how)
    own = rule.grow(n) * (mass + FLOOR)
    return Ball(y, rule.join(rule.carry(x.error, weight, **how), own))


# --- The layers, as in npvgg.attention ------------------------------------------------------------


def _se(x: Ball, w: Mapping[str, Array], options: Mapping[str, Any], rule: Rule) -> Ball:
    squeezed = _squeeze(x, rule, maximum=options.get("add_maxpool", False))
    hidden = convolve(squeezed, w["fc1.weight"], w.get("fc1.bias"), rule)
    hidden = activate(hidden, options.get("act_layer", "relu"), rule)
    gate = convolve(hidden, w["fc2.weight"], w.get("fc2.bias"), rule)
    return multiply(x, activate(gate, options.get("gate_layer", "sigmoid"), rule), rule)


def _ese(x: Ball, w: Mapping[str, Array], options: Mapping[str, Any], rule: Rule) -> Ball:
    squeezed = _squeeze(x, rule, maximum=options.get("add_maxpool", False))
    gate = convolve(squeezed, w["fc.weight"], w["fc.bias"], rule)
    return multiply(x, activate(gate, options.get("gate_layer", "hard_sigmoid"), rule), rule)


def _eca(
    x: Ball, w: Mapping[str, Array], options: Mapping[str, Any], rule: Rule, mode: Any = "constant"
) -> Ball:
    rows = Ball(*(a[:, None, None, :, 0, 0] for a in average(x, (2, 3), rule)))  # (N, 1, 1, C)
    kernel, bias = w["conv.weight"][:, :, None], None  # (1, 1, 1, L)
    if "conv2.weight" in w:
        rows = convolve(rows, kernel, w["conv.bias"], rule)
        rows = activate(rows, options.get("act_layer") or "relu", rule)  # (N, hidden, 1, C)
        kernel, bias = w["conv2.weight"][:, :, None], w["conv2.bias"]
    margins = ((0, 0), (0, 0), (0, 0), (kernel.shape[-1] // 2,) * 2)
    mixed = convolve(Ball(*(np.pad(a, margins, mode) for a in rows)), kernel, bias, rule)
    gate = Ball(*(a[:, 0, 0, :, None, None] for a in mixed))
    return multiply(x, activate(gate, options.get("gate_layer", "sigmoid"), rule), rule)


def _ceca(x: Ball, w: Mapping[str, Array], options: Mapping[str, Any], rule: Rule) -> Ball:
    return _eca(x, w, options, rule, mode="wrap")


def _cbam(x: Ball, w: Mapping[str, Array], options: Mapping[str, Any], rule: Rule) -> Ball:
    act = options.get("gate_layer", "sigmoid")
    a, b = (_bottleneck(p, w, rule) for p in (average(x, (2, 3), rule), largest(x, (2, 3))))
    double = half_sum(a, b, rule)
    x = multiply(x, activate(Ball(2 * double.y, 2 * double.error), act, rule), rule)
    maps = [average(x, (1,), rule), largest(x, (1,))]
    both = Ball(*(np.concatenate(parts, axis=1) for parts in zip(*maps, strict=True)))
    return multiply(x, activate(_spatial(both, w, rule), act, rule), rule)


def _lcbam(x: Ball, w: Mapping[str, Array], options: Mapping[str, Any], rule: Rule) -> Ball:
    channel = _bottleneck(_squeeze(x, rule, maximum=True), w, rule)
    x = multiply(x, activate(channel, "sigmoid", rule), rule)
    maps = half_sum(average(x, (1,), rule), largest(x, (1,)), rule)
    return multiply(x, activate(_spatial(maps, w, rule), "sigmoid", rule), rule)


def _squeeze(x: Ball, rule: Rule, *, maximum: bool) -> Ball:
    means = average(x, (2, 3), rule)
    return half_sum(means, largest(x, (2, 3)), rule) if maximum else means


def _bottleneck(pooled: Ball, w: Mapping[str, Array], rule: Rule) -> Ball:
    hidden = convolve(pooled, w["channel.fc1.weight"], w.get("channel.fc1.bias"), rule)
    hidden = activate(hidden, "relu", rule)
    return convolve(hidden, w["channel.fc2.weight"], w.get("channel.fc2.bias"), rule)


def _spatial(maps: Ball, w: Mapping[str, Array], rule: Rule) -> Ball:
    kernel = w["spatial.conv.conv.weight"]
    y = convolve(maps, kernel, None, rule, padding=kernel.shape[-1] // 2)
    mean, var, gamma, beta = (
        w[f"spatial.conv.bn.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
    )
    return normalize(y, mean, var, gamma, beta, BN_EPS, rule)


BN_ROUNDINGS = 8
"""At most so many on the way of any term, in any of the usual forms: (x − mean)·t + beta,
x·t + (beta − mean·t), (x − mean)/√(var + eps)·gamma + beta; t takes five: eps, +, √, ÷, ×."""


def normalize(
    x: Ball, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, rule: Rule
) -> Ball:
    """Errors through a batch norm."""
    y = steady.batch_norm(x.y, mean, var, gamma, beta, eps)
    t = np.abs(gamma / np.sqrt(var + eps))[:, None, None]
    mass = t * (np.abs(x.y) + x.error + np.abs(mean)[:, None, None]) + np.abs(beta)[:, None, None]
    return Ball(y, rule.join(t * x.error, rule.grow(BN_ROUNDINGS) * (mass + FLOOR)))


LAYERS: dict[str, Callable[[Ball, Mapping[str, Array], Mapping[str, Any], Rule], Ball]] = {
    "se": _se, "ese": _ese, "eca": _eca, "ecam": _eca, "ceca": _ceca, "cbam": _cbam,
    "lcbam": _lcbam,
}  # fmt: skip
