"""Packed weights: each panel holds what its output channels see, and zeros elsewhere."""

import numpy as np
import pytest

from npvgg.engines.layout import kernel_order
from npvgg.engines.microkernel import LANES, PANEL
from npvgg.engines.packing import Filter, pack, packed_floats, unpack

SHAPES = [(5, 3, 1), (40, 20, 1), (48, 8, 3), (2 * PANEL, 16, 2), (18, 2, 9)]


def packed(filter, weight, bias):
    out = np.full(packed_floats(filter), np.nan, np.float32)
    pack(filter, weight, bias, out, threads=2)
    bias, panels = out[: filter.panels * PANEL], out[filter.panels * PANEL :]
    panels = panels.reshape(filter.panels, PANEL // LANES, -1, LANES)
    return bias, panels.transpose(0, 2, 1, 3).reshape(filter.panels, -1, PANEL)


def dense(weight, groups):
    """A grouped kernel as a dense one with zeros: (K, C, R, R)."""
    k, chs = weight.shape[:2]
    whole = np.zeros((k, chs * groups, *weight.shape[2:]))
    for o in range(k):
        first = o // (k // groups) * chs
        whole[o, first : first + chs] = weight[o]
    return whole


@pytest.mark.parametrize(("k", "chs", "groups"), SHAPES)
def test_panels_hold_the_kernel_in_the_order_of_the_sum(k, chs, groups):
    weight = np.random.default_rng(0).standard_normal((k, chs, 3, 3)).astype(np.float32)
    f = Filter(weight.shape, groups=groups)
    bias, panels = packed(f, weight, np.arange(k, dtype=np.float32))
    np.testing.assert_array_equal(bias[:k], np.arange(k))
    assert not bias[k:].any()
    whole = dense(weight, groups)
    for panel, got in enumerate(panels):
        c, i, j = kernel_order(*f.channels(panel), 3)
        want = np.zeros_like(got)
        rows = whole[panel * PANEL : (panel + 1) * PANEL]
        want[: len(c), : len(rows)] = rows[:, c, i, j].T
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("k", "chs", "groups"), SHAPES)
@pytest.mark.parametrize("size", [1, 3])
def test_what_is_packed_is_unpacked_to_the_bit(k, chs, groups, size):
    weight = np.random.default_rng(0).standard_normal((k, chs, size, size)).astype(np.float32)
    bias = np.arange(k, dtype=np.float32)
    f = Filter(weight.shape, groups=groups)
    out = np.full(packed_floats(f), np.nan, np.float32)
    pack(f, weight, bias, out, threads=2)
    for got, want in zip(unpack(f, out), (weight, bias), strict=True):
        np.testing.assert_array_equal(got, want)
