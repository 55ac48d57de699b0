"""What is said of a weights file, and that every planted flaw is found."""

import argparse
import hashlib
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import tiny
import torchwriter

import npvgg
from npvgg import WeightsError
from npvgg.cli.main import main
from npvgg.formats import checkpoint
from npvgg.formats.torch import reader
from npvgg.tools.inspection import as_table, inspect
from npvgg.variants import VARIANTS
from npvgg.weights import build

NANO = build.random_tensors(VARIANTS["repvgg_nano"], 3)


def saved(path, tensors=NANO, **options):
    checkpoint.save_safetensors(path, tensors, **options)
    return path


def test_a_sound_file(tmp_path):
    path = saved(tmp_path / "a.safetensors", metadata={"by": "me"})
    report = inspect(path)
    want = {
        "path": str(path), "format": "safetensors", "wrapper": "", "other_wrappers": [],
        "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "ignored": {}, "calls": [],
        "tensors": len(NANO), "dtypes": {"F32": len(NANO)}, "prefix": "",
        "numbers": sum(a.size for a in NANO.values()), "metadata": {"by": "me"},
        "naming": "timm", "form": "train", "network": "repvgg_nano", "channels": 3,
        "classes": VARIANTS["repvgg_nano"].num_classes, "findings": [],
    }  # fmt: skip
    assert {key: value for key, value in report.items() if key != "blocks"} == want
    assert json.loads(json.dumps(report)) == report


def test_the_ranges_are_those_of_the_folded_kernel(tmp_path):
    path = saved(tmp_path / "a.safetensors")
    deploy = npvgg.create_model(weights=path).network.blocks
    rows = inspect(path)["blocks"]
    assert [row["name"] for row in rows] == [block.spec.name for block in deploy]
    for row, block in zip(rows, deploy, strict=True):
        w = block.form.weight
        assert row["kernel"] == [w.min(), w.max()]
        assert row["bias"] == [block.form.bias.min(), block.form.bias.max()]
        assert row["peak_over_sigma"] == pytest.approx(abs(w).max() / w.std(dtype=np.float64))
        assert row["dead"] == 0
    assert rows[0]["variance"][0] == min(
        NANO[f"stem.{bn}.bn.running_var"].min() for bn in ("conv_kxk", "conv_1x1")
    )
    gammas = [NANO[f"stem.{bn}.bn.weight"].max() for bn in ("conv_kxk", "conv_1x1")]
    assert rows[0]["gamma"][1] == max(gammas)


def test_a_training_checkpoint(tmp_path):
    named = {f"module.{name}": array for name, array in NANO.items()}
    value = {"model": torchwriter.state_dict(named), "model_ema": torchwriter.state_dict(named)}
    (tmp_path / "a.pth").write_bytes(torchwriter.zip_file(value | {"epoch": 1}))
    report = inspect(tmp_path / "a.pth")
    assert (report["wrapper"], report["other_wrappers"]) == ("model_ema", ["model"])
    assert (report["prefix"], report["ignored"]) == ("module.", {"epoch": "an int"})
    assert (report["network"], report["findings"]) == ("repvgg_nano", [])


def test_what_lies_beside_nested_weights_is_left_out(tmp_path):
    weights = torchwriter.state_dict(NANO)
    run = {"net": {"weights": weights, "lr": 0.1}, "ema": weights, "steps": [1], 7: None}
    (tmp_path / "a.pth").write_bytes(torchwriter.zip_file({"run": run, "epoch": 1}))
    report = inspect(tmp_path / "a.pth", wrapper="run.net.weights")
    assert report["other_wrappers"] == ["run.ema"]
    assert report["ignored"] == {
        "epoch": "an int", "run.steps": "a list", "run.7": "a NoneType", "run.net.lr": "a float",
    }  # fmt: skip


