"""The commands over weights files: convert, inspect, verify."""

from __future__ import annotations

import argparse
import json
import sys

from npvgg import inspection, progress
from npvgg.checkpoint import Checkpoint
from npvgg.commands import OK
from npvgg.convert import convert as convert_file
from npvgg.untrusted import shown

FOUND = 1
"""Exit status: done, and something is wrong with the file."""


def convert(args: argparse.Namespace) -> int:
    """Write a weights file anew."""
    done = convert_file(
        args.source,
        args.target,
        model=args.model,
        form=args.form,
        naming=args.naming,
        dtype=args.dtype,
        fold_dtype=args.fold_dtype,
        wrapper=args.wrapper,
        overwrite=args.force,
    )
    if taken := what_was_taken(done.source):
        progress.say(taken, quiet=args.quiet)
    count = sum(array.size for array in done.tensors.values())
    kind = " ".join(done.metadata.get(key, "") for key in ("npvgg.model", "npvgg.form")).strip()
    fold = done.metadata.get("npvgg.fold")
    progress.say(
        f"{args.target}: {kind + ' form, ' if kind else ''}{len(done.tensors)} tensors, "
        f"{count:,} numbers" + (f", folded in {fold}" if fold not in (None, "none") else ""),
        quiet=args.quiet,
    )
    return OK


def inspect(args: argparse.Namespace) -> int:
    """Say what a weights file is; status 1 where something looks wrong."""
    report = inspection.inspect(args.file, model=args.model, wrapper=args.wrapper)
    if args.format == "json":
        print(json.dumps(report))
    else:
        sys.stdout.writelines(inspection.as_table(report))
    return FOUND if report["findings"] else OK


def what_was_taken(file: Checkpoint) -> str:
    """Which weights of a training checkpoint were taken, and which could have been; or ""."""
    if not file.key:
        return ""
    others = ", ".join(shown(other) for other in file.others)
    return f"took the weights under {shown(file.key)}" + (f" (not {others})" if others else "")
