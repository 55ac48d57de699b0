"""Which file of a folder holds the weights."""

import json

import numpy as np
import pytest
import tiny

from npvgg import ArgumentError, create_model
from npvgg.errors import WeightsError
from npvgg.formats import checkpoint, folder
from npvgg.tools.conversion import convert
from npvgg.tools.inspection import inspect


def fill(place, *names):
    for name in names:
        (place / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (folder.PREFERRED, "model.safetensors"),
        (folder.PREFERRED[1:], "model.safetensors.index.json"),
        (("a.safetensors", *folder.PREFERRED[2:]), "pytorch_model.bin"),
        (folder.PREFERRED[4:], "pytorch_model.pth"),
        (("config.json", "x.bin", "x.pth.tar", "x.pth", "x.safetensors"), "x.safetensors"),
        (("x.bin", "x.pth.tar", "x.pth"), "x.pth"),
        (("x.bin", "x.pth.tar"), "x.pth.tar"),
        (("README.md", ".hidden.safetensors", "x.bin"), "x.bin"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_first_of_the_list_is_taken(tmp_path, names, want):
    """The order of timm 1.0.31 `_PREFERRED_FILES` and `_EXT_PRIORITY`, indices in between."""
    fill(tmp_path, *names)
    assert folder.weights_in(tmp_path) == tmp_path / want


def test_where_there_is_none_or_a_choice_nothing_is_taken(tmp_path):
    fill(tmp_path, "config.json", "notes.txt")
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match=f"^{tmp_path}: expected a file of weights .* got none"):
        checkpoint.load(tmp_path)
    fill(tmp_path, "a.pth", "b.pth")
    with pytest.raises(WeightsError, match=r"expected one file of weights, got 'a\.pth', 'b\.pth'"):
        checkpoint.load(tmp_path)


# --- A folder as timm writes it -------------------------------------------------------------------


@pytest.fixture
def model_folder(tmp_path):
    """A folder with a tiny network that only its config.json describes."""
    cfg = {"interpolation": "bilinear", "crop_pct": 0.9, "tag": "mine"}
    config = {"architecture": "repvgg_a0", "model_args": tiny.keywords(), "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint.save_pth(tmp_path / "pytorch_model.bin", tiny.tensors())
    return tmp_path


def test_a_folder_loads_by_its_path(model_folder, rng, monkeypatch):
    want = tiny.model()
    x = tiny.photos(want, rng)
    monkeypatch.chdir(model_folder.parent)
    relative = f"./{model_folder.name}"
    for name, options in (
        (None, {"weights": model_folder}),
        (None, {"weights": str(model_folder)}),
        ("RepVGG-A0", {"weights": model_folder}),
        (str(model_folder), {"pretrained": True}),
        (f"local-dir:{model_folder}", {"pretrained": True}),
        (relative, {"pretrained": True}),
    ):
        got = create_model(name, engine="reference", **options)
        np.testing.assert_array_equal(got(x), want(x))
        assert got.name == "repvgg_a0.mine"
        assert got.pretrained_cfg["crop_pct"] == 0.9
    embedding = create_model(weights=model_folder, num_classes=0, engine="reference")
    assert embedding(x).shape == (len(x), 12)


def test_an_index_joins_the_files_of_a_folder(model_folder, rng):
    tensors = tiny.tensors()
    places = {name: f"{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        held = {name: tensors[name] for name, place in places.items() if place == file}
        checkpoint.save_safetensors(model_folder / file, held)
    index = {"metadata": {}, "weight_map": places}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (model_folder / "pytorch_model.bin").unlink()
    want = tiny.model()
    x = tiny.photos(want, rng)
    got = create_model(weights=model_folder, engine="reference")
    np.testing.assert_array_equal(got(x), want(x))


def test_a_folder_without_config_is_its_weights(tmp_path):
    create_model("repvgg_nano", num_classes=3).save(tmp_path / "model.safetensors")
    assert create_model(weights=tmp_path).num_classes == 3
    assert inspect(tmp_path)["path"] == str(tmp_path / "model.safetensors")
    done = convert(tmp_path, tmp_path / "out.pth")
    assert done.metadata["npvgg.source"] == "model.safetensors"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hf-hub:me/net", {}, "pretrained: expected True with 'hf-hub:me/net'"),
        ("{folder}", {}, "pretrained: expected True"),
        ("{folder}", {"weights": {}}, "pretrained: expected True"),
        ("repvgg_a2", {"weights": "{folder}"}, "expected repvgg_a0, which .*config.json says"),
        ("me/net", {"pretrained": True}, "expected a folder, got 'me/net'; .* hf-hub:me/net"),
        ("s3:me/net", {"pretrained": True}, "name: expected hf-hub:owner/name or a folder, got"),
        ("hf-hub:", {"pretrained": True}, "name: expected hf-hub:owner/name or a folder, got"),
        ("hf-hub:net", {"pretrained": True}, "name: expected hf-hub:owner/name.@revision., got"),
        ("C:\\net", {"pretrained": True}, "expected a folder"),
    ],
)
def test_what_names_no_repository_is_refused(model_folder, name, options, message):
    options = {
        key: str(model_folder) if value == "{folder}" else value for key, value in options.items()
    }
    with pytest.raises(ArgumentError, match=message):
        create_model(name.format(folder=model_folder), **options)


def test_a_config_that_lies_about_its_weights_is_refused(model_folder):
    config = json.loads((model_folder / "config.json").read_text())
    config["model_args"]["widths"] = [4, 8, 8, 16]
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="misshapen"):
        create_model(weights=model_folder)
    (model_folder / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"config\.json: config: expected a JSON object"):
        create_model(weights=model_folder)


def test_converting_a_folder_keeps_what_its_config_says(model_folder, rng):
    """Names and shapes do not tell silu from relu, nor which images the network was trained on."""
    config = json.loads((model_folder / "config.json").read_text())
    config |= {"label_names": ["ant", "bee", "cat", "dog", "eel"]}
    config["model_args"] |= {"act_layer": "silu"}
    (model_folder / "config.json").write_text(json.dumps(config))
    want = create_model(weights=model_folder, engine="reference", dtype="float64")
    x = tiny.photos(want, rng)
    for options in ({}, {"form": "deploy"}, {"naming": "original"}, {"dtype": "float32"}):
        out = model_folder.parent / "out.safetensors"
        convert(model_folder, out, overwrite=True, **options)
        got = create_model(weights=out, engine="reference", dtype="float64")
        np.testing.assert_allclose(got(x), want(x), rtol=1e-4, atol=1e-6)
        assert (got.config, got.name) == (want.config, "repvgg_a0.mine")
        assert got.pretrained_cfg.items() >= want.pretrained_cfg.items()
    report = inspect(model_folder)
    assert (report["network"], report["classes"]) == ("repvgg_a0.mine", 5)


def test_a_folder_of_another_network_is_copied_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    checkpoint.save_safetensors(tmp_path / "model.safetensors", {"w": np.ones(3)})
    convert(tmp_path, tmp_path / "out.pth")
    assert list(checkpoint.load(tmp_path / "out.pth")) == ["w"]
    with pytest.raises(WeightsError, match="architecture: expected a RepVGG"):
        convert(tmp_path, tmp_path / "d.pth", form="deploy")
