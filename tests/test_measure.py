"""Errors, shares of bounds, and what wrong elements have in common."""

import numpy as np
import pytest

from npvgg.testing.bounds.shares import shares, within
from npvgg.testing.comparison.measure import measure, pattern


def test_the_numbers_by_hand():
    want = np.float32([[1, -4, 2, 0]])
    got = np.float32([[1.5, -4, 2.25, 0]])
    bound = np.float32([[1, 1, 0.125, 0]])
    m = measure(got, want, bound)
    assert (m.absolute, m.relative, m.share) == (0.5, 0.125, 2.0)
    assert m.ulp == 0.5 / np.spacing(np.float32(4))
    assert (m.where, m.got, m.want, m.bound) == ((0, 2), 2.25, 2.0, 0.125)
    assert (m.wrong, m.not_finite, m.size) == (1, 0, 4)


def test_of_right_numbers_the_nearest_to_its_bound_is_shown():
    m = measure(np.float32([1.25, 2.5]), np.float32([1, 2]), np.float32([0.5, 2]))
    assert (m.share, m.where, m.wrong) == (0.5, (0,), 0)


def test_of_wrong_numbers_the_furthest_beyond_its_bound_is_shown():
    """Not the largest share: behind a ReLU, next to nothing may be off."""
    m = measure(np.float32([1e-3, 5]), np.float32([0, 2]), np.float32([1e-45, 1]))
    assert m.where == (1,)
    assert m.share > 1e40


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_wrong_whatever_the_bound(bad):
    got, want = np.float32([1, bad]), np.float32([1, 1])
    m = measure(got, want, np.full(2, 3e38, np.float32))
    assert (m.where, m.wrong, m.not_finite, m.share) == ((1,), 1, 1, np.inf)


def test_any_error_is_wrong_where_nothing_may_be_off():
    share = shares(np.float64([0, 1e-300]), np.float32([0, 0]), np.float32([0, 0]))
    np.testing.assert_array_equal(share, [0, np.inf])
    assert measure(np.zeros(1), np.zeros(1), np.zeros(1)).share == 0
    assert measure(np.ones(1), np.zeros(1), np.zeros(1)).relative == np.inf


def test_right_is_within_the_bound_everywhere_and_of_our_shape():
    want, bound = np.float32([1, 2]), np.float32([0.5, 0])
    assert within(np.float32([1.5, 2]), want, bound)
    assert not within(np.float32([1.5001, 2]), want, bound)
    assert not within(np.float32([1, 2.0000002]), want, bound)
    assert not within(np.float32([np.nan, 2]), want, bound)
    assert not within(np.float32([[1, 2]]), want, bound)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_every_type_is_compared_in_float64(dtype):
    got, want = np.array([3], dtype), np.float32([2])
    assert measure(got, want, np.float32([4])).share == 0.25


def wrong(*index):
    mask = np.zeros((2, 6, 8, 8), bool)
    mask[index] = True
    return "; ".join(pattern(mask))


ALL = slice(None)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ((ALL, ALL, 0), "only along the edge of the maps: top row"),
        ((ALL, ALL, ALL, [0, -1]), "only along the edge of the maps: left column, right column"),
        ((ALL, ALL, [0, -1], [0, -1]), "only along the edge of the maps: in the corners"),
        ((1,), "only in image 1 of 2"),
        ((ALL, [2, 5]), "only in channels 2, 5 of 6"),
        ((ALL, ALL, slice(1, None, 2)), "only in odd rows of the maps"),
        ((ALL, ALL, ALL, slice(None, None, 2)), "only in even columns of the maps"),
        ((0, 3, ALL, 0), "only in image 0 of 2; only in channel 3 of 6; "
                         "only along the edge of the maps: left column"),
        ((ALL,), ""),
        ((ALL, ALL, slice(2, 5), slice(2, 5)), ""),
    ],
)  # fmt: skip
def test_what_wrong_elements_have_in_common(index, sentence):
    assert wrong(*index) == sentence


def test_rows_have_channels_only():
    mask = np.zeros((1, 5), bool)
    mask[0, 4] = True
    assert list(pattern(mask)) == ["only in channel 4 of 5"]
