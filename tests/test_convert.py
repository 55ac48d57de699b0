"""Files in other forms, names, precisions and containers; and what the new file says of itself."""

import hashlib
import json

import numpy as np
import pytest
import tiny
import torchwriter

import npvgg
from npvgg.cli.main import main
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint
from npvgg.tools.conversion import convert
from npvgg.variants import VARIANTS
from npvgg.weights import build, keymap

NANO = VARIANTS["repvgg_nano"]


@pytest.fixture
def source(tmp_path):
    """A train-form safetensors file of a named network."""
    path = tmp_path / "train.safetensors"
    checkpoint.save_safetensors(path, build.random_tensors(NANO, 3), {"by": "me"})
    return path


def logits(path, rng, **options):
    x = rng.standard_normal((1, 3, 32, 32))
    return npvgg.create_model(weights=path, dtype="float64", **options)(x)


def test_train_becomes_deploy_with_the_same_answer(source, tmp_path, rng):
    done = convert(source, tmp_path / "deploy.safetensors", form="deploy")
    got = checkpoint.load_with_metadata(tmp_path / "deploy.safetensors")
    want = npvgg.create_model(weights=source).state_dict()
    assert got.tensors.keys() == want.keys() == done.tensors.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got.tensors[name], array)
    assert keymap.form(got.tensors) == "deploy"
    x = rng.standard_normal((1, 3, 32, 32))
    a, b = (
        npvgg.create_model(weights=path, dtype="float64", reparameterize=False)(x)
        for path in (source, tmp_path / "deploy.safetensors")
    )
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(a).max())
    assert abs(a).max() > 0


def test_the_new_file_says_where_it_comes_from(source, tmp_path):
    convert(source, tmp_path / "a.safetensors", form="deploy", fold_dtype="float32")
    metadata = checkpoint.load_with_metadata(tmp_path / "a.safetensors").metadata
    assert metadata["npvgg.source"] == "train.safetensors"
    assert metadata["npvgg.source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert metadata["npvgg.fold"] == "float32"
    assert metadata["npvgg.form"] == "deploy"
    assert metadata["npvgg.version"] == npvgg.__version__
    assert metadata["npvgg.model"] == "repvgg_nano"
    assert json.loads(metadata["npvgg.config"])["num_classes"] == NANO.num_classes
    assert metadata["by"] == "me"


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "bin"])
def test_a_plain_copy_keeps_every_tensor_and_name(tmp_path, suffix):
    arrays = {"module.any": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}
    saved = {"state_dict": torchwriter.state_dict(arrays), "epoch": 2}
    (tmp_path / "in.pth").write_bytes(torchwriter.zip_file(saved))
    convert(tmp_path / "in.pth", tmp_path / f"out.{suffix}")
    got = checkpoint.load_with_metadata(tmp_path / f"out.{suffix}")
    assert got.format == ("safetensors" if suffix == "safetensors" else "torch zip")
    assert got.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(got.tensors[name], array)


@pytest.mark.parametrize("name", ["repvgg_nano", "repvgg_d2se", "repvggplus_l2pse"])
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_naming_goes_to_the_original_and_back(tmp_path, name, form):
    row = VARIANTS[name]
    shapes = build.expected_shapes(row, form)
    narrow = {n: np.broadcast_to(np.float32(0.5), shape) for n, shape in shapes.items()}
    first_half = row.depths[2] // 2 if name == "repvggplus_l2pse" else None
    there = {keymap.to_original(n, plus_first_half=first_half): a for n, a in narrow.items()}
    assert keymap.naming(there) == "original"
    back = build.normalize_names(there, row)
    assert list(back) == list(narrow)


def test_the_original_s_names_on_request(source, tmp_path, rng):
    convert(source, tmp_path / "a.pth", naming="original")
    names = list(checkpoint.load(tmp_path / "a.pth"))
    assert names[0].startswith("stage0.rbr_")
    assert "linear.weight" in names
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", naming="timm")
    want, got = checkpoint.load(source), checkpoint.load(tmp_path / "b.safetensors")
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float16", "F16"), ("bfloat16", "BF16"), ("float32", "F32")]
)
def test_half_precision_is_asked_for_and_then_kept(source, tmp_path, dtype, stored):
    convert(source, tmp_path / "half.safetensors", dtype=dtype)
    convert(tmp_path / "half.safetensors", tmp_path / "same.pth")
    convert(tmp_path / "same.pth", tmp_path / "fold.safetensors", form="deploy")
    for name in ("half.safetensors", "same.pth", "fold.safetensors"):
        assert set(checkpoint.load_with_metadata(tmp_path / name).stored.values()) == {stored}


def test_float64_is_kept(tmp_path):
    arrays = {n: a.astype(np.float64) for n, a in build.random_tensors(NANO, 0).items()}
    checkpoint.save_safetensors(tmp_path / "a.safetensors", arrays)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", form="deploy")
    got = checkpoint.load_with_metadata(tmp_path / "b.safetensors")
    assert set(got.stored.values()) == {"F64"}


