"""The README cannot rot: its code runs, its output is the real one."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from npvgg.cli import commands, photos
from npvgg.cli.main import main
from npvgg.engines import ENGINES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=["forward", "interface", "port"])
def test_the_code_runs(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})


def test_the_first_two_listings_have_types(tmp_path, monkeypatch):
    api = pytest.importorskip("mypy.api", reason="the package mypy is not installed")
    monkeypatch.chdir(ROOT)
    files = [tmp_path / f"listing_{number}.py" for number in (1, 2)]
    for file, code in zip(files, blocks("python"), strict=False):
        file.write_text(code, encoding="utf-8")
    said, failed, _ = api.run(["--strict", *map(str, files)])
    assert said == "Success: no issues found in 2 source files\n", failed


def test_the_output_is_what_the_first_command_prints(monkeypatch, capfdbinary):
    monkeypatch.chdir(ROOT)
    command = next(line for line in README.splitlines() if line.startswith("python3 -m venv"))
    arguments = shlex.split(command.rpartition("npvgg ")[2])
    assert main(arguments) == photos.OK
    assert capfdbinary.readouterr().out.decode() == blocks("text")[0]


def test_the_report_is_what_a_forgetful_port_gets():
    code = blocks("python")[2].replace("assert_matches(", "report = compare(")
    code = code.replace("import assert_matches", "import compare").replace(
        "x = relu(block.form(", "x = relu(forgetful(block)("
    )
    found = {"forgetful": lambda block: (
        replace(block.form, identity=None) if block.spec.name == "stages.0.1" else block.form
    )}  # fmt: skip
    exec(compile(code, "README.md", "exec"), found)
    assert blocks("text")[1] in str(found["report"])


def test_every_command_that_it_shows_is_one(capsys):
    shown = [
        shlex.split(line, comments=True)
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("npvgg ")
    ]
    assert len(shown) >= 5
    for _, *arguments in shown:
        arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments
        assert callable(commands.parser().parse_args(arguments).run)


def test_every_folder_and_every_module_of_the_root_has_its_place_in_the_house():
    house = README.partition("## The house")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| (.*?) \|", house, re.MULTILINE))
    listed = set(re.findall(r"`(\w+/?)`", " ".join(listed)))
    root = {path.stem for path in (ROOT / "npvgg").glob("[a-z]*.py")}
    folders = {f"{path.parent.name}/" for path in (ROOT / "npvgg").glob("*/__init__.py")}
    assert listed - {"npvgg/"} == root - {"errors", "version"} | folders


def test_the_measured_errors_are_those_of_the_report():
    report = (ROOT / "weights_tools" / "validation.md").read_text("utf-8")
    assert "## Failures\n\n- none\n" in report
    rows = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("|")]
    found = {row[0]: row[1:] for row in rows if row[0] in ("PyTorch", "reference, float64")}
    shares = {row[0]: row[3].split()[0] for row in rows if row[0] in ENGINES}
    assert shares.keys() == ENGINES.keys()
    text = " ".join(README.split())
    assert f"Measured on {found['PyTorch'][0]} networks" in text
    assert f"at most {max(shares.values(), key=float)} of what its derived tolerance" in text
    assert f"(PyTorch itself: {found['PyTorch'][2]})" in text
    assert f"within {found['reference, float64'][3]} of the largest number" in text


def measured(name):
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text("utf-8"))["rows"]


def test_the_table_of_speeds_is_what_was_measured():
    lines = README.partition("## How fast is it?")[2].partition("\n## ")[0].splitlines()
    (_, *names), _, *table = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    times, errors = {}, {}
    for row in measured("headline"):
        network = row["model"].removeprefix("repvgg_").capitalize()
        key = f"{network}, {row['size']}, {row['batch']}, {row['threads']}"
        found = {entry["name"].replace(" ", ""): entry for entry in row["contenders"]}
        entries = [found[name.replace(" ", "").lower()] for name in names]
        times.setdefault(key, [f"{entry['ms']:.1f}" for entry in entries])
        errors.setdefault(network, []).append([entry["error"] for entry in entries])
    columns = zip(*errors["A2"], strict=True)
    largest = [f"{max(column):.1e}".replace("e-0", "e-") for column in columns]
    assert len(table) == 4
    for key, *cells in table[:-1]:
        assert cells == times[key], key
    assert table[-1] == ["largest error, A2", *largest]


def test_the_other_measurements_are_those_of_the_bench():
    text = " ".join(README.split())
    readable = {entry["name"]: entry["ms"] for entry in measured("readable")[0]["contenders"]}
    seconds = {row["what"]: row["seconds"] for row in measured("startup")}
    memory = {row["what"]: row["MB"] for row in measured("memory")}
    assert (
        f"The reference engine takes {readable['npvgg reference']:.0f} ms for A2, onnx's own "
        f"evaluator {readable['onnx.reference']:.0f}"
    ) in text
    assert (
        f"{seconds['npvgg, bundled network']:.2f} s with the network that ships, "
        f"{seconds['npvgg, A2 from a file']:.2f} s with A2 from a file, "
        f"{seconds['npvgg, bundled network, first run ever (compiles)']:.1f} s when the kernels"
    ) in text
    assert f"A2 takes {memory['npvgg winograd']:.0f} MB" in text
