"""The fold of reparam.py, proved in fractions and measured against exact real numbers."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from npvgg.reparam import (
    BN_EPS,
    BatchNorm,
    Branches,
    ConvBN,
    fuse_conv_bn,
    identity_kernel,
    pad_1x1_to_3x3,
    reparameterize,
    reparameterize_float32,
    reparameterized_terms,
)
from npvgg.rounding import gamma
from tests.oracles import naive

EPS = Fraction(1, 16)  # dyadic, so that every number below is a float as well
# in_chs, out_chs, stride, dilation, groups, identity
CASES = {
    "plain": (3, 4, 1, 1, 1, False),
    "stride 2": (3, 4, 2, 1, 1, False),
    "identity": (4, 4, 1, 1, 1, True),
    "groups 2": (4, 6, 1, 1, 2, False),
    "groups 2, stride 2": (4, 4, 2, 1, 2, False),
    "identity in groups": (4, 4, 1, 1, 2, True),
    "identity, depthwise": (4, 4, 1, 1, 4, True),
    "dilation 2": (4, 4, 1, 2, 1, True),
    "dilation 2, groups 2": (4, 4, 1, 2, 2, True),
}
TABLE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def dyadic_branches(case, rng):
    """A block whose every number is a small fraction of a power of two, √(var + EPS) too."""
    c, k, _, _, groups, identity = case

    def norm():
        draws = [rng.integers(-8, 9, k) / 4 for _ in range(3)]
        roots = 2.0 ** rng.integers(-1, 3, k)
        return BatchNorm(*draws, roots**2 - float(EPS), eps=float(EPS))

    def conv(size):
        return ConvBN(rng.integers(-8, 9, (k, c // groups, size, size)) / 2, norm())

    return Branches(conv(3), conv(1), norm() if identity else None)


def named(branches):
    """The block under timm's names, as Fractions."""
    arrays = {
        "conv_kxk.conv.weight": branches.conv_kxk.weight,
        "conv_1x1.conv.weight": branches.conv_1x1.weight,
    }
    norms = {"conv_kxk.bn": branches.conv_kxk.bn, "conv_1x1.bn": branches.conv_1x1.bn}
    if branches.identity is not None:
        norms["identity"] = branches.identity
    for prefix, bn in norms.items():
        for name, values in (
            ("weight", bn.gamma), ("bias", bn.beta),
            ("running_mean", bn.mean), ("running_var", bn.var),
        ):  # fmt: skip
            arrays[f"{prefix}.{name}"] = values
    return {name: fractions(values) for name, values in arrays.items()}


def fractions(values):
    flat = [Fraction(v) for v in np.asarray(values, np.float64).reshape(-1).tolist()]
    return np.array(flat, dtype=object).reshape(np.shape(values))


@TABLE
def test_both_forms_equal_the_definition_in_fractions(case, rng):
    """No tolerance: train form, deploy form and the loops over Fractions give the same numbers."""
    c, _, stride, dilation, groups, _ = case
    branches = dyadic_branches(case, rng)
    x = rng.integers(-4, 5, (2, c, 5, 4)).astype(np.float64)
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    want = naive.branches(fractions(x), named(branches), eps=EPS, **options)
    np.testing.assert_array_equal(fractions(branches(x, **options)), want)
    fused = reparameterize(branches, groups=groups)
    np.testing.assert_array_equal(fractions(fused(x, **options)), want)


def test_a_folded_batch_norm_is_the_convolution_and_the_batch_norm(rng):
    case = CASES["plain"]
    conv = dyadic_branches(case, rng).conv_kxk
    x = rng.integers(-4, 5, (1, 3, 4, 5))
    statistics = [fractions(a) for a in (conv.bn.gamma, conv.bn.beta, conv.bn.mean, conv.bn.var)]
    y = naive.conv2d(fractions(x), fractions(conv.weight), padding=1)
    want = naive.batch_norm(y, *statistics, eps=EPS)
    fused = fuse_conv_bn(conv.weight, conv.bn)
    got = naive.conv2d(fractions(x), fractions(fused.weight), fractions(fused.bias), padding=1)
    np.testing.assert_array_equal(got, want)


