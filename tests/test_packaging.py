"""What a wheel must carry, and what an import must not."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import npvgg

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_command_line_starts_without_them_too():
    code = (
        "import npvgg.cli.main, sys\n"
        "try: npvgg.cli.main.main(['list'])\n"
        "finally: print('numba' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_the_command_line_listens_for_signals_before_numpy_comes():
    code = "import npvgg.cli.process, sys; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["False"]


def test_the_front_door_leads_to_everything_that_it_names():
    modules = {path.stem for path in Path(npvgg.__file__).parent.glob("[a-z]*.py")}
    folders = {path.parent.name for path in Path(npvgg.__file__).parent.glob("*/__init__.py")}
    assert modules | folders == {*npvgg._MODULES, "cli", "version"}
    code = (
        "import npvgg, sys; assert 'numpy' not in sys.modules\n"
        f"for name in {[*npvgg.__all__, *npvgg._MODULES]}:\n"
        "    assert name in dir(npvgg) and getattr(npvgg, name) is getattr(npvgg, name)\n"
        "from npvgg import *\n"
        "assert npvgg.create_model is create_model"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'npvgg' has no attribute 'nothing'"):
        npvgg.nothing  # noqa: B018


def test_what_the_package_needs_at_run_time_lies_inside_it():
    package = Path(npvgg.__file__).parent
    for name in ("py.typed", "assets/imagenet_1k.tsv", "assets/LICENSES.md",
                 "assets/LICENSE-Apache-2.0.txt",
                 "assets/chelsea.png", "assets/repvgg_nano.cifar10.safetensors"):  # fmt: skip
        assert (package / name).is_file(), name


def test_the_bundled_weights_stay_small():
    assert (ROOT / "npvgg/assets/repvgg_nano.cifar10.safetensors").stat().st_size <= 3_000_000


def test_the_oldest_versions_that_are_tested_are_the_lowest_that_are_accepted():
    def versions(lines, sign):
        for line in lines:
            name, version = line.split(sign)
            yield name, [*map(int, version.split(".")), 0, 0][:3]

    lowest = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    lines = (ROOT / ".ci/oldest-requirements.txt").read_text("utf-8").splitlines()
    tested = [line for line in lines if not line.startswith("#")]
    assert dict(versions(tested, "==")) == dict(versions(lowest, " >= "))


def test_every_licence_file_that_the_project_names_exists():
    for name in PROJECT["license-files"]:
        assert (ROOT / name).is_file(), name
