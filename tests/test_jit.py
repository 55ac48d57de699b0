"""Compiled kernels are kept, and nothing found in their directory can make a program fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import npvgg

CODE = """
import sys, numpy as np
from npvgg import jit
@jit.kernel
def double(x):
    return 2 * x
assert double(21) == 42
print(sum(double.stats.cache_hits.values()), jit.kernel_cache())
"""


def run(tmp_path, **environment):
    """Run a script whose kernel is cached: (hits, directory of the cache or "None")."""
    script = tmp_path / "script.py"
    script.write_text(CODE)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_"))}
    root = str(Path(npvgg.__file__).parents[1])
    environment = {k: v for k, v in {**clean, "PYTHONPATH": root, **environment}.items() if v}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    hits, directory = done.stdout.split(" ", 1)
    return int(hits), directory.strip()


def test_the_second_process_finds_the_kernel(tmp_path):
    cache = str(tmp_path / "cache")
    hits, directory = run(tmp_path, XDG_CACHE_HOME=cache)
    assert hits == 0
    assert directory.startswith(cache)
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 1


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "foreign", "truncated"])
@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_a_damaged_file_means_compiling_again(tmp_path, damage, kind):
    cache = str(tmp_path / "cache")
    _, directory = run(tmp_path, XDG_CACHE_HOME=cache)
    files = list(Path(directory).rglob(kind))
    assert files
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 0
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 1


def test_without_a_home_there_is_another_place(tmp_path):
    (tmp_path / "file").write_text("")
    _, directory = run(tmp_path, HOME=str(tmp_path / "file" / "below"), TMPDIR=str(tmp_path))
    assert directory.startswith(str(tmp_path))


def test_without_any_place_it_works_uncached(tmp_path):
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "below")
    hits, directory = run(tmp_path, NUMBA_CACHE_DIR=nowhere)
    assert (hits, directory) == (0, "None")


def test_the_users_choice_of_directory_is_respected(tmp_path):
    _, directory = run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "mine"))
    assert directory == str(tmp_path / "mine")
