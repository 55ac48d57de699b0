"""A batch run in this process: its plan, its sources, its rows, its files."""

import http.server
import inspect
import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
import threading
from pathlib import Path

import batches
import numpy as np
import pytest
from batches import digests, planned, rows_of, save_photos

import npvgg
from npvgg.batch import Predictor, Spec
from npvgg.batch.predictor import identified
from npvgg.batch.run import Run
from npvgg.batch.shards import KILLER, run_shard
from npvgg.batch.sources import listed
from npvgg.batch.spec import PACKAGE, refuse_another, sources_digest
from npvgg.cli import batch_options
from npvgg.cli import main as entrance
from npvgg.cli import options as common_options
from npvgg.engines import ENGINES
from npvgg.errors import ArgumentError

why = "not installed: pip install 'npvgg[batch]'"
pa = pytest.importorskip("pyarrow", reason=f"pyarrow is {why}")
pq = pytest.importorskip("pyarrow.parquet", reason=f"pyarrow is {why}")
fsspec = pytest.importorskip("fsspec", reason=f"fsspec is {why}")


@pytest.fixture
def photos(tmp_path, rng):
    return save_photos(tmp_path / "photos", 6, rng)


def finished(run, predictor, **options):
    for number in range(run.shards):
        run_shard(run, number, predictor, **options)
    return rows_of(run)


# --- Rows -----------------------------------------------------------------------------------------


def test_rows_are_what_the_library_says(tmp_path, photos):
    run, predictor = planned(tmp_path / "run", photos)
    rows = finished(run, predictor)
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True)
    outputs = [model.outputs(predictor.transform(row["path"])[None]) for row in rows]
    logits = np.concatenate([output.logits for output in outputs])
    prob, index = npvgg.topk(npvgg.softmax(logits, axis=1), k=3)
    assert [row["id"] for row in rows] == list(range(6))
    assert [row["path"] for row in rows] == sorted(map(str, photos.iterdir()))
    assert [row["top_index"] for row in rows] == index.tolist()
    assert [row["top_prob"] for row in rows] == prob.tolist()
    assert [row["embedding"] for row in rows] == [output.pooled[0].tolist() for output in outputs]
    assert {tuple(row["top_label"]) for row in rows} <= {
        tuple(predictor.names[i] for i in some) for some in index.tolist()
    }
    assert [(row["width"], row["height"]) for row in rows[:2]] == [(30, 20), (29, 21)]


def test_a_photo_that_fails_is_a_row_of_nulls(tmp_path, photos):
    (photos / "002.png").write_bytes(b"no photo")
    run, predictor = planned(tmp_path / "run", photos)
    bad = finished(run, predictor)[2]
    assert bad["status"] == "error"
    assert "not an image" in bad["error"]
    assert {
        value for key, value in bad.items() if key not in ("id", "path", "status", "error")
    } == {None}
    assert run.finish({}) == 1
    errors = pq.read_table(run.folder / "errors.parquet").to_pylist()
    assert errors == [{key: bad[key] for key in ("id", "path", "error")}]


@pytest.mark.parametrize("engine", ["winograd", "reference"])
def test_the_bits_depend_on_no_batch(tmp_path, photos, engine):
    (photos / "003.jpg").write_bytes(b"no photo")
    one, predictor = planned(tmp_path / "one", photos, spec={"engine": engine})
    other, _ = planned(tmp_path / "other", photos, spec={"engine": engine})
    finished(one, predictor, batch_size=1)
    finished(other, predictor, batch_size=3)
    assert digests(one) == digests(other)
    assert len(digests(one)) == 2


def test_only_what_is_wanted_is_there(tmp_path, photos):
    spec = {"want": ["embedding"], "embedding_dtype": "float16"}
    run, predictor = planned(tmp_path / "run", photos, spec=spec)
    finished(run, predictor)
    schema = run.rows(0).schema
    assert schema.field("embedding").type == pa.list_(pa.float16())
    assert not [name for name in schema.names if name.startswith("top_")]