def test_half_precision_and_deploy_form(tmp_path):
    arrays = npvgg.create_model("repvgg_nano").state_dict()
    report = inspect(saved(tmp_path / "a.safetensors", arrays, dtype="bfloat16"))
    assert report["dtypes"] == {"BF16": len(arrays)}
    assert report["form"] == "deploy"
    assert "variance" not in report["blocks"][0]


def changed(name, index, value):
    tensors = {key: array.copy() for key, array in NANO.items()}
    tensors[name][index] = value
    return tensors


VARIANCE = "stages.1.0.conv_1x1.bn.running_var"


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (changed("head.fc.bias", 3, np.nan), "'head.fc.bias': 1 of"),
        (changed("stem.conv_kxk.conv.weight", (0, 1), np.inf), r"weight': 9 of \d+ values are NaN"),
        (changed(VARIANCE, slice(0, 2), 0), r"2 of \d+ variances below 1e-12"),
        (changed(VARIANCE, 1, -1), r"1 of \d+ variances negative"),
        ({"w": np.ones(3)}, "expected the tensor names of a RepVGG"),
        ({n: a for n, a in NANO.items() if n != VARIANCE}, "no network of the table"),
        ({}, "no tensors at all"),
    ],
    ids=["nan", "inf", "zero variance", "negative variance", "foreign", "incomplete", "empty"],
)
def test_what_is_wrong_is_found(tmp_path, tensors, match):
    report = inspect(saved(tmp_path / "a.safetensors", tensors))
    assert any(re.search(match, finding) for finding in report["findings"]), report


def test_a_network_with_a_bad_value_is_still_known(tmp_path):
    tensors = changed("head.fc.bias", 3, np.nan)
    report = inspect(saved(tmp_path / "a.safetensors", tensors))
    assert report["network"] == "repvgg_nano"


def test_a_dead_channel_is_found(tmp_path):
    model = npvgg.create_model("repvgg_nano")
    arrays = {name: array.copy() for name, array in model.state_dict().items()}
    arrays["stages.0.0.reparam_conv.weight"][5] = 0
    arrays["stages.0.0.reparam_conv.bias"][5] = -1
    arrays["stages.0.0.reparam_conv.weight"][6] = 0
    arrays["stages.0.0.reparam_conv.bias"][6] = 1  # constant, but alive
    report = inspect(saved(tmp_path / "a.safetensors", arrays))
    assert len(report["findings"]) == 1
    assert "stages.0.0: 1 of" in report["findings"][0]


def test_a_network_out_of_the_table_is_named_by_the_caller_or_by_npvgg_s_metadata(tmp_path):
    model = npvgg.create_model("repvgg_a0", **tiny.keywords(), reparameterize=False)
    model.save(tmp_path / "a.safetensors")
    assert inspect(tmp_path / "a.safetensors")["findings"] == []
    checkpoint.save_safetensors(tmp_path / "b.safetensors", model.state_dict())
    (finding,) = inspect(tmp_path / "b.safetensors")["findings"]
    assert "no network of the table" in finding
    (finding,) = inspect(tmp_path / "b.safetensors", model="repvgg_a0")["findings"]
    assert "misshapen" in finding


def test_the_table_shows_what_a_stranger_wrote_escaped(tmp_path):
    report = inspect(saved(tmp_path / "a.safetensors", metadata={"\x1b[2J": "a\nb"}))
    text = "".join(as_table(report))
    assert "\x1b" not in text
    assert "a\\nb" in text
    assert "repvgg_nano" in text
    assert "nothing suspicious" in text