def test_a_1x1_kernel_in_3x3_zeros_is_the_same_convolution(rng):
    w, x = rng.integers(-8, 9, (4, 3, 1, 1)), rng.integers(-8, 9, (1, 3, 5, 4))
    padded = pad_1x1_to_3x3(w)
    assert padded.shape == (4, 3, 3, 3)
    for stride, dilation in ((1, 1), (2, 1), (1, 2)):
        want = naive.conv2d(x, w, stride=stride)
        got = naive.conv2d(x, padded, stride=stride, padding=dilation, dilation=dilation)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_the_identity_kernel_gives_back_what_it_is_given(groups, rng):
    x = rng.integers(-8, 9, (2, 6, 3, 4))
    kernel = identity_kernel(6, groups)
    assert kernel.shape == (6, 6 // groups, 1, 1)
    np.testing.assert_array_equal(naive.conv2d(x, kernel, groups=groups), x)


def test_the_eps_is_that_of_torch():
    assert BN_EPS == BatchNorm(*np.ones((4, 1))).eps == naive.EPS


# --- Rounding -------------------------------------------------------------------------------------


def exact_fold(branches, groups):
    """The folded kernel and bias to 50 digits, and the sizes of the parts that were added up."""
    w = named(branches)
    k, cg = w["conv_kxk.conv.weight"].shape[:2]

    def scale(prefix, n):
        with localcontext(prec=60):
            var = w[f"{prefix}.running_var"][n] + Fraction(BN_EPS)
            root = (Decimal(var.numerator) / Decimal(var.denominator)).sqrt()
            return w[f"{prefix}.weight"][n] / Fraction(root)

    norms = [p for p in ("conv_kxk.bn", "conv_1x1.bn", "identity") if f"{p}.weight" in w]
    t = {p: [scale(p, n) for n in range(k)] for p in norms}
    kernel, sizes = np.zeros((2, k, cg, 3, 3), dtype=object)
    for n, c in np.ndindex(k, cg):
        parts = w["conv_kxk.conv.weight"][n, c] * t["conv_kxk.bn"][n]
        kernel[n, c], sizes[n, c] = parts, abs(parts)
        centre = [w["conv_1x1.conv.weight"][n, c, 0, 0] * t["conv_1x1.bn"][n]]
        if "identity" in t and n % cg == c:
            centre.append(t["identity"][n])
        kernel[n, c, 1, 1] += sum(centre)
        sizes[n, c, 1, 1] += sum(map(abs, centre))
    bias = [sum(w[f"{p}.bias"][n] - w[f"{p}.running_mean"][n] * t[p][n] for p in norms)
            for n in range(k)]  # fmt: skip
    bias_sizes = [
        sum(abs(w[f"{p}.bias"][n]) + abs(w[f"{p}.running_mean"][n] * t[p][n]) for p in norms)
        for n in range(k)
    ]
    return (kernel, sizes), (np.array(bias), np.array(bias_sizes))


def random_branches(case, rng, dtype):
    c, k, _, _, groups, identity = case

    def norm():
        draws = [rng.standard_normal(k).astype(dtype) for _ in range(3)]
        return BatchNorm(*draws, rng.uniform(1e-4, 4, k).astype(dtype))

    def conv(size):
        return ConvBN(rng.standard_normal((k, c // groups, size, size)).astype(dtype), norm())

    return Branches(conv(3), conv(1), norm() if identity else None)


def assert_folds_once(branches, groups, fold=reparameterize):
    """Half a unit in the last place of the dtype, a few of float64's: one rounding at the end."""
    fused = fold(branches, groups=groups)
    assert fused.weight.dtype == fused.bias.dtype == branches.conv_kxk.weight.dtype
    u = Fraction(float(np.finfo(fused.weight.dtype).eps) / 2)
    u64 = Fraction(1, 2**53)
    for got, (want, sizes) in zip(
        (fused.weight, fused.bias), exact_fold(branches, groups), strict=True
    ):
        assert (abs(fractions(got) - want) <= u * abs(want) + 12 * u64 * sizes).all()


@TABLE
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_the_fold_rounds_once(case, dtype, rng):
    assert_folds_once(random_branches(case, rng, dtype), case[4])


def test_the_fold_rounds_to_another_type_on_request(rng):
    branches = random_branches(CASES["identity"], rng, np.float32)
    once = reparameterize(branches, groups=1, dtype=np.float64)
    default = reparameterize(branches, groups=1)
    assert (once.weight.dtype, default.weight.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(once.weight.astype(np.float32), default.weight)
    np.testing.assert_array_equal(once.bias.astype(np.float32), default.bias)


def test_the_fold_leaves_the_branches_as_they_were(rng):
    branches = random_branches(CASES["identity in groups"], rng, np.float32)
    before = {name: values.copy() for name, values in named(branches).items()}
    reparameterize(branches, groups=2)
    for name, values in named(branches).items():
        np.testing.assert_array_equal(values, before[name])


@TABLE
def test_train_and_deploy_form_agree_to_rounding(case, rng):
    c, k, stride, dilation, groups, _ = case
    branches = random_branches(case, rng, np.float64)
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    x = rng.standard_normal((2, c, 6, 7))
    want = branches(x, **options)
    got = reparameterize(branches, groups=groups)(x, **options)
    assert abs(got - want).max() <= 1e-12 * abs(want).max()
    assert want.shape == (2, k, -(-6 // stride), -(-7 // stride))


# --- The variants ---------------------------------------------------------------------------------


def magnitudes(kernels):
    """Σ |terms| of a folded kernel and bias, in loops over Python's floats: [(3×3 kernel, bn)]."""
    out, c_group = kernels[0][0].shape[:2]
    weight, bias = np.zeros((out, c_group, 3, 3)), np.zeros(out)
    for kernel, bn in kernels:
        for k in range(out):
            t = abs(float(bn.gamma[k])) / float(np.sqrt(bn.var[k] + bn.eps))
            bias[k] += abs(float(bn.beta[k])) + abs(float(bn.mean[k])) * t
            for c, r, s in np.ndindex(c_group, 3, 3):
                weight[k, c, r, s] += abs(float(kernel[k, c, r, s])) * t
    return weight, bias


@TABLE
def test_the_terms_of_a_fold_are_the_magnitudes_of_what_is_added(case, rng):
    """On dyadic numbers exactly; and no fold is larger than they are."""
    groups, branches = case[4], dyadic_branches(case, rng)
    kernels = [(branches.conv_kxk.weight, branches.conv_kxk.bn),
               (pad_1x1_to_3x3(branches.conv_1x1.weight), branches.conv_1x1.bn)]  # fmt: skip
    if branches.identity is not None:
        one = identity_kernel(len(branches.conv_kxk.weight), groups)
        kernels.append((pad_1x1_to_3x3(one), branches.identity))
    terms = reparameterized_terms(branches, groups=groups)
    for got, want in zip((terms.weight, terms.bias), magnitudes(kernels), strict=True):
        np.testing.assert_array_equal(got, want)
    exact = reparameterize(branches, groups=groups)
    assert (abs(exact.weight) <= terms.weight).all()
    assert (abs(exact.bias) <= terms.bias).all()
    raised = reparameterized_terms(branches, groups=groups, floor=0.5)
    assert (raised.weight >= terms.weight).all()


@TABLE
def test_the_fold_in_float32_is_within_its_roundings(case, rng):
    """Each term is rounded at most eight times: root, quotient, products, two sums, eps, gamma."""
    groups, branches = case[4], dyadic_branches(case, rng)
    exact, terms = reparameterize(branches, groups=groups), reparameterized_terms(
        branches, groups=groups
    )  # fmt: skip
    rounded = reparameterize_float32(branches, groups=groups)
    for name in ("weight", "bias"):
        error = abs(getattr(rounded, name) - getattr(exact, name))
        assert (error <= gamma(8) * getattr(terms, name)).all()
