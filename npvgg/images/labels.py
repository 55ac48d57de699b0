"""Class index → name, and WordNet synset where one is known.

The names of ImageNet-1k ship with the package (assets/imagenet_1k.tsv; source and licence in
assets/LICENSES.md); a tag's own configuration, or a user's list, goes before them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats.files import open_regular
from npvgg.formats.jsontext import parse
from npvgg.formats.untrusted import path_text, shown
from npvgg.images import labellines

_IMAGENET_1K = Path(__file__).parent.parent / "assets" / "imagenet_1k.tsv"
MAX_BYTES = 16 * 2**20
"""Largest list read; ImageNet-21k's takes one million bytes."""

MAX_CLASSES = 1_000_000
"""Most classes of a list; ImageNet-21k has 21,843."""


class Label(NamedTuple):
    """The name of a class, and the WordNet id of its synset, such as "n01440764"."""

    name: str
    synset: str | None = None


def labels_for(pretrained_cfg: Mapping[str, Any]) -> Sequence[Label] | None:
    """Return the names of a model's classes, or None where nothing tells them.

    `label_names` of the configuration goes first; 1000 classes without it are taken to be
    ImageNet-1k's, in the order of ILSVRC 2012, as every RepVGG that was published has them.
    Raises ArgumentError where there are more or fewer names than classes.
    """
    classes = pretrained_cfg.get("num_classes")
    if names := pretrained_cfg.get("label_names"):
        if len(names) != classes:
            raise ArgumentError(
                f"pretrained_cfg['label_names']: expected {classes} names, got {len(names)}"
            )
        described = pretrained_cfg.get("label_descriptions") or {}
        return [_label([str(name)], described.get(name)) for name in names]
    return imagenet_1k() if classes == 1000 else None


@cache
def imagenet_1k() -> tuple[Label, ...]:
    """Return the 1000 classes of ImageNet-1k (ILSVRC 2012), in the order of their synset ids.

    Source: timm 1.0.31 `imagenet_synsets.txt`, `imagenet_synset_to_lemma.txt`; WordNet 3.0.
    """
    return tuple(load_labels(_IMAGENET_1K))


def load_labels(path: str | PathLike[str]) -> list[Label]:
    """Read a list of classes.

    A text file (UTF-8, or UTF-16 with its byte order mark) has one class per line, in order: a
    name, or a WordNet id and a name. Where every line begins or ends with a number and a tab, comma
    or the like, that is the index, from 0 or from 1; a line of titles above is left out. A number
    after a blank that merely counts the lines ("class 1") stays in the name. JSON, or a literal of
    Python, has a list of names; an object of index → name or of name → index; or an object that
    holds one of these under one of `TABLES`. In place of a name there may be [WordNet id, name].

    Raises ArgumentError where it cannot be read, is empty, an index is missing or there twice, or
    it can be read in two ways.
    """
    where = f"labels: {path_text(path)}"
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"{where}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ArgumentError(f"{where}: expected at most {MAX_BYTES:,} bytes, got more")
    try:
        return _in_order(_entries(_decoded(data)))
    except (ArgumentError, WeightsError) as error:
        raise ArgumentError(f"{where}: {error}") from None


_Entry = tuple[int | None, Label]

TABLES = (
    "id2label", "label2id", "label_names", "labels", "class_to_idx", "idx_to_class", "names",
    "classes",
)  # fmt: skip
"""Under which keys the files of transformers, timm, torchvision and others hold their classes."""


def _decoded(data: bytes) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if utf16 else "UTF-8"
        raise ArgumentError(f"expected {encoding} text, got byte {error.start}") from None
    if "\0" in text:
        raise ArgumentError(f"expected text, got a NUL at character {text.index(chr(0))}")
    return text


def _entries(text: str) -> list[_Entry]:
    text = text.strip()
    assigned = _ASSIGNED.match(text)
    body = text[assigned.end() :] if assigned else text
    if body[:1] not in ("[", "{", "(") or (not assigned and _NO_LITERAL.match(body)):
        return _from_lines(body)
    items = _from_python(body, python=bool(assigned))
    return _from_items(_from_json(body) if items is None else items)


def _from_lines(text: str) -> list[_Entry]:
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    _check_count(len(lines))
    read = labellines.read(lines) if lines else []
    return [(line.number, _label(line.columns)) for line in read]


