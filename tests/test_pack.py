"""A conformance pack can be used by people who have nothing else, and cannot be misread."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import npvgg
from npvgg.cli.main import main
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint, files
from npvgg.rounding import U
from npvgg.testing import Pack, compare, conformance_pack, seeded
from npvgg.testing.tiny import TINY
from npvgg.testing.trace import LEVELS
from npvgg.weights import build
from tests.oracles import pack_reader

CAT = Path(__file__).parent / "photos" / "chelsea.png"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder for every tiny network and form, of level op."""
    root = tmp_path_factory.mktemp("packs")
    for name in TINY:
        for form in ("train", "deploy"):
            pack = conformance_pack(name, level="op", form=form, size=10)
            pack.write(root / f"{name}.{form}")
    return root


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "tiny"
    conformance_pack("tiny").write(folder)
    return folder


def judged(folder, kind, rounded):
    """A stranger's shares of the bounds: name → largest |error| / bound."""
    reader = pack_reader.Network(folder, rounded)
    truth = pack_reader.read_safetensors(folder / "tensors.safetensors")
    bounds = pack_reader.read_safetensors(folder / "bounds.safetensors")
    made = reader.run({"input": truth["input"]})
    shares = {}
    for entry in reader.manifest["tensors"]:
        name, mine = entry["name"], made[entry["name"]]
        if kind == "local":
            given = {n: truth[n] for n in entry["inputs"]}
            mine = reader.alone(name, given) if entry["inputs"] else mine
        shares[name] = pack_reader.worst_share(mine, truth[name], bounds[f"{kind}.{name}"])
    return shares


# --- Someone without npvgg ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", TINY)
def test_who_follows_the_readme_finds_every_tensor_within_its_bounds(folders, name, form):
    folder = folders / f"{name}.{form}"
    for kind in ("local", "chain"):
        in_doubles = judged(folder, kind, pack_reader.exact)
        in_floats = judged(folder, kind, pack_reader.float32)
        assert list(in_doubles) == [p.name for p in Pack.read(folder).probes]
        assert max(in_doubles.values()) <= 1
        assert 1e-3 < max(in_floats.values()) <= 1


def test_a_stranger_who_errs_is_caught(folders, monkeypatch):
    """The reader's own test: a wrong eps, and a kernel that is flipped."""
    right = pack_reader.Network.batch_norm

    def wrong_eps(self, x, mean, var, gamma, beta, eps):
        return right(self, x, mean, var, gamma, beta, 1e-3)

    monkeypatch.setattr(pack_reader.Network, "batch_norm", wrong_eps)
    shares = judged(folders / "tiny.train", "chain", pack_reader.float32)
    assert next(name for name, share in shares.items() if share > 1) == "stem.conv_kxk.bn"


def test_the_readme_says_what_the_pack_is(tiny):
    text = (tiny / "README.md").read_text("utf-8")
    assert text.startswith("# A conformance pack: tiny, train form, level block")
    assert "{" not in text.replace('{"dtype"', "").replace("_{", "")
    for name in [path.name for path in tiny.iterdir() if path.name != "README.md"]:
        assert f"`{name}`" in text
    ops = {step["op"] for step in json.loads((tiny / "manifest.json").read_bytes())["steps"]}
    assert all(f"**{op}**" in text for op in ops)


# --- Its bytes ------------------------------------------------------------------------------------

