"""The same work given to Dask or to Ray: they schedule numbers of shards, and nothing else.

What a cluster's process is asked to do is `one`: it has a worker of its own, as `local` hires them,
compute a shard into the run's folder. So a photo that kills kills that worker and not the cluster's
process; and a process that the cluster loses and replaces leaves nothing half done. All machines
must see the run's folder, and the photos, under the same paths.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from npvgg.batch import guests
from npvgg.batch.local import Workers
from npvgg.batch.run import Run
from npvgg.batch.shards import BATCH_SIZE, Done
from npvgg.errors import ArgumentError

RETRIES = 10
"""How often Ray gives a shard out again when the process that had it is lost. Dask does so
three times, if its setting distributed.scheduler.allowed-failures says nothing else.
"""

_here = threading.local()


def one(number: int, folder: str, retry: bool, threads: int, batch_size: int) -> tuple[int, ...]:
    """Compute a shard in a worker that this thread keeps for the next one; return a `Done`.

    Raises ArgumentError.
    """
    key = folder, threads, batch_size
    if getattr(_here, "key", None) != key:
        _let_go()
        _here.workers = Workers(Run.open(folder), threads=threads, batch_size=batch_size)
        _here.key = key
    try:
        (done,) = _here.workers.compute([number], retry=retry)
    except BaseException:
        _let_go()
        raise
    return tuple(done)


def _let_go() -> None:
    if getattr(_here, "key", None) is not None:
        _here.key = None
        _here.workers.close()


def with_dask(
    run: Run,
    shards: Iterable[int],
    *,
    address: str | None = None,
    workers: int = 1,
    threads: int = 1,
    batch_size: int = BATCH_SIZE,
    retry: bool = False,
) -> Iterator[Done]:
    """Compute shards on a Dask cluster; give each when it is done.

    address: of a scheduler; without one, a cluster of `workers` processes is started here, which
        listens on the loopback alone, has no dashboard, and ends with the work

    Raises ArgumentError.
    """
    distributed = guests.distributed()
    with ExitStack() as stack:
        cluster: Any = address
        if address is None:
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    worker_dashboard_address=None,
                    silence_logs=40,  # logging.ERROR
                )
            )
        client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        arguments = os.path.abspath(run.folder), retry, threads, batch_size
        futures = [client.submit(one, number, *arguments, pure=False) for number in shards]
        stack.callback(client.cancel, futures)
        for future in distributed.as_completed(futures, loop=client.loop):
            yield Done(*_answer(future.result))


def with_ray(
    run: Run,
    shards: Iterable[int],
    *,
    address: str | None = None,
    workers: int = 1,
    threads: int = 1,
    batch_size: int = BATCH_SIZE,
    retry: bool = False,
) -> Iterator[Done]:
    """Compute shards on a Ray cluster; give each when it is done.

    address: of a cluster; without one, Ray is started here with so many workers, without dashboard
        and usage statistics, and ends with the work; it listens on the loopback alone, unless
        `ray`, which reads its environment once, was imported before

    Raises ArgumentError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:  # or Ray turns the loopback into the address that others reach
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = guests.ray()
    with ExitStack() as stack:
        if not ray.is_initialized():
            here: dict[str, Any] = {
                "num_cpus": workers * threads,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
            }
            ray.init(address=address or "local", log_to_driver=False, **({} if address else here))
            stack.callback(ray.shutdown)
        task = ray.remote(num_cpus=threads, max_retries=RETRIES)(one)
        arguments = os.path.abspath(run.folder), retry, threads, batch_size
        pending = [task.remote(number, *arguments) for number in shards]
        while pending:
            ready, pending = ray.wait(pending, num_returns=1)
            yield Done(*_answer(partial(ray.get, ready[0])))


def _answer(get: Callable[[], Any]) -> Any:
    """Return what a task did; whatever it or the cluster raises leaves as ArgumentError."""
    try:
        return get()
    except Exception as error:
        raise ArgumentError(f"engine: {error}") from error
