"""`npvgg batch` as people call it, with worker processes; what kills them is in stress_batch.py."""

import io
import json
import os

import pytest
from batches import digests, planned, rows_of, save_photos

from npvgg.batch.local import Workers
from npvgg.batch.run import Run
from npvgg.cli.main import main
from npvgg.errors import ArgumentError

why = "not installed: pip install 'npvgg[batch]'"
pytest.importorskip("pyarrow", reason=f"pyarrow is {why}")


@pytest.fixture
def run(capfd):
    """Run the command line in this process: (status, stdout, stderr)."""

    def run(*arguments):
        try:
            status = main(["batch", *map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def photos(tmp_path, rng):
    folder = save_photos(tmp_path / "photos", 8, rng)
    (folder / "003.jpg").write_bytes(b"no photo")
    return folder


def test_a_run_from_its_plan_to_its_end(tmp_path, run, photos):
    target = tmp_path / "run"
    status, out, err = run(
        photos, "--output", target, "--shard-size", 3, "--workers", 2, "--batch-size", 2,
        "--progress", "json", "--topk", 2,
    )  # fmt: skip
    assert (status, out) == (1, "")
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert sorted(line["shard"] for line in lines) == [0, 1, 2]
    assert lines[-1]["photos_done"] == 8
    assert lines[-1]["seconds_left"] == 0
    assert "1 photo failed" in err
    assert [row["id"] for row in rows_of(Run.open(target)) if row["status"] != "ok"] == [3]
    summary = json.loads((target / "summary.json").read_text())
    assert (summary["ok"], summary["failed"], summary["failure_rate"]) == (7, 1, 1 / 8)
    assert summary["weights"] == Run.open(target).identity["weights"]

    state = (target / "summary.json").stat()
    assert run("--output", target)[0] == 1  # nothing is left to do
    assert (target / "summary.json").stat() == state

    here, _ = planned(tmp_path / "here", photos, shard_size=3, spec={"topk": 2})
    with Workers(here, forks=False) as workers:  # as where processes cannot be forked
        assert sorted(workers.compute(range(3))) == [(0, 3, 0), (1, 3, 1), (2, 2, 0)]
    assert digests(here) == digests(target)

    status, out, _ = run("--output", target, "--status", "--progress", "json")
    assert (status, json.loads(out)["photos_done"], json.loads(out)["failed"]) == (1, 8, 1)
    assert "shards done" in run("--output", target, "--status")[1]


@pytest.fixture
def ready(tmp_path, photos, monkeypatch):
    """A run that is planned, in a process that can hire nobody."""
    monkeypatch.setattr(Workers, "_hire", lambda self: pytest.fail("a worker was hired"))
    planned(tmp_path / "run", photos, spec={"engine": "winograd", "topk": 5})
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topk", 4], "topk: the run was planned with 5, got 4"),
        (["--want", "topk"], "want: the run was planned with"),
        (["--inference-engine", "im2col"], 'engine: the run was planned with "winograd", got "im2'),
        (["--frame", 1], "transform.open.frame: the run was planned with 0, got 1"),
        (["--shard-size", 3], "shard_size: the run was planned with 4, got 3"),
        (["elsewhere"], "inputs.arguments: the run was planned with"),
        (["--labels", "names.txt"], "labels: the run was planned with"),
    ],
)
def test_something_else_is_refused_by_name(tmp_path, monkeypatch, ready, run, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    status, _, err = run("--output", ready, *options)
    assert status == 2
    assert message in err
    assert digests(ready) == {}


def test_the_same_weights_under_another_name_are_the_same(ready, run):
    status, out, err = run("--output", ready, "--model", "repvgg_nano", "--status")
    assert (status, err) == (2, "")
    assert "photos done  0" in out


def test_a_list_that_was_changed_is_refused(ready, run):
    (ready / "inputs.parquet").write_bytes(b"PAR1")
    status, _, err = run("--output", ready)
    assert (status, "is not the list" in err) == (2, True)


def test_without_a_run_there_is_nothing_to_go_on_with(tmp_path, run):
    for option in ("--status", "--retry-failed"):
        status, _, err = run("--output", tmp_path / "run", option)
        assert (status, "expected a run, found none" in err) == (2, True)
    status, _, err = run("--output", tmp_path / "run")
    assert (status, "expected photos" in err) == (2, True)


def test_a_list_on_standard_input(tmp_path, run, photos, monkeypatch):
    names = b"".join(os.fsencode(path) + b"\n" for path in sorted(photos.iterdir())[:3])

    def given(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("--files-from", "-", "--output", tmp_path / "run", "--workers", 1)

    assert given(names)[0] == 0
    assert [row["path"] for row in rows_of(Run.open(tmp_path / "run"))] == names.decode().split()
    assert given(names)[0] == 0
    status, _, err = given(names + b"more.png\n")
    assert (status, "inputs.files_from: the run was planned with" in err) == (2, True)
    monkeypatch.setattr("sys.stdin", None)
    status, _, err = run("--files-from", "-", "--output", tmp_path / "other")
    assert (status, "expected names on standard input" in err) == (2, True)


def test_more_failures_than_may_be_abort(tmp_path, run, photos):
    planned(tmp_path / "run", photos, spec={"topk": 5})
    status, _, err = run("--output", tmp_path / "run", "--max-failure-rate", "0.1")
    assert status == 2
    assert "1 of 8 photos failed, more than 0.1" in err
    assert run("--output", tmp_path / "run", "--max-failure-rate", "0.125", "--quiet")[0] == 1


def test_a_worker_with_another_identity_fails(tmp_path, photos):
    here, _ = planned(tmp_path / "run", photos)
    plan = json.loads((here.folder / "run.json").read_text())
    plan["identity"]["versions"]["numpy"] = "1.0"
    (here.folder / "run.json").write_text(json.dumps(plan))
    with (
        Workers(Run.open(here.folder)) as workers,
        pytest.raises(ArgumentError, match=r"versions\.numpy: the run was planned with \"1\.0\""),
    ):
        list(workers.compute([0]))


def test_a_worker_without_its_engine_fails(tmp_path, photos, monkeypatch):
    here, _ = planned(tmp_path / "run", photos)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "numba.py").write_text("raise ImportError('broken here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    with (
        Workers(here) as workers,
        pytest.raises(ArgumentError, match="engine: expected one that can be imported"),
    ):
        list(workers.compute([0]))


@pytest.mark.parametrize(
    "options",
    [["--part", "0/2"], ["--part", "3/2"], ["--part", "1"], ["--part", f"1/{'9' * 5000}"],
     ["--want", "logits"], ["--max-failure-rate", "2"], ["--max-failure-rate", "x"],
     ["--engine", "spark"], ["--workers", "0"], ["--workers", "1000000000"],
     ["--threads", "257"], ["--batch-size", "4097"], ["--shard-size", "100001"]],
)  # fmt: skip
def test_what_cannot_be_asked(tmp_path, run, options):
    status, _, err = run("x", "--output", tmp_path / "run", *options)
    assert (status, f"argument {options[0]}:" in err) == (2, True)
    assert not (tmp_path / "run").exists()


# --- Others read it -------------------------------------------------------------------------------


@pytest.fixture(params=["float32", "float16"])
def shards(request, tmp_path, photos):
    from npvgg.batch.shards import run_shard

    here, predictor = planned(tmp_path / "run", photos, spec={"embedding_dtype": request.param})
    for number in range(here.shards):
        run_shard(here, number, predictor)
    return here


def embeddings(run):
    """Give the embeddings as floats of Python, which hold float16 and float32 exactly."""
    rows = [row["embedding"] for row in rows_of(run)]
    return [None if row is None else [float(value) for value in row] for row in rows]


def test_pandas_reads_it(shards):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_parquet(shards.folder / "shards")
    assert frame.sort_values("id")["status"].tolist() == ["ok"] * 3 + ["error"] + ["ok"] * 4
    found = [
        None if some is None else some.tolist() for some in frame.sort_values("id")["embedding"]
    ]
    assert found == embeddings(shards)
    assert frame["top_index"].isna().sum() == 1


def test_polars_reads_it(shards):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.read_parquet(shards.folder / "shards/*.parquet").sort("id")
    assert frame["embedding"].to_list() == embeddings(shards)
    assert frame["top_label"].null_count() == 1


def test_duckdb_reads_it(shards):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    table = f"read_parquet('{shards.folder}/shards/*.parquet')"
    found = duckdb.sql(f"select status, count(*), max(len(embedding)) from {table} group by 1")
    assert sorted(found.fetchall(), key=str) == [("error", 1, None), ("ok", 7, 256)]
    found = duckdb.sql(f"select embedding from {table} order by id").fetchall()
    assert [some for (some,) in found] == embeddings(shards)