SUMS = {
    "tiny": {
        "bounds.safetensors": "c4e88c0f3a921cfc",
        "tensors.safetensors": "e4439b1fdaeb483e",
        "weights.deploy.safetensors": "10bc77301afeda74",
        "weights.train.safetensors": "aa7de1d422bbd5cc",
    },
    "tiny_g2": {
        "bounds.safetensors": "963f6c6880defc4f",
        "tensors.safetensors": "22149bbb13b089e0",
        "weights.deploy.safetensors": "d98fc5afae3ed316",
        "weights.train.safetensors": "d5312eec9bc1448c",
    },
    "tiny_se": {
        "bounds.safetensors": "d839e44ae4976073",
        "tensors.safetensors": "6f5fc17483587ac3",
        "weights.deploy.safetensors": "def1e4127b10d5e4",
        "weights.train.safetensors": "063fec9709f4d084",
    },
    "tiny_plus": {
        "bounds.safetensors": "9a0a82236d8da7f1",
        "tensors.safetensors": "eaf2e53f1cd48d43",
        "weights.deploy.safetensors": "bb70734737ae7cb6",
        "weights.train.safetensors": "d0eff3f2c779633b",
    },
    "tiny_dilated": {
        "bounds.safetensors": "4dc15377dbbb35f2",
        "tensors.safetensors": "bbe1053a9d9175ae",
        "weights.deploy.safetensors": "5cb7fedf22524397",
        "weights.train.safetensors": "1de89f2b030a4811",
    },
}  # fmt: skip
"""The first sixteen digits of SHA-256, of packs of their own seeds: level op, size 10, train."""


@pytest.mark.parametrize("name", TINY)
def test_every_byte_follows_from_the_seed(folders, name):
    folder = folders / f"{name}.train"
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    got = [hashlib.sha256((folder / file).read_bytes()).hexdigest()[:16] for file in files]
    assert dict(zip(files, got, strict=True)) == SUMS[name]


def test_the_processor_has_no_say(folders, tmp_path):
    """Without the vector units that NumPy found, and with BLAS's kernels for another processor."""
    code = (
        "from npvgg.testing import conformance_pack; import sys;"
        "conformance_pack('tiny_se', level='op', size=10).write(sys.argv[1])"
    )
    core = np._core if hasattr(np, "_core") else np.core  # NumPy 1.26
    disabled = " ".join(core._multiarray_umath.__cpu_dispatch__)
    environment = {
        **os.environ, "OPENBLAS_CORETYPE": "NEHALEM", "NPY_DISABLE_CPU_FEATURES": disabled
    }  # fmt: skip
    run = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "pack")]
    subprocess.run(run, env=environment, check=True)
    for path in (folders / "tiny_se.train").iterdir():
        assert (tmp_path / "pack" / path.name).read_bytes() == path.read_bytes(), path.name


def test_another_seed_is_another_pack():
    one, other = conformance_pack("tiny", seed=0), conformance_pack("tiny", seed=1)
    for name in ("input", "logits"):
        assert (one.tensor(name) != other.tensor(name)).all()


