"""PyTorch's checkpoints, read without PyTorch, and without running anything.

    zip (since 1.6)    folder/data.pkl · folder/data/<key> · folder/version [· folder/byteorder]
    stream (before)    magic · 1001 · machine · object · keys      (five pickles)
                       then per key: count (8 bytes) · that many numbers

The pickle is read by `pickled` into inert records, and only the records of tensors are acted on.
A checkpoint of a training run holds several sets of weights beside optimizers and options; which
one was taken is part of the answer.

Source: torch 2.14 `torch/serialization.py`, `_save`, `_legacy_save`, `_legacy_load`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import WeightsError
from npvgg.formats.files import read_into
from npvgg.formats.jsontext import parse_object
from npvgg.formats.safetensorsfile import (
    DTYPES,
    MAX_HEADER,
    MAX_TENSORS,
    Tensors,
    check_text,
    checked_metadata,
)
from npvgg.formats.torch import tensor
from npvgg.formats.torch.pickled import parse
from npvgg.formats.torch.records import DICT, Name, Outside, Record, is_name
from npvgg.formats.torch.tensor import Tensor, plain_tensor
from npvgg.formats.untrusted import MAX_BYTES, MAX_NAME, shown
from npvgg.formats.ziparchive import Archive

MAX_PICKLE = 64 * 2**20
"""Largest data.pkl, in bytes; that of timm's repvgg_d2se has 150,000."""

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training programs put the weights; the first that is there is taken, as timm does."""

METADATA = "npvgg.json"
"""The member in which npvgg's own .pth files carry their metadata; PyTorch passes over it."""

MAPPINGS = {DICT, Name("__builtin__", "dict"), Name("collections", "OrderedDict")}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

Storages = Callable[[str], NDArray[np.uint8]]


class Choice(NamedTuple):
    """The set of tensors that is taken: its key, its records, and what was left."""

    key: str
    tensors: dict[str, Record]
    others: tuple[str, ...]
    ignored: tuple[str, ...]


class Contents(NamedTuple):
    """What a PyTorch file gives; the fields are those of `checkpoint.Checkpoint`."""

    format: str
    tensors: Tensors
    stored: dict[str, str]
    metadata: dict[str, str]
    key: str
    others: tuple[str, ...]
    ignored: tuple[str, ...]


def recognised(head: bytes) -> bool:
    """Tell whether a file that begins so is PyTorch's.

    A safetensors header of 640 to 1,471 bytes may begin like a pickle, but then zeros follow.
    """
    pickle = head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and any(head[3:8])
    return pickle or head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def read(file: BinaryIO, size: int, wrapper: str | None = None) -> Contents:
    """The tensors of an open PyTorch file of `size` bytes.

    wrapper: the key of the set of weights to take, "" for the outermost; None for the usual choice
    Raises WeightsError.
    """
    if size > MAX_BYTES:
        raise WeightsError(f"expected a file of at most {MAX_BYTES} bytes, got {size}")
    file.seek(0)
    magic = file.read(2)
    return (_read_zip if magic == b"PK" else _read_stream)(file, size, wrapper)


# --- The two formats ------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, size: int, wrapper: str | None) -> Contents:
    archive = Archive(file, size)
    folder = _folder(archive)
    value = parse(archive.read(f"{folder}/data.pkl", MAX_PICKLE).data).value
    byteorder = "<"
    if f"{folder}/byteorder" in archive.members:
        text = bytes(archive.read(f"{folder}/byteorder", 10))
        if text not in (b"little", b"big"):
            raise WeightsError(f"byteorder: expected 'little' or 'big', got {shown(text)}")
        byteorder = "<" if text == b"little" else ">"
    metadata = {}
    if f"{folder}/{METADATA}" in archive.members:
        text = bytes(archive.read(f"{folder}/{METADATA}", MAX_HEADER))
        metadata = checked_metadata(parse_object(text, METADATA, MAX_HEADER), METADATA)

    def storages(key: str) -> NDArray[np.uint8]:
        if (name := f"{folder}/data/{key}") not in archive.members:
            raise WeightsError(f"expected a storage {shown(key)} in the archive, got none")
        return archive.read(name)

    choice = choose(value, wrapper)
    return _contents("torch zip", choice, storages, size, byteorder, metadata)


