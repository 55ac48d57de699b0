"""A network spelled out computes what the network computes, and every tensor says what it is."""

from itertools import pairwise

import numpy as np
import pytest
import tiny

import npvgg
from npvgg.errors import ArgumentError
from npvgg.testing import layer_by_layer, steady
from npvgg.testing.trace import LEVELS, at_level, compute, operations, run
from tests.oracles import naive

TRAIN_OP = [
    ("input", "", "input", ()),
    ("stem.conv_kxk.conv", "stem", "conv", ("input",)),
    ("stem.conv_kxk.bn", "stem", "batch_norm", ("stem.conv_kxk.conv",)),
    ("stem.conv_1x1.conv", "stem", "conv", ("input",)),
    ("stem.conv_1x1.bn", "stem", "batch_norm", ("stem.conv_1x1.conv",)),
    ("stem.sum", "stem", "sum", ("stem.conv_kxk.bn", "stem.conv_1x1.bn")),
    ("stem", "stem", "activation", ("stem.sum",)),
]


def probes(steps, count=None):
    found = [step.probe for step in steps.values()]
    return [(p.name, p.block, p.op, p.inputs) for p in found[:count]]


@pytest.fixture
def x(rng):
    return tiny.images(rng, 2)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_every_tensor_is_what_the_network_makes(name, deploy, level, rng):
    """Blocks and answers have the bits of the reference engine; the order is that of execution."""
    model = tiny.model(name, reparameterize=deploy)
    x = tiny.photos(model, rng)
    steps = layer_by_layer(model, x, level=level)
    want = tiny.answers(model, x)
    named = {"pooled": "pool"}
    if "pool" not in steps:  # no pooling: the answer is the last map
        want = {place: want[place] for place in want if place not in ("pooled", "logits")}
    if "logits" not in steps:
        want.pop("logits", None)
    for place, y in want.items():
        np.testing.assert_array_equal(steps[named.get(place, place)].array, y)
    for place, step in steps.items():
        assert (step.probe.name, step.probe.shape) == (place, step.array.shape)
        assert step.array.dtype == np.float32
        assert set(step.probe.inputs) <= set(list(steps)[: list(steps).index(place)])
    kept = [step.array for step in steps.values()]
    assert not any(np.array_equal(a, b) for a, b in pairwise(kept))


def test_the_levels_of_a_block_in_train_form(x):
    model = tiny.model(reparameterize=False)
    assert probes(layer_by_layer(model, x, level="op"), 7) == TRAIN_OP
    branch = probes(layer_by_layer(model, x, level="branch"), 5)
    assert branch == [
        TRAIN_OP[0],
        ("stem.conv_kxk.bn", "stem", "conv_bn", ("input",)),
        ("stem.conv_1x1.bn", "stem", "conv_bn", ("input",)),
        *TRAIN_OP[5:7],
    ]
    block = probes(layer_by_layer(model, x))
    assert block[:2] == [TRAIN_OP[0], ("stem", "stem", "block", ("input",))]
    assert block[-3][3] == ("stages.2.2",)
    assert block[-2:] == [
        ("pool", "", "pool", ("stages.3.0",)), ("logits", "", "linear", ("pool",))
    ]  # fmt: skip


def test_the_levels_of_a_block_in_deploy_form(x):
    model = tiny.model()
    for level in ("branch", "op"):
        assert probes(layer_by_layer(model, x, level=level), 3) == [
            TRAIN_OP[0],
            ("stem.reparam_conv", "stem", "conv", ("input",)),
            ("stem", "stem", "activation", ("stem.reparam_conv",)),
        ]
    assert layer_by_layer(model, x)["stem"].probe.equation == "y = relu(x ∗ w + b)"


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("se", [("stages.1.1.attn", "attention"), ("stages.1.1", "activation")]),
        (
            "se-after-the-activation",
            [("stages.1.1.act", "activation"), ("stages.1.1", "attention")],
        ),
    ],
)
def test_attention_stands_where_it_is_computed(name, tail, x):
    steps = layer_by_layer(tiny.model(name, reparameterize=False), x, level="op")
    own = [(p.name, p.op) for p, _ in steps.values() if p.block == "stages.1.1"]
    assert own[-3:] == [("stages.1.1.sum", "sum"), *tail]
    assert ("stages.1.1.identity", "batch_norm") in own


def test_the_equation_and_parameters_are_those_of_the_layer(x):
    steps = layer_by_layer(tiny.model("groups", reparameterize=False), x, level="op")
    probe = steps["stages.1.1.conv_kxk.conv"].probe
    assert probe.equation == (
        "y[n,k,p,q] = Σ_{c,r,s} x[n, g·C/G + c, p + r − 1, q + s − 1] · w[k,c,r,s], g = k // (K/2)"
    )
    assert dict(probe.parameters) == {
        "stride": 1, "padding": 1, "dilation": 1, "groups": 2,
        "weight": "stages.1.1.conv_kxk.conv.weight",
    }  # fmt: skip
    steps = layer_by_layer(tiny.model("output-stride-8", reparameterize=False), x, level="op")
    probe = steps["stages.3.0.conv_kxk.conv"].probe
    assert "x[n, c, p + 2r − 2, q + 2s − 2]" in probe.equation
    assert steps["stem.conv_1x1.conv"].probe.equation.endswith(
        "x[n, c, 2p + r, 2q + s] · w[k,c,r,s]"
    )


