"""Pretrained tags and the local cache of the hub: read in place, never over the network."""

import json
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny

from npvgg import ArgumentError, WeightsError, create_model
from npvgg.formats import checkpoint
from npvgg.hub import client, locate
from npvgg.hub.cache import offline
from npvgg.hub.pretrained import BUNDLED, PRETRAINED, default_tag, pretrained_cfg

COMMIT = "f1505eec" * 5
VARIABLES = (
    "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and nothing else that could be found."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download_file(cache, repository, tensors=None, commit=COMMIT, reference="main"):
    """Lay a file where the hub's client would: a blob, a link to it, and a reference."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob = folder / "blobs" / ("ab" * 32)
    blob.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_safetensors(blob, tensors or {"x": np.zeros(1, np.float32)}, overwrite=True)
    link = folder / "snapshots" / commit / "model.safetensors"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(Path("../../blobs") / blob.name)
    if reference:
        (folder / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / reference).write_text(f"{commit}\n")
    return link


def test_another_cache_and_another_repository_may_be_named(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other, x = tmp_path / "other", np.ones((1, 3, 9, 9), np.float32)
    download_file(other, "me/net", tiny.tensors(seed=1))
    want = create_model("repvgg_a0", weights=tiny.tensors(seed=1), **tiny.keywords())(x)
    options = {"pretrained": True, "pretrained_cfg_overlay": {"hf_hub_id": "me/net"}}
    got = create_model("repvgg_a0", cache_dir=other, **options, **tiny.keywords())
    np.testing.assert_array_equal(got(x), want)
    assert got.name == "repvgg_a0"  # whatever these weights are, they are not the tag's
    with pytest.raises(WeightsError, match=f"not in the Hugging Face cache \\({cache}\\)"):
        create_model("repvgg_a0", **options, **tiny.keywords())


# --- Where the cache is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "~/h"}, "/home/me/h/hub"),
        ({"HF_HOME": "$HOME/h"}, "/home/me/h/hub"),
        ({"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/c"}, "/c"),
        ({"HF_HUB_CACHE": "~/c"}, "/home/me/c"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": ""},
         "/home/me/.cache/huggingface/hub"),
        ({"HF_HUB_CACHE": "~nobody-of-that-name/c"}, "~nobody-of-that-name/c"),
    ],
    ids=str,
)  # fmt: skip
def test_the_cache_is_where_the_hub_s_client_has_it(environment, want, monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in ({"HOME": "/home/me"} | environment).items():
        monkeypatch.setenv(variable, value)
    assert locate.cache_folder() == Path(want)


# --- What is in it --------------------------------------------------------------------------------


def test_a_downloaded_file_is_found(cache):
    link = download_file(cache, "timm/repvgg_a0.rvgg_in1k")
    assert locate.find_cached("timm/repvgg_a0.rvgg_in1k") == link.parent
    assert locate.locate("repvgg_a0.rvgg_in1k") == link
    assert locate.find_cached("timm/repvgg_a0.rvgg_in1k", COMMIT) == link.parent
    assert locate.find_cached("timm/repvgg_a0.rvgg_in1k", "v1") is None
    assert locate.find_cached("timm/repvgg_a1.rvgg_in1k") is None


def test_another_reference_is_found_by_its_name(cache):
    link = download_file(cache, "me/net", reference="refs/pr/1")
    assert locate.find_cached("me/net", "refs/pr/1") == link.parent
    assert locate.find_cached("me/net") is None


def test_a_link_to_nothing_is_not_there(cache):
    link = download_file(cache, "me/net")
    link.resolve().unlink()
    assert locate.find_cached("me/net") is None


@pytest.mark.parametrize(
    "commit", ["..", ".", "../..", "a/b", "/etc", "", " ", "a b", "a\nb", "é", "\\", "\0"], ids=repr
)
def test_a_reference_is_no_way_out_of_the_cache(cache, commit):
    """Whatever a reference says, only a commit's name becomes part of a path."""
    download_file(cache, "me/net")
    folder = cache / "models--me--net"
    for place in ("snapshots", ".", "snapshots/a", "snapshots/a/b"):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "model.safetensors").write_bytes(b"bait")
    (folder / "refs/main").write_text(commit, encoding="utf-8")
    assert locate.find_cached("me/net") is None


