"""Maps in blocks of 16 channels: what is written is read; tables of offsets point at the window."""

import numpy as np
import pytest

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