@pytest.mark.parametrize("name", ["plain", "groups", "output-stride-8", "se", "silu"])
def test_the_parameters_are_enough_for_the_loops(name, rng):
    """Every convolution, batch norm and sum again, by the oracle, from the probe's own words."""
    model = tiny.model(name, reparameterize=False, dtype=np.float64)
    steps = layer_by_layer(model, tiny.photos(model, rng, 1), level="op")
    weights = model.state_dict()
    for probe, y in steps.values():
        p, inputs = probe.parameters, [steps[n].array for n in probe.inputs]
        if probe.op == "conv":
            how = [p[key] for key in ("stride", "padding", "dilation", "groups")]
            want = naive.conv2d(inputs[0], weights[p["weight"]], None, *how)
        elif probe.op == "batch_norm":
            keys = ("weight", "bias", "running_mean", "running_var")
            want = naive.batch_norm(inputs[0], *(weights[p[key]] for key in keys), p["eps"])
        elif probe.op == "sum":
            want = naive.add(*(a.tolist() for a in inputs))
        else:
            continue
        np.testing.assert_allclose(y, want, rtol=0, atol=1e-12 * abs(y).max())


def test_either_precision_from_either_network(x):
    single = tiny.model(reparameterize=False)
    double = layer_by_layer(single, x, dtype=np.float64)
    exact = npvgg.create_model(
        "repvgg_a0", **tiny.keywords(), weights=single.state_dict(), dtype=np.float64,
        reparameterize=False, engine="reference",
    )  # fmt: skip
    np.testing.assert_array_equal(double["logits"].array, exact(x))
    back = layer_by_layer(exact, x, dtype=np.float32)["logits"].array
    np.testing.assert_array_equal(back, single(x))
    np.testing.assert_array_equal(layer_by_layer(single.network, x)["logits"].array, single(x))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"level": "layer"}, "level: expected one of block, branch, op, got 'layer'"),
        ({"dtype": np.float16}, "dtype: expected float32 or float64"),
        ({"x": np.ones((1, 2, 4, 4))}, r"x: expected \(N, 3, H, W\) floats, got \(1, 2, 4, 4\)"),
        ({"x": np.ones((1, 3, 4, 4), int)}, "x: expected .* floats, got .* int64"),
        ({"x": np.ones((1, 3, 0, 4))}, "x: expected"),
        ({"model": "repvgg_a0"}, "model: expected a model of create_model or a Network, got str"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, says, x):
    given = {"model": tiny.model(), "x": x, **changes}
    with pytest.raises(ArgumentError, match=says):
        layer_by_layer(**given)


def test_a_weight_that_overflows_is_named():
    network = tiny.model(dtype=np.float64, changes={}).network
    head = network.head
    big = npvgg.network.Head(head.global_pool, head.weight * 1e300, head.bias)
    with pytest.raises(ArgumentError, match="a weight overflows float32"):
        npvgg.network.Network(network.blocks, big, network.dtype).astype(np.float32)


def test_nothing_is_kept_longer_than_it_is_needed(x):
    """Of a long network, no more tensors are alive than one block has."""
    model = tiny.model(reparameterize=False, dtype=np.float64)
    spelled = operations(model.network)
    generator, seen = run(spelled, x), []
    for _ in generator:
        seen.append(len(generator.gi_frame.f_locals["alive"]))
    assert max(seen) <= 5


# --- The steady arithmetic ------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_steady_arithmetic_agrees_with_the_oracle(name, rng):
    """Twelve digits, and other bits than BLAS: it is another order."""
    model = tiny.model(name, reparameterize=False, dtype=np.float64)
    x = tiny.photos(model, rng, 1, np.float64)
    got = {o.name: y for o, y in run(operations(model.network), x, steady)}
    want = tiny.oracle(model.state_dict(), x, name)
    want = {{"pooled": "pool"}.get(place, place): y for place, y in want.items()}
    both = [place for place in want if place in got]
    assert len(both) >= len(model.network.blocks)
    for place in both:
        assert abs(got[place] - want[place]).max() <= 1e-12 * abs(want[place]).max(), place


def test_its_sums_are_those_of_a_loop_in_order(rng):
    """Bit by bit: ((0 + a) + b) + …, over c, r, s; a mean over p, q."""
    x, w = rng.standard_normal((1, 4, 5, 6)), rng.standard_normal((6, 2, 3, 3))
    y = steady.conv2d(x, w, stride=2, padding=1, groups=2)
    for k, p, q in [(0, 0, 0), (2, 1, 2), (5, 2, 1)]:
        total = 0.0
        for c in range(2):
            for r in range(3):
                for s in range(3):
                    i, j = 2 * p + r - 1, 2 * q + s - 1
                    if 0 <= i < 5 and 0 <= j < 6:
                        total += float(w[k, c, r, s]) * float(x[0, k // 3 * 2 + c, i, j])
        assert y[0, k, p, q] == total
    total = 0.0
    for value in x[0, 1].ravel().tolist():
        total += value
    assert steady.global_pool(x, "avg")[0, 1] == total / 30


def test_its_exponential_is_as_good_as_any():
    x = np.linspace(-50, 50, 20001)
    assert (abs(steady.exp(x) / np.exp(x) - 1) < 5e-16).all()
    wide = steady.sigmoid(np.array([-1e9, -800.0, 0.0, 800.0]))
    assert wide[0] < 1e-300
    assert wide[1:].tolist() == [wide[0], 0.5, 1.0]


def test_levels_are_views_of_one_list():
    spelled = operations(tiny.model("se", reparameterize=False).network)
    assert list(at_level(spelled, "op").values()) == list(spelled)
    names = [list(at_level(spelled, level)) for level in LEVELS]
    assert set(names[0]) < set(names[1]) < set(names[2])


def test_an_operation_alone_gives_what_the_run_gives(x):
    model = tiny.model("se", reparameterize=False)
    steps = layer_by_layer(model, x, level="op")
    for o in operations(model.network)[1:]:
        y = compute(o, [steps[name].array for name in o.inputs])
        np.testing.assert_array_equal(y, steps[o.name].array)
