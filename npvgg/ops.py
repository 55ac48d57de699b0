"""What each operation means, in plain NumPy, for float32 and float64 alike.

These functions are the text that every engine answers to. They are written to be read, and only
then to be quick: a convolution is the matrix product of its windows with its kernel, nothing else.

Letters: a capital is a size, a small letter an index.

    N n image    C c input channel    K k output channel    G g group
    H W h w input row, column         P Q p q output row, column        R S r s kernel row, column

Imports NumPy only; SciPy where a function needs its special functions. `whatever_seterr_says`: an
underflow to 0 is no error, whatever the caller's program has asked NumPy for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import ArgumentError
from npvgg.rounding import whatever_seterr_says

Array: TypeAlias = NDArray[Any]
"""float32 or float64; every function returns the dtype that it is given."""

BN_EPS = 1e-5
"""The eps of every batch norm, upstream's as well as ours (`torch.nn.BatchNorm2d` default)."""


@whatever_seterr_says
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """Correlate each image with each kernel, zero-padded, and add the bias:

        y[n,k,p,q] = b[k] + Σ_{c,r,s} x[n, g·C/G + c, p·stride + r·dilation − padding, q·stride + …]
        · w[k,c,r,s]

    with g = k // (K/G), the group of output channel k.

    x: (N, C, H, W)   weight: (K, C/G, R, S)   bias: (K,)   →   (N, K, P, Q)
    P = (H + 2·padding − dilation·(R − 1) − 1) // stride + 1, likewise Q; both must be at least 1.

    The windows are laid out as the columns of one matrix per image and group (im2col), so that the
    sum over (c, r, s) is a matrix product; a 1×1 kernel of stride 1 needs no copy.

    Source: the operator of `torch.nn.functional.conv2d`.
    """
    n, c = x.shape[:2]
    k, c_group, r, s = weight.shape
    windows = sliding_windows(x, (r, s), stride=stride, padding=padding, dilation=dilation)
    p, q = windows.shape[2:4]
    cols = windows.transpose(0, 1, 4, 5, 2, 3)  # (N, C, P, Q, R, S) -> (N, C, R, S, P, Q)
    cols = cols.reshape(n, groups, c // groups * r * s, p * q)
    kernels = weight.reshape(groups, k // groups, c_group * r * s)
    y = (kernels @ cols).reshape(n, k, p, q)
    if bias is not None:
        y += bias[:, None, None]
    return y


def sliding_windows(
    x: Array, size: tuple[int, int], *, stride: int, padding: int, dilation: int
) -> Array:
    """View every window of the zero-padded x: windows[n,c,p,q,r,s] = x[n, c, p·stride + r·dilation
    − padding, …].

    x: (N, C, H, W)   →   (N, C, P, Q, R, S), read-only, sharing memory
    """
    if padding:
        n, c, h, w = x.shape
        padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding), x.dtype)
        padded[:, :, padding : padding + h, padding : padding + w] = x
        x = padded
    span = tuple(dilation * (taps - 1) + 1 for taps in size)
    windows = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    return windows[:, :, ::stride, ::stride, ::dilation, ::dilation]