def test_a_cache_that_may_not_be_read_is_empty(cache, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    download_file(cache, "me/net")
    monkeypatch.setattr(Path, "is_file", denied)
    assert locate.find_cached("me/net") is None


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "on", "True", "YES"])
def test_offline_what_is_not_there_is_refused_with_the_way_to_get_it(
    cache, monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(WeightsError, match=r"^timm/repvgg_a2\.rvgg_in1k: not in the") as error:
        locate.locate("repvgg_a2.rvgg_in1k")
    for words in (str(cache), "HF_HUB_OFFLINE", "`hf download timm/repvgg_a2.rvgg_in1k`"):
        assert words in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("hub_says", "transformers_says", "want"),
    [("", "", False), ("0", "1", False), ("", "1", True), ("1", "0", True), ("maybe", "", False)],
)
def test_offline_is_what_the_hub_s_client_takes_for_it(
    monkeypatch, hub_says, transformers_says, want
):
    monkeypatch.setenv("HF_HUB_OFFLINE", hub_says)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", transformers_says)
    assert offline() is want


def test_without_the_client_the_error_says_which_command_to_run(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        WeightsError, match=r"`pip install huggingface_hub` \(npvgg's extra \[hub\]\)"
    ):
        create_model("hf-hub:me/net", pretrained=True)


class Scripted:
    """How far a download is, as written down; the last number stays."""

    def __init__(self, sizes):
        self.sizes, self.last, self.abandoned = iter(sizes), 0, False

    @property
    def most(self):
        self.last = next(self.sizes, self.last)
        return self.last

    def abandon(self):
        self.abandoned = True


def test_the_wait_lasts_as_long_as_more_comes_than_ever():
    watch = client._Watch("me/net", patience=0.3, quiet=True)
    stop = threading.Event()
    late = Scripted(range(10**6))
    assert watch.over(lambda: Path("done") if stop.wait(0.8) else Path("late"), late) == Path(
        "late"
    )
    assert not late.abandoned
    for sizes in ([0], [5, 6, 7]):
        waiting = Scripted(sizes)
        with pytest.raises(WeightsError, match=r"^me/net: .* nothing new came in 0\.3 s"):
            watch.over(lambda: Path("done") if stop.wait(5) else Path("late"), waiting)
        assert waiting.abandoned
    stop.set()


def test_a_partial_file_holds_its_limit_and_ends_when_it_is_given_up(tmp_path):
    """Counted: not a byte beyond the limit, none after the end of waiting."""
    progress = client.Progress()
    progress.partial = tmp_path / "a.incomplete"
    with open(progress.partial, "w+b") as file:
        partial = client._Partial(file, 10, "me/net: a", progress)
        partial.write(b"123456")
        assert progress.most == 6
        partial.seek(0)
        partial.truncate()
        partial.write(b"1234")  # begun again: no further than it was
        assert progress.most == 6
        with pytest.raises(WeightsError, match="me/net: a: expected at most 10 bytes, got more"):
            partial.write(b"1234567")
        assert partial.tell() == 4
        progress.abandon()
        with pytest.raises(WeightsError, match="me/net: a: was given up"):
            partial.write(b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "missing", ["config.json", "model-2.safetensors", "model.safetensors.index.json"]
)
def test_a_repository_that_is_cached_in_part_is_not_taken(cache, missing):
    snapshot = download_file(cache, "me/net").parent
    snapshot.joinpath("model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    snapshot.joinpath("model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "model-1.safetensors", "model-2.safetensors"):
        snapshot.joinpath(name).write_bytes(b"")
    assert locate.find_cached("me/net", config=True) == snapshot
    snapshot.joinpath(missing).unlink()
    assert locate.find_cached("me/net", config=True) is None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("me/net", ("me/net", "main")),
        ("timm/repvgg_a0.rvgg_in1k@v1.0", ("timm/repvgg_a0.rvgg_in1k", "v1.0")),
        ("a-b/c_d@refs/pr/1", ("a-b/c_d", "refs/pr/1")),
    ],
)
def test_a_revision_follows_the_repository(text, want):
    assert locate.split_revision(text) == want


