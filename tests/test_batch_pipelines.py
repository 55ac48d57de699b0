"""The recipes of npvgg/batch/pipelines.md: each is run as it stands there, in a process of its own.

The engines are large and in no extra of the tests: they are installed by a section of .ci/run.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from batches import save_photos

from npvgg.batch import Predictor

PAGE = (Path(__file__).parents[1] / "npvgg/batch/pipelines.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
NEEDS = {"Ray Data": "ray", "Spark": "pyspark", "Daft": "daft", "Apache Beam": "apache_beam"}

AT_HOME = re.compile(r"127\.|::1$|::ffff:127\.")
PLACE = re.compile(
    r" (?:connect|bind)\(\d+, \{sa_family=AF_INET6?, .*?"
    r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]*)"'
)


def beyond_the_loopback(log):
    """List the addresses that are not the loopback's of a log of strace: asked, or listened on."""
    found = {match[1] for match in map(PLACE.search, log.splitlines()) if match}
    return {address for address in found if not AT_HOME.match(address)}


def test_an_address_beyond_the_loopback_is_found():
    log = """
1 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.2")}, 16) = 0
2 bind(4, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
3 bind(5, {sa_family=AF_INET6, sin6_port=htons(8), inet_pton(AF_INET6, "::", &sin6_addr)}, 28) = 0
4 connect(8, {sa_family=AF_INET6, sin6_port=htons(8), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28)
5 connect(9, {sa_family=AF_UNIX, sun_path="/run/x"}, 110) = 0
"""
    assert beyond_the_loopback(log) == {"10.0.0.2", "::"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_what_the_predictor_gives(name, tmp_path, rng, monkeypatch):
    package = NEEDS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if name == "Spark" and shutil.which("java") is None:
        pytest.skip("java is not installed")
    save_photos(tmp_path / "photos", 6, rng)
    (tmp_path / "photos" / "004.png").write_bytes(b"no photo")
    (tmp_path / "recipe.py").write_text(RECIPES[name], encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    (home / "ray_bootstrap_config.yaml").write_text("{}")  # as the operator's page has it
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    log = tmp_path / "strace.log"
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,bind", "-o", str(log)]
    done = subprocess.run(
        [*(strace if shutil.which("strace") else []), sys.executable, "recipe.py"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": cache},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    parquet = pytest.importorskip("pyarrow.parquet")
    paths = [f"photos/{path.name}" for path in sorted((tmp_path / "photos").iterdir())]
    found = parquet.read_table(tmp_path / "rows").to_pylist()
    found = {row["path"]: row for row in found}
    assert sorted(found) == paths
    monkeypatch.chdir(tmp_path)
    expected = Predictor({"want": ["topk", "embedding"]})({"path": np.array(paths)})
    assert expected["status"].tolist() == ["ok"] * 4 + ["error", "ok"]
    for n, path in enumerate(paths):
        row = found[path]
        assert row.keys() >= {"status", "error", "top_index", "top_label", "embedding"}
        for column, value in row.items():
            wanted = expected[column][n]
            if wanted.dtype.kind == "U":
                assert value == wanted.tolist()
            else:  # NaN is NaN
                assert np.array(value, wanted.dtype).tobytes() == wanted.tobytes(), (path, column)
    if not log.exists():
        pytest.skip("the rows are right; strace is not installed: not seen whom the recipe asks")
    assert beyond_the_loopback(log.read_text(errors="replace")) == set()


def test_the_first_listing_runs(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    code = re.search(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    exec(compile(code, "pipelines.md", "exec"), {})


def test_every_recipe_has_its_engine():
    assert RECIPES.keys() == NEEDS.keys()
