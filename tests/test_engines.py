"""Engines as whole networks: against the oracle's own composition, and against their contract."""

import subprocess
import sys

import numpy as np
import pytest
import tiny

from npvgg import ArgumentError, create_model, engines
from npvgg.engines import ENGINES, reference
from npvgg.weights.build import build_network, flatten
from tests.oracles import naive
from tests.oracles.bounds import assert_within, gamma

FORMS = pytest.mark.parametrize("form", ["train", "deploy"])


@FORMS
@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_the_reference_engine_is_the_oracle_s_composition_to_twelve_digits(name, form, rng):
    model = tiny.model(name, dtype=np.float64, reparameterize=form == "deploy")
    x = tiny.photos(model, rng, dtype=np.float64)
    want = tiny.oracle(tiny.tensors(name), x, name)
    assert tiny.first_wrong(tiny.answers(model, x), want) == ""


# --- Exact on small integers ----------------------------------------------------------------------

WHOLE = [
    name
    for name in tiny.NETWORKS
    if (tiny.config(name).act_layer, tiny.config(name).attn_layer) == ("relu", None)
]
SIDE = {"output-stride-16": 32, "output-stride-8": 32}


def integer_tensors(name, rng):
    """Sparse kernels and statistics of small integers; var + eps is 1 (see `with_unit_roots`)."""
    tensors = {}
    for tensor, shape in {n: t.shape for n, t in tiny.tensors(name).items()}.items():
        size = int(np.prod(shape))
        if len(shape) > 1:  # about four terms for each output, so that eight layers stay small
            values = rng.integers(-1, 2, size) * (rng.random(size) < 6 / np.prod(shape[1:]))
        elif tensor.endswith(("bn.weight", "identity.weight")):
            values = rng.choice([-1, 1, 1, 2], size)
        else:
            values = rng.integers(-3, 4, size)
        tensors[tensor] = values.astype(np.float64).reshape(shape)
    return tensors


def with_unit_roots(tensors, dtype):
    """Set every variance to the number of this dtype whose sum with eps is exactly 1."""
    one, eps = np.ones((), dtype), np.asarray(1e-5, dtype)
    var = one - eps
    assert var + eps == one
    return {
        n: np.full(t.shape, var) if n.endswith("running_var") else t for n, t in tensors.items()
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@FORMS
@pytest.mark.parametrize("name", WHOLE)
def test_the_reference_engine_is_exact_on_integers(name, form, dtype, rng):
    """No tolerance: while all sums stay below 2²⁴, float32 has no excuse."""
    config, tensors = tiny.config(name), integer_tensors(name, rng)
    exact = with_unit_roots(tensors, np.float64)
    side = SIDE.get(name, 16)
    x = tiny.images(rng, 1, config.in_chans, side, side).round()
    want = tiny.oracle(exact, x, name)
    assert max(abs(y).max() for y in want.values()) < 2**24
    assert all((y != 0).any() for y in want.values())
    if form == "deploy":
        weights = flatten(build_network(exact, config, np.float64).reparameterized())
        assert all((w == w.round()).all() for w in weights.values())
    else:
        weights = with_unit_roots(tensors, dtype)
    model = create_model("repvgg_a0", weights=weights, reparameterize=False, dtype=dtype,
                         **tiny.keywords(name))  # fmt: skip
    assert (model.form, model.dtype) == (form, dtype)
    for place, y in tiny.answers(model, x.astype(dtype)).items():
        np.testing.assert_array_equal(y, want[place], err_msg=place)


# --- Rounding in float32 --------------------------------------------------------------------------


def block_and_bound(block, tensors, x):
    """One block by the oracle, and how far float32 may be off: γ_n · the block on absolute values.

    n counts the roundings on the longest path: the products and sums of the 3×3 kernel, and then
    either one for the bias, or nine for a batch norm (eps, + eps, √, ÷, − mean, ·, + beta) and the
    sum of three branches. ReLU makes no error larger.
    """
    spec = block.spec
    own = {n.removeprefix(f"{spec.name}."): t.astype(np.float64) for n, t in tensors.items()
           if n.startswith(f"{spec.name}.")}  # fmt: skip
    sizes = {n: abs(t) for n, t in own.items()}
    n = 9 * spec.in_chs // spec.groups
    options = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}
    if "reparam_conv.weight" in own:
        n += 1
        y, size = (
            naive.conv2d(v, w["reparam_conv.weight"], w["reparam_conv.bias"],
                         padding=spec.dilation, **options)
            for v, w in ((x, own), (abs(x), sizes))
        )  # fmt: skip
    else:
        n += 9
        sizes |= {name: -t for name, t in sizes.items() if name.endswith("running_mean")}
        y, size = naive.branches(x, own, **options), naive.branches(abs(x), sizes, **options)
    return np.maximum(y, 0), gamma(n, np.float32) * np.array(size)


