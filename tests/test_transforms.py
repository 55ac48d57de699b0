"""Straight-line transforms: every compiled matrix does what the exact matrix says."""

import numpy as np
import pytest

from npvgg.engines.jit import kernel
from npvgg.engines.layout import aligned
from npvgg.engines.microkernel import LANES
from npvgg.engines.transforms import (
    FILTERS,
    INDEX,
    INPUTS,
    KERNELS,
    OUTPUTS,
    finish,
    finish_plain,
    transform_input,
    transform_input_plain,
    transform_kernel,
    transform_kernel_plain,
)

ROW, COL, Y_ROW, Y_COL = 30 * LANES, 2 * LANES, 25 * LANES, LANES


@kernel
def compiled_input(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col):
    transform_input(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col)


@kernel
def compiled_kernel(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col):
    transform_kernel(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col)


@kernel
def compiled_finish(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col, bias, bias_at, least):
    finish(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col, bias, bias_at, least)


def problem(matrix, scale):
    """X of small integers times `scale`, Y of others; and L X Lᵀ in fractions, (i, j, lanes)."""
    rows, columns = len(matrix), len(matrix[0])
    rng = np.random.default_rng(columns)
    x, y = aligned(LANES + columns * ROW), aligned(2 * LANES + rows * Y_ROW)
    x[:] = scale * rng.integers(-4, 5, x.size)
    y[:] = rng.integers(-4, 5, y.size)
    grid = x[LANES:].reshape(columns, -1, LANES)[:, ::2][:, :columns]
    want = np.zeros((rows, rows, LANES), object)
    for i, j in np.ndindex(rows, rows):
        for a, b in np.ndindex(columns, columns):
            factor = matrix[i][a] * matrix[j][b]
            if factor:
                want[i, j] += [factor * int(v) for v in grid[a, b]]
    return x, y, want


def placed(y, want):
    """What Y must be: the tile in its places, all else as it was."""
    after = y.copy()
    for i, j in np.ndindex(want.shape[:2]):
        at = 2 * LANES + i * Y_ROW + j * Y_COL
        after[at : at + LANES] = want[i, j]
    return after


def scale_of(matrix):
    """A power of two that makes every entry of L X Lᵀ an integer, where the fractions allow."""
    return max(value.denominator for row in matrix for value in row) ** 2


WHERE = (LANES, ROW, COL)
THERE = (2 * LANES, Y_ROW, Y_COL)


@pytest.mark.parametrize("form", [compiled_input, transform_input_plain], ids=["vectors", "plain"])
@pytest.mark.parametrize(("m", "stride"), [(3, 1), (2, 2), (4, 2)], ids=str)
def test_the_input_of_small_integers_is_transformed_exactly(m, stride, form):
    matrix = FILTERS[m, stride].bt
    x, y, want = problem(matrix, 1)
    after = placed(y, want)
    form(INDEX[m, stride], x, *WHERE, y, *THERE)
    np.testing.assert_array_equal(y, after)


def assert_rounded(matrix, call):
    """Within γ of two sums, each of as many roundings as terms, products and the matrix's own."""
    x, y, want = problem(matrix, 1)
    size = np.abs(np.array([[float(v) for v in row] for row in matrix]))
    grid = np.abs(x[LANES:].reshape(len(size[0]), -1, LANES)[:, ::2][:, : len(size[0])])
    u = 2 * (len(size[0]) + 2) * 2.0**-24
    bound = u / (1 - u) * np.einsum("ia,abl,jb->ijl", size, grid, size)
    after = placed(y, want)
    call(x, y)
    error, allowed = np.abs(y - after), placed(np.zeros_like(y), bound)
    assert (error <= allowed).all(), np.max(error - allowed)


@pytest.mark.parametrize("form", [compiled_input, transform_input_plain], ids=["vectors", "plain"])
@pytest.mark.parametrize("index", range(len(INPUTS)))
def test_every_input_matrix_is_within_its_rounding(index, form):
    assert_rounded(INPUTS[index], lambda x, y: form(index, x, *WHERE, y, *THERE))


