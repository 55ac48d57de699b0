"""Packed weights: each panel holds what its output channels see, and zeros elsewhere."""

import numpy as np
import pytest

from npvgg.engines.cook_toom import as_array, cook_toom
from npvgg.engines.layout import kernel_order
from npvgg.engines.microkernel import PANEL
from npvgg.engines.packing import Filter, pack, packed_floats

SHAPES = [(5, 3, 1), (40, 20, 1), (48, 8, 3), (2 * PANEL, 16, 2), (18, 2, 9)]


def packed(filter, m):
    out = np.full(packed_floats(filter, m), np.nan, np.float32)
    pack(filter, m, out, threads=2)
    bias, panels = out[: filter.panels * PANEL], out[filter.panels * PANEL :]
    return bias, panels.reshape(filter.panels, -1, filter.width, PANEL)


def dense(weight, groups):
    """A grouped kernel as a dense one with zeros: (K, C, R, R)."""
    k, chs = weight.shape[:2]
    whole = np.zeros((k, chs * groups, *weight.shape[2:]))
    for o in range(k):
        first = o // (k // groups) * chs
        whole[o, first : first + chs] = weight[o]
    return whole


@pytest.mark.parametrize(("k", "chs", "groups"), SHAPES)
def test_direct_panels_hold_the_kernel_in_the_order_of_the_sum(k, chs, groups):
    weight = np.random.default_rng(0).standard_normal((k, chs, 3, 3)).astype(np.float32)
    f = Filter(weight, np.arange(k, dtype=np.float32), groups=groups)
    bias, panels = packed(f, 0)
    np.testing.assert_array_equal(bias[:k], np.arange(k))
    assert not bias[k:].any()
    whole = dense(weight, groups)
    for panel, got in enumerate(panels.reshape(f.panels, -1, PANEL)):
        c, i, j = kernel_order(*f.channels(panel), 3)
        want = np.zeros_like(got)
        rows = whole[panel * PANEL : (panel + 1) * PANEL]
        want[: len(c), : len(rows)] = rows[:, c, i, j].T
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("k", "chs", "groups"), SHAPES)
def test_winograd_panels_are_the_transformed_kernel_rounded_once(k, chs, groups, stride):
    weight = np.random.default_rng(0).standard_normal((k, chs, 3, 3)).astype(np.float32)
    f = Filter(weight, None, stride=stride, groups=groups)
    bias, panels = packed(f, 3)
    assert not bias.any()
    g = as_array(cook_toom(3, stride).g)
    u = np.einsum("ai,kcij,bj->abck", g, dense(weight, groups), g).reshape(len(g) ** 2, -1, k)
    for panel, got in enumerate(panels):
        first, last = f.channels(panel)
        want = u[:, first:last, panel * PANEL : (panel + 1) * PANEL]
        np.testing.assert_allclose(got[:, : last - first, : want.shape[2]], want, rtol=2**-23)
        assert not got[:, last - first :].any()
        assert not got[:, :, want.shape[2] :].any()
