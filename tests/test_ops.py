"""Each operation is judged by the oracle: equal on integers, within a proven bound on real data."""

import math
from itertools import product

import numpy as np
import pytest

from npvgg import ops
from npvgg.config import ACT_LAYERS, GLOBAL_POOLS
from npvgg.errors import ArgumentError
from tests.oracles import naive
from tests.oracles.bounds import assert_within, gamma

DTYPES = (np.float32, np.float64)

# id: (N, C, H, W), (K, R, S), options
CONVS = {
    "3x3": ((2, 3, 7, 5), (5, 3, 3), {"padding": 1}),
    "3x3-unpadded": ((1, 3, 4, 6), (2, 3, 3), {}),
    "3x3-stride2-odd": ((3, 3, 7, 5), (5, 3, 3), {"padding": 1, "stride": 2}),
    "3x3-stride2-even": ((1, 3, 8, 6), (5, 3, 3), {"padding": 1, "stride": 2}),
    "3x3-stride3": ((1, 2, 8, 7), (2, 3, 3), {"padding": 1, "stride": 3}),
    "3x3-dilation2": ((1, 3, 7, 6), (4, 3, 3), {"padding": 2, "dilation": 2}),
    "3x3-dilation4-beyond-the-map": ((1, 2, 3, 2), (2, 3, 3), {"padding": 4, "dilation": 4}),
    "3x3-stride2-dilation2": (
        (1, 2, 9, 8), (3, 3, 3), {"padding": 2, "dilation": 2, "stride": 2}),
    "3x3-groups2": ((2, 4, 5, 6), (6, 3, 3), {"padding": 1, "groups": 2}),
    "3x3-groups4-stride2": ((1, 8, 5, 5), (4, 3, 3), {"padding": 1, "groups": 4, "stride": 2}),
    "3x3-depthwise": ((1, 3, 4, 5), (3, 3, 3), {"padding": 1, "groups": 3}),
    "1x1": ((2, 3, 4, 5), (6, 1, 1), {}),
    "1x1-stride2": ((2, 3, 5, 4), (6, 1, 1), {"stride": 2}),
    "1x1-groups2": ((1, 4, 3, 3), (4, 1, 1), {"groups": 2}),
    "7x7": ((1, 2, 6, 9), (1, 7, 7), {"padding": 3}),
    "3x2": ((1, 2, 6, 5), (2, 3, 2), {"padding": 1}),
    "one-pixel": ((2, 3, 1, 1), (4, 3, 3), {"padding": 1, "stride": 2}),
    "one-row": ((1, 3, 1, 9), (4, 3, 3), {"padding": 1, "stride": 2}),
}  # fmt: skip


def conv_shapes(case):
    shape, (k, r, s), options = CONVS[case]
    return shape, (k, shape[1] // options.get("groups", 1), r, s), options


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONVS)
def test_conv2d_is_exact_on_integers(case, dtype, rng):
    shape, kernel_shape, options = conv_shapes(case)
    x, w, b = (rng.integers(-8, 9, size) for size in (shape, kernel_shape, kernel_shape[:1]))
    want = naive.conv2d(x, w, b, **options)
    got = ops.conv2d(x.astype(dtype), w.astype(dtype), b.astype(dtype), **options)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONVS)
def test_conv2d_rounds_no_more_than_the_theorem_allows(case, dtype, rng):
    shape, kernel_shape, options = conv_shapes(case)
    x, w = (rng.standard_normal(size).astype(dtype) for size in (shape, kernel_shape))
    want = naive.conv2d(x, w, **options)
    terms = math.prod(kernel_shape[1:])
    bound = gamma(terms + 1, dtype) * np.array(naive.conv2d(abs(x), abs(w), **options))
    assert_within(ops.conv2d(x, w, **options), want, bound)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sliding_impulse_names_every_tap(stride):
    kernel = 2.0 ** np.arange(9).reshape(1, 1, 3, 3)
    for h, w in product(range(4), range(5)):
        x = np.zeros((1, 1, 4, 5))
        x[0, 0, h, w] = 1
        want = naive.conv2d(x, kernel, stride=stride, padding=1)
        np.testing.assert_array_equal(ops.conv2d(x, kernel, stride=stride, padding=1), want)


