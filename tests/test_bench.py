"""The bench, as far as it needs neither rivals nor a quiet machine: its sums, tables and pictures.

No time decides a test.
"""

import json

import numpy as np
import pytest

import npvgg
from bench import __main__ as bench
from bench import constants, contenders, exports, folder, measure, numbers, report
from bench import points as points_
from bench.layers import work
from npvgg.engines import program as p
from npvgg.engines.cook_toom import POINTS
from npvgg.engines.microkernel import PANEL

FIRST, SECOND, ABSENT = "npvgg winograd", "onnxruntime", "ncnn"


def race_row(batch=1, **changes):
    entries = numbers.compared([FIRST, SECOND, ABSENT], [[10, 20, 12], [30, 40, 24], []])
    for entry, error in zip(entries, (3e-7, 2e-6, None), strict=True):
        entry["error"] = error
    entries[2]["failed"] = "ImportError: planted"
    row = {"model": "repvgg_a2", "size": 224, "batch": batch, "threads": 2, "contenders": entries}
    return row | changes


def layer_row(step="F(4) products", gflop=0.2):
    return {
        "batch": 1, "step": step, "ms": 2.0, "least ms": 1.0, "memory ms": 0.4, "× floor": 2.0,
        "GFLOP": gflop, "MB": 7.0, "GFLOP/s": gflop * 500,
        "peak GFLOP/s": 200.0, "peak GB/s": 16.0,
    }  # fmt: skip


ROWS = {
    "headline": [race_row(), race_row(16)],
    "threads": [race_row(threads=1), race_row(threads=2)],
    "layers": [layer_row(), layer_row("im2col"), layer_row("F(4) Bᵀ d B", 0.0)],
    "startup": [
        {"what": "warm", "seconds": 1.0, "seconds quartiles": [0.5, 1.25], "runs": 3},
        {"what": "cold", "seconds": 8.0, "seconds quartiles": [8.0, 8.0], "runs": 1},
    ],
    "memory": [{"what": FIRST, "MB": 520.0, "before MB": 38.0}],
}


@pytest.mark.parametrize(
    ("values", "want"),
    [([7], (7, 7, 7)), ([1, 3], (1.5, 2, 2.5)), ([5, 1, 4, 2, 3], (2, 3, 4))],
    ids=str,
)
def test_quartiles(values, want):
    assert numbers.quartiles(values) == want


def test_ratios_are_of_neighbours_in_time_not_of_medians():
    """All became twice as slow in the middle: the ratio of every turn is still 2."""
    first, second = numbers.compared(["a", "b"], [[1, 2, 2, 1.5], [2, 4, 4, 3]])
    assert first["ratio"] == 1
    assert (second["ratio"], second["ratio_quartiles"]) == (2, [2, 2])
    assert (second["ms"], second["ms_quartiles"]) == (3.5, [2.75, 4])
    assert second["turns"] == [2, 4, 4, 3]


def test_ratios_are_to_the_first_that_took_part():
    absent, ours, theirs = numbers.compared(["a", "b", "c"], [[], [4], [6]])
    assert absent == {"name": "a", "ms": None}
    assert (ours["ratio"], theirs["ratio"]) == (1, 1.5)
    assert numbers.compared(["a"], [[]]) == [{"name": "a", "ms": None}]


def test_the_roof_is_slanted_as_far_as_the_bend():
    assert [numbers.roof(x, 100, 20) for x in (0, 1, 5, 6)] == [0, 20, 100, 100]


def test_an_error_is_a_part_of_the_largest_value():
    assert measure.error_of(np.array([1.0, -7.5]), np.array([1.0, -8.0])) == 0.0625


