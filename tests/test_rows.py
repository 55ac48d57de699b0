"""Rows as text, and the count of a long run."""

import glob
import io
import json
import os

import pytest
from PIL import Image

from npvgg.cli import inputs, progress, rows
from npvgg.cli.inputs import SUFFIXES, expand
from npvgg.errors import ArgumentError
from npvgg.images.opening import FORMATS

ROW = {"path": "a,\"b", "status": "ok", "error": "", "notes": ["x", "y"],
       "topk": [{"index": 3, "label": "cat, domestic", "prob": 0.5}]}  # fmt: skip
COLUMNS = ["path", "status", "error", "notes", "index_1", "label_1", "prob_1"]


def test_json_of_no_rows_is_an_empty_array():
    assert json.loads("".join(rows.as_json([], ()))) == []
    assert json.loads("".join(rows.as_json([ROW, ROW], ()))) == [ROW, ROW]


def test_csv_has_a_header_even_without_rows_and_quotes_what_it_must():
    assert "".join(rows.as_csv([], COLUMNS)) == ",".join(COLUMNS) + "\n"
    assert "".join(rows.as_csv([ROW], COLUMNS)).splitlines()[1] == (
        '"a,""b",ok,,x; y,3,"cat, domestic",0.5'
    )


def test_the_table_shows_errors_and_notes():
    text = "".join(rows.as_table([{**ROW, "error": "broken"}], ()))
    assert "error: broken" in text
    assert "note: x" in text
    assert "50.00 %     3  cat, domestic" in text


def test_folders_are_walked_in_order_without_hidden_files(tmp_path):
    hidden = [".hidden.png", ".hidden", ".git/x.png"]
    for name in ["b/z.JPG", "a.png", "notes.txt", "b/c.heic", *hidden]:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    listing = expand([str(tmp_path)], io.BytesIO)
    photos, others = listing.photos, listing.others
    assert [photo.path for photo in photos] == [str(tmp_path / "a.png"), str(tmp_path / "b/z.JPG")]
    assert others == [str(tmp_path / "notes.txt"), str(tmp_path / "b/c.heic")]


@pytest.mark.parametrize("below", [[], ["closed"]])
def test_a_folder_that_cannot_be_listed_is_an_entry_with_its_error(tmp_path, monkeypatch, below):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    closed, scandir = str(tmp_path.joinpath(*below)), os.scandir

    def guarded(path):
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    photos = expand([str(tmp_path)], io.BytesIO).photos
    assert [photo.path for photo in photos] == [str(tmp_path / "a.png")] * bool(below) + [closed]
    assert photos[-1].error == "cannot be listed: Permission denied"


def test_a_folder_knows_the_suffixes_of_the_formats_that_may_be_opened():
    Image.init()
    pillows = {suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS}
    assert pillows - {".pfm"} <= SUFFIXES  # .pfm holds floats: a map of depths, not a photo


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    file = tmp_path / "[a].png"
    file.touch()
    assert [photo.path for photo in expand([str(file)], io.BytesIO).photos] == [str(file)]


def test_standard_input_is_read_once(tmp_path):
    first, second = expand(["-", "-"], lambda: io.BytesIO(b"bytes")).photos
    assert (first.source, first.error) == (b"bytes", "")
    assert "only once" in second.error
    (nothing,) = expand(["-"], io.BytesIO).photos
    assert nothing.error == "nothing came from standard input"


@pytest.fixture
def spoken():
    with progress.shown():
        yield


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
def test_linked_folders_are_left_out_or_followed_once_and_so_it_is_with_patterns(tmp_path):
    for name in ("a/1.png", "a/b/2.png", "elsewhere/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/b/loop").symlink_to("..")
    (tmp_path / "a/other").symlink_to("../elsewhere")
    for argument in (tmp_path / "a", tmp_path / "a/**/*.png"):
        listing = expand([str(argument)], io.BytesIO)
        assert [p.path[len(str(tmp_path)) :] for p in listing.photos] == ["/a/1.png", "/a/b/2.png"]
        assert {os.path.basename(path) for path in listing.links} == {"loop", "other"}
        listing = expand([str(argument)], io.BytesIO, follow=True)
        assert [p.path[len(str(tmp_path)) :] for p in listing.photos] == [
            "/a/1.png", "/a/b/2.png", "/a/other/3.png",
        ]  # fmt: skip
        assert [os.path.basename(path) for path in listing.loops] == ["loop"]