def test_conv2d_of_no_images_has_the_right_shape():
    y = ops.conv2d(np.zeros((0, 4, 5, 6)), np.zeros((8, 2, 3, 3)), padding=1, stride=2, groups=2)
    assert y.shape == (0, 8, 3, 3)


def test_conv2d_leaves_its_input_alone_and_takes_any_layout(rng):
    x = rng.integers(-8, 9, (2, 6, 5, 3)).astype(np.float32)
    before, w = x.copy(), rng.integers(-8, 9, (4, 3, 3, 3)).astype(np.float32)
    view = x.transpose(0, 3, 2, 1)[:, :, ::-1]
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(
        ops.conv2d(view, w, padding=1), ops.conv2d(view.copy(), w, padding=1)
    )
    np.testing.assert_array_equal(x, before)


def test_windows_are_views_without_padding():
    x = np.arange(30.0).reshape(1, 1, 5, 6)
    windows = ops.sliding_windows(x, (3, 3), stride=2, padding=0, dilation=1)
    assert np.shares_memory(windows, x)
    assert not windows.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_is_exact_where_the_roots_are(dtype):
    x = np.arange(-12, 12).reshape(1, 3, 2, 4)
    mean, var, gamma_, beta = [1, -2, 3], [0, 0.75, 15.75], [1, 2, -4], [0, 5, -1]
    want = naive.batch_norm(x, gamma_, beta, mean, var, 0.25)
    got = ops.batch_norm(
        x.astype(dtype), *(np.array(a, dtype) for a in (mean, var, gamma_, beta)), 0.25
    )
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_rounds_no_more_than_its_steps(dtype, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(dtype)
    mean, gamma_, beta = rng.uniform(-2, 2, (3, 3)).astype(dtype)
    var = np.array([1e-4, 0.3, 20], dtype)
    want = naive.batch_norm(x, gamma_, beta, mean, var)
    size = naive.batch_norm(abs(x), abs(gamma_), abs(beta), -abs(mean), var)
    # eps, + , √, ÷, −, ·, + : seven roundings of numbers that are at most `size`
    assert_within(
        ops.batch_norm(x, mean, var, gamma_, beta, 1e-5), want, gamma(7, dtype) * np.array(size)
    )


def test_linear_is_exact_on_integers(rng):
    x, w, b = (rng.integers(-8, 9, shape) for shape in ((3, 7), (5, 7), 5))
    got = ops.linear(*(a.astype(np.float32) for a in (x, w, b)))
    np.testing.assert_array_equal(got, naive.linear(x, w, b))


@pytest.mark.parametrize("kind", GLOBAL_POOLS)
def test_global_pool_is_exact_on_integers(kind, rng):
    x = rng.integers(-64, 65, (3, 5, 2, 4))  # eight pixels: their mean is exact
    got = ops.global_pool(x.astype(np.float32), kind)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, naive.global_pool(x, kind))


def test_an_unknown_pool_or_activation_is_named():
    with pytest.raises(ArgumentError, match=r"global_pool: .*'median'"):
        ops.global_pool(np.zeros((1, 1, 1, 1)), "median")
    with pytest.raises(ArgumentError, match=r"activation: .*'rely'"):
        ops.activation("rely")


# --- Activations ----------------------------------------------------------------------------------

GRID = np.concatenate([np.linspace(-9, 9, 73), [-1e-3, 1e-3, -1e-30, 5.9999, -2.9999]])


@pytest.mark.parametrize("name", ACT_LAYERS)
def test_activation_is_its_formula(name):
    want = naive.each(naive.ACTIVATIONS[name], GRID.tolist())
    # 1 + erf(x) and 1 + tanh(x) cancel near −1: there, u·|x| is the honest measure
    np.testing.assert_allclose(ops.activation(name)(GRID), want, rtol=1e-13, atol=2e-15)


