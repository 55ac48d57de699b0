"""The commands over weights files: convert, inspect, verify."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from npvgg import export, tools
from npvgg.cli import OK
from npvgg.cli.output import say
from npvgg.cli.progress import log
from npvgg.cli.text import noun
from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import path_text, shown
from npvgg.tools.inspection import as_table

FOUND = 1
"""Exit status: done, and something is wrong with the file."""


def convert(args: argparse.Namespace) -> int:
    """Write a weights file anew, or as ONNX."""
    if Path(args.target).suffix.lower() == ".onnx":
        return _convert_to_onnx(args)
    _refuse_options(args, {"dynamic_size": False, "softmax": False, "preprocess": None}, ".onnx")
    done = tools.convert(
        args.source,
        args.target,
        model=args.model,
        form=args.form,
        naming=args.naming,
        dtype=args.dtype,
        fold_dtype=args.fold_dtype,
        wrapper=args.wrapper,
        prefix=args.prefix,
        overwrite=args.force,
    )
    if done.source.choice:
        log.info(f"took {done.source.choice}")
    count = sum(array.size for array in done.tensors.values())
    kind = " ".join(done.metadata.get(key, "") for key in ("npvgg.model", "npvgg.form")).strip()
    fold = done.metadata.get("npvgg.fold")
    log.info(
        f"{path_text(args.target)}: {kind + ' form, ' if kind else ''}{len(done.tensors)} tensors, "
        f"{count:,} numbers"
        + (f", folded in {fold}" if fold not in (None, "none") else "")
        + (f", rounded to {done.dtype}" if done.dtype in ("float16", "bfloat16") else "")
    )
    return OK


def _convert_to_onnx(args: argparse.Namespace) -> int:
    _refuse_options(args, {"naming": None}, ".safetensors and .pth")
    for option, only in (("form", "deploy"), ("dtype", "float32")):
        if (value := getattr(args, option)) not in (None, only):
            raise ArgumentError(f"--{option}: expected {only} for .onnx, got {value}")
    source, done = export.convert_to_onnx(
        args.source,
        args.target,
        model=args.model,
        fold_dtype=args.fold_dtype,
        wrapper=args.wrapper,
        prefix=args.prefix,
        dynamic_size=args.dynamic_size,
        softmax=args.softmax,
        preprocess=args.preprocess,
        overwrite=args.force,
    )
    if source.choice:
        log.info(f"took {source.choice}")
    fold = done.metadata.get("npvgg.fold")
    log.info(
        f"{path_text(args.target)}: {done.metadata['npvgg.model']}, ONNX opset {export.OPSET}, "
        f"{_end(*done.source)} → {_end(*done.result)}, {done.nodes} nodes, {done.numbers:,} numbers"
        + (f", folded in {fold}" if fold else "")
    )
    return OK


def _end(name: str, dtype: str, shape: Sequence[int | str]) -> str:
    return f"{name} {dtype} {'×'.join(map(str, shape))}"


def _refuse_options(args: argparse.Namespace, unused: Mapping[str, Any], where: str) -> None:
    for option, default in unused.items():
        if getattr(args, option) != default:
            raise ArgumentError(f"--{option.replace('_', '-')}: only for {where}")


def inspect(args: argparse.Namespace) -> int:
    """Say what a weights file is; status 1 where something looks wrong."""
    report = tools.inspect(args.file, model=args.model, wrapper=args.wrapper, prefix=args.prefix)
    if args.format == "json":
        say(json.dumps(report) + "\n")
    else:
        say("".join(as_table(report)))
    return FOUND if report["findings"] else OK


def verify(args: argparse.Namespace) -> int:
    """Prove a fold, or tell whether two files are one network; status 1 where not."""
    report = tools.verify(
        args.a,
        args.b,
        model=args.model,
        wrapper=args.wrapper,
        prefix=args.prefix,
        other_wrapper=args.wrapper_b,
        size=args.size,
        photos=args.image,
    )
    if args.format == "json":
        say(json.dumps(report) + "\n")
    else:
        say("".join(_certificate(report)))
    return FOUND if report["verdict"] in ("failed", "different") else OK


def _certificate(report: dict[str, Any]) -> Iterator[str]:
    """Write what people read: the files, the differences, the verdict."""
    for file in report.get("files") or [report["file"]]:
        taken = f", under {shown(file['wrapper'])}" if file["wrapper"] else ""
        classes = f"{file['classes']} {noun(file['classes'], 'class')}"
        yield (
            f"{shown(file['path'], 1000)}{taken}: {file['network']}, {file['form']} form, "
            f"{classes}, {file['naming']}'s names, {'/'.join(file['dtypes'])}, "
            f"{file['format']}\n"
        )
    for run in report["runs"]:
        if "blocks" in run:
            yield f"\n{shown(run['image']):14}{'train − deploy form':^36}{'from float64':^24}\n"
            yield f"{'block':14}{'absolute':>12}{'relative':>12}{'ulp':>12}"
            yield f"{'train':>12}{'deploy':>12}{'of its bound':>14}\n"
        for row in run.get("blocks", ()):
            yield f"{row['name']:14}{_numbers(row)}{row['share_of_bound']:>14.1%}\n"
        yield from _logits(run)
    for row in report.get("differences", ())[:10]:
        yield (
            f"{row['tensor']}: {row['beyond_rounding']} of {row['of']} beyond rounding, at most "
            f"{row['absolute']:.3g}, {row['relative']:.3g} of the largest\n"
        )
    yield f"\n{report['verdict']}: {report['says']}\n"
    if "file" in report:
        yield "normal: up to some 1e-6 relative per block, some 1e-5 in the logits, below 100 % of"
        yield " the bound\n"


def _logits(run: dict[str, Any]) -> Iterator[str]:
    row = run["logits"]
    ranks = f"the same top {row['top_k']}" if row["same_top_k"] else "ANOTHER ORDER of classes"
    if "blocks" in run:
        yield f"{'logits':14}{_numbers(row)}  {ranks}\n"
    else:
        relative, name = row["relative"], shown(run["image"])
        yield f"logits of {name}: differ by {relative:.3g} of the largest; {ranks}\n"


def _numbers(row: dict[str, Any]) -> str:
    return (
        f"{row['absolute']:>12.2e}{row['relative']:>12.2e}{row['ulp']:>12.1f}"
        f"{row['train_error']:>12.2e}{row['deploy_error']:>12.2e}"
    )
