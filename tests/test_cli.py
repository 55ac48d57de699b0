"""The command line as people call it: what it prints, where, and how it ends."""

import csv
import gzip
import io
import json
import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchwriter
from PIL import Image

import npvgg
from npvgg.cli import commands
from npvgg.cli import photos as verbs_of_photos
from npvgg.cli.main import main

CAT = Path(__file__).parent / "photos" / "chelsea.png"


@pytest.fixture
def run(capfdbinary, monkeypatch):
    """Run the command line in this process: (status, stdout, stderr)."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        out, err = capfdbinary.readouterr()
        return status, out, err.decode()

    return run


@pytest.fixture
def photos(tmp_path):
    """A folder with two photos and, between them, a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    (folder / "b.png").write_bytes(b"not a photo")
    return folder


def expected_logits(path):
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True)
    transform = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(model))
    return model(transform(path)[None])


def test_classify_says_what_the_library_says(run):
    status, out, err = run("classify", CAT, "--format", "jsonl", "--topk", 3)
    row = json.loads(out)
    prob, index = npvgg.topk(npvgg.softmax(expected_logits(CAT), axis=1), k=3)
    assert (status, row["path"], row["status"], row["error"]) == (0, str(CAT), "ok", "")
    assert [entry["index"] for entry in row["topk"]] == index[0].tolist()
    assert [entry["prob"] for entry in row["topk"]] == prob[0].tolist()
    assert "1 photo through <RepVGG repvgg_nano.cifar10" in err


@pytest.mark.parametrize(
    ("options", "notes"), [((), []), (("--draft", "9"), ["decoded at 1/4 of 40×36 (draft)"])]
)
def test_draft_is_said_in_the_row_and_never_the_default(run, tmp_path, options, notes):
    Image.new("RGB", (40, 36), "red").save(tmp_path / "a.jpg")
    _, out, _ = run("classify", tmp_path / "a.jpg", "--format", "jsonl", *options)
    assert json.loads(out)["notes"] == notes


def test_the_cat_is_a_cat(run):
    _, out, _ = run("classify", CAT, "--format", "jsonl", "--topk", 1)
    assert json.loads(out)["topk"][0]["label"] == "cat"


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_one_row_per_photo_in_order_and_the_bad_one_in_its_place(run, photos, format):
    status, out, err = run("classify", photos, "--format", format, "--batch-size", 2)
    text = out.decode()
    rows = {
        "json": lambda: json.loads(text),
        "jsonl": lambda: [json.loads(line) for line in text.splitlines()],
        "csv": lambda: list(csv.DictReader(io.StringIO(text))),
    }[format]()
    assert [Path(row["path"]).name for row in rows] == ["a.png", "b.png", "c.png"]
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert "b.png" in rows[1]["error"]
    assert not rows[1].get("topk")
    assert status == 1
    assert "1 of 3 photos could not be read" in err


def test_the_batch_changes_nothing_but_speed(run, photos):
    one, three = (
        run("classify", photos, CAT, "--format", "json", "--batch-size", n)[1] for n in (1, 3)
    )
    assert json.loads(one) == json.loads(three)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [([], [16, 4]), (["--batch-size", 7], [7, 7, 6]), (["--engine", "reference"], [1] * 20)],
)
def test_a_folder_goes_in_slices_but_where_bits_depend_on_them(run, monkeypatch, options, sizes):
    seen = []
    call = npvgg.model.RepVGG.__call__
    monkeypatch.setattr(
        npvgg.model.RepVGG, "__call__", lambda self, x: (seen.append(len(x)), call(self, x))[1]
    )
    assert run("classify", *[CAT] * 20, *options)[0] == 0
    assert seen == sizes


def test_standard_input_and_patterns_are_photos_too(run, photos):
    status, out, _ = run(
        "classify", "-", photos / "[ac].png", "--format", "jsonl", stdin=CAT.read_bytes()
    )
    names = [Path(json.loads(line)["path"]).name for line in out.splitlines()]
    assert (status, names) == (0, ["-", "a.png", "c.png"])


def test_what_cannot_be_found_keeps_its_place(run, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, _ = run(
        "classify", tmp_path / "absent.png", tmp_path / "empty", tmp_path / "*.jpg", CAT,
        "--format", "jsonl",
    )  # fmt: skip
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["status"] for row in rows] == ["error", "error", "error", "ok"]
    assert status == 1