def test_the_numbers_of_a_seed_are_those_of_splitmix():
    """In Python's integers, as the README says."""
    state = int.from_bytes(hashlib.sha256(b"7:stem.conv_kxk.conv.weight").digest()[:8], "little")
    want, mask = [], 2**64 - 1
    for i in range(6):
        z = (state + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        want.append(-0.5 + 2.5 * ((z >> 11) * 2.0**-53))
    got = seeded.uniform(7, "stem.conv_kxk.conv.weight", (3, 2), -0.5, 2.0)
    np.testing.assert_array_equal(got.ravel(), np.array(want, np.float32))


# --- In Python ------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_what_is_read_is_what_was_written(tmp_path, form, level):
    pack = conformance_pack("tiny_g2", form=form, level=level)
    pack.write(tmp_path / "pack")
    read = Pack.read(tmp_path / "pack")
    sums = read.manifest["files"]
    assert (read.probes, {**pack.manifest, "files": sums}) == (pack.probes, read.manifest)
    for name in [probe.name for probe in pack.probes]:
        for of in (Pack.tensor, Pack.bound, Pack.local_bound):
            np.testing.assert_array_equal(of(read, name), of(pack, name))
            assert of(read, name).shape == pack.probe(name).shape
    for each in ("train", "deploy"):
        same(read.network(each), pack.network(each))
    assert (read.network().form, read.network().dtype) == (form, np.float64)
    read.write(tmp_path / "again")
    for path in (tmp_path / "pack").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def same(a, b):
    for one, other in zip(build.flatten(a).items(), build.flatten(b).items(), strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


def test_a_pack_of_folded_weights_has_no_branches(tmp_path):
    model = npvgg.create_model("repvgg_a0", width_factor=0.1, engine="reference")
    pack = Pack.of(model, np.ones((1, 3, 9, 9)))
    pack.write(tmp_path / "pack")
    assert not (tmp_path / "pack" / "weights.train.safetensors").exists()
    same(Pack.read(tmp_path / "pack").network(), model.network)
    with pytest.raises(ArgumentError, match=r"^form: expected one of deploy, got 'train'"):
        pack.network("train")
    with pytest.raises(ArgumentError, match="form: expected deploy: these weights are folded"):
        Pack.of(model, np.ones((1, 3, 9, 9)), form="train")


def test_its_weights_are_a_file_like_any_other(tiny):
    pack = Pack.read(tiny)
    for form in ("train", "deploy"):
        path = tiny / f"weights.{form}.safetensors"
        model = npvgg.create_model(weights=path, reparameterize=False, engine="reference")
        assert (model.name, model.form, model.config) == ("tiny", form, pack.config)
        error = np.abs(model(pack.tensor("input")).astype(np.float64) - pack.tensor("logits"))
        assert (error <= pack.bound("logits")).all()


def test_a_pretrained_network_and_a_photo(tmp_path):
    pack = conformance_pack("repvgg_nano.cifar10", image=CAT, size=32)
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, engine="reference")
    transform = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(model))
    x = transform(CAT)[None]
    np.testing.assert_array_equal(pack.tensor("input"), x)
    assert pack.tensor("logits").argmax() == model(x).argmax() == 3
    assert pack.manifest["weights"] == {"pretrained": "repvgg_nano.cifar10"}
    origin = pack.manifest["input"]
    assert origin["photo"] == "chelsea.png"
    assert origin["sha256"] == hashlib.sha256(CAT.read_bytes()).hexdigest()
    assert origin["transform"]["input_size"] == [3, 32, 32]


@pytest.mark.parametrize(
    ("network", "options"),
    [("tiny_se", {}), ("tiny", {"attn_layer": "eca"}), ("tiny", {"attn_layer": "cbam"})],
)
def test_the_pages_rule_makes_the_weights(tmp_path, network, options):
    """The ranges are read off the page, in its order: the first row that fits a name counts."""
    conformance_pack(network, seed=3, **options).write(tmp_path / "pack")
    text = (tmp_path / "pack" / "README.md").read_text("utf-8").replace("−", "-")
    rows = [line.split("|")[1:3] for line in text.split("| low … high |")[1].splitlines()[2:18]]
    ranges = [(re.findall("`([^`]+)`", name), interval.split(" … ")) for name, interval in rows]
    convs, others = (float(re.search(r"a = √\(([0-9.]+) /", row[1])[1]) for row in rows[1:3])
    blocks = tuple(ranges[1][0][:2])
    assert len(ranges) == 16
    assert blocks == ("conv_kxk.conv.weight", "conv_1x1.conv.weight")
    files = {"tensors.safetensors": ["input"], "weights.train.safetensors": None}
    for file, names in files.items():
        arrays = safetensors.numpy.load_file(tmp_path / "pack" / file)
        for name in names or arrays:
            array, low_high = arrays[name], None
            if name != "input" and array.ndim > 1:
                scale = convs if name.endswith(blocks) else others
                high = np.sqrt(scale / np.prod(array.shape[1:]))
                low_high = (-high, high)
            for endings, (low, high) in ranges[:1] + ranges[3:]:
                if low_high is None and name.endswith(tuple(endings)):
                    low_high = (float(low), float(high))
            want = seeded.uniform(3, name, array.shape, *low_high)
            np.testing.assert_array_equal(array, want)


