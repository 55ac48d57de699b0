"""Why eight bits are not enough for a folded kernel: measured here, not quoted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from npvgg.engines.reference import forward_block, forward_head
from npvgg.explain import subject
from npvgg.explain.lesson import UNLISTED, Lesson
from npvgg.model import RepVGG
from npvgg.network import Network
from npvgg.ops import Array, probabilities
from npvgg.pages.parts import Bars, Document, Exercise, Formula, Heading, Paragraph, Table
from npvgg.reparam import FusedConv, fuse_conv_bn, identity_kernel, pad_1x1_to_3x3

LEVELS = 127
"""The largest integer of eight bits with a sign, used symmetrically."""

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Kernel:
    """One kernel in eight bits.

    of: "3×3", "1×1", "identity" or "folded"      per: "tensor" or "channel", which has a step
    largest_over_std: max |w| / σ      zeros: share of its weights, not 0, that become 0
    bits: log2 of the number of levels that the typical weight, of size σ, is away from 0
    error: ‖ŵ − w‖ / ‖w‖; error_off_centre: the same over the eight taps around the centre
    """

    of: str
    per: str
    largest_over_std: float
    zeros: float
    bits: float
    error: float
    error_off_centre: float


@dataclass(frozen=True)
class Run:
    """The whole network with its kernels in eight bits, on the photo.

    error: the largest |logit − right| over the largest |logit|      top: its class
    """

    kernels: str
    per: str
    error: float
    top: str
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class QuantizeLesson(Lesson):
    """One block's kernels and the whole network in eight bits.

    centred: share of the folded kernel's output channels whose largest weight is at the centre
    histogram: of the kernel's integers |q|, per tensor: of what → share per range of `ranges`
    """

    model: str
    block: str
    photo: str
    kernels: tuple[Kernel, ...]
    runs: tuple[Run, ...]
    ranges: tuple[str, ...]
    histogram: dict[str, tuple[float, ...]]
    top: str
    probability: float
    outliers: dict[str, float]
    worst_block: str
    worst: float
    centred: float
    folded: Array = field(metadata=UNLISTED)

    def document(self) -> Document:
        """Return the cause, the histogram, the errors."""
        return Document(
            self.says("Eight bits: {block} of {model}"),
            (
                Paragraph(
                    f"An int8 kernel has {2 * LEVELS + 1} values, evenly spaced from the largest "
                    "weight down to its negative. One large weight therefore makes the step "
                    "coarse for all others. Folding may put such weights there: all branches but "
                    "the 3×3 add to the centre tap alone."
                ),
                Formula("q = round({w / s}),     s = {max|w| / 127}"),
                Table(
                    ("kernel", "one step per", "largest / σ", "bits for σ", "become zero", "error",
                     "error around the centre"),
                    tuple(
                        (
                            k.of, k.per, f"{k.largest_over_std:.1f}", f"{k.bits:.1f}",
                            f"{k.zeros:.1%}", f"{k.error:.2%}", f"{k.error_off_centre:.2%}",
                        )
                        for k in self.kernels
                    ),
                    self.says(
                        "Around the centre there is the 3×3 branch alone, and its error there is "
                        "{before:.2%} on its own and {after:.2%} in the folded kernel, one step "
                        "for each.",
                        before=self._around("3×3"), after=self._around("folded"),
                    ),
                ),
                *(
                    Bars(
                        {f"|q| {name}": 100 * share for name, share in
                         zip(self.ranges, shares, strict=True)},
                        f"{of}, one step for the whole kernel: where its integers lie.",
                        unit=" %",
                    )
                    for of, shares in self.histogram.items()
                ),
                Bars(
                    self.outliers,
                    self.says(
                        "Largest weight over σ of every folded kernel; the worst is {worst_block} "
                        "with {worst:.0f}."
                    ),
                ),
                Heading("The whole network"),
                Table(
                    ("kernels in int8", "one step per", "error of the logits", "class",
                     "probability"),
                    (
                        ("none", "", "0", self.top, f"{self.probability:.2%}"),
                        *(
                            (r.kernels, r.per, f"{r.error:.2%}", r.top, f"{r.probability:.2%}")
                            for r in self.runs
                        ),
                    ),
                    self.says(
                        "On {photo}; activations stay in float32, so this is the kernels' part "
                        "alone."
                    ),
                ),
                Paragraph(
                    "Published figures differ widely: RepVGG-A0 was reported to fall from 72.4 to "
                    "52.2 % (Chu et al., QARepVGG, arXiv:2212.01593), others lose little with "
                    "calibrated, per-channel steps. The cause is the same, and it can be read off "
                    "the kernel before anything is quantized."
                ),
                Exercise(
                    "One step per output channel: in how many of the folded kernel's channels is "
                    "it set by the centre tap?",
                    self.says(
                        "In {centred:.0%} of them the largest weight is at the centre. The error "
                        "around it is {channel:.2%} with a step for each channel, {after:.2%} with "
                        "one for all.",
                        centred=self.centred, channel=self._around("folded", "channel"),
                        after=self._around("folded"),
                    ),
                ),
            ),
        )  # fmt: skip

    def _around(self, of: str, per: str = "tensor") -> float:
        """Return the error around the centre of one kernel."""
        return next(k.error_off_centre for k in self.kernels if (k.of, k.per) == (of, per))


def quantize(model: RepVGG, block: str | None = None, photo: Any = None) -> QuantizeLesson:
    """Show what eight bits do to a block's kernels, in branches and folded, and to the network.

    model: in train form      block: that of the largest weight over σ by default

    Raises ArgumentError, ImageError.
    """
    net = subject.network_of(model)
    subject.named(net, block, branches=True)
    subject.check_classifier(net)
    deploy = net.reparameterized()
    outliers = {b.spec.name: _outlier(subject.fused_of(b).weight) for b in deploy.blocks}
    worst = max(outliers, key=lambda key: outliers[key])
    chosen = subject.named(net, worst if block is None else block)
    kernels = _kernels(chosen)
    kernels["folded"] = np.add.reduce([_wide(k) for k in kernels.values()])
    rows = [
        _kernel(of, per, w)
        for of, w in kernels.items()
        for per in (("tensor", "channel") if of in ("3×3", "folded") else ("tensor",))
    ]
    x, name = subject.image(model, photo)
    right = _logits(deploy, x)
    forms = (("branches", "tensor"), ("folded", "tensor"), ("folded", "channel"))
    runs = [_run(model, net, deploy, x, right, what, per) for what, per in forms]
    top, probability = _top(model, right)
    return QuantizeLesson(
        model=model.name,
        block=chosen.spec.name,
        photo=name,
        kernels=tuple(rows),
        runs=tuple(runs),
        ranges=("is 0", *(f"{a} … {b - 1}" if b - a > 1 else f"is {a}"
                          for a, b in pairwise(STEPS[1:]))),
        histogram={of: _histogram(kernels[of]) for of in ("3×3", "folded")},
        top=top,
        probability=probability,
        outliers=outliers,
        worst_block=worst,
        worst=outliers[worst],
        centred=_centred(kernels["folded"]),
        folded=kernels["folded"],
    )  # fmt: skip


def _kernels(block: Any) -> dict[str, Array]:
    """Return the scaled kernels of a block's branches, float64."""
    form, spec = subject.branches_of(block), block.spec
    found = {
        "3×3": fuse_conv_bn(form.conv_kxk.weight, form.conv_kxk.bn).weight,
        "1×1": fuse_conv_bn(form.conv_1x1.weight, form.conv_1x1.bn).weight,
    }
    if form.identity is not None:
        one = identity_kernel(spec.out_chs, spec.groups)
        found["identity"] = fuse_conv_bn(one, form.identity).weight
    return found


