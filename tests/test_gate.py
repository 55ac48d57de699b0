"""One gate for what files say: no command passes on what a terminal would act on.

Every place of a file where text can stand is poisoned, and every command that reads such a file is
run; on standard output and standard error there are printable characters and ends of lines alone.
"""

import contextlib
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torchwriter

from npvgg.cli import commands
from npvgg.cli.main import main
from npvgg.formats import checkpoint

CAT = Path(__file__).parent / "photos" / "chelsea.png"
POISON = "\x1b[31mred\x1b]0;title\x07\u202eevil\x9b2J\x00"
NAME = POISON.replace("\0", "").replace("/", "")
"""What a file can be called."""


@pytest.fixture
def clean(capfdbinary, monkeypatch):
    """Run the command line in this process, and look at what it says."""

    def clean(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with contextlib.suppress(SystemExit):
            main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        text = out.decode() + err.decode()
        for line in text.split("\n"):
            assert line.isprintable(), line
        said.append("evil" in text)

    said = []
    yield clean
    assert sum(said) > len(said) / 2  # most of them quote the poison


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A folder as timm saves it, poisoned wherever text can stand; and its weights alone."""
    folder = tmp_path_factory.mktemp("network") / NAME
    folder.mkdir()
    labels = [f"{POISON} {i}" for i in range(5)]
    config = {
        "architecture": "repvgg_a0", "num_classes": 5, "label_names": labels,
        "label_descriptions": {labels[0]: POISON}, "model_args": tiny.keywords(),
        "pretrained_cfg": {"tag": "x", "input_size": [3, 32, 32], POISON: POISON},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint.save_safetensors(
        folder / "model.safetensors", tiny.tensors(), metadata={POISON: POISON, "format": "pt"}
    )
    return folder


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """Weights files that are refused, each quoting what is in it."""
    folder = tmp_path_factory.mktemp("bad")
    arrays = {**tiny.tensors(), POISON.replace("\0", ""): np.ones(3, np.float32)}
    checkpoint.save_safetensors(folder / "extra.safetensors", arrays)
    saved = {
        POISON: torchwriter.state_dict(tiny.tensors()), "x": torchwriter.state_dict(tiny.tensors()),
        "epoch": POISON,
    }  # fmt: skip
    (folder / "wrapped.pth").write_bytes(torchwriter.zip_file(saved))
    (folder / "named.pth").write_bytes(torchwriter.zip_file({POISON: 3}))
    (folder / f"{NAME}.safetensors").write_bytes(b"junk")
    (folder / "index.safetensors.index.json").write_text(
        json.dumps({"weight_map": {POISON: f"{POISON}.safetensors"}, "metadata": {}})
    )
    config = {"architecture": POISON, "pretrained_cfg": {}, POISON: 1}
    (folder / "folder").mkdir()
    (folder / "folder" / "config.json").write_text(json.dumps(config))
    return sorted(folder.iterdir())


def test_photos_and_lists(clean, tmp_path):
    photo, junk = tmp_path / f"{NAME}.png", tmp_path / f"{NAME}.jpg"
    shutil.copy(CAT, photo)
    junk.write_bytes(POISON.encode() * 9)
    (tmp_path / f"x{NAME}.{NAME}").touch()
    names = "\n".join([str(photo), f"{POISON}.png".replace("\0", "")]).encode()
    for command in ("classify", "embed", "features"):
        clean(command, tmp_path, "--max-pixels", 10**6)
        clean(command, photo, junk, "--format", "jsonl")
        clean(command, "--files-from", "-", stdin=names)
        clean(command, f"{tmp_path}/{NAME}*")
        clean(command, f"{tmp_path}/*{NAME}{NAME}")
        clean(command, f"http://{NAME}")
        clean(command, CAT, "--output", tmp_path / NAME / "x")
        clean(command, CAT, "--engine", NAME)
        clean(command, CAT, f"--{NAME}")
    clean("classify", photo, "--output", tmp_path / f"{NAME}.{NAME}")
    clean("classify", photo, "--alpha", NAME)
    (tmp_path / "labels").write_text("\n".join(f"{POISON} {i}" for i in range(10)))
    clean("classify", CAT, "--labels", tmp_path / "labels")
    clean("classify", CAT, "--labels", tmp_path / f"{NAME}.json")
    (tmp_path / "labels.json").write_text(json.dumps({POISON: "x"}))
    clean("classify", CAT, "--labels", tmp_path / "labels.json")


def test_networks(clean, network, tmp_path):
    weights = network / "model.safetensors"
    clean("classify", CAT, "--model", network)
    clean("embed", CAT, "--model", network)
    clean("info", network)
    clean("info", NAME)
    clean("list", NAME)
    clean("inspect", weights)
    clean("inspect", network)
    clean("verify", weights)
    clean("verify", network, weights, "--image", network)
    clean("convert", network, tmp_path / f"{NAME}.safetensors")
    clean("convert", weights, tmp_path / f"{NAME}.pth")
    clean("convert", weights, tmp_path / NAME)
    clean("explain", "network", "--model", network)


def test_files_that_are_refused(clean, bad_files, tmp_path):
    for file in bad_files:
        clean("inspect", file)
        clean("classify", CAT, "--weights", file)
        clean("info", "--weights", file)
        clean("verify", file)
        clean("convert", file, tmp_path / "out.pth", "--form", "deploy")
        clean("conformance", tmp_path / "pack", "--weights", file)
        clean("explain", "fold", "--weights", file)


def test_packs_and_candidates(clean, tmp_path):
    pack = tmp_path / NAME
    assert main(["conformance", str(pack), "--quiet"]) == 0
    theirs = {POISON.replace("\0", ""): np.ones((1, 8, 9, 9), np.float32)}
    np.savez(tmp_path / "theirs.npz", **theirs)
    clean("compare", pack, tmp_path / "theirs.npz")
    clean("compare", pack, tmp_path / f"{NAME}.npz")
    (tmp_path / "theirs.json").write_text(json.dumps({POISON: [[1.0]]}))
    clean("compare", pack, tmp_path / "theirs.json", "--match", "order")
    (tmp_path / "map").write_text(json.dumps({POISON: POISON}))
    clean("compare", pack, tmp_path / "theirs.npz", "--map", tmp_path / "map")
    clean("compare", pack, "--torch", f"{NAME}:x")
    clean("compare", pack, tmp_path / "theirs.npz", "--html", tmp_path / NAME / "x")
    manifest = json.loads((pack / "manifest.json").read_text())

    def poisoned(value):
        if isinstance(value, dict):
            return {key: poisoned(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poisoned(item) for item in value]
        return value + POISON if isinstance(value, str) else value

    for key in [*manifest, ""]:
        changed = {k: poisoned(v) if k == key else v for k, v in manifest.items()}
        if not key:
            changed[POISON] = POISON
        (pack / "manifest.json").write_text(json.dumps(changed))
        clean("compare", pack, tmp_path / "theirs.npz")


def test_runs(clean, tmp_path):
    folder = tmp_path / NAME
    clean("batch", folder, "--output", tmp_path / "run")
    clean("batch", "--output", folder)
    clean("batch", f"s3://{NAME}", "--output", folder)
    clean("search", folder, CAT)
    folder.mkdir()
    for name in ("plan.json", "summary.json"):
        (folder / name).write_text(json.dumps({POISON: POISON}))
    clean("batch", "--output", folder)
    clean("search", folder, CAT)


def test_every_command_is_walked():
    """A new command has to be poisoned, too."""
    (verbs,) = (a for a in commands.parser()._actions if a.dest == "command")
    source = Path(__file__).read_text("utf-8")
    walked = {"embed", "features", *re.findall(r'clean\("(\w+)"', source)}
    assert set(verbs.choices) - walked == {"warmup"}  # which reads no file