def test_where_no_thread_can_be_started_that_is_said(run, monkeypatch):
    def starve(args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(verbs_of_photos, "classify", starve)
    status, out, err = run("classify", CAT)
    assert (status, out) == (2, b"")
    assert err.startswith("npvgg: error: no thread can be started")


def test_an_argument_without_photos_is_said_and_counts_as_none(run, tmp_path):
    empty, output = tmp_path / "empty", tmp_path / "e.npy"
    empty.mkdir()
    status, _, err = run("embed", empty, "--output", output)
    assert (status, np.load(output).shape[0], np.isnan(np.load(output)).all()) == (1, 1, True)
    assert " through " not in err
    assert f"npvgg: {empty}: no photos in this folder\n" in err
    assert "could not be read" not in err

    (tmp_path / "b.png").touch()
    status, _, err = run("embed", empty, tmp_path / "*.gif", CAT, tmp_path / "b.png")
    assert status == 1
    assert "npvgg: 2 photos through" in err
    assert f"npvgg: {tmp_path / '*.gif'}: no file matches this pattern\n" in err
    assert "npvgg: 1 of 2 photos could not be read\n" in err
    assert run("embed", CAT)[2].count("\n") == 1


def test_files_of_a_folder_that_are_skipped_are_told_of(run, photos):
    assert "skipped" not in run("embed", photos)[2]
    for name in ("d.HEIC", "e.heic", "f.mp4", "read\x1bme.t\x1bt", "g", ".hidden"):
        (photos / name).touch()
    (photos / "a.png").rename(photos / "a.jfif")

    status, out, err = run("embed", photos)

    assert [Path(json.loads(row)["path"]).name for row in out.splitlines()] == [
        "a.jfif", "b.png", "c.png",
    ]  # fmt: skip
    assert status == 1
    kinds = r".heic, .mp4, .t\x1bt, no suffix"
    assert f"skipped 5 other files in folders, not known as photos: {kinds}\n" in err
    assert "skipped" not in run("embed", photos, "--quiet")[2]


def test_output_goes_into_a_file_and_never_over_another_unasked(run, tmp_path):
    target = tmp_path / "rows.jsonl"
    assert run("classify", CAT, "--format", "jsonl", "--output", target)[:2] == (0, b"")
    before = target.read_bytes()
    status, _, err = run("classify", CAT, "--format", "jsonl", "--output", target)
    assert status == 2
    assert "--output" in err
    assert "--force" in err
    assert target.read_bytes() == before
    assert run("classify", CAT, "--format", "csv", "--output", target, "--force")[0] == 0
    assert target.read_bytes().startswith(b"path,")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("rows.csv", b"path,"), ("rows.jsonl", b'{"path"'), ("rows.json", b"["),
        ("y.CSV", b"path,"), ("rows.ndjson", b'{"path"'), ("rows.tsv", b"path\tstatus"),
        ("rows.csv.gz", b"\x1f\x8b"),
    ],
)  # fmt: skip
def test_the_suffix_of_the_output_is_its_format(run, tmp_path, name, start):
    assert run("classify", CAT, "--output", tmp_path / name)[:2] == (0, b"")
    assert (tmp_path / name).read_bytes().lstrip().startswith(start)
    assert run("classify", CAT, "--output", tmp_path / "rows.txt")[0] == 0
    assert (tmp_path / "rows.txt").read_text().startswith(str(CAT))


def test_a_frame_and_the_formats_can_be_chosen(run, tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])

    _, out, _ = run("embed", tmp_path / "a.gif", CAT, "--frame", 1, "--formats", "gif,webp")

    second, refused = (json.loads(line) for line in out.splitlines())
    frames[1].save(tmp_path / "b.png")
    alone = json.loads(run("embed", tmp_path / "b.png")[1])
    assert second["notes"] == ["only frame 1 of several read"]
    assert second["embedding"] == alone["embedding"]
    assert "(formats: GIF, WEBP)" in refused["error"]


@pytest.mark.parametrize(
    ("command", "name"), [("classify", "x.npy"), ("classify", "x.NPZ"), ("embed", "x.csv"),
                          ("embed", "x.json"), ("classify", "x.parquet"), ("embed", "x.h5.gz")],
)  # fmt: skip
def test_a_suffix_of_another_commands_format_is_refused_unless_a_format_is_given(
    run, tmp_path, command, name
):
    status, _, err = run(command, CAT, "--output", tmp_path / name)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert f"--output: {command} cannot write {name.lower().split('.')[1]}, expected " in err
    assert "--format" in err
    assert run(command, CAT, "--output", tmp_path / name, "--format", "jsonl")[0] == 0
    data = (tmp_path / name).read_bytes()
    assert (gzip.decompress(data) if name.endswith(".gz") else data).startswith(b'{"path"')


