"""Fetching from a hub on 127.0.0.1, through the hub's real client, as a user does it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hubserver
import numpy as np
import pytest
import tiny

import npvgg
from npvgg.formats import checkpoint

if importlib.util.find_spec("huggingface_hub") is None:
    pytest.skip("huggingface_hub is not installed: no client to test", allow_module_level=True)
pytestmark = pytest.mark.cross

CONFIG = {
    "architecture": "repvgg_a0",
    "num_classes": 5,
    "label_names": ["ant", "bee", "cat", "dog", "eel"],
    "model_args": tiny.keywords(),
    "pretrained_cfg": {"tag": "pets", "input_size": [3, 32, 32], "interpolation": "bilinear"},
}
CAT = Path(__file__).parents[1] / "photos" / "chelsea.png"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a fine-tuned repository."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    checkpoint.save_safetensors(folder / "model.safetensors", tiny.tensors())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OF_THE_HUB = re.compile("HF_|HUGGING|TRANSFORMERS|.*_proxy", re.IGNORECASE)
"""Variables by which a hub is chosen and reached."""


@pytest.fixture
def hub():
    with hubserver.running() as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Run Python with this hub and an empty cache: (what it printed as JSON, stderr)."""

    def run(code, **environment):
        # What decides arithmetic stays (OPENBLAS_CORETYPE and its like): the answers are compared
        # with this process's, and equal bits of NumPy's products are promised in one environment.
        keep = {k: v for k, v in os.environ.items() if not OF_THE_HUB.match(k)}
        package = str(Path(npvgg.__file__).parents[1])
        environment = keep | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path),
            "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", "PYTHONPATH": package,
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost", **environment,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + code], env=environment, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout), done.stderr.decode()

    return run


PRELUDE = """
import json, sys, time
import numpy as np
import npvgg

def make(name):
    model = npvgg.create_model(name, pretrained=True, engine="reference")
    x = np.linspace(-1, 1, 3 * 9 * 9, dtype=np.float32).reshape(1, 3, 9, 9)
    return {"logits": model(x)[0].tolist(), "name": model.name, "cfg": model.pretrained_cfg}

def refused(name):
    begin = time.monotonic()
    try:
        make(name)
    except npvgg.WeightsError as error:
        return [str(error), time.monotonic() - begin]
"""


def expected():
    x = np.linspace(-1, 1, 3 * 9 * 9, dtype=np.float32).reshape(1, 3, 9, 9)
    return tiny.model()(x)[0].tolist()


