"""Files that results go into: whole or under a partial name, one writer each, in many formats."""

import csv
import gzip
import io
import json
import os
import sys
import threading

import numpy as np
import pytest

from npvgg.cli import arrays, output, photos, rows
from npvgg.cli.inputs import Photo
from npvgg.errors import ArgumentError
from npvgg.pipeline import Result

COLUMNS = ["path", "status", "error"]
ROWS = [{"path": name, "status": "ok", "error": ""} for name in "abc"]


def interrupted(items, after=2):
    for count, item in enumerate(items):
        if count == after:
            raise KeyboardInterrupt
        yield item


def write(target, pieces, ending=None, *, overwrite=False):
    with output.opened(str(target), overwrite=overwrite) as place:
        place.ending = ending
        output.send(pieces, place)


def refused(target, match, *, overwrite=False):
    with pytest.raises(ArgumentError, match=match):
        write(target, [b"x"], overwrite=overwrite)


def read_csv(data, delimiter=","):
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("rows.jsonl", lambda data: [json.loads(line) for line in data.splitlines()]),
        ("rows.json", json.loads),
        ("rows.json.gz", lambda data: json.loads(gzip.decompress(data))),
        ("rows.csv.gz", lambda data: read_csv(gzip.decompress(data))),
        ("rows.tsv", lambda data: read_csv(data, "\t")),
    ],
)  # fmt: skip
def test_what_was_finished_is_kept_and_can_be_read(tmp_path, name, read, caplog):
    format = name.split(".")[1]
    pieces = (text.encode() for text in rows.FORMATS[format](interrupted(ROWS), COLUMNS))
    tail = rows.JSON_END.encode() if format == "json" else b""
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / name, pieces, lambda done: (b"", tail))
    (kept,) = names(tmp_path)
    assert kept == name.replace(".", ".partial.", 1)
    assert read((tmp_path / kept).read_bytes()) == ROWS[:2]
    assert caplog.messages == [f"what was finished is kept in {tmp_path / kept}"]


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_vectors_that_were_finished_are_kept_as_npy(tmp_path, suffix, after):
    listed = [Photo(name) for name in "abc"]
    vectors = [Result(Photo(name), np.full(4, i, np.float32)) for i, name in enumerate("abc")]
    as_file = arrays.as_npy if suffix == "npy" else arrays.as_npz
    pieces = as_file(interrupted(vectors, after), listed, 4, "float32")
    ending = photos._npy_ending(4, "float32") if suffix == "npy" else None
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / f"e.{suffix}", pieces, ending)
    if suffix == "npz" or not after:
        assert names(tmp_path) == []
        return
    np.testing.assert_array_equal(
        np.load(tmp_path / "e.partial.npy"), [[0] * 4, [1] * 4], strict=False
    )


def test_npz_is_written_as_it_comes_and_holds_every_text(tmp_path):
    listed = [Photo("a"), Photo("long name \udcff"), Photo("c")]
    outcomes = [
        Result(Photo("a"), np.arange(3.0)), Result(Photo("long name \udcff"), error="broken"),
        Result(Photo("c"), np.ones(3), notes=("a note",)),
    ]  # fmt: skip
    pieces = list(arrays.as_npz(outcomes, listed, 3, "float64"))
    assert sum(bool(piece) for piece in pieces) > 3
    with np.load(io.BytesIO(b"".join(pieces))) as archive:
        assert archive["path"].tolist() == [photo.path for photo in listed]
        assert archive["status"].tolist() == ["ok", "error", "ok"]
        assert archive["error"].tolist() == ["", "broken", ""]
        np.testing.assert_array_equal(archive["embeddings"], [[0, 1, 2], [np.nan] * 3, [1, 1, 1]])


def test_of_two_runs_with_one_target_the_second_is_refused_at_once(tmp_path):
    target = str(tmp_path / "rows.csv")
    with output.opened(target, overwrite=False) as first:
        for overwrite in (False, True):
            refused(target, r"--output: another run is writing .*partial", overwrite=overwrite)
        first.write(b"mine")
    assert (tmp_path / "rows.csv").read_bytes() == b"mine"
    assert names(tmp_path) == ["rows.csv"]


def test_the_rows_of_an_earlier_run_are_not_overwritten_unasked(tmp_path):
    target, partial = tmp_path / "rows.csv", tmp_path / "rows.partial.csv"
    partial.write_bytes(b"an hour's work")
    with (
        pytest.raises(
            ArgumentError, match=r"rows.partial.csv holds what an earlier run .* --force"
        ),
        output.opened(str(target), overwrite=False),
    ):
        pass
    assert partial.read_bytes() == b"an hour's work"
    with output.opened(str(target), overwrite=True) as place:
        place.write(b"new")
    assert (names(tmp_path), target.read_bytes()) == (["rows.csv"], b"new")
    partial.touch()  # a run that was killed at once
    target.unlink()
    write(target, [b"again"])
    assert names(tmp_path) == ["rows.csv"]


