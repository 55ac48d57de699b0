"""The commands over photos: classify, embed, features.

Each claims its output, makes a model and a transform, lists the photos, sends them through, and
writes what comes out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from npvgg.cli import OK
from npvgg.cli.arrays import as_npy, as_npz, maps_path, npy_header, save_maps
from npvgg.cli.decoding import decode
from npvgg.cli.inputs import Listing, Photo, expand
from npvgg.cli.output import Standard, opened, send
from npvgg.cli.progress import counted, log
from npvgg.cli.rows import FORMATS, JSON_END, as_jsonl, path_columns
from npvgg.cli.text import escaped, noun
from npvgg.create import create_model
from npvgg.data import Transform, create_transform, resolve_model_data_config
from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import path_text, printable
from npvgg.hub.pretrained import BUNDLED
from npvgg.images import labels
from npvgg.model import FeatureNet, RepVGG
from npvgg.ops import Array, probabilities, topk
from npvgg.pipeline import Result, results

Outcome: TypeAlias = Result[Photo]

SOME_FAILED = 1
"""Exit status: done, and some photo could not be read."""

BATCH_SIZE = 16
"""Photos at once. 64 photos of the web through A0, the whole process: 2.49 s one by one, 2.10 by
fours, 2.07 by sixteens, 1.99 by 32 (least of three, Zen 4, two cores, 2026-11-28)."""

EMBEDDING_FORMATS = ("npy", "npz", "jsonl")
SUFFIXES = {"ndjson": "jsonl", "txt": "table"}
"""Suffixes of files that mean a format of another name."""


def classify(args: argparse.Namespace) -> int:
    """Name what is in photos: a row each, with its top classes."""
    format = _format(args, FORMATS, "table")
    with opened(args.output, overwrite=args.force) as place:
        place.ending = lambda done: (b"", JSON_END.encode() if format == "json" else b"")
        model = _model(args)
        k = _checked_topk(args.topk, model.num_classes)
        names = _class_names(args.labels, model)
        transform = _transform(args, model)
        listing = _listing(args, model)
        tally = Tally(listing.photos)
        outcomes = _outcomes(args, listing.photos, model, transform, model)
        rows = ({**_row(o), "topk": _top(o.answer, k, names)} for o in tally.counted(outcomes))
        columns = ["path", "status", "error", "notes"]
        columns += [f"{name}_{n + 1}" for n in range(k) for name in _class_entry(names, 0, 0.0)]
        if any("path_hex" in path_columns(photo.path) for photo in listing.photos):
            columns.append("path_hex")
        write = FORMATS[format]
        if args.escape_formulas:
            if format not in ("csv", "tsv"):
                raise ArgumentError(f"--escape-formulas: only for csv and tsv, got {format}")
            write = partial(write, formulas=False)
        send(_encoded(write(rows, columns)), place)
    return tally.report()


def embed(args: argparse.Namespace) -> int:
    """Turn photos into vectors, (count, num_features)."""
    format = _embedding_format(args)
    with opened(args.output, overwrite=args.force) as place:
        model = _model(args, num_classes=0)
        transform = _transform(args, model)
        listing = _listing(args, model)
        tally = Tally(listing.photos)
        outcomes = tally.counted(_outcomes(args, listing.photos, model, transform, model))
        if format == "jsonl":
            place.ending = lambda done: (b"", b"")
            rows = ({**_row(o), "embedding": _numbers(o)} for o in outcomes)
            pieces: Iterable[bytes] = _encoded(as_jsonl(rows, ()))
        else:
            if format == "npy":
                place.ending = _npy_ending(model.num_features, args.dtype)
            write: Any = as_npy if format == "npy" else as_npz
            pieces = write(outcomes, listing.photos, model.num_features, args.dtype)
        send(pieces, place)
    return tally.report()


def features(args: argparse.Namespace) -> int:
    """Return the feature maps of photos: their shapes, or an npz file each."""
    if args.output is None and (args.skip_existing or args.save_dtype):
        raise ArgumentError("--skip-existing, --save-dtype: expected --output FOLDER with them")
    indices = [i for few in args.out_indices for i in few] if args.out_indices else None
    model = _model(args, features_only=True, out_indices=indices)
    names = model.feature_info.module_name()
    transform = _transform(args, model)
    listing = _listing(args, model)
    targets = _targets(args, listing)

    def forward(x: Array) -> list[tuple[Array, ...]]:
        maps = [m.mean((2, 3)) if args.pooled else m for m in model(x)]
        return list(zip(*maps, strict=True))

    tally = Tally(listing.photos)
    outcomes = tally.counted(_outcomes(args, listing.photos, model, transform, forward))

    written: set[str] = set()

    def rows() -> Iterator[dict[str, Any]]:
        for photo, outcome in zip(listing.photos, outcomes, strict=True):
            maps = dict(zip(names, outcome.answer or (), strict=bool(outcome.answer)))
            row = {**_row(outcome), "maps": {name: list(m.shape) for name, m in maps.items()}}
            if targets and maps and photo.path not in written:  # one photo may be named twice
                written.add(photo.path)
                if args.save_dtype:
                    maps = {name: _narrowed(m, args.save_dtype) for name, m in maps.items()}
                save_maps(targets[photo.path], maps, overwrite=args.force)
            if targets and maps:
                row["file"] = targets[photo.path]
            yield row

    with Standard() as place:
        write = as_jsonl if args.format == "jsonl" else _maps_table
        send(_encoded(write(rows(), ())), place)
    return tally.report()


# --- What they share ------------------------------------------------------------------------------


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
        """Say how many photos failed, if any; return the exit status."""
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
        prefix=args.prefix,
        dtype=args.dtype,
        engine=args.engine,
        threads=args.threads,
        **options,
    )
    origin = _whole(model).origin
    if origin and origin.choice:
        log.info(f"took {origin.choice}")
    return model


def _whole(model: RepVGG | FeatureNet) -> RepVGG:
    return model.model if isinstance(model, FeatureNet) else model


def _transform(args: argparse.Namespace, model: Any) -> Transform:
    """Make the transform that the model was trained for, with the options for photos."""
    opening = {
        "exif_transpose": args.exif_transpose,
        "alpha": args.alpha,
        "on_16bit": args.on_16bit,
        "frame": args.frame,
        "formats": args.formats,
        "draft": args.draft,
    }
    if args.max_pixels is not None:
        opening["max_pixels"] = args.max_pixels
    return create_transform(**resolve_model_data_config(model), **opening)


def _listing(args: argparse.Namespace, model: Any) -> Listing:
    """List the photos, and say what will run and what of the arguments will not."""
    listing = expand(
        args.paths,
        lambda: getattr(sys.stdin, "buffer", None),
        files_from=args.files_from,
        null_separated=args.null,
        follow=args.follow,
    )
    absent = [photo for photo in listing.photos if photo.error]
    count = len(listing.photos) - len(absent)
    default = "" if args.model or args.weights else " (bundled; --model or --weights for another)"
    if count:
        log.info(f"{count:,} {noun(count, 'photo')} through {model!r}{default}")
    for photo in absent:  # a row each, too; but an npy file cannot show it
        log.error(f"{path_text(photo.path)}: {photo.error}")
    if listing.others:
        suffixes = {os.path.splitext(path)[1].lower() or "no suffix" for path in listing.others}
        kinds = ", ".join(map(printable, sorted(suffixes)[:5])) + ", …" * (len(suffixes) > 5)
        files = f"{len(listing.others):,} other {noun(len(listing.others), 'file')}"
        log.info(f"skipped {files} in folders, not known as photos: {kinds}")
    if listing.links:
        links = f"{len(listing.links):,} linked {noun(len(listing.links), 'folder')}"
        log.info(f"skipped {links}; --follow goes into them: {path_text(listing.links[0])}, …")
    if listing.loops:
        loops = f"{len(listing.loops):,} linked {noun(len(listing.loops), 'folder')}"
        log.info(f"skipped {loops} that had been listed: {path_text(listing.loops[0])}, …")
    return listing


def _outcomes(
    args: argparse.Namespace,
    photos: Sequence[Photo],
    model: Any,
    transform: Transform,
    forward: Callable[[Array], Iterable[Any]],
) -> Iterator[Outcome]:
    found = results(
        photos,
        partial(decode, transform=transform),
        forward,
        batch_size=args.batch_size or (1 if _whole(model).engine == "reference" else BATCH_SIZE),
        threads=args.threads,
    )
    return counted(found, len(photos), "photo")


def _row(outcome: Outcome) -> dict[str, Any]:
    row = {**path_columns(outcome.photo.path), "status": outcome.status, "error": outcome.error}
    return {**row, "notes": list(outcome.notes)}


def _encoded(texts: Iterable[str]) -> Iterator[bytes]:
    """Encode; the bytes of a file name that are no UTF-8 are shown as escapes."""
    return (text.encode(errors="backslashreplace") for text in texts)


# --- Formats --------------------------------------------------------------------------------------


def _format(args: argparse.Namespace, known: Iterable[str], otherwise: str) -> str:
    """Take the format that was asked for, or the one that the suffix of the output means.

    Raises ArgumentError for a suffix that means none of them.
    """
    path = os.path.basename(args.output or "").lower().removesuffix(".gz")
    suffix = os.path.splitext(path)[1].lstrip(".")
    format: str = args.format or SUFFIXES.get(suffix, suffix) or otherwise
    if format not in known:
        raise ArgumentError(
            f"--output: {args.command} cannot write {escaped(suffix)}, expected "
            f"{', '.join(known)}; with --format any name will do"
        )
    return format


def _embedding_format(args: argparse.Namespace) -> str:
    format = _format(args, EMBEDDING_FORMATS, "jsonl")
    if format != "jsonl" and not args.output and getattr(sys.stdout, "isatty", bool)():
        raise ArgumentError(
            f"--output: expected a file for {format}, which is not for reading; got none"
        )
    return format


def _npy_ending(length: int, dtype: str) -> Callable[[int], tuple[bytes, bytes] | None]:
    """Return how an unfinished npy file becomes a shorter one."""
    start = len(npy_header(0, length, dtype))
    row = length * np.dtype(dtype).itemsize

    def ending(done: int) -> tuple[bytes, bytes] | None:
        count = (done - start) // row
        return (npy_header(count, length, dtype), b"") if count > 0 else None

    return ending


# --- Classes --------------------------------------------------------------------------------------


def _top(logits: Array | None, k: int, names: Any) -> list[dict[str, Any]]:
    """Return the k likeliest classes, none for a photo that could not be read."""
    if logits is None:
        return []
    prob, index = topk(probabilities(logits[None]), k, axis=1)
    pairs = zip(index[0].tolist(), prob[0].tolist(), strict=True)
    return [_class_entry(names, i, p) for i, p in pairs]


def _class_entry(names: Any, index: int, prob: float) -> dict[str, Any]:
    label = names[index] if names else None
    entry = {"index": index, "label": label.name if label else str(index), "prob": prob}
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


# --- Vectors and maps -----------------------------------------------------------------------------


def _numbers(outcome: Outcome) -> list[float] | None:
    return None if outcome.answer is None else outcome.answer.tolist()


def _targets(args: argparse.Namespace, listing: Listing) -> dict[str, str]:
    """Return photo → the file of its maps, {} without --output; photos whose file is there leave
    the listing where --skip-existing says so. Raises ArgumentError where one is there otherwise.
    """
    if args.output is None:
        return {}
    if os.path.lexists(args.output) and not os.path.isdir(args.output):
        raise ArgumentError(f"--output: expected a folder, got the file {path_text(args.output)}")
    targets = {p.path: maps_path(args.output, p) for p in listing.photos if not p.error}
    there = {path for path, file in targets.items() if os.path.lexists(file)}
    if there and args.skip_existing:
        listing.photos = [photo for photo in listing.photos if photo.path not in there]
        log.info(f"skipped {len(there):,} {noun(len(there), 'photo')} whose maps are there")
    elif there and not args.force:
        first = path_text(next(file for path, file in targets.items() if path in there))
        raise ArgumentError(
            f"--output: {len(there):,} of {len(targets):,} files are there, as {first}; "
            "--skip-existing leaves these photos out, --force replaces the files"
        )
    return targets


def _narrowed(maps: Array, dtype: str) -> Array:
    with np.errstate(over="ignore"):
        narrow = maps.astype(dtype)
    if not np.isfinite(narrow).all():
        raise ArgumentError(f"--save-dtype: {abs(maps).max():.3g} overflows {dtype}")
    return narrow


def _maps_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    for row in rows:
        lines = [printable(row["path"])] + [f"    error: {row['error']}"] * bool(row["error"])
        lines += [
            f"    {name:12} {'×'.join(map(str, shape))}" for name, shape in row["maps"].items()
        ]
        lines += [f"    → {path_text(row['file'])}"] if "file" in row else []
        yield escaped("\n".join(lines) + "\n")
