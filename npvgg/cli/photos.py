"""The commands: each makes a model and a transform, sends photos through, and writes what comes
out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from glob import has_magic
from typing import Any

import numpy as np

from npvgg.cli.arrays import as_npy, as_npz, save_maps
from npvgg.cli.inputs import Photo, expand
from npvgg.cli.predict import Outcome, predict
from npvgg.cli.progress import counted, log, noun
from npvgg.cli.rows import FORMATS, as_jsonl
from npvgg.create import create_model
from npvgg.data import Transform, create_transform, resolve_model_data_config
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write
from npvgg.formats.untrusted import printable
from npvgg.hub.pretrained import BUNDLED, PRETRAINED, list_models
from npvgg.images import labels
from npvgg.model import FeatureNet, RepVGG
from npvgg.ops import softmax, topk
from npvgg.tools.summary import info as count

OK, SOME_FAILED = 0, 1

EMBEDDING_FORMATS = ("npy", "npz", "jsonl")


def classify(args: argparse.Namespace) -> int:
    """Name what is in photos: a row each, with its top classes."""
    format = _format(args, FORMATS, "table")
    model, transform = _ready(args)
    k = _checked_topk(args.topk, model.num_classes)
    names = _class_names(args.labels, model)

    def answer(x: Any) -> list[list[dict[str, Any]]]:
        prob, index = topk(softmax(model(x), axis=1), k, axis=1)
        return [
            [_class_entry(names, i, p) for i, p in zip(row_index, row_prob, strict=True)]
            for row_index, row_prob in zip(index.tolist(), prob.tolist(), strict=True)
        ]

    tally = Tally(args.photos)
    rows = (
        {**_row(outcome), "topk": outcome.answer or []}
        for outcome in tally.counted(_outcomes(args, transform, answer))
    )
    columns = ["path", "status", "error", "notes"]
    columns += [f"{name}_{n + 1}" for n in range(k) for name in _class_entry(names, 0, 0.0)]
    _emit(_encoded(FORMATS[format](rows, columns)), args.output, args.force)
    return tally.report()


def embed(args: argparse.Namespace) -> int:
    """Turn photos into vectors, (count, num_features)."""
    format = _embedding_format(args)
    model, transform = _ready(args, num_classes=0)
    tally = Tally(args.photos)
    outcomes = tally.counted(_outcomes(args, transform, lambda x: list(model(x))))
    if format == "jsonl":
        rows = ({**_row(o), "embedding": _numbers(o)} for o in outcomes)
        chunks: Iterable[bytes] = ((json.dumps(row) + "\n").encode() for row in rows)
    else:
        write: Any = as_npy if format == "npy" else as_npz
        chunks = write(outcomes, len(args.photos), model.num_features, args.dtype)
    _emit(chunks, args.output, args.force)
    return tally.report()


def features(args: argparse.Namespace) -> int:
    """Give the feature maps of photos: their shapes, or an npz file each."""
    indices = [i for few in args.out_indices for i in few] if args.out_indices else None
    model, transform = _ready(args, features_only=True, out_indices=indices)
    names = model.feature_info.module_name()
    tally = Tally(args.photos)
    outcomes = tally.counted(
        _outcomes(args, transform, lambda x: list(zip(*model(x), strict=True)))
    )

    def rows() -> Iterator[dict[str, Any]]:
        for number, outcome in enumerate(outcomes):
            maps = dict(zip(names, outcome.answer or (), strict=bool(outcome.answer)))
            row = {**_row(outcome), "maps": {name: list(m.shape) for name, m in maps.items()}}
            if args.output and maps:
                row["file"] = save_maps(
                    args.output, number, outcome.path, maps, overwrite=args.force
                )
            yield row

    write = as_jsonl if args.format == "jsonl" else _maps_table
    _emit(_encoded(write(rows(), ())), None, False)
    return tally.report()


def info(args: argparse.Namespace) -> int:
    """Print parameters, MACs and activations."""
    subject: Any = args.model or (None if args.weights else BUNDLED)
    if args.weights or set(args.model or "") & set(":/\\"):
        source = {"weights": args.weights} if args.weights else {"pretrained": True}
        subject = create_model(args.model, **source, wrapper=args.wrapper, reparameterize=False)
    counts = count(subject, args.input_size)
    if args.format == "json":
        totals = {"train": asdict(counts.train), "deploy": asdict(counts.deploy)}
        print(json.dumps({**asdict(counts), **totals}))
    else:
        print(counts)
    return OK


def warm_up(args: argparse.Namespace) -> int:
    """Compile everything that the fast engines need, and keep it."""
    try:
        from npvgg.engines.jit import kernel_cache
    except ImportError as error:
        raise ArgumentError(
            f"warmup: expected Numba, which the fast engines need: {error}"
        ) from error

    began = time.monotonic()
    x = np.zeros((1, 3, 32, 32), np.float32)
    for engine in ("im2col", "winograd"):
        create_model("repvgg_nano", engine=engine)(x)
    kept = kernel_cache() or "nowhere: no folder can be written"
    log.info(f"ready after {time.monotonic() - began:.1f} s; kept in {kept}")
    return OK


def list_networks(args: argparse.Namespace) -> int:
    """Print the networks of the table, with their pretrained tags."""
    rows: list[dict[str, Any]] = []
    for name in list_models(args.pattern):
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
        print(json.dumps(rows))
        return OK
    print(f"{'network':18}{'params':>9}{'GMACs':>8}  {'input':12}pretrained   (deploy form)")
    for row in rows:
        size = "×".join(map(str, row["input_size"]))
        known = ", ".join(row["pretrained"]) + (" (bundled)" if row["bundled"] else "")
        params, gmacs = row["parameters"] / 1e6, row["macs"] / 1e9
        print(f"{row['name']:18}{params:>7.1f} M{gmacs:>8.2f}  {size:12}{known or '-'}")
    return OK


# --- What commands share --------------------------------------------------------------------------


class Tally:
    """Counts outcomes as they pass, for the exit status and the closing line."""

    def __init__(self, photos: Iterable[Photo]) -> None:
        self.absent = sum(bool(photo.error) for photo in photos)  # has been said one by one
        self.done = self.failed = 0

    def counted(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Pass outcomes through."""
        for outcome in outcomes:
            self.done += 1
            self.failed += bool(outcome.error)
            yield outcome

    def report(self) -> int:
        """Say how many photos failed, if any; give the exit status."""
        if self.failed > self.absent:
            failed, tried = self.failed - self.absent, self.done - self.absent
            log.error(f"{failed:,} of {tried:,} {noun(tried, 'photo')} could not be read")
        return SOME_FAILED if self.failed else OK