_TEXT = r"""u?(?:'(?:[^'\\\n]++|\\.)*+'|"(?:[^"\\\n]++|\\.)*+")|[0-9]{1,9}(?![0-9.])"""
_ITEM = re.compile(rf"\s*(?:({_TEXT})\s*:\s*)?({_TEXT})\s*(?:,|\Z)")
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|([\\'\"nrt]))"
)
_ASSIGNED = re.compile(r"[A-Za-z_]\w*\s*(?::[^=\n\[{]*+(?:\[[^=\n]*\])?\s*+)?=\s*(?=[\[{(])")
_NO_LITERAL = re.compile(r"\[[0-9]{1,9}\]\s*[^\s,\]]|\(")
"""How a line such as "[2] bird" or "(2) bird" begins."""

_Items = list[tuple[str | None, Any]]


def _from_python(body: str, python: bool) -> _Items | None:
    """Read a Python dict or list of texts and integers; None for others, and for what JSON is.

    It is matched item by item, not run. python: it was assigned to a name.
    """
    if (body[:1], body[-1:]) not in (("{", "}"), ("[", "]")):
        return None
    pairs, body, position, items = body[0] == "{", body[1:-1].strip(), 0, _Items()
    while item := _ITEM.match(body, position):
        key, text = item[1], item[2]
        if (key is not None) != pairs:
            return None
        python |= text[0] in "'u" or (key is not None and key[0] != '"')
        value = int(text) if text.isdigit() else _python_text(text)
        items.append((None if key is None else _python_text(key), value))
        position = item.end()
        _check_count(len(items))
    return items if python and position == len(body) else None


def _python_text(token: str) -> str:
    """Return what a Python literal of text stands for; an integer as it is."""
    if token.isdigit():
        return token
    plain = {"n": "\n", "r": "\r", "t": "\t"}
    return _ESCAPE.sub(
        lambda m: plain.get(m[4], m[4]) if m[4] else chr(int(m[1] or m[2] or m[3], 16)),
        token[2:-1] if token[0] == "u" else token[1:-1],
    )


def _from_json(text: str) -> _Items:
    value = parse(text, "", MAX_BYTES)
    if isinstance(value, dict):
        tables = (value[key] for key in TABLES if isinstance(value.get(key), dict | list))
        value = next(tables, value)
    return list(value.items()) if isinstance(value, dict) else [(None, item) for item in value]


def _from_items(items: _Items) -> list[_Entry]:
    _check_count(len(items))
    keys, values = ([_index(item[side]) for item in items] for side in (0, 1))
    to_names, to_indices = None not in keys, None not in values
    if to_names and to_indices:  # digits are the names
        if keys != values and labellines.from_zero(keys) and labellines.from_zero(values):
            raise ArgumentError(
                f"expected index → name, got two integers each; {labellines.IN_DOUBT}"
            )
        to_indices = all(type(value) is int for _, value in items)
    if to_indices and all(key is not None for key, _ in items):
        items = [(str(index), name) for (name, _), index in zip(items, values, strict=True)]
    entries: list[_Entry] = []
    for key, item in items:
        columns = item if isinstance(item, list) else [item]
        if not columns or not all(isinstance(column, str) for column in columns):
            raise ArgumentError(f"expected names as text, got {shown(item)}")
        index = _index(key)
        if key is not None and index is None:
            raise ArgumentError(f"expected an index as key, got {shown(key)}")
        entries.append((index, _label(columns)))
    return entries


def _index(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch("[0-9]{1,9}", value) else None
    return value if type(value) is int else None


def _check_count(count: int) -> None:
    if count > MAX_CLASSES:
        raise ArgumentError(f"expected at most {MAX_CLASSES:,} classes, got more")


def _label(columns: Sequence[str], description: str | None = None) -> Label:
    """Sort columns into synset and name; a synset alone is described, or is the name."""
    texts = [column.strip() for column in columns if column.strip()]
    synset = next((text for text in texts if labellines.SYNSET.fullmatch(text)), None)
    names = [text for text in texts if text != synset]
    name = names[0] if names else description or synset or ""
    return Label("".join(c if c.isprintable() else " " for c in name), synset)


def _in_order(entries: Sequence[_Entry]) -> list[Label]:
    if not entries:
        raise ArgumentError("expected at least one class, got none")
    labels: dict[int, Label] = {}
    for place, (index, label) in enumerate(entries):
        index = place if index is None else index
        if index in labels:
            raise ArgumentError(f"expected each index once, got {index} twice")
        labels[index] = label
    count = len(labels)
    if labellines.from_zero([*labels]) is None:
        missing = next(i for i in range(count) if i not in labels)
        raise ArgumentError(
            f"expected the indices 0 … {count - 1}, or 1 … {count}, but {missing} is missing"
        )
    ordered = [labels[i] for i in sorted(labels)]
    synsets = [label.synset for label in ordered if label.synset]
    if 0 not in labels and len(synsets) == count and synsets != sorted(synsets):
        raise ArgumentError(
            "expected indices from 0, or synsets in order, got synsets out of order numbered from "
            "1, as ILSVRC's development kit does; networks count ImageNet's synsets in the order "
            "of their ids"
        )
    return ordered