@whatever_seterr_says
def batch_norm(x: Array, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """Normalize each channel by its running statistics:  y[n,k] = (x[n,k] − mean[k]) · gamma[k] /
    √(var[k] + eps) + beta[k]

    x: (N, K, P, Q)   the others: (K,)   →   (N, K, P, Q)

    Source: Ioffe & Szegedy, arXiv:1502.03167, algorithm 2 (inference).
    """
    scale = gamma / np.sqrt(var + x.dtype.type(eps))
    y = x - mean[:, None, None]
    y *= scale[:, None, None]
    y += beta[:, None, None]
    return y


@whatever_seterr_says
def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Map features to classes:  y[n,k] = b[k] + Σ_c x[n,c] · w[k,c].

    x: (N, C)   weight: (K, C)   bias: (K,)   →   (N, K)
    """
    y: Array = x @ weight.T + bias
    return y


@whatever_seterr_says
def global_pool(x: Array, kind: str) -> Array:
    """Reduce each map to one number per channel: its mean ("avg"), its maximum ("max"), or both.

    x: (N, C, H, W)   →   (N, C)
    "avgmax" is half their sum, "catavgmax" has both side by side, (N, 2·C), "" leaves x as it is.

    Source: timm `layers/adaptive_avgmax_pool.py`.
    """
    if not kind:
        return x
    mean: Array = x.mean(axis=(2, 3))
    maximum: Array = x.max(axis=(2, 3))
    match kind:
        case "avg":
            return mean
        case "max":
            return maximum
        case "avgmax":
            return 0.5 * (mean + maximum)
        case "catavgmax":
            return np.concatenate([mean, maximum], axis=1)
    raise ArgumentError(f"global_pool: expected avg, max, avgmax, catavgmax or '', got {kind!r}")


# --- Activations ----------------------------------------------------------------------------------
# Python floats are weak scalars in NumPy: they take the dtype of the array and never widen it.


def relu(x: Array) -> Array:
    """Cut at zero:  max(x, 0). A NaN stays a NaN."""
    y: Array = np.maximum(x, x.dtype.type(0))
    return y


def sigmoid(x: Array) -> Array:
    """Squash to 0 … 1:  1 / (1 + e⁻ˣ), without overflow."""
    from scipy.special import expit

    y: Array = expit(x)
    return y


def hard_sigmoid(x: Array) -> Array:
    """Squash to 0 … 1 in three straight pieces:  min(max(x + 3, 0), 6) / 6."""
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0


def gelu(x: Array) -> Array:
    """Weigh by the normal distribution function:  x · (1 + erf(x / √2)) / 2, arXiv:1606.08415."""
    from scipy.special import erf

    y: Array = 0.5 * x * (1.0 + erf(x * 0.5**0.5))
    return y


def gelu_tanh(x: Array) -> Array:
    """Approximate GELU with tanh:  x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2."""
    with np.errstate(over="ignore"):  # x³ may be infinite: its tanh is still ±1
        y: Array = 0.5 * x * (1.0 + np.tanh((2.0 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    return y


def mish(x: Array) -> Array:
    """Weigh by the tanh of softplus:  x · tanh(log(1 + eˣ)), arXiv:1908.08681."""
    with np.errstate(invalid="ignore"):  # logaddexp complains of a NaN that it passes on
        y: Array = x * np.tanh(np.logaddexp(x.dtype.type(0), x))
    return y


def elu(x: Array, alpha: float = 1.0) -> Array:
    """Bend below zero:  x where x > 0, else alpha · (eˣ − 1) (arXiv:1511.07289)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, x.dtype.type(0))))


def selu(x: Array) -> Array:
    """scale · elu(x, alpha), with the two constants of arXiv:1706.02515, eq. 14."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


class Activation(NamedTuple):
    """What is known of an activation; one row of `ACTIVATIONS`.

    formula:   the arithmetic, element by element, in the dtype of its argument
    equation:  y as a formula of x, in one line, as the kit's packs say it
    lipschitz: sup |f′|, rounded up: by so much an error of x may grow
    """

    formula: Callable[[Array], Array]
    equation: str
    lipschitz: float


_SIGMOID, _CUT = "1 / (1 + e⁻ˣ)", "min(max(x + 3, 0), 6) / 6"
_SILU = Activation(lambda x: x * sigmoid(x), "x / (1 + e⁻ˣ)", 1.1)
_ELU = Activation(elu, "x where x > 0, else eˣ − 1", 1.0)

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({
    "relu": Activation(relu, "max(x, 0)", 1.0),
    "relu6": Activation(lambda x: np.clip(x, 0.0, 6.0), "min(max(x, 0), 6)", 1.0),
    "leaky_relu": Activation(
        lambda x: np.where(x > 0, x, 0.01 * x), "x where x > 0, else 0.01·x", 1.0
    ),
    "silu": _SILU,
    "swish": _SILU,
    "gelu": Activation(gelu, "x · (1 + erf(x / √2)) / 2", 1.13),
    "gelu_tanh": Activation(
        gelu_tanh, "x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2", 1.13
    ),
    "quick_gelu": Activation(lambda x: x * sigmoid(1.702 * x), "x / (1 + e^(−1.702·x))", 1.1),
    "mish": Activation(mish, "x · tanh(log(1 + eˣ))", 1.1),
    "elu": _ELU,
    "celu": _ELU,  # celu(x, alpha=1) is elu(x, alpha=1)
    "selu": Activation(selu, "1.0507·x where x > 0, else 1.7581·(eˣ − 1)", 1.7581),
    "sigmoid": Activation(sigmoid, _SIGMOID, 0.25),
    "tanh": Activation(np.tanh, "tanh(x)", 1.0),
    "hard_sigmoid": Activation(hard_sigmoid, _CUT, 1 / 6),
    "hard_swish": Activation(lambda x: x * hard_sigmoid(x), f"x · {_CUT}", 1.5),
    "hard_mish": Activation(
        lambda x: 0.5 * x * np.clip(x + 2.0, 0.0, 2.0), "x · min(max(x + 2, 0), 2) / 2", 1.0
    ),
    "identity": Activation(lambda x: x, "x", 1.0),
})  # fmt: skip
"""Activation by timm's name. Sources: the papers named above; timm `layers/create_act.py` for the
list.

