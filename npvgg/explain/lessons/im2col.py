"""Windows become columns: a convolution as one product of matrices, in exact integers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np

from npvgg import ops
from npvgg.config import output_size
from npvgg.explain import subject
from npvgg.explain.lesson import Lesson
from npvgg.model import RepVGG
from npvgg.ops import Array
from npvgg.pages.parts import (
    Document,
    Exercise,
    Formula,
    Heading,
    Heat,
    Paragraph,
    Source,
    Step,
    Steps,
    Table,
)

FLOAT32 = 4
"""Bytes."""


@dataclass(frozen=True)
class Memory:
    """Of one block's convolution, one image: bytes of its input, of its columns, and MACs."""

    block: str
    map_bytes: int
    column_bytes: int
    macs: int


@dataclass(frozen=True, eq=False, repr=False)
class Im2colLesson(Lesson):
    """A small convolution in integers, and what its columns would cost in a network.

    x: (C, H, W)   kernels: (K, C, 3, 3)   columns: (C·9, P·Q)   matrix: (K, C·9)
    y: (K, P, Q) = matrix · columns, the same as `direct`, added one product at a time
    used: (H, W) how often each input number stands in the columns of its channel
    """

    x: Array
    kernels: Array
    columns: Array
    matrix: Array
    y: Array
    direct: Array
    used: Array
    equal: bool
    model: str
    memory: tuple[Memory, ...]
    largest: Memory

    def document(self) -> Document:
        """Return the map, the columns, the product, the memory."""
        channels, height, width = self.x.shape
        return Document(
            "im2col: windows become columns",
            (
                Paragraph(
                    self.says(
                        "A map of {c} channels, {h}×{w}, {k} kernels of 3×3, a zero around the "
                        "map. Each output reads a window; written as a column, all windows are a "
                        "matrix, and the convolution is one product of matrices, which processors "
                        "do best.",
                        c=channels, h=height, w=width, k=len(self.kernels),
                    )
                ),
                Formula("cols[9·c + 3·r + s, W·p + q] = x[c, p + r − 1, q + s − 1]"),
                Formula("y[k, W·p + q] = Σ{i} w[k, i] · cols[i, W·p + q]"),
                Steps((
                    Step("the map", (
                        Heat({f"channel {c}": m for c, m in enumerate(self.x)}, "The input.",
                             digits=0),
                    )),
                    Step("its windows as columns", (
                        Heat({"columns": self.columns}, "A column for each output, from the top "
                             "left on; a row for each channel and tap. The zeros at the edges are "
                             "those around the map.", digits=0),
                    )),
                    Step("the kernels as rows", (
                        Heat({"matrix": self.matrix}, "A row for each kernel.", digits=0),
                    )),
                    Step("their product", (
                        Heat({f"output {k}": m for k, m in enumerate(self.y)},
                             "Each output is a row times a column. Added one product at a time, "
                             f"without any matrix, it is the same: {self.equal}.", digits=0),
                    )),
                )),
                Heading("The reuse, and what it costs"),
                Heat(
                    {"copies of each number": self.used},
                    self.says(
                        "How often each number of a channel is copied: {most} times inside, fewer "
                        "at the edges. {cells} numbers became {copies}.",
                        most=int(self.used.max()), cells=self.x.size, copies=self.columns.size,
                    ),
                    digits=0,
                ),
                Table(
                    ("block", "its input, kB", "its columns, kB", "MMACs"),
                    tuple(
                        (m.block, f"{m.map_bytes / 1e3:,.0f}", f"{m.column_bytes / 1e3:,.0f}",
                         f"{m.macs / 1e6:,.1f}")
                        for m in self.memory
                    ),
                    self.says(
                        "{model}, one image, float32. The columns of {largest[block]} would take "
                        "{mb:.1f} MB, {times:.3g} times its input: written once, and read again.",
                        mb=self.largest.column_bytes / 1e6,
                        times=self.largest.column_bytes / self.largest.map_bytes,
                    ),
                ),
                Heading("Columns that are never written"),
                Paragraph(
                    "npvgg's engine im2col computes this very product and writes no column. Each "
                    "number of a column already lies somewhere in the map; a table of offsets says "
                    "where, one offset a row of the matrix, and the multiplying kernel reads from "
                    "there. Around each map a margin of zeros is kept in memory, so that the edges "
                    "need no case of their own. The reference below does write them: NumPy's view "
                    "of the windows costs nothing, its reshape copies."
                ),
                Source("npvgg.ops.conv2d", inspect.getsource(ops.conv2d)),
                Exercise(
                    "How many times larger than the map are the columns of a convolution of 3×3 "
                    "with stride 2?",
                    f"{3**2} numbers are read for each output, and there is one output for {2**2} "
                    f"inputs: {3**2 / 2**2:g} times as large.",
                ),
            ),
        )  # fmt: skip


def im2col(model: RepVGG) -> Im2colLesson:
    """Show a convolution as a product of matrices, and the memory that it would take in a network.

    Raises ArgumentError.
    """
    rng = np.random.default_rng(1)
    x = rng.integers(0, 10, (2, 4, 4))
    kernels = rng.integers(-2, 3, (2, 2, 3, 3))
    windows = ops.sliding_windows(x[None], (3, 3), stride=1, padding=1, dilation=1)[0]
    columns = windows.transpose(0, 3, 4, 1, 2).reshape(18, 16)
    matrix = kernels.reshape(2, 18)
    y = (matrix @ columns).reshape(2, 4, 4)
    direct = _one_by_one(x, kernels)
    ones = np.ones((1, 1, *x.shape[1:]), np.int64)
    used = _one_by_one(ones[0], np.ones((1, 1, 3, 3), np.int64))[0]
    net = subject.network_of(model)
    height, width = model.pretrained_cfg["input_size"][1:]
    memory = []
    for block in net.blocks:
        spec = block.spec
        p, q = output_size(height, spec.stride), output_size(width, spec.stride)
        cols = 9 * spec.in_chs * p * q
        memory.append(
            Memory(
                spec.name,
                FLOAT32 * spec.in_chs * height * width,
                FLOAT32 * cols,
                cols * spec.out_chs // spec.groups,
            )
        )
        height, width = p, q
    return Im2colLesson(
        x=x, kernels=kernels, columns=columns, matrix=matrix, y=y, direct=direct, used=used,
        equal=bool(np.array_equal(y, direct)), model=model.name, memory=tuple(memory),
        largest=max(memory, key=lambda m: m.column_bytes),
    )  # fmt: skip


def _one_by_one(x: Array, kernels: Array) -> Array:
    """Return the convolution as its definition has it: one product after the other."""
    channels, height, width = x.shape
    y = np.zeros((len(kernels), height, width), np.int64)
    for k, p, q, c, r, s in np.ndindex(len(kernels), height, width, channels, 3, 3):
        row, column = p + r - 1, q + s - 1
        if 0 <= row < height and 0 <= column < width:
            y[k, p, q] += x[c, row, column] * kernels[k, c, r, s]
    return y
