"""The commands over networks: info, list, warmup."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from glob import has_magic
from typing import Any

import numpy as np

from npvgg.cli import OK
from npvgg.cli.output import say
from npvgg.cli.progress import log
from npvgg.create import create_model
from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import path_text
from npvgg.hub.pretrained import BUNDLED, PRETRAINED, list_models
from npvgg.summary import info as count


def info(args: argparse.Namespace) -> int:
    """Print parameters, MACs and activations."""
    subject: Any = args.model or (None if args.weights else BUNDLED)
    if args.weights or set(args.model or "") & set(":/\\"):
        source = {"weights": args.weights} if args.weights else {"pretrained": True}
        subject = create_model(
            args.model, **source, wrapper=args.wrapper, prefix=args.prefix, reparameterize=False
        )
    counts = count(subject, args.input_size)
    if args.format == "json":
        totals = {"train": asdict(counts.train), "deploy": asdict(counts.deploy)}
        say(json.dumps({**asdict(counts), **totals}) + "\n")
    else:
        say(f"{counts}\n")
    return OK


def warm_up(args: argparse.Namespace) -> int:
    """Compile everything that the fast engines need, and keep it."""
    if args.into is not None:
        if "numba" in sys.modules:
            raise ArgumentError("--into: expected a process that has not imported Numba yet")
        os.environ["NUMBA_CACHE_DIR"] = os.path.abspath(args.into)
    try:
        from npvgg.engines.kernelcache import kernel_cache, lost, writable
    except ImportError as error:
        raise ArgumentError(
            f"warmup: expected Numba, which the fast engines need: {error}"
        ) from error

    began = time.monotonic()
    x = np.zeros((1, 3, 32, 32), np.float32)
    for engine in ("im2col", "winograd"):
        create_model("repvgg_nano", engine=engine)(x)
    kept = f"kept in {kernel_cache()}" if writable() else "kept nowhere: no folder can be written"
    if args.into is not None:
        if not writable():
            raise ArgumentError(f"--into: {path_text(args.into)} cannot be written")
        if lost:
            raise ArgumentError(f"--into: {path_text(args.into)} cannot be written: {lost[0]}")
        kept += f"; NUMBA_CACHE_DIR={os.environ['NUMBA_CACHE_DIR']} finds them"
    if lost:
        kept += f", but for {len(lost)} that could not be written: {lost[0]}"
    log.info(f"ready after {time.monotonic() - began:.1f} s; {kept}")
    return OK


def list_networks(args: argparse.Namespace) -> int:
    """Print the networks of the table, with their pretrained tags."""
    rows: list[dict[str, Any]] = []
    pattern = args.pattern.lower()
    for name in list_models(pattern if has_magic(pattern) else f"*{pattern}*"):
        counts = count(name)
        tags = [tag for tag in PRETRAINED if tag.partition(".")[0] == name]
        rows.append({
            "name": name,
            "parameters": counts.deploy.parameters,
            "macs": counts.deploy.macs,
            "input_size": list(counts.input_size),
            "pretrained": tags,
            "bundled": BUNDLED in tags,
        })  # fmt: skip
    if not rows:
        matches = "matches" if has_magic(args.pattern) else "has in it"
        log.error(f"no network's name {matches} {args.pattern!r}; npvgg list tells all names")
    if args.format == "json":
        say(json.dumps(rows) + "\n")
        return OK
    say(f"{'network':18}{'params':>9}{'GMACs':>8}  {'input':12}pretrained   (deploy form)\n")
    for row in rows:
        size = "×".join(map(str, row["input_size"]))
        known = ", ".join(row["pretrained"]) + (" (bundled)" if row["bundled"] else "")
        params, gmacs = row["parameters"] / 1e6, row["macs"] / 1e9
        say(f"{row['name']:18}{params:>7.1f} M{gmacs:>8.2f}  {size:12}{known or '-'}\n")
    return OK
