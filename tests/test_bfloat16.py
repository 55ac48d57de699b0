"""bfloat16 is judged by exact fractions and by every one of its 65 536 bit patterns."""

from bisect import bisect_right
from fractions import Fraction

import numpy as np
import pytest

from npvgg.formats.bfloat16 import narrow, widen

EVERY = np.arange(2**16, dtype=np.uint16)


def value(bits):
    """The exact value of a finite bfloat16: sign, 8 exponent bits, 7 fraction bits (bias 127)."""
    sign, exponent, fraction = bits >> 15, (bits >> 7) & 0xFF, bits & 0x7F
    mantissa = fraction + (128 if exponent else 0)
    return (-1) ** sign * mantissa * Fraction(2) ** (max(exponent, 1) - 127 - 7)


def nearest(number):
    """The bit pattern nearest to a positive finite number, ties to even, by comparing fractions."""
    exact = Fraction(float(number))
    low = bisect_right(range(0x7F80), exact, key=value) - 1
    high_value = value(low + 1) if low < 0x7F7F else Fraction(2) ** 128  # where infinity begins
    below, above = exact - value(low), high_value - exact
    return low if below < above or (below == above and low % 2 == 0) else low + 1


def test_widen_gives_the_exact_value_of_every_pattern():
    wide = widen(EVERY)
    assert wide.dtype == np.float32
    finite = (EVERY & 0x7F80) != 0x7F80
    assert [Fraction(float(v)) for v in wide[finite][::37]] == [
        value(int(b)) for b in EVERY[finite][::37]
    ]
    assert np.isinf(wide[[0x7F80, 0xFF80]]).all()
    assert np.isnan(wide[~finite]).sum() == 2 * 127


def test_narrow_inverts_widen():
    with np.errstate(invalid="ignore"):
        back = narrow(widen(EVERY))
    quiet = np.where((EVERY & 0x7FFF) > 0x7F80, EVERY | 0x40, EVERY)
    np.testing.assert_array_equal(back, quiet)


def between(bits, dtype):
    """Numbers around the middle of two neighbouring patterns: the tie and its nearest others."""
    middle = np.float64((value(bits) + value(bits + 1)) / 2)
    tie = dtype(middle)
    return [tie, np.nextafter(tie, dtype(0)), np.nextafter(tie, dtype(np.inf))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [0x0000, 0x0001, 0x007F, 0x3F80, 0x3F81, 0x4049, 0x7F7E])
def test_narrow_rounds_to_nearest_even(bits, dtype):
    numbers = np.array(between(bits, dtype))
    want = [nearest(number) for number in numbers]
    assert narrow(numbers).tolist() == want
    assert narrow(-numbers).tolist() == [b | 0x8000 for b in want]


def test_float64_is_rounded_once():
    # Just above the tie of 0x3F80 and 0x3F81, but nearer to the tie than float32 can tell.
    number = np.array([1 + 2**-8 + 2**-40])
    assert narrow(number).tolist() == [0x3F81]
    assert narrow(number.astype(np.float32)).tolist() == [0x3F80]  # what rounding twice would give


def test_overflow_is_infinite_and_nan_stays_nan():
    largest = widen(np.array([0x7F7F], np.uint16))[0]
    numbers = np.array([largest, 3.4e38, 1e300, np.inf, -np.inf, np.nan, -0.0, 1e-300])
    assert narrow(numbers).tolist() == [
        *(0x7F7F, 0x7F80, 0x7F80, 0x7F80, 0xFF80, 0x7FC0, 0x8000, 0x0000)
    ]
    assert narrow(np.array(np.uint32(0xFFFFFFFF)).view(np.float32)).item() == 0xFFFF


def test_shapes_and_float16_pass_through():
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.testing.assert_array_equal(widen(narrow(half)), half)
    assert narrow(np.float32(1).reshape(())).shape == ()
    assert widen(np.zeros((0, 4), np.uint16)).shape == (0, 4)