A row is all that npvgg knows of one, but for its nodes in `export.layers` and, where it takes an
exponential, its float64 in `testing.steady`.
"""


def activation(name: str) -> Callable[[Array], Array]:
    """Look an activation's formula up; raise ArgumentError for an unknown name."""
    if name not in ACTIVATIONS:
        raise ArgumentError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return whatever_seterr_says(ACTIVATIONS[name].formula)


# --- Outputs --------------------------------------------------------------------------------------


class TopK(NamedTuple):
    """The k largest values, largest first, and where they are, int64."""

    values: Array
    indices: NDArray[np.int64]


@whatever_seterr_says
def softmax(x: Array, axis: int | None = None, *, dim: int | None = None) -> Array:
    """Turn logits into probabilities: e^(x − max x) / Σ e^(x − max x) along an axis.

    x: any shape, floating point   →   the same shape and dtype; integers become float64
    axis: the last by default; dim is the same, in torch's word
    Raises ArgumentError unless there is such an axis.
    """
    x = as_array("x", x)
    axis = _checked_axis(x, axis, dim)
    shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    y: Array = shifted / shifted.sum(axis=axis, keepdims=True)
    return y


def probabilities(logits: Array) -> Array:
    """Turn a classifier's logits into probabilities: (N, K) → (N, K).

        K > 1: softmax over the classes          K = 1: 1 / (1 + e^−x), of the one class

    One logit tells "yes" from "no", as binary cross-entropy trains it; its softmax is always 1.
    """
    return activation("sigmoid")(logits) if logits.shape[-1] == 1 else softmax(logits, axis=-1)


def topk(x: Array, k: int, axis: int | None = None, *, dim: int | None = None) -> TopK:
    """Find the k largest values along an axis, largest first, and where they are.

    x: any shape   →   (values, indices) with k entries along the axis.
    axis: the last by default; dim is the same, in torch's word
    Of equal values the lower index comes first, so the answer never depends on the platform
    (PyTorch promises no order of ties). A NaN counts as the largest, as in PyTorch, so it is seen.
    Raises ArgumentError unless there is such an axis and 1 ≤ k ≤ its size.
    """
    x = as_array("x", x)
    axis = _checked_axis(x, axis, dim)
    size = x.shape[axis]
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= size:
        raise ArgumentError(f"k: expected 1 … {size} (the size of axis {axis}), got {k!r}")
    # Sorted upwards and read backwards: -x would wrap for unsigned and for the least integers. The
    # two flips keep the order of ties.
    order = np.flip(size - 1 - np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    indices = np.take(order, np.arange(k), axis=axis).astype(np.int64)
    return TopK(np.take_along_axis(x, indices, axis=axis), indices)


def _checked_axis(x: Array, axis: int | None, dim: int | None) -> int:
    if axis is not None and dim is not None:
        raise ArgumentError("dim: expected axis or dim, got both")
    name, axis = ("dim", dim) if dim is not None else ("axis", -1 if axis is None else axis)
    if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
        raise ArgumentError(
            f"{name}: expected an axis of x, whose shape is {x.shape}, got {axis!r}"
        )
    return axis


def as_array(name: str, x: object) -> Array:
    """Make an array of what a caller gives; raise ArgumentError for a torch tensor.

    NumPy takes some tensors and not others, by dtype, device, and whether they require gradients.
    """
    if type(x).__module__.partition(".")[0] == "torch":
        raise ArgumentError(
            f"{name}: expected a NumPy array, got a torch {type(x).__name__}; "
            f"{name}.detach().cpu().float().numpy() is one"
        )
    return np.asarray(x)