PHOTO = conformance_pack("tiny", image=CAT)
MEAN, STD = (
    np.array(PHOTO.manifest["input"]["transform"][key], np.float32).reshape(3, 1, 1)
    for key in ("mean", "std")
)
BYTES = np.rint((PHOTO.tensor("input").astype(np.float64) * STD + MEAN) * 255).astype(np.float32)
C = np.float32(255)
K = 1 / (C * STD)


@pytest.mark.parametrize(
    "x",
    [
        (BYTES / C - MEAN) / STD,
        (BYTES * (1 / C) - MEAN) / STD,
        (BYTES * (1 / C) - MEAN) * (1 / STD),
        BYTES * K + -MEAN / STD,
        BYTES * K - MEAN * (1 / STD),
        (BYTES - C * MEAN) / (C * STD),
        (BYTES - C * MEAN) * K,
        BYTES / (C * STD) - MEAN / STD,
        (BYTES / 255.0 - MEAN.astype(np.float64)) / STD,
    ],
)
def test_a_photo_may_be_normalised_in_any_order(x):
    x = x.astype(np.float32)
    error = np.abs(x.astype(np.float64) - PHOTO.tensor("input"))
    assert (error <= PHOTO.bound("input")).all()
    assert (error <= PHOTO.local_bound("input")).all()
    for form in ("train", "deploy"):
        network = PHOTO.network(form).astype(np.float32)
        model = npvgg.RepVGG("tiny", PHOTO.config, network, {}, engine="reference")
        report = compare(lambda _, m=model: {"input": x, "logits": m(x)}, PHOTO, diagnosis=False)
        assert report.ok, str(report)


@pytest.mark.parametrize(
    "x",
    [
        (BYTES / 256 - MEAN) / STD,
        (BYTES / C - np.round(MEAN, 2)) / STD,
        (BYTES / C - MEAN) / STD.mean(),
        ((BYTES + (BYTES.max() == BYTES)) / C - MEAN) / STD,
        ((BYTES / C - MEAN) / STD).astype(np.float16).astype(np.float32),
    ],
)
def test_a_photo_that_is_normalised_wrongly_is_out_of_bounds(x):
    report = compare({"input": x, "stem": PHOTO.tensor("stem")}, PHOTO, diagnosis=False)
    assert report.first_wrong.name == "input"


def test_the_bound_of_a_photo_is_that_of_its_docstring():
    p, m, s = (a.astype(np.float64) for a in (BYTES[0], MEAN, STD))
    want = 14 * U * (p / 255 + m) / s
    got = PHOTO.bound("input")[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2 * U)
    noise = conformance_pack("tiny", seed=1)
    assert (noise.bound("input") <= U * np.abs(noise.tensor("input"))).all()
    assert (PHOTO.bound("stem") > 1.1 * Pack.of(
        _model_of(PHOTO), PHOTO.tensor("input"), form="train").bound("stem")).any()  # fmt: skip


def _model_of(pack):
    return npvgg.RepVGG(
        "tiny", pack.config, pack.network().astype(np.float32), {}, engine="reference"
    )