@pytest.mark.parametrize(
    "text",
    ["", "net", "/net", "me/", "me/net/x", "../net", "me/..", "me/a..b", "me/a--b", "me/net@",
     "me/net@..", "me/net@/etc", "me/net@a/../b", "me/net@a b", "me/n\0t", "me/net@@x", "mé/net"],
    ids=repr,
)  # fmt: skip
def test_what_is_no_repository_is_refused(text):
    with pytest.raises(ArgumentError, match="name: expected"):
        locate.split_revision(text)


def test_the_bundled_weights_lie_in_the_package():
    path = locate.locate(BUNDLED)
    assert path.parent == Path(locate.__file__).parent.parent / "assets"
    assert path.suffix == ".safetensors"


# --- From a tag to a model ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["repvgg_a0", "RepVGG-A0", "repvgg_a0.rvgg_in1k"])
def test_pretrained_takes_the_cached_weights_and_the_tag_s_configuration(cache, name, rng):
    download_file(cache, "timm/repvgg_a0.rvgg_in1k", tiny.tensors(seed=5))
    model = create_model(name, pretrained=True, **tiny.keywords())
    want = create_model("repvgg_a0", weights=tiny.tensors(seed=5), **tiny.keywords())
    x = tiny.photos(model, rng)
    np.testing.assert_array_equal(model(x), want(x))
    assert model.name == "repvgg_a0.rvgg_in1k"
    assert model.pretrained_cfg == PRETRAINED["repvgg_a0.rvgg_in1k"] | {"num_classes": 5}


def test_cached_weights_of_another_network_are_refused(cache):
    link = download_file(cache, "timm/repvgg_a0.rvgg_in1k", tiny.tensors())
    with pytest.raises(WeightsError, match=r"(?s)model\.safetensors: .*196 missing"):
        create_model("repvgg_a0", pretrained=True)
    link.resolve().write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="a web page"):
        create_model("repvgg_a0", pretrained=True)


def test_a_tag_alone_loads_nothing(cache, rng):
    """As in timm: weights are loaded where pretrained=True says so."""
    model = create_model("repvgg_a0.rvgg_in1k", **tiny.keywords())
    assert model.name == "repvgg_a0"  # the tag stands for weights that it does not have
    x = tiny.photos(model, rng)
    np.testing.assert_array_equal(model(x), create_model("repvgg_a0", **tiny.keywords())(x))


def test_every_tag_prepares_images_as_its_authors_do():
    """Timm 1.0.31 `byobnet.py` `default_cfgs`; 320 pixels for the two deepest networks."""
    for tag, cfg in PRETRAINED.items():
        if tag != BUNDLED:
            large = tag.startswith("repvgg_d2se")
            assert cfg["input_size"] == ((3, 320, 320) if large else (3, 224, 224))
            assert cfg["crop_pct"] == (1.0 if large else 0.875)
            assert (cfg["mean"], cfg["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            assert (cfg["interpolation"], cfg["crop_mode"]) == ("bilinear", "center")
            assert cfg["hf_hub_id"] == f"timm/{tag}"
    assert pretrained_cfg("repvggplus_l2pse")["input_size"] == (3, 320, 320)
    assert pretrained_cfg("repvgg_b1g2")["tag"] == ""
    assert default_tag("repvgg_a2") == "rvgg_in1k"
    with pytest.raises(ArgumentError, match=r"pretrained: expected .* got repvgg_b1g2"):
        default_tag("repvgg_b1g2")
