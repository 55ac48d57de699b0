"""The longer searches start, and find nothing in a moment."""

import subprocess
import sys
from pathlib import Path

import fuzz_blind
import fuzz_targets
import fuzz_torchfile
import pytest

import npvgg

HERE = Path(__file__).parent
OF_BATCHES = {"container", "parquet", "paths", "plan", "inputs", "shard", "arguments"}


def test_the_blind_search_runs():
    cases = iter(range(200))
    counts = fuzz_torchfile.search(lambda: next(cases, None) is not None, seed=1)
    assert counts["read"] > 0
    assert counts["refused"] > 0
    assert counts["read"] + counts["refused"] == 200


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_the_blind_search_of_every_target_runs(target):
    """Forty inputs; hours of them are for the command line."""
    if target in OF_BATCHES:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: no batch runs")
    cases = iter(range(40))
    counts = fuzz_blind.search(target, lambda: next(cases, None) is not None, seed=1)
    assert counts["read"] + counts["refused"] == 40
    ends_itself = target in ("list", "arguments")  # with rows of errors, with a status
    assert ends_itself or counts["refused"] > 0


@pytest.mark.parametrize("target", ["pickle", "config"])
def test_the_guided_search_runs(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed: no guided search")
    command = [sys.executable, HERE / "fuzz_atheris.py", target, "-runs=200", "-timeout=20"]
    package = str(Path(npvgg.__file__).parents[1])
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": package}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Done 200 runs" in done.stderr
    assert list(tmp_path.iterdir()) == []
