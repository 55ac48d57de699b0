"""`npvgg search`: the photos of a batch run that look most like a given one."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from npvgg.batch.run import Run
from npvgg.batch.search import Hit, embedded, nearest
from npvgg.batch.sources import is_url
from npvgg.cli.output import check_vacant, say
from npvgg.cli.progress import log
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write
from npvgg.formats.untrusted import printable

STYLE = (
    "body{font:14px sans-serif;margin:2em}main{display:flex;flex-wrap:wrap;gap:1em}"
    "figure{margin:0;width:224px}img{width:224px;height:224px;object-fit:cover;background:#eee}"
    "figcaption{overflow-wrap:anywhere}"
)


def search(args: argparse.Namespace) -> int:
    """Print the nearest photos, or write a page with them."""
    check_vacant("--html", args.html, force=args.force)
    run = Run.open(args.folder)
    left = run.shards - len(run.done())
    if left:
        log.info(f"the run is not done: {left:,} of {run.shards:,} shards are not looked at")
    hits = nearest(run, embedded(run, args.photo), args.k)
    if args.format == "json":
        say(json.dumps([hit._asdict() for hit in hits]) + "\n")
    else:
        for hit in hits:
            say(f"{hit.score:9.6f}  {printable(hit.path)}\n")
    if args.html:
        _write(args.html, "".join(_page(args.photo, hits, run.plan["base"])), args.force)
    return 0


def _page(photo: str, hits: Sequence[Hit], base: str) -> Iterator[str]:
    """Write a page that shows the photos from where they are."""
    title = f"Nearest to {escape(printable(photo))}"
    yield f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>\n"
    yield f"<h1>{title}</h1><main>\n"
    yield _figure(photo, os.getcwd(), "looked for")
    for hit in hits:
        yield _figure(hit.path, base, f"{hit.score:.6f}")
    yield "</main>\n"


def _figure(path: str, base: str, text: str) -> str:
    place = path if is_url(path) else Path(base, path).absolute().as_uri()
    caption = f"{escape(text)}<br>{escape(printable(path))}"
    return (
        f'<figure><img src="{escape(place)}" alt=""><figcaption>{caption}</figcaption></figure>\n'
    )


def _write(path: str, page: str, force: bool) -> None:
    try:
        atomic_write(path, page.encode(errors="backslashreplace"), overwrite=force)
    except FileExistsError:
        raise ArgumentError(f"--html: {path} exists; --force replaces it") from None
    except OSError as error:
        raise ArgumentError(
            f"--html: {path} cannot be written: {error.strerror or error}"
        ) from None
