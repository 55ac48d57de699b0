"""The judge lets what is exact pass and catches what is not."""

import numpy as np
import pytest

from tests.oracles import judge

TRUTH = {"y": np.array([[-1.0, 3.0], [0.1, 1 / 3]])}
ROUNDED = {"y": TRUTH["y"].astype(np.float32)}


def off_by(delta):
    return {"y": (TRUTH["y"] + delta).astype(np.float32)}


def test_rounding_once_passes_even_where_pytorch_was_exact():
    exact = {"y": TRUTH["y"]}
    judge.assert_float32(ROUNDED, exact, TRUTH)


def test_the_bound_is_a_multiple_of_pytorchs_error():
    theirs = off_by(1e-4)
    judge.assert_float32(off_by(3.9e-4), theirs, TRUTH)
    judge.assert_float32(off_by(5.9e-4), theirs, TRUTH, "winograd")
    with pytest.raises(AssertionError, match=r"y: off by 0\.0005, PyTorch by 0\.0001"):
        judge.assert_float32(off_by(5e-4), theirs, TRUTH)


@pytest.mark.parametrize(
    "got",
    [
        {},
        {"y": ROUNDED["y"], "z": ROUNDED["y"]},
        {"y": ROUNDED["y"][0]},
        {"y": TRUTH["y"]},
        {"y": ROUNDED["y"].T},
        {"y": ROUNDED["y"] * np.float32(np.nan)},
        {"y": ROUNDED["y"] + np.float32(1e-5)},
    ],
    ids=["missing", "unexpected", "misshapen", "float64", "transposed", "nan", "off"],
)
def test_a_wrong_float32_answer_is_caught(got):
    with pytest.raises(AssertionError):
        judge.assert_float32(got, ROUNDED, TRUTH)


def test_float64_must_agree_to_twelve_digits():
    judge.assert_float64({"y": TRUTH["y"] * (1 + 9e-13)}, TRUTH)
    for wrong in (TRUTH["y"] * (1 + 1.1e-12), TRUTH["y"] * np.nan, ROUNDED["y"]):
        with pytest.raises(AssertionError):
            judge.assert_float64({"y": wrong}, TRUTH)
