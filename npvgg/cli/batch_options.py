"""What `npvgg batch` and `npvgg search` can be asked; what they do is imported when they do it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from npvgg.batch.run import MAX_BATCH_SIZE, MAX_SHARD_SIZE
from npvgg.batch.spec import OPENING, WANTS
from npvgg.cli.options import add_quiet, at_most, positive
from npvgg.engines.threads import MAX_THREADS

MAX_WORKERS = 1024
"""Processes of one machine or local cluster: each takes memory, files and a process number."""


def add(verbs: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Give the command line its `batch` and `search`.

    parents: the options of a network and of photos, of which none has a default here
    """
    _add_batch(verbs, parents)
    _add_search(verbs)


def _add_batch(verbs: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "batch",
        help="name and embed millions of photos, in a run that can be killed and goes on",
        description="Plans a run over photos, folders, .tar and .parquet files and URLs, and works "
        "on it: a parquet file for each shard of the photos, in a folder. The same command again, "
        "or --output alone, goes on where the last one ended, however it ended. Exit status: 0 "
        "done; 1 done, and some photos failed; 2 aborted, or more failed than may; 130 "
        "interrupted.",
        parents=parents,
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="photos, folders, .tar, .parquet, or URLs of these, which fsspec reads",
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="the folder of the run")
    parser.add_argument(
        "--files-from", metavar="FILE", help="a path or URL on each line; -: standard input"
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="where .parquet files hold paths or bytes (the first of path, url, bytes, image)",
    )
    rows = parser.add_argument_group("what rows hold; fixed by the plan")
    rows.add_argument(
        "--want", type=_wants, metavar="WHAT", help="topk, embedding or topk,embedding (both)"
    )
    rows.add_argument("--topk", type=positive, metavar="K", help="classes per photo (5)")
    rows.add_argument("--labels", metavar="FILE", help="names of the classes: .txt or .json")
    rows.add_argument(
        "--embedding-dtype", choices=("float32", "float16"), help="of the embeddings (float32)"
    )
    rows.add_argument(
        "--inference-engine", metavar="NAME", help="auto or the name of an engine (auto)"
    )
    rows.add_argument(
        "--shard-size", type=at_most(MAX_SHARD_SIZE), metavar="N", help="photos per shard (5000)"
    )
    work = parser.add_argument_group("how the work is done")
    work.add_argument(
        "--workers",
        type=at_most(MAX_WORKERS),
        metavar="N",
        help="processes (as many as processors)",
    )
    work.add_argument(
        "--threads",
        type=at_most(MAX_THREADS),
        metavar="N",
        help="threads of each (its share of processors)",
    )
    work.add_argument(
        "--batch-size", type=at_most(MAX_BATCH_SIZE), metavar="N", help="photos at once (16)"
    )
    work.add_argument(
        "--max-failure-rate",
        type=_rate,
        metavar="R",
        help="abort when more than this share of the photos has failed, 0 to 1 (no limit)",
    )
    work.add_argument(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="every N-th shard from the I-th on, from 1/N to N/N: for job arrays",
    )
    work.add_argument(
        "--engine",
        choices=("local", "dask", "ray"),
        default="local",
        help="who schedules the shards: processes of this machine, or a cluster (local)",
    )
    work.add_argument("--address", metavar="URL", help="of a cluster that is there")
    work.add_argument("--retry-failed", action="store_true", help="compute failed rows again")
    work.add_argument("--status", action="store_true", help="print how far the run is")
    work.add_argument(
        "--progress",
        choices=("text", "json"),
        default="text",
        help="json: a line for each shard on standard error (text)",
    )
    add_quiet(parser)
    parser.set_defaults(run=_batch, **dict.fromkeys(OPENING), dtype=None)


def _batch(args: argparse.Namespace) -> int:
    from npvgg.cli.batch import batch

    return batch(args)


def _add_search(verbs: Any) -> None:
    parser = verbs.add_parser(
        "search",
        help="find the photos of a batch run that look most like a given one",
        description="Prints the photos whose embeddings have the largest cosine with that of "
        "PHOTO; every embedding of the run is compared.",
    )
    parser.add_argument("folder", metavar="RUN", help="the folder of a run with embeddings")
    parser.add_argument("photo", metavar="PHOTO", help="what to look for")
    parser.add_argument("-k", type=positive, default=10, metavar="K", help="how many (10)")
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="of what is printed (table)"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page that shows them")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    add_quiet(parser)
    parser.set_defaults(run=_search)


def _search(args: argparse.Namespace) -> int:
    from npvgg.cli.search import search

    return search(args)


def _wants(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= set(WANTS):
        raise argparse.ArgumentTypeError(f"expected {', '.join(WANTS)} or both, got {text!r}")
    return found


def _part(text: str) -> tuple[int, int]:
    first, _, of = text.partition("/")
    if not (first.isdecimal() and of.isdecimal() and len(text) < 40 and 1 <= int(first) <= int(of)):
        raise argparse.ArgumentTypeError(f"expected I/N, from 1/N to N/N, got {text!r}")
    return int(first), int(of)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value
