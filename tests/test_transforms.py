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
    SCALES,
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
def compiled_kernel(filter, row, count, x, x_at, y, y_at, y_col):
    transform_kernel(filter, row, count, x, x_at, y, y_at, y_col)


@kernel
def compiled_finish(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col, bias, bias_at, least):
    finish(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col, bias, bias_at, least)


def between(matrix, grid, scales=None):
    """L X Lᵀ ⊙ s sᵀ in fractions, (i, j, lanes), for X (a, b, lanes)."""
    rows, columns = len(matrix), len(matrix[0])
    s = scales or [1] * rows
    want = np.zeros((rows, rows, LANES), object)
    for i, j in np.ndindex(rows, rows):
        for a, b in np.ndindex(columns, columns):
            factor = matrix[i][a] * matrix[j][b] * s[i] * s[j]
            if factor:
                want[i, j] += [factor * int(v) for v in grid[a, b]]
    return want


def problem(matrix, scale, scales=None):
    """X of small integers times `scale`, Y of others; and L X Lᵀ ⊙ s sᵀ."""
    rows, columns = len(matrix), len(matrix[0])
    rng = np.random.default_rng(columns)
    x, y = aligned(LANES + columns * ROW), aligned(2 * LANES + rows * Y_ROW)
    x[:] = scale * rng.integers(-4, 5, x.size)
    y[:] = rng.integers(-4, 5, y.size)
    grid = x[LANES:].reshape(columns, -1, LANES)[:, ::2][:, :columns]
    return x, y, between(matrix, grid, scales)


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


def rounding(matrix, grid, scales=None):
    """γ of two sums, each of as many roundings as terms, products, the matrix's own and a scale."""
    size = np.abs(np.array([[float(v) for v in row] for row in matrix]))
    s = np.abs(np.array([float(v) for v in scales or [1] * len(matrix)]))
    u = 2 * (len(size[0]) + 3) * 2.0**-24
    bound = u / (1 - u) * np.einsum("ia,abl,jb->ijl", size, np.abs(grid), size)
    return bound * np.outer(s, s)[:, :, None]


def assert_rounded(matrix, call, scales=None):
    x, y, want = problem(matrix, 1, scales)
    columns = len(matrix[0])
    grid = x[LANES:].reshape(columns, -1, LANES)[:, ::2][:, :columns]
    after = placed(y, want)
    call(x, y)
    allowed = placed(np.zeros_like(y), rounding(matrix, grid, scales))
    error = np.abs(y - after)
    assert (error <= allowed).all(), np.max(error - allowed)


@pytest.mark.parametrize("form", [compiled_input, transform_input_plain], ids=["vectors", "plain"])
@pytest.mark.parametrize("index", range(len(INPUTS)))
def test_every_input_matrix_is_within_its_rounding(index, form):
    call = lambda x, y: form(index, x, *WHERE, y, *THERE)  # noqa: E731
    assert_rounded(INPUTS[index], call, SCALES[index])


@pytest.mark.parametrize(
    "form", [compiled_kernel, transform_kernel_plain], ids=["vectors", "plain"]
)
@pytest.mark.parametrize("index", range(len(KERNELS)))
@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_row_of_a_kernel_matrix_is_within_its_rounding(index, form, count):
    """And nothing else of Y is touched."""
    matrix, rng = KERNELS[index], np.random.default_rng(index)
    kernels = rng.integers(-4, 5, (count, 3, 3, LANES))
    x, y_col = aligned(LANES + kernels.size), 4 * LANES
    x[LANES:] = kernels.ravel()
    for row in range(len(matrix)):
        y = aligned((1 + len(matrix) * 4) * LANES)
        y[:] = 99
        want, allowed = np.full(y.size, 99, object), np.zeros(y.size)
        for c, kernel_c in enumerate(kernels):
            exact, bound = between(matrix, kernel_c)[row], rounding(matrix, kernel_c)[row]
            for j in range(len(matrix)):
                at = slice(LANES + j * y_col + c * LANES, LANES + j * y_col + (c + 1) * LANES)
                want[at], allowed[at] = exact[j], bound[j]
        form(index, row, count, x, LANES, y, LANES, y_col)
        assert (abs(y - want.astype(float)) <= allowed).all()


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
    """V, U and Aᵀ M A, each by its index, make of one tile what nine products make."""
    rng = np.random.default_rng(m)
    n, vector = FILTERS[m, stride].n, np.arange(LANES)
    d, g = rng.integers(-3, 4, (n, n, LANES)), rng.integers(-3, 4, (3, 3, LANES))
    x, kernel, u, v, y = (aligned(size * size * LANES) for size in (n, 3, n, n, m))
    x[:], kernel[:] = d.ravel(), g.ravel()
    row, zeros = n * LANES, aligned(LANES)
    compiled_input(INDEX[m, stride], x, 0, row, LANES, v, 0, row, LANES)
    for i in range(n):
        compiled_kernel(INDEX[m, stride], i, 1, kernel, 0, u, i * row, LANES)
    v *= u
    least = np.float32(-np.inf)
    compiled_finish(INDEX[m, stride], v, 0, row, LANES, y, 0, m * LANES, LANES, zeros, 0, least)
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3), axis=(0, 1))
    want = np.einsum("yxlab,abl->yxl", windows[::stride, ::stride], g)
    assert want.shape == (m, m, len(vector))
    assert abs(y.reshape(want.shape) - want).max() < 0.5  # integers: another matrix is off by one
