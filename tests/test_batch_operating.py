"""What the operator's page tells cron, systemd, Slurm and Kubernetes, done as it stands there.

Replaced in the page's text are the places alone: /data by a folder of the test, npvgg by the one
that is tested, and 8 parts by 2.
"""

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from batches import digests, planned, rows_of, save_photos

from npvgg.batch.run import SUMMARY, Run
from npvgg.batch.shards import run_shard

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'npvgg[batch]'")
pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[1] / "npvgg/batch/operating.md").read_text(encoding="utf-8")
NPVGG = shlex.join([sys.executable, "-m", "npvgg"])


def on_page(title, data):
    """Give the code below a title, with the test's own places in it."""
    block = re.search(rf"^## {title}\n.*?^```\w*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    assert len(re.findall(r"/data\b", block)) >= 1
    assert len(re.findall(r"\bnpvgg batch ", block)) == 1
    block = re.sub(r"/data\b", str(data), block)
    return re.sub(r"[\w/]*\bnpvgg(?= batch )", NPVGG.replace("\\", r"\\"), block)


@pytest.fixture
def data(tmp_path, rng):
    """The folder that stands for /data: photos, one of them bad."""
    folder = save_photos(tmp_path / "photos", 8, rng)
    (folder / "006.png").write_bytes(b"no photo")
    return tmp_path


@pytest.fixture
def plan(data):
    """The run that /data/run is, planned with two shards; and the bytes that it shall have."""
    planned(data / "run", data / "photos")
    other, predictor = planned(data / "other", data / "photos")
    for number in range(other.shards):
        run_shard(other, number, predictor)
    return digests(other)


def test_cron(data):
    line = on_page("cron", data)
    fields = line.split(maxsplit=5)
    assert [field for field in fields[:5] if re.fullmatch(r"\*|\d+", field)] == fields[:5]
    assert not re.search(r"(?<!\\)%", fields[5])  # cron takes it for the end of the line
    done = subprocess.run(
        ["/bin/sh", "-c", fields[5].replace(r"\%", "%")],
        env={"HOME": str(Path.home()), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr  # one photo is bad
    (run,) = (data / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", run.name)
    assert [row["status"] for row in rows_of(Run.open(run))] == ["ok"] * 6 + ["error", "ok"]


def test_systemd(data, plan):
    unit = configparser.ConfigParser()
    unit.optionxform = str
    unit.read_string(on_page("systemd", data))
    service = unit["Service"]
    done = subprocess.run(shlex.split(service["ExecStart"]), capture_output=True, timeout=300)
    assert str(done.returncode) == service["SuccessExitStatus"]  # one photo is bad
    assert digests(data / "run") == plan
    (data / "run" / "inputs.parquet").unlink()
    done = subprocess.run(shlex.split(service["ExecStart"]), capture_output=True, timeout=300)
    assert str(done.returncode) == service["RestartPreventExitStatus"]  # nothing mends that


def test_slurm(data, plan):
    script = on_page("Slurm", data)
    (parts,) = re.findall(r"--array=1-(\d+)", script)
    assert script.count(f"/{parts}") == 1
    script = script.replace(f"/{parts}", "/2")
    for task, left in (("1", [0]), ("2", [0, 1])):
        done = subprocess.run(
            ["bash", "-c", 'srun() { "$@"; }\n' + script],
            env={"HOME": str(Path.home()), "PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": task},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "part is done" in done.stderr or task == "2"
        assert sorted(digests(data / "run")) == left
    assert digests(data / "run") == plan
    assert (data / "run" / SUMMARY).exists()


def test_kubernetes(data, plan):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    job = yaml.safe_load(on_page("Kubernetes", data))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"  # which gives JOB_COMPLETION_INDEX
    template = spec["template"]["spec"]
    (container,) = template["containers"]
    volumes = {volume["name"] for volume in template["volumes"]}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [str(data)]
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    *shell, command = container["command"]
    assert shell == ["sh", "-c"]
    assert command.count(f"/{spec['completions']} ") == 1
    command = command.replace(f"/{spec['completions']} ", "/2 ")
    for index in ("0", "1"):
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env={"HOME": str(Path.home()), "PATH": "/usr/bin:/bin", "JOB_COMPLETION_INDEX": index},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr  # a bad photo is no failure of the job
        assert len(digests(data / "run")) == int(index) + 1
    assert digests(data / "run") == plan
