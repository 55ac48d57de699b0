"""Two files, one network? Every usual mistake is planted and must be named."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

import npvgg
from npvgg.cli.main import main
from npvgg.formats import checkpoint
from npvgg.tools import conversion as convert
from npvgg.tools.certificate import subject
from npvgg.tools.sameness import compare
from npvgg.weights import build

CONFIG = tiny.config("identities-everywhere")
TENSORS = tiny.tensors("identities-everywhere")


@pytest.fixture
def files(tmp_path):
    """The train-form file of a network, and what writes another file of it."""
    keywords = tiny.keywords("identities-everywhere")
    model = npvgg.create_model("repvgg_a0", weights=TENSORS, **keywords, reparameterize=False)
    model.save(tmp_path / "train.safetensors")

    def write(name, tensors, dtype=None):
        path = tmp_path / name
        metadata = checkpoint.load_with_metadata(tmp_path / "train.safetensors").metadata
        checkpoint.save_safetensors(path, tensors, metadata, dtype=dtype)
        return path

    return tmp_path / "train.safetensors", write


def judged(a, b):
    one, other = (subject(checkpoint.load_with_metadata(path)) for path in (a, b))
    report = compare(one, other, {"x": np.ones((1, CONFIG.in_chans, 9, 9), np.float32)})
    assert json.loads(json.dumps(report)) == report
    return report


def deployed(tensors=TENSORS, eps=1e-5, dtype=np.float32):
    network = build.build_network(tensors, CONFIG, np.float64)
    blocks = []
    for block in network.blocks:
        form = block.form
        parts = {
            "conv_kxk": dataclasses.replace(form.conv_kxk, bn=with_eps(form.conv_kxk.bn, eps)),
            "conv_1x1": dataclasses.replace(form.conv_1x1, bn=with_eps(form.conv_1x1.bn, eps)),
            "identity": form.identity and with_eps(form.identity, eps),
        }
        blocks.append(dataclasses.replace(block, form=dataclasses.replace(form, **parts)))
    network = dataclasses.replace(network, blocks=tuple(blocks)).reparameterized()
    return {name: array.astype(dtype) for name, array in build.flatten(network).items()}


def with_eps(bn, eps):
    return dataclasses.replace(bn, eps=eps)


def without(*branches):
    """The tensors with these branches' batch norms giving zero."""
    return {
        name: np.zeros_like(array)
        if any(f".{branch}." in name for branch in branches)
        and name.endswith(("bn.weight", "bn.bias", "identity.weight", "identity.bias"))
        else array
        for name, array in TENSORS.items()
    }


def test_a_file_is_identical_to_itself_in_any_container_and_naming(files, tmp_path):
    train, _ = files
    convert.convert(train, tmp_path / "b.pth", naming="original")
    report = judged(train, tmp_path / "b.pth")
    assert report["verdict"] == "identical"
    assert [file["naming"] for file in report["files"]] == ["timm", "original"]
    assert report["runs"][0]["logits"]["absolute"] == 0


@pytest.mark.parametrize("fold", ["float64", "float32"])
def test_a_fold_is_the_same_network_and_its_precision_is_named(files, tmp_path, fold):
    train, _ = files
    convert.convert(train, tmp_path / "d.safetensors", form="deploy", fold_dtype=fold)
    for pair in [(train, tmp_path / "d.safetensors"), (tmp_path / "d.safetensors", train)]:
        report = judged(*pair)
        assert report["verdict"] == "same"
        assert report["says"].endswith(f"bit for bit, folded in {fold}")
        assert report["differences"] == []
        assert report["runs"][0]["logits"]["same_top_k"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", [None, "deploy"])
def test_half_precision_is_the_same_up_to_rounding(files, tmp_path, dtype, form):
    train, _ = files
    convert.convert(train, tmp_path / "h.safetensors", dtype=dtype, form=form)
    assert judged(train, tmp_path / "h.safetensors")["verdict"] == "same"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (lambda: deployed(eps=1e-3), "the eps of its batch norms: 0.001"),
        (lambda: deployed(eps=1e-6), "the eps of its batch norms: 1e-06"),
        (lambda: deployed(without("identity")), "the identity branch was forgotten"),
        (lambda: deployed(without("conv_1x1")), "the 1×1 branch was forgotten"),
        (
            lambda: deployed(without("conv_1x1", "identity")),
            "the 1×1 and identity branches were forgotten",
        ),
        (
            lambda: {n: a.astype("f2").astype("f4") for n, a in deployed().items()},
            "folded in float16",
        ),
    ],
    ids=["eps 1e-3", "eps 1e-6", "no identity", "no 1x1", "neither", "half"],
)
def test_a_mistake_is_named(files, tensors, says):
    train, write = files
    report = judged(train, write("b.safetensors", tensors()))
    assert report["verdict"] == "different"
    assert report["says"].startswith("b.safetensors: ")
    assert says in report["says"]
    assert report["differences"]


