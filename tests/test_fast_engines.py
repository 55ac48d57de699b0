"""The compiled engines: exact where they can be, the same bits always, right for every shape.

That they are as near the truth as PyTorch is proved in test_golden.py.
"""

import pickle
import threading
import weakref

import numpy as np
import pytest

import npvgg
from npvgg.config import RepVGGConfig, expand
from npvgg.engines import compiled, im2col, prepare, winograd
from npvgg.engines.compiled import CompiledNetwork
from npvgg.engines.cook_toom import as_array
from npvgg.engines.packing import Filter
from npvgg.engines.transforms import FILTERS
from npvgg.network import Block, Head, Network
from npvgg.reparam import FusedConv
from tests.oracles import naive
from tests.oracles.bounds import gamma

FAST = ["im2col", "winograd"]
SMALL = {"depths": (1, 2, 1, 1), "widths": (24, 40, 64, 48), "stem_chs": 20, "num_classes": 7}


def model(engine, **options):
    return npvgg.create_model("repvgg_a0", engine=engine, seed=3, **{**SMALL, **options})


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one_block(k, chs, *, stride=1, dilation=1, groups=1, integers=True, seed=0):
    """A network of a single deploy block, its weights small integers or noise."""
    config = RepVGGConfig(
        (1, 1, 1, 1), (k, k, k, k), (1, 1, 1, 1), stem_chs=k, stem_stride=stride, in_chans=chs,
        num_classes=0, act_layer="identity",
    )  # fmt: skip
    spec = expand(config)[0]
    object.__setattr__(spec, "dilation", dilation)
    object.__setattr__(spec, "groups", groups)
    rng = np.random.default_rng(seed)
    draw = rng.integers(-4, 5, (k, chs // groups, 3, 3)) if integers else None
    weight = draw if integers else rng.standard_normal((k, chs // groups, 3, 3))
    bias = rng.integers(-4, 5, k)
    form = FusedConv(weight.astype(np.float32), bias.astype(np.float32))
    return Network((Block(spec, form, {}),), Head("avg", None, None), np.dtype(np.float32))


@pytest.mark.parametrize(
    ("k", "chs", "options"),
    [
        (1, 1, {}),
        (33, 17, {}),
        (16, 48, {"stride": 2}),
        (32, 20, {"dilation": 3}),
        (48, 48, {"groups": 3}),
        (36, 18, {"groups": 9, "stride": 2}),
        (10, 3, {"stride": 2, "dilation": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (7, 12), (13, 9)], ids=str)
def test_a_direct_convolution_of_integers_is_exact(k, chs, options, size):
    network = one_block(k, chs, **options)
    x = np.random.default_rng(1).integers(-4, 5, (2, chs, *size)).astype(np.float32)
    form = network.blocks[0].form
    dilation = options.get("dilation", 1)
    want = naive.conv2d(
        x, form.weight, form.bias, stride=options.get("stride", 1), padding=dilation,
        dilation=dilation, groups=options.get("groups", 1),
    )  # fmt: skip
    got = im2col.prepare(network, threads=2).maps(x, [0])[0]
    np.testing.assert_array_equal(got, want)


def bound(network, x, m):
    """How far rounding can take a block of one convolution by F(m), 0 for a direct one, from truth.

    Each output is a sum of terms, products of a weight, a pixel and, twice each, entries of Aᵀ, G
    and Bᵀ; none goes through more roundings than there are channels to be added, partial sums of
    16 at least, columns of the matrices, and entries and products of these. γ of that number times
    Σ |terms| bounds the error, (N, K, P, Q).
    """
    (block,) = network.blocks
    form, stride, size = block.form, block.spec.stride, x.shape[2:]
    count, chs, groups = *form.weight.shape[:2], block.spec.groups
    kernels = np.zeros((count, chs * groups, 3, 3))
    for k in range(count):
        first = k // (count // groups) * chs
        kernels[k, first : first + chs] = abs(form.weight[k])
    if m:
        fast = FILTERS[m, stride]
        at, g, bt = (abs(as_array(matrix)) for matrix in (fast.at, fast.g, fast.bt))
    else:  # a tile of one pixel, whose nine products are summed
        m, at, g, bt = 1, np.ones((1, 3)), np.eye(3), np.eye(3)
    rows, cols = (-(-side // stride) for side in size)
    down, right = -(-rows // m), -(-cols // m)
    n = len(bt)
    room = [(1, t * m * stride + n - s) for t, s in zip((down, right), size, strict=True)]
    padded = np.pad(abs(x), [(0, 0), (0, 0), *room])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (n, n), axis=(2, 3))
    tiles = windows[:, :, :: m * stride, :: m * stride][:, :, :down, :right]
    v = np.einsum("ia,zcyxab,jb->ijzyxc", bt, tiles, bt, optimize=True)
    u = np.einsum("ia,kcab,jb->ijck", g, kernels, g, optimize=True)
    y = np.einsum("pi,ijzyxk,qj->zkypxq", at, np.einsum("ijzyxc,ijck->ijzyxk", v, u), at,
                  optimize=True)  # fmt: skip
    terms = y.reshape(len(x), count, down * m, right * m)[:, :, :rows, :cols]
    chain = chs + chs // 16 + 1 + 2 * sum(matrix.shape[1] + 2 for matrix in (at, g, bt))
    return gamma(chain + 1, np.float32) * (terms + abs(form.bias)[:, None, None])


def assert_close(got, want, allowed):
    assert (abs(got - np.asarray(want, np.float64)) <= allowed).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 14), (16, 16), (29, 31)], ids=str)
@pytest.mark.parametrize(("m", "stride"), list(FILTERS), ids=str)
def test_every_winograd_tile_is_right_at_every_edge(m, stride, size):
    network = one_block(40, 33, stride=stride, integers=False)
    x = images(2, 33, *size)
    want = prepare(network.astype(np.float64), "reference").maps(x.astype(np.float64), [0])[0]
    fast = CompiledNetwork(network, "winograd", lambda f, h, w: m, None)
    assert_close(fast.maps(x, [0])[0], want, bound(network, x, m))


@pytest.mark.parametrize("size", [(3, 14), (16, 16), (29, 31)], ids=str)
@pytest.mark.parametrize(("m", "stride"), list(FILTERS), ids=str)
def test_tiles_that_reach_over_the_edge_see_zeros(m, stride, size):
    """They would see the next image, or the next channels: NaNs."""
    network = one_block(40, 33, stride=stride, integers=False)
    x = images(2, 33, *size)
    fast = CompiledNetwork(network, "winograd", lambda f, h, w: m, None)
    want = fast.maps(x, [0])[0]
    x[1] = np.nan
    np.testing.assert_array_equal(fast.maps(x, [0])[0][0], want[0])


@pytest.mark.parametrize(("m", "stride"), [(0, 1), (0, 2), *FILTERS], ids=str)
def test_long_sums_of_many_slices_are_right(m, stride):
    """A slice left out, or added twice, is off by some 60."""
    network = one_block(70, 420, stride=stride, integers=False)
    x = images(1, 420, 17, 15)
    want = prepare(network.astype(np.float64), "reference").maps(x.astype(np.float64), [0])[0]
    fast = CompiledNetwork(network, "winograd", lambda f, h, w: m, None)
    allowed = bound(network, x, m)
    assert np.median(allowed) < 60 / 2
    assert_close(fast.maps(x, [0])[0], want, allowed)


@pytest.mark.parametrize("groups", [2, 3])
def test_winograd_serves_groups(groups):
    network = one_block(96, 96, groups=groups, integers=False)
    x = images(1, 96, 17, 15)
    fast = CompiledNetwork(network, "winograd", lambda f, h, w: 4, None)
    want = prepare(network.astype(np.float64), "reference").maps(x.astype(np.float64), [0])[0]
    assert_close(fast.maps(x, [0])[0], want, bound(network, x, 4))


def test_what_winograd_does_not_serve_goes_to_im2col():
    shape = (32, 32, 3, 3)
    assert winograd.tile(Filter(shape, 1, 1), 56, 56) > 0
    assert winograd.tile(Filter(shape, 2, 1), 56, 56) > 0
    assert winograd.tile(Filter(shape, 1, 2, dilation=2), 56, 56) == 0
    assert winograd.tile(Filter((32, 32, 1, 1)), 56, 56) == 0
    assert winograd.tile(Filter((32, 3, 3, 3), 2, 1), 56, 56) == 0
    assert winograd.tile(Filter(shape, 1, 1), 2, 2) == 0
    assert winograd.tile(Filter(shape, 2, 1), 7, 7) == 0


@pytest.mark.parametrize(("chs", "largest"), [(32, 4), (127, 4), (128, 5), (384, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 7, 14, 28, 56, 20])
def test_the_choice_of_a_tile_is_the_cheapest_as_reckoned_by_hand(side, stride, chs, largest):
    """F(5) rounds most, and is left to layers of many channels (winograd.LONG_SUM)."""
    costs = {0: 9 * side**2 * 2}
    for (m, s), fast in FILTERS.items():
        if s == stride and m <= largest:
            costs[m] = fast.n**2 * (2 * len(range(0, side, m)) ** 2 + 4)
    chosen = winograd.tile(Filter((32, chs, 3, 3), stride, 1), side, side)
    assert costs[chosen] == min(costs.values())


# --- The same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", FAST)
def test_any_number_of_threads_gives_the_same_bits(engine):
    x = images(3, 3, 40, 56)
    want = model(engine, threads=1)(x)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(model(engine, threads=threads)(x), want)


@pytest.mark.parametrize("engine", FAST)
def test_an_image_gives_the_same_bits_alone_and_in_a_batch(engine):
    x = images(11, 3, 40, 56)
    network = model(engine)
    want = network(x)
    for i in (0, 4, 10):
        np.testing.assert_array_equal(network(x[i : i + 1])[0], want[i])


@pytest.mark.parametrize("engine", FAST)
def test_a_large_batch_goes_through_in_slices(engine, monkeypatch):
    x, network = images(7, 3, 32, 32), model(engine)
    want, maps = network(x), network.forward_intermediates(x, intermediates_only=True)
    monkeypatch.setattr("npvgg.engines.compiled.SLICE_PIXELS", 3 * 32 * 32)
    np.testing.assert_array_equal(network(x), want)
    for got, expected in zip(
        network.forward_intermediates(x, intermediates_only=True), maps, strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("engine", FAST)
def test_an_image_larger_than_a_slice_goes_through_alone(engine, monkeypatch):
    x, network = images(2, 3, 32, 32), model(engine)
    want = network(x)
    monkeypatch.setattr("npvgg.engines.compiled.SLICE_PIXELS", 100)
    np.testing.assert_array_equal(network(x), want)


@pytest.mark.parametrize("engine", FAST)
def test_many_threads_may_call_one_model(engine):
    network = model(engine, threads=2)
    inputs = [images(1 + i % 2, 3, 40, 40 + 8 * (i % 3), seed=i) for i in range(8)]
    want = [network(x) for x in inputs]
    wrong = []

    def call(i):
        for _ in range(10):
            if not np.array_equal(network(inputs[i]), want[i]):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert not wrong


@pytest.mark.parametrize("engine", FAST)
def test_many_threads_may_call_a_new_model_first(engine):
    x, wrong = images(1, 3, 40, 56), []
    want = model(engine)(x)
    for _ in range(5):
        network, ready = model(engine, threads=1), threading.Barrier(4)

        def call(network=network, ready=ready):
            ready.wait()
            if not np.array_equal(network(x), want):
                wrong.append(engine)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
    assert not wrong


@pytest.mark.parametrize("engine", FAST)
def test_the_number_of_threads_may_change_under_a_model(engine):
    network, x = model(engine), images(2, 3, 40, 56)
    want = network(x)
    try:
        for threads in (1, 4, 2, 8, 1):
            npvgg.set_num_threads(threads)
            for _ in range(5):
                np.testing.assert_array_equal(network(x), want)
    finally:
        npvgg.set_num_threads(None)


# --- The network as data --------------------------------------------------------------------------


@pytest.mark.parametrize("reparameterize", [True, False], ids=["deploy", "train"])
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"attn_layer": "se"}], ids=str)
def test_weights_are_the_same_before_and_after_they_are_packed(options, reparameterize):
    network = model("winograd", reparameterize=reparameterize, **options)
    before = network.state_dict()
    want = network(images(1, 3, 32, 32))
    after = network.state_dict()
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    np.testing.assert_array_equal(network(images(1, 3, 32, 32)), want)
    again = npvgg.create_model(
        "repvgg_a0", engine="winograd", weights=after, reparameterize=reparameterize,
        **SMALL, **options,
    )  # fmt: skip
    np.testing.assert_array_equal(again(images(1, 3, 32, 32)), want)


def test_packed_kernels_are_held_once():
    network = model("im2col")
    kernels = [weakref.ref(block.form.weight) for block in network.network.blocks]
    network(images(1, 3, 32, 32))
    assert [kernel() for kernel in kernels] == [None] * len(kernels)


def test_an_interrupt_while_the_weights_are_packed_leaves_the_model_usable(monkeypatch):
    network, x = model("winograd"), images(1, 3, 32, 32)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("npvgg.engines.compiled.pack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            network(x)
    np.testing.assert_array_equal(network(x), model("winograd")(x))


def test_memory_is_bounded_for_tiny_images_too():
    engine = model("winograd")._engine
    engine.logits(images(500, 3, 2, 2))
    assert max(shape[0] for shape, _ in engine._plans) * 64 * 64 <= compiled.MOST_PIXELS


# --- Shapes and values ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(
    "shape", [(1, 3, 1, 1), (2, 3, 2, 31), (1, 3, 33, 1), (1, 3, 65, 47), (0, 3, 32, 32)], ids=str
)
def test_any_size_gives_what_the_reference_gives(engine, shape):
    x = images(*shape)
    got, want = model(engine)(x), model("reference")(x)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=1e-5 * abs(want).max(initial=1))


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("chans", [1, 16, 17])
def test_any_number_of_input_channels(engine, chans):
    x = images(2, chans, 33, 29)
    got, want = (model(e, in_chans=chans)(x) for e in (engine, "reference"))
    np.testing.assert_allclose(got, want, atol=1e-5 * abs(want).max())


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("act", ["relu", "identity"])
@pytest.mark.parametrize("after", [False, True], ids=["before-act", "after-act"])
@pytest.mark.parametrize("layer", ["se", "ese", "eca", "ceca"])
def test_gates_of_channels_are_the_references(engine, layer, after, act):
    x = images(3, 3, 45, 37)
    options = {"attn_layer": layer, "attn_after_act": after, "act_layer": act}
    got, want = (model(e, **options)(x) for e in (engine, "reference"))
    np.testing.assert_allclose(got, want, atol=1e-5 * abs(want).max())
    network = model(engine, threads=3, **options)
    np.testing.assert_array_equal(network(x), got)
    np.testing.assert_array_equal(network(x[1:2])[0], got[1])


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("layer", [None, "se"])
def test_a_nan_reaches_the_result(engine, layer):
    x = images(2, 3, 32, 32)
    x[1, 0, 5, 5] = np.nan
    y = model(engine, attn_layer=layer)(x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize("engine", FAST)
def test_results_belong_to_the_caller(engine):
    x, network = images(1, 3, 32, 32), model(engine)
    first = network.forward_intermediates(x, intermediates_only=True)
    kept = [y.copy() for y in first]
    network.forward_intermediates(-x, intermediates_only=True)
    for y, k in zip(first, kept, strict=True):
        np.testing.assert_array_equal(y, k)
        y[:] = 0  # and may be written to


@pytest.mark.parametrize("engine", FAST)
def test_float64_is_refused_by_name(engine):
    with pytest.raises(npvgg.ArgumentError, match=rf"dtype: engine {engine} computes in float32"):
        model(engine, dtype=np.float64)


def test_auto_is_winograd_in_float32_and_the_reference_in_float64():
    assert model("auto").engine == "winograd"
    assert model("auto", dtype=np.float64).engine == "reference"


@pytest.mark.parametrize("engine", FAST)
def test_a_model_travels_to_other_processes(engine):
    network, x = model(engine), images(2, 3, 32, 32)
    want = network(x)
    copy = pickle.loads(pickle.dumps(network))
    assert copy.engine == engine
    np.testing.assert_array_equal(copy(x), want)


def test_few_plans_are_kept_and_the_weights_are_packed_once():
    network = model("winograd")
    network(images(1, 3, 8, 8))
    weights = network._engine._weights.packed(1)
    for size in range(12, 64, 4):
        network(images(1, 3, size, size))
    assert len(network._engine._plans) <= 4
    assert network._engine._weights.packed(1) is weights


def test_the_plan_that_is_used_stays():
    network = model("winograd")
    network(images(1, 3, 8, 8))
    (plan,) = network._engine._plans.values()
    for size in range(12, 64, 4):
        network(images(1, 3, size, size))
        network(images(1, 3, 8, 8))
    assert plan in network._engine._plans.values()
