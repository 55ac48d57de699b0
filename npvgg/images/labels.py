"""Class index → name, and WordNet synset where one is known.

The names of ImageNet-1k ship with the package (assets/imagenet_1k.tsv; source and licence in
assets/LICENSES.md); a tag's own configuration, or a user's list, goes before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats.jsontext import parse
from npvgg.formats.untrusted import shown

_IMAGENET_1K = Path(__file__).parent.parent / "assets" / "imagenet_1k.tsv"
_SYNSET = re.compile(r"[nvars]\d{8}")
MAX_BYTES = 64 * 2**20
"""Largest list read; ImageNet-21k's takes one million bytes."""


class Label(NamedTuple):
    """The name of a class, and the WordNet id of its synset, such as "n01440764"."""

    name: str
    synset: str | None = None


def labels_for(pretrained_cfg: Mapping[str, Any]) -> Sequence[Label] | None:
    """Give the names of a model's classes, or None where nothing tells them.

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
    """Give the 1000 classes of ImageNet-1k (ILSVRC 2012), in the order of their synset ids.

    Source: timm 1.0.31 `imagenet_synsets.txt`, `imagenet_synset_to_lemma.txt`; WordNet 3.0.
    """
    return tuple(load_labels(_IMAGENET_1K))


def load_labels(path: str | PathLike[str]) -> list[Label]:
    """Read a list of classes.

    A text file has one class per line, in order: a name, or columns separated by tabs, where a
    first column of numbers is the index and a column of WordNet ids the synset. A JSON file has a
    list of names, or an object of index → name; in place of a name there may be [synset, name].

    Raises ArgumentError where it cannot be read, is empty, or an index is missing or there twice.
    """
    where = f"labels: {fspath(path)}"
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{where}: expected UTF-8 text, got byte {error.start}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"{where}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ArgumentError(f"{where}: expected at most {MAX_BYTES:,} bytes, got more")
    entries = _from_json(text, where) if text.lstrip()[:1] in ("[", "{") else _from_lines(text)
    return _in_order(entries, where)


_Entry = tuple[int | None, Label]


def _from_lines(text: str) -> list[_Entry]:
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    numbered = all(len(row) > 1 and row[0].strip().isdecimal() for row in rows)
    return [(int(row.pop(0)) if numbered else None, _label(row)) for row in rows]


def _from_json(text: str, where: str) -> list[_Entry]:
    try:
        value = parse(text, "", MAX_BYTES)
    except WeightsError as error:
        raise ArgumentError(f"{where}: {error}") from None
    items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    entries: list[_Entry] = []
    for key, item in items:
        columns = item if isinstance(item, list) else [item]
        if not columns or not all(isinstance(column, str) for column in columns):
            raise ArgumentError(f"{where}: expected names as text, got {shown(item)}")
        if key is not None and not (key.isdecimal() and len(key) < 10):
            raise ArgumentError(f"{where}: expected an index as key, got {shown(key)}")
        entries.append((None if key is None else int(key), _label(columns)))
    return entries


def _label(columns: Sequence[str], description: str | None = None) -> Label:
    """Sort columns into synset and name; a synset alone is described, or is the name."""
    texts = [column.strip() for column in columns if column.strip()]
    synset = next((text for text in texts if _SYNSET.fullmatch(text)), None)
    names = [text for text in texts if text != synset]
    name = names[0] if names else description or synset or ""
    return Label("".join(c if c.isprintable() else " " for c in name), synset)


def _in_order(entries: Sequence[_Entry], where: str) -> list[Label]:
    if not entries:
        raise ArgumentError(f"{where}: expected at least one class, got none")
    labels: dict[int, Label] = {}
    for place, (index, label) in enumerate(entries):
        index = place if index is None else index
        if index in labels:
            raise ArgumentError(f"{where}: expected each index once, got {index} twice")
        labels[index] = label
    missing = next((i for i in range(len(labels)) if i not in labels), None)
    if missing is not None:
        raise ArgumentError(
            f"{where}: expected the indices 0 … {len(labels) - 1}, but {missing} is missing"
        )
    return [labels[i] for i in range(len(labels))]