def _folder(archive: Archive) -> str:
    """The one folder in which PyTorch keeps everything. Other archives are called by their name."""
    names = list(archive.members)
    folders = {name.partition("/")[0] for name in names}
    if any(name.endswith("/constants.pkl") for name in names):
        raise WeightsError(
            "expected a state dict, got a TorchScript archive, which is a program: "
            "open it with torch.jit.load and torch.save its state_dict()"
        )
    if len(folders) == 1 and f"{(folder := folders.pop())}/data.pkl" in archive.members:
        return folder
    if names and all(name.endswith(".npy") for name in names):
        raise WeightsError("expected PyTorch weights, got a NumPy archive: use numpy.load")
    if not names:
        raise WeightsError("expected PyTorch weights, got an empty zip archive")
    raise WeightsError(
        f"expected PyTorch weights, got a zip archive that begins with {shown(names[0])}: "
        "unpack it first"
    )


def _read_stream(file: BinaryIO, size: int, wrapper: str | None) -> Contents:
    data = np.empty(size, np.uint8)
    file.seek(0)
    read_into(file, data.data)
    magic, position, _ = parse(data.data)
    if type(magic) is not int or magic != MAGIC:
        raise WeightsError(
            "expected PyTorch weights, got a pickle of something else "
            f"({_described(magic)}): only state dicts saved by torch.save are read"
        )
    protocol, position, _ = parse(data.data, position)
    machine, position, _ = parse(data.data, position)
    value, position, outside = parse(data.data, position)
    keys, position, _ = parse(data.data, position)
    if type(protocol) is not int or protocol != PROTOCOL:
        raise WeightsError(f"expected PyTorch's protocol {PROTOCOL}, got {shown(protocol)}")
    if ("little_endian", True) not in (pairs(machine) or ()):
        raise WeightsError(
            "expected a file of a little-endian machine: load it with torch and save it again"
        )
    choice = choose(value, wrapper)
    places = _places(data, position, keys, outside)

    def storages(key: str) -> NDArray[np.uint8]:
        if key not in places:
            raise WeightsError(f"expected a storage {shown(key)} in the file, got none")
        return data[places[key]]

    return _contents("torch stream", choice, storages, size, "<", {})


def _places(
    data: NDArray[np.uint8], position: int, keys: Any, outside: Iterable[Outside]
) -> dict[str, slice]:
    """Where each storage lies: they follow one another, each behind its count."""
    known: dict[str, tensor.Storage] = {}
    for source in filter(None, map(tensor.storage, outside)):
        if known.setdefault(source.key, source)[:3] != source[:3]:
            raise WeightsError(f"storage {shown(source.key)}: expected one type and size")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsError("expected a list of the keys of storages")
    if set(keys) != set(known) or len(keys) != len(known):
        raise WeightsError("expected the listed storages to be those that the tensors need")
    places = {}
    for key in keys:
        count = int.from_bytes(data[position : position + 8].tobytes(), "little")
        begin, itemsize = position + 8, np.dtype(DTYPES[known[key].dtype]).itemsize
        position = begin + count * itemsize
        if position > len(data) or count != known[key].numel:
            raise WeightsError(
                f"storage {shown(key)}: expected {shown(known[key].numel)} numbers, "
                f"got {count} of them, {len(data) - begin} bytes before the file's end"
            )
        places[key] = slice(begin, position)
    if position != len(data):
        raise WeightsError(f"expected the file to end at byte {position}, got {len(data)} bytes")
    return places


def _contents(
    format: str, choice: Choice, storages: Storages, size: int, byteorder: str, metadata: Any
) -> Contents:
    """Check every tensor, then read the storages they need, each once."""
    windows: dict[str, Tensor] = {}
    for name, record in choice.tensors.items():
        windows[name] = tensor.tensor(record, f"tensor {shown(name)}")
    total = sum(window.nbytes for window in windows.values())
    if total > 4 * size + 2**20:
        raise WeightsError(
            f"expected tensors not much larger than the file of {size} bytes, got {total}: "
            "they repeat each other's numbers"
        )
    types: dict[str, str] = {}
    data: dict[str, NDArray[np.uint8]] = {}
    tensors: Tensors = {}
    for name, window in windows.items():
        if types.setdefault(window.key, window.dtype) != window.dtype:
            raise WeightsError(f"storage {shown(window.key)}: expected numbers of one type")
        if window.key not in data:
            data[window.key] = storages(window.key)
        what = f"tensor {shown(name)}"
        tensors[name] = tensor.array(window, data[window.key], byteorder, what)
    stored = {name: window.dtype for name, window in windows.items()}
    return Contents(
        format, tensors, stored, metadata, choice.key, choice.others, choice.ignored
    )  # fmt: skip


# --- Which of the weights -------------------------------------------------------------------------


