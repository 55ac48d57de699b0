"""Maps in blocks of 16 channels: what is written is read; tables of offsets point at the window."""

import mmap
import os
import weakref

import numpy as np
import pytest

from npvgg.engines import layout as memory
from npvgg.engines.layout import MapLayout, aligned, kernel_order
from npvgg.engines.microkernel import PANEL


@pytest.mark.parametrize("chs", [1, 3, 15, 16, 17, 40])
@pytest.mark.parametrize("lanes", [1, 16])
def test_what_is_written_is_read_and_margins_stay_zero(chs, lanes):
    layout = MapLayout(32, 2, chs, 5, 4, 2, 10, 9, lanes)
    data = aligned(32 + layout.size)
    x = np.random.default_rng(0).standard_normal((2, chs, 5, 4)).astype(np.float32)
    layout.write(data, x)
    np.testing.assert_array_equal(layout.read(data), x)
    assert np.count_nonzero(data) == x.size
    assert data.ctypes.data % 64 == 0
    assert layout.size % 16 == 0


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize(
    ("stride", "dilation", "size"), [(1, 1, 3), (2, 1, 3), (1, 2, 3), (2, 1, 1)]
)
def test_a_corner_and_a_tap_find_the_padded_pixel(lanes, stride, dilation, size):
    padding = dilation * (size // 2)
    n, chs, h, w = 2, 19, 6, 5
    layout = MapLayout(16, n, chs, h, w, 2, h + 5, w + 4, lanes)
    data = aligned(16 + layout.size)
    x = np.random.default_rng(0).standard_normal((n, chs, h, w)).astype(np.float32)
    layout.write(data, x)
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out_h, out_w = -(-h // stride), -(-w // stride)
    corners = layout.pixels(out_h, out_w, stride, padding).reshape(n, out_h, out_w)
    taps = layout.taps(2, 19, size, dilation)
    c, i, j = kernel_order(2, 19, size)
    assert sorted(zip(c, i, j, strict=True)) == [
        (a, b, d) for a in range(2, 19) for b in range(size) for d in range(size)
    ]
    for image, y, column in np.ndindex(n, out_h, out_w):
        got = data[16 + corners[image, y, column] + taps]
        want = padded[image, c, y * stride + i * dilation, column * stride + j * dilation]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_what_is_read_is_a_copy(size):
    layout = MapLayout(0, 1, PANEL, *size, 0, *size)
    data = aligned(layout.size)
    assert not np.shares_memory(layout.read(data), data)


def test_a_map_has_room_for_whole_panels():
    layout = MapLayout(0, 1, PANEL + 1, 2, 2, 0, 2, 2)
    assert layout.blocks * 16 == 2 * PANEL


@pytest.mark.parametrize("floats", [1, 100, memory.MAPPED_FLOATS - 1, memory.MAPPED_FLOATS + 5])
def test_memory_is_zero_aligned_and_can_be_written(floats):
    got = memory.aligned(floats)
    assert (got.shape, got.dtype, got.ctypes.data % 64, got.any()) == ((floats,), np.float32, 0, 0)
    got[:] = 1


def test_large_memory_is_a_mapping_of_its_own_and_goes_with_its_last_user():
    got = memory.aligned(memory.MAPPED_FLOATS)
    base = got
    while getattr(base, "base", None) is not None:
        base = base.base
    mapping = getattr(base, "obj", base)
    assert isinstance(mapping, mmap.mmap)
    gone = weakref.ref(mapping)
    del got, base, mapping
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_writes_into_a_copy():
    got = memory.aligned(memory.MAPPED_FLOATS)
    pid = os.fork()
    if not pid:
        got[:] = 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert not got.any()


def test_without_mappings_there_is_other_memory(monkeypatch):
    def fails(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(memory.mmap, "mmap", fails)
    assert not memory.aligned(memory.MAPPED_FLOATS).any()
