"""Ten questions that learners ask, each answered by numbers that are computed now.

Where they were asked: DingXiaoH/RepVGG issues 9, 19, 35, 39, 47, 78, 85, 89, 92, 97, 99, 100, 116
and 119; DingXiaoH/DiverseBranchBlock issues 16 and 39; apple/ml-mobileone 8; WongKinYiu/yolov7 482;
meituan/YOLOv6 816.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npvgg.engines.reference import activate, forward_blocks, forward_head
from npvgg.explain import subject
from npvgg.explain.lesson import Lesson
from npvgg.explain.lessons.fold import FoldLesson, fold
from npvgg.explain.lessons.identities import identities
from npvgg.explain.lessons.network import NetworkLesson, network
from npvgg.explain.lessons.quantize import quantize
from npvgg.explain.lessons.training import training
from npvgg.model import RepVGG
from npvgg.ops import conv2d
from npvgg.pages.parts import Document, Heading, Heat, Paragraph, Part
from npvgg.reparam import fuse_conv_bn, identity_kernel


@dataclass(frozen=True, eq=False, repr=False)
class QuestionsLesson(Lesson):
    """The questions, and the numbers that answer them."""

    model: str
    block: str
    questions: tuple[str, ...]
    difference: float
    largest_logit: float
    statistics: float
    network: NetworkLesson
    fold: FoldLesson
    identity_factor: float
    identity_grid: Any | None
    ring: Any
    ring_wrong: int
    ring_inside: int
    relu_x: Any
    relu_before: Any
    relu_after: Any
    runs: tuple[Any, ...]
    ways: tuple[Any, ...]
    unfolded_apart: float
    moved: int
    norms: dict[str, float]

    def document(self) -> Document:
        """Each question, and its answer."""
        folded, largest = self.fold.folded, self.fold.branches[0].largest_over_std
        answers: list[tuple[Part, ...]] = [
            (
                self._says(
                    "They differ by rounding alone: by {difference:.1e} of a largest logit of "
                    "{largest_logit:.2f} on this photo. Where yours differ by more, look for a "
                    "forgotten eval(): with the batch's statistics in place of the running ones, "
                    "which is training mode, the logits here change by {statistics:.2f}."
                ),
            ),
            (
                self._says(
                    "As a grid of kernels, a row for each output, a column for each input: 1 where "
                    "the two are the same channel (inside the group: k mod (C/G)), 0 elsewhere; "
                    "each 1 in the centre of a 3×3 of zeros."
                ),
                *self._identity(),
            ),
            (
                self._says(
                    "Into that diagonal, and into the bias. Channel {fold[channel]} of {block} is "
                    "multiplied by γ/√(var + eps) = {identity_factor:.4f}: that is what the "
                    "identity adds there in the fold."
                    if "identity" in self.fold.example.factor
                    else "Into that diagonal, times γ/√(var + eps), and into the bias. {block} has "
                    "no identity branch to show it on."
                ),
            ),
            (
                self._says(
                    "Outside the map the 3×3 behind a 1×1 with bias reads what the 1×1 makes of a "
                    "zero: the bias. With zeros in its place {ring_wrong} numbers of a "
                    "{rows}×{columns} map are wrong, the outer ring; inside, {ring_inside} are.",
                    rows=self.ring.shape[0], columns=self.ring.shape[1],
                ),
                Heat({"error": self.ring}, "Folded − right.", digits=0),
            ),
            (
                self._says(
                    "No. Its ReLU comes before the sum: for x from {first} to {last} ReLU(−x) + x "
                    "is {before}, ReLU(−x + x) is {after}. RepVGG has one ReLU, after the sum.",
                    first=self.relu_x[0], last=self.relu_x[-1],
                    before=_joined(self.relu_before), after=_joined(self.relu_after),
                ),
            ),
            (
                self._says(
                    "Inference cannot show it; a toy can. A plain sum of branches follows the path "
                    "of a single weight trained at {ways[1][rate]:.2f} in place of "
                    "{ways[0][rate]:.2f}, to {ways[1][apart]:.0e}. With batch norms it does not "
                    "follow any: {ways[4][apart]:.2f} apart at best. See the lesson on training "
                    "for what was published."
                ),
            ),
            (
                self._says(
                    "Multiply-accumulates fall by {macs:.0%}, from {network[train][macs]:,} to "
                    "{network[deploy][macs]:,}; activations by {activations:.0%}, from "
                    "{network[train][activations]:,} to {network[deploy][activations]:,}. Where "
                    "arithmetic takes the time, the first is what to expect; where memory does, "
                    "the second; and nothing, where the network that was exported was folded "
                    "already.",
                    macs=self._saved("macs"), activations=self._saved("activations"),
                ),
            ),
            (
                self._says(
                    "The largest weight of {block} is {largest:.1f} σ in its 3×3 branch and "
                    "{folded:.1f} σ after the fold; the centre tap holds {centre:.1%} of the "
                    "energy. The largest weight sets the step for all others, so the fold makes "
                    "it {step} for a typical weight. The logits are off by {runs[1][error]:.1%} "
                    "with folded kernels in int8, by {runs[0][error]:.1%} with each branch "
                    "quantized on its own{end}.",
                    largest=largest, folded=folded.largest_over_std,
                    centre=folded.energy_share_centre,
                    step="coarser" if folded.largest_over_std > largest else "no coarser",
                    end=""
                    if self.runs[1].error > self.runs[0].error
                    else ": on this photo this network loses nothing by the fold",
                ),
            ),
            (
                self._says(
                    "Train it on, yes; get the branches back, no. {fold[parameters][train]:,} "
                    "learned numbers of {block} became {fold[parameters][deploy]:,}, and other "
                    "branches have the same sum. "
                    + (
                        "Moved a half of the 1×1 into the 3×3's centre, {moved:,} weights of it, "
                        "the branches are others and the kernel is the same, to "
                        "{unfolded_apart:.0e}."
                        if self.moved
                        else "(Here no half of the 1×1 can be moved into the 3×3's centre to show "
                        "it: it is zero, or the 3×3's factor is.)"
                    )
                ),
            ),
            (
                self._says(
                    "A weight decay on what the branches fold to, not on each of them. The squares "
                    "of the scaled branches, {branches}, add up to {apart:.4g}; the square of "
                    "what is run, ‖w‖ = {norms[folded]:.2f}, is {together:.4g}. "
                    + self._decays(),
                    branches=", ".join(
                        f"‖{name}‖ = {norm:.2f}" for name, norm in self._branch_norms.items()
                    ),
                    apart=self._squares, together=self.norms["folded"] ** 2,
                ),
            ),
        ]  # fmt: skip
        parts: list[Part] = []
        for number, (question, answer) in enumerate(zip(self.questions, answers, strict=True), 1):
            parts += [Heading(f"{number}. {question}"), *answer]
        return Document(self.says("Ten questions, answered with {model}"), tuple(parts))

    def _identity(self) -> list[Part]:
        if self.identity_grid is None:
            return [self._says("{block} has no identity branch to show it on.")]
        many = len(self.identity_grid)
        return [Heat({"centre taps": self.identity_grid}, f"The first {many} channels.", digits=0)]

    @property
    def _branch_norms(self) -> dict[str, float]:
        return {name: norm for name, norm in self.norms.items() if name != "folded"}

    @property
    def _squares(self) -> float:
        return sum(norm**2 for norm in self._branch_norms.values())

    def _decays(self) -> str:
        """Whether a decay of each branch is one of their sum: it is where they do not overlap."""
        if math.isclose(self._squares, self.norms["folded"] ** 2, rel_tol=1e-6):
            return "Here they do not overlap, and both are the same."
        return "They overlap in the centre tap: to decay one by one is not to decay their sum."

    def _says(self, template: str, **more: Any) -> Paragraph:
        return Paragraph(self.says(template, **more))

    def _saved(self, what: str) -> float:
        lesson = self.network
        return float(getattr(lesson.saved, what) / getattr(lesson.train, what))


QUESTIONS = (
    "Why do outputs differ after folding?",
    "How is the identity a kernel?",
    "Where does the identity's batch norm go?",
    "Why must the padding behind a 1×1 with batch norm be its bias, not zero?",
    "Can I fold a ResNet?",
    "Why train branches at all, if they fold?",
    "Why is it not faster for me?",
    "Why does int8 collapse?",
    "Can I fine-tune or unfold the deployed network?",
    "What is get_custom_L2?",
)


def questions(model: RepVGG, photo: Any = None) -> QuestionsLesson:
    """Answer the ten questions with a model in train form and a photo.

    Raises ArgumentError, ImageError.
    """
    net = subject.network_of(model)
    subject.named(net, None, branches=True)
    eight_bits = quantize(model, None, photo)
    block = subject.named(net, eight_bits.block)
    folded, sums, trained = fold(model, block.spec.name, None, photo), identities(), training()
    x, _ = subject.image(model, photo)
    train, deploy = (_logits(n, x) for n in (net, net.reparameterized()))
    factor = folded.example.factor.get("identity", 0.0)
    grid = None
    if block.spec.identity:
        grid = identity_kernel(block.spec.out_chs, block.spec.groups)[:8, :8, 0, 0]
    unfolded_apart, moved = _other_branches(block, folded)
    norms = {b.name: b.norm for b in folded.branches} | {"folded": folded.folded.norm}
    return QuestionsLesson(
        model=model.name,
        block=block.spec.name,
        questions=QUESTIONS,
        difference=float(np.abs(train - deploy).max()),
        largest_logit=float(np.abs(train).max()),
        statistics=float(np.abs(_training_mode(net, x) - train).max()),
        network=network(model),
        fold=folded,
        identity_factor=factor,
        identity_grid=grid,
        ring=sums.ring,
        ring_wrong=sums.ring_wrong,
        ring_inside=sums.ring_inside,
        relu_x=sums.resnet[0],
        relu_before=sums.resnet[1],
        relu_after=sums.folded_resnet,
        runs=eight_bits.runs,
        ways=trained.ways,
        unfolded_apart=unfolded_apart,
        moved=moved,
        norms=norms,
    )


def _logits(net: Any, x: Any) -> Any:
    *_, last = forward_blocks(net.blocks, x)
    return forward_head(net.head, last)[1]


def _training_mode(net: Any, x: Any) -> Any:
    """Return the logits where every batch norm uses the statistics of this one image."""

    def normed(bn: Any, y: Any) -> Any:
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3))
        return replace(bn, mean=mean, var=var)(y)

    for block in net.blocks:
        form, spec = subject.branches_of(block), block.spec
        wide = {"padding": spec.dilation, "dilation": spec.dilation}
        both: dict[str, Any] = {"stride": spec.stride, "groups": spec.groups}
        y = normed(form.conv_kxk.bn, conv2d(x, form.conv_kxk.weight, **wide, **both))
        y = y + normed(form.conv_1x1.bn, conv2d(x, form.conv_1x1.weight, **both))
        if form.identity is not None:
            y = y + normed(form.identity, x)
        x = activate(block, y)
    return forward_head(net.head, x)[1]


def _other_branches(block: Any, folded: FoldLesson) -> tuple[float, int]:
    """Move half of the 1×1 into the 3×3, where its factor is not 0.

    → how far the fold moves, relative, by rounding; how many weights other than 0 were moved
    """
    form = subject.branches_of(block)
    kxk, pointwise = form.conv_kxk, form.conv_1x1
    t3 = _factors(kxk.bn)
    t1 = _factors(pointwise.bn)
    half = pointwise.weight.astype(np.float64) / 2 * (t3 != 0)[:, None, None, None]
    ratio = np.divide(t1, t3, out=np.zeros_like(t1), where=t3 != 0)
    moved = half[:, :, 0, 0] * ratio[:, None]
    wide = kxk.weight.astype(np.float64)
    wide[:, :, 1, 1] += moved
    other = fuse_conv_bn(wide, kxk.bn).weight
    other[:, :, 1, 1] += fuse_conv_bn(pointwise.weight - half, pointwise.bn).weight[:, :, 0, 0]
    for branch in folded.branches[2:]:
        other += branch.kernel
    kernel = folded.folded.kernel
    apart = float(np.abs(other - kernel).max() / (np.abs(kernel).max() or 1.0))
    return apart, int(np.count_nonzero(moved))


def _factors(bn: Any) -> Any:
    return bn.gamma.astype(np.float64) / np.sqrt(bn.var.astype(np.float64) + bn.eps)


def _joined(values: Any) -> str:
    return ", ".join(str(int(v)) for v in values)
