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

import fuzz_commands
import numpy as np
import pytest
import tiny
import torchwriter

from npvgg.cli import batch as batch_command
from npvgg.cli import commands
from npvgg.cli.main import main
from npvgg.formats import checkpoint

CAT = Path(__file__).parent / "photos" / "chelsea.png"
POISON = "\x1b[31mred\x1b]0;title\x07\u202eevil\x9b2J\rback\nnpvgg: forged\u2028\x85\x0b\x00"
FORGED = "npvgg: forged"
"""What would look like a line of ours, if a line could be ended."""

NAME = POISON.replace("\0", "").replace("/", "")
"""What a file can be called."""

MARKUP = "<script>evil()</script><b onclick='evil()'>&amp;"
"""What a page or a drawing would act on."""


def unharmed(folder):
    """Tell that no file of a folder holds what a terminal, an editor or a browser would act on."""
    files = [path for path in folder.rglob("*") if path.suffix in (".html", ".svg", ".json")]
    assert files
    for path in files:
        text = path.read_text("utf-8")
        assert not set("\x1b\x07\x9b\u202e\0") & set(text), path
        assert "<script>evil" not in text, path
        assert "<b onclick" not in text, path


@pytest.fixture
def clean(capfdbinary, monkeypatch):
    """Run the command line in this process, and look at what it says."""

    def clean(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = 2
        with contextlib.suppress(SystemExit):
            status = main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        text = out.decode() + err.decode()
        for line in text.split("\n"):
            assert line.replace("\t", "").isprintable(), line
            assert not line.startswith(FORGED), text
        said.append("evil" in text)
        return status

    said = []
    yield clean
    assert sum(said) >= len(said) / 3  # many of them quote the poison


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A folder as timm saves it, poisoned wherever text can stand; and its weights alone."""
    folder = tmp_path_factory.mktemp("network") / NAME
    folder.mkdir()
    labels = [f"{POISON}{MARKUP} {i}" for i in range(5)]
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
    names = "\0".join([str(photo), f"{POISON}.png".replace("\0", "")]).encode()
    for command in ("classify", "embed", "features"):
        clean(command, tmp_path, "--max-pixels", 10**6)
        clean(command, photo, junk, "--format", "jsonl")
        clean(command, "--files-from", "-", "--null", stdin=names)
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


def test_runs_that_succeed(clean, network, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: no batch runs")
    monkeypatch.setattr(batch_command, "_computed", fuzz_commands.here)
    photos = tmp_path / "photos"
    photos.mkdir()
    markup = MARKUP.replace("/", "")
    for name in (f"{NAME}.png", f"{markup}.png", "plain.png"):
        shutil.copy(CAT, photos / name)
    (photos / f"{NAME}.jpg").write_bytes(POISON.encode() * 9)
    run, page = tmp_path / NAME, tmp_path / "page.html"
    model = ["--model", network, "--inference-engine", "reference"]
    assert clean("batch", photos, "--output", run, *model) == 1  # the one that is no photo
    assert clean("batch", "--output", run, "--status") == 1
    assert clean("batch", "--output", run, "--status", "--progress", "json") == 1
    assert clean("search", run, photos / f"{NAME}.png", "--html", page) == 0
    assert clean("search", run, photos / f"{markup}.png", "--format", "json") == 0
    unharmed(tmp_path)


def test_lessons_that_succeed(clean, network, tmp_path):
    photo = tmp_path / f"{NAME}{MARKUP.replace('/', '')}.png"
    shutil.copy(CAT, photo)
    for lesson in ("photo", "pixel"):
        for form in ([], ["--json"], ["--html", tmp_path / f"{lesson}.html"],
                     ["--svg", tmp_path / lesson]):  # fmt: skip
            assert clean("explain", lesson, photo, "--model", network, *form) == 0
    unharmed(tmp_path)


def test_an_onnx_file(clean, network, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'npvgg[onnx]'")
    assert main(["conformance", str(tmp_path / "pack"), "--quiet"]) == 0
    target = tmp_path / f"{NAME}.onnx"
    clean("convert", network, target)
    clean("compare", tmp_path / "pack", "--onnx", target)
    target.write_bytes(POISON.encode())
    clean("compare", tmp_path / "pack", "--onnx", target)


def test_a_terminal_is_given_rows_that_it_does_not_act_on(network, tmp_path, monkeypatch):
    """In a file or a pipe, CSV has names as they are."""
    photo = tmp_path / f"{NAME}\t.png"
    shutil.copy(CAT, photo)
    for format in ("csv", "tsv", "table", "jsonl"):
        screen = Screen(io.BytesIO(), "utf-8")
        monkeypatch.setattr(sys, "stdout", screen)
        assert main(["classify", str(photo), "--model", str(network), "--format", format]) == 0
        screen.flush()
        text = screen.buffer.getvalue().decode()
        assert "evil" in text
        assert text.replace("\n", "").replace("\t", "").isprintable()


class Screen(io.TextIOWrapper):
    """A terminal."""

    def isatty(self):
        return True


def test_every_command_is_walked():
    """A new command has to be poisoned, too."""
    (verbs,) = (a for a in commands.parser()._actions if a.dest == "command")
    source = Path(__file__).read_text("utf-8")
    walked = {"embed", "features", *re.findall(r'clean\("(\w+)"', source)}
    assert set(verbs.choices) - walked == {"warmup"}  # which reads no file