def test_an_embedding_that_overflows_is_an_error(tmp_path, photos):
    predictor = Predictor({**batches.SPEC, "embedding_dtype": "float16"})
    decoded = [predictor.decode(path) for path in sorted(photos.iterdir())[:2]]
    large = np.array([[1e6] * 256, [1.0] * 256], np.float32)
    good = predictor.model.outputs(np.stack([photo.x for photo in decoded]))
    predictor.model.outputs = lambda x: type(good)({}, large, good.logits)
    rows = predictor.rows(decoded)
    assert rows["status"].tolist() == ["error", "ok"]
    assert "not finite in float16" in rows["error"][0]
    assert rows["top_index"][0].tolist() == [-1, -1, -1]


def test_a_photo_that_kills_is_not_opened(tmp_path, photos):
    run, predictor = planned(tmp_path / "run", photos)
    opened = []
    run_shard(run, 0, predictor, killers=[1], report=opened.append)
    rows = run.rows(0).to_pylist()
    assert [row["error"] for row in rows] == [None, KILLER, None, None]
    assert opened == [0, 1, 2, 3, None]


# --- Files ----------------------------------------------------------------------------------------


def test_the_first_writer_wins(tmp_path, photos):
    run, predictor = planned(tmp_path / "run", photos)
    first = run_shard(run, 0, predictor)
    before = run.shard(0).stat()
    assert run_shard(run, 0, predictor) == first == (0, 4, 0)
    assert run.shard(0).stat() == before
    assert [path.name for path in run.shard(0).parent.iterdir()] == ["00000.parquet"]


def test_failed_rows_are_computed_again_and_the_others_kept(tmp_path, photos):
    whole, predictor = planned(tmp_path / "whole", photos)
    finished(whole, predictor)
    state = (photos / "001.jpg").stat()
    run, _ = planned(tmp_path / "run", photos)
    (photos / "001.jpg").rename(tmp_path / "elsewhere.jpg")
    (photos / "002.png").touch()
    finished(run, predictor)
    errors = [row["error"] for row in rows_of(run)]
    assert "No such file" in errors[1]
    assert "changed since" in errors[2]
    assert run.failed(run.done()) == {0: 2}
    assert digests(run)[1] == digests(whole)[1]
    (tmp_path / "elsewhere.jpg").rename(photos / "001.jpg")
    os.utime(photos / "002.png", ns=(0, state.st_mtime_ns))  # still another time
    opened = []
    assert run_shard(run, 0, predictor, retry=True, report=opened.append) == (0, 4, 1)
    assert opened == [1, 2, None]
    planned_at = int(run.entries(0)[2][1].stamp.partition("-")[2])
    os.utime(photos / "002.png", ns=(0, planned_at))
    assert run_shard(run, 0, predictor, retry=True) == (0, 4, 0)
    assert digests(run) == digests(whole)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, photos, monkeypatch):
    run, predictor = planned(tmp_path / "run", photos)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_shard(run, 0, predictor)
    assert list(run.shard(0).parent.iterdir()) == []


def test_a_damaged_shard_is_named(tmp_path, photos):
    run, predictor = planned(tmp_path / "run", photos)
    finished(run, predictor)
    run.shard(1).write_bytes(b"PAR1")
    with pytest.raises(ArgumentError, match=r"00001\.parquet' cannot be read"):
        run.finish({})


# --- The plan -------------------------------------------------------------------------------------


def test_the_list_is_frozen(tmp_path, photos):
    run, predictor = planned(tmp_path / "run", photos)
    (photos / "zzz.png").write_bytes(b"later")
    assert len(finished(run, predictor)) == 6
    inputs = run.folder / "inputs.parquet"
    run.check_inputs()
    inputs.write_bytes(inputs.read_bytes().replace(b"000.png", b"009.png"))
    with pytest.raises(ArgumentError, match="not the list"):
        run.check_inputs()