@pytest.mark.parametrize(
    "form", [compiled_kernel, transform_kernel_plain], ids=["vectors", "plain"]
)
@pytest.mark.parametrize("index", range(len(KERNELS)))
def test_every_kernel_matrix_is_within_its_rounding(index, form):
    assert_rounded(KERNELS[index], lambda x, y: form(index, x, *WHERE, y, *THERE))


@pytest.mark.parametrize("form", [compiled_finish, finish_plain], ids=["vectors", "plain"])
@pytest.mark.parametrize("index", range(len(OUTPUTS)))
def test_every_output_matrix_is_within_its_rounding(index, form):
    zeros, least = aligned(LANES), np.float32(-np.inf)
    assert_rounded(OUTPUTS[index], lambda x, y: form(index, x, *WHERE, y, *THERE, zeros, 0, least))


@pytest.mark.parametrize("form", [compiled_finish, finish_plain], ids=["vectors", "plain"])
@pytest.mark.parametrize("least", [0.0, -np.inf], ids=["relu", "linear"])
@pytest.mark.parametrize(("m", "stride"), [(3, 1), (2, 2), (4, 2)], ids=str)
def test_the_output_gets_its_bias_and_its_relu(m, stride, least, form):
    matrix = FILTERS[m, stride].at
    x, y, want = problem(matrix, scale_of(matrix))
    bias = aligned(2 * LANES)
    bias[:] = np.arange(-LANES, LANES)
    for i, j in np.ndindex(want.shape[:2]):
        want[i, j] = [max(v + b, least) for v, b in zip(want[i, j], range(LANES), strict=True)]
    assert max(abs(v) for v in want.ravel()) < 2**24
    after = placed(y, want)
    form(INDEX[m, stride], x, *WHERE, y, *THERE, bias, LANES, np.float32(least))
    np.testing.assert_array_equal(y, after)


@pytest.mark.parametrize("form", [compiled_finish, finish_plain], ids=["vectors", "plain"])
def test_a_nan_passes_through_the_relu(form):
    x, y, _ = problem(FILTERS[3, 1].at, 1)
    x[:] = np.nan
    form(INDEX[3, 1], x, *WHERE, y, *THERE, aligned(LANES), 0, np.float32(0))
    assert np.isnan(y).sum() == 3 * 3 * LANES


@pytest.mark.parametrize(("m", "stride"), FILTERS, ids=str)
def test_the_three_transforms_of_a_filter_convolve(m, stride):
    """Bᵀ d B, G g Gᵀ and Aᵀ M A, each by its index, make of one tile what nine products make."""
    rng = np.random.default_rng(m)
    n, vector = FILTERS[m, stride].n, np.arange(LANES)
    d, g = rng.integers(-3, 4, (n, n, LANES)), rng.integers(-3, 4, (3, 3, LANES))
    x, kernel, u, v, y = (aligned(size * size * LANES) for size in (n, 3, n, n, m))
    x[:], kernel[:] = d.ravel(), g.ravel()
    row, zeros = n * LANES, aligned(LANES)
    compiled_input(INDEX[m, stride], x, 0, row, LANES, v, 0, row, LANES)
    compiled_kernel(INDEX[m, stride], kernel, 0, 3 * LANES, LANES, u, 0, row, LANES)
    v *= u
    least = np.float32(-np.inf)
    compiled_finish(INDEX[m, stride], v, 0, row, LANES, y, 0, m * LANES, LANES, zeros, 0, least)
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3), axis=(0, 1))
    want = np.einsum("yxlab,abl->yxl", windows[::stride, ::stride], g)
    assert want.shape == (m, m, len(vector))
    assert abs(y.reshape(want.shape) - want).max() < 0.5  # integers: another matrix is off by one
