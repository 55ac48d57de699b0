"""The layers of a folded RepVGG as nodes of ONNX: `ops` and `attention` once more, in its words.

Each function is given the module that it writes, and the tensor that it reads; it gives the tensor
that holds the result. The formulas, and why they are so, stand in `ops` and `attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from npvgg.export.graph import Graph, Module
from npvgg.network import Block, Head
from npvgg.ops import BN_EPS, Array
from npvgg.reparam import BatchNorm, FusedConv, fuse_conv_bn, reparameterize

Weights = Mapping[str, Array]

# --- Activations ----------------------------------------------------------------------------------


def silu(m: Module, x: str) -> str:
    """Weigh by the sigmoid:  x · sigmoid(x)."""
    return m("Mul", x, m("Sigmoid", x))


def hard_sigmoid(m: Module, x: str) -> str:
    """Squash in three straight pieces:  min(max(x + 3, 0), 6) / 6."""
    return m("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def gelu(m: Module, x: str) -> str:
    """Multiply in the order that runtimes recognise:  x · (1 + erf(x / √2)) / 2."""
    erf = m("Erf", m("Div", x, 2.0**0.5))
    return m("Mul", m("Mul", x, m("Add", erf, 1.0)), 0.5)


def gelu_tanh(m: Module, x: str) -> str:
    """Approximate with tanh:  x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2."""
    cube = m("Mul", m("Mul", x, x), x)
    inner = m("Mul", m("Add", x, m("Mul", cube, 0.044715)), (2.0 / np.pi) ** 0.5)
    return m("Mul", m("Mul", x, m("Add", m("Tanh", inner), 1.0)), 0.5)


def hard_mish(m: Module, x: str) -> str:
    """Weigh by three straight pieces:  x · min(max(x + 2, 0), 2) / 2."""
    return m("Mul", m("Mul", x, m("Clip", m("Add", x, 2.0), 0.0, 2.0)), 0.5)


ACTIVATIONS: dict[str, Callable[[Module, str], str]] = {
    "relu": lambda m, x: m("Relu", x),
    "relu6": lambda m, x: m("Clip", x, 0.0, 6.0),
    "leaky_relu": lambda m, x: m("LeakyRelu", x, alpha=0.01),
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda m, x: m("Mul", x, m("Sigmoid", m("Mul", x, 1.702))),
    "mish": lambda m, x: m("Mul", x, m("Tanh", m("Softplus", x))),
    "elu": lambda m, x: m("Elu", x, alpha=1.0),
    "celu": lambda m, x: m("Elu", x, alpha=1.0),  # celu(x, alpha=1) is elu(x, alpha=1)
    "selu": lambda m, x: m("Selu", x, alpha=1.6732632423543772, gamma=1.0507009873554805),
    "sigmoid": lambda m, x: m("Sigmoid", x),
    "tanh": lambda m, x: m("Tanh", x),
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda m, x: m("Mul", x, hard_sigmoid(m, x)),
    "hard_mish": hard_mish,
    "identity": lambda m, x: m("Identity", x),
}
"""Activation by timm's name, as `ops.ACTIVATIONS`."""


def activate(m: Module, name: str, x: str) -> str:
    """Apply an activation as a module of its own."""
    return m.ends(ACTIVATIONS[name](m, x))


# --- Attention ------------------------------------------------------------------------------------


def conv(m: Module, x: str, weights: Weights, name: str, **attributes: Any) -> str:
    """Convolve with the weights of this name, with or without a bias."""
    inner = m[name]
    kernel = weights[f"{name}.weight"]
    inputs = [inner.weight("weight", kernel)]
    if f"{name}.bias" in weights:
        inputs.append(inner.weight("bias", weights[f"{name}.bias"]))
    return inner.ends(inner("Conv", x, *inputs, kernel_shape=kernel.shape[2:], **attributes))


def squeeze(m: Module, x: str, *, maximum: bool) -> str:
    """Return the mean of each map, or the half sum of mean and maximum: (N, C, H, W) → (N, C, 1,
    1).
    """
    mean = m("GlobalAveragePool", x)
    return _half_sum(m, mean, m("GlobalMaxPool", x)) if maximum else mean


