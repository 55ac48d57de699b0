"""The certificate of a fold: it holds, and a wrong fold does not get one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny

import npvgg
from npvgg import network
from npvgg.cli.main import main
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint
from npvgg.reparam import FusedConv
from npvgg.tools import certificate
from npvgg.tools.certificate import certify, probes, subject

CAT = Path(__file__).parent / "photos" / "chelsea.png"


def saved(path, name="plain", **options):
    model = npvgg.create_model("repvgg_a0", **tiny.keywords(name), reparameterize=False)
    model.save(path, **options)
    return subject(checkpoint.load_with_metadata(path))


@pytest.mark.parametrize("name", ["plain", "groups", "identities-everywhere", "se", "eca"])
def test_a_right_fold_is_proved(tmp_path, name):
    one = saved(tmp_path / "a.safetensors", name)
    report = certify(one, probes(one.config, 24))
    assert report["verdict"] == "proved"
    assert 0 < report["worst_share_of_bound"] <= 1
    assert [run["image"] for run in report["runs"]] == ["noise", "pattern"]
    for run in report["runs"]:
        assert [row["name"] for row in run["blocks"]] == [b.spec.name for b in one.network.blocks]
        for row in [*run["blocks"], run["logits"]]:
            assert 0 <= row["absolute"] <= row["train_error"] + row["deploy_error"]
            assert row["relative"] == row["absolute"] / row["scale"] < 1e-5
        assert any(row["absolute"] > 0 for row in run["blocks"])  # one may be equal by chance
        assert run["logits"]["same_top_k"]
    assert json.loads(json.dumps(report)) == report


def wrong_bias(form):
    return FusedConv(form.weight, form.bias + np.float32(1e-4))


def wrong_tap(form):
    weight = form.weight.copy()
    weight[0, 0, 1, 1] += np.float32(1e-3)
    return FusedConv(weight, form.bias)


def folded_in_half(form):
    return FusedConv(form.weight.astype("f2").astype("f4"), form.bias.astype("f2").astype("f4"))


@pytest.mark.parametrize("wrong", [wrong_bias, wrong_tap, folded_in_half])
def test_a_wrong_fold_fails(tmp_path, monkeypatch, wrong):
    one = saved(tmp_path / "a.safetensors")
    right = network.Block.reparameterized

    def reparameterized(block, fold="float64"):
        block = right(block, fold)
        exact = block.form.weight.dtype == np.float64
        return block if exact else dataclasses.replace(block, form=wrong(block.form))

    monkeypatch.setattr(network.Block, "reparameterized", reparameterized)
    assert certify(one, probes(one.config, 24))["verdict"] == "failed"


def test_a_single_pixel_is_an_image_as_well():
    for image in probes(tiny.config("identities-everywhere"), 1).values():
        assert image.shape == (1, 4, 1, 1)
        assert np.isfinite(image).all()


def test_an_error_begins_with_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    tiny.model(reparameterize=False).save(path)
    with pytest.raises(WeightsError, match=rf"^{path}: weights: not a train-form file"):
        subject(checkpoint.load_with_metadata(path), "repvgg_a0")


def test_a_deploy_form_file_has_nothing_to_prove(tmp_path):
    one = saved(tmp_path / "a.safetensors", form="deploy")
    with pytest.raises(ArgumentError, match="expected train-form weights"):
        certify(one, probes(one.config, 24))


def test_weights_that_explode_are_refused(tmp_path):
    tensors = {
        name: array * np.float32(1e8 if name.endswith("conv.weight") else 1)
        for name, array in tiny.tensors().items()
    }
    model = npvgg.create_model(
        "repvgg_a0", weights=tensors, **tiny.keywords(), reparameterize=False
    )
    model.save(tmp_path / "a.safetensors")
    one = subject(checkpoint.load_with_metadata(tmp_path / "a.safetensors"))
    with pytest.raises(WeightsError, match=r"stages\.\d\.\d: the activations overflow float32"):
        certify(one, probes(one.config, 24))


def test_a_foreign_file_is_refused(tmp_path):
    checkpoint.save_safetensors(tmp_path / "a.safetensors", {"w": np.ones(3)})
    with pytest.raises(WeightsError, match="RepVGG"):
        subject(checkpoint.load_with_metadata(tmp_path / "a.safetensors"))


def test_the_probes_are_what_they_say():
    images = probes(tiny.config(in_chans=4), 32)
    for x in images.values():
        assert (x.shape, x.dtype) == ((1, 4, 32, 32), np.float32)
        assert abs(x.std() - 1) < 0.05
    rough = {name: np.abs(np.diff(x)).mean() for name, x in images.items()}
    assert rough["pattern"] < 0.7 * rough["noise"]


def test_gamma_is_higham_s():
    assert certificate.gamma(1) == 2.0**-24 / (1 - 2.0**-24)
    assert certificate.gamma(1000) > 1000 * 2.0**-24


def test_the_command(tmp_path, capfd):
    saved(tmp_path / "a.safetensors")
    saved(tmp_path / "d.safetensors", form="deploy")
    assert main(["verify", str(tmp_path / "a.safetensors"), "--image", str(CAT)]) == 0
    out, err = capfd.readouterr()
    assert "proved: " in out
    assert "chelsea.png" in out
    assert "stages.2.1" in out
    assert err == ""
    arguments = ["verify", str(tmp_path / "a.safetensors"), "--format", "json", "--size", "16"]
    assert main(arguments) == 0
    assert json.loads(capfd.readouterr().out)["verdict"] == "proved"
    assert main(["verify", str(tmp_path / "d.safetensors")]) == 2
    assert "train-form" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "images"),
    [("plain", ["noise", "photo"]), ("grey", ["noise", "photo"]),
     ("identities-everywhere", ["noise", "pattern"])],
)  # fmt: skip
def test_every_fold_is_proved_on_noise_and_on_what_is_like_its_images(
    tmp_path, capfd, name, images
):
    path = str(tmp_path / "a.safetensors")
    saved(path, name)
    assert main(["verify", path, "--format", "json", "--size", "24"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [run["image"] for run in report["runs"]] == images
    assert report["verdict"] == "proved"
    status = main(["verify", path, "--image", str(CAT), "--size", "24"])
    out, err = capfd.readouterr()
    if "photo" in images:
        assert status == 0
        assert "chelsea.png" in out
    else:
        assert status == 2
        assert "(--image): expected a network of 1 or 3 channels, got 4" in err
