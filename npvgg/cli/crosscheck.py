"""The commands of the cross-check kit: conformance, compare."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from npvgg.cli import OK
from npvgg.cli.output import check_vacant, flush, say, say_painted
from npvgg.cli.progress import log
from npvgg.cli.weightfiles import FOUND
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write
from npvgg.formats.untrusted import path_text, printable
from npvgg.pages import html
from npvgg.testing.comparison import candidates, factories
from npvgg.testing.comparison.compare import compare as hold_against
from npvgg.testing.comparison.report import DIM, PLAIN, RED, Report
from npvgg.testing.packs.conformance import conformance_pack
from npvgg.testing.packs.pack import MANIFEST, Pack


def conformance(args: argparse.Namespace) -> int:
    """Write a conformance pack."""
    pack = conformance_pack(
        args.model if args.model or args.weights else "tiny",
        weights=args.weights,
        seed=args.seed,
        image=args.input,
        level=args.level,
        size=args.size,
        form=args.form,
        winograd=args.winograd,
    )
    pack.write(args.out, overwrite=args.force)
    numbers = sum(pack.tensor(probe.name).size for probe in pack.probes)
    megabytes = sum(file.stat().st_size for file in Path(args.out).iterdir()) / 1e6
    log.info(
        f"{path_text(args.out)}: {pack.manifest['model']} in {pack.manifest['form']} form, "
        f"{len(pack.probes)} tensors of level {pack.manifest['level']}, {numbers:,} numbers, "
        f"{megabytes:.1f} MB; its README.md says how to use it"
    )
    return OK


def compare(args: argparse.Namespace) -> int:
    """Hold someone's numbers against a pack; status 1 where they are wrong."""
    if not (Path(args.pack) / MANIFEST).is_file():
        raise ArgumentError(f"PACK: expected a folder by `npvgg conformance`, got {args.pack}")
    if args.load_weights and not args.torch:
        raise ArgumentError("--load-weights: expected --torch with it")
    if args.weights_map and not args.load_weights:
        raise ArgumentError("--weights-map: expected --load-weights with it")
    if args.html:
        html.require()
        check_vacant("--html", args.html, force=args.force)
    if args.map and args.match != "auto":
        raise ArgumentError("--map: expected it in place of --match, got both")
    pack = Pack.read(args.pack)
    if args.onnx and not args.onnx.lower().endswith(".onnx"):
        raise ArgumentError(f"--onnx: expected a file in .onnx, got {args.onnx}")
    candidate: Any = args.theirs or args.onnx
    name = candidate or args.torch
    if args.torch:
        candidate = factories.build(args.torch)
        if args.load_weights:
            names = candidates.read_mapping(args.weights_map) if args.weights_map else None
            how = factories.give_weights(candidate, pack, names)
            log.info(f"{printable(args.torch)}: given the pack's weights, {how}")
    with redirect_stdout(sys.stderr):  # what a module prints is no part of the report
        report = hold_against(
            candidate,
            pack,
            by=candidates.read_mapping(args.map) if args.map else args.match,
            layout=args.layout,
            complete=args.all,
            alone=args.alone,
            diagnosis=args.diagnosis,
        )
    report = replace(report, candidate=path_text(name))
    if args.json:
        say(json.dumps(report.as_dict()) + "\n")
    else:
        colour = getattr(sys.stdout, "isatty", bool)() and "NO_COLOR" not in os.environ
        for line in report.as_text(colour=colour):
            say_painted(line, (RED, DIM), PLAIN)
    if args.html:  # last: if it fails after all, the report has been seen
        flush()
        _write_page(report, args.html, args.force)
    if args.torch and not args.load_weights and not report.ok:
        name = printable(args.torch)
        log.info(f"{name} ran with weights of its own; --load-weights gives it the pack's")
    return OK if report.ok else FOUND


def _write_page(report: Report, path: str, force: bool) -> None:
    from npvgg.testing.comparison.html import page

    try:
        atomic_write(path, page(report).encode(errors="backslashreplace"), overwrite=force)
    except FileExistsError:
        raise ArgumentError(f"--html: {path} exists; --force replaces it") from None
    except OSError as error:
        raise ArgumentError(
            f"--html: {path} cannot be written: {error.strerror or error}"
        ) from None
