"""Outcomes → text: a table for people, JSON, JSON lines and CSV for programs.

Each format is a generator of strings, so that a result is out as soon as it is there, and the same
text can go to standard output or, all or nothing, into a file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from npvgg.formats.untrusted import printable

Row = dict[str, Any]


def as_jsonl(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """Write one JSON object per line."""
    for row in rows:
        yield json.dumps(row) + "\n"


def as_json(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """Write one JSON array, a row per line."""
    separator = "[\n"
    for row in rows:
        yield separator + json.dumps(row)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def as_csv(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """Write a header and a line per row; the top k become `index_1, label_1, prob_1, …`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(_flattened(row))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()  # the header, where there was no row to carry it


def _flattened(row: Row) -> Row:
    flat = {
        key: "; ".join(v) if isinstance(v, list) else v for key, v in row.items() if key != "topk"
    }
    for rank, entry in enumerate(row.get("topk", ()), 1):
        flat |= {f"{name}_{rank}": value for name, value in entry.items()}
    return flat


def as_table(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """Write what people read: the photo, then a line per class with its probability."""
    for row in rows:
        lines = [printable(row["path"])]
        lines += [f"    error: {row['error']}"] if row["error"] else []
        lines += [
            f"  {100 * entry['prob']:6.2f} %  {entry['index']:>4}  {entry['label']}"
            for entry in row.get("topk", ())
        ]
        lines += [f"    note: {note}" for note in row.get("notes", ())]
        yield "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Iterable[Row], Sequence[str]], Iterator[str]]] = {
    "table": as_table,
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
}
"""Rows → pieces of text; `columns` names the columns of a table of values, which only CSV needs."""
