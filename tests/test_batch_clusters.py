"""The same run on real clusters, with one of their processes killed, compared byte by byte.

The packages are large and in no extra of the tests: they are installed by a section of .ci/run.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from batches import digests, planned, rows_of, save_photos

from npvgg.batch import clusters
from npvgg.batch.local import Workers
from npvgg.batch.run import Run
from npvgg.batch.shards import KILLER
from npvgg.cli.main import main
from npvgg.errors import ArgumentError

FAULTS = Path(__file__).parent / "faults"
SHARDS = 12

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'npvgg[batch]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the clusters' own files and sockets
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def photos(tmp_path, rng):
    folder = save_photos(tmp_path / "photos", 4 * SHARDS, rng)
    (folder / "006.png").write_bytes(b"no photo")
    return folder


@pytest.fixture
def local(tmp_path, photos):
    """The sha256 of the shards as this machine's own workers write them."""
    run, _ = planned(tmp_path / "local", photos)
    with Workers(run) as workers:
        list(workers.compute(range(run.shards)))
    return digests(run)


def listening(mark):
    """List the addresses on which this process listens, and those that have a mark among their
    environment's variables.
    """
    lines = [line.split() for kind in ("tcp", "tcp6")
             for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]  # fmt: skip
    places = {f"socket:[{line[9]}]": line[1].partition(":")[0] for line in lines if line[3] == "0A"}
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.name == str(os.getpid()) or mark in (folder / "environ").read_bytes():
                links = [os.readlink(link) for link in (folder / "fd").iterdir()]
                found |= {places[link] for link in links if link in places}
    return found


LOOPBACK = {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and 127.0.0.1 as IPv6 has it, as /proc/net writes them."""


@pytest.fixture
def nothing_listens_elsewhere(tmp_path, monkeypatch):
    """Whatever a cluster listens on, when a shard is done, is the loopback."""
    mark = f"NPVGG_CLUSTER_TEST={tmp_path}"
    monkeypatch.setenv(*mark.split("=", 1))
    seen = set()

    def watched(compute):
        def looking(*arguments, **options):
            for done in compute(*arguments, **options):
                seen.update(listening(mark.encode()))
                yield done

        return looking

    for name in ("with_dask", "with_ray"):
        monkeypatch.setattr(clusters, name, watched(getattr(clusters, name)))
    yield
    assert seen, "the cluster was not seen to listen at all"
    assert seen <= LOOPBACK


def killing_one(results, pids):
    """Give what is done, sorted; kill one of the processes that a function lists after the first:
    the cluster then has all others before it.
    """
    done = [next(results)]
    os.kill(pids()[0], signal.SIGKILL)
    return sorted([*done, *results])


# --- Dask -----------------------------------------------------------------------------------------


needs_dask = pytest.mark.skipif(
    find_spec("distributed") is None, reason="dask is not installed: pip install 'npvgg[dask]'"
)


@needs_dask
def test_dask_gives_the_same_bytes(tmp_path, photos, local, nothing_listens_elsewhere):
    planned(tmp_path / "run", photos, spec={"topk": 3})
    status = main(
        ["batch", "--output", str(tmp_path / "run"), "--engine", "dask", "--workers", "2"]
    )
    assert status == 1  # one photo is bad
    assert digests(tmp_path / "run") == local


@needs_dask
def test_a_dask_worker_is_killed(tmp_path, photos, local):
    import distributed

    run, _ = planned(tmp_path / "run", photos)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None,
        silence_logs=50,
    ) as cluster:  # fmt: skip
        results = clusters.with_dask(run, range(SHARDS), address=cluster.scheduler_address)
        done = killing_one(results, lambda: [nanny.pid for nanny in cluster.workers.values()])
    assert [number for number, *_ in done] == list(range(SHARDS))
    assert digests(run) == local


@needs_dask
def test_a_photo_that_kills_on_dask_is_one_row(tmp_path, photos, local, monkeypatch):
    fault = '{"role": "worker", "event": "open", "text": "/021.jpg"}'
    monkeypatch.setenv("PYTHONPATH", str(FAULTS), prepend=os.pathsep)
    monkeypatch.setenv("NPVGG_FAULT", fault)
    run, _ = planned(tmp_path / "run", photos)
    done = sorted(clusters.with_dask(run, range(SHARDS), workers=2))
    assert [failed for *_, failed in done] == [0, 1, 0, 0, 0, 1, *[0] * 6]
    assert rows_of(run)[21]["error"] == KILLER
    monkeypatch.delenv("NPVGG_FAULT")
    assert list(clusters.with_dask(run, [5], retry=True)) == [(5, 4, 0)]
    assert digests(run) == local


@needs_dask
def test_what_a_task_raises_on_dask_is_said_at_once(tmp_path, photos, monkeypatch):
    run, _ = planned(tmp_path / "run", photos)
    (run.folder / "inputs.parquet").unlink()
    tries = tmp_path / "tries"

    def counted(*arguments):
        from npvgg.batch.clusters import one  # the process's own

        with open(tries, "a") as file:
            file.write("x")
        return one(*arguments)

    monkeypatch.setattr(clusters, "one", counted)
    with pytest.raises(ArgumentError, match=r"inputs\.parquet"):
        list(clusters.with_dask(run, [0]))
    assert tries.read_text() == "x"


# --- Ray ------------------------------------------------------------------------------------------


needs_ray = pytest.mark.skipif(  # not imported here: it reads its environment once
    find_spec("ray") is None, reason="ray is not installed: pip install 'npvgg[ray]'"
)


def ray_workers():
    """List the processes of Ray that run our tasks."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::one"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@needs_ray
def test_ray_gives_the_same_bytes_when_a_worker_is_killed(
    tmp_path, photos, local, nothing_listens_elsewhere
):
    run, _ = planned(tmp_path / "run", photos)
    done = killing_one(clusters.with_ray(run, range(SHARDS), workers=2), ray_workers)
    assert [number for number, *_ in done] == list(range(SHARDS))
    assert digests(run) == local


@needs_ray
def test_a_photo_that_kills_on_ray_is_one_row(tmp_path, photos, local):
    planned(tmp_path / "run", photos)
    fault = '{"role": "worker", "event": "open", "text": "/021.jpg"}'
    path = os.pathsep.join(filter(None, [str(FAULTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "npvgg", "batch", "--output", tmp_path / "run"]
    status = subprocess.run(
        [*map(str, command), "--engine", "ray", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": path, "NPVGG_FAULT": fault},
        timeout=120,
    ).returncode
    assert status == 1
    run = Run.open(tmp_path / "run")
    assert rows_of(run)[21]["error"] == KILLER
    found = digests(run)
    assert {n: d for n, d in found.items() if n != 5} == {n: d for n, d in local.items() if n != 5}
    with Workers(run) as workers:
        list(workers.compute([5], retry=True))
    assert digests(run) == local
