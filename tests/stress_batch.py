"""Batch runs under fire: `pytest tests/stress_batch.py`, in a section of its own of .ci/run.

One assertion for all: whatever was killed, filled, damaged, interrupted or raced, after running the
same command again the sha256 of every shard is that of the undisturbed run.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from batches import digests, rows_of, save_photos

from npvgg.batch.run import Run
from npvgg.batch.shards import KILLER

FAULTS = Path(__file__).parent / "faults"
PHOTOS, SIZE = 120, 10


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("stress") / "p", PHOTOS, np.random.default_rng(7))


@pytest.fixture(scope="module")
def undisturbed(photos):
    """The sha256 of every shard of a run that nothing happened to."""
    status, err = ended(start(photos, photos.parent / "undisturbed"))
    assert status == 0, err
    found = digests(photos.parent / "undisturbed")
    assert len(found) == PHOTOS // SIZE
    return found


def start(photos, run, *options, fault=None, full=False, more=()):
    """Start a batch run as a shell would."""
    search = os.pathsep.join(filter(None, [str(FAULTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "npvgg", "batch", photos, *more, "--output", run]
    command += ["--shard-size", SIZE, "--workers", 2, "--progress", "json", *options]
    limits = (4096, resource.RLIM_INFINITY)  # bytes, of any file that it writes
    return subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": search, "NPVGG_FAULT": json.dumps(fault or {})},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)) if full else None,
    )


def ended(process):
    """Wait for the end: status and what it said."""
    _, err = process.communicate(timeout=300)  # the first one may compile
    return process.returncode, err


def workers_of(run):
    """List the processes that work for a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"npvgg.batch.worker" in command and str(run).encode() in command:
                found.append(int(folder.name))
    return found


def nobody_left(run):
    """Tell whether all workers are gone a second later, at the latest."""
    until = time.monotonic() + 1
    while workers_of(run):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def whole(run):
    """Tell whether every file under a final name is a whole one."""
    return all(Run.open(run).rows(number).num_rows == SIZE for number in Run.open(run).done())


def goes_on(photos, run, undisturbed, *options):
    """Run the same command again, and compare."""
    status, err = ended(start(photos, run, *options))
    assert status == 0, err
    assert digests(run) == undisturbed
    assert not list((run / "shards").glob(".*"))
    assert json.loads((run / "summary.json").read_text())["ok"] == PHOTOS


def killing(tmp_path, role, event, text, count=1):
    """Return the fault that kills a process once, at a named point."""
    token = tmp_path / "token"
    token.touch()
    return {"role": role, "event": event, "text": text, "token": str(token)}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ("open", "/017.jpg"),  # while decoding
        ("open", "/shards/."),  # before the temporary file
        ("os.link", "/shards/."),  # after the temporary file
        ("os.remove", "/shards/."),  # after the link
    ],
    ids=["while-decoding", "before-the-file", "after-the-temporary-file", "after-the-link"],
)
def test_a_worker_is_killed(tmp_path, photos, undisturbed, event, text):
    fault = killing(tmp_path, "worker", event, text)
    status, err = ended(start(photos, tmp_path / "run", fault=fault))
    assert status == 0, err
    assert not Path(fault["token"]).exists()
    assert digests(tmp_path / "run") == undisturbed
    assert nobody_left(tmp_path / "run")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ("open", "run.json"),  # while planning, or before the plan is read
        ("os.rename", "/run"),  # before the plan appears
        ("os.rename", "errors.parquet"),
        ("os.rename", "summary.json"),
    ],
    ids=["planning", "before-the-plan-appears", "before-the-errors", "before-the-summary"],
)
def test_the_driver_is_killed_as_it_plans_or_finishes(tmp_path, photos, undisturbed, event, text):
    fault = killing(tmp_path, "driver", event, text)
    status, _ = ended(start(photos, tmp_path / "run", fault=fault))
    assert status == -signal.SIGKILL
    assert nobody_left(tmp_path / "run")
    goes_on(photos, tmp_path / "run", undisturbed)


@pytest.mark.parametrize("shards", [1, 5, 11])
def test_the_driver_is_killed_between_shards(tmp_path, photos, undisturbed, shards):
    process = start(photos, tmp_path / "run")
    lines = (line for line in process.stderr if line.startswith("{"))
    for _ in range(shards):
        assert next(lines)
    process.kill()
    process.wait()
    assert nobody_left(tmp_path / "run")
    process.stderr.close()
    assert whole(tmp_path / "run")
    goes_on(photos, tmp_path / "run", undisturbed)


def test_workers_are_killed_at_random(tmp_path, photos, undisturbed, rng):
    process = start(photos, tmp_path / "run")
    killed = 0
    while process.poll() is None and killed < 12:
        found = workers_of(tmp_path / "run")
        if len(found) > 1:  # the one that forks them is among them
            with suppress(ProcessLookupError):
                os.kill(int(rng.choice(found)), signal.SIGKILL)
                killed += 1
        time.sleep(0.05)
    ended(process)
    assert killed > 0
    assert nobody_left(tmp_path / "run")
    assert whole(tmp_path / "run")
    goes_on(photos, tmp_path / "run", undisturbed)


