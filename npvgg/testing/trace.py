"""A network as a list of operations, and every tensor that they make.

`operations` spells a network out: one entry for every convolution, batch norm, sum, attention,
activation, the pooling and the classifier, each with the names of the tensors that it reads and the
numbers that it needs. `run` computes them in order. `layer_by_layer` keeps those of a level:

    block    input, each block's output, pool, logits
    branch   + each branch after its batch norm, their sum, and what attention and activation make
    op       + each convolution before its batch norm

The last operation of a block makes the block's output and bears the block's name, "stem" or
"stages.0.1", so no array appears under two names. In deploy form a block is "….reparam_conv" and
what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from npvgg import attention, ops
from npvgg.config import BlockSpec
from npvgg.errors import ArgumentError
from npvgg.model import RepVGG
from npvgg.network import Block, Head, Network
from npvgg.ops import Array
from npvgg.reparam import BatchNorm, Branches, ConvBN
from npvgg.rounding import whatever_seterr_says
from npvgg.testing import reference as reference_maths

LEVELS = ("block", "branch", "op")


@dataclass(frozen=True)
class Probe:
    """One tensor of a run: where it stands in the network, and what it is computed from.

    name: timm's module path of what makes it: "input", "stem.conv_kxk.conv", "stem.conv_kxk.bn",
        "stem.identity", "stem.sum" or "stem.reparam_conv", "stem.attn", "stem.act", "stem", "pool",
        "logits"
    block: "stem", "stages.0.1"; "" for input, pool and logits
    op: how it comes from `inputs`: "input", "conv", "batch_norm", "sum", "attention", "activation",
        "pool", "linear"; or, of several in one step, "conv_bn", "block"
    inputs: the tensors of the same level that it is computed from
    equation: one line; letters as in `npvgg.ops`
    shape: (N, K, P, Q), or (N, K) behind the pooling
    parameters: the numbers of the operation and the names of its weights, as JSON holds them
    """

    name: str
    block: str
    op: str
    inputs: tuple[str, ...]
    equation: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Step(NamedTuple):
    """A tensor of a run, and what it is."""

    probe: Probe
    array: Array


@dataclass(frozen=True)
class Operation:
    """One operation of a network, before any image is seen; fields as of `Probe`.

    weights: the arrays that it needs, under the names that `parameters` gives them ("weight", …)
    """

    name: str
    block: str
    op: str
    inputs: tuple[str, ...]
    equation: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)


# --- The operations of a network ------------------------------------------------------------------


def operations(network: Network) -> tuple[Operation, ...]:
    """Spell a network out, in order of execution, the input first."""
    found = [Operation("input", "", "input", (), "x: the preprocessed image")]
    for block in network.blocks:
        found += block_operations(block, found[-1].name)
    found += _of_head(network.head, found[-1].name)
    return tuple(found)


def block_operations(block: Block, source: str = "x") -> list[Operation]:
    """Spell a block out, in order of execution; source names the tensor that it reads."""
    spec = block.spec
    if isinstance(block.form, Branches):
        found = list(_of_branches(block.form, spec, source))
    else:
        weights = {"weight": block.form.weight, "bias": block.form.bias}
        found = [_conv(spec, "reparam_conv", source, weights)]
    for suffix, op in _tail(spec):
        make = _activation if op == "activation" else _attention
        found.append(make(block, f"{spec.name}{suffix}", found[-1].name))
    return found


def _tail(spec: BlockSpec) -> list[tuple[str, str]]:
    """Return what follows the sum, in order: (suffix of the name, operation); the last has none."""
    if spec.attn_layer is None:
        return [("", "activation")]
    if spec.attn_after_act:
        return [(".act", "activation"), ("", "attention")]
    return [(".attn", "attention"), ("", "activation")]


def _of_branches(form: Branches, spec: BlockSpec, source: str) -> Iterator[Operation]:
    ends = []
    for branch in ("conv_kxk", "conv_1x1"):
        conv: ConvBN = getattr(form, branch)
        first = _conv(spec, f"{branch}.conv", source, {"weight": conv.weight})
        second = _batch_norm(spec, f"{branch}.bn", first.name, conv.bn)
        yield from (first, second)
        ends.append(second.name)
    if form.identity is not None:
        yield _batch_norm(spec, "identity", source, form.identity)
        ends.append(f"{spec.name}.identity")
    terms = " + ".join(end.removeprefix(f"{spec.name}.") for end in ends)
    yield Operation(f"{spec.name}.sum", spec.name, "sum", tuple(ends), f"y = {terms}")


def _conv(spec: BlockSpec, suffix: str, source: str, weights: Mapping[str, Array]) -> Operation:
    name, size = f"{spec.name}.{suffix}", weights["weight"].shape[-1]
    numbers = {
        "stride": spec.stride,
        "padding": spec.dilation if size == 3 else 0,
        "dilation": spec.dilation if size == 3 else 1,
        "groups": spec.groups,
    }
    equation = "y[n,k,p,q] = {}Σ_{{c,r,s}} x[n, {}c, {}, {}] · w[k,c,r,s]{}".format(
        "b[k] + " if "bias" in weights else "",
        "g·C/G + " if spec.groups > 1 else "",
        _tap("p", "r", numbers),
        _tap("q", "s", numbers),
        f", g = k // (K/{spec.groups})" if spec.groups > 1 else "",
    )
    names = {n: f"{name}.{n}" for n in weights}
    return Operation(name, spec.name, "conv", (source,), equation, {**numbers, **names}, weights)


def _tap(out: str, tap: str, numbers: dict[str, int]) -> str:
    """Write a row or column of x:  p·stride + r·dilation − padding."""
    stride, padding, dilation = (numbers[key] for key in ("stride", "padding", "dilation"))
    first = out if stride == 1 else f"{stride}{out}"
    second = tap if dilation == 1 else f"{dilation}{tap}"
    return f"{first} + {second}" + (f" − {padding}" if padding else "")


def _batch_norm(spec: BlockSpec, suffix: str, source: str, bn: BatchNorm) -> Operation:
    name = f"{spec.name}.{suffix}"
    weights = {
        "weight": bn.gamma, "bias": bn.beta, "running_mean": bn.mean, "running_var": bn.var
    }  # fmt: skip
    parameters = {"eps": bn.eps, **{n: f"{name}.{n}" for n in weights}}
    equation = "y[n,k,p,q] = (x[n,k,p,q] − mean[k]) · gamma[k] / √(var[k] + eps) + beta[k]"
    return Operation(name, spec.name, "batch_norm", (source,), equation, parameters, weights)


def _activation(block: Block, name: str, source: str) -> Operation:
    act = block.spec.act_layer
    equation = f"y = {ops.ACTIVATIONS[act].equation}"
    return Operation(name, block.spec.name, "activation", (source,), equation, {"function": act})


def _attention(block: Block, name: str, source: str) -> Operation:
    spec, layer = block.spec, str(block.spec.attn_layer)
    names = {n: f"{spec.name}.attn.{n}" for n in block.attention}
    parameters = {**spec.attn_kwargs, "layer": layer, "weights": names}
    equation = attention.LAYERS[layer].equation
    return Operation(name, spec.name, "attention", (source,), equation, parameters, block.attention)


def _of_head(head: Head, source: str) -> Iterator[Operation]:
    if head.global_pool:
        equation = {
            "avg": "y[n,k] = 1/(P·Q) · Σ_{p,q} x[n,k,p,q]",
            "max": "y[n,k] = max_{p,q} x[n,k,p,q]",
            "avgmax": "y[n,k] = (avg + max) / 2",
            "catavgmax": "y[n] = avg, then max",
        }[head.global_pool]
        yield Operation("pool", "", "pool", (source,), equation, {"kind": head.global_pool})
    if head.weight is not None and head.bias is not None:
        names = {"weight": "head.fc.weight", "bias": "head.fc.bias"}
        arrays = {"weight": head.weight, "bias": head.bias}
        equation = "y[n,k] = b[k] + Σ_c x[n,c] · w[k,c]"
        yield Operation("logits", "", "linear", ("pool",), equation, names, arrays)


# --- Running them ---------------------------------------------------------------------------------


def run(
    operations: tuple[Operation, ...], x: Array, maths: Any = reference_maths
) -> Iterator[tuple[Operation, Array]]:
    """Compute every operation in order, in the dtype of x and weights: (operation, its tensor).

    maths: where conv2d, batch_norm, attend, activation, global_pool and linear are taken from
    A tensor is forgotten once nothing needs it, so the largest network runs in little memory.
    """
    last = {name: o.name for o in operations for name in o.inputs}
    alive: dict[str, Array] = {}
    for o in operations:
        y = x if o.op == "input" else compute(o, [alive[name] for name in o.inputs], maths)
        yield o, y
        alive = {n: a for n, a in alive.items() if last[n] != o.name} | {o.name: y}


def compute(o: Operation, inputs: list[Array], maths: Any = reference_maths) -> Array:
    """Compute one operation from its inputs."""
    x, w, p = inputs[0], o.weights, o.parameters
    match o.op:
        case "conv":
            how = {n: p[n] for n in ("stride", "padding", "dilation", "groups")}
            y = maths.conv2d(x, w["weight"], w.get("bias"), **how)
        case "batch_norm":
            y = maths.batch_norm(
                x, w["running_mean"], w["running_var"], w["weight"], w["bias"], p["eps"]
            )
        case "sum":
            y = inputs[0] + inputs[1]
            for term in inputs[2:]:
                y = y + term
        case "attention":
            y = maths.attend(x, p["layer"], w, attention_options(p))
        case "activation":
            y = maths.activation(p["function"])(x)
        case "pool":
            y = maths.global_pool(x, p["kind"])
        case _:
            y = maths.linear(x, w["weight"], w["bias"])
    return y  # type: ignore[no-any-return]


def attention_options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an attention layer, as `attention.attend` takes them."""
    return {n: v for n, v in parameters.items() if n not in ("layer", "weights")}