def _wide(weight: Array) -> Array:
    return weight if weight.shape[2] == 3 else pad_1x1_to_3x3(weight)


def _step(weight: Array, per: str) -> Array:
    axes = (1, 2, 3) if per == "channel" else (0, 1, 2, 3)
    step: Array = np.abs(weight).max(axes, keepdims=True) / LEVELS
    return np.where(step == 0, 1.0, step)


def eight_bits(weight: Array, per: str) -> Array:
    """Round a kernel (K, C, R, S) to int8 and back: s · round(w / s), s = max|w| / 127."""
    step = _step(weight, per)
    rounded: Array = (np.round(weight / step) * step).astype(weight.dtype)
    return rounded


def _kernel(of: str, per: str, w: Array) -> Kernel:
    rounded = eight_bits(w, per)
    around = np.ones(w.shape[2:], bool)
    middle = w.shape[2] // 2
    around[middle, middle] = w.shape[2] == 1
    sigma = float(w.std())
    return Kernel(
        of, per, _outlier(w),
        zeros=float((rounded[w != 0] == 0).sum() / max(np.count_nonzero(w), 1)),
        bits=float(np.log2(max(sigma / float(_step(w, per).mean()), 1e-9)) + 1),
        error=_distance(rounded, w),
        error_off_centre=_distance(rounded[..., around], w[..., around]),
    )  # fmt: skip


def _outlier(w: Array) -> float:
    return float(np.abs(w).max() / (w.std() or 1.0))


def _centred(w: Array) -> float:
    """Return the share of output channels whose largest weight is at the centre tap."""
    sizes = np.abs(w).max(1)
    return float((sizes[:, 1, 1] == sizes.max((1, 2))).mean())


def _distance(a: Array, b: Array) -> float:
    return float(np.sqrt(((a - b) ** 2).sum() / max(float((b**2).sum()), 1e-300)))


def _histogram(w: Array) -> tuple[float, ...]:
    q = np.abs(np.round(w / _step(w, "tensor")))
    counts, _ = np.histogram(q, bins=STEPS)
    return tuple(float(c) / q.size for c in counts)


def _logits(net: Network, x: Array) -> Array:
    for block in net.blocks:
        x = forward_block(block, x)
    return forward_head(net.head, x)[1]


def _top(model: RepVGG, logits: Array) -> tuple[str, float]:
    shares = probabilities(logits)[0]
    best = int(shares.argmax())
    return subject.class_name(model, best), float(shares[best])


def _run(
    model: RepVGG, train: Network, deploy: Network, x: Array, right: Array, what: str, per: str
) -> Run:
    """Return the network with eight-bit kernels: its branches' each on its own, or those of the
    fold.
    """
    blocks = []
    for branches, folded in zip(train.blocks, deploy.blocks, strict=True):
        weight, bias = subject.fused_of(folded).weight, subject.fused_of(folded).bias
        if what == "folded":
            rounded = eight_bits(weight.astype(np.float64), per)
        else:
            kernels = _kernels(branches).values()
            rounded = np.add.reduce([_wide(eight_bits(k, per)) for k in kernels])
        form = FusedConv(rounded.astype(weight.dtype), bias)
        blocks.append(replace(folded, form=form))
    logits = _logits(replace(deploy, blocks=tuple(blocks)), x)
    error = float(np.abs(logits - right).max() / (np.abs(right).max() or 1.0))
    return Run(what, per, error, *_top(model, logits))
