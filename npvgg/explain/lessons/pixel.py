"""One output number, taken apart: the patch that it reads, the kernel, the products, their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.explain import subject
from npvgg.explain.lesson import Lesson
from npvgg.model import RepVGG
from npvgg.ops import Array, activation, sliding_windows
from npvgg.pages.parts import (
    Document,
    Exercise,
    Formula,
    Heat,
    Paragraph,
    Photo,
    Step,
    Steps,
    Table,
)

STRONGEST = 4
"""Input channels whose windows are shown."""


@dataclass(frozen=True)
class Window:
    """One input channel's part: what is read, the weights, the products, and their sum; (3, 3)."""

    channel: int
    patch: Array
    kernel: Array
    products: Array
    sum: float


@dataclass(frozen=True, eq=False, repr=False)
class PixelLesson(Lesson):
    """One number y[k, p, q] of a block's output, in float64 from float32 weights.

    channel, at: k and (p, q)      group: the channels that it reads, from the first to the last
    rows, columns: of the block's input that the patch covers; below 0 and beyond it are zeros
    windows: the input channels that bring most, by |sum|, largest first
    rest: what the other input channels bring together
    sum: of all products      before: sum + bias      output: after the activation
    of_the_engine: what the network computes there in float32
    """

    model: str
    photo: str
    block: str
    channel: int
    at: tuple[int, int]
    out_shape: tuple[int, int, int]
    group: tuple[int, int]
    stride: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    sees: tuple[int, int, int, int]
    windows: tuple[Window, ...]
    rest: float
    products: int
    sum: float
    bias: float
    before: float
    activation: str
    output: float
    of_the_engine: float
    pixels: Array

    def document(self) -> Document:
        """Where it looks, the windows, the sum."""
        shown = [
            (
                f"channel {w.channel}",
                *(f"{v:.5g}" for v in (w.patch[1, 1], w.kernel[1, 1], w.products[1, 1], w.sum)),
            )
            for w in self.windows
        ]
        top, left, bottom, right = self.sees
        marked = self.pixels.copy()
        height, width = marked.shape[:2]
        inside = np.zeros((height, width), bool)
        inside[max(0, top) : bottom + 1, max(0, left) : right + 1] = True
        marked[~inside] = (marked[~inside] * 0.35).astype(np.uint8)
        return Document(
            self.says("One number of {block}, channel {channel}, at {at[0]}, {at[1]}"),
            (
                Paragraph(
                    self.says(
                        "{block} of {model} puts out a map of {out_shape[0]} channels, "
                        "{out_shape[1]}×{out_shape[2]} numbers each. Here is how one of them comes "
                        "about, from {products} products and a bias."
                    )
                ),
                Formula(
                    "y[k,p,q] = act(b[k] + Σ{c,r,s} x[c, p·stride + (r − 1)·dilation, "
                    "q·stride + (s − 1)·dilation] · w[k,c,r,s])"
                ),
                Photo(
                    marked,
                    self.says(
                        "{photo}, as the network is given it. The number depends on the bright "
                        "pixels alone, rows {sees[0]} to {sees[2]}, columns {sees[1]} to {sees[3]} "
                        "(beyond the image there are zeros)."
                    ),
                    self.says("The receptive field is {side} pixels wide.", side=bottom - top + 1),
                ),
                Steps(
                    tuple(
                        Step(
                            f"input channel {w.channel} brings {w.sum:.5g}",
                            (
                                Heat(
                                    {"patch": w.patch}, "What is read, rows "
                                    f"{', '.join(map(str, self.rows))} of the block's input.",
                                ),
                                Heat({"kernel": w.kernel}, "The folded weights."),
                                Heat({"products": w.products}, f"Their sum is {w.sum:.5g}."),
                            ),
                        )
                        for w in self.windows
                    )
                ),
                Table(
                    ("input", "x, centre", "w, centre", "product, centre", "sum of the nine"),
                    (
                        *shown,
                        ("the other channels", "", "", "", f"{self.rest:.5g}"),
                        ("bias", "", "", "", f"{self.bias:.5g}"),
                        ("sum", "", "", "", f"{self.before:.5g}"),
                        (self.activation, "", "", "", f"{self.output:.5g}"),
                    ),
                    self.says(
                        "{sum:.5g} of products and a bias of {bias:.5g} make {before:.5g}; "
                        "{activation} makes it {output:.5g}. The network itself, which rounds to "
                        "float32 on the way, says {of_the_engine:.5g}."
                    ),
                ),
                Exercise(
                    "Which input channels would you leave out, if you had to leave out half of "
                    "them, and by how much would the number before its activation change?",
                    "Those whose nine products sum to least, in magnitude; the change is the sum "
                    "of what they bring.",
                ),
            ),
        )  # fmt: skip


