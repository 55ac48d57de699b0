"""How far the float32 tensors of an ONNX graph can be from the truth: a bound per node, derived.

Where inputs are within r of their truth, |x̂ − x| ≤ r, each kind of node has a line of algebra for
its output (Higham, Accuracy and Stability of Numerical Algorithms, §3.1):

    Σ x·w + b of n terms    Σ r·|w| + (γ_{n+1} + γ_1)·(Σ X·|w| + |b|)     X = |x| + 2r ≥ |x̂|
    mean of n               mean r + γ_{n+1}·mean X
    a + b, a · b            what is inherited, and one rounding of the result
    a function              slope·r + FUNCTION·u·max(1, |y|)              slope: its steepest
    maxima, clips, …        r, moved as the values are

γ_{n+1} is for any order of summation, γ_1 for constants that the file had to round. So the length
of a sum, the size of a map and cancellation are all in the bound, and nothing in it is chosen but
FUNCTION, for no runtime promises how well it computes a function.
"""

import numpy as np
from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator
from scipy.special import erf

from tests.oracles.bounds import UNIT, gamma

U = UNIT[np.dtype(np.float32)]
FUNCTION = 8
"""Units of roundoff by which the value of a function may be off, where it is below 1 units of 1:
that is, 21 of 24 bits are right.

The one supposition here. Runtimes compute functions by rational approximations, and ONNX Runtime's
lose up to three bits: 5.4 units in tanh, 2.8 in the sigmoid, 2.5 in selu, 2.4 in softplus, 1.1 in
elu, where nothing is left of eˣ − 1 near 0, 0.9 in erf (1.32.0, x86-64). tests/cross holds each
function to it apart from any network.
"""

SLOPES = {
    "Sigmoid": 1 / 4, "Tanh": 1, "Erf": 2 / np.sqrt(np.pi), "Softplus": 1, "Elu": 1,
    "Selu": 1.0507009873554805 * 1.6732632423543772,
}  # fmt: skip
"""Functions, and how steep they are at most."""

KEPT = {"Relu", "Clip", "Identity", "Cast"}
"""Each value stays where it was; slopes are 0 and 1."""

MOVED = {"Concat", "Reshape", "Flatten", "Slice", "Transpose", "GlobalMaxPool", "ReduceMax"}
"""Values are moved, or the largest is taken; so are their errors."""


def graph_bounds(proto, given, found):
    """Name → bound, for the output of every node.

    given: the graph's inputs by name, exact
    found: what some tensors really were; for the nodes behind it, that is the truth
    """
    constants = {c.name: to_array(c) for c in proto.graph.initializer}
    values = {n: c if c.dtype.kind == "i" else c.astype(np.float64) for n, c in constants.items()}
    radii = {n: gamma(1, np.float32) * abs(c) for n, c in values.items() if c.dtype.kind == "f"}
    for name, x in given.items():
        values[name], radii[name] = x.astype(np.float64), np.zeros(x.shape)
    bounds = {}
    for node in proto.graph.node:
        inputs = [values[name] for name in node.input]
        (name,) = node.output
        y = evaluate(node, *inputs)
        bounds[name] = bound(node, inputs, [radii.get(name) for name in node.input], y)
        values[name] = found.get(name, y).astype(np.float64)
        radii[name] = np.zeros(y.shape) if name in found else bounds[name]
    return bounds


def evaluate(node, *inputs):
    """What a node gives in float64."""
    if node.op_type == "Erf":  # which onnx's evaluator computes in float32
        return erf(inputs[0])
    if node.op_type == "Cast":
        return inputs[0]
    names = dict(zip(node.input, inputs, strict=True))
    return ReferenceEvaluator(node, opsets={"": 13}).run(None, names)[0]


def bound(node, inputs, radii, y):
    """How far a node's float32 may be from y, where its inputs may be off by the radii."""
    kind, x, r = node.op_type, inputs[0], radii[0]
    if kind in KEPT:
        return r
    if kind in MOVED:
        return evaluate(node, r, *(radii if kind == "Concat" else inputs)[1:])
    if kind in SLOPES:
        inherited = SLOPES[kind] * r
        return inherited + FUNCTION * U * np.maximum(1, abs(y) + 2 * inherited)
    if kind in ("Conv", "Gemm"):
        weight, *bias = map(abs, inputs[1:])
        roundings = gamma(weight[0].size + 1, np.float32) + gamma(1, np.float32)
        return evaluate(
            node, r + roundings * (abs(x) + 2 * r), weight, *(roundings * b for b in bias)
        )
    if kind in ("GlobalAveragePool", "ReduceMean"):
        n = x.size // y.size
        return evaluate(node, r + gamma(n + 1, np.float32) * (abs(x) + 2 * r))
    return arithmetic(kind, x, r, y, *inputs[1:], *radii[1:])


def arithmetic(kind, x, r, y, other=0.0, s=0.0):
    """The bound of a few operations on numbers within r, and others within s, of their truth."""
    roundings, scale = 1, abs(y)
    match kind:
        case "Add" | "Sub":
            inherited = r + s
        case "Mul":
            inherited = r * (abs(other) + 2 * s) + (abs(x) + r) * s
        case "Div":  # by a constant
            inherited = (r + (abs(x) + r) * s / (abs(other) - s)) / abs(other)
        case "LeakyRelu":  # its slope is rounded, too
            inherited, roundings = r, 2
        case "HardSigmoid":  # x/6 + 1/2, and 1/6 is rounded, too
            inherited, roundings, scale = r / 6, 3, abs(x) / 6 + 0.5
        case "Softmax":  # e^(x − max) / Σ: the roundings of the differences, of eˣ, of the sum
            exponent = 2 * (r.max() + 2 * U * (abs(x) + 2 * r).max() + FUNCTION * U)
            inherited, roundings = y * np.exp(exponent) * np.expm1(exponent), x.shape[1]
        case _:
            raise NotImplementedError(kind)
    return inherited + gamma(roundings, np.float32) * (scale + 2 * inherited)
