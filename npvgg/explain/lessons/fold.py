"""One block, folded step by step: three kernels, scaled by their batch norms, padded, added."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npvgg import reparam
from npvgg.explain import subject
from npvgg.explain.lesson import UNLISTED, Lesson
from npvgg.model import RepVGG
from npvgg.network import Block
from npvgg.ops import Array, conv2d
from npvgg.pages.parts import (
    Bars,
    Document,
    Formula,
    Heading,
    Heat,
    Paragraph,
    Source,
    Step,
    Steps,
    Table,
)
from npvgg.reparam import BatchNorm, ConvBN, FusedConv, fuse_conv_bn, identity_kernel
from npvgg.rounding import gamma
from npvgg.testing.bounds.gates import BN_ROUNDINGS

SHOWN = 64
"""Channels of the grids that are drawn."""


@dataclass(frozen=True)
class BranchRow:
    """One branch after its batch norm.

    energy_share: ‖w'‖² of ‖w3'‖² + ‖w1'‖² + ‖w_id'‖²      norm: ‖w'‖
    largest_over_std: max |w'| / σ(w') over its own taps; stored_…: of the kernel before its norm
    kernel: (K, C/G, 3, 3) float64, scaled and padded      bias: (K,)
    """

    name: str
    energy_share: float
    largest_over_std: float
    stored_largest_over_std: float
    norm: float
    kernel: Array = field(metadata=UNLISTED)
    bias: Array = field(metadata=UNLISTED)


@dataclass(frozen=True)
class Folded:
    """The one convolution; taps: (3, 3), each tap's share of ‖w‖²."""

    energy_share_centre: float
    largest_over_std: float
    norm: float
    taps: Array
    kernel: Array = field(metadata=UNLISTED)
    bias: Array = field(metadata=UNLISTED)


@dataclass(frozen=True)
class Example:
    """One 3×3 window of the kernel, from input channel c to output channel k, on its way.

    stored: branch → its kernel as it is stored      factor: branch → γ/√(var + eps)
    scaled: branch → stored · factor, padded to 3×3      total: their sum
    bias: branch → β − mean · factor
    """

    input_channel: int
    stored: dict[str, Array]
    factor: dict[str, float]
    scaled: dict[str, Array]
    total: Array
    bias: dict[str, float]
    total_bias: float