def test_a_repository_is_fetched_once_and_then_read_from_the_cache(hub, run, files):
    """Large files come by way of a redirect; the second run gets by without a server."""
    hub.repositories["me/net"], hub.large = files, {"model.safetensors"}
    code = "print(json.dumps([make(name) for name in ('hf-hub:me/net', 'hf-hub:me/net@v1')]))"
    (main, tag), words = run(code)
    assert main == tag
    assert main["logits"] == expected()
    assert main["name"] == "repvgg_a0.pets"
    assert main["cfg"]["label_names"] == CONFIG["label_names"]
    assert words == ""  # a library is silent; the command line says that it fetches
    assert ("GET", f"/cdn/me/net/of/{hubserver.COMMIT}/model.safetensors") in hub.requests
    count = len(hub.requests)
    assert run(code)[0] == [main, tag]
    assert run(code, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:1")[0] == [main, tag]
    assert len(hub.requests) == count


def test_all_files_are_of_the_commit_of_the_first(hub, run, files):
    hub.repositories["me/net"] = files
    run("print(json.dumps(make('hf-hub:me/net')))")
    got = [path for method, path in hub.requests if method == "GET"]
    assert got == [
        "/me/net/resolve/main/config.json",
        f"/me/net/resolve/{hubserver.COMMIT}/model.safetensors",
    ]


def test_other_files_of_weights_are_found_and_joined(hub, run, files, tmp_path):
    tensors = tiny.tensors()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        checkpoint.save_safetensors(tmp_path / file, {name: tensors[name] for name in held})
    places = {name: file for file, held in shards.items() for name in held}
    hub.repositories["me/shards"] = {
        "config.json": files["config.json"],
        "model.safetensors.index.json": json.dumps({"weight_map": places}).encode(),
        **{file: (tmp_path / file).read_bytes() for file in shards},
    }
    checkpoint.save_pth(tmp_path / "w.pth", tensors)
    hub.repositories["me/pickle"] = {
        "config.json": files["config.json"],
        "pytorch_model.bin": (tmp_path / "w.pth").read_bytes(),
    }
    code = "print(json.dumps([make('hf-hub:me/shards'), make('hf-hub:me/pickle')]))"
    made, _ = run(code)
    assert [model["logits"] for model in made] == [expected()] * 2
    count = len(hub.requests)
    assert run(code)[0] == made
    assert len(hub.requests) == count


def test_a_pretrained_tag_is_fetched_from_timm_s_repository(hub, run, tmp_path):
    npvgg.create_model("repvgg_a0", seed=3).save(tmp_path / "w.safetensors", dtype="float16")
    hub.repositories["timm/repvgg_a0.rvgg_in1k"] = {
        "model.safetensors": (tmp_path / "w.safetensors").read_bytes()
    }
    code = "print(json.dumps([make('repvgg_a0')['name'], make('repvgg_a0.rvgg_in1k')['name']]))"
    assert run(code)[0] == ["repvgg_a0.rvgg_in1k"] * 2
    assert sum(method == "GET" for method, _ in hub.requests) == 1


REFUSED = {
    "absent/net": "no such repository, or a private one: log in",
    "private/net": "no such repository, or a private one: log in",
    "gated/net": "gated: accept its terms on its page",
    "broken/net": "cannot be fetched: .*501",
    "silent/net": "cannot be fetched",
    "stalled/net": "cannot be fetched",
    "truncated/net": "cannot be fetched",
    "huge/net": "model.safetensors: expected at most 4294967296 bytes, got 5368709120",
    "bare/net": "expected weights .* in the repository, got none",
    "plain/net": "expected config.json in the repository, got none",
    "me/net@v2": "expected a branch, tag or commit, got 'v2'",
}


def test_every_failure_is_one_error_and_none_is_a_hang(hub, run, files):
    """Ten seconds at most: three timeouts of one second, and what the machine takes."""
    for name in ("me/net", "private/net", "gated/net", "broken/net", "silent/net", "stalled/net",
                 "truncated/net", "huge/net"):  # fmt: skip
        hub.repositories[name] = files
        hub.faults[name] = name.partition("/")[0]
    hub.repositories["bare/net"] = {"config.json": files["config.json"]}
    hub.repositories["plain/net"] = {"model.safetensors": files["model.safetensors"]}
    code = f"print(json.dumps([refused('hf-hub:' + name) for name in {list(REFUSED)}]))"
    answers, _ = run(code)
    for (name, message), (got, seconds) in zip(REFUSED.items(), answers, strict=True):
        repository = name.partition("@")[0]
        assert got.startswith(f"{repository}: "), got
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(got)
        assert seconds < 10, name


HOSTILE = {
    "commit/up": "expected a commit from the server, got '../../../x'",
    "commit/none": "expected a commit from the server, got None",
    "etag/up": "",
    "etag/root": "",
    "sum/wrong": "expected the contents with the SHA-256 0",
    "endless/net": "expected at most 1000000 bytes, got more",
}


def test_nothing_that_a_server_says_becomes_a_path(hub, run, files, tmp_path):
    """ETags and commits that climb or are absolute; what has no end is ended, and removed."""
    for name in HOSTILE:
        hub.repositories[name] = files
        hub.faults[name] = name.replace("/", " ")
    hub.outside = str(tmp_path / "outside")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    code = f"""
import npvgg.hub.client
npvgg.hub.client.MAX_BYTES = 10**6
answers = [refused('hf-hub:' + name) for name in {list(HOSTILE)}]
time.sleep(0.5)
print(json.dumps(answers))
"""
    answers, _ = run(code)
    for (name, message), answer in zip(HOSTILE.items(), answers, strict=True):
        assert (answer is None) == (message == ""), (name, answer)
        assert message in (answer or [""])[0]
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    cache = tmp_path / "hf" / "hub"
    places = {path.relative_to(cache).parts[1:] for path in written}
    commit = hubserver.COMMIT
    assert places == {
        ("snapshots", commit, "config.json"), ("snapshots", commit, "model.safetensors"),
        ("refs", "main"),
    }  # fmt: skip
    assert sum(path.stat().st_size for path in written) < 4 * sum(map(len, files.values()))


def test_a_transfer_that_was_given_up_ends(hub, run, files, tmp_path):
    """Nothing is written after the error, and nothing of the file stays."""
    hub.repositories["slow/net"], hub.faults["slow/net"] = files, "stalled"
    code = """
answer = refused('hf-hub:slow/net')
import pathlib, os
left = [str(p) for p in pathlib.Path(os.environ["HF_HOME"]).rglob("*.incomplete")]
print(json.dumps([answer[0], left]))
"""
    (message, left), _ = run(code)
    assert "cannot be fetched" in message
    assert left == []


def test_no_network_is_said_at_once(run):
    (message, seconds), _ = run(
        "print(json.dumps(refused('hf-hub:me/net')))", HF_ENDPOINT="http://127.0.0.1:1"
    )
    assert message.startswith("me/net: cannot be fetched: ")
    assert seconds < 10


def test_what_came_in_part_is_never_taken_for_the_whole(hub, run, files):
    hub.repositories["me/net"], hub.faults["me/net"] = files, "truncated"
    code = """
import logging, npvgg.hub.client
logging.basicConfig(level=logging.INFO)
npvgg.hub.client.LOG_SECONDS = 0.5
print(json.dumps(refused('hf-hub:me/net')))
"""
    (message, _), words = run(code)
    assert message == "me/net: cannot be fetched: nothing new came in 3 s"
    assert "MB so far" in words
    hub.faults.clear()
    assert run("print(json.dumps(make('hf-hub:me/net')))")[0]["logits"] == expected()


def test_the_command_line_names_the_classes_of_a_fine_tuned_repository(hub, run, files, tmp_path):
    hub.repositories["me/net"] = files
    code = """
from npvgg.cli.main import main
sys.exit(main(["classify", {!r}, "--model", "hf-hub:me/net", "--format", "json", *{!r}]))
"""
    (row,), words = run(code.format(str(CAT), []))
    assert sorted(entry["label"] for entry in row["topk"]) == CONFIG["label_names"]
    assert "fetching me/net" in words
    assert "<RepVGG repvgg_a0.pets: deploy form, 5 classes" in words
    other = str(tmp_path / "another cache")
    assert run(code.format(str(CAT), ["--quiet"]), HF_HOME=other) == ([row], "")