def test_the_weights_of_a_file(tmp_path):
    model = npvgg.create_model("repvgg_a0", width_factor=0.1, reparameterize=False, num_classes=7)
    model.save(tmp_path / "a.safetensors", dtype="float64")
    pack = conformance_pack(None, weights=tmp_path / "a.safetensors", size=9, form="deploy")
    same(pack.network("train"), model.network.astype(np.float64))
    assert pack.manifest["weights"]["file"] == "a.safetensors"
    assert pack.manifest["form"] == "deploy"
    assert pack.tensor("logits").shape == (1, 7)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"model": "tiny_g3"}, "name: expected a known network, got 'tiny_g3'"),
        ({"model": None}, "model: expected a name, or weights; got neither"),
        ({"model": "tiny", "weights": CAT}, "with weights, got tiny"),
        ({"level": "layer"}, "level: expected one of block, branch, op, got 'layer'"),
        ({"form": "folded"}, "form: expected one of train, deploy, got 'folded'"),
        ({"seed": -1}, "seed: expected an integer of 0 … 2**63 − 1, got -1"),
        ({"seed": True}, "seed: expected"),
        ({"size": 0}, "size: expected a positive integer, got 0"),
        ({"image": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_what_cannot_be_made_is_refused(keywords, says):
    with pytest.raises(npvgg.NpvggError) as error:
        conformance_pack(**keywords)
    assert says in str(error.value)


def test_maps_that_overflow_float32_make_no_pack():
    with pytest.raises(WeightsError, match=r"stem.*overflow float32"):
        Pack.of(_with_scale(3e38), np.full((1, 3, 8, 8), 1e5, np.float32))


def _with_scale(scale):
    tensors = seeded.tensors(TINY["tiny"], 0)
    tensors["stem.conv_kxk.bn.weight"] = np.full(8, scale, np.float32)
    network = build.build_network(tensors, TINY["tiny"])
    return npvgg.RepVGG("tiny", TINY["tiny"], network, {}, engine="reference")


# --- Reading what others may have changed ---------------------------------------------------------


def damage(folder, file, change):
    """Change a file of a pack, and have the manifest vouch for it."""
    path = folder / file
    path.write_bytes(change(path.read_bytes()))
    if file == "manifest.json":
        return
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][file] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def in_manifest(**changes):
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


def arrays(change):
    """Change the arrays of a safetensors file."""

    def changed(data):
        names = safetensors.numpy.load(data)
        change(names)
        return safetensors.numpy.save(names)

    return changed


def setting(name, value):
    return arrays(lambda names: names.update({name: value(names.get(name))}))


def drop_a_tensor(data):
    manifest = json.loads(data)
    return json.dumps({**manifest, "tensors": manifest["tensors"][:-1]}).encode()


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("manifest.json", lambda data: b"\xff", "manifest.json: expected JSON in UTF-8"),
        ("manifest.json", lambda data: b"[]", "expected a JSON object"),
        ("manifest.json", lambda data: b"{}", '"format": "npvgg-conformance"'),
        ("manifest.json", lambda data: b"[" * 10**5, "a nesting of at most 32"),
        ("manifest.json", in_manifest(format="other"), '"format": "npvgg-conformance"'),
        ("manifest.json", in_manifest(version=2), "expected version 1, got 2"),
        ("manifest.json", in_manifest(form="both"), "form: expected one of"),
        ("manifest.json", in_manifest(form=[]), "form: expected one of"),
        ("manifest.json", in_manifest(level=None), "level: expected one of"),
        ("manifest.json", in_manifest(files=[]), "files: expected an object"),
        ("manifest.json", in_manifest(files={}), "expected the file that manifest.json was for"),
        ("manifest.json", in_manifest(tensors=3), "tensors: expected a list"),
        ("manifest.json", in_manifest(model=3), "model: expected a text"),
        ("manifest.json", in_manifest(config={"depths": [1]}), "config: expected that"),
        ("manifest.json", in_manifest(config=None), "config: expected that of a network"),
        ("manifest.json", in_manifest(level="op"), "tensors: expected those of this network"),
        ("manifest.json", drop_a_tensor, "tensors: expected those of this network"),
        ("tensors.safetensors", setting("x", lambda _: np.ones(1, "f")), "expected those of this"),
        ("tensors.safetensors", setting("pool", lambda a: a * np.nan), "expected finite values"),
        ("tensors.safetensors", setting("pool", lambda a: a[:, :-1]), "expected shapes that agree"),
        ("tensors.safetensors", setting("pool", np.float64), "expected float32 numbers"),
        ("manifest.json", in_manifest(model="\x1b[31m"), "model: expected a text"),
        ("manifest.json", in_manifest(model="x" * 10**4), "model: expected a text"),
        ("bounds.safetensors", setting("chain.pool", np.negative), "no bound below 0"),
        ("bounds.safetensors", setting("local.pool", lambda a: a * np.inf), "expected finite"),
        ("bounds.safetensors", arrays(lambda names: names.pop("local.pool")), "bounds: expected"),
        ("weights.train.safetensors", lambda data: data[:-4], "weights.train.safetensors"),
        ("weights.train.safetensors", arrays(lambda names: names.popitem()), "1 missing"),
    ],
)  # fmt: skip
def test_a_damaged_pack_is_refused(tiny, file, change, says):
    damage(tiny, file, change)
    with pytest.raises(WeightsError) as error:
        Pack.read(tiny)
    assert says in str(error.value)
    assert str(error.value).startswith(str(tiny))


