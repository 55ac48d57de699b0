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

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import WeightsError
from npvgg.formats.files import read_into
from npvgg.formats.jsontext import parse_object
from npvgg.formats.safetensorsfile import (
    DTYPES,
    MAX_HEADER,
    Tensors,
    checked_metadata,
)
from npvgg.formats.torch import tensor
from npvgg.formats.torch.choice import Choice, Work, choose, described, harmless
from npvgg.formats.torch.pickled import names_in, old_names_in, parse
from npvgg.formats.torch.records import Name, Outside
from npvgg.formats.torch.tensor import Tensor
from npvgg.formats.untrusted import MAX_BYTES, shown
from npvgg.formats.ziparchive import Archive

MAX_PICKLE = 64 * 2**20
"""Largest data.pkl, in bytes; that of timm's repvgg_d2se has 150,000."""

MAX_PICKLES = 100
"""Most pickles of a file, one behind the other or in an archive, that are searched for code;
PyTorch writes five and one, TorchScript two."""

MAX_REPEATS = 4
"""How many times larger than its file all tensors may be; bfloat16, widened, makes it twice."""

METADATA = "npvgg.json"
"""The member in which npvgg's own .pth files carry their metadata; PyTorch passes over it."""

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

Storages = Callable[[str], NDArray[np.uint8]]


class Contents(NamedTuple):
    """What a PyTorch file gives; the fields are those of `checkpoint.Checkpoint`."""

    format: str
    tensors: Tensors
    stored: dict[str, str]
    metadata: dict[str, str]
    key: str
    others: tuple[str, ...]
    ignored: dict[str, str]
    calls: tuple[str, ...]


def recognised(head: bytes) -> bool:
    """Return whether a file that begins so is PyTorch's.

    A safetensors header of 640 to 1,471 bytes may begin like a pickle, but then zeros follow.
    """
    pickle = head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and any(head[3:8])
    return pickle or head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def read(file: BinaryIO, size: int, wrapper: str | None = None) -> Contents:
    """Return the tensors of an open PyTorch file of `size` bytes.

    wrapper: the key of the set of weights to take, "" for the outermost; None for the usual choice
    Raises WeightsError.
    """
    if size > MAX_BYTES:
        raise WeightsError(f"expected a file of at most {MAX_BYTES} bytes, got {size}")
    file.seek(0)
    magic = file.read(2)
    return (_read_zip if magic == b"PK" else _read_stream)(file, size, wrapper)


def code_in(file: BinaryIO, size: int) -> tuple[str, ...]:
    """Return the functions and classes that the pickles of an open file name and that are no
    containers of data, also of one that `read` refuses: TorchScript, a whole model, any pickle.

    What cannot be followed is passed over, and what is behind the first `MAX_PICKLES`. Raises
    WeightsError for a damaged archive.
    """
    names: set[Name] = set()
    for data in islice(_pickles(file, size), MAX_PICKLES):
        end = 0
        for _ in range(MAX_PICKLES):
            position = end
            found, end = names_in(data, position)
            names |= found
            if end in (position, len(data)):
                break
        if not end:
            names |= old_names_in(bytes(data))
    return _foreign(names)


def _pickles(file: BinaryIO, size: int) -> Iterator[bytes | memoryview]:
    """Yield the pickles of an archive, or the beginning of a file that is none."""
    file.seek(0)
    if file.read(2) != b"PK":
        file.seek(0)
        yield file.read(MAX_PICKLE)
        return
    archive = Archive(file, size)
    for name in archive.members:
        if name.endswith(".pkl"):
            yield archive.read(name, MAX_PICKLE).data


def _foreign(names: Iterable[Name]) -> tuple[str, ...]:
    return tuple(sorted({str(name) for name in names if not harmless(name)}))


# --- The two formats ------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, size: int, wrapper: str | None) -> Contents:
    archive = Archive(file, size)
    folder = _folder(archive)
    parsed = parse(archive.read(f"{folder}/data.pkl", MAX_PICKLE).data)
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

    choice = choose(parsed.value, wrapper)
    return _contents("torch zip", choice, storages, size, byteorder, metadata, parsed.names)


def _folder(archive: Archive) -> str:
    """Return the one folder in which PyTorch keeps everything. Other archives are called by their
    name.
    """
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
    magic, position, outside, names = parse(data.data)
    if outside:
        raise WeightsError(
            "expected a .pth file, got the data.pkl of one that was unpacked, without its numbers: "
            "give the folder's archive, or pack it again (`zip -0 -r weights.pth FOLDER`)"
        )
    if type(magic) is not int or magic != MAGIC:
        raise WeightsError(
            "expected PyTorch weights, got a pickle of something else "
            f"({described(magic)}): only state dicts saved by torch.save are read"
        )
    values = []
    for _ in range(4):  # torch.load runs them all
        value, position, found, also = parse(data.data, position)
        values.append(value)
        outside, names = outside + found, names | also
    protocol, machine, value, keys = values
    if type(protocol) is not int or protocol != PROTOCOL:
        raise WeightsError(f"expected PyTorch's protocol {PROTOCOL}, got {shown(protocol)}")
    if ("little_endian", True) not in (Work().pairs(machine) or ()):
        raise WeightsError(
            "expected a file of a little-endian machine: load it with torch and save it again"
        )
    choice = choose(value, wrapper)
    places = _places(data, position, keys, outside)

    def storages(key: str) -> NDArray[np.uint8]:
        if key not in places:
            raise WeightsError(f"expected a storage {shown(key)} in the file, got none")
        return data[places[key]]

    return _contents("torch stream", choice, storages, size, "<", {}, names)


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
    format: str,
    choice: Choice,
    storages: Storages,
    size: int,
    byteorder: str,
    metadata: Any,
    names: Iterable[Name],
) -> Contents:
    """Check every tensor, then read the storages they need, each once."""
    windows: dict[str, Tensor] = {}
    for name, record in choice.tensors.items():
        windows[name] = tensor.tensor(record, f"tensor {shown(name)}")
    total = sum(window.nbytes for window in windows.values())
    if total > MAX_REPEATS * size + 2**20:
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
        format, tensors, stored, metadata, choice.key, choice.others, choice.ignored,
        _foreign(names),
    )  # fmt: skip
