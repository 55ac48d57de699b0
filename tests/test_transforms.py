"""Straight-line transforms: every compiled matrix does what the exact matrix says."""

import numpy as np
import pytest

from npvgg.engines.layout import aligned
from npvgg.engines.microkernel import LANES
from npvgg.engines.transforms import FILTERS, INPUT_OF, MATRICES, OUTPUT_OF, transform
from npvgg.jit import kernel


@kernel
def call(matrix, x, x_at, x_step, y, y_at, y_step):
    transform(matrix, x, x_at, x_step, y, y_at, y_step)


@pytest.mark.parametrize("matrix", range(len(MATRICES)))
def test_a_column_of_small_integers_is_transformed_exactly(matrix):
    rows, columns = len(MATRICES[matrix]), len(MATRICES[matrix][0])
    rng = np.random.default_rng(matrix)
    x, y = aligned(4 * columns * LANES), aligned(4 * rows * LANES)
    x[:] = 4096 * rng.integers(-4, 5, x.size)  # the fractions have denominators up to 4096
    y[:] = before = rng.integers(-4, 5, y.size)
    call(matrix, x, LANES, 3 * LANES, y, 2 * LANES, 2 * LANES)
    column = x.reshape(-1, LANES)[1::3][:columns].astype(int)
    want = before.reshape(-1, LANES).copy()
    for i, row in enumerate(MATRICES[matrix]):
        for lane in range(LANES):
            want[2 + 2 * i, lane] = sum(
                m * int(v) for m, v in zip(row, column[:, lane], strict=True)
            )
    np.testing.assert_array_equal(y.reshape(-1, LANES), want)


def test_every_filter_has_its_two_matrices():
    for key, fast in FILTERS.items():
        assert MATRICES[INPUT_OF[key]] == fast.bt
        assert MATRICES[OUTPUT_OF[key]] == fast.at
