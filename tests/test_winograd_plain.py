"""The algorithm in NumPy is a convolution: for every tile, at every edge."""

import numpy as np
import pytest

from npvgg import ArgumentError
from npvgg.engines.cook_toom import as_array, cook_toom
from npvgg.engines.winograd_plain import conv2d_winograd
from npvgg.ops import conv2d
from tests.oracles import naive


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 6), (13, 12)], ids=str)
def test_it_is_the_naive_convolution(size):
    """Rounding of float64 cannot be seen: an element left out, or taken twice, is off by one."""
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (2, 3, *size)).astype(np.float64)
    weight, bias = rng.integers(-4, 5, (5, 3, 3, 3)), rng.integers(-4, 5, 5)
    want = naive.conv2d(x, weight, bias, stride=1, padding=1)
    for m in (1, 2, 3, 4, 5, 6):
        got = conv2d_winograd(x, weight, bias, m=m)
        assert got.shape == np.shape(want)
        np.testing.assert_array_equal(got.round(6), want)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6])
def test_its_rounding_in_float32_is_that_of_its_matrices(m):
    """Each value is a sum of C·n² products between matrices: γ of all their terms bounds it."""
    rng = np.random.default_rng(m)
    x, weight = rng.standard_normal((1, 16, 8, 8)), rng.standard_normal((2, 16, 3, 3))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    got = conv2d_winograd(x, weight, m=m)
    assert got.dtype == np.float32
    want = np.array(naive.conv2d(x.astype(np.float64), weight, stride=1, padding=1))
    fast = cook_toom(m)
    at, g, bt = (abs(as_array(matrix)).sum(1).max() for matrix in (fast.at, fast.g, fast.bt))
    terms = (at * g * bt) ** 2 * abs(x).max() * abs(weight).sum((1, 2, 3)).max()
    depth = 2 * (m + 3 + fast.n) + 16  # additions and products on the longest way, as matrices
    assert abs(got - want).max() <= depth * 2.0**-24 * terms


def test_an_m_without_matrices_is_refused():
    with pytest.raises(ArgumentError, match=r"F\(9, 3\)"):
        conv2d_winograd(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3)), m=9)


@pytest.mark.parametrize("m", [3, 4, 5])
def test_a_large_pixel_costs_its_neighbours_digits(m):
    """What winograd.py says of one pixel R times its neighbours: below 2e-7 · R, and no better."""
    rng, times = np.random.default_rng(0), 1e4
    x, weight = rng.normal(size=(1, 64, 30, 30)), rng.normal(size=(16, 64, 3, 3))
    x[0, :, 14, 14] *= times
    want = conv2d(x, weight, padding=1)
    elsewhere = np.ones((30, 30), bool)
    elsewhere[13:16, 13:16] = False

    def error(y):
        return np.abs(y - want)[..., elsewhere].max() / np.abs(want[..., elsewhere]).max()

    x, weight = x.astype(np.float32), weight.astype(np.float32)
    assert 2e-8 * times < error(conv2d_winograd(x, weight, m=m)) < 2e-7 * times
    assert error(conv2d(x, weight, padding=1)) < 2e-6