@FORMS
@pytest.mark.parametrize("name", ["plain", "groups", "identities-everywhere", "output-stride-8"])
def test_each_block_rounds_no_more_than_the_theorem_allows(name, form, rng):
    model = tiny.model(name, reparameterize=form == "deploy")
    x = tiny.photos(model, rng)
    got = tiny.answers(model, x)
    for block in model.network.blocks:
        want, bound = block_and_bound(block, model.state_dict(), x.astype(np.float64))
        x = got[block.spec.name]
        assert_within(x, want, bound)


# --- The contract ---------------------------------------------------------------------------------


def prepared(engine, name="plain", **options):
    if engine != "reference":
        pytest.importorskip("numba", reason="numba is not installed")
    return engines.prepare(tiny.model(name).network, engine, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_has_its_name_and_its_verbs(engine, rng):
    network = prepared(engine)
    x = tiny.images(rng, dtype=np.float32)
    assert network.name == engine
    everything = network.maps(x, range(8))
    assert len(everything) == 8
    for taps in ([0], [7], [0, 7], [2, 3, 5]):
        for y, index in zip(network.maps(x, taps), taps, strict=True):
            np.testing.assert_array_equal(y, everything[index])
    maps, *ends = network.outputs(x, [2, 5])
    wanted = (everything[2], everything[5], *network.head(everything[7]))
    for y, want in zip((*maps, *ends), wanted, strict=True):
        np.testing.assert_array_equal(y, want)
    network.load()
    assert network.logits(x).shape == (2, 5)
    assert {y.dtype for y in (*everything, network.logits(x))} == {np.dtype(np.float32)}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_is_the_caller_s_own(engine, rng):
    """Neither a later call nor writing into an answer changes another answer."""
    network = prepared(engine)
    x = tiny.images(rng, dtype=np.float32)
    first, logits = network.maps(x, [0, 3, 7]), network.logits(x)
    kept = [y.copy() for y in (*first, logits)]
    network.maps(x + 1, [0, 3, 7])
    network.logits(x + 1)
    for y, want in zip((*first, logits), kept, strict=True):
        np.testing.assert_array_equal(y, want)
        y[...] = np.nan
    np.testing.assert_array_equal(network.logits(x), kept[-1])


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_any_number_of_threads_may_be_asked_for(engine, rng):
    x = tiny.images(rng, dtype=np.float32)
    one, two = (prepared(engine, threads=threads).logits(x) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_auto_serves_float64_by_the_reference():
    network = tiny.model(dtype=np.float64).network
    assert engines.prepare(network).name == "reference"
    assert engines.prepare(tiny.model().network).name in ENGINES


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_impossible_threads_are_refused(threads):
    with pytest.raises(ArgumentError, match="threads: expected an integer of at least 1, got"):
        engines.prepare(tiny.model().network, threads=threads)


@pytest.mark.parametrize("engine", ["", "Reference", "winograd!", None, 3])
def test_an_unknown_engine_is_refused_with_those_that_are_known(engine):
    with pytest.raises(ArgumentError, match="engine: expected auto, reference"):
        engines.prepare(tiny.model().network, engine)


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
import numpy as np, npvgg
from npvgg.cli import main as cli
x = np.zeros((1, 3, 32, 32), np.float32)
model = npvgg.create_model("repvgg_nano", pretrained=True)
npvgg.create_model("repvgg_nano")  # said once
np.testing.assert_array_equal(model(x), npvgg.create_model(
    "repvgg_nano", pretrained=True, engine="reference")(x))
assert model.engine == "reference"
try:
    npvgg.create_model("repvgg_nano", engine="im2col")
except npvgg.ArgumentError as error:
    assert str(error).startswith("engine: expected one that can be imported, got 'im2col': ")
assert cli.main(["warmup"]) == 2
"""


def test_where_numba_cannot_be_imported_the_reference_takes_its_place():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, check=True, text=True
    )
    first, last = done.stderr.splitlines()
    assert first.startswith("the reference engine takes the place of winograd, slowly: ")
    assert last.startswith("npvgg: error: warmup: expected Numba")


def test_the_reference_engine_runs_no_block_past_the_last_tap(rng, monkeypatch):
    network, run = prepared("reference"), []
    monkeypatch.setattr(reference, "forward_block", lambda block, x: run.append(block) or x)
    network.maps(tiny.images(rng), [1, 4])
    assert [block.spec.name for block in run] == [
        "stem", "stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0",
    ]  # fmt: skip