def test_a_photo_that_kills_its_worker_is_one_row(tmp_path, photos, undisturbed):
    fault = {"role": "worker", "event": "open", "text": "/025.jpg"}
    for name in ("one", "other"):
        status, err = ended(start(photos, tmp_path / name, fault=fault))
        assert status == 1, err
    rows = [row for row in rows_of(Run.open(tmp_path / "one")) if row["status"] != "ok"]
    assert [(row["id"], row["error"]) for row in rows] == [(25, KILLER)]
    found = digests(tmp_path / "one")
    assert found == digests(tmp_path / "other")
    assert {n: d for n, d in found.items() if n != 2} == {
        n: d for n, d in undisturbed.items() if n != 2
    }
    goes_on(photos, tmp_path / "one", undisturbed, "--retry-failed")


def test_photos_that_are_damaged_change_or_vanish(tmp_path, photos, undisturbed):
    paths = [photos / name for name in ("004.png", "015.jpg", "016.png")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    process = start(
        photos, tmp_path / "run", fault=killing(tmp_path, "driver", "open", "/run/inputs.")
    )
    assert ended(process)[0] == -signal.SIGKILL  # it is planned
    assert (tmp_path / "run" / "run.json").exists()
    try:
        paths[0].write_bytes(before[0][0][:-200])  # cut short, at the time that it had
        os.utime(paths[0], ns=(0, before[0][1]))
        paths[1].touch()
        paths[2].unlink()
        status, err = ended(start(photos, tmp_path / "run"))
    finally:
        for path, (data, mtime) in zip(paths, before, strict=True):
            path.write_bytes(data)
            os.utime(path, ns=(0, mtime))
    assert status == 1, err
    errors = {
        row["id"]: row["error"] for row in rows_of(Run.open(tmp_path / "run")) if row["error"]
    }
    assert sorted(errors) == [4, 15, 16]
    goes_on(photos, tmp_path / "run", undisturbed, "--retry-failed")


def test_a_full_disk(tmp_path, photos, undisturbed):
    process = start(
        photos, tmp_path / "run", fault=killing(tmp_path, "driver", "open", "/run/inputs.")
    )
    assert ended(process)[0] == -signal.SIGKILL  # it is planned
    status, err = ended(start(photos, tmp_path / "run", full=True))
    assert status == 2
    assert "File too large" in err
    assert digests(tmp_path / "run") == {}
    assert not list((tmp_path / "run" / "shards").glob(".*"))
    assert nobody_left(tmp_path / "run")
    goes_on(photos, tmp_path / "run", undisturbed)


def test_two_runs_into_one_folder_at_once(tmp_path, photos, undisturbed):
    both = [start(photos, tmp_path / "run") for _ in range(2)]
    assert [ended(process)[0] for process in both] == [0, 0]
    assert digests(tmp_path / "run") == undisturbed
    goes_on(photos, tmp_path / "run", undisturbed)


def test_parts(tmp_path, photos, undisturbed):
    three = [start(photos, tmp_path / "run", "--part", f"{n}/3") for n in (3, 1, 2)]
    assert [ended(process)[0] for process in three] == [0, 0, 0]
    assert digests(tmp_path / "run") == undisturbed
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_plan_leaves_nothing(tmp_path, photos, undisturbed, number):
    pipe = tmp_path / "more.tar"
    os.mkfifo(pipe)
    process = start(photos, tmp_path / "run", more=[pipe])
    while process.poll() is None and not list(tmp_path.glob(".*.tmp")):
        time.sleep(0.01)  # then it waits for the rest of the list
    process.send_signal(number)
    status, err = ended(process)
    assert status == 128 + number
    assert "nothing is planned yet" in err
    assert [path.name for path in tmp_path.iterdir()] == ["more.tar"]
    goes_on(photos, tmp_path / "run", undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_how_to_go_on(tmp_path, photos, undisturbed, number):
    process = start(photos, tmp_path / "run")
    assert process.stderr.readline()
    next(line for line in process.stderr if line.startswith("{"))
    process.send_signal(number)
    status, err = ended(process)
    assert status == 128 + number, err
    assert f"are done: go on with npvgg batch --output {tmp_path / 'run'}" in err
    assert nobody_left(tmp_path / "run")
    assert whole(tmp_path / "run")
    goes_on(photos, tmp_path / "run", undisturbed)


def test_a_clock_that_jumps(tmp_path, photos, undisturbed):
    status, err = ended(start(photos, tmp_path / "run", fault={"clock": True}))
    assert status == 0, err
    assert digests(tmp_path / "run") == undisturbed
    assert all(0 <= json.loads(x)["seconds"] < 60 for x in err.splitlines() if x[0] == "{")