def test_pillow_s_warnings_are_notes_of_their_rows(run, tmp_path):
    """They name no file, and come once for many photos, whatever --quiet says."""
    directory = struct.pack("<HHHLLL", 1, 0x110, 7, 20, 20, 0)  # its 20 bytes are not all there
    for name in "ab":
        exif = b"Exif\0\0II*\0" + struct.pack("<L", 8) + directory
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.jpg", exif=exif)
    status, out, err = run("classify", tmp_path, "--format", "jsonl", "--quiet")
    notes = [json.loads(line)["notes"] for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert len(notes) == 2
    assert notes[0] == notes[1] != []


def test_quiet_is_for_what_is_said_deep_inside_as_well(run, monkeypatch):
    def answer(args):
        logging.getLogger("npvgg").warning("compiling")
        return 0

    monkeypatch.setattr(verbs_of_photos, "classify", answer)
    assert "compiling" in run("classify", CAT)[2]
    assert run("classify", CAT, "--quiet")[2] == ""
    assert "compiling" in run("classify", CAT)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", CAT, "--model", "repvgg_a9"], "repvgg_a0"),
        (["classify", CAT, "--weights", "absent.safetensors"], "absent.safetensors"),
        (["classify", CAT, "--labels", "absent.txt"], "absent.txt"),
        (["classify", CAT, "--engine", "steam"], "engine"),
        (["classify", CAT, "--topk", "0"], "positive"),
        (["classify", CAT, "--alpha", "no-colour"], "alpha"),
        (["classify", CAT, "--frame", "-1"], "--frame: expected an integer of 0 or more"),
        (["classify", CAT, "--formats", "png,eps"], "formats: expected some of"),
        (["classify", CAT, "--output", "/no/such/folder/rows"], "--output"),
        (["features", CAT, "--out-indices", "9"], "indices"),
        (["info", "nothing"], "repvgg"),
        (["classify"], "PATH"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_wrong_argument_ends_with_status_2_and_names_itself(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, b"")
    assert message in err
    assert "Traceback" not in err


def test_own_labels_replace_the_shipped_ones(run, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {i}" for i in range(10)))
    _, out, _ = run("classify", CAT, "--labels", labels, "--format", "jsonl")
    assert all(e["label"] == f"class {e['index']}" for e in json.loads(out)["topk"])


def test_labels_of_another_number_of_classes_are_refused(run, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    status, _, err = run("classify", CAT, "--labels", labels)
    assert status == 2
    assert "expected 10" in err


def test_an_answer_that_is_not_finite_is_an_error_of_its_row(run, tmp_path):
    weights = tmp_path / "huge.safetensors"
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True)
    tensors = {name: np.float32(3e19) * array for name, array in model.state_dict().items()}
    npvgg.create_model("repvgg_nano", weights=tensors).save(weights)
    for command in ("classify", "embed", "features"):
        status, out, _ = run(command, CAT, "--weights", weights, "--format", "jsonl")
        row = json.loads(out, parse_constant=lambda name: pytest.fail(name))
        assert (status, row["status"], row["error"]) == (
            1, "error", "the network's answer is not finite",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", CAT, "--batch-size", "9223372036854775808"], "--batch-size: expected a posi"),
        (["verify", CAT, "--size", "999999999"], "--size: expected a positive integer, 16,384 at"),
        (["classify", CAT, "--weights", ""], "--weights: expected some text, got ''"),
        (["classify", "--null"], "PATH"),
        (["classify", CAT, "-0"], "--null: expected --files-from with it"),
        (["classify", CAT, "--topk", "9" * 5000], "--topk: expected a positive integer"),
        (["classify", CAT, "--files-from", "/absent"], "--files-from: /absent: cannot be read"),
        (["classify", CAT, "--escape-formulas"], "--escape-formulas: only for csv and tsv"),
        (["classify", CAT, "\x1b[31m", "--bogus\x1b[31m"], "--bogus\\x1b[31m"),
    ],
    ids=lambda value: " ".join(map(str, value))[-40:] if isinstance(value, list) else "",
)
def test_impossible_arguments_are_refused_clearly(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, b"")
    assert message in err
    assert "Traceback" not in err
    assert "\x1b" not in err


def test_embed_gives_the_library_s_vectors_in_every_format(run, photos, tmp_path):
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, num_classes=0)
    transform = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(model))
    truth = model(transform(photos / "a.png")[None])[0]

    status, out, _ = run("embed", photos)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    np.testing.assert_array_equal(np.float32(rows[0]["embedding"]), truth)
    assert rows[1]["embedding"] is None

    _, out, _ = run("embed", photos, "--format", "npy")
    array = np.load(io.BytesIO(out))
    assert array.shape == (3, model.num_features)
    np.testing.assert_array_equal(array[0], truth)
    assert np.isnan(array[1]).all()

    run("embed", photos, "--output", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as archive:
        np.testing.assert_array_equal(archive["embeddings"][0], truth)
        assert archive["status"].tolist() == ["ok", "error", "ok"]


def test_features_are_written_a_file_per_photo(run, photos, tmp_path):
    folder = tmp_path / "maps"
    status, out, _ = run(
        "features", photos, "--out-indices", 0, -1, "--output", folder, "--format", "jsonl"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert "file" not in rows[1]
    with np.load(rows[2]["file"]) as maps:
        assert {name: list(maps[name].shape) for name in maps} == rows[2]["maps"]
    assert len(list(folder.iterdir())) == 2
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    arguments = ["features", photos, "--out-indices", 0, "--output", folder, "--format", "jsonl"]
    status, out, err = run(*arguments)
    assert (status, out) == (2, b"")
    assert "--output: 2 of 3 files are there" in err
    status, out, err = run(*arguments, "--skip-existing")
    assert (status, out.count(b"\n")) == (1, 1)
    assert "skipped 2 photos whose maps are there" in err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept
    status, out, _ = run(*arguments, "--force", "--pooled", "--save-dtype", "float16")
    row = json.loads(out.splitlines()[0])
    with np.load(row["file"]) as maps:
        (pooled,) = maps.values()
    status, out, _ = run("features", CAT, CAT, "--output", tmp_path / "2", "--format", "jsonl")
    assert (status, len({json.loads(line)["file"] for line in out.splitlines()})) == (0, 1)
    assert (pooled.dtype, list(pooled.shape)) == (np.float16, row["maps"]["stages.0"])
    assert len(pooled.shape) == 1


@pytest.mark.parametrize(
    "arguments",
    [[CAT, "--out-indices", 0, -1], [CAT, "--out-indices", "0,-1"], ["--out-indices=0,-1", CAT],
     ["--out-indices", "0,-1", "--", CAT], [CAT, "--out-indices=-4,-1"]],
    ids=lambda arguments: " ".join(map(str, arguments)).replace(str(CAT), "CAT"),
)  # fmt: skip
def test_indices_are_separated_by_spaces_or_commas(run, arguments):
    status, out, _ = run("features", "--format", "jsonl", *arguments)
    assert (status, list(json.loads(out)["maps"])) == (0, ["stages.0", "final_conv"])


def test_a_photo_behind_the_indices_is_told_where_it_belongs(run):
    status, _, err = run("features", "--out-indices", "0", "1", CAT)
    assert status == 2
    assert f"--out-indices: expected integers, got '{CAT}'; if that is a photo" in err


def test_info_and_list_print_the_same_counts_for_programs_and_people(run):
    _, out, _ = run("info", "repvgg_a2", "--format", "json")
    counts = json.loads(out)
    assert counts["train"]["parameters"] == 28_210_600
    assert counts["deploy"]["parameters"] == 25_499_944
    assert b"28.2 M parameters, 5.7 GMACs, 6.3 M activations" in run("info", "RepVGG-A2")[1]
    assert run("info")[1] == run("info", "repvgg_nano.cifar10")[1] != b""
    rows = {row["name"]: row for row in json.loads(run("list", "--format", "json")[1])}
    assert rows["repvgg_a2"]["parameters"] == counts["deploy"]["parameters"]
    assert list(rows) == npvgg.list_models()


@pytest.mark.parametrize(("pattern", "verb"), [("xyz", "has in it"), ("*x[yz]", "matches")])
def test_a_list_of_nothing_says_so(run, pattern, verb):
    for format, out in (("json", b"[]\n"), ("table", run("list")[1].splitlines(True)[0])):
        status, printed, err = run("list", pattern, "--format", format)
        assert (status, printed) == (0, out)
        assert f"no network's name {verb} '{pattern}'" in err
    assert run("list", "*_a0")[1].count(b"\n") == 2
    assert run("list", "*_a0")[2] == ""


def test_a_saved_network_needs_no_name(run, tmp_path):
    weights = tmp_path / "w.safetensors"
    npvgg.create_model("repvgg_nano.cifar10", pretrained=True).save(weights)
    saved, bundled = (
        json.loads(run("classify", CAT, "--format", "jsonl", *more)[1])["topk"]
        for more in (["--weights", weights], [])
    )
    assert saved == bundled


def test_the_weights_of_a_checkpoint_are_chosen_and_named(run, tmp_path):
    arrays = npvgg.create_model("repvgg_nano.cifar10", pretrained=True).state_dict()
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    saved = {
        "model": torchwriter.state_dict(arrays),
        "model_ema": torchwriter.state_dict(zeros, 99),
    }
    (tmp_path / "c.pth").write_bytes(torchwriter.zip_file(saved))
    _, out, err = run("classify", CAT, "--weights", tmp_path / "c.pth", "--format", "jsonl")
    assert "npvgg: took the weights under 'model_ema' (not 'model')" in err
    assert json.loads(out)["topk"][0]["prob"] == pytest.approx(0.1)
    more = ["--weights", tmp_path / "c.pth", "--wrapper", "model"]
    _, out, err = run("classify", CAT, *more, "--format", "jsonl")
    assert "npvgg: took the weights under 'model' (not 'model_ema')" in err
    assert json.loads(out)["topk"][0]["index"] == 3  # a cat, but nobody said what classes they are
    assert run("info", *more)[0] == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 GiB"),
        ImportError("lib.so: failed to map segment from sha"),
    ],
)
def test_without_memory_that_is_what_it_says(run, monkeypatch, error):
    def classify(args):
        raise error

    monkeypatch.setattr(verbs_of_photos, "classify", classify)
    status, _, err = run("classify", CAT)
    assert (status, err[:27]) == (2, "npvgg: error: out of memory")


