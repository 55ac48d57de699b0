"""Command lines and runs that once ended in a traceback, or not at all: each ends clearly now."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
from fuzz_commands import run

import npvgg
from npvgg import create_model
from npvgg.errors import ArgumentError
from npvgg.explain import winograd
from npvgg.formats import files
from npvgg.testing import conformance_pack
from npvgg.testing.comparison.compare import compare

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'npvgg[batch]'")
pq = pytest.importorskip("pyarrow.parquet")

BROKE = {
    # argparse makes an empty list of `--`
    "classify cat.png --model network --topk=--": "argument --topk: expected some text",
    "batch photos --output new --model network --part=--": "argument --part: expected some",
    "verify network --image=--": "argument --image: expected some text",
    "search run cat.png -k--": "argument --k: expected some text",
    "explain pixel cat.png --model network --at=--": "argument --at: expected some text",
    "classify cat.png --model network --output /": "--output: expected the name of a file",
    "embed cat.png --model network --output .": "--output: expected the name of a file",
    f"explain pixel cat.png --model network --at 1,{'9' * 5000}": "--at: expected row,column",
    "explain winograd --model network --points 0,1,-1,1e999999999": "points: expected finite",
    "explain winograd --model network --points 0,1,-1,1e300,1e-300": "points: expected finite",
    "verify network --size 9999": "expected a network that takes at most",
    "conformance new --size 9999": "expected a network that takes at most",
    "batch photos --output new --model network --files-from /dev/zero": "expected a regular file",
    "batch --files-from fifo --output new --model network": "expected a regular file",
    "batch photos/x.tar --output new --model network": "No such file",
    "batch photos --output s3://x --model network": "",
    "batch photos --output http:x --model network": "",
    "batch photos --output \udcff --model network": "",
    "batch \udcff --output new --model network": "1 photo failed",
    "batch list.parquet x.parquet x.tar --output new --model network": "4 photos failed",
}
"""A command line, and what it says; nothing where it does what was asked for."""


@pytest.mark.parametrize("command", BROKE)
def test_a_command_line_that_broke_ends_clearly(command):
    status, said = run(command.split(" "))
    assert BROKE[command] in said
    assert status == {"": 0, "1": 1, "4": 1}.get(BROKE[command][:1], 2)


PLAN = {
    "format": (None, 2), "photos": (None, 0, -1, "4", True, 10**18, 1.5, 10**12),
    "shard_size": (None, 0, -1, 2**40, [], "2"), "inputs": (None, 3), "base": (None, 1),
    "sources": (None, []), "spec": (None, [], {"x": 1}, {"model": 1}, {"want": [[]]},
        {"topk": "1"}, {"formats": 3}, {"frame": True}, {"want": {"topk": 1}}, {"engine": []}),
    "options": (None, [], {"batch_size": -1}, {"batch_size": "9"}, {"batch_size": 10**9},
                {"max_failure_rate": []}),
    "identity": (None, [], {}, {"weights": 1}, {"weights": "x", "versions": []}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAN)
def test_a_plan_that_no_run_has_is_one_error(name):
    for value in PLAN[name]:

        def change(value=value):
            plan = json.loads(Path("run/run.json").read_text())
            Path("run/run.json").write_text(json.dumps(plan | {name: value}))

        for command in (["batch", "--output", "run"], ["search", "run", "cat.png"]):
            status, said = run(command, change)
            assert status == 2
            assert said.startswith("npvgg: error: ")


def nested():
    Path("run/run.json").write_text("[" * 10_000)


def pipe():
    os.unlink("run/run.json")
    os.mkfifo("run/run.json")


def device():
    os.unlink("run/shards/00000.parquet")
    os.symlink("/dev/zero", "run/shards/00000.parquet")


def no_shards():
    os.rename("run/shards", "run/other")


def other_shard():
    pq.write_table(pa.table({"id": [0]}), "run/shards/00000.parquet")


def other_list():
    pq.write_table(pa.table({"id": [0]}), "run/inputs.parquet")
    plan = json.loads(Path("run/run.json").read_text())
    digest = files.sha256("run/inputs.parquet")
    Path("run/run.json").write_text(json.dumps(plan | {"inputs": digest}))


def odd_names():
    path = Path("run/shards/00000.parquet")
    path.write_bytes(path.read_bytes().replace(b"status", b"stat\xd6s"))


@pytest.mark.parametrize(
    "change", [nested, pipe, device, no_shards, other_shard, other_list, odd_names]
)
def test_a_run_s_folder_that_was_tampered_with_is_one_error(change):
    status, said = run(["batch", "--output", "run"], change)
    assert status == 2
    assert said.startswith("npvgg: error: ")
    if change is not other_list:
        assert run(["search", "run", "cat.png"], change)[0] == 2


def test_names_that_are_no_shards_are_passed_over():
    def change():
        for name in ("²²²²².parquet", "99999.parquet", ".0.tmp", "0000a.parquet"):
            Path("run/shards", name).touch()

    assert run(["batch", "--output", "run", "--status"], change)[0] == 2
    assert run(["batch", "--output", "run"], change)[0] == 1  # two photos of its list are not there


@pytest.fixture(scope="module")
def op_pack():
    return conformance_pack("tiny", level="op")


@pytest.mark.parametrize("layout", ["auto", "NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (1, 3), (2, 2, 2), (1, 1, 1, 1, 1)])
def test_an_identity_of_another_shape_is_a_wrong_tensor(op_pack, shape, layout):
    """At the level of operations, where a diagnosis computes on from what it is given."""
    names = [probe.name for probe in op_pack.probes]
    for name in [next(n for n in names if "identity" in n), names[0], "logits"]:
        theirs = {n: op_pack.tensor(n) for n in names}
        theirs[name] = np.ones(shape, np.float32)
        assert not compare(theirs, op_pack, by="name", layout=layout, complete=True).ok


@pytest.mark.parametrize("layout", ["auto", "NCHW", "NHWC"])
def test_logits_without_dimensions_are_a_wrong_tensor(op_pack, layout):
    assert not compare({"logits": np.float32(1)}, op_pack, layout=layout).ok


def test_a_point_has_few_digits():
    assert winograd(points=["0", "1", "-1", "0.5", 0.1]).m == 4
    for point in ("1e400", "1e-320", "9" * 5000, 1e300, "1e999999999", "nan", 2**60 + 1):
        with pytest.raises(ArgumentError, match="points: expected finite numbers"):
            winograd(points=["0", "1", point])


def test_few_names_are_compared_with_a_missing_one(monkeypatch):
    """Whatever a configuration states, the search for the nearest name is short."""
    seen = []

    def compared(name, names, n):
        seen.append(len(names))
        return []

    monkeypatch.setattr("npvgg.weights.build.get_close_matches", compared)
    with pytest.raises(npvgg.WeightsError, match="missing"):
        create_model("repvgg_a0", depths=(700, 1, 1, 1), weights=tiny.tensors())
    assert max(seen) == 1000
