"""The bounds are what the theorems say, hold for whatever is correct, and for little else."""

from decimal import Decimal
from math import exp, sqrt

import numpy as np
import pytest

import npvgg
from npvgg import attention, ops
from npvgg.engines import prepare
from npvgg.engines.cook_toom import as_array, cook_toom
from npvgg.engines.reference import forward_block
from npvgg.errors import ArgumentError
from npvgg.network import Network
from npvgg.reparam import BatchNorm, Branches, ConvBN, FusedConv
from npvgg.rounding import gamma
from npvgg.testing import Pack, error_bound, layer_by_layer, seeded, steady
from npvgg.testing.bounds import gates, tiles
from npvgg.testing.bounds.gates import Ball
from npvgg.testing.bounds.rounding import LAMBDA, PROBABLE, WORST, probable_gamma
from npvgg.testing.bounds.walk import Walker
from npvgg.testing.tiny import TINY, TINY_SIZE
from npvgg.testing.trace import LEVELS, at_level, compute, operations, run
from npvgg.weights.build import build_network
from tests.oracles import naive

U = 2.0**-24
SIZE = TINY_SIZE


def model(name, form="train"):
    """A tiny network with the weights of seed 0."""
    network = build_network(seeded.tensors(TINY[name], 0), TINY[name])
    network = network if form == "train" else network.reparameterized()
    return npvgg.RepVGG(name, TINY[name], network, {}, engine="reference")


