"""The commands over photos: classify, embed, features.

Each makes a model and a transform, lists the photos, sends them through, and writes what comes out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from npvgg.cli import OK
from npvgg.cli.arrays import as_npy, as_npz, save_maps
from npvgg.cli.inputs import Listing, Photo, expand
from npvgg.cli.predict import Outcome, predict
from npvgg.cli.progress import counted, log, noun
from npvgg.cli.rows import FORMATS, as_jsonl
from npvgg.create import create_model
from npvgg.data import Transform, create_transform, resolve_model_data_config
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write
from npvgg.formats.untrusted import printable
from npvgg.hub.pretrained import BUNDLED
from npvgg.images import labels
from npvgg.model import FeatureNet, RepVGG
from npvgg.ops import softmax, topk

SOME_FAILED = 1
"""Exit status: done, and some photo could not be read."""

EMBEDDING_FORMATS = ("npy", "npz", "jsonl")


def classify(args: argparse.Namespace) -> int:
    """Name what is in photos: a row each, with its top classes."""
    format = _format(args, FORMATS, "table")
    model = _model(args)
    k = _checked_topk(args.topk, model.num_classes)
    names = _class_names(args.labels, model)
    transform = _transform(args, model)
    listing = expand(args.paths, sys.stdin.buffer)
    _announce(args, listing, model)

    def answer(x: Any) -> list[list[dict[str, Any]]]:
        prob, index = topk(softmax(model(x), axis=1), k, axis=1)
        return [
            [_class_entry(names, i, p) for i, p in zip(row_index, row_prob, strict=True)]
            for row_index, row_prob in zip(index.tolist(), prob.tolist(), strict=True)
        ]

    tally = Tally(listing.photos)
    rows = (
        {**_row(outcome), "topk": outcome.answer or []}
        for outcome in tally.counted(_outcomes(args, listing.photos, transform, answer))
    )
    columns = ["path", "status", "error", "notes"]
    columns += [f"{name}_{n + 1}" for n in range(k) for name in _class_entry(names, 0, 0.0)]
    _emit(_encoded(FORMATS[format](rows, columns)), args.output, args.force)
    return tally.report()


def embed(args: argparse.Namespace) -> int:
    """Turn photos into vectors, (count, num_features)."""
    format = _embedding_format(args)
    model = _model(args, num_classes=0)
    transform = _transform(args, model)
    listing = expand(args.paths, sys.stdin.buffer)
    _announce(args, listing, model)
    tally = Tally(listing.photos)
    outcomes = tally.counted(_outcomes(args, listing.photos, transform, lambda x: list(model(x))))
    if format == "jsonl":
        rows = ({**_row(o), "embedding": _numbers(o)} for o in outcomes)
        chunks: Iterable[bytes] = ((json.dumps(row) + "\n").encode() for row in rows)
    else:
        write: Any = as_npy if format == "npy" else as_npz
        chunks = write(outcomes, len(listing.photos), model.num_features, args.dtype)
    _emit(chunks, args.output, args.force)
    return tally.report()


def features(args: argparse.Namespace) -> int:
    """Give the feature maps of photos: their shapes, or an npz file each."""
    indices = [i for few in args.out_indices for i in few] if args.out_indices else None
    model = _model(args, features_only=True, out_indices=indices)
    transform = _transform(args, model)
    listing = expand(args.paths, sys.stdin.buffer)
    _announce(args, listing, model)
    names = model.feature_info.module_name()
    tally = Tally(listing.photos)
    outcomes = tally.counted(
        _outcomes(args, listing.photos, transform, lambda x: list(zip(*model(x), strict=True)))
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


def _model(args: argparse.Namespace, **options: Any) -> Any:
    """Make the network that was asked for, or the bundled one; say which weights it took."""
    model: RepVGG | FeatureNet = create_model(
        args.model or (None if args.weights else BUNDLED),
        weights=args.weights,
        pretrained=not args.weights,
        wrapper=args.wrapper,
        dtype=args.dtype,
        engine=args.engine,
        threads=args.threads,
        **options,
    )
    origin = (model.model if isinstance(model, FeatureNet) else model).origin
    if origin and origin.choice:
        log.info(f"took {origin.choice}")
    return model


def _transform(args: argparse.Namespace, model: Any) -> Transform:
    """Make the transform that the model was trained for, with the options for photos."""
    opening = {
        "exif_transpose": args.exif_transpose,
        "alpha": args.alpha,
        "on_16bit": args.on_16bit,
        "frame": args.frame,
        "formats": args.formats,
    }
    if args.max_pixels is not None:
        opening["max_pixels"] = args.max_pixels
    return create_transform(**resolve_model_data_config(model), **opening)


def _announce(args: argparse.Namespace, listing: Listing, model: Any) -> None:
    """Say what will run, and what of the arguments will not."""
    absent = [photo for photo in listing.photos if photo.error]
    count = len(listing.photos) - len(absent)
    default = "" if args.model or args.weights else " (bundled; --model or --weights for another)"
    log.info(f"{count:,} {noun(count, 'photo')} through {model!r}{default}")
    for photo in absent:  # a row each, too; but an npy file cannot show it
        log.error(f"{printable(photo.path)}: {photo.error}")
    if listing.others:
        suffixes = {os.path.splitext(path)[1].lower() or "no suffix" for path in listing.others}
        kinds = printable(", ".join(sorted(suffixes)[:5]) + ", …" * (len(suffixes) > 5))
        files = f"{len(listing.others):,} other {noun(len(listing.others), 'file')}"
        log.info(f"skipped {files} in folders, not known as photos: {kinds}")


def _outcomes(
    args: argparse.Namespace, photos: Sequence[Photo], transform: Transform, forward: Any
) -> Iterator[Outcome]:
    outcomes = predict(photos, transform, forward, args.batch_size, threads=args.threads)
    return counted(outcomes, len(photos), "photo")


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
