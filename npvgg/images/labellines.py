"""Lists of classes with a class per line: where the index is, if there is one.

People write it before the name or after it, with any of a dozen separators, from 0 or from 1, out
of order, in tables with titles; and names have numbers of their own ("boeing 747", "class 1"). An
integer is an index where every line has one at the same place and they are 0 … n - 1 or 1 … n.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import NamedTuple

from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import shown

SYNSET = re.compile(r"[nvars]\d{8}")
IN_DOUBT = "write a JSON list of the names in order to leave no doubt"


class Line(NamedTuple):
    """A class as it was written: its number, if told, and its name and synset in any order."""

    number: int | None
    columns: list[str]


_BEGIN = re.compile(
    r"(?:([nvars]\d{8})(?:\s*[\t,;:]\s*|\s+))?[#(\[]?([0-9]{1,9})"
    r"(\s*[-=]>\s*|\s+-\s+|\.(?!\d)\s*|\s*[\t,;:=|)\]]\s*|\s+)(?=\S)(.*)",
    re.DOTALL,
)
_BEFORE_INDEX = ("->", "=>", "\t", ",", ";", ":", "=", "|")
_UNNAMED = re.compile(r"[0-9]{1,9}(?:[\s,;:=|]|\Z)")
_INTEGER = re.compile("[0-9]{1,9}")
_SYNSET_FIRST = re.compile(r"([nvars]\d{8})(?:\s*[,;:]\s*|\s+)(.*)", re.DOTALL)
_SYNSET_LAST = re.compile(r"[,;:\s]([nvars]\d{8})\Z")
_TITLES = re.compile(
    r"(?:class(?:es|name|id)?|labels?|names?|(?:class_|label_)(?:id|idx|index|names?)|id|idx|index|key"
    r"|value|no|number|category|description|lemma|words|synset(?:_id)?|wnid|wordnet_id)"
)
"""The words of a line of titles above a table."""


_MAX_COLUMNS = 100


class _Reading(NamedTuple):
    """One way to find an integer in every line."""

    indices: list[int]
    columns: list[list[str]]
    leading: bool
    blank: bool  # somewhere nothing but a blank sets the integer apart


def read(lines: list[str]) -> list[Line]:
    """Return the index of each line, or None, and the columns beside it.

    Raises ArgumentError where every line has an integer and it is in doubt what these are, or the
    first line alone has none.
    """
    rows = _table(lines)
    names = [Line(None, _columns(row)) for row in rows]
    if len(rows) < 2:
        return _indexed(rows) or names
    if _are_titles(lines[0]):
        if indexed := _indexed(rows[1:]):
            return indexed
        if all(any(map(SYNSET.fullmatch, line.columns)) for line in names[1:]):
            return names[1:]
        if re.search(r"\w\W*[\t,;|]\W*\w", lines[0]):
            raise ArgumentError(f"expected an index below the titles {shown(lines[0])}, got none")
    elif indexed := _indexed(rows):
        return indexed
    elif _is_indexed(rows[1:]):
        raise ArgumentError(
            "expected an index in every line or in none, got one in all but the first, "
            f"{shown(lines[0])}"
        )
    return names


def _are_titles(line: str) -> bool:
    words = [word.strip("\"'#").lower() for word in re.split(r"[\s,;:=|]+", line)]
    return any(words) and all(_TITLES.fullmatch(word) for word in words if word)


def _table(lines: list[str]) -> list[list[str]]:
    """Return the columns of lines with tabs, or of CSV; else each line whole.

    Names have commas as well: CSV has quotes, or a column of integers between others.
    """
    quoted = any('"' in line for line in lines)
    for delimiter in "\t,;":
        if lines[-1].count(delimiter) not in range(1 if quoted else 2, _MAX_COLUMNS):
            continue
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True))
        except csv.Error:
            continue
        rows = [[column.strip() for column in row] for row in rows]
        if len(rows) != len(lines) or {len(row) for row in rows} != {max(2, len(rows[0]))}:
            continue
        if quoted or _integer_columns([["", *row[1:-1], ""] for row in rows[1:] or rows]):
            return rows
    if all("\t" in line for line in lines[1:] or lines):
        return [[column.strip() for column in line.split("\t")] for line in lines]
    return [[line] for line in lines]


def _columns(row: Sequence[str]) -> list[str]:
    """Split a line that is no table's at tabs, or a WordNet id off its front or its end."""
    if len(row) > 1:
        return [*row]
    text = row[0]
    if "\t" in text:
        return text.split("\t")
    if first := _SYNSET_FIRST.fullmatch(text):
        return [first[1], _unquoted(first[2])]
    if last := _SYNSET_LAST.search(text):
        return [last[1], _unquoted(text[: last.start()].rstrip(" ,;:"))]
    return [_unquoted(text)]