def test_a_plan_appears_whole_or_not_at_all(tmp_path, photos):
    def interrupted():
        yield from listed([str(photos)])
        raise KeyboardInterrupt

    predictor = Predictor(batches.SPEC)
    with pytest.raises(KeyboardInterrupt):
        batches.plan(tmp_path / "run", interrupted(), spec=predictor.spec, identity={}, sources={})
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_of_two_that_plan_the_first_counts(tmp_path, photos):
    def overtaken():
        yield from listed([str(photos)])
        planned(tmp_path / "run", photos / "000.png")

    predictor = Predictor(batches.SPEC)
    run = batches.plan(tmp_path / "run", overtaken(), spec=predictor.spec, identity={}, sources={})
    assert run.photos == 1


@pytest.mark.parametrize(
    ("occupied", "message"), [("file", "a new folder"), ("folder", "a new folder")]
)
def test_nothing_is_planned_over_what_is_there(tmp_path, photos, occupied, message):
    target = tmp_path / "run"
    if occupied == "folder":
        target.mkdir()
        target /= "mine.txt"
    target.write_text("mine")
    with pytest.raises(ArgumentError, match=message):
        planned(tmp_path / "run", photos)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("size", [0, 100_001])
def test_shards_have_a_size(tmp_path, photos, size):
    with pytest.raises(ArgumentError, match="shard_size: expected 1 … 100000"):
        planned(tmp_path / "run", photos, shard_size=size)


def test_no_photos_are_no_run(tmp_path):
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(ArgumentError, match="at least one photo"):
        planned(tmp_path / "run", files_from=tmp_path / "list.txt")


@pytest.mark.parametrize("text", [b"{}", b"no JSON", b"[1]"])
def test_what_is_no_run_is_refused(tmp_path, text):
    with pytest.raises(ArgumentError, match="No such file"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(ArgumentError, match="run:"):
        Run.open(tmp_path)


def test_a_link_to_an_empty_folder_is_followed(tmp_path, photos):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    run, _ = planned(tmp_path / "run", photos)
    assert run.folder == tmp_path / "run"
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "run.json").is_file()


def test_of_two_who_plan_the_faster_one_counts(tmp_path, photos):
    first, _ = planned(tmp_path / "run", photos)
    second, _ = planned(tmp_path / "run", photos, shard_size=2)
    assert second.plan == first.plan


def test_a_run_has_no_place_below_a_file(tmp_path, photos):
    with pytest.raises(ArgumentError, match=r"output: '.*000\.png/run': "):
        planned(photos / "000.png" / "run", photos)


# --- Identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"topk": 2}, "topk"),
        ({"want": ["topk"]}, "want"),
        ({"dtype": "float64", "engine": "reference"}, "dtype"),
        ({"engine": "im2col"}, "engine"),
        ({"embedding_dtype": "float16"}, "embedding_dtype"),
        ({"on_16bit": "scale"}, "transform.open.on_16bit"),
        ({"max_pixels": 1000}, "transform.open.max_pixels"),
        ({"draft": 64}, "transform.open.draft"),
        ({"labels": "names.txt"}, "labels"),
        ({"weights": "other.safetensors", "model": "repvgg_nano"}, "weights"),
    ],
)  # fmt: skip
def test_another_identity_is_refused_by_the_name_of_the_field(
    tmp_path, monkeypatch, photos, change, field
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    if "weights" in change:
        model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True)
        tensors = model.state_dict()
        tensors["head.fc.bias"][3] += 1
        npvgg.create_model("repvgg_nano", weights=tensors, num_classes=10).save("other.safetensors")
    run, _ = planned(tmp_path / "run", photos)
    other = Predictor({**batches.SPEC, **change})
    with pytest.raises(ArgumentError, match=f"^{field}: the run was planned with"):
        run_shard(run, 0, other)
    assert digests(run) == {}


@pytest.mark.parametrize(
    "change", [{}, {"engine": "auto"}, {"engine": "reference", "dtype": "float64"}, {"topk": 2}]
)
def test_an_identity_is_known_before_the_engine_starts(monkeypatch, change):
    predictor = Predictor({**batches.SPEC, **change})
    monkeypatch.setitem(ENGINES, "winograd", "npvgg.engines.none")
    assert identified({**batches.SPEC, **change}) == (predictor.spec, predictor.identity)