def test_quiet_is_quiet(run):
    assert run("classify", CAT, "--quiet")[2] == ""


@pytest.mark.parametrize("lines", [0, 1])
def test_a_reader_that_leaves_early_is_no_error(lines):
    code = "import sys; from npvgg.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "classify", *[str(CAT)] * 50, "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
    assert lines or process.returncode == 2  # after a line, all may have been written in time
    assert "Traceback" not in err
    assert "Exception" not in err


@pytest.mark.parametrize(
    ("format", "path_of"),
    [
        ("table", lambda text: text.partition("\n  ")[0]),
        ("json", lambda text: json.loads(text)[0]["path"]),
        ("csv", lambda text: next(csv.DictReader(io.StringIO(text)))["path"]),
    ],
    ids=["table", "json", "csv"],
)
def test_odd_file_names_do_not_break_the_output(run, tmp_path, format, path_of):
    name = os.fsencode(tmp_path) + b"/\xff\nodd.png"
    Path(os.fsdecode(name)).write_bytes(CAT.read_bytes())
    status, out, _ = run("classify", os.fsdecode(name), "--format", format)
    path = path_of(out.decode())
    assert status == 0
    assert path.startswith(str(tmp_path))
    assert path.endswith("odd.png")


def test_every_command_says_what_it_does(capsys):
    (verbs,) = (a for a in commands.parser()._actions if a.dest == "command")
    assert len(verbs.choices) > 10
    for name, parser in verbs.choices.items():
        assert (parser.description or "").endswith("."), name


