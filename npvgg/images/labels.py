"""Class index → name, and WordNet synset where one is known.

The names of ImageNet-1k ship with the package (assets/imagenet_1k.tsv; source and licence in
assets/LICENSES.md); a tag's own configuration, or a user's list, goes before them.
"""

from __future__ import annotations

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

_IMAGENET_1K = Path(__file__).parent.parent / "assets" / "imagenet_1k.tsv"
_SYNSET = re.compile(r"[nvars]\d{8}")
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

    A text file has one class per line, in order: a name, or a WordNet id and a name. Where every
    line begins with a number and a tab, comma, colon or blank, that is the index. A JSON file has a
    list of names; an object of index → name or of name → index; or an object that holds one of
    these under `id2label`, `label2id`, `label_names`, `labels` or `class_to_idx`. In place of a
    name there may be [WordNet id, name]. Python's {0: 'cat', 1: 'dog'} is read as well.

    Raises ArgumentError where it cannot be read, is empty, or an index is missing or there twice.
    """
    where = f"labels: {path_text(path)}"
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{where}: expected UTF-8 text, got byte {error.start}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"{where}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ArgumentError(f"{where}: expected at most {MAX_BYTES:,} bytes, got more")
    try:
        entries = _from_python(text)
        if not entries:
            is_json = text.lstrip()[:1] in ("[", "{")
            entries = _from_json(text) if is_json else _from_lines(text)
        return _in_order(entries)
    except (ArgumentError, WeightsError) as error:
        raise ArgumentError(f"{where}: {error}") from None


_Entry = tuple[int | None, Label]

_NUMBERED = re.compile(r"\s*([0-9]{1,9})(?:\s*[\t,;:]\s*|\s+)(?=\S)(.*)", re.DOTALL)
_ITEM = re.compile(
    r"\s*([0-9]{1,9})\s*:\s*"
    r"""(?:'((?:[^'\\\n]++|\\.)*+)'|"((?:[^"\\\n]++|\\.)*+)")\s*(?:,|\Z)"""
)
_ESCAPE = re.compile(r"\\(.)")

TABLES = ("id2label", "label2id", "label_names", "labels", "class_to_idx")
"""Under which keys the files of transformers, timm and torchvision hold their classes."""


def _from_lines(text: str) -> list[_Entry]:
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    _check_count(len(lines))
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if all(numbered):
        return [(int(m[1]), _label(_columns(m[2]))) for m in numbered if m]
    return [(None, _label(_columns(line))) for line in lines]


def _columns(text: str) -> list[str]:
    """Split a line at tabs, or a WordNet id off its front."""
    first, _, rest = text.partition(" ")
    return [first, rest] if _SYNSET.fullmatch(first) and "\t" not in text else text.split("\t")


def _from_python(text: str) -> list[_Entry]:
    """Read a Python dict of index → text, as people pass ImageNet's classes round; [] for others.

    It is matched item by item, not run.
    """
    body = text.strip()
    if body[:1] != "{" or body[-1:] != "}":
        return []
    body, position, entries = body[1:-1].strip(), 0, list[_Entry]()
    while item := _ITEM.match(body, position):
        name = item[2] if item[2] is not None else item[3]
        entries.append((int(item[1]), _label([_ESCAPE.sub(r"\1", name)])))
        position = item.end()
        _check_count(len(entries))
    return entries if position == len(body) else []


def _from_json(text: str) -> list[_Entry]:
    value = parse(text, "", MAX_BYTES)
    if isinstance(value, dict):
        tables = (value[key] for key in TABLES if isinstance(value.get(key), dict | list))
        value = next(tables, value)
    items: list[tuple[str | None, Any]] = [(None, item) for item in value]
    if isinstance(value, dict):
        items = list(value.items())
        if all(type(index) is int for index in value.values()):  # name → index
            items = [(str(index), name) for name, index in value.items()]
    _check_count(len(items))
    entries: list[_Entry] = []
    for key, item in items:
        columns = item if isinstance(item, list) else [item]
        if not columns or not all(isinstance(column, str) for column in columns):
            raise ArgumentError(f"expected names as text, got {shown(item)}")
        if key is not None and not re.fullmatch("[0-9]{1,9}", key):
            raise ArgumentError(f"expected an index as key, got {shown(key)}")
        entries.append((None if key is None else int(key), _label(columns)))
    return entries


def _check_count(count: int) -> None:
    if count > MAX_CLASSES:
        raise ArgumentError(f"expected at most {MAX_CLASSES:,} classes, got more")


def _label(columns: Sequence[str], description: str | None = None) -> Label:
    """Sort columns into synset and name; a synset alone is described, or is the name."""
    texts = [column.strip() for column in columns if column.strip()]
    synset = next((text for text in texts if _SYNSET.fullmatch(text)), None)
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
    missing = next((i for i in range(len(labels)) if i not in labels), None)
    if missing is not None:
        raise ArgumentError(f"expected the indices 0 … {len(labels) - 1}, but {missing} is missing")
    return [labels[i] for i in range(len(labels))]
