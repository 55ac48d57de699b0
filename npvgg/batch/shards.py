"""The rows of one shard, and its file: written whole, under its final name once.

The first writer wins: the file is linked to its name, which fails where there is one already. The
loser's bytes are the same, on processors of one kind (each file's metadata names the kind).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from npvgg.batch import guests
from npvgg.batch.predictor import Columns, Decoded, Predictor
from npvgg.batch.reading import Reader
from npvgg.batch.run import Run
from npvgg.batch.sources import Entry
from npvgg.batch.spec import refuse_another
from npvgg.errors import ImageError
from npvgg.formats.files import atomic_write

BATCH_SIZE = 16
KILLER = "killed its worker twice"

Report = Callable[[int | None], None]
"""Told the number of a photo before it is opened, and None when photos are not what is going on."""


class Done(NamedTuple):
    """A shard that is done: its number, its rows, and how many of them failed."""

    shard: int
    rows: int
    failed: int


def run_shard(
    run: Run,
    number: int,
    predictor: Predictor | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    killers: Collection[int] = (),
    retry: bool = False,
    report: Report | None = None,
) -> Done:
    """Compute a shard and write its file, unless it is there.

    predictor: of the run's spec; made where it is not given
    batch_size: photos at once, which decides no bit
    killers: numbers of photos not to be opened, as they kill who opens them
    retry: the file is there; compute its failed rows again, keep the others, and replace it

    Raises ArgumentError for a predictor of another identity, OSError where nothing can be written.
    """
    target = run.shard(number)
    entries, old = run.entries(number), None
    wanted = list(range(len(entries)))
    if retry:
        old = run.rows(number)
        wanted = [n for n, status in enumerate(old["status"].to_pylist()) if status == "error"]
        if not wanted:
            return Done(number, len(entries), 0)
    elif os.path.lexists(target):
        statuses = run.rows(number, ["status"]).column(0).to_pylist()
        return Done(number, len(statuses), statuses.count("error"))
    predictor = predictor or Predictor(run.spec)
    refuse_another(run.identity, predictor.identity)
    columns, notes = _computed(
        Reader(run.plan["base"]),
        predictor,
        [entries[n] for n in wanted],
        batch_size,
        killers,
        report or (lambda photo: None),
    )
    if old is not None:
        columns, notes = _merged(old, wanted, columns, notes)
    table = _table(run, entries, columns, notes, predictor)
    try:
        atomic_write(target, memoryview(_file(table)), overwrite=retry)
    except FileExistsError:  # somebody was faster
        pass
    except OSError:
        if retry or not target.exists():
            raise
    return Done(number, len(entries), columns["status"].tolist().count("error"))


def _computed(
    reader: Reader,
    predictor: Predictor,
    entries: Sequence[tuple[int, Entry]],
    batch_size: int,
    killers: Collection[int],
    report: Report,
) -> tuple[Columns, list[list[str]]]:
    """Compute the rows of some photos, and their notes."""
    pieces: list[Columns] = []
    notes: list[list[str]] = []
    try:
        for at in range(0, len(entries), batch_size):
            some = entries[at : at + batch_size]
            decoded = []
            for id, entry in some:
                report(id)
                killer = Decoded(error=KILLER)
                decoded.append(killer if id in killers else _decode(predictor, reader, entry))
            report(None)
            pieces.append(predictor.rows(decoded))
            notes += [list(photo.notes) for photo in decoded]
    finally:
        reader.close()
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return columns, notes


def _merged(
    old: Any, wanted: Sequence[int], columns: Columns, notes: Sequence[list[str]]
) -> tuple[Columns, list[list[str]]]:
    """Put rows that were computed again into the places where a shard's rows had failed."""
    good = np.ones(old.num_rows, bool)
    good[list(wanted)] = False
    kept = old.filter(guests.arrow()[0].array(good))
    merged: Columns = {}
    for name, new in columns.items():
        values = np.array(kept[name].to_pylist(), object)
        both = np.empty((len(good), *new.shape[1:]), object)
        both[good], both[~good] = values.reshape(-1, *new.shape[1:]), new
        merged[name] = both.astype(new.dtype if new.dtype.kind != "U" else np.str_)
    merged["error"][good] = ""
    again, before = iter(notes), iter(kept["notes"].to_pylist())
    return merged, [next(before) if fine else next(again) for fine in good]


def _decode(predictor: Predictor, reader: Reader, entry: Entry) -> Decoded:
    try:
        with reader.photo(entry) as source:
            return predictor.decode(source)
    except ImageError as error:
        return Decoded(error=str(error))


def _table(
    run: Run,
    entries: Sequence[tuple[int, Entry]],
    columns: Columns,
    notes: Sequence[list[str]],
    predictor: Predictor,
) -> Any:
    """Make a pyarrow Table of columns, with nulls where a photo failed."""
    pa, _ = guests.arrow()
    failed = columns["status"] == "error"

    def lists(values: Any, kind: Any) -> Any:
        flat = pa.array(values[~failed].reshape(-1).tolist() if kind == pa.string() else
                        np.ascontiguousarray(values[~failed]).reshape(-1), kind)  # fmt: skip
        ends = np.cumsum(np.where(failed, 0, values.shape[1]), dtype=np.int32)
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, flat, mask=pa.array(failed))

    kinds = {"i": pa.int32(), "U": pa.string()}
    arrays = {
        "id": pa.array([id for id, _ in entries], pa.int64()),
        "path": pa.array([_text(entry.path) for _, entry in entries], pa.string()),
        "status": pa.array(columns["status"].tolist(), pa.string()),
        "error": pa.array(columns["error"].tolist(), pa.string(), mask=~failed),
        "width": pa.array(columns["width"], pa.int32(), mask=failed),
        "height": pa.array(columns["height"], pa.int32(), mask=failed),
        "notes": pa.array(
            [None if bad else some for bad, some in zip(failed, notes, strict=True)],
            pa.list_(pa.string()),
        ),
    }
    for name in ("top_index", "top_label", "top_prob", "embedding"):
        if name in columns:
            kind = kinds.get(columns[name].dtype.kind) or pa.from_numpy_dtype(columns[name].dtype)
            arrays[name] = lists(columns[name], kind)
    metadata = {
        "npvgg.run": hashlib.sha256(json.dumps(run.identity, sort_keys=True).encode()).hexdigest(),
        "npvgg.processor": _processor(predictor.spec.engine),
    }
    return pa.table(arrays).replace_schema_metadata(metadata)


def _file(table: Any) -> Any:
    """Return the bytes of a table as a parquet file: the same for the same rows."""
    pa, pq = guests.arrow()
    sink = pa.BufferOutputStream()
    texts = ["status", "error", "notes.list.element", "top_label.list.element"]
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=texts, row_group_size=table.num_rows
    )
    return sink.getvalue()


def _processor(engine: str) -> str:
    """Name the kind of processor that rows were computed on, as far as it decides their bits."""
    if engine == "reference":
        return platform.machine()
    from npvgg.engines.processor import processor

    name, features = processor()
    return f"{name} {hashlib.sha256(features.encode()).hexdigest()[:16]}"


def _text(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()


def missing(run: Run, numbers: Iterator[int]) -> list[int]:
    """Return those of some shards whose file is not there, in order."""
    done = run.done()
    return [number for number in numbers if number not in done]