def test_a_race_is_a_table_with_a_line_per_case_and_one_for_the_errors():
    text = report.table("headline", ROWS["headline"])
    head, rule, one, two, worst, blank, *failures = text.splitlines()
    assert head == "| ms per image | npvgg winograd | onnxruntime | ncnn |"
    assert rule == "| --- | --- | --- | --- |"
    assert one == (
        "| repvgg_a2, 224², batch 1, 2 threads | **12.00** (11.00 … 16.00), 1.00× (1.00 … 1.00) "
        "| **30.00** (27.00 … 35.00), 2.00× (2.00 … 2.50) | – |"
    )
    assert two.startswith("| repvgg_a2, 224², batch 16, 2 threads |")
    assert worst == "| largest error | 3.0e-07 | 2.0e-06 | – |"
    assert not blank
    assert failures[0] == (
        "ncnn took no part in repvgg_a2, 224², batch 1, 2 threads: ImportError: planted"
    )


def test_other_tables_show_numbers_with_their_quartiles():
    assert report.table("startup", ROWS["startup"]).splitlines() == [
        "| what | seconds | runs |",
        "| --- | --- | --- |",
        "| warm | 1 (0.5 … 1.25) | 3 |",
        "| cold | 8 (8 … 8) | 1 |",
    ]


def test_the_footnote_tells_machine_versions_commit_and_whether_it_was_quiet():
    where = report.machine()
    assert {"npvgg", "numpy", "numba"} <= where["versions"].keys()
    for load, word in ((0.1, False), (3.0, True), (None, False)):
        said = {"load": load, "processor": "A CPU", "units": ["avx2"]}
        note = report.footnote("memory", where | said)
        assert "A CPU (avx2), " in note
        assert where["commit"] in note
        assert f"numpy {np.__version__}" in note
        assert ("busy" in note) is word