def _half_sum(m: Module, a: str, b: str) -> str:
    return m("Add", m("Mul", a, 0.5), m("Mul", b, 0.5))


def se(m: Module, x: str, block: Block) -> str:
    """Squeeze, excite, scale:  x · gate(fc2(act(fc1(mean x))))."""
    weights, options = block.attention, block.spec.attn_kwargs
    squeezed = squeeze(m, x, maximum=options.get("add_maxpool", False))
    hidden = conv(m, squeezed, weights, "fc1")
    hidden = activate(m["act"], options.get("act_layer", "relu"), hidden)
    gates = conv(m, hidden, weights, "fc2")
    return m("Mul", x, activate(m["gate"], options.get("gate_layer", "sigmoid"), gates))


def ese(m: Module, x: str, block: Block) -> str:
    """Squeeze-excite without the bottleneck:  x · gate(fc(mean x))."""
    weights, options = block.attention, block.spec.attn_kwargs
    squeezed = squeeze(m, x, maximum=options.get("add_maxpool", False))
    gates = conv(m, squeezed, weights, "fc")
    return m("Mul", x, activate(m["gate"], options.get("gate_layer", "hard_sigmoid"), gates))


def eca(m: Module, x: str, block: Block, *, circular: bool = False) -> str:
    """Correlate neighbouring channels' means, with zeros beyond the ends or on a circle:  x ·
    gate(conv1d(mean x)); with use_mlp, what a first convolution makes of each mean.
    """
    weights, channels, options = block.attention, block.spec.out_chs, block.spec.attn_kwargs
    means = m("Reshape", m("GlobalAveragePool", x), m.integers("row", [0, 1, channels]))
    last = "conv"
    if "conv2.weight" in weights:
        act = options.get("act_layer") or "relu"
        means, last = activate(m["act"], act, conv(m, means, weights, "conv")), "conv2"
    margin = weights[f"{last}.weight"].shape[2] // 2
    if circular:  # the row several times over, cut to the margins: runtimes have no padding for it
        times = -(-margin // channels)
        start, stop = times * channels - margin, (times + 1) * channels + margin
        rows = m("Concat", *[means] * (2 * times + 1), axis=2)
        cut = [m.integers(n, [i]) for n, i in (("start", start), ("stop", stop), ("axis", 2))]
        means, margin = m("Slice", rows, *cut), 0
    mixed = conv(m, means, weights, last, pads=[margin, margin])
    gates = activate(m["gate"], options.get("gate_layer", "sigmoid"), mixed)
    return m("Mul", x, m("Reshape", gates, m.integers("column", [0, channels, 1, 1])))


def ceca(m: Module, x: str, block: Block) -> str:
    """Like `eca` with the channels on a circle."""
    return eca(m, x, block, circular=True)


def cbam(m: Module, x: str, block: Block) -> str:
    """Gate the channels, then the pixels, by what mean and maximum say."""
    weights, channel, spatial = block.attention, m["channel"], m["spatial"]
    gate = block.spec.attn_kwargs.get("gate_layer", "sigmoid")
    pooled = [channel("GlobalAveragePool", x), channel("GlobalMaxPool", x)]
    sides = [_bottleneck(channel, side, weights) for side in pooled]
    gates = activate(channel["gate"], gate, channel("Add", *sides))
    x = channel.ends(channel("Mul", x, gates))
    maps = spatial("Concat", *_over_channels(spatial, x), axis=1)
    gates = activate(spatial["gate"], gate, _spatial(m, maps, weights))
    return m("Mul", x, gates)


def lcbam(m: Module, x: str, block: Block) -> str:
    """Like `cbam` with the half sum of mean and maximum; both gates are sigmoids, as in timm."""
    weights, channel, spatial = block.attention, m["channel"], m["spatial"]
    hidden = _bottleneck(channel, squeeze(channel, x, maximum=True), weights)
    x = channel.ends(channel("Mul", x, activate(channel["gate"], "sigmoid", hidden)))
    half_sum = _half_sum(spatial, *_over_channels(spatial, x))
    gates = activate(spatial["gate"], "sigmoid", _spatial(m, half_sum, weights))
    return m("Mul", x, gates)


def _bottleneck(channel: Module, pooled: str, weights: Weights) -> str:
    own = {name.removeprefix("channel."): array for name, array in weights.items()}
    hidden = conv(channel, pooled, own, "fc1")
    return conv(channel, activate(channel["act"], "relu", hidden), own, "fc2")


def _over_channels(m: Module, x: str) -> tuple[str, str]:
    """Mean and maximum over the channels: (N, C, H, W) → (N, 1, H, W), twice."""
    return m("ReduceMean", x, axes=[1], keepdims=1), m("ReduceMax", x, axes=[1], keepdims=1)


def _spatial(m: Module, maps: str, weights: Weights) -> str:
    """Correlate the maps with the spatial kernel, its batch norm folded in."""
    gamma, beta, mean, var = (
        weights[f"spatial.conv.bn.{name}"]
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    kernel = weights["spatial.conv.conv.weight"]
    fused = fuse_conv_bn(kernel, BatchNorm(gamma, beta, mean, var, BN_EPS))
    own = {"spatial.conv.weight": fused.weight, "spatial.conv.bias": fused.bias}
    return conv(m, maps, own, "spatial.conv", pads=[fused.weight.shape[-1] // 2] * 4)


ATTENTION: dict[str, Callable[[Module, str, Block], str]] = {
    "se": se, "ese": ese, "eca": eca, "ecam": eca, "ceca": ceca, "cbam": cbam, "lcbam": lcbam,
}  # fmt: skip
"""Attention by timm's name."""


# --- The network ----------------------------------------------------------------------------------


def add_block(graph: Graph, block: Block, x: str) -> str:
    """Write one block: its one convolution, then attention and activation in the block's order."""
    spec, m, form = block.spec, graph.module(block.spec.name), block.form
    if not isinstance(form, FusedConv):
        form = reparameterize(form, groups=spec.groups)
    weights = {"reparam_conv.weight": form.weight, "reparam_conv.bias": form.bias}
    x = conv(
        m, x, weights, "reparam_conv", pads=[spec.dilation] * 4, strides=[spec.stride] * 2,
        dilations=[spec.dilation] * 2, group=spec.groups,
    )  # fmt: skip
    if spec.attn_after_act:
        x = activate(m["act"], spec.act_layer, x)
    if spec.attn_layer:
        attn = m["attn"]
        x = attn.ends(ATTENTION[spec.attn_layer](attn, x, block))
    if not spec.attn_after_act:
        x = activate(m["act"], spec.act_layer, x)
    return graph.rename(x, spec.name)


def add_head(graph: Graph, head: Head, x: str) -> str:
    """Write pooling and classifier, where there are any: (N, C, P, Q) → (N, classes)."""
    m = graph.module("head")
    if head.global_pool:
        x = m["global_pool"].ends(pool(m["global_pool"], x, head.global_pool))
    if head.weight is not None and head.bias is not None:
        fc = m["fc"]
        weights = fc.weight("weight", head.weight), fc.weight("bias", head.bias)
        x = fc.ends(fc("Gemm", x, *weights, transB=1))
    return x


def pool(m: Module, x: str, kind: str) -> str:
    """Reduce each map to its mean, its maximum, half their sum, or both: (N, C, P, Q) → (N, C)."""
    match kind:
        case "avg":
            pooled = m("GlobalAveragePool", x)
        case "max":
            pooled = m("GlobalMaxPool", x)
        case "avgmax":
            pooled = m("Mul", m("Add", m("GlobalAveragePool", x), m("GlobalMaxPool", x)), 0.5)
        case _:
            both = m("GlobalAveragePool", x), m("GlobalMaxPool", x)
            pooled = m("Concat", *both, axis=1)
    return m("Flatten", pooled, axis=1)