# --- Levels ---------------------------------------------------------------------------------------


def at_level(operations: tuple[Operation, ...], level: str) -> dict[str, Operation]:
    """Keep the operations of a level, each with the inputs that it has there: name → operation.

    Raises ArgumentError for an unknown level.
    """
    if level not in LEVELS:
        raise ArgumentError(f"level: expected one of {', '.join(LEVELS)}, got {level!r}")
    every = {o.name: o for o in operations}
    kept = {o.name for o in operations if _is_kept(o, level)}
    return {name: _seen_from(every[name], every, kept) for name in every if name in kept}


def _is_kept(o: Operation, level: str) -> bool:
    if level == "op" or o.name == o.block or not o.block:
        return True
    return level == "branch" and not (o.op == "conv" and "bias" not in o.weights)


def _seen_from(o: Operation, every: Mapping[str, Operation], kept: set[str]) -> Operation:
    """Return an operation as its level sees it: what is not kept becomes part of it."""
    if all(name in kept for name in o.inputs):
        return o
    if o.op == "batch_norm":
        (conv,) = (every[name] for name in o.inputs)
        equation = f"z = conv: {conv.equation.replace('y[', 'z[', 1)}; y = batch norm of z"
        both = {"conv": dict(conv.parameters), "batch_norm": dict(o.parameters)}
        return replace(o, op="conv_bn", inputs=conv.inputs, equation=equation, parameters=both)
    inside = [other for other in every.values() if other.block == o.block]
    source = next(name for other in inside for name in other.inputs if name in kept)
    return replace(
        o, op="block", inputs=(source,), equation=_block_equation(inside), parameters={}, weights={}
    )