def test_an_engine_that_cannot_serve_is_refused_before_anything_is_planned(monkeypatch):
    with pytest.raises(ArgumentError, match="dtype: engine winograd computes in float32, got flo"):
        identified({**batches.SPEC, "dtype": "float64"})
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ArgumentError, match="engine: expected Numba to be installed for 'winogr"):
        identified(batches.SPEC)
    assert identified({"engine": "auto"})[0].engine == "reference"


def test_versions_belong_to_the_identity(tmp_path, photos):
    run, _ = planned(tmp_path / "run", photos)
    newer = {**run.identity, "versions": {**run.identity["versions"], "numpy": "9.9"}}
    with pytest.raises(ArgumentError, match=r'versions\.numpy: .* got "9\.9"'):
        refuse_another(run.identity, newer)
    assert {"npvgg", "numpy", "pillow", "libjpeg", "pyarrow"} <= set(run.identity["versions"])


def test_sources_belong_to_the_identity(tmp_path, photos):
    run, _ = planned(tmp_path / "run", photos)
    assert run.identity["versions"]["npvgg_sources"] == sources_digest(PACKAGE)
    edited = tmp_path / "npvgg"
    shutil.copytree(PACKAGE / "batch", edited, ignore=shutil.ignore_patterns("__pycache__"))
    digest = sources_digest.__wrapped__
    assert digest(edited) == digest(PACKAGE / "batch")  # neither compiled files nor place count
    (edited / "run.py").rename(edited / "again.py")
    moved = digest(edited)
    (edited / "again.py").write_bytes((edited / "again.py").read_bytes() + b"#")
    found = [digest(PACKAGE / "batch"), moved, digest(edited)]
    assert len(set(found)) == 3
    newer = {**run.identity, "versions": {**run.identity["versions"], "npvgg_sources": moved}}
    with pytest.raises(ArgumentError, match=r"^versions\.npvgg_sources: the run was planned with"):
        refuse_another(run.identity, newer)


def test_the_file_that_weights_came_in_does_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, engine="reference")
    model.save("a.safetensors")
    assert (
        Predictor(batches.SPEC).identity["weights"]
        == (Predictor({**batches.SPEC, "weights": "a.safetensors"}).identity["weights"])
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"want": ["logits"]}, "want: expected some of topk, embedding"),
        ({"topk": 0}, "topk"),
        ({"embedding_dtype": "int8"}, "embedding_dtype"),
        ({"engine": "cuda"}, "engine: expected auto"),
        ({"modle": "x"}, "did you mean model"),
    ],
)
def test_a_spec_is_checked(values, message):
    with pytest.raises(ArgumentError, match=message):
        Spec.of(values)


# --- Sources --------------------------------------------------------------------------------------