def test_the_command(tmp_path, capfd):
    path = saved(tmp_path / "a.safetensors")
    assert main(["inspect", str(path), "--format", "json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == inspect(path)
    assert err == ""
    bad = saved(tmp_path / "b.safetensors", changed("head.fc.bias", 3, np.nan))
    assert main(["inspect", str(bad)]) == 1
    assert "! 'head.fc.bias': 1 of" in capfd.readouterr().out
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert capfd.readouterr().out == ""


def test_code_that_a_pickle_names_is_a_finding(tmp_path, capfd):
    """Loudly: torch.load runs it with weights_only=False; tensors and containers are no code."""
    path = tmp_path / "a.pth"
    arrays = torchwriter.state_dict({"w": np.ones(2, np.float32)})
    extra = {"epoch": 3, "args": argparse.Namespace(lr=0.1)}
    path.write_bytes(torchwriter.zip_file({"model": arrays, **extra}))
    report = inspect(path)
    assert report["calls"] == []
    assert report["ignored"]["epoch"] == "an int"
    planted = torchwriter.Made(torchwriter.Global("os\x1b", "system"), ("true",))
    path.write_bytes(torchwriter.zip_file({"model": arrays, **extra, "hook": planted}))
    report = inspect(path)
    assert report["calls"] == ["os\x1b.system"]
    assert any(r"names 'os\x1b.system', which torch.load imports" in f for f in report["findings"])
    assert main(["inspect", str(path)]) == 1
    out = capfd.readouterr().out
    assert r"! the pickle names 'os\x1b.system'" in out
    assert "\x1b" not in out
    assert "'epoch' (an int)" in out


class Evil:
    """What torch.save and pickle write of it would run a command where it is loaded."""

    def __reduce__(self):
        return os.system, ("echo evil",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("zipped", [False, True])
def test_code_is_named_where_nothing_else_can_be_read(tmp_path, capfd, protocol, zipped):
    data = pickle.dumps([argparse.Action, Evil(), {"x": Evil()}], protocol)
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    if zipped:  # a file as TorchScript's, with code in another pickle than that of the weights
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickle.dumps({}, 2))
            archive.writestr("x/constants.pkl", data)
    report = inspect(path)
    assert report["calls"] == ["argparse.Action", "posix.system"]
    assert all(any(name in said for said in report["findings"]) for name in report["calls"])
    assert main(["inspect", str(path)]) == 1
    out, err = capfd.readouterr()
    assert "system" in out
    assert "evil" not in out + err


def test_a_pickle_without_code_is_an_error(tmp_path):
    for protocol in range(6):
        (tmp_path / "x.pth").write_bytes(pickle.dumps([{"a": 1}], protocol))
        with pytest.raises(WeightsError):
            inspect(tmp_path / "x.pth")


def test_as_many_pickles_are_searched_as_the_page_says(tmp_path):
    empty, path = pickle.dumps({}, 2), tmp_path / "x.pth"
    for before, found in ((reader.MAX_PICKLES - 1, True), (reader.MAX_PICKLES, False)):
        path.write_bytes(empty * before + pickle.dumps(Evil(), 2))
        assert bool(checkpoint.code_in(path)[0]) == found


def test_code_in_any_pickle_of_a_file_that_loads_is_named(tmp_path):
    """torch.load runs all five pickles of the old format."""
    whole = torchwriter.stream_file(torchwriter.state_dict(NANO))
    parts = [pickle.dumps(value, 2) for value in (torchwriter.MAGIC, 1001)]
    assert whole.startswith(b"".join(parts))
    head, rest = b"".join(parts), whole[len(b"".join(parts)) :]
    machine = pickle.loads(rest)
    tail = rest[len(pickle.dumps(machine, 2)) :]
    (tmp_path / "x.pth").write_bytes(head + pickle.dumps({**machine, "x": Evil()}, 2) + tail)
    report = inspect(tmp_path / "x.pth")
    assert (report["tensors"], report["calls"]) == (len(NANO), ["posix.system"])


@pytest.mark.parametrize("folder", [False, True])
def test_code_in_a_shard_that_is_no_weights_is_named(tmp_path, folder):
    saved(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(pickle.dumps(Evil(), 2))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.bin", "y": "b.bin"}}))
    assert inspect(tmp_path if folder else index)["calls"] == ["posix.system"]
