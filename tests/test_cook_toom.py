"""Winograd's matrices are exact: in fractions, they give the filter they stand for."""

from fractions import Fraction

import numpy as np
import pytest

from npvgg.engines.cook_toom import POINTS, as_array, cook_toom, filter_matrices


def times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def fractions(rng, count):
    return [Fraction(int(p), int(q)) for p, q in rng.integers(1, 50, (count, 2))]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_the_fast_filter_is_the_filter_in_fractions(m, stride):
    rng = np.random.default_rng(m)
    fast = cook_toom(m, stride)
    taps, samples = fractions(rng, 3), fractions(rng, fast.n)
    products = [a * b for a, b in zip(times(fast.g, taps), times(fast.bt, samples), strict=True)]
    plain = [sum(samples[stride * i + k] * taps[k] for k in range(3)) for i in range(m)]
    assert times(fast.at, products) == plain


@pytest.mark.parametrize(("m", "n"), [(2, 4), (3, 5), (4, 6), (5, 7), (6, 8)])
def test_stride_1_takes_m_plus_2_products(m, n):
    assert cook_toom(m).n == n
    assert cook_toom(m).step == m


@pytest.mark.parametrize(("m", "n"), [(1, 3), (2, 5), (3, 7), (4, 9)])
def test_stride_2_takes_2m_plus_1_products(m, n):
    assert cook_toom(m, 2).n == n
    assert cook_toom(m, 2).step == 2 * m


def test_f2_is_the_published_one_up_to_signs():
    """Lavin & Gray 2015, section 4.1, whose rows for the points 0, 1, −1, ∞ these are."""
    fast = cook_toom(2)
    assert as_array(fast.at).tolist() == [[1, 1, 1, 0], [0, 1, -1, 1]]
    assert np.abs(as_array(fast.bt)).tolist() == [
        [1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1],
    ]  # fmt: skip
    assert np.abs(as_array(fast.g)).tolist() == [
        [1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1],
    ]  # fmt: skip


def test_more_products_than_points_are_refused():
    with pytest.raises(ValueError, match=r"F\(9, 3\)"):
        filter_matrices(9, 3)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_applied_at_run_time_is_exact_in_float32(m, stride):
    for matrix in (cook_toom(m, stride).at, cook_toom(m, stride).bt):
        assert all(Fraction(float(np.float32(v))) == v for row in matrix for v in row)


def test_the_points_of_f4_cut_its_error_by_a_third_per_dimension(monkeypatch):
    """One float32 rounding everywhere, 32 channels; the truth is the same filter in float64."""
    rng = np.random.default_rng(0)
    samples, taps = rng.standard_normal((400, 32, 6)), rng.standard_normal((32, 3))
    want = sum(samples[:, :, k : k + 4] * taps[:, k, None] for k in range(3)).sum(1)

    def error():
        at, g, bt = (as_array(matrix) for matrix in filter_matrices(4, 3))
        products = (samples @ bt.T).astype(np.float32) * (taps @ g.T).astype(np.float32)
        got = products.sum(1, dtype=np.float32) @ at.T.astype(np.float32)
        return np.sqrt(np.mean((got - want) ** 2))

    ours = error()
    usual = tuple(map(Fraction, (0, 1, -1, 2, -2)))
    monkeypatch.setitem(POINTS, 5, usual)
    assert ours < 0.67 * error()