@pytest.mark.parametrize("what", ROWS)
def test_results_are_written_as_data_table_and_pictures(what, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    report.write(what, ROWS[what], report.machine(), tmp_path)
    data = json.loads((tmp_path / f"{what}.json").read_text(encoding="utf-8"))
    assert data["rows"] == ROWS[what]
    assert (tmp_path / f"{what}.md").read_text(encoding="utf-8") == capsys.readouterr().out
    second = {"headline": "-accuracy", "layers": "-roofline"}
    for name in {what, what + second.get(what, "")}:
        picture = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert picture.count("<path") > 10
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def step(kind, **fields):
    return p.program_of([{"kind": kind, **fields}])[0]


@pytest.mark.parametrize("count", [1, 3])
def test_the_work_of_a_step_is_counted_by_hand(count):
    common = {"x_image": 1000, "height": 7, "width": 5}
    direct = step(p.DIRECT, pixels=count * 35, panels=3, depth=90, **common)
    gflop, megabytes = work(direct, count)
    assert gflop == pytest.approx(2e-9 * count * 35 * 90 * 3 * PANEL)
    maps = count * (1000 + 35 * 3 * PANEL)
    assert megabytes == pytest.approx(4e-6 * (maps + 90 * 3 * PANEL))
    tiles = {"n": 4, "v_plane": 320, "tiles": 12, **common}
    want = pytest.approx(4e-6 * (count * 1000 + 16 * 320))
    assert work(step(p.TO_V, **tiles), count) == (0, want)
    gflop, megabytes = work(step(p.FROM_V, depth=90, panels=3, **tiles), count)
    assert gflop == pytest.approx(2e-9 * 12 * 90 * 3 * PANEL * 16)
    floats = 16 * 320 + 9 * 90 * 3 * PANEL + count * 35 * 3 * PANEL
    assert megabytes == pytest.approx(4e-6 * floats)
    assert work(step(p.SQUEEZE, **common), count) == (0, pytest.approx(4e-6 * count * 1000))


def test_a_constant_is_changed_for_a_while_and_every_alternative_is_one():
    for name, values in constants.ALTERNATIVES.items():
        module, _, constant = name.partition(".")
        before = getattr(constants.MODULES[module], constant)
        for value in values:
            assert type(value) is type(before)
            with constants.changed(name, value):
                assert getattr(constants.MODULES[module], constant) == value
        assert getattr(constants.MODULES[module], constant) == before


def test_points_are_searched_among_sets_that_hold_those_in_use():
    for m in (2, 3, 4):
        sets = {frozenset(points) for points in points_.candidates(m + 1)}
        assert all(len(points) == m + 1 for points in sets)
        assert frozenset(POINTS[m + 1]) in sets
    found = points_.search(2)
    assert found[0][1] == POINTS[3]
    assert found == sorted(found)


# --- Races ----------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A network with a file, so that a race takes a moment."""
    monkeypatch.setenv(contenders.FILES, str(tmp_path))
    model = npvgg.create_model("repvgg_nano", seed=0, engine="reference")
    model.save(tmp_path / "repvgg_nano.safetensors")
    return "repvgg_nano"


@pytest.mark.slow
def test_contenders_take_turns_and_who_fails_is_out(small, monkeypatch):
    names = ["npvgg im2col", "no such contender", "npvgg winograd"]
    found = measure.race(names, small, threads=1, batch=2, size=32, turns=3, seconds=0.01)
    assert [len(contender.turns) for contender in found] == [3, 0, 3]
    assert "KeyError" in found[1].failed
    for contender in (found[0], found[2]):
        assert contender.error < 1e-5
        assert all(turn > 0 for turn in contender.turns)
        assert not contender.process.is_alive()


def test_whoever_is_off_takes_no_part():
    class Pipe:
        def recv(self):
            return np.array([1.0, 2.1])

    contender = measure.Contender("rival", None, Pipe())
    measure._check(contender, np.array([1.0, 2.0]))
    assert contender.failed == "its output is off by 0.05 of the largest logit"
    contender = measure.Contender("rival", None, Pipe())
    measure._check(contender, np.array([1.0, 2.1]))
    assert (contender.failed, contender.error) == ("", 0)


def test_a_contender_whose_process_dies_is_out():
    class Process:
        exitcode = -9

    class Pipe:
        def recv(self):
            raise EOFError

        def send(self, question):
            pass

    contender = measure.Contender("rival", Process, Pipe(), 0.0, [1.0])
    assert contender.ask(1.0) is None
    assert (contender.failed, contender.turns) == ("its process ended: -9", [])


def test_the_command_line_races_and_writes(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "VARIANTS", {small: 32})
    out = tmp_path / "results"
    few = ["--turns", "1", "--seconds", "0.01", "--only", "npvgg winograd", "--out", str(out)]
    bench.main(["variants", *few])
    (row,) = json.loads((out / "variants.json").read_text(encoding="utf-8"))["rows"]
    assert (row["model"], row["size"], row["batch"]) == (small, 32, 1)
    assert row["contenders"][0]["ms"] > 0
    assert "| ms per image | npvgg winograd |" in capsys.readouterr().out


def test_a_folder_is_measured_beside_its_parts(small, monkeypatch):
    monkeypatch.setattr(folder, "KINDS", {"500×375": (40, 30, 5), "4000×3000": (60, 40, 5)})
    rows = folder.folder(small, 20, turns=1)
    assert [row["what"].split(": ")[1] for row in rows[:3]] == ["decoding", "network", "folder"]
    assert len(rows) == 10
    assert all(row["value"] > 0 for row in rows)


def test_the_onnx_file_of_the_rivals_is_npvggs_own(small):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(contenders.exported(small, ".onnx"))
    assert model.producer_name == "npvgg"
    ends = model.graph.input[0], model.graph.output[0]
    assert [end.name for end in ends] == ["x", "logits"]
    sizes = [[d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim] for end in ends]
    assert sizes == [["N", 3, "H", "W"], ["N", 10]]


def test_ncnns_file_has_every_layer_and_every_number(tmp_path):
    model = npvgg.create_model("repvgg_nano", seed=0, engine="reference")
    exports.write_ncnn(model, tmp_path / "net.param")
    magic, counts, *layers = (tmp_path / "net.param").read_text(encoding="ascii").splitlines()
    assert magic == "7767517"
    assert counts.split()[0] == str(len(layers))
    assert sum(line.startswith("Convolution") for line in layers) == len(model.network.blocks)
    arrays = model.state_dict().values()
    tags = len(model.network.blocks) + 1  # a word before each weight says how it is stored
    size = 4 * (sum(array.size for array in arrays) + tags)
    assert (tmp_path / "net.bin").stat().st_size == size