def choose(value: Any, wrapper: str | None) -> Choice:
    """The set of tensors to take from what was saved. Raises WeightsError where there is none."""
    outer = pairs(value)
    if outer is None:
        raise WeightsError(f"expected a state dict, got {_described(value)}")
    verdicts: dict[int, bool] = {}  # a file may name one dict many times; it is searched once
    named = [(key, inner) for key, inner in outer if isinstance(key, str)]
    candidates = {key: inner for key, inner in named if _has_tensors(inner, verdicts)}
    key = _key(wrapper, candidates, outer)
    others = tuple(name for name in candidates if name != key)
    left = tuple(_word(k) for k, _ in outer if k != key and k not in others) if key else ()
    taken, ignored = _tensors(candidates[key] if key else value)
    return Choice(key, taken, others, left + ignored)


def _key(wrapper: str | None, candidates: dict[str, Any], outer: list[tuple[Any, Any]]) -> str:
    found = ", ".join(shown(key) for key in list(candidates)[:10])
    if wrapper:
        if wrapper not in candidates:
            raise WeightsError(f"expected weights under {shown(wrapper)}, found {found or 'none'}")
        return wrapper
    direct = any(_is_tensor(inner) for _, inner in outer)
    if wrapper is None:
        if usual := next((key for key in WRAPPERS if key in candidates), ""):
            return usual
        if not direct and len(candidates) == 1:
            return next(iter(candidates))
    if direct:
        return ""
    if candidates:
        raise WeightsError(
            f"several sets of weights: {found}; choose one by its name (wrapper=, --wrapper)"
        )
    things = ", ".join(f"{_word(key)}: {_described(inner)}" for key, inner in outer[:5])
    raise WeightsError(f"expected tensors, got none: {{{things}}}")


def _tensors(value: Any) -> tuple[dict[str, Record], tuple[str, ...]]:
    """The tensors of a mapping by name, and the names of what else is there."""
    tensors: dict[str, Record] = {}
    ignored = []
    for name, inner in pairs(value) or ():
        record = plain_tensor(inner)
        if record is None:
            if _is_tensor(inner):
                raise WeightsError(
                    f"tensor {_word(name)}: expected a plain dense tensor, got {_maker(inner)}"
                )
            ignored.append(_word(name))
            continue
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or name in tensors:
            raise WeightsError(
                f"expected unique names of 1 to {MAX_NAME} characters, got {shown(name)}"
            )
        check_text(name, "state dict")
        tensors[name] = record
    if len(tensors) > MAX_TENSORS:
        raise WeightsError(f"expected at most {MAX_TENSORS} tensors, got {len(tensors)}")
    return tensors, tuple(ignored)


def pairs(value: Any) -> list[tuple[Any, Any]] | None:
    """The keys and values of a dict or OrderedDict, None for anything else."""
    if not isinstance(value, Record) or not is_name(value.maker, MAPPINGS):
        return None
    match value.args:
        case ([*initial],) if all(isinstance(p, list | tuple) and len(p) == 2 for p in initial):
            return [(key, inner) for key, inner in initial] + value.pairs  # as Python 2 wrote it
    return value.pairs


def _has_tensors(value: Any, verdicts: dict[int, bool]) -> bool:
    if id(value) not in verdicts:
        inside = pairs(value) or ()
        verdicts[id(value)] = any(_is_tensor(inner) for _, inner in inside)
    return verdicts[id(value)]


def _is_tensor(value: Any) -> bool:
    """Whether PyTorch would make it a tensor, plain or not (sparse, quantized, of a subclass)."""
    return isinstance(value, Record) and _maker(value).name.startswith("_rebuild")


def _maker(record: Record) -> Name:
    """The class or function of a record, seen through the helpers that pickle puts before it."""
    maker: Any = record.maker
    if isinstance(maker, Name) and maker.module in ("copyreg", "copy_reg") and record.args:
        maker = record.args[0]
    if isinstance(maker, Outside) and isinstance(maker.id, tuple) and len(maker.id) > 1:
        maker = maker.id[1]  # early PyTorch put the source of a module's class outside
    return maker if isinstance(maker, Name) else Name("", "unknown")


def _described(value: Any) -> str:
    if plain_tensor(value) is not None:
        return "a single tensor"
    if pairs(value) is not None:
        return "a dict"
    if isinstance(value, Record):
        if _maker(value).module.partition(".")[0] == "numpy":
            return "a NumPy array: save tensors, or safetensors"
        return (
            f"a whole object ({shown(str(_maker(value)))}), which only its own code can rebuild: "
            "open it where it was made and torch.save its state_dict()"
        )
    kind = type(value).__name__
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _word(key: Any) -> str:
    return key if isinstance(key, str) and key.isprintable() and len(key) <= 200 else shown(key)