def pixel(
    model: RepVGG,
    photo: Any = None,
    block: str | None = None,
    channel: int | None = None,
    at: Sequence[int] | None = None,
) -> PixelLesson:
    """Take one output number of a block apart.

    model: in either form; it is folded first      photo: a cat by default
    block, channel: the first block with an identity branch, the channel that is strongest there
    at: row and column (p, q) of the block's output, by default where the channel is strongest

    Raises ArgumentError, ImageError.
    """
    given = subject.network_of(model)
    net = given.reparameterized()
    chosen = subject.named(net, block)
    spec, form = chosen.spec, subject.fused_of(chosen)
    if spec.attn_layer is not None:
        raise ArgumentError(
            f"block: expected one without attention, whose gates depend on the whole map, got "
            f"{spec.name} with {spec.attn_layer}; {subject.showable(given)} can be shown"
        )
    image, name = subject.image(model, photo)
    x = subject.input_of(net, spec.name, image)
    act = activation(spec.act_layer)
    y = act(form(x, **subject.how(chosen)))
    _, count, height, width = y.shape
    k = subject.index_below("channel", channel, count, int(y[0].max((1, 2)).argmax()))
    strongest = np.unravel_index(int(y[0, k].argmax()), (height, width))
    p, q = (
        subject.index_below(f"at, {what}", None if at is None else at[i], size, int(strongest[i]))
        for i, (what, size) in enumerate((("row", height), ("column", width)))
    )
    weight = form.weight[k].astype(np.float64)
    first = k // (count // spec.groups) * len(weight)
    windows = sliding_windows(
        x.astype(np.float64), (3, 3), stride=spec.stride, padding=spec.dilation,
        dilation=spec.dilation,
    )  # fmt: skip
    patches = windows[0, first : first + len(weight), p, q]
    products = patches * weight
    sums = products.sum((1, 2))
    order = np.argsort(-np.abs(sums), kind="stable")[:STRONGEST]
    total, bias = float(sums.sum()), float(form.bias[k])
    before = np.array([total + bias])
    return PixelLesson(
        model=model.name,
        photo=name,
        block=spec.name,
        channel=k,
        at=(p, q),
        out_shape=(count, height, width),
        group=(first, first + len(weight) - 1),
        stride=spec.stride,
        rows=_taps(p, spec.stride, spec.dilation),
        columns=_taps(q, spec.stride, spec.dilation),
        sees=_sees(net, spec.name, p, q),
        windows=tuple(
            Window(first + int(c), patches[c], weight[c], products[c], float(sums[c]))
            for c in order
        ),
        rest=total - float(sums[order].sum()),
        products=weight.size,
        sum=total,
        bias=bias,
        before=float(before[0]),
        activation=spec.act_layer,
        output=float(act(before)[0]),
        of_the_engine=float(y[0, k, p, q]),
        pixels=subject.pixels(model, image),
    )


def _taps(place: int, stride: int, dilation: int) -> tuple[int, ...]:
    return tuple(place * stride + r * dilation - dilation for r in range(3))


def _sees(net: Any, name: str, p: int, q: int) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the image's pixels that an output depends on."""
    top, left, bottom, right = p, q, p, q
    names = [block.spec.name for block in net.blocks]
    for block in reversed(net.blocks[: names.index(name) + 1]):
        s, d = block.spec.stride, block.spec.dilation
        top, left = top * s - d, left * s - d
        bottom, right = bottom * s + d, right * s + d
    return top, left, bottom, right