def _ready(args: argparse.Namespace, **options: Any) -> tuple[Any, Transform]:
    """Make model and transform, list the photos into `args.photos`, and say what will run."""
    name = args.model or (None if args.weights else BUNDLED)
    source = {"weights": args.weights} if args.weights else {"pretrained": True}
    model: RepVGG | FeatureNet = create_model(
        name,
        **source,
        wrapper=args.wrapper,
        dtype=args.dtype,
        engine=args.engine,
        threads=args.threads,
        **options,
    )
    origin = (model.model if isinstance(model, FeatureNet) else model).origin
    if origin and origin.choice:
        log.info(f"took {origin.choice}")
    opening = {
        "exif_transpose": args.exif_transpose,
        "alpha": args.alpha,
        "on_16bit": args.on_16bit,
        "frame": args.frame,
        "formats": args.formats,
    }
    if args.max_pixels is not None:
        opening["max_pixels"] = args.max_pixels
    transform = create_transform(**resolve_model_data_config(model), **opening)
    args.photos, others = expand(args.paths, sys.stdin.buffer)
    default = "" if args.model or args.weights else " (bundled; --model or --weights for another)"
    absent = [photo for photo in args.photos if photo.error]
    count = len(args.photos) - len(absent)
    log.info(f"{count:,} {noun(count, 'photo')} through {model!r}{default}")
    for photo in absent:  # a row each, too; but an npy file cannot show it
        log.error(f"{printable(photo.path)}: {photo.error}")
    if others:
        suffixes = sorted({os.path.splitext(path)[1].lower() or "no suffix" for path in others})
        kinds = printable(", ".join(suffixes[:5]) + ", …" * (len(suffixes) > 5))
        files = f"{len(others):,} other {noun(len(others), 'file')}"
        log.info(f"skipped {files} in folders, not known as photos: {kinds}")
    return model, transform


