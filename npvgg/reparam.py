"""Structural re-parameterization: three branches that fold exactly into one 3×3 convolution.

A block is trained with three branches and run with one convolution:

    train    y = BN(x ∗ w3) + BN(x ∗ w1) + BN(x)     3×3, 1×1, identity (where shapes allow it)
    deploy   y = x ∗ w + b

Nothing is approximated. Read this file from top to bottom and every step is one line of algebra:

1. At inference a batch norm multiplies and adds constants per channel, so it disappears into the
   convolution before it                                              `fuse_conv_bn`
2. A 1×1 kernel is a 3×3 kernel that is zero around its centre        `pad_1x1_to_3x3`
3. The identity is a 1×1 kernel: channel k reads channel k            `identity_kernel`
4. Convolution is linear: kernels add, biases add                     `reparameterize`

Source: Ding et al., RepVGG: Making VGG-style ConvNets Great Again, arXiv:2101.03697 §3.3; the same
algebra as `get_equivalent_kernel_bias` in DingXiaoH/RepVGG `repvgg.py` and `_get_kernel_bias` in
timm `byobnet.py`. Both of those fold in float32; here the fold is done in float64 and rounded once,
so our folded weights differ from theirs in the last bits, and are the more exact. Two variants of
the same algebra follow: `reparameterize_float32`, in the order of timm, for its bits, and
`reparameterized_terms`, the magnitudes that bounds on rounding are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from npvgg.ops import BN_EPS, Array, batch_norm, conv2d
from npvgg.rounding import whatever_seterr_says


@dataclass(frozen=True)
class BatchNorm:
    """An inference-time batch norm: gamma, beta as trained, mean, var as collected; all (K,)."""

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float = BN_EPS

    def __call__(self, x: Array) -> Array:
        """Normalize x (N, K, P, Q) by the running statistics, always."""
        return batch_norm(x, self.mean, self.var, self.gamma, self.beta, self.eps)


@dataclass(frozen=True)
class ConvBN:
    """A bias-free convolution, weight (K, C/G, R, R), and the batch norm behind it."""

    weight: Array
    bn: BatchNorm


@dataclass(frozen=True)
class Branches:
    """A block as it is trained. `identity` is None where the block changes size, channels or
    dilation.
    """

    conv_kxk: ConvBN
    conv_1x1: ConvBN
    identity: BatchNorm | None

    def __call__(self, x: Array, *, stride: int, dilation: int, groups: int) -> Array:
        """Run the three branches and add them: x (N, C, H, W) → (N, K, P, Q).

        The 3×3 kernel is padded by its dilation and the 1×1 kernel not at all: both are centred on
        the same pixel.
        """
        kxk = conv2d(
            x,
            self.conv_kxk.weight,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=groups,
        )
        y = self.conv_kxk.bn(kxk)
        y += self.conv_1x1.bn(conv2d(x, self.conv_1x1.weight, stride=stride, groups=groups))
        if self.identity is not None:
            y += self.identity(x)
        return y


@dataclass(frozen=True)
class FusedConv:
    """A block as it is deployed: one convolution, weight (K, C/G, 3, 3), bias (K,)."""

    weight: Array
    bias: Array

    def __call__(self, x: Array, *, stride: int, dilation: int, groups: int) -> Array:
        """Run the convolution: x (N, C, H, W) → (N, K, P, Q)."""
        return conv2d(
            x,
            self.weight,
            self.bias,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=groups,
        )


@whatever_seterr_says
def fuse_conv_bn(weight: Array, bn: BatchNorm) -> FusedConv:
    """Fold a batch norm into the bias-free convolution before it:

        t[k]  = gamma[k] / √(var[k] + eps)
        w'[k] = w[k] · t[k]            b'[k] = beta[k] − mean[k] · t[k]

    weight: (K, C/G, R, S)   bn: (K,) each   →   w': (K, C/G, R, S), b': (K,), all in float64
    """
    gamma, beta, mean, var = (a.astype(np.float64) for a in (bn.gamma, bn.beta, bn.mean, bn.var))
    t = gamma / np.sqrt(var + bn.eps)
    scaled = np.multiply(weight, t[:, None, None, None], dtype=np.float64)
    return FusedConv(scaled, beta - mean * t)


def pad_1x1_to_3x3(weight: Array) -> Array:
    """Set a 1×1 kernel into the centre of 3×3 zeros: (K, C/G, 1, 1) → (K, C/G, 3, 3)."""
    padded = np.zeros((*weight.shape[:2], 3, 3), weight.dtype)
    padded[:, :, 1:2, 1:2] = weight
    return padded


def identity_kernel(channels: int, groups: int) -> Array:
    """Write "output channel k is input channel k" as a 1×1 kernel:  w[k, k mod (C/G)] = 1, else 0.

    Inside its group, input channel k has the number k mod (C/G); [k, k] would be wrong for G > 1.

    → (C, C/G, 1, 1) float64
    """
    group_size = channels // groups
    kernel = np.zeros((channels, group_size, 1, 1))
    kernel[np.arange(channels), np.arange(channels) % group_size] = 1
    return kernel


@whatever_seterr_says
def reparameterize(branches: Branches, *, groups: int, dtype: Any = None) -> FusedConv:
    """Fold a block's branches into its one convolution:

        w = w3' + pad(w1') + pad(w_id')            b = b3' + b1' + b_id'

    with w', b' from `fuse_conv_bn`. Computed in float64, rounded once to `dtype` (that of the 3×3
    kernel by default).

    Exact in real arithmetic, for any stride, dilation and groups. In floating point the folded
    block and the branches differ by rounding; `npvgg.testing` states how much.
    """
    conv = branches.conv_kxk
    folded = fuse_conv_bn(conv.weight, conv.bn)
    weight, bias = folded.weight, folded.bias
    pointwise = [(branches.conv_1x1.weight, branches.conv_1x1.bn)]
    if branches.identity is not None:
        pointwise.append((identity_kernel(len(conv.weight), groups), branches.identity))
    for kernel, bn in pointwise:
        folded = fuse_conv_bn(kernel, bn)
        weight += pad_1x1_to_3x3(folded.weight)
        bias += folded.bias
    dtype = dtype or conv.weight.dtype
    return FusedConv(weight.astype(dtype), bias.astype(dtype))


# --- Variants -------------------------------------------------------------------------------------


@whatever_seterr_says
def reparameterize_float32(branches: Branches, *, groups: int) -> FusedConv:
    """Fold a block in float32, each operation rounded as IEEE 754 has it, in timm's order:

        std = √(var + eps)      t = gamma / std      w' = w · t      b' = beta − mean · gamma / std
        w = w3' + pad(w1') + pad(w_id')              b = b3' + b1' + b_id'

    torch's own sqrt is not always correctly rounded; where it is, the bits are timm's.

    Source: timm 1.0.31 `byobnet.py` `RepVggBlock._get_kernel_bias`, `_fuse_bn_tensor`.
    """
    folded = [_fuse_float32(kernel, bn) for kernel, bn in _as_3x3(branches, groups)]
    weight, bias = folded[0].weight, folded[0].bias
    for other in folded[1:]:
        weight, bias = weight + other.weight, bias + other.bias
    dtype = branches.conv_kxk.weight.dtype
    return FusedConv(weight.astype(dtype), bias.astype(dtype))


def _fuse_float32(weight: Array, bn: BatchNorm) -> FusedConv:
    gamma, beta, mean, var = (a.astype(np.float32) for a in (bn.gamma, bn.beta, bn.mean, bn.var))
    std = np.sqrt(var + np.float32(bn.eps))
    t = (gamma / std)[:, None, None, None]
    return FusedConv(weight.astype(np.float32) * t, beta - mean * gamma / std)


def reparameterized_terms(branches: Branches, *, groups: int, floor: float = 0.0) -> FusedConv:
    """Sum the magnitudes of all products and summands of a fold, Σ |terms|, in float64:

        w = Σ |w_i| · |t_i|            b = Σ |beta_i| + |mean_i| · |t_i|         i: the branches

    A fold whose every term goes through n roundings is off by at most γ_n times that.

    floor: added to the magnitude of every number that was stored, for types with subnormals
    """
    weight: Array = np.zeros(())
    bias: Array = np.zeros(())
    for kernel, bn in _as_3x3(branches, groups):
        t = (np.abs(bn.gamma) + floor) / np.sqrt(bn.var + bn.eps)
        weight = weight + (np.abs(kernel) + floor) * t[:, None, None, None]
        bias = bias + np.abs(bn.beta) + floor + (np.abs(bn.mean) + floor) * t
    return FusedConv(weight, bias)


def _as_3x3(branches: Branches, groups: int) -> Iterator[tuple[Array, BatchNorm]]:
    """Return the kernel of each branch as a 3×3 kernel, unfolded, with its batch norm."""
    yield branches.conv_kxk.weight, branches.conv_kxk.bn
    yield pad_1x1_to_3x3(branches.conv_1x1.weight), branches.conv_1x1.bn
    if branches.identity is not None:
        identity = identity_kernel(len(branches.conv_kxk.weight), groups)
        yield pad_1x1_to_3x3(identity), branches.identity


FOLDS = {"float64": reparameterize, "float32": reparameterize_float32}
"""The arithmetic of a fold → the function that folds a block in it."""