def test_patterns_match_what_glob_matches(tmp_path, monkeypatch):
    for name in ("x.png", "a/x.png", "a/b/x.png", "a/b/c/y.png", "a/.h/x.png", "d/b/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for pattern in ("*.png", "**/*.png", "a/**", "**/b/*", "*/b/*.???", "a/**/c/**/*.png", "**/*",
                    f"{tmp_path}/**/x.png", "?/**/[xy].png", "**/b/**/*.png"):  # fmt: skip
        want = sorted(p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
        assert [photo.path for photo in expand([pattern], io.BytesIO).photos] == want != []


@pytest.mark.parametrize(("null", "data"), [(False, b"a b.png\r\n\n*.png\n"),
                                            (True, b"a b.png\0*.png\0")])  # fmt: skip
def test_names_come_from_a_list(tmp_path, null, data):
    (tmp_path / "list").write_bytes(data)
    for file, stdin in ((str(tmp_path / "list"), io.BytesIO), ("-", lambda: io.BytesIO(data))):
        listing = expand(["first.png"], stdin, files_from=file, null_separated=null)
        assert [photo.path for photo in listing.photos] == ["first.png", "a b.png", "*.png"]
    with pytest.raises(ArgumentError, match="only once"):
        expand(["-"], lambda: io.BytesIO(b"x"), files_from="-")
    assert expand([], io.BytesIO, files_from="-").photos[0].error == "no names in this list"


@pytest.mark.parametrize("url", ["http://x/a.png", "S3://bucket/key"])
def test_a_url_is_said_not_to_be_read(url):
    (photo,) = expand([url], io.BytesIO).photos
    assert (photo.path, photo.error[:18]) == (url, "URLs are not read;")


def test_standard_input_has_a_limit_and_may_be_missing(monkeypatch):
    monkeypatch.setattr(inputs, "MAX_STDIN", 10)
    assert expand(["-"], lambda: io.BytesIO(b"x" * 10)).photos[0].error == ""
    (photo,) = expand(["-"], lambda: io.BytesIO(b"x" * 11)).photos
    assert (photo.source, photo.error[:25]) == (b"", "expected at most 10 bytes")
    assert expand(["-"], lambda: None).photos[0].error == "standard input is closed"


@pytest.mark.usefixtures("spoken")
def test_progress_is_silent_at_first_then_counts_on_standard_error(capsys, monkeypatch):
    assert list(progress.counted("abc", 3, "photo")) == list("abc")
    assert capsys.readouterr() == ("", "")
    clock = iter([0, 100, 120, 140, *range(200, 1000, 20)])  # the first item takes 100 s
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.counted("abc", 3, "photo"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "npvgg: 1 of 3 photos", "npvgg: 2 of 3 photos, 0.1/s", "npvgg: 3 of 3 photos, 0.1/s",
    ]  # fmt: skip
    list(progress.counted("a", 1, "photo"))
    assert capsys.readouterr().err == "npvgg: 1 of 1 photo\n"
    with progress.shown():
        progress.silence()
        list(progress.counted("abc", 3, "photo"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("spoken")
def test_a_message_amid_a_count_has_a_line_of_its_own(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    for _ in progress.counted("abc", 3, "photo"):
        progress.log.error("one cannot be read")
    clear = "\r\x1b[K"
    assert capsys.readouterr().err == (
        "npvgg: one cannot be read\n"
        f"npvgg: 1 of 3 photos{clear}npvgg: one cannot be read\n"
        f"npvgg: 2 of 3 photos, 0.1/s{clear}npvgg: one cannot be read\n"
        f"npvgg: 3 of 3 photos, 0.1/s{clear}"
    )


def test_messages_are_shown_for_a_while_and_leave_no_trace(capsys):
    before = (list(progress.log.handlers), progress.log.level, progress.log.propagate)
    for quiet, said in ((False, "npvgg: a\nnpvgg: b\nnpvgg: c\n"), (True, "npvgg: c\n")):
        with progress.shown():
            if quiet:
                progress.silence()
            progress.log.info("a")
            progress.log.warning("b")
            progress.log.error("c")
        assert capsys.readouterr() == ("", said)
        assert (progress.log.handlers, progress.log.level, progress.log.propagate) == before


@pytest.mark.usefixtures("spoken")
def test_an_error_amid_a_count_leaves_a_clean_line(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "on_terminal", lambda: True)

    def failing():
        yield from "ab"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(progress.counted(failing(), 3, "photo"))
    assert capsys.readouterr().err.endswith("\r\x1b[K")
