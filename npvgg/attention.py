"""The attention layers that a block may carry: which weights each has, and what it does with them.

Each layer scales a map by a gate computed from the map itself, in (0, 1) by default. A layer is two
functions side by side: `<name>_shapes(channels, **options)` lists its weights under timm's names,
`<name>(x, weights, …)` is the arithmetic. `shapes` and `attend` are the two doors.

Sources: timm `layers/squeeze_excite.py`, `layers/eca.py`, `layers/cbam.py`,
`layers/create_attn.py`, and the papers named at each function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from math import log
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.ops import BN_EPS, Array, activation, batch_norm, conv2d

Shapes: TypeAlias = dict[str, tuple[int, ...]]
Weights: TypeAlias = Mapping[str, Array]


def shapes(layer: str, channels: int, options: Mapping[str, Any]) -> Shapes:
    """List the weights of an attention layer: name under the block's `attn.` → shape.

    Raises ArgumentError for an option that the layer does not have, or whose value is impossible.
    """
    try:
        found = LAYERS[layer].shapes(channels, **options)
        sizes = [size for shape in found.values() for size in shape]
    except ArgumentError:
        raise
    except (TypeError, ValueError, ArithmeticError):
        sizes = []
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        known = ", ".join(list(signature(LAYERS[layer].shapes).parameters)[1:])
        raise ArgumentError(
            f"attn_kwargs: expected options of {layer!r} ({known}), got {dict(options)!r}"
        )
    return found


def attend(x: Array, layer: str, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Apply an attention layer to a map: x (N, C, H, W) → (N, C, H, W)."""
    return LAYERS[layer].apply(x, weights, options)


def make_divisible(value: float, divisor: int, round_limit: float) -> int:
    """Round to a multiple of `divisor`, at least one, and up again if that loses too much.

    Source: timm `layers/helpers.py` `make_divisible`.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * value else rounded


def reduced_channels(channels: int, ratio: float, divisor: int) -> int:
    """Hidden channels of a squeeze: channels · ratio, rounded to a multiple of divisor (timm's
    rule).
    """
    return make_divisible(channels * ratio, divisor, round_limit=0.0)


# --- Squeeze and excite ---------------------------------------------------------------------------


def se_shapes(
    channels: int,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    add_maxpool: bool = False,
    bias: bool = True,
    act_layer: str = "relu",
    gate_layer: str = "sigmoid",
) -> Shapes:
    """Weights of squeeze-excite: two 1×1 convolutions through `hidden` channels."""
    _known_activations(act_layer, gate_layer)
    hidden = rd_channels or reduced_channels(channels, rd_ratio, rd_divisor)
    weights: Shapes = {
        "fc1.weight": (hidden, channels, 1, 1),
        "fc2.weight": (channels, hidden, 1, 1),
    }
    return weights | ({"fc1.bias": (hidden,), "fc2.bias": (channels,)} if bias else {})


def se(x: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Squeeze, excite, scale:  x · gate(fc2(act(fc1(mean x)))).  Source: Hu et al.,
    arXiv:1709.01507 §3.
    """
    squeezed = _squeeze(x, maximum=options.get("add_maxpool", False))
    return x * se_gate(squeezed, weights, options)