def inputs(size=SIZE):
    """Images that make sums cancel, overflow their neighbours, or vanish: name → (1, 3, H, W)."""
    noise = seeded.noise((1, 3, size, size), 0)
    left = (np.arange(size) < size // 2).astype(np.float32)
    spot = np.zeros_like(noise)
    spot[..., 3, 4] = 1
    odd = np.where(np.add.outer(np.arange(size), np.arange(size)) % 2, 1, -1)
    return {
        "noise": noise,
        "constant": np.full_like(noise, 0.7),
        "zeros": np.zeros_like(noise),
        "checkerboard": np.zeros_like(noise) + odd.astype(np.float32),
        "impulse": 1.5 * spot,
        "large-impulse": 1e6 * spot,
        "one-half-large": noise * (1 + 1e4 * left),
        "one-half-tiny": noise * (1 - left) + 1e-30 * noise * left,
        "subnormal": noise * np.float32(1e-41),
        "large": noise * np.float32(1e6),
    }  # fmt: skip


def batch():
    """All of them at once."""
    return np.concatenate(list(inputs().values()))


def shares(got, truth, bound):
    """The largest |error| / bound of each tensor."""
    return {n: float((abs(got[n].astype(np.float64) - truth[n]) / bound[n]).max()) for n in got}


def truths(network, x):
    return {n: s.array for n, s in layer_by_layer(network, x, level="op", dtype=np.float64).items()}


# --- What the theorems say ------------------------------------------------------------------------


def test_gamma_is_highams():
    assert gamma(27) == 27 * U / (1 - 27 * U)
    with_float64 = exp(LAMBDA * sqrt(576) * U + 576 * U**2 / (1 - U)) - 1
    assert with_float64 <= probable_gamma(576) <= with_float64 * (1 + 1e-4)


def test_lambda_leaves_one_false_alarm_in_a_thousand_packs_of_a_thousand_million():
    assert 2 * Decimal(-(LAMBDA**2) / 2).exp() * 10**9 < Decimal("1e-6")


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_the_local_bound_of_a_convolution_is_the_theorem_on_absolute_values(rng, stride, groups):
    """γ_n Σ|x||w| + what the rounded inputs come to + the rounding of the truth, by the loops."""
    x = rng.standard_normal((1, 4, 5, 6)).astype(np.float32)
    w = rng.standard_normal((6, 4 // groups, 3, 3)).astype(np.float32)
    b = rng.standard_normal(6).astype(np.float32)
    network = one_convolution(w, b, stride, groups)
    got = error_bound(network, x, level="op", kind="local")["stem.reparam_conv"]
    n = w[0].size + 1
    given = U * abs(x.astype(np.float64)) + 2.0**-150
    magnitude = naive.conv2d(abs(x) + given, abs(w), abs(b), stride, 1, 1, groups)
    carried = naive.conv2d(given, abs(w), None, stride, 1, 1, groups)
    y = naive.conv2d(x, w, b, stride, 1, 1, groups)
    want = np.array(carried) + gamma(n) * np.array(magnitude) + U * abs(np.array(y))
    np.testing.assert_allclose(got, want, rtol=1e-9)


def one_convolution(w, b, stride=1, groups=1):
    """A network of one block in deploy form, and no head."""
    config = npvgg.RepVGGConfig(
        (1,), (len(w),), (1,), stem_chs=len(w), in_chans=4, num_classes=0, global_pool="",
        act_layer="identity",
    )  # fmt: skip
    spec = npvgg.config.expand(config)[0]
    spec = npvgg.config.replace(spec, in_chs=w.shape[1] * groups, stride=stride, groups=groups)
    block = npvgg.network.Block(spec, FusedConv(w, b), {})
    return Network((block,), npvgg.network.Head("", None, None), np.dtype(np.float32))


def test_the_local_bound_is_reached_by_a_sum_that_rounds_badly():
    """1 + 2⁻²⁴ + 2⁻²⁴ + … in this order is 1: every addition errs by all that it may."""
    w = np.full((1, 4, 3, 3), 2.0**-24, np.float32)
    w[0, 0, 0, 0] = 1
    x = np.ones((1, 4, 3, 3), np.float32)
    network = one_convolution(w, np.zeros(1, np.float32))
    bound = error_bound(network, x, level="op", kind="local")["stem.reparam_conv"][0, 0, 1, 1]
    total = np.float32(0)
    for term in w.ravel():
        total += term
    assert total == 1
    assert 0.85 * bound < 35 * 2.0**-24 <= bound


@pytest.mark.parametrize("kind", ["local", "chain"])
def test_the_bounds_of_a_pack_are_these(kind):
    subject, x = model("tiny_se"), inputs()["noise"]
    pack = Pack.of(subject, x, level="branch")
    of = pack.bound if kind == "chain" else pack.local_bound
    for name, want in error_bound(subject, x, level="branch", kind=kind).items():
        assert (of(name) >= want).all()
        np.testing.assert_allclose(of(name), want, rtol=2e-7, atol=2e-45)


def test_the_chain_bound_does_not_ask_which_tensors_are_kept():
    subject, x = model("tiny_g2"), inputs()["noise"]
    bounds = [error_bound(subject, x, level=level) for level in LEVELS]
    for name, bound in bounds[0].items():
        for other in bounds[1:]:
            np.testing.assert_array_equal(other[name], bound)


def test_what_is_no_kind_is_refused():
    with pytest.raises(ArgumentError, match="kind: expected 'chain' or 'local', got 'global'"):
        error_bound(model("tiny"), inputs()["noise"], kind="global")


# --- Whatever is correct is within ----------------------------------------------------------------


class InOrder:
    """Float32 arithmetic that adds term by term, each product and each sum rounded."""

    conv2d = staticmethod(steady.conv2d)
    linear = staticmethod(steady.linear)
    global_pool = staticmethod(steady.global_pool)
    batch_norm = staticmethod(ops.batch_norm)
    activation = staticmethod(ops.activation)
    attend = staticmethod(attention.attend)


class Backwards(InOrder):
    """The same, from the last term to the first; the batch norm as x·t + (beta − mean·t)."""

    @staticmethod
    def conv2d(x, weight, bias=None, **how):
        groups, c = how.get("groups", 1), weight.shape[1]
        by_group = x.reshape(len(x), groups, c, *x.shape[2:])[:, :, ::-1]
        y = steady.conv2d(
            by_group.reshape(x.shape)[..., ::-1, ::-1], weight[:, ::-1, ::-1, ::-1],
            **how | {"stride": 1},
        )[..., ::-1, ::-1]  # fmt: skip
        y = y[..., :: how.get("stride", 1), :: how.get("stride", 1)]
        return y if bias is None else y + bias[:, None, None]

    @staticmethod
    def batch_norm(x, mean, var, gamma, beta, eps):
        t = (gamma / np.sqrt(var + x.dtype.type(eps)))[:, None, None]
        return x * t + (beta[:, None, None] - mean[:, None, None] * t)


class FlushToZero(InOrder):
    """As processors that take subnormal numbers for zero, after each operation of a layer."""

    @staticmethod
    def conv2d(x, weight, bias=None, **how):
        with np.errstate(under="ignore"):
            y = steady.conv2d(flushed(x), flushed(weight), bias, **how)
        return flushed(y)


def flushed(x):
    return np.where(abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


WAYS = {"blas": None, "in-order": InOrder, "backwards": Backwards, "flush-to-zero": FlushToZero}


def maths(way):
    return (WAYS[way],) if WAYS[way] else ()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", TINY)
def test_a_correct_float32_network_is_within_its_bounds(name, form, way):
    """From the input, and each operation alone from the float32 numbers next to the truth."""
    network = model(name, form).network
    spelled = operations(network)
    x = batch()
    truth = truths(network, x)
    with np.errstate(under="ignore"):
        whole = {o.name: y for o, y in run(spelled, x, *maths(way))}
        given = {n: y.astype(np.float32) for n, y in truth.items()}
        alone = {o.name: compute(o, [given[n] for n in o.inputs], *maths(way)) for o in spelled[1:]}
    chain = shares(whole, truth, error_bound(network, x, level="op"))
    local = shares(alone, truth, error_bound(network, x, level="op", kind="local"))
    assert 0.005 < max(chain.values()) < 0.25, "within, and not for being absurd"
    assert 0.1 < max(local.values()) <= 1


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_the_local_bound_of_a_block_spans_all_that_is_in_it(form):
    """From the block before it, by the branches or by the one convolution."""
    subject, previous = model("tiny_g2"), batch()
    truth = truths(subject, previous)
    local = error_bound(subject, previous, level="block", kind="local")
    for block in model("tiny_g2", form).network.blocks:
        y, name = forward_block(block, previous), block.spec.name
        assert shares({name: y}, truth, local)[name] <= 1
        previous = truth[name].astype(np.float32)


@pytest.mark.parametrize("engine", ["reference", "im2col"])
@pytest.mark.parametrize("name", TINY)
def test_a_port_of_the_folded_network_is_within_the_bounds_of_the_branches(name, engine):
    network = model(name).network
    engine = prepare(network.reparameterized(), engine)
    names = [block.spec.name for block in network.blocks]
    x = batch()
    got = dict(zip(names, engine.maps(x, range(len(names))), strict=True))
    got["logits"] = engine.logits(x)
    assert max(shares(got, truths(network, x), error_bound(network, x)).values()) < 0.25


class Tiled(InOrder):
    """Winograd's algorithm in float32, for 3×3 kernels that are not dilated."""

    def __init__(self, m):
        self.m = m

    def conv2d(self, x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
        if weight.shape[2] != 3 or dilation != 1:
            how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            return steady.conv2d(x, weight, bias, **how)
        f = cook_toom(self.m, stride)
        at, g, bt = (as_array(matrix).astype(np.float32) for matrix in (f.at, f.g, f.bt))
        n, k, c = len(x), *weight.shape[:2]
        p, q = (-(-side // stride) for side in x.shape[2:])
        y = np.zeros((n, k, p + f.m, q + f.m), np.float32)
        padded = np.pad(x, [(0, 0), (0, 0), (1, f.n + f.step), (1, f.n + f.step)])
        u = (g @ weight @ g.T).reshape(groups, k // groups, c, f.n, f.n)
        for i in range(0, p, f.m):
            for j in range(0, q, f.m):
                rows, columns = (slice(a * stride, a * stride + f.n) for a in (i, j))
                v = bt @ padded[:, :, rows, columns] @ bt.T
                v = v.reshape(n, groups, 1, c, f.n, f.n)
                products = (u * v).sum(3, dtype=np.float32).reshape(n, k, f.n, f.n)
                y[:, :, i : i + f.m, j : j + f.m] = at @ products @ at.T
        y = y[:, :, :p, :q]
        return y if bias is None else y + bias[:, None, None]


@pytest.mark.parametrize(
    ("name", "form", "m"),
    [("tiny", "train", 4), ("tiny_g2", "deploy", 2), ("tiny_dilated", "train", 6)],
)
def test_winograds_tiles_are_within_the_bounds_that_are_made_for_them(name, form, m):
    """Even where large and small numbers meet in a tile; and outside of the others, there."""
    network, x = model(name, form).network, batch()
    spelled, truth = operations(network), truths(network, x)
    whole = {o.name: y for o, y in run(spelled, x, Tiled(m))}
    given = {n: y.astype(np.float32) for n, y in truth.items()}
    alone = {o.name: compute(o, [given[n] for n in o.inputs], Tiled(m)) for o in spelled[1:]}
    for kind, got in (("chain", whole), ("local", alone)):
        wide = error_bound(network, x, level="op", kind=kind, winograd=m)
        plain = error_bound(network, x, level="op", kind=kind)
        assert max(shares(got, truth, wide).values()) <= {"chain": 0.25, "local": 1}[kind]
        assert m == 2 or max(shares(got, truth, plain).values()) > 1
        assert all((bound >= plain[n]).all() for n, bound in wide.items())
        noise = {n: y[:1] for n, y in got.items()}
        first = ({n: a[:1] for n, a in arrays.items()} for arrays in (truth, plain))
        assert m == 6 or max(shares(noise, *first).values()) < 1, "on noise, it is as good"


@pytest.mark.parametrize("name", ["tiny", "tiny_g2"])
def test_a_port_of_the_folded_network_by_tiles_is_within_the_bounds_of_the_branches(name):
    network, x = model(name).network, batch()
    folded = operations(network.reparameterized())
    got = {o.name: y for o, y in run(folded, x, Tiled(4)) if not o.name.endswith("reparam_conv")}
    bound = error_bound(network, x, winograd=4)
    assert max(shares(got, truths(network, x), bound).values()) < 0.25


def test_our_own_winograd_engine_is_within_them():
    config = npvgg.RepVGGConfig((2,), (18,), (1,), stem_chs=16, num_classes=5, stem_stride=1)
    network, x = build_network(seeded.tensors(config, 0), config), batch()
    names = [block.spec.name for block in network.blocks]
    engine = prepare(network.reparameterized(), "winograd")
    got = dict(zip(names, engine.maps(x, range(len(names))), strict=True))
    truth = truths(network, x)
    assert max(shares(got, truth, error_bound(network, x, winograd=4)).values()) < 0.25
    assert max(shares(got, truth, error_bound(network, x)).values()) > 1, "it has used tiles"


@pytest.mark.parametrize(("m", "stride", "groups"), [(2, 1, 1), (4, 1, 2), (3, 2, 1)])
def test_the_matrices_taken_absolutely_are_those_of_the_algorithm(rng, m, stride, groups):
    """Without absolute values, the same lines compute the convolution."""
    x, w = rng.standard_normal((2, 4, 7, 9)), rng.standard_normal((6, 4 // groups, 3, 3))
    f = cook_toom(m, stride)
    at, g, bt = map(as_array, (f.at, f.g, f.bt))
    products = tiles._products(tiles._tiles(x, f), w, bt, g, groups)
    y = tiles._both_sides(at, products)
    want = ops.conv2d(x, w, stride=stride, padding=1, groups=groups)
    p, q = want.shape[2:]
    joined = y.transpose(0, 1, 2, 4, 3, 5).reshape(2, 6, y.shape[2] * m, y.shape[3] * m)
    np.testing.assert_allclose(joined[:, :, :p, :q], want, atol=1e-12)


@pytest.mark.parametrize("rule", [WORST, PROBABLE], ids=["worst", "probable"])
def test_the_error_of_tiles_is_that_of_its_docstring(rng, rule):
    """Of one tile of F(2 × 2, 3 × 3) and three channels, in one line of einsum for each part."""
    x, w = rng.standard_normal((1, 3, 2, 2)), rng.standard_normal((5, 3, 3, 3))
    f = cook_toom(2)
    at, g, bt = map(as_array, (f.at, f.g, f.bt))
    tile = np.pad(x[0], [(0, 0), (1, 1), (1, 1)])

    def products(at_x, at_g, tile, w):
        return np.einsum("ar,kcrs,bs,ah,chw,bw->kab", at_g, w, at_g, at_x, tile, at_x)

    absolute = products(abs(bt), abs(g), abs(tile), abs(w))
    last = np.einsum("pa,kab,qb->kpq", abs(at), abs(products(bt, g, tile, w)), abs(at))
    grown, rest = rule.grow(3 + 4 * 4 + 8), rule.grow(8) * last
    if rule is WORST:
        want = grown * np.einsum("pa,kab,qb->kpq", abs(at), absolute, abs(at)) + rest
    else:
        squares = np.einsum("pa,kab,qb->kpq", at**2, absolute**2, at**2)
        want = np.sqrt(grown**2 * squares + rest**2)
    got = tiles.winograd_error(x, abs(x), w, rule, largest=2, stride=1, groups=1)
    np.testing.assert_allclose(got[0], want, rtol=1e-12)


@pytest.mark.parametrize("tile", [1, 7, -2, True, "4", 2.5])
def test_what_is_no_tile_is_refused(tile):
    with pytest.raises(ArgumentError, match="winograd: expected 0 or 2 … 6, got"):
        error_bound(model("tiny"), inputs()["noise"], winograd=tile)


ACTIVATIONS = sorted(set(ops.ACTIVATIONS))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_multiplies_errors_by_no_more_than_its_slope(name):
    x = np.linspace(-12, 12, 240001)
    y = ops.activation(name)(x)
    steepest = abs(np.diff(y) / np.diff(x)).max()
    sup = ops.ACTIVATIONS[name].lipschitz
    assert 0.9 * sup <= steepest <= sup * (1 + 1e-9)
    e = np.full_like(x, 1e-5)
    single = ops.activation(name)(x.astype(np.float32)).astype(np.float64)
    for rule in (WORST, PROBABLE):
        bound = gates.activate(Ball(x, e), name, rule).error
        for moved in (x + e, x - e):
            assert (abs(ops.activation(name)(moved) - y) <= bound * (1 + 1e-12) + 1e-15).all()
        assert (
            abs(single - y) <= gates.activate(Ball(x, U * abs(x)), name, rule).error + 1e-15
        ).all()


ATTENTION = [
    ("se", {}), ("se", {"add_maxpool": True, "gate_layer": "hard_sigmoid"}), ("ese", {}),
    ("eca", {}), ("ecam", {}), ("eca", {"use_mlp": True, "act_layer": "silu"}),
    ("ceca", {}), ("cbam", {"spatial_kernel_size": 3}), ("lcbam", {}),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "options"), ATTENTION, ids=str)
def test_attention_multiplies_errors_by_no_more_than_it_says(rng, layer, options):
    """In float32, and with its input moved as far as it may be, at random and all one way."""
    x = rng.standard_normal((2, 8, 5, 6))
    shapes = attention.shapes(layer, 8, options)
    w = {n: abs(rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}
    w = {n: a if "var" in n else a * rng.choice([-1, 1], a.shape) for n, a in w.items()}
    single = {n: a.astype(np.float32) for n, a in w.items()}
    double = {n: a.astype(np.float64) for n, a in single.items()}
    y = attention.attend(x, layer, double, options)
    e = 1e-4 * abs(rng.standard_normal(x.shape))
    bound = gates.attend(Ball(x, e), layer, double, options, WORST).error
    np.testing.assert_allclose(
        gates.attend(Ball(x, e), layer, double, options, PROBABLE).y, y, rtol=0, atol=1e-13
    )
    for signs in (rng.choice([-1, 1], x.shape), 1, -1, np.sign(x)):
        moved = attention.attend(x + signs * e, layer, double, options)
        assert (abs(moved - y) <= bound).all()
    got = attention.attend(x.astype(np.float32), layer, single, options)
    for rule in (WORST, PROBABLE):
        bound = gates.attend(Ball(x, U * abs(x)), layer, double, options, rule).error
        assert (abs(got - y) <= bound).all()
        assert bound.max() < 1e-3 * abs(y).max()


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "catavgmax"])
def test_pooling_multiplies_errors_by_no_more_than_it_says(rng, kind):
    x, e = rng.standard_normal((2, 3, 5, 6)), np.full((2, 3, 5, 6), 1e-4)
    for rule in (WORST, PROBABLE):
        bound = gates.pool(Ball(x, e), kind, rule)
        for moved in (x + e, x - e):
            assert (
                abs(ops.global_pool(moved, kind) - ops.global_pool(x, kind)) <= bound + 1e-15
            ).all()
        assert bound.max() < 1.1e-4


# --- And little else ------------------------------------------------------------------------------


def wrong(network, change):
    """The network with every block's branches changed."""
    blocks = [npvgg.config.replace(b, form=change(b.form)) for b in network.blocks]
    return npvgg.config.replace(network, blocks=tuple(blocks))


def each_bn(change):
    def changed(form):
        return Branches(
            *(ConvBN(c.weight, change(c.bn)) for c in (form.conv_kxk, form.conv_1x1)),
            form.identity and change(form.identity),
        )

    return changed


def with_eps(eps):
    return each_bn(lambda bn: BatchNorm(bn.gamma, bn.beta, bn.mean, bn.var, eps))


def kernel(change):
    return lambda f: Branches(
        ConvBN(change(f.conv_kxk.weight), f.conv_kxk.bn), f.conv_1x1, f.identity
    )


def half(a):
    return a.astype(np.float16).astype(np.float32)


MISTAKES = {
    "eps-1e-3": (with_eps(1e-3), "stem"),
    "no-eps": (with_eps(0.0), "stem"),
    "mean-and-var-swapped": (
        each_bn(lambda bn: BatchNorm(bn.gamma, bn.beta, bn.var, abs(bn.mean))), "stem"),
    "beta-forgotten": (
        each_bn(lambda bn: BatchNorm(bn.gamma, 0 * bn.beta, bn.mean, bn.var)), "stem"),
    "kernel-flipped": (kernel(lambda w: w[..., ::-1, ::-1]), "stem"),
    "kernel-transposed": (kernel(lambda w: w.swapaxes(2, 3)), "stem"),
    "weights-in-half-precision": (kernel(half), "stem"),
    "identity-forgotten": (lambda f: Branches(f.conv_kxk, f.conv_1x1, None), "stages.0.0"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", TINY)
def test_a_mistake_is_outside_of_the_bounds_where_it_is_made(name, mistake):
    change, where = MISTAKES[mistake]
    network, x = model(name).network, inputs()["noise"]
    if name == "tiny_dilated" and where != "stem":
        where = "stages.2.1"  # the first with an identity branch
    truth, bound = truths(network, x), error_bound(network, x)
    got = {n: s.array for n, s in layer_by_layer(wrong(network, change), x).items()}
    found = shares(got, truth, bound)
    assert next(place for place, share in found.items() if share > 1) == where


def test_the_bounds_are_small_where_the_worst_case_would_say_nothing():
    """Of A0, 22 blocks: the errors of the whole network are below a thousandth of the numbers.

    The theorem, which a layer keeps to a few thousandths, would leave 10¹⁶ times the logits to it.
    """
    config = npvgg.variants.VARIANTS["repvgg_a0"]
    network = build_network(seeded.tensors(config, 0), config, np.float64)
    spelled, x = operations(network), seeded.noise((1, 3, 32, 32), 0).astype(np.float64)
    blocks = at_level(spelled, "block")
    walkers = {
        "local": Walker(network, WORST, blocks), "chain": Walker(network, PROBABLE, ()),
        "absurd": Walker(network, WORST, ()),
    }  # fmt: skip
    sizes = {kind: {} for kind in walkers}
    for o, y in run(spelled, x, steady):
        for kind, walker in walkers.items():
            size = walker.step(o, y).max() / abs(y).max()
            sizes[kind] |= {o.name: size} if o.name in blocks else {}
    assert max(sizes["local"].values()) < 3e-3
    assert max(sizes["chain"].values()) < 1e-3
    assert sizes["absurd"]["stem"] < 1e-5
    assert sizes["absurd"]["logits"] > 1e16