def test_other_weights_are_counted(files):
    train, write = files
    tensors = deployed()
    tensors["stages.1.0.reparam_conv.weight"][0, 0, 0, 0] += 0.01
    report = judged(train, write("b.safetensors", tensors))
    (row,) = report["differences"]
    assert row["tensor"] == "stages.1.0.reparam_conv.weight"
    assert row["beyond_rounding"] == 1
    assert row["absolute"] == pytest.approx(0.01, rel=1e-3)
    assert report["says"] == "other weights in 1 of 9 layers"


def test_the_classifier_is_one_layer(files):
    train, write = files
    other = deployed(tiny.tensors("identities-everywhere", seed=9))
    report = judged(train, write("b.safetensors", other))
    assert report["says"] == "other weights in 9 of 9 layers"


def test_the_tolerance_is_sharp(files):
    train, write = files
    network = build.build_network(TENSORS, CONFIG, np.float64)
    for name in ("stem.reparam_conv.weight", "stages.0.0.reparam_conv.bias"):
        tensors = build.flatten(network.reparameterized())
        for factor, verdict in ((2.0**-24, "same"), (2.0**-16, "different")):
            changed = {n: a.astype("f4") for n, a in tensors.items()}
            changed[name] = (tensors[name] * (1 + factor)).astype("f4")
            path = write(f"{name}{factor}.safetensors", changed)
            assert judged(train, path)["verdict"] == verdict


def test_other_networks_are_told_apart(tmp_path):
    for number, changes in enumerate(({}, {"num_classes": 7}, {"in_chans": 1})):
        model = npvgg.create_model("repvgg_a0", **tiny.keywords(**changes))
        model.save(tmp_path / f"{number}.safetensors")
    report = judged(tmp_path / "0.safetensors", tmp_path / "1.safetensors")
    assert report["verdict"] == "different"
    assert report["says"] == "other networks: num_classes is 5 and 7"
    report = judged(tmp_path / "0.safetensors", tmp_path / "2.safetensors")
    assert "in_chans is 3 and 1" in report["says"]


def test_the_command(files, tmp_path, capfd):
    train, write = files
    convert.convert(train, tmp_path / "d.safetensors", form="deploy")
    assert main(["verify", str(train), str(tmp_path / "d.safetensors"), "--size", "16"]) == 0
    out, err = capfd.readouterr()
    assert "same: the same up to rounding; bit for bit, folded in float64" in out
    assert err == ""
    wrong = write("b.safetensors", deployed(eps=1e-3))
    arguments = ["verify", str(train), str(wrong), "--size", "16"]
    assert main(arguments) == 1
    out, _ = capfd.readouterr()
    assert "beyond rounding" in out
    assert "different: b.safetensors: the same but for the eps of its batch norms: 0.001" in out
    assert main([*arguments, "--format", "json"]) == 1
    assert json.loads(capfd.readouterr().out)["verdict"] == "different"


def test_one_layer_that_is_a_little_off_is_no_coarse_fold(files):
    train, write = files
    folded = deployed()
    name = next(n for n in folded if n.startswith("stages.1") and n.endswith("weight"))
    other = write("b.safetensors", {**folded, name: folded[name] * np.float32(1.002)})
    report = judged(train, other)
    assert report["verdict"] == "different"
    assert report["says"] == f"other weights in 1 of {sum(CONFIG.depths) + 2} layers"