@pytest.mark.parametrize("name", ACT_LAYERS)
def test_activation_in_float32_is_the_float64_one_rounded_a_few_times(name):
    x = GRID.astype(np.float32)
    before = x.copy()
    got, want = ops.activation(name)(x), ops.activation(name)(x.astype(np.float64))
    assert got.dtype == np.float32
    assert (np.abs(got - want) <= gamma(16, np.float32) * (np.abs(x) + np.abs(want))).all()
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACT_LAYERS)
def test_activation_warns_of_nothing_and_hides_no_nan(name, dtype):
    far = np.array([-1e30, -1e4, 1e4, 1e30], dtype)
    y = ops.activation(name)(far)  # a warning would be an error here
    assert np.isfinite(y).all()
    assert np.isnan(ops.activation(name)(np.array([np.nan], dtype))).all()


# --- Outputs --------------------------------------------------------------------------------------


def test_softmax_is_its_formula_and_never_overflows(rng):
    x = rng.uniform(-5, 5, (3, 4))
    want = [[math.exp(v) / math.fsum(map(math.exp, row)) for v in row] for row in x.tolist()]
    np.testing.assert_allclose(ops.softmax(x, axis=1), want, rtol=1e-14)
    np.testing.assert_allclose(ops.softmax(x.T, axis=0), np.transpose(want), rtol=1e-14)
    np.testing.assert_array_equal(ops.softmax(np.array([1e4, 1e4, -1e4])), [0.5, 0.5, 0])
    assert ops.softmax(np.zeros((0, 5), np.float32)).shape == (0, 5)


def test_topk_gives_the_largest_first_and_the_lower_index_of_equals():
    values, indices = ops.topk(np.array([[3.0, 9.0, 3.0, 9.0, -1.0], [5, 4, 3, 2, 1]]), 3)
    np.testing.assert_array_equal(values, [[9, 9, 3], [5, 4, 3]])
    np.testing.assert_array_equal(indices, [[1, 3, 0], [0, 1, 2]])
    assert indices.dtype == np.int64


def test_topk_along_another_axis(rng):
    x = rng.integers(0, 5, (6, 2, 3)).astype(float)
    values, indices = ops.topk(x, 4, axis=0)
    want = ops.topk(np.moveaxis(x, 0, -1), 4)
    np.testing.assert_array_equal(values, np.moveaxis(want[0], -1, 0))
    np.testing.assert_array_equal(indices, np.moveaxis(want[1], -1, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.bool_, np.float16])
def test_topk_orders_every_kind_of_number(dtype):
    x = np.array([0, 1, np.iinfo(dtype).min if dtype == np.int8 else 0, 1], dtype)
    values, indices = ops.topk(x, 4)
    assert values.dtype == dtype
    assert indices.tolist() == [1, 3, 0, 2]


def test_topk_puts_a_nan_first_where_it_is_seen():
    assert ops.topk(np.array([1.0, np.nan, 2.0]), 2)[1].tolist() == [1, 2]


@pytest.mark.parametrize("k", [0, 4, -1, 1.0, True, None])
def test_topk_refuses_an_impossible_k(k):
    with pytest.raises(ArgumentError, match="k: expected 1 … 3"):
        ops.topk(np.zeros(3), k)


def test_topk_refuses_an_axis_that_is_not_there():
    with pytest.raises(ArgumentError, match="axis"):
        ops.topk(np.zeros(3), 1, axis=1)


def test_softmax_takes_lists_and_refuses_an_axis_that_is_not_there():
    np.testing.assert_allclose(ops.softmax([1.0, 1.0]), [0.5, 0.5])
    with pytest.raises(ArgumentError, match=r"^axis: expected an axis of x, whose shape is \(2,\)"):
        ops.softmax(np.ones(2), axis=1)


def test_one_logit_is_a_yes_or_no(rng):
    """Its softmax would be 1 for every photo."""
    logits = np.array([[-2.0], [0.0], [np.log(3.0)]])
    np.testing.assert_allclose(
        ops.probabilities(logits), [[1 / (1 + np.exp(2.0))], [0.5], [0.75]], rtol=1e-15
    )
    many = rng.standard_normal((3, 4))
    np.testing.assert_array_equal(ops.probabilities(many), ops.softmax(many, axis=1))