@pytest.mark.parametrize("stem", ["x" * 251, "ä" * 125, "." + "x" * 250])
def test_a_name_may_be_as_long_as_the_system_lets_it_be(tmp_path, stem):
    target = tmp_path / f"{stem}.csv"
    with output.opened(str(target), overwrite=False) as place:
        place.write(b"row")
        (partial,) = names(tmp_path)
        assert partial.endswith(".partial.csv")
        refused(target, "another run is writing")
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize(
    ("name", "force", "said"),
    [
        ("there", False, "--html: .*there exists; --force replaces it"),
        ("folder", True, "--html: .*folder is a folder"),
        ("no/page", False, "--html: .* cannot be written: there is no folder .*no"),
        ("link/page", False, "--html: .* there is no folder"),
        (os.devnull, True, "expected a file to replace, got a device"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, name, force, said):
    (tmp_path / "there").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ArgumentError, match=said):
        output.check_vacant("--html", str(tmp_path / name), force=force)
    for fine, forced in (("new", False), ("there", True), ("link", True)):
        output.check_vacant("--html", str(tmp_path / fine), force=forced)
    output.check_vacant("--html", None, force=False)


@pytest.mark.parametrize("hostile", ["link", "fifo"])
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")
def test_a_link_or_pipe_under_the_partial_name_is_refused(tmp_path, hostile):
    partial = tmp_path / "rows.partial.csv"
    (tmp_path / "victim").write_bytes(b"precious")
    partial.symlink_to("victim") if hostile == "link" else os.mkfifo(partial)
    refused(tmp_path / "rows.csv", "--output: ", overwrite=True)
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX only")
def test_a_pipe_is_written_in_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "pipe", [b"row"])
    reader.join(20)
    assert (got, names(tmp_path)) == ([b"row"], ["pipe"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX only")
def test_a_pipe_that_nobody_reads_yet_is_waited_for_and_that_is_said(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    said, readers = [], []

    def say(text, path):
        said.append(text % path)  # somebody comes, at last
        readers.append(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK))

    monkeypatch.setattr(output.log, "error", say)
    write(tmp_path / "pipe", [b"row"])
    assert said == [f"--output: {tmp_path}/pipe is a pipe: waiting for a program that reads it"]
    assert os.read(readers[0], 99) == b"row"
    os.close(readers[0])
    write("/dev/null", [b"row"])  # a device takes it at once
    assert len(said) == 1


def test_csv_quotes_what_ends_a_line_and_escapes_formulas_on_request():
    values = ["a\rb", 'say "x"', "=1+1", "@x", "-2", " pad", ""]
    for delimiter, as_text in ((",", rows.as_csv), ("\t", rows.as_tsv)):
        for formulas in (True, False):
            table = [{"path": v, "n": -2.5} for v in values]
            text = "".join(as_text(table, ["path", "n"], formulas=formulas))
            got = read_csv(text.encode(), delimiter)
            sign = "" if formulas else "'"
            assert [row["path"] for row in got] == [
                (sign + v if v[:1] in ("=", "@", "-") else v) for v in values
            ]
            assert {row["n"] for row in got} == {"-2.5"}


def test_a_file_name_that_is_no_utf8_can_be_mapped_back():
    path = os.fsdecode(b"/x/\xff,odd.png")
    row = rows.path_columns(path)
    assert os.fsdecode(bytes.fromhex(row["path_hex"])) == path
    assert rows.path_columns("/x/ä\U0001f600.png") == {"path": "/x/ä\U0001f600.png"}
    assert json.loads("".join(rows.as_jsonl([row], ())))["path"] == path


def test_maps_are_named_after_the_photo_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, there = Photo("a.png", tmp_path / "a.png"), Photo("b/a.png", tmp_path / "b/a.png")
    absolute = Photo(str(tmp_path / "a.png"), tmp_path / "a.png")
    assert arrays.maps_path("o", here) == arrays.maps_path("o", absolute)
    assert arrays.maps_path("o", here) != arrays.maps_path("o", there)
    assert arrays.maps_path("o", Photo("-", b"1")) != arrays.maps_path("o", Photo("-", b"2"))
    assert "/" not in arrays.maps_path("o", Photo("..", tmp_path))[2:]


def test_no_file_is_begun_once_the_process_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "_claiming", threading.Lock())
    assert output.leave(1) == []
    begun = threading.Thread(target=write, args=(tmp_path / "rows.csv", [b"x"]), daemon=True)
    begun.start()
    begun.join(0.2)
    assert (begun.is_alive(), names(tmp_path)) == (True, [])  # it waits for ever
    output._claiming.release()
    begun.join(20)
    assert names(tmp_path) == ["rows.csv"]