def se_gate(squeezed: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Compute the gate of `se` from the squeezed map: (N, C, 1, 1) → (N, C, 1, 1)."""
    act = activation(options.get("act_layer", "relu"))
    gate = activation(options.get("gate_layer", "sigmoid"))
    hidden = act(conv2d(squeezed, weights["fc1.weight"], weights.get("fc1.bias")))
    return gate(conv2d(hidden, weights["fc2.weight"], weights.get("fc2.bias")))


def ese_shapes(
    channels: int, add_maxpool: bool = False, gate_layer: str = "hard_sigmoid", **_: Any
) -> Shapes:
    """Weights of effective squeeze-excite: one 1×1 convolution. Other options are ignored, as in
    timm.
    """
    _known_activations(gate_layer)
    return {"fc.weight": (channels, channels, 1, 1), "fc.bias": (channels,)}


def ese(x: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Squeeze-excite without the bottleneck:  x · gate(fc(mean x)).  Source: CenterMask,
    arXiv:1911.06667 §3.3.
    """
    squeezed = _squeeze(x, maximum=options.get("add_maxpool", False))
    return x * ese_gate(squeezed, weights, options)


def ese_gate(squeezed: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Compute the gate of `ese` from the squeezed map: (N, C, 1, 1) → (N, C, 1, 1)."""
    gate = activation(options.get("gate_layer", "hard_sigmoid"))
    return gate(conv2d(squeezed, weights["fc.weight"], weights["fc.bias"]))


def _squeeze(x: Array, *, maximum: bool) -> Array:
    mean: Array = x.mean(axis=(2, 3), keepdims=True)
    return 0.5 * mean + 0.5 * x.max(axis=(2, 3), keepdims=True) if maximum else mean


# --- Efficient channel attention ------------------------------------------------------------------


def eca_shapes(
    channels: int,
    kernel_size: int = 3,
    gamma: float = 2,
    beta: float = 1,
    act_layer: str | None = None,
    gate_layer: str = "sigmoid",
    rd_ratio: float = 1 / 8,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    use_mlp: bool = False,
) -> Shapes:
    """Weights of efficient channel attention: one 1-D kernel, its length from the channel count.

    length = the odd number at or above ⌊|log₂ channels + beta| / gamma⌋, at least 3
    (arXiv:1910.03151, eq. 12). kernel_size is accepted and unused, as in timm, which always knows
    the channels. use_mlp, timm's own: each mean becomes `hidden` numbers first, and the kernel
    reads those; act_layer (None is relu) and rd_… are for them alone.
    """
    _known_activations(gate_layer, act_layer or "relu")
    length = int(abs(log(channels, 2) + beta) / gamma)
    length = max(length if length % 2 else length + 1, 3)
    if not use_mlp:
        return {"conv.weight": (1, 1, length)}
    hidden = make_divisible(channels * rd_ratio, rd_divisor, 0.9)
    hidden = hidden if rd_channels is None else rd_channels
    return {
        "conv.weight": (hidden, 1, 1), "conv.bias": (hidden,),
        "conv2.weight": (1, hidden, length), "conv2.bias": (1,),
    }  # fmt: skip


def ecam_shapes(
    channels: int,
    kernel_size: int = 3,
    gamma: float = 2,
    beta: float = 1,
    act_layer: str | None = None,
    gate_layer: str = "sigmoid",
    rd_ratio: float = 1 / 8,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    use_mlp: bool = True,
) -> Shapes:
    """Weights of `eca` with use_mlp."""
    return eca_shapes(
        channels, kernel_size, gamma, beta, act_layer, gate_layer, rd_ratio, rd_channels,
        rd_divisor, use_mlp,
    )  # fmt: skip


def ceca_shapes(
    channels: int,
    kernel_size: int = 3,
    gamma: float = 2,
    beta: float = 1,
    gate_layer: str = "sigmoid",
) -> Shapes:
    """Weights of `ceca`: those of `eca`, whose use_mlp it lacks."""
    return eca_shapes(channels, kernel_size, gamma, beta, gate_layer=gate_layer)


def eca(x: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Correlate neighbouring channels' means:  x · gate(conv1d(mean x)), zeros beyond the first and
    last.
    """
    return _channel_conv(x, weights, options, mode="constant")


def ceca(x: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Like `eca` with the channels on a circle: the last is the first one's neighbour."""
    return _channel_conv(x, weights, options, mode="wrap")


def _channel_conv(x: Array, weights: Weights, options: Mapping[str, Any], mode: Any) -> Array:
    return x * _channel_gate(x.mean(axis=(2, 3), keepdims=True), weights, options, mode)


def _channel_gate(means: Array, weights: Weights, options: Mapping[str, Any], mode: Any) -> Array:
    rows = means[:, :, 0, 0]
    mixed = (
        _mlp(rows, weights, options)
        if "conv2.weight" in weights
        else (_windows(rows, weights["conv.weight"].shape[2], mode) @ weights["conv.weight"][0, 0])
    )
    gate: Array = activation(options.get("gate_layer", "sigmoid"))(mixed)
    return gate[:, :, None, None]


def _windows(rows: Array, length: int, mode: Any) -> Array:
    """View the neighbours of every entry along the last axis: (…, C) → (…, C, length)."""
    margins = [(0, 0)] * (rows.ndim - 1) + [(length // 2, length // 2)]
    return np.lib.stride_tricks.sliding_window_view(np.pad(rows, margins, mode=mode), length, -1)


def _mlp(rows: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Make `hidden` numbers of each mean, and correlate neighbouring channels' in all: (N, C)."""
    act = activation(options.get("act_layer") or "relu")
    first, kernel = weights["conv.weight"][:, 0], weights["conv2.weight"][0]  # (hidden, 1), (…, L)
    hidden = act(first * rows[:, None] + weights["conv.bias"][:, None])  # (N, hidden, C)
    windows = _windows(hidden, kernel.shape[1], "constant")
    y: Array = np.einsum("nhcl,hl->nc", windows, kernel) + weights["conv2.bias"]
    return y


# --- Convolutional block attention ----------------------------------------------------------------


def cbam_shapes(
    channels: int,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 1,
    spatial_kernel_size: int = 7,
    gate_layer: str = "sigmoid",
    mlp_bias: bool = False,
) -> Shapes:
    """Weights of CBAM: a channel bottleneck, then a spatial kernel over (mean, maximum) with batch
    norm.
    """
    return _cbam_shapes(
        channels, rd_ratio, rd_channels, rd_divisor, spatial_kernel_size, gate_layer, mlp_bias, 2
    )


def lcbam_shapes(
    channels: int,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 1,
    spatial_kernel_size: int = 7,
    gate_layer: str = "sigmoid",
    mlp_bias: bool = False,
) -> Shapes:
    """Weights of light CBAM: as CBAM, with the half sum of mean and maximum as the only spatial
    input.
    """
    return _cbam_shapes(
        channels, rd_ratio, rd_channels, rd_divisor, spatial_kernel_size, gate_layer, mlp_bias, 1
    )


def _cbam_shapes(
    channels: int,
    rd_ratio: float,
    rd_channels: int | None,
    rd_divisor: int,
    spatial_kernel_size: int,
    gate_layer: str,
    mlp_bias: bool,
    inputs: int,
) -> Shapes:
    _known_activations(gate_layer)
    if spatial_kernel_size % 2 == 0:
        raise ArgumentError(
            f"attn_kwargs: spatial_kernel_size must be odd, got {spatial_kernel_size}"
        )
    hidden = rd_channels or reduced_channels(channels, rd_ratio, rd_divisor)
    size = spatial_kernel_size
    return {
        "channel.fc1.weight": (hidden, channels, 1, 1),
        "channel.fc2.weight": (channels, hidden, 1, 1),
        **({"channel.fc1.bias": (hidden,), "channel.fc2.bias": (channels,)} if mlp_bias else {}),
        "spatial.conv.conv.weight": (1, inputs, size, size),
        **{
            f"spatial.conv.bn.{name}": (1,)
            for name in ("weight", "bias", "running_mean", "running_var")
        },
    }


def cbam(x: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Gate the channels, then the pixels, by what mean and maximum say.  Source: Woo et al.,
    arXiv:1807.06521 §3.
    """
    gate = activation(options.get("gate_layer", "sigmoid"))
    mean, maximum = (pool(axis=(2, 3), keepdims=True) for pool in (x.mean, x.max))
    x = x * gate(_bottleneck(mean, weights) + _bottleneck(maximum, weights))
    maps = [x.mean(axis=1, keepdims=True), x.max(axis=1, keepdims=True)]
    return x * gate(_spatial(np.concatenate(maps, axis=1), weights))


def lcbam(x: Array, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Like `cbam` with the half sum of mean and maximum in place of both; both gates are sigmoids,
    as in timm.
    """
    gate = activation("sigmoid")
    x = x * gate(_bottleneck(_squeeze(x, maximum=True), weights))
    half_sum = 0.5 * x.mean(axis=1, keepdims=True) + 0.5 * x.max(axis=1, keepdims=True)
    return x * gate(_spatial(half_sum, weights))


def _bottleneck(pooled: Array, weights: Weights) -> Array:
    hidden = conv2d(pooled, weights["channel.fc1.weight"], weights.get("channel.fc1.bias"))
    relu = activation("relu")
    return conv2d(relu(hidden), weights["channel.fc2.weight"], weights.get("channel.fc2.bias"))


def _spatial(maps: Array, weights: Weights) -> Array:
    kernel = weights["spatial.conv.conv.weight"]
    y = conv2d(maps, kernel, padding=kernel.shape[-1] // 2)
    mean, var, gamma, beta = (
        weights[f"spatial.conv.bn.{name}"]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return batch_norm(y, mean, var, gamma, beta, BN_EPS)


def _known_activations(*names: str) -> None:
    for name in names:
        activation(name)


# --- The layers -----------------------------------------------------------------------------------


Arithmetic: TypeAlias = Callable[[Array, Weights, Mapping[str, Any]], Array]


@dataclass(frozen=True)
class Layer:
    """What is known of an attention layer; one row of `LAYERS`.

    shapes:   (channels, **options) → its weights
    apply:    (x, weights, options) → the attended map
    equation: one line, as the kit's packs say it
    gate:     (means, weights, options) → the gate, where the layer looks at nothing but the means
              of the channels; otherwise None
    opened_by: the bias that opens the gates where it is large, "" where there is none
    evaluated: (name of a weight, channels, pixels) → how often an image evaluates its convolution
    """

    shapes: Callable[..., Shapes]
    apply: Arithmetic
    equation: str
    gate: Arithmetic | None = None
    opened_by: str = ""
    evaluated: Callable[[str, int, int], int] = lambda name, channels, pixels: 1


LAYERS: Mapping[str, Layer] = MappingProxyType({
    "se": Layer(
        se_shapes, se, "y[n,k] = x[n,k] · gate(fc2 · act(fc1 · mean x[n] + b1) + b2)[k]",
        gate=se_gate, opened_by="fc2.bias",
    ),
    "ese": Layer(
        ese_shapes, ese, "y[n,k] = x[n,k] · gate(fc · mean x[n] + b)[k]",
        gate=ese_gate, opened_by="fc.bias",
    ),
    "eca": Layer(
        eca_shapes, eca, "y[n,k] = x[n,k] · gate(Σ_j w[j] · mean x[n,k + j − L//2])",
        gate=lambda means, weights, options: _channel_gate(means, weights, options, "constant"),
        evaluated=lambda name, channels, pixels: channels,
    ),
    "ecam": Layer(
        ecam_shapes, eca,
        "y[n,k] = x[n,k] · gate(b2 + Σ_{h,j} w2[h,j] · act(w[h] · mean x[n,k + j − L//2] + b[h]))",
        gate=lambda means, weights, options: _channel_gate(means, weights, options, "constant"),
        opened_by="conv2.bias",
        evaluated=lambda name, channels, pixels: channels,
    ),
    "ceca": Layer(
        ceca_shapes, ceca, "y[n,k] = x[n,k] · gate(Σ_j w[j] · mean x[n,(k + j − L//2) mod K])",
        gate=lambda means, weights, options: _channel_gate(means, weights, options, "wrap"),
        evaluated=lambda name, channels, pixels: channels,
    ),
    "cbam": Layer(
        cbam_shapes, cbam,
        "z = x · gate(fc(mean x) + fc(max x)); y = z · gate(BN(conv(mean_k z, max_k z)))",
        opened_by="spatial.conv.bn.bias",
        evaluated=lambda name, _, pixels: pixels if name.startswith("spatial.") else 2,
    ),
    "lcbam": Layer(
        lcbam_shapes, lcbam,
        "z = x · gate(fc((mean x + max x) / 2)); y = z · gate(BN(conv((mean_k z + max_k z) / 2)))",
        opened_by="spatial.conv.bn.bias",
        evaluated=lambda name, _, pixels: pixels if name.startswith("spatial.") else 1,
    ),
})  # fmt: skip
"""Attention layer by timm's name.

A row is all that npvgg knows of one, but for its nodes in `export.layers`, how errors go through it
in `testing.bounds.gates`, and, for "se", its float64 in `testing.steady`.
"""


def sees_means_alone(layer: str | None, options: Mapping[str, Any]) -> bool:
    """Return whether a layer is one gate per channel, computed from the channels' means."""
    return layer is not None and (
        LAYERS[layer].gate is not None and not options.get("add_maxpool", False)
    )


def gate(means: Array, layer: str, weights: Weights, options: Mapping[str, Any]) -> Array:
    """Compute from the means what such a layer multiplies a map by: (N, C, 1, 1) → (N, C, 1, 1)."""
    gate = LAYERS[layer].gate
    if gate is None:
        raise ArgumentError(f"layer: expected one that sees the means alone, got {layer!r}")
    return gate(means, weights, options)
