"""Arrays → a .pth file that PyTorch opens with weights_only=True; made without PyTorch.

    archive/data.pkl     an OrderedDict of name → _rebuild_tensor_v2(storage, 0, shape, strides, …)
    archive/byteorder    "little"
    archive/data/<n>     the numbers of tensor n, beginning at a multiple of 64 bytes
    archive/version      "3"
    archive/npvgg.json   the metadata, which PyTorch passes over and npvgg reads

Equal input gives equal bytes: there is no date and no random identifier.

Source: torch 2.14 `torch/serialization.py` `_save`, `torch/_weights_only_unpickler.py`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from npvgg.errors import WeightsError
from npvgg.formats.safetensorsfile import check_range, encode, stored_dtype
from npvgg.formats.torch.reader import METADATA
from npvgg.formats.torch.tensor import STORAGES
from npvgg.formats.untrusted import MAX_BYTES, shown
from npvgg.formats.ziparchive import END, ENTRY, LOCAL, UTF8

FOLDER = "archive"
ALIGNMENT = 64
NEW_YEAR_1980 = 0x21  # the first date that a zip file can bear
KINDS = {dtype: kind for kind, dtype in STORAGES.items() if kind != "UntypedStorage"}

Chunk = bytes | memoryview


def write_chunks(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], cast: str | None
) -> Iterator[Chunk]:
    """Return the bytes of a .pth file, piece by piece.

    cast: the dtype, "F32" "F16" or "BF16", in which the floating-point tensors are stored
    Every tensor is checked before the first piece is given out. Raises WeightsError.
    """
    kinds = {name: stored_dtype(name, array, cast) for name, array in tensors.items()}
    for name, array in tensors.items():
        if kinds[name] not in KINDS:
            raise WeightsError(f"tensor {shown(name)}: expected a dtype of .pth, got {array.dtype}")
        if cast:
            check_range(name, array, kinds[name])
    if sum(array.nbytes for array in tensors.values()) > MAX_BYTES - 2**24:
        raise WeightsError(f"expected less than {MAX_BYTES} bytes")

    def members() -> Iterator[tuple[str, Chunk]]:
        yield "data.pkl", _pickle({n: (kinds[n], array.shape) for n, array in tensors.items()})
        yield "byteorder", b"little"
        for number, (name, array) in enumerate(tensors.items()):
            data = encode(array, kinds[name])
            yield f"data/{number}", data.data.cast("B") if data.size else b""
        yield "version", b"3\n"
        if metadata:
            yield METADATA, json.dumps(dict(sorted(metadata.items()))).encode()

    return _archive(members())


# --- The pickle: protocol 2, without a memo -------------------------------------------------------

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
PROTO, MARK, TUPLE, REDUCE, SETITEMS, STOP = b"\x80\x02", b"(", b"t", b"R", b"u", b"."
BINPERSID, NEWFALSE = b"Q", b"\x89"


def _pickle(table: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the state dict as a pickle; each tensor is a window that covers its storage in C
    order.
    """
    parts = [PROTO, ORDERED_DICT, MARK]
    for number, (name, (dtype, shape)) in enumerate(table.items()):
        strides, numel = _strides(shape)
        kind = f"ctorch\n{KINDS[dtype]}\n".encode()
        storage = [MARK, _text("storage"), kind, _text(str(number)), _text("cpu"), _integer(numel)]
        parts += [_text(name), REBUILD, MARK, *storage, TUPLE, BINPERSID, _integer(0)]
        parts += [_tuple(shape), _tuple(strides), NEWFALSE, ORDERED_DICT, TUPLE, REDUCE]
    return b"".join([*parts, SETITEMS, STOP])


def _strides(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return the steps of a tensor in C order, as torch counts them, and the number of its
    elements.
    """
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps)), 0 if 0 in shape else step


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: tuple[int, ...]) -> bytes:
    return MARK + b"".join(map(_integer, values)) + TUPLE


# --- The archive ----------------------------------------------------------------------------------


def _archive(members: Iterator[tuple[str, Chunk]]) -> Iterator[Chunk]:
    """Return the members one after another, each padded to the alignment, and their directory."""
    position, directory, count = 0, b"", 0
    for short, data in members:
        name = f"{FOLDER}/{short}".encode()
        padding = -(position + LOCAL.size + len(name) + 4) % ALIGNMENT
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding  # as PyTorch pads
        common = (UTF8, 0, 0, NEW_YEAR_1980, zlib.crc32(data), len(data), len(data), len(name))
        yield LOCAL.pack(b"PK\x03\x04", 20, *common, len(extra)) + name + extra
        yield data
        directory += ENTRY.pack(b"PK\x01\x02", 20, 20, *common, 0, 0, 0, 0, 0, position) + name
        position += LOCAL.size + len(name) + len(extra) + len(data)
        count += 1
    yield directory
    yield END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), position, 0)
