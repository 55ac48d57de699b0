"""The network, block by block, against the timm that is installed."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import npvgg
from npvgg import data
from npvgg.config import ACT_LAYERS, ATTN_LAYERS
from npvgg.engines import ENGINES, prepare
from npvgg.hub import locate
from npvgg.hub.pretrained import BUNDLED, PRETRAINED, pretrained_cfg
from tests.oracles import formula, judge

timm = pytest.importorskip("timm", reason="timm is not installed: nothing to compare with")
torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")

import safetensors.torch  # noqa: E402

from tests.oracles import timm_peer  # noqa: E402

pytestmark = pytest.mark.cross
torch.set_num_threads(1)  # two that spin against NumPy's are a hundred times slower

GOLDEN = Path(__file__).parents[1] / "golden" / "networks.json"
ROWS = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
CASES = {
    row["name"]: SimpleNamespace(
        model=row["model"],
        keywords={k: tuple(v) if isinstance(v, list) else v for k, v in row["keywords"].items()},
        gain=row["gain"],
        images=formula.images(row["input"]),
    )
    for row in ROWS
    if row["peer"] == "timm" and not {"out_indices", "file"} & row.keys()
}
SMALL = {"depths": (2, 3, 2, 1), "widths": (16, 24, 32, 40), "stem_chs": 16, "num_classes": 11}


def block_answers(model, x, engine="reference"):
    """The output of every block of npvgg's, and the logits, under timm's names."""
    names = [block.spec.name for block in model.network.blocks]
    network, x = prepare(model.network, engine), x.astype(model.dtype)
    maps = network.maps(x, range(len(names)))
    return {**dict(zip(names, maps, strict=True)), "logits": network.logits(x)}


def pair(keywords, dtype="float64", name="repvgg_a0", gain=0.75, deploy=False):
    """One network twice, with the same weights: npvgg's and timm's."""
    theirs = timm_peer.network(name, **keywords)
    weights = formula.tensors(timm_peer.shapes(theirs), gain)
    theirs = timm_peer.load(theirs, weights, getattr(torch, dtype))
    ours = npvgg.create_model(
        name, weights=weights, dtype=dtype, reparameterize=deploy, engine="reference", **keywords
    )
    return ours, timm_peer.deployed(theirs) if deploy else theirs


# --- Every block of every network -----------------------------------------------------------------


@pytest.mark.parametrize("name", [*timm.list_models("repvgg*"), *timm_peer.OWN])
def test_every_variant_agrees_at_full_width(name):
    x = formula.images((1, 3, 40, 40))
    weights = formula.tensors(timm_peer.shapes(timm_peer.network(name)))

    def theirs(dtype):
        return timm_peer.load(timm_peer.network(name), weights, dtype)

    def ours(dtype, deploy):
        return npvgg.create_model(
            name, weights=weights, dtype=dtype, reparameterize=deploy, engine="reference"
        )

    truth = timm_peer.block_answers(theirs(torch.float64), x)
    judge.assert_float64(block_answers(ours("float64", deploy=False), x), truth)
    judge.assert_float64(block_answers(ours("float64", deploy=True), x), truth)
    network = theirs(torch.float32)
    train = timm_peer.block_answers(network, x)
    judge.assert_float32(block_answers(ours("float32", deploy=False), x), train, truth)
    deploy = timm_peer.block_answers(timm_peer.deployed(network, inplace=True), x)
    judge.assert_float32(block_answers(ours("float32", deploy=True), x), deploy, truth)


@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
@pytest.mark.parametrize("name", CASES)
def test_every_block_agrees(name, deploy):
    case = CASES[name]
    ours, theirs = pair(case.keywords, "float64", case.model, case.gain, deploy)
    truth = timm_peer.block_answers(theirs, case.images)
    judge.assert_float64(block_answers(ours, case.images), truth)
    ours, theirs = pair(case.keywords, "float32", case.model, case.gain, deploy)
    single = timm_peer.block_answers(theirs, case.images)
    for engine in ENGINES:
        got = block_answers(ours, case.images, engine)
        judge.assert_float32(got, single, truth, engine)


def random_configuration(rng):
    """A small network that timm can build, and a batch for it."""
    stages = int(rng.integers(2, 6))
    options = {
        "groups": [1, 2, 4, 8],
        "stem_chs": [8, 12, 20],
        "stem_stride": [1, 2],
        "in_chans": [1, 3, 8],
        "num_classes": [0, 1, 7],
        "output_stride": [8, 16, 32],
        "global_pool": ["avg", "max", "avgmax", "catavgmax"],
        "act_layer": ACT_LAYERS,
        "attn_layer": [None, None, None, *ATTN_LAYERS],
        "width_factor": [1.0, 0.6, 1.3],
    }
    keywords = {key: values[rng.integers(len(values))] for key, values in options.items()}
    for key, low, high, unit in (("depths", 1, 4, 1), ("widths", 1, 4, 8), ("strides", 1, 2, 1)):
        keywords[key] = tuple((rng.integers(low, high + 1, stages) * unit).tolist())
    images = (int(rng.integers(1, 3)), keywords["in_chans"], *rng.integers(1, 60, 2).tolist())
    return keywords, formula.images(images)


@pytest.mark.parametrize("seed", range(80))
def test_random_configurations_agree(seed):
    keywords, x = random_configuration(np.random.default_rng(seed))
    keywords = {key: value for key, value in keywords.items() if value is not None}
    ours, theirs = pair(keywords)
    truth = timm_peer.block_answers(theirs, x)
    judge.assert_float64(block_answers(ours, x), truth)
    keys = ("num_chs", "reduction", "module")
    assert [{k: f[k] for k in keys} for f in ours.feature_info] == timm_peer.feature_info(theirs)
    assert npvgg.info(ours).train.parameters == timm_peer.parameters(theirs)
    judge.assert_float64(block_answers(pair(keywords, deploy=True)[0], x), truth)


# --- The interface --------------------------------------------------------------------------------


@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
def test_the_interface_of_the_model_card_agrees(deploy):
    x = formula.images((2, 3, 45, 37))
    ours, theirs = pair(SMALL, deploy=deploy)
    features = ours.forward_features(x)
    got = {
        "forward_features": features,
        "pre_logits": ours.forward_head(features, pre_logits=True),
        "logits": ours.forward_head(features),
    }
    with torch.no_grad():
        features = theirs.forward_features(torch.from_numpy(x).double())
        want = {
            "forward_features": features,
            "pre_logits": theirs.forward_head(features, pre_logits=True),
            "logits": theirs.forward_head(features),
        }
    judge.assert_float64(got, {name: y.numpy() for name, y in want.items()})
    assert (ours.num_features, ours.num_classes) == (theirs.num_features, theirs.num_classes)


STRIDED = {"strides": (1, 2, 2, 1), "output_stride": 8}  # three maps in place of five
INTERMEDIATES = [
    ({}, {}),
    ({}, {"indices": None, "stop_early": True}),
    ({}, {"indices": 2}),
    ({}, {"indices": 1, "stop_early": True}),
    ({}, {"indices": [0]}),
    ({}, {"indices": [0], "stop_early": True}),
    ({}, {"indices": [1, 3], "stop_early": True}),
    ({}, {"indices": (-2, -4)}),
    ({}, {"indices": [3, 1, 1, 0], "stop_early": True}),
    ({}, {"indices": [2], "intermediates_only": True}),
    ({}, {"indices": 5, "intermediates_only": True, "stop_early": True}),
    (STRIDED, {}),
    (STRIDED, {"indices": [1], "stop_early": True}),
    (STRIDED, {"indices": 2, "stop_early": True}),
]


@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
@pytest.mark.parametrize(("keywords", "options"), INTERMEDIATES, ids=str)
def test_forward_intermediates_agrees(keywords, options, deploy):
    ours, theirs = pair({**SMALL, **keywords}, deploy=deploy)
    x = formula.images((2, 3, 45, 37))
    with torch.no_grad():
        want = theirs.forward_intermediates(torch.from_numpy(x).double(), **options)
    got = ours.forward_intermediates(x, **options)
    if not options.get("intermediates_only"):
        judge.assert_float64({"last": got[0]}, {"last": want[0].numpy()})
        got, want = got[1], want[1]
    judge.assert_float64(dict(enumerate(got)), {i: y.numpy() for i, y in enumerate(want)})


@pytest.mark.parametrize("indices", [0, 6, -1, [5], [0, -6]], ids=str)
def test_both_refuse_maps_that_are_not_there(indices):
    ours, theirs = pair(SMALL)
    x = formula.images((1, 3, 32, 32))
    with pytest.raises(AssertionError, match="out of range"):
        theirs.forward_intermediates(torch.from_numpy(x).double(), indices=indices)
    with pytest.raises(npvgg.ArgumentError, match="indices: expected"):
        ours.forward_intermediates(x, indices=indices)


@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
@pytest.mark.parametrize("out_indices", [None, (1, 3), (-1,), (4, 0, 2), 2, (0,)], ids=str)
def test_features_only_agrees(out_indices, deploy):
    x = formula.images((2, 3, 45, 37))
    weights = formula.tensors(timm_peer.shapes(timm_peer.network("repvgg_a0", **SMALL)))
    taps = out_indices or (0, 1, 2, 3, 4)  # timm's default
    theirs = timm_peer.feature_network(weights, torch.float64, "repvgg_a0", taps, **SMALL)
    ours = npvgg.create_model(
        "repvgg_a0",
        weights=weights,
        dtype="float64",
        features_only=True,
        out_indices=out_indices,
        reparameterize=deploy,
        **SMALL,
    )
    want = timm_peer.feature_answers(timm_peer.deployed(theirs) if deploy else theirs, x)
    judge.assert_float64({f"features.{i}": y for i, y in enumerate(ours(x))}, want)
    info = theirs.feature_info  # in the order asked for; its maps, and ours, in the network's
    assert ours.feature_info.channels() == [
        want[f"features.{i}"].shape[1] for i in range(len(want))
    ]
    assert sorted(ours.feature_info.reduction()) == sorted(info.reduction())
    assert sorted(ours.feature_info.module_name()) == sorted(info.module_name())


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", ["repvgg_a0", "repvgg_b1g4", "repvgg_d2se"])
def test_timm_loads_strictly_what_npvgg_saves(name, form, tmp_path):
    path = tmp_path / "model.safetensors"
    ours = npvgg.create_model(name, width_factor=0.25, reparameterize=form == "deploy", seed=5)
    ours.save(path, form)
    theirs = timm.create_model(name, width_factor=0.25).eval()
    if form == "deploy":
        theirs = timm_peer.deployed(theirs)
    timm.models.load_checkpoint(theirs, str(path), strict=True)
    for key, tensor in theirs.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(tensor.numpy(), ours.state_dict()[key], key)
    x = formula.images((2, 3, 48, 48))
    want = timm_peer.block_answers(theirs, x)
    got = block_answers(ours, x)
    scale = {key: abs(y).max() for key, y in want.items()}
    assert all(error < 1e-5 * scale[key] for key, error in judge.errors(got, want).items())


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_npvgg_loads_what_timm_holds(dtype, form, prefix, tmp_path):
    theirs = timm.create_model("repvgg_b1g4", width_factor=0.25)
    weights = formula.tensors(timm_peer.shapes(theirs))
    theirs = timm_peer.load(theirs, weights, torch.float32)
    theirs = timm_peer.deployed(theirs) if form == "deploy" else theirs
    theirs = theirs.to(getattr(torch, dtype))
    state = {prefix + key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")

    ours = npvgg.create_model(
        "repvgg_b1g4",
        weights=tmp_path / "model.safetensors",
        width_factor=0.25,
        dtype="float64",
        reparameterize=form == "deploy",
    )
    for key, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, theirs.double().state_dict()[key].numpy(), key)
    x = formula.images((1, 3, 40, 33))
    judge.assert_float64(block_answers(ours, x), timm_peer.block_answers(theirs.double(), x))


def test_the_random_weights_of_npvgg_run_in_timm():
    ours = npvgg.create_model("repvgg_a1", reparameterize=False, dtype="float64", seed=3)
    weights = with_counters(ours.state_dict())
    theirs = timm_peer.load(timm_peer.network("repvgg_a1"), weights, torch.float64)
    x = formula.images((1, 3, 64, 64))
    judge.assert_float64(block_answers(ours, x), timm_peer.block_answers(theirs, x))


@pytest.mark.skipif(
    not locate.locate(BUNDLED).is_file(), reason="the bundled weights are not there"
)
def test_the_bundled_model_runs_in_timm():
    ours = npvgg.create_model(BUNDLED, pretrained=True, reparameterize=False, dtype="float64")
    weights = with_counters(ours.state_dict())
    theirs = timm_peer.load(timm_peer.network(BUNDLED.split(".")[0]), weights, torch.float64)
    x = formula.images((4, 3, 32, 32))
    judge.assert_float64(block_answers(ours, x), timm_peer.block_answers(theirs, x))


def with_counters(state):
    """A state dict with the batch counters that npvgg does not keep."""
    counters = {
        key.replace("running_mean", "num_batches_tracked"): np.array(0)
        for key in state
        if key.endswith("running_mean")
    }
    return {**state, **counters}


# --- Sizes and data configuration -----------------------------------------------------------------


@pytest.mark.parametrize("name", [*timm.list_models("repvgg*"), *timm_peer.OWN])
@pytest.mark.parametrize("keywords", [{}, {"num_classes": 10, "in_chans": 1}, SMALL], ids=str)
def test_info_counts_the_parameters_of_timm(name, keywords):
    theirs = timm_peer.network(name, **keywords)
    config = npvgg.variants.VARIANTS[name].with_changes(**keywords)
    info = npvgg.info(config)
    assert info.train.parameters == timm_peer.parameters(theirs)
    with torch.device("meta"):
        deployed = timm_peer.deployed(theirs)
    assert info.deploy.parameters == timm_peer.parameters(deployed)


@pytest.mark.parametrize("name", [n for n in CASES if "attn" in n or "width" in n])
def test_info_counts_the_parameters_of_attention_layers(name):
    case = CASES[name]
    theirs = timm_peer.network(case.model, **case.keywords)
    info = npvgg.info(npvgg.variants.VARIANTS[case.model].with_changes(**case.keywords))
    assert info.train.parameters == timm_peer.parameters(theirs)


@pytest.mark.parametrize("tag", [tag for tag in PRETRAINED if "hf_hub_id" in PRETRAINED[tag]])
def test_the_data_configuration_of_a_pretrained_tag_is_timms(tag):
    with torch.device("meta"):
        theirs = timm.create_model(tag)
    ours = npvgg.create_model(tag, width_factor=0.125)
    for use_test_size in (False, True):
        want = timm.data.resolve_model_data_config(theirs, use_test_size=use_test_size)
        assert data.resolve_model_data_config(ours, use_test_size=use_test_size) == want
    for key, value in pretrained_cfg(*tag.split(".")).items():
        assert theirs.pretrained_cfg[key] == value, key


def test_npvgg_has_every_repvgg_of_timm():
    assert set(timm.list_models("repvgg*")) <= set(npvgg.list_models())
    assert set(timm.list_models("repvgg*", pretrained=True)) <= set(PRETRAINED)
    for pattern in ("repvgg_b1*", "repvgg_?0", "repvgg_[ab]1", "repvgg_*g4", "repvgg_a0.*"):
        for pretrained in (False, True):
            want = timm.list_models(pattern, pretrained=pretrained)
            got = npvgg.list_models(pattern, pretrained=pretrained)
            assert set(got) - set(want) <= set(npvgg.list_models("*g2*"))  # the original's alone
            assert set(want) <= set(got)