def test_python_dash_m_works_and_prints_the_version():
    done = subprocess.run([sys.executable, "-m", "npvgg", "--version"], capture_output=True)
    assert done.stdout.decode().split() == ["npvgg", npvgg.__version__]


def test_warmup_compiles_and_says_where_the_kernels_are(capsys):
    assert main(["warmup"]) == 0
    out, err = capsys.readouterr()
    assert not out
    assert "ready after" in err
    assert "kept in" in err


def test_where_maps_cannot_go_is_said(run, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = run("features", CAT, "--output", tmp_path / "file")
    assert status == 2
    assert "--output: expected a folder, got the file" in err


def test_what_looks_like_a_command_to_a_terminal_is_printed_as_text(run, tmp_path):
    name = tmp_path / "red\x1b[31m.png"
    name.write_bytes(CAT.read_bytes())
    out = run("classify", name)[1].decode()
    assert "\x1b" not in out
    assert "red\\x1b[31m.png" in out


def test_a_wrong_network_is_no_fault_of_the_file(run, tmp_path):
    path = tmp_path / "nano.safetensors"
    npvgg.create_model("repvgg_nano", pretrained=True).save(path)
    assert run("inspect", path, "--model", "bogus")[0] == 2
    status, out, _ = run("inspect", path, "--model", "repvgg_a0", "--format", "json")
    assert status == 1
    assert json.loads(out)["network"] is None
