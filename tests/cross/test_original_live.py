"""The network, block by block, against the published original, where its file is given.

Set NPVGG_ORIGINAL to a checkout of DingXiaoH/RepVGG. Its tensors go to npvgg under its own names.
"""

import os

import numpy as np
import pytest

import npvgg
from npvgg.engines import ENGINES, prepare
from npvgg.variants import VARIANTS, canonical_name
from tests.oracles import formula, judge

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
pytest.importorskip("timm", reason="timm is not installed: timm_peer.py needs it")
if not os.environ.get("NPVGG_ORIGINAL"):
    pytest.skip(
        "NPVGG_ORIGINAL is not set: no checkout of DingXiaoH/RepVGG to compare with",
        allow_module_level=True,
    )

import safetensors.torch  # noqa: E402

from tests.oracles import original_peer, timm_peer  # noqa: E402 - they need torch

pytestmark = pytest.mark.cross
torch.set_num_threads(1)  # two that spin against NumPy's are a hundred times slower

ORIGINAL = original_peer.published()
NAMES = [*ORIGINAL.repvgg.func_dict, *ORIGINAL.plus.repvggplus_func_dict]
SQUARE = formula.images((1, 3, 40, 40))  # the original's squeeze pools over a W×W window


def narrow(name):
    """Keywords of original_peer.network for a narrow network.

    A squeeze keeps every 4th or 16th channel, rounded down by the original and to the nearest by
    timm (and npvgg): the two agree where they leave no remainder, as in every published network.
    """
    return {"scale": 0.2 if "se" in name else 0.25, "num_classes": 50}


def block_answers(model, x, engine="reference"):
    """The output of every block of npvgg's, pre_logits and logits, under timm's names."""
    names = [block.spec.name for block in model.network.blocks]
    network, x = prepare(model.network, engine), x.astype(model.dtype)
    maps = network.maps(x, range(len(names)))
    return {
        **dict(zip(names, maps, strict=True)),
        "pre_logits": model.forward_head(maps[-1], pre_logits=True),
        "logits": network.logits(x),
    }


def test_npvgg_has_every_network_of_the_original():
    assert {canonical_name(name) for name in NAMES} == set(VARIANTS) - set(timm_peer.OWN)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_agrees_at_full_width(name):
    weights = formula.tensors(timm_peer.shapes(original_peer.network(ORIGINAL, name)))
    assert ("stage3_first_aux.3.bias" in weights) == (name == original_peer.PLUS)

    def theirs(dtype):
        return timm_peer.load(original_peer.network(ORIGINAL, name), weights, dtype)

    def ours(dtype, deploy):
        return npvgg.create_model(
            name, weights=weights, dtype=dtype, reparameterize=deploy, engine="reference"
        )

    truth = original_peer.block_answers(theirs(torch.float64), SQUARE)
    judge.assert_float64(block_answers(ours("float64", deploy=False), SQUARE), truth)
    judge.assert_float64(block_answers(ours("float64", deploy=True), SQUARE), truth)
    network = theirs(torch.float32)
    train = original_peer.block_answers(network, SQUARE)
    judge.assert_float32(block_answers(ours("float32", deploy=False), SQUARE), train, truth)
    network = original_peer.deployed(ORIGINAL, network, inplace=True)
    deploy = original_peer.block_answers(network, SQUARE)
    judge.assert_float32(block_answers(ours("float32", deploy=True), SQUARE), deploy, truth)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_original_agrees(name, form, engine, tmp_path):
    theirs = original_peer.network(ORIGINAL, name, **narrow(name))
    keywords = original_peer.keywords(theirs)
    weights = formula.tensors(timm_peer.shapes(theirs))
    theirs = timm_peer.load(theirs, weights, torch.float32)
    theirs = original_peer.deployed(ORIGINAL, theirs) if form == "deploy" else theirs
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({f"module.{n}": t for n, t in theirs.state_dict().items()}, path)

    def ours(dtype, engine):
        return npvgg.create_model(
            name, weights=path, dtype=dtype, reparameterize=False, engine=engine, **keywords
        )

    single = original_peer.block_answers(theirs, SQUARE)
    truth = original_peer.block_answers(theirs.double(), SQUARE)  # of the same, rounded weights
    model = ours("float64", "auto")
    assert model.network.form == form
    judge.assert_float64(block_answers(model, SQUARE), truth)
    got = block_answers(ours("float32", engine), SQUARE, engine)
    judge.assert_float32(got, single, truth, engine)


@pytest.mark.parametrize("name", NAMES)
def test_the_folded_weights_agree(name):
    theirs = original_peer.network(ORIGINAL, name, **narrow(name))
    keywords = original_peer.keywords(theirs)
    weights = formula.tensors(timm_peer.shapes(theirs))
    theirs = original_peer.deployed(ORIGINAL, timm_peer.load(theirs, weights, torch.float64))
    want = [t.numpy() for n, t in theirs.state_dict().items() if ".rbr_reparam." in n]
    ours = npvgg.create_model(name, weights=weights, dtype="float64", **keywords).state_dict()
    got = [array for n, array in ours.items() if ".reparam_conv." in n]
    judge.assert_float64(dict(enumerate(got)), dict(enumerate(want)))


def test_a_full_file_names_its_network(tmp_path):
    for name in ("RepVGG-A0", "RepVGG-B1g2"):
        shapes = timm_peer.shapes(original_peer.network(ORIGINAL, name))
        model = npvgg.create_model(weights=formula.tensors(shapes))
        assert model.name == canonical_name(name)


def test_the_difference_between_train_and_deploy_form_is_rounding():
    """The check that the original's own tools/verify.py prints, as an assertion."""
    name, size = "RepVGG-B1g4", narrow("RepVGG-B1g4")
    theirs = original_peer.network(ORIGINAL, name, **size)
    weights = formula.tensors(timm_peer.shapes(theirs))
    keywords = original_peer.keywords(theirs)
    forms = [
        npvgg.create_model(name, weights=weights, reparameterize=deploy, **keywords)(SQUARE)
        for deploy in (False, True)
    ]
    assert 0 < np.max(abs(forms[0] - forms[1])) < 1e-5 * np.max(abs(forms[0]))
