"""Float64 arithmetic whose bits are the same on every machine.

A matrix product by BLAS adds in an order of its own, another on every processor, and the last bit
of a float64 shows it; one in some 10⁷ of them shows it in float32, too. Here every sum is added
term by term in a written order, and nothing is used but +, −, ×, ÷ and √, which IEEE 754 rounds
correctly everywhere:

    y = 0;  for c, r, s:  y += w[:, c, r, s] ⊗ x[c, r, s]        one rank-1 update after another

That covers every published network, and every activation that is made of straight pieces. Of the
others `sigmoid` is here, with an exponential of its own; gelu, mish, elu, selu, tanh and the
attention layers other than squeeze-excite take the C library's functions or BLAS in float64, where
about one float32 in 10⁷ may be another one elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from npvgg import attention, ops
from npvgg.ops import Array, batch_norm, sliding_windows

__all__ = ["activation", "attend", "batch_norm", "conv2d", "global_pool", "linear"]


def conv2d(
    x: Array, weight: Array, bias: Array | None = None, *,
    stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1,
) -> Array:  # fmt: skip
    """Like `ops.conv2d`, the terms added in the order of (c, r, s), the bias last."""
    k, c_group, r, s = weight.shape
    windows = sliding_windows(x, (r, s), stride=stride, padding=padding, dilation=dilation)
    n, _, p, q = windows.shape[:4]
    kernels = weight.reshape(groups, k // groups, c_group, r, s)
    y = np.zeros((n, groups, k // groups, p, q), x.dtype)
    term = np.empty_like(y)
    for c in range(c_group):
        for tap in np.ndindex(r, s):
            pixels = windows[:, c::c_group, None, :, :, *tap]  # channel c of each group
            np.multiply(kernels[:, :, c, *tap, None, None], pixels, out=term)
            y += term
    y = y.reshape(n, k, p, q)
    return y if bias is None else y + bias[:, None, None]


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Like `ops.linear`, the terms added in order, the bias last."""
    y: Array = conv2d(x[:, :, None, None], weight[:, :, None, None], bias)[:, :, 0, 0]
    return y


def mean(x: Array, axis: tuple[int, ...]) -> Array:
    """Average over axes, which stay as ones, added in C order."""
    moved = np.moveaxis(x, axis, range(-len(axis), 0))
    flat = moved.reshape(*moved.shape[: -len(axis)], -1)
    total = np.add.accumulate(flat, axis=-1)[..., -1]  # every partial sum: no freedom of order
    shape = [1 if a in axis else size for a, size in enumerate(x.shape)]
    average: Array = (total / flat.shape[-1]).reshape(shape)
    return average


def global_pool(x: Array, kind: str) -> Array:
    """Like `ops.global_pool`, each mean added in order."""
    y: Array = mean(x, (2, 3))[:, :, 0, 0]
    match kind:
        case "avg":
            return y
        case "avgmax":
            y = 0.5 * (y + x.max((2, 3)))
        case "catavgmax":
            y = np.concatenate([y, x.max((2, 3))], axis=1)
        case _:  # a maximum has no order
            y = ops.global_pool(x, kind)
    return y


# --- Exponentials ---------------------------------------------------------------------------------

# log 2 in two pieces: the first has 33 bits, so that its product with an exponent is exact.
LOG2_HIGH, LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10


def exp(x: Array) -> Array:
    """Return eˣ to some 1e-16 relatively, by Taylor's series after a reduction by powers of two:

    eˣ = 2ᵏ · eʳ        k = round(x / log 2)        r = x − k·log 2,  |r| ≤ 0.35
    """
    x = np.clip(x, -700.0, 700.0)
    k = np.rint(x / (LOG2_HIGH + LOG2_LOW))
    r = (x - k * LOG2_HIGH) - k * LOG2_LOW
    y = np.ones_like(r)
    for power in range(14, 0, -1):  # 0.35¹⁵ / 15! is below 2e-19
        y = 1.0 + r * y / power
    return np.ldexp(y, k.astype(np.int32))


def sigmoid(x: Array) -> Array:
    """Squash to 0 … 1:  1 / (1 + e⁻ˣ)."""
    y: Array = 1.0 / (1.0 + exp(-x))
    return y


def activation(name: str) -> Callable[[Array], Array]:
    """Look an activation up; those made of sigmoids take the one above."""
    return {
        "sigmoid": sigmoid,
        "silu": lambda x: x * sigmoid(x),
        "swish": lambda x: x * sigmoid(x),
        "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    }.get(name) or ops.activation(name)


def attend(x: Array, layer: str, weights: Mapping[str, Array], options: Mapping[str, Any]) -> Array:
    """Apply an attention layer; squeeze-excite in the order above."""
    if layer != "se":
        return attention.attend(x, layer, weights, options)
    squeezed = mean(x, (2, 3))
    if options.get("add_maxpool", False):
        squeezed = 0.5 * squeezed + 0.5 * x.max((2, 3), keepdims=True)
    hidden = conv2d(squeezed, weights["fc1.weight"], weights.get("fc1.bias"))
    hidden = activation(options.get("act_layer", "relu"))(hidden)
    gate = conv2d(hidden, weights["fc2.weight"], weights.get("fc2.bias"))
    return x * activation(options.get("gate_layer", "sigmoid"))(gate)