@pytest.mark.parametrize("file", ["tensors.safetensors", "weights.deploy.safetensors"])
def test_a_changed_byte_is_seen(tiny, file):
    data = bytearray((tiny / file).read_bytes())
    data[-1] ^= 1
    (tiny / file).write_bytes(data)
    with pytest.raises(
        WeightsError, match=rf"{file}: expected the file that manifest.json was for"
    ):
        Pack.read(tiny)
    (tiny / file).unlink()
    with pytest.raises(WeightsError, match=rf"{file}: No such file"):
        Pack.read(tiny)


def test_a_name_that_is_not_there(tiny):
    pack = Pack.read(tiny)
    for of in (pack.tensor, pack.bound, pack.local_bound, pack.probe):
        with pytest.raises(ArgumentError, match=r"name: expected one of .*logits.*, got 'steam'"):
            of("steam")


# --- Writing --------------------------------------------------------------------------------------


def test_nothing_that_is_there_is_lost(tiny, tmp_path):
    pack = conformance_pack("tiny_se")
    with pytest.raises(ArgumentError, match=r"is there; .*--force"):
        pack.write(tiny)
    assert Pack.read(tiny).manifest["model"] == "tiny"
    pack.write(tiny, overwrite=True)
    assert Pack.read(tiny).manifest["model"] == "tiny_se"
    (tiny / "mine.txt").write_text("of great value")
    for folder in (tiny, tmp_path):
        with pytest.raises(ArgumentError, match="is there and no pack; it is not replaced"):
            pack.write(folder, overwrite=True)
    assert (tiny / "mine.txt").read_text() == "of great value"
    assert os.listdir(tmp_path) == ["tiny"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    pack = conformance_pack("tiny")
    pack.write(tmp_path / "old")

    def fail(path, *args, **kwargs):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        return real(path, *args, **kwargs)

    real = files.atomic_write
    monkeypatch.setattr(files, "atomic_write", fail)
    for name, force in (("new", False), ("old", True)):
        with pytest.raises(WeightsError, match="No space left"):
            pack.write(tmp_path / name, overwrite=force)
    assert os.listdir(tmp_path) == ["old"]
    Pack.read(tmp_path / "old")


def test_the_old_pack_comes_back_where_the_new_cannot_take_its_place(tmp_path, monkeypatch):
    pack = conformance_pack("tiny")
    pack.write(tmp_path / "pack")
    real = os.rename
    monkeypatch.setattr(files, "_exchanged", lambda a, b: False)

    def fail(source, target):
        if target == tmp_path / "pack" and (source / "new").exists():
            raise OSError(5, "Input/output error")
        return real(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.write_folder(
            tmp_path / "pack",
            {"new": b""},
            overwrite=True,
            replaces={".json", ".md", ".safetensors"},
        )
    assert os.listdir(tmp_path) == ["pack"]
    Pack.read(tmp_path / "pack")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names in one step")
def test_a_pack_is_replaced_in_one_step(tmp_path, monkeypatch):
    conformance_pack("tiny").write(tmp_path / "pack")
    (tmp_path / "link").symlink_to("pack")
    monkeypatch.setattr(os, "rename", None)  # nothing is moved aside
    conformance_pack("tiny_se").write(tmp_path / "pack", overwrite=True)
    assert Pack.read(tmp_path / "pack").manifest["model"] == "tiny_se"
    conformance_pack("tiny_g2").write(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert Pack.read(tmp_path / "pack").manifest["model"] == "tiny_g2"
    assert sorted(os.listdir(tmp_path)) == ["link", "pack"]


# --- The command ----------------------------------------------------------------------------------


def test_the_command_writes_what_python_makes(tmp_path, capsys):
    arguments = ["--model", "tiny_se", "--seed", "3", "--level", "branch", "--form", "deploy"]
    out = tmp_path / "out"
    assert main(["conformance", str(out), *arguments, "--size", "12"]) == 0
    want = conformance_pack("tiny_se", seed=3, level="branch", form="deploy", size=12)
    want.write(tmp_path / "want")
    for path in (tmp_path / "want").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    said = capsys.readouterr()
    assert said.out == ""
    assert "tiny_se in deploy form, 18 tensors of level branch" in said.err
    assert main(["conformance", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["conformance", str(out), "--force", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert Pack.read(out).manifest["model"] == "tiny"


def test_bounds_for_winograd_are_wider_and_say_so(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["conformance", str(out), "--winograd", "4", "--quiet"]) == 0
    wide, plain = Pack.read(out), conformance_pack("tiny")
    assert (wide.manifest["tolerances"]["winograd"], plain.manifest["tolerances"]["winograd"]) == (
        4,
        0,
    )
    for name in ("stem", "logits"):
        np.testing.assert_array_equal(wide.tensor(name), plain.tensor(name))
        assert wide.bound(name).max() > plain.bound(name).max()
    assert main(["conformance", str(tmp_path / "no"), "--winograd", "1"]) == 2
    assert "winograd: expected 0 or 2 … 6, got 1" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_photo_may_be_given_and_an_odd_seed_may_not(tmp_path, capsys):
    arguments = ["--model", "repvgg_nano", "--size", "16", "--input", str(CAT), "--quiet"]
    assert main(["conformance", str(tmp_path / "out"), *arguments]) == 0
    assert Pack.read(tmp_path / "out").manifest["input"]["photo"] == "chelsea.png"
    with pytest.raises(SystemExit):
        main(["conformance", str(tmp_path / "no"), "--seed", "-1"])
    assert "expected an integer of 0 or more, got '-1'" in capsys.readouterr().err


def test_what_holds_many_numbers_is_printed_in_a_line(tiny):
    pack = Pack.read(tiny)
    for value in (pack, pack.network()):
        assert len(repr(value)) < 100


def reshaped(folder, name, shape):
    """Give one tensor of a pack another shape everywhere: in the tensors, bounds and manifest."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for entry in manifest["tensors"]:
        if entry["name"] == name:
            entry["shape"] = list(shape)
    for file, names in (("tensors", [name]), ("bounds", [f"local.{name}", f"chain.{name}"])):
        path = folder / f"{file}.safetensors"
        held = checkpoint.load(path) | {n: np.zeros(shape, np.float32) for n in names}
        checkpoint.save_safetensors(path, held, overwrite=True)
        manifest["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["input", "stem", "stages.1.0", "pool", "logits"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 6), (1, 1, 1, 1), (2, 3, 7, 9), (0, 3, 5, 5)])
def test_tensors_have_the_shapes_that_their_network_gives_them(tiny, name, shape):
    """One cause for seventeen tracebacks: whoever holds a pack may rely on its shapes."""
    reshaped(tiny, name, shape)
    with pytest.raises(WeightsError, match=r"expected (the shape|\(N, C, H, W\)|another number)"):
        Pack.read(tiny)


def test_a_stranger_s_name_is_no_markdown(tmp_path):
    model = npvgg.create_model("repvgg_nano", engine="reference")
    model.name = "<img src=x>[a](b)"
    Pack.of(model, np.zeros((1, 3, 8, 8), np.float32)).write(tmp_path / "pack")
    first = (tmp_path / "pack" / "README.md").read_text().split("\n")[0]
    assert first.startswith(r"# A conformance pack: \<img src\=x\>\[a\]\(b\), ")