def test_a_folder_is_listed_in_order_and_below(photos):
    (photos / ".hidden").mkdir()
    for name in ("sub/z.JPG", "sub/a.txt", ".hidden/x.png", ".x.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    found = [os.path.relpath(entry.path, photos) for entry in listed([str(photos)])]
    assert found == [f"{n:03}.{('png', 'jpg')[n % 2]}" for n in range(6)] + ["sub/z.JPG"]


def test_names_in_any_bytes_are_found_again(tmp_path, photos):
    name = os.fsencode(photos) + b"/\xff\n.png"
    os.rename(os.fsencode(photos / "000.png"), name)
    (tmp_path / "list.txt").write_bytes(os.fsencode(photos) + b"/\xfe.png\n")
    run, predictor = planned(tmp_path / "run", photos, files_from=tmp_path / "list.txt")
    rows = finished(run, predictor)
    good = next(row for row in rows if "\n" in row["path"])
    assert good["status"] == "ok"
    assert "\\udcff" in good["path"]
    assert "No such file" in rows[-1]["error"]


def test_relative_paths_start_where_the_run_was_planned(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(photos)
    run, predictor = planned(tmp_path / "run", "000.png", "missing.png")
    monkeypatch.chdir(tmp_path)
    rows = finished(run, predictor)
    assert [(row["path"], row["status"]) for row in rows] == [
        ("000.png", "ok"), ("missing.png", "error"),
    ]  # fmt: skip


def same_photos(rows, folder, predictor):
    """Tell whether rows are those of the photos of a folder, whatever they are called."""
    want = [predictor.rows([predictor.decode(path)]) for path in sorted(folder.iterdir())]
    return [row["embedding"] for row in rows] == [w["embedding"][0].tolist() for w in want]


def test_a_tar_file(tmp_path, photos):
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
            meta = tarfile.TarInfo(f"{path.stem}.json")
            meta.size = 2
            tar.addfile(meta, io.BytesIO(b"{}"))
    run, predictor = planned(tmp_path / "run", tmp_path / "p.tar")
    rows = finished(run, predictor)
    assert rows[1]["path"] == f"{tmp_path / 'p.tar'}#001.jpg"
    assert same_photos(rows, photos, predictor)
    again, _ = planned(tmp_path / "again", tmp_path / "p.tar")
    with open(tmp_path / "p.tar", "ab") as tar:
        tar.write(b"\0" * 512)
    assert all("changed since" in row["error"] for row in finished(again, predictor))


def test_a_tar_file_that_is_compressed_or_none(tmp_path):
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(__file__, "x.png")
    with pytest.raises(ArgumentError, match="not compressed"):
        list(listed([str(tmp_path / "z.tar")]))
    with pytest.raises(ArgumentError, match="No such file"):
        list(listed([str(tmp_path / "none.tar")]))


@pytest.mark.parametrize("kind", ["bytes", "hugging-face", "path", "category", "large"])
def test_a_parquet_file(tmp_path, photos, kind):
    paths = sorted(photos.iterdir())
    data = [path.read_bytes() for path in paths]
    texts = [str(path) for path in paths]
    table = {
        "category": {"path": pa.array(texts).dictionary_encode()},
        "large": {"path": pa.array(texts, pa.large_string())},
        "bytes": {"bytes": data},
        "hugging-face": {"image": [{"bytes": b, "path": None} for b in data]},
        "path": {"n": range(6), "path": texts},
    }[kind]
    pq.write_table(pa.table(table), tmp_path / "p.parquet", row_group_size=4)
    run, predictor = planned(tmp_path / "run", tmp_path / "p.parquet", shard_size=5)
    assert same_photos(finished(run, predictor), photos, predictor)


def test_columns_of_parquet_files(tmp_path):
    table = pa.table({"photo": [None, b"no photo"], "n": [1, 2], "where": ["x.png", None]})
    pq.write_table(table, tmp_path / "p.parquet")
    for column, message in (
        ("m", "expected one of photo, n, where"), ("n", "holds int64"), (None, "got None"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            list(listed([str(tmp_path / "p.parquet")], column=column))
    assert [entry.path for entry in listed([str(tmp_path / "p.parquet")], column="where")] == [
        "x.png", "",
    ]  # fmt: skip
    run, predictor = planned(tmp_path / "paths", tmp_path / "p.parquet", column="where")
    assert finished(run, predictor)[1]["error"] == "the row holds no path"
    run, predictor = planned(tmp_path / "run", tmp_path / "p.parquet", column="photo")
    errors = [row["error"] for row in finished(run, predictor)]
    assert "holds no bytes" in errors[0]
    assert "not an image" in errors[1]


def test_memory_and_local_urls(tmp_path, photos):
    fs = fsspec.filesystem("memory")
    for path in photos.iterdir():
        fs.pipe(f"/batch/{path.name}", path.read_bytes())
    run, predictor = planned(tmp_path / "run", "memory://batch", f"file://{photos}/00[01].*")
    rows = finished(run, predictor)
    assert same_photos(rows[:6], photos, predictor)
    assert [row["path"] for row in rows[-2:]] == [
        f"file://{photos}/000.png", f"file://{photos}/001.jpg",
    ]  # fmt: skip
    again, _ = planned(tmp_path / "again", "memory://batch")
    fs.pipe("/batch/000.png", b"other")
    fs.rm("/batch/001.jpg")
    errors = [row["error"] for row in finished(again, predictor)]
    fs.rm("/batch", recursive=True)
    assert "changed since" in errors[0]
    assert "memory://batch/001.jpg" in errors[1] or "memory:///batch/001.jpg" in errors[1]
    assert errors[2:] == [None] * 4


def test_an_unknown_kind_of_url():
    with pytest.raises(ArgumentError, match="gopher"):
        list(listed(["gopher://x/y.png"]))


def test_a_web_server(tmp_path, photos, monkeypatch):
    pytest.importorskip("aiohttp", reason="aiohttp, which fsspec needs for http, is not installed")
    with tarfile.open(photos / "all.tar", "w") as tar:
        for path in sorted(photos.glob("*.*g")):
            tar.add(path, path.name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(photos))

        def do_GET(self):
            first, _, last = self.headers.get("Range", "bytes=-").partition("=")[2].partition("-")
            data = Path(self.translate_path(self.path)).read_bytes()
            part = data[int(first or 0) : int(last or len(data)) + 1]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", len(part))
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *args): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        run, predictor = planned(
            tmp_path / "run", f"{url}/000.png", f"{url}/none.png", f"{url}/all.tar"
        )
        rows = finished(run, predictor)
    finally:
        server.shutdown()
        server.server_close()
    (photos / "all.tar").unlink()
    assert [row["status"] for row in rows] == ["ok", "error"] + ["ok"] * 6
    assert same_photos(rows[2:], photos, predictor)


# --- Predictor ------------------------------------------------------------------------------------


def test_a_batch_may_hold_paths_bytes_or_images(photos):
    predictor = pickle.loads(pickle.dumps(Predictor({**batches.SPEC, "want": "topk"})))
    paths = np.array([str(path) for path in sorted(photos.iterdir())[::2]] + ["none.png"])
    data = np.array([Path(path).read_bytes() for path in paths[:3]] + [b""], object)
    by_path = predictor({"path": paths, "key": np.arange(4)})
    by_bytes = predictor({"bytes": data})
    assert by_path["key"].tolist() == [0, 1, 2, 3]
    assert by_path["status"].tolist() == by_bytes["status"].tolist() == ["ok"] * 3 + ["error"]
    assert by_path["top_index"].tolist() == by_bytes["top_index"].tolist()
    assert by_path["top_index"][3].tolist() == [-1, -1, -1]
    assert np.isnan(by_path["top_prob"][3]).all()
    image = predictor({"image": np.zeros((2, 9, 8, 3), np.uint8)})
    assert image["width"].tolist() == [8, 8]
    assert "image" not in image
    with pytest.raises(ArgumentError, match="expected a column bytes, image, path, got x"):
        predictor({"x": paths})
    assert {len(column) for column in predictor({"path": paths[:0]}).values()} == {0}


def test_the_page_for_operators_names_options_that_there_are():
    page = (Path(__file__).parents[1] / "npvgg/batch/operating.md").read_text(encoding="utf-8")
    options = set(re.findall(r"--[a-z][a-z-]+", page))
    known = "".join(map(inspect.getsource, (batch_options, common_options, entrance)))
    theirs = {"--dependency", "--array", "--cpus-per-task", "--mem", "--requeue"}  # Slurm's
    assert {option for option in options - theirs if f'"{option}"' not in known} == set()


def test_the_page_for_operators_tells_what_was_measured():
    root = Path(__file__).parents[1]
    page = (root / "npvgg/batch/operating.md").read_text(encoding="utf-8")
    found = json.loads((root / "bench/results/batch.json").read_text(encoding="utf-8"))["rows"]
    measured = {row["what"]: row["value"] for row in found}
    whats = (
        ("a million photos", 1), ("peak memory of the largest", 0),
        ("the largest less what is shared (PSS)", 0),
    )  # fmt: skip
    for workers in ("1 worker", "2 workers"):
        cells = [f"{measured[f'{workers}: {what}']:.{digits}f}" for what, digits in whats]
        assert f"| {' | '.join([workers[0], *cells])} |" in page.splitlines()