@dataclass(frozen=True, eq=False, repr=False)
class FoldLesson(Lesson):
    """The fold of one block, and what it does on a photo, in float32.

    difference: the largest |branches(x) − folded(x)|      bound: the derived bound, where it is
    share_of_bound: the largest share of its bound that the difference is at any number
    largest_output: max |branches(x)|, to compare with
    """

    model: str
    block: str
    channel: int
    groups: int
    branches: tuple[BranchRow, ...]
    folded: Folded
    example: Example
    photo: str
    difference: float
    bound: float
    share_of_bound: float
    largest_output: float
    parameters: dict[str, int]

    def document(self) -> Document:
        """Return the steps, the shares, the grids, the photo."""
        return Document(
            self.says("Folding {block} of {model}"),
            (
                Paragraph(
                    "A block is trained as a sum of branches, each with a batch norm, and run as "
                    "one convolution. Nothing is approximated: convolution is linear, and a batch "
                    "norm at inference multiplies and adds constants."
                ),
                Formula("t[k] = {γ[k] / √(var[k] + eps)}"),
                Formula("w'[k] = w[k] · t[k]"),
                Formula("b'[k] = β[k] − mean[k] · t[k]"),
                Formula("w = w[3]' + pad(w[1]') + pad(w[id]')"),
                Heading(
                    self.says("From input channel {example[input_channel]} to output {channel}")
                ),
                Steps(tuple(self._steps())),
                Heading("What each branch brings"),
                Table(
                    ("branch", "share of energy", "largest / σ", "before its norm", "norm"),
                    (
                        *(
                            (
                                b.name,
                                f"{b.energy_share:.2%}",
                                f"{b.largest_over_std:.1f}",
                                f"{b.stored_largest_over_std:.1f}",
                                f"{b.norm:.3g}",
                            )
                            for b in self.branches
                        ),
                        (
                            "folded",
                            "",
                            f"{self.folded.largest_over_std:.1f}",
                            "",
                            f"{self.folded.norm:.3g}",
                        ),
                    ),
                    self.says(
                        "The centre tap of the folded kernel holds "
                        "{folded[energy_share_centre]:.1%} of its energy; its largest weight is "
                        "{folded[largest_over_std]:.1f} standard deviations, "
                        "{branches[0][largest_over_std]:.1f} in the 3×3 branch."
                    ),
                ),
                Bars(
                    {b.name: 100 * b.energy_share for b in self.branches},
                    "Each branch's share of the energy, the sum of squares of its scaled kernel.",
                    unit=" %",
                ),
                Heat(
                    {"share of the energy at each tap": 100 * self.folded.taps},
                    "The folded kernel, tap by tap, in per cent of its energy.",
                    digits=2,
                ),
                *self._grids(),
                Heading("The same numbers?"),
                Paragraph(
                    self.says(
                        "On {photo}, in float32, branches and folded convolution differ by at most "
                        "{difference:.2g}, where the largest output is {largest_output:.3g}. Both "
                        "round; how far they can be apart is a theorem, and it says {bound:.2g} at "
                        "that number. Nowhere is more than {share_of_bound:.1%} of the bound used."
                    )
                ),
                Formula(
                    "|y_train − y_deploy| ≤ 2 · γ_n · Σ{branches} t · (|x| ∗ |w| + |mean|) + |β|"
                ),
                Paragraph(
                    self.says(
                        "And it cannot be undone: {parameters[train]:,} learned numbers became "
                        "{parameters[deploy]:,}, and many sets of branches have the same sum."
                    )
                ),
                Source("npvgg.reparam.reparameterize", inspect.getsource(reparam.reparameterize)),
            ),
        )

    def _steps(self) -> list[Step]:
        e = self.example
        factors = ", ".join(f"{name} {value:.4g}" for name, value in e.factor.items())
        biases = " + ".join(f"({value:.4g})" for value in e.bias.values())
        return [
            Step("the kernels as they are stored", (
                Heat(e.stored, "The identity is a kernel, too: a one where the input channel is "
                     "the output channel, inside its group." if "identity" in e.stored else
                     "This block has no identity branch.", digits=3),
            )),
            Step("scaled by their batch norms, and padded", (
                Heat(e.scaled, f"The factors t are {factors}.", digits=3),
            )),
            Step("added", (
                Heat({"folded": e.total}, f"The bias is {biases} = {e.total_bias:.4g}.", digits=3),
            )),
        ]  # fmt: skip

    def _grids(self) -> list[Heat]:
        grids = {b.name: b.kernel[:SHOWN, :SHOWN, 1, 1] for b in self.branches}
        grids["folded"] = self.folded.kernel[:SHOWN, :SHOWN, 1, 1]
        diagonal = "The identity branch is a diagonal." if "identity" in grids else ""
        group = (
            " Of a grouped block the diagonal begins anew in each group: channel k reads k mod "
            "(C/G)." if self.groups > 1 and diagonal else ""
        )  # fmt: skip
        return [
            Heat(
                grids,
                "The centre taps: a row for each output channel, a column for each input channel. "
                f"{diagonal}{group}",
                digits=-1,
            )
        ]


def fold(
    model: RepVGG, block: str | None = None, channel: int | None = None, photo: Any = None
) -> FoldLesson:
    """Fold a block before the reader's eyes.

    model: in train form      block: "stages.0.1", the first with an identity branch by default
    channel: the output channel whose numbers are shown, by default that of the largest weight
    photo: on which branches and fold are compared

    Raises ArgumentError, which says what can be shown instead, ImageError.
    """
    net = subject.network_of(model)
    chosen = subject.named(net, block, branches=True)
    form, spec = subject.branches_of(chosen), chosen.spec
    kernels = {"3×3": form.conv_kxk, "1×1": form.conv_1x1}
    if form.identity is not None:
        one = identity_kernel(spec.out_chs, spec.groups)
        kernels["identity"] = ConvBN(one, form.identity)
    fused = {name: fuse_conv_bn(conv.weight, conv.bn) for name, conv in kernels.items()}
    energy = sum(float((f.weight**2).sum()) for f in fused.values()) or 1.0
    rows = tuple(
        BranchRow(
            name,
            energy_share=float((f.weight**2).sum()) / energy,
            largest_over_std=_outlier(f.weight),
            stored_largest_over_std=_outlier(kernels[name].weight),
            norm=float(np.sqrt((f.weight**2).sum())),
            kernel=_padded(f.weight),
            bias=f.bias,
        )
        for name, f in fused.items()
    )
    total = reparam.reparameterize(form, groups=spec.groups, dtype=np.float64)
    squares = total.weight**2
    taps = squares.sum((0, 1)) / (squares.sum() or 1.0)
    largest = int(np.abs(total.weight).max((1, 2, 3)).argmax())
    k = subject.index_below("channel", channel, spec.out_chs, largest)
    x, name = _image(model, photo)
    x = subject.input_of(net, spec.name, x)
    return FoldLesson(
        model=model.name,
        block=spec.name,
        channel=k,
        groups=spec.groups,
        branches=rows,
        folded=Folded(
            float(taps[1, 1]), _outlier(total.weight), float(np.sqrt(squares.sum())), taps,
            total.weight, total.bias,
        ),
        example=_example(kernels, fused, total, k),
        photo=name,
        parameters=_parameters(kernels, total),
        **_compared(chosen, x),
    )  # fmt: skip