def _unquoted(text: str) -> str:
    inner = text[1:-1].replace('""', "")
    quoted = len(text) > 2 and text[0] == text[-1] == '"' and '"' not in inner
    return text[1:-1].replace('""', '"') if quoted else text


def _indexed(rows: list[list[str]]) -> list[Line] | None:
    """Return the classes with the index that each line tells; None where the lines are names.

    An integer that begins a line, or that more than a blank sets apart, is an index or a fault;
    one after a blank at the end is an index only where the lines are not in its order.
    """
    readings = _integer_columns(rows) or _leading(rows) + _trailing(rows)
    in_order = [*range(len(rows))]
    used: list[tuple[list[int], _Reading]] = []
    for reading in readings:
        order = from_zero(reading.indices)
        if order and (reading.leading or not reading.blank or order != in_order):
            used.append((order, reading))
    if not used:
        faulty = (reading for reading in readings if reading.leading or not reading.blank)
        return next(map(_classes, faulty), None)  # whose indices are refused by whoever sorts them
    order, reading = used[0]
    if any(other != order and not also.blank for other, also in used):
        raise ArgumentError(f"expected one index a line, got two that differ; {IN_DOUBT}")
    if reading.blank and order != in_order and 2 * len({*map(tuple, reading.columns)}) <= len(rows):
        raise ArgumentError(
            f"expected an index or a name, got {shown(rows[0][0])}, whose number may belong to "
            f"either; {IN_DOUBT}"
        )
    return _classes(reading)


def _is_indexed(rows: list[list[str]]) -> bool:
    try:
        found = _indexed(rows)
    except ArgumentError:
        return False
    return bool(found and from_zero([line.number for line in found]))


def _classes(reading: _Reading) -> list[Line]:
    return list(map(Line, reading.indices, reading.columns))


def _integer_columns(rows: list[list[str]]) -> list[_Reading]:
    """Return a reading for each column of integers; the names are in the others, if any."""
    width = min(map(len, rows))
    if width < 2:
        return []
    found = [c for c in range(width) if all(_INTEGER.fullmatch(row[c]) for row in rows)]
    if not found and all(_INTEGER.fullmatch(row[-1]) for row in rows):
        found = [-1]
    readings = []
    for column in found:
        beside = [
            [text for c, text in enumerate(row) if c not in found and c - len(row) not in found]
            or row[:column] + row[column + 1 :]
            for row in rows
        ]
        readings.append(_Reading([int(row[column]) for row in rows], beside, False, False))
    return readings


def _leading(rows: list[list[str]]) -> list[_Reading]:
    indices, columns, blank = [], [], False
    for row in rows:
        match = _BEGIN.fullmatch("\t".join(row))
        if not match:
            lines = ["\t".join(row) for row in rows]
            if all(map(_UNNAMED.match, lines)) and any(map(_BEGIN.fullmatch, lines)):
                raise ArgumentError(f"expected a name beside each index, got {shown(row[0])}")
            return []
        synset, index, between, rest = match.groups()
        indices.append(int(index))
        columns.append([synset, _unquoted(rest)] if synset else _columns([rest]))
        blank |= not between.strip() and "\t" not in between and not synset
    return [_Reading(indices, columns, True, blank)]


def _trailing(rows: list[list[str]]) -> list[_Reading]:
    indices, columns, blank = [], [], False
    for row in rows:
        line = "\t".join(row)
        if last := _SYNSET_LAST.search(line):
            line = line[: last.start()].rstrip(" ,;:\t")
        line = line[:-1] if line[-1:] in (")", "]") else line
        head = line.rstrip("0123456789")
        text = head.rstrip(" ")
        mark = next((mark for mark in _BEFORE_INDEX if text.endswith(mark)), "")
        loose = text.endswith(("#", " (", " ["))  # as a number of the name's own has it
        mark = text[-1] if loose else mark
        text = text[: len(text) - len(mark)].strip()
        if (
            not _INTEGER.fullmatch(line[len(head) :])
            or not text
            or not (mark or head[-1].isspace())
        ):
            return []
        indices.append(int(line[len(head) :]))
        columns.append([last[1], _unquoted(text)] if last else _columns([text]))
        blank |= (loose or not mark) and not any(map(SYNSET.fullmatch, columns[-1]))
    return [_Reading(indices, columns, False, blank)]


def from_zero(indices: Sequence[int | None]) -> list[int] | None:
    """Return indices that are 0 … n - 1 or 1 … n, each once, counted from 0; None for others."""
    known = [index for index in indices if index is not None]
    first = min(known, default=-1)
    if first not in (0, 1) or sorted(known) != [*range(first, first + len(indices))]:
        return None
    return [index - first for index in known]