@pytest.mark.parametrize("name", ["plain", "groups", "identities-everywhere", "se"])
def test_the_two_folds_differ_by_float32_s_rounding_and_do_differ(name):
    network = build.build_network(tiny.tensors(name), tiny.config(name))
    exact = build.flatten(network.reparameterized("float64"))
    rounded = build.flatten(network.reparameterized("float32"))
    assert exact.keys() == rounded.keys()
    for key, array in exact.items():
        assert rounded[key].dtype == np.float32
        np.testing.assert_allclose(rounded[key], array, rtol=0, atol=8 * 2.0**-24 * 4)
    assert any((rounded[key] != array).any() for key, array in exact.items())


def test_a_network_that_is_in_no_table_is_converted_by_npvgg_s_own_metadata(tmp_path):
    model = npvgg.create_model("repvgg_a0", **tiny.keywords("se"), reparameterize=False)
    model.save(tmp_path / "own.safetensors")
    convert(tmp_path / "own.safetensors", tmp_path / "out.pth", form="deploy")
    got = npvgg.create_model(weights=tmp_path / "out.pth")
    assert got.config == model.config
    assert got.form == "deploy"


def test_a_named_network_keeps_the_file_s_classes(tmp_path):
    arrays = build.random_tensors(VARIANTS["repvgg_nano"].with_changes(num_classes=7), 0)
    checkpoint.save_safetensors(tmp_path / "a.safetensors", arrays)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", form="deploy",
            model="repvgg_nano")  # fmt: skip
    assert npvgg.create_model(weights=tmp_path / "b.safetensors").num_classes == 7


@pytest.mark.parametrize(
    ("target", "options", "error", "match"),
    [
        ("a.onnx", {}, ArgumentError, "target: expected a name in .safetensors"),
        ("a", {}, ArgumentError, "target"),
        ("a.pth", {"form": "fused"}, ArgumentError, "form: expected"),
        ("a.pth", {"naming": "candle"}, ArgumentError, "naming: expected"),
        ("a.pth", {"dtype": "f8"}, ArgumentError, "dtype: expected"),
        ("a.pth", {"fold_dtype": "float16"}, ArgumentError, "fold_dtype: expected"),
        ("a.pth", {"model": "repvgg_b0", "form": "deploy"}, WeightsError, r"train\.safetensors: "),
        ("a.pth", {"model": "repvgg_z9", "form": "deploy"}, ArgumentError, "repvgg_z9"),
        ("a.pth", {"wrapper": "model"}, WeightsError, "'model'"),
        ("train.safetensors", {}, ArgumentError, "exists"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_no_file(
    source, tmp_path, target, options, error, match
):
    before = source.read_bytes()
    with pytest.raises(error, match=match):
        convert(source, tmp_path / target, **options)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    assert source.read_bytes() == before


def test_deploy_cannot_become_train(source, tmp_path):
    convert(source, tmp_path / "d.safetensors", form="deploy")
    with pytest.raises(ArgumentError, match="cannot be unfolded"):
        convert(tmp_path / "d.safetensors", tmp_path / "t.safetensors", form="train")


def test_the_command(source, tmp_path, capfd):
    target = tmp_path / "out.pth"
    arguments = ["convert", str(source), str(target), "--form", "deploy", "--naming", "original"]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "repvgg_nano deploy form" in err
    assert "folded in float64" in err
    assert main(arguments) == 2
    assert "exists" in capfd.readouterr().err
    assert main([*arguments, "--force", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert checkpoint.load(target)["stage0.rbr_reparam.bias"].dtype == np.float32


def test_the_command_says_which_weights_it_took(tmp_path, capfd):
    arrays = torchwriter.state_dict({"w": np.arange(3.0)})
    data = torchwriter.zip_file({"model": arrays, "model_ema": arrays, "epoch": 1})
    (tmp_path / "last.pth").write_bytes(data)
    arguments = ["convert", str(tmp_path / "last.pth"), str(tmp_path / "a.safetensors")]
    assert main(arguments) == 0
    assert "took the weights under 'model_ema' (not 'model')" in capfd.readouterr().err
    assert main([*arguments, "--force", "--wrapper", "model"]) == 0
    assert "took the weights under 'model' (not 'model_ema')" in capfd.readouterr().err


def test_a_name_leaves_classes_and_channels_to_the_file(tmp_path):
    npvgg.create_model("repvgg_nano", num_classes=3, in_chans=1).save(tmp_path / "a.safetensors")
    tensors = checkpoint.load(tmp_path / "a.safetensors")
    checkpoint.save_safetensors(tmp_path / "bare.safetensors", tensors)
    done = convert(tmp_path / "bare.safetensors", tmp_path / "b.safetensors", model="RepVGG-nano")
    config = json.loads(done.metadata["npvgg.config"])
    assert (config["num_classes"], config["in_chans"]) == (3, 1)