def _block_equation(inside: list[Operation]) -> str:
    """Write a block in one line, from the inside out: relu(BN(x ∗ w3) + BN(x ∗ w1) + BN(x))."""
    names = {o.name.removeprefix(f"{o.block}.") for o in inside}
    y = "BN(x ∗ w3) + BN(x ∗ w1)" + (" + BN(x)" if "identity" in names else "")
    if "reparam_conv" in names:
        y = "x ∗ w + b"
    for o in inside:
        if o.op in ("activation", "attention"):
            y = f"{o.parameters.get('function') or o.parameters.get('layer')}({y})"
    return f"y = {y}"


@whatever_seterr_says
def layer_by_layer(
    model: RepVGG | Network, x: Array, *, level: str = "block", dtype: DTypeLike | None = None
) -> dict[str, Step]:
    """Run a network by the reference maths and keep every tensor of a level, in order.

    model: a model of `create_model` or a `Network`, in train or deploy form
    x: (N, C, H, W), of any floating-point type
    level: "block", "branch" or "op", see `npvgg.testing.trace`
    dtype: float32 or float64, in which it is computed; the model's own by default

    → name → Step(probe, array). Raises ArgumentError.
    """
    network = as_network(model)
    network = network.astype(network.dtype if dtype is None else dtype)
    x = checked_images(x, network)
    spelled = operations(network)
    kept = at_level(spelled, level)
    return {
        o.name: Step(probe(kept[o.name], y.shape), y) for o, y in run(spelled, x) if o.name in kept
    }


def as_network(model: RepVGG | Network) -> Network:
    """Return the network of a model. Raises ArgumentError."""
    network = model.network if isinstance(model, RepVGG) else model
    if not isinstance(network, Network):
        raise ArgumentError(
            f"model: expected a model of create_model or a Network, got {type(model).__name__}"
        )
    return network


def probe(o: Operation, shape: tuple[int, ...]) -> Probe:
    """Return the probe of an operation, now that its tensor's shape is known."""
    return Probe(o.name, o.block, o.op, o.inputs, o.equation, shape, o.parameters)


def checked_images(x: Array, network: Network) -> Array:
    """Return the images in the network's dtype. Raises ArgumentError where they are not what it
    takes.
    """
    x = np.asarray(x)
    channels = network.blocks[0].spec.in_chs
    floating = np.issubdtype(x.dtype, np.floating)
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape or not floating:
        raise ArgumentError(f"x: expected (N, {channels}, H, W) floats, got {x.shape} {x.dtype}")
    return x.astype(network.dtype, copy=False)