def _outcomes(args: argparse.Namespace, transform: Transform, forward: Any) -> Iterator[Outcome]:
    outcomes = predict(args.photos, transform, forward, args.batch_size)
    return counted(outcomes, len(args.photos), "photo")


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "path": outcome.path,
        "status": outcome.status,
        "error": outcome.error,
        "notes": list(outcome.notes),
    }


def _class_entry(names: Any, index: int, prob: float) -> dict[str, Any]:
    label = None if names is None else names[index]
    entry = {"index": index, "label": str(index) if label is None else label.name, "prob": prob}
    synset = getattr(label, "synset", None)
    return {**entry, "synset": synset} if synset else entry


def _class_names(path: str | None, model: Any) -> Any:
    names = labels.load_labels(path) if path else labels.labels_for(model.pretrained_cfg)
    if names is not None and len(names) != model.num_classes:
        raise ArgumentError(f"--labels: expected {model.num_classes} names, got {len(names)}")
    return names


def _checked_topk(k: int, classes: int) -> int:
    if not classes:
        raise ArgumentError(
            "--model: expected a network with a classifier; `npvgg embed` needs none"
        )
    return min(k, classes)


def _numbers(outcome: Outcome) -> list[float] | None:
    return None if outcome.answer is None else outcome.answer.tolist()


def _maps_table(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    for row in rows:
        lines = [printable(row["path"])] + [f"    error: {row['error']}"] * bool(row["error"])
        lines += [
            f"    {name:12} {'×'.join(map(str, shape))}" for name, shape in row["maps"].items()
        ]
        lines += [f"    → {row['file']}"] if "file" in row else []
        yield "\n".join(lines) + "\n"


def _format(args: argparse.Namespace, known: Iterable[str], otherwise: str) -> str:
    """Take the format that was asked for, or the one that the suffix of the output means.

    Raises ArgumentError for a suffix that means a format of other commands alone.
    """
    suffix = os.path.splitext(args.output or "")[1].lstrip(".").lower()
    if not args.format and suffix not in known and suffix in {*FORMATS, *EMBEDDING_FORMATS}:
        raise ArgumentError(
            f"--output: {args.command} cannot write {suffix}, expected {', '.join(known)}; "
            "with --format any name will do"
        )
    asked: str = args.format or (suffix if suffix in known else otherwise)
    return asked


def _embedding_format(args: argparse.Namespace) -> str:
    format = _format(args, EMBEDDING_FORMATS, "jsonl")
    if format != "jsonl" and not args.output and sys.stdout.isatty():
        raise ArgumentError(
            f"--output: expected a file for {format}, which is not for reading; got none"
        )
    return format


def _encoded(texts: Iterable[str]) -> Iterator[bytes]:
    """Encode; the bytes of a file name that are no UTF-8 are shown as escapes."""
    return (text.encode(errors="backslashreplace") for text in texts)


def _emit(chunks: Iterable[bytes], output: str | None, force: bool) -> None:
    """Send the pieces to standard output as they come, or into a file, all or nothing."""
    if output is None or output == "-":
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return
    try:
        atomic_write(output, chunks, overwrite=force)
    except FileExistsError:
        raise ArgumentError(f"--output: {output} exists; --force replaces it") from None
    except OSError as error:
        reason = error.strerror or error
        raise ArgumentError(f"--output: {output} cannot be written: {reason}") from None
