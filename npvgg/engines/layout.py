"""Where maps lie in memory, and the tables of offsets that a convolution over them is.

A map of the fast engines is (image, 16 channels, row, column, 16 lanes), nChw16c: one pixel of 16
channels is one vector register. Around the rows and columns is a margin of zeros (a halo), written
once: padding costs nothing then. The image that comes in stays (image, channel, row, column), with
a margin: only single values of it are read.

All offsets are in floats. What must not be broken here: nothing writes to a margin, which must stay
zero from one run to the next; lanes past the last channel hold whatever a panel gives, zeros of
weights, and never reach a result.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from npvgg.engines.microkernel import LANES, PANEL
from npvgg.ops import Array

Table = NDArray[np.int64]


@dataclass(frozen=True)
class MapLayout:
    """The shape of one map: N images of `chs` channels, height × width pixels; where it begins.

    margin: zeros above and left; rows, cols: of the memory, margins included
    lanes: 16, or 1 for the image that comes in
    """

    at: int
    n: int
    chs: int
    height: int
    width: int
    margin: int
    rows: int
    cols: int
    lanes: int = LANES

    @property
    def row(self) -> int:
        """Floats from one row to the next."""
        return self.cols * self.lanes

    @property
    def plane(self) -> int:
        """Floats from one 16 channels to the next."""
        return self.rows * self.row

    @property
    def blocks(self) -> int:
        """Groups of channels; for whole panels, so that all of a panel has a place."""
        if self.lanes == 1:
            return self.chs
        return -(-self.chs // PANEL) * (PANEL // LANES)

    @property
    def image(self) -> int:
        """Floats from one image to the next."""
        return self.blocks * self.plane

    @property
    def size(self) -> int:
        """Floats in all, up to a multiple of a vector."""
        return -(-self.n * self.image // LANES) * LANES

    def moved(self, at: int) -> MapLayout:
        """Return the same layout at another place."""
        return replace(self, at=at)

    def view(self, data: Array) -> Array:
        """Look at the map without its margins: (N, blocks, H, W, lanes)."""
        whole = data[self.at : self.at + self.n * self.image]
        shaped = whole.reshape(self.n, self.blocks, self.rows, self.cols, self.lanes)
        inside = slice(self.margin, None)
        return shaped[:, :, inside, inside][:, :, : self.height, : self.width]

    def read(self, data: Array) -> Array:
        """Copy the map out: (N, C, H, W)."""
        view = self.view(data).transpose(0, 1, 4, 2, 3)
        copy = np.array(view, order="C")  # also of a single pixel, whose view is in order already
        shape = (self.n, self.blocks * self.lanes, self.height, self.width)
        return np.ascontiguousarray(copy.reshape(shape)[:, : self.chs])

    def write(self, data: Array, x: Array) -> None:
        """Copy x (N, C, H, W) in."""
        view = self.view(data).transpose(0, 1, 4, 2, 3)
        whole = x.shape[1] // self.lanes
        view[:, :whole] = x[:, : whole * self.lanes].reshape(
            self.n, whole, self.lanes, self.height, self.width
        )
        rest = x.shape[1] - whole * self.lanes
        if rest:
            view[:, whole, :rest] = x[:, whole * self.lanes :]

    def pixels(self, height: int, width: int, stride: int, padding: int) -> Table:
        """Offset of the window's corner for each output pixel, (N · height · width,)."""
        corner = self.margin - padding
        rows = (np.arange(height) * stride + corner) * self.row
        cols = (np.arange(width) * stride + corner) * self.lanes
        images = np.arange(self.n) * self.image
        return (images[:, None, None] + rows[:, None] + cols).ravel()

    def taps(self, first: int, last: int, size: int, dilation: int) -> Table:
        """Offset of every tap of channels first … last − 1, in the order of `kernel_order`."""
        c, i, j = kernel_order(first, last, size)
        block, lane = np.divmod(c, self.lanes)
        return block * self.plane + i * dilation * self.row + j * dilation * self.lanes + lane


def kernel_order(first: int, last: int, size: int) -> tuple[Table, Table, Table]:
    """Return channel, row and column of each weight of a filter, in the order of the sum.

    The order in which they lie in a kernel (C, R, R): all taps of one channel, then the next one.
    """
    c, i, j = np.meshgrid(np.arange(first, last), *[np.arange(size)] * 2, indexing="ij")
    return c.ravel(), i.ravel(), j.ravel()


MAPPED_FLOATS = 2**18
"""From 1 MiB on, memory is mapped on its own: see `aligned`."""


def aligned(floats: int) -> Array:
    """Return zeros in memory that begins at a multiple of 64 bytes.

    The system has large ones back as soon as nobody uses them. The C library would keep what each
    thread once had: after 40 calls at once of A2 at 224, 286 MB for ever; so it is 36 MB, and the
    speed is the same (40 turns each, ratio of medians: 1.001).
    """
    if floats >= MAPPED_FLOATS:
        with suppress(
            OSError
        ):  # as many mappings as a process may have: the other way may still do
            return _mapped(floats)
    raw = np.zeros(floats + LANES, np.float32)
    skip = -(raw.ctypes.data // 4) % LANES
    return raw[skip : skip + floats]


def _mapped(floats: int) -> Array:
    """Map zeros that begin at a page; the child of a fork has a copy of its own."""
    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    memory = mmap.mmap(-1, 4 * floats, **({"flags": private} if private else {}))
    if hasattr(mmap, "MADV_HUGEPAGE"):  # as NumPy asks for its own
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32)
