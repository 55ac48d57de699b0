"""Outcomes → text: a table for people; JSON, JSON lines, CSV and TSV for programs.

Each format is a generator of strings, a row each, so that a result is out as soon as it is there,
and the same text can go to standard output or, all or nothing, into a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from npvgg.cli.text import escaped
from npvgg.formats.untrusted import printable

Row = dict[str, Any]


def path_columns(path: str) -> Row:
    """Return `path`, and where it is no UTF-8, `path_hex`: its very bytes, as `bytes.fromhex` reads
    them.
    """
    if path.isascii() or not any("\ud800" <= c <= "\udfff" for c in path):
        return {"path": path}
    return {"path": path, "path_hex": os.fsencode(path).hex()}


def as_jsonl(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """Write one JSON object per line."""
    for row in rows:
        yield json.dumps(row, allow_nan=False) + "\n"


def as_json(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    """Write one JSON array, a row per line; an unfinished one lacks JSON_END."""
    separator = "[\n"
    for row in rows:
        yield separator + json.dumps(row, allow_nan=False)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else JSON_END


JSON_END = "\n]\n"


def as_csv(
    rows: Iterable[Row], columns: Sequence[str], *, delimiter: str = ",", formulas: bool = True
) -> Iterator[str]:
    """Write a header and a line per row; the top k become `index_1, label_1, prob_1, …`.

    formulas: False puts an apostrophe before text that a spreadsheet would run as a formula
    Source: RFC 4180, but for the ends of lines, which are \\n alone.
    """

    def field(value: Any) -> str:
        text = str(value)
        if not formulas and isinstance(value, str) and text[:1] in FORMULA_SIGNS:
            text = "'" + text
        if any(c in text for c in (delimiter, '"', "\r", "\n")) or text != text.strip():
            return '"' + text.replace('"', '""') + '"'
        return text

    head = delimiter.join(map(field, columns)) + "\n"
    for row in rows:
        flat = _flattened(row)
        yield head + delimiter.join(field(flat.get(column, "")) for column in columns) + "\n"
        head = ""
    yield head  # where there was no row to carry it


FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in a spreadsheet. Source: OWASP, CSV Injection."""


def as_tsv(rows: Iterable[Row], columns: Sequence[str], *, formulas: bool = True) -> Iterator[str]:
    """Write CSV with tabs in place of commas."""
    return as_csv(rows, columns, delimiter="\t", formulas=formulas)


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
        yield escaped("\n".join(lines) + "\n")


FORMATS: dict[str, Callable[..., Iterator[str]]] = {
    "table": as_table,
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
    "tsv": as_tsv,
}
"""Rows → pieces of text; `columns` names the columns of a table of values, for CSV and TSV."""