def _image(model: RepVGG, photo: Any) -> tuple[Array, str]:
    """Return the photo, or noise for a network that sees none."""
    if photo is None and model.config.in_chans not in (1, 3):
        return subject.noise(subject.network_of(model)), "noise"
    return subject.image(model, photo)


def _parameters(kernels: dict[str, ConvBN], total: FusedConv) -> dict[str, int]:
    learned = sum(
        (conv.weight.size if name != "identity" else 0) + 2 * conv.bn.gamma.size
        for name, conv in kernels.items()
    )
    return {"train": learned, "deploy": total.weight.size + total.bias.size}


def _outlier(weight: Array) -> float:
    """Return the largest weight in units of their standard deviation; 0 of nothing but zeros."""
    std = float(weight.std(dtype=np.float64))
    return float(np.abs(weight).max()) / std if std else 0.0


def _padded(weight: Array) -> Array:
    return weight if weight.shape[2] == 3 else reparam.pad_1x1_to_3x3(weight)


def _factor(bn: BatchNorm, k: int) -> float:
    return float(bn.gamma[k].astype(np.float64) / np.sqrt(bn.var[k].astype(np.float64) + bn.eps))


def _example(
    kernels: dict[str, ConvBN], fused: dict[str, FusedConv], total: FusedConv, k: int
) -> Example:
    c = int(np.abs(total.weight[k]).max((1, 2)).argmax())
    return Example(
        input_channel=c,
        stored={n: conv.weight[k, c].astype(np.float64) for n, conv in kernels.items()},
        factor={n: _factor(conv.bn, k) for n, conv in kernels.items()},
        scaled={n: _padded(f.weight)[k, c] for n, f in fused.items()},
        total=total.weight[k, c],
        bias={n: float(f.bias[k]) for n, f in fused.items()},
        total_bias=float(total.bias[k]),
    )


def _compared(block: Block, x: Array) -> dict[str, float]:
    """Branches and fold on the same x, float32, and the bound of their difference.

    Each is off by at most γ_n · mass, where mass = Σ_branches t · (|x| ∗ |w| + |mean|) + |β| and n
    counts the roundings on a term's way: products and sums of the 3×3 branch, its batch norm, the
    sum of the branches. The fold has fewer.
    """
    form, spec = subject.branches_of(block), block.spec
    options = subject.how(block)
    y_train = form(x, **options)
    y_deploy = reparam.reparameterize(form, groups=spec.groups)(x, **options)
    size = np.abs(x).astype(np.float64)
    wide: dict[str, Any] = {"stride": spec.stride, "groups": spec.groups}
    mass = _mass(
        conv2d(
            size, np.abs(form.conv_kxk.weight).astype(np.float64),
            padding=spec.dilation, dilation=spec.dilation, **wide,
        ),
        form.conv_kxk.bn,
    )  # fmt: skip
    pointwise = np.abs(form.conv_1x1.weight).astype(np.float64)
    mass += _mass(conv2d(size, pointwise, **wide), form.conv_1x1.bn)
    if form.identity is not None:
        mass += _mass(size, form.identity)
    bound = 2 * gamma(form.conv_kxk.weight[0].size + BN_ROUNDINGS + 2) * mass
    error = np.abs(y_train.astype(np.float64) - y_deploy)
    at = np.unravel_index(int(error.argmax()), error.shape)
    share = np.divide(error, bound, out=np.zeros_like(error), where=error > 0)
    return {
        "difference": float(error[at]),
        "bound": float(bound[at]),
        "share_of_bound": float(share.max()),
        "largest_output": float(np.abs(y_train).max()),
    }


def _mass(absolute: Array, bn: BatchNorm) -> Array:
    mean, beta, g, var = (a.astype(np.float64) for a in (bn.mean, bn.beta, bn.gamma, bn.var))
    t = np.abs(g) / np.sqrt(var + bn.eps)
    total: Array = (
        t[:, None, None] * (absolute + np.abs(mean)[:, None, None]) + np.abs(beta)[:, None, None]
    )
    return total
