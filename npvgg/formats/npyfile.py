"""NumPy's own files, read strictly: one array in an npy, several in an npz.

    npy = \\x93NUMPY · version (2 bytes) · N (2 or 4 bytes) · header (N bytes) · data
    header = {'descr': '<f4', 'fortran_order': False, 'shape': (1, 48, 32, 32), }
    npz = a zip archive of npy files, stored or deflated

The header is Python by its looks, and `numpy.load` hands it to a Python parser and then believes
its shape. Here it is matched as text, the shape must agree with the bytes that follow, and arrays
of objects, which are pickles, are refused. An archive is unpacked no further than its own directory
says, and never beyond MAX_UNPACKED.

Source: numpy.lib.format, "Format Version 1.0"; PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from npvgg.errors import WeightsError
from npvgg.formats.files import read_into
from npvgg.formats.untrusted import MAX_BYTES, MAX_NAME, checked_numel, shown
from npvgg.ops import Array

MAGIC = b"\x93NUMPY"

MAX_HEADER = 10_000
MAX_MEMBERS = 10_000

MAX_UNPACKED = 2**30
"""Most bytes that an npz may hold: every map of the largest network at 224×224 takes half of it."""

_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeDecodeError,
    RuntimeError,  # NotImplementedError among them: versions and flags of zip that nobody writes
)  # fmt: skip

_ITEM = re.compile(
    r"""\s*(['"])(descr|fortran_order|shape)\1\s*:\s*"""
    r"""(['"][^'"]*['"]|True|False|\([0-9\s,]*\))\s*(?:,|(?=\}))\s*"""
)
_NUMBERS = re.compile(r"""['"][<>|=]?(?:f[248]|[iu][1248])['"]""")
_SHAPE = re.compile(r"\((?:\s*[0-9]{1,18}\s*,)*(?:\s*[0-9]{1,18})?\s*\)")


def read_npy(file: BinaryIO, size: int) -> Array:
    """The array of an open npy file of `size` bytes, from its current position 0.

    → the file's shape and type, C order, the machine's byte order
    Raises WeightsError where it is not one array of real numbers, or not of its header's size.
    """
    if size > MAX_BYTES:
        raise WeightsError(f"expected a file of at most {MAX_BYTES} bytes, got {size}")
    start = _exactly(file, 8)
    if start[:6] != MAGIC or start[6] not in (1, 2, 3):
        raise WeightsError(f"expected an npy file of version 1 to 3, got {shown(start)}")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(_exactly(file, width), "little")
    if length > min(MAX_HEADER, size - 8 - width):
        raise WeightsError(f"npy header: expected at most {MAX_HEADER} bytes, got {length}")
    dtype, fortran, shape = _parse_header(_exactly(file, length))
    count = checked_numel(shape, dtype.itemsize, "npy header")
    left = size - 8 - width - length
    if count * dtype.itemsize != left:
        raise WeightsError(
            f"expected {count * dtype.itemsize} bytes of data for {dtype} {shown(list(shape))}, "
            f"got {left}"
        )
    data = np.empty(count, dtype)
    read_into(file, data.view(np.uint8).data)
    array = data.reshape(shape[::-1]).T if fortran else data.reshape(shape)
    return array.astype(dtype.newbyteorder("="), order="C", copy=False)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = bytearray(count)
    read_into(file, memoryview(data))
    return bytes(data)


def _parse_header(header: bytes) -> tuple[np.dtype[np.generic], bool, tuple[int, ...]]:
    """The type, the order and the shape that a header states, each exactly once."""
    text = header.decode("latin-1").strip()
    items: dict[str, str] = {}
    position = 1
    while match := _ITEM.match(text, position):
        position = match.end() if match[2] not in items else len(text)
        items[match[2]] = match[3]
    if text[:1] != "{" or text[position:] != "}" or len(items) != 3:
        raise WeightsError(
            "npy header: expected descr, fortran_order and shape of one plain array, "
            f"got {shown(text)}"
        )
    descr, order, shape = items["descr"], items["fortran_order"], items["shape"]
    if not _NUMBERS.fullmatch(descr):
        raise WeightsError(f"npy header: expected real numbers of up to 64 bits, got {descr[:20]}")
    if order not in ("True", "False") or not _SHAPE.fullmatch(shape):
        raise WeightsError(f"npy header: expected an order and a shape, got {shown(text)}")
    sizes = tuple(int(size) for size in shape.strip("()").split(",") if size.strip())
    return np.dtype(descr[1:-1]), order == "True", sizes


def is_npz(head: bytes) -> bool:
    """Whether a file that begins so is an npz: a zip archive whose first member is an npy file."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return head.startswith(b"PK\x03\x04") and name.endswith(b".npy")


def read_npz(file: BinaryIO) -> dict[str, Array]:
    """The arrays of an open npz archive by name, in the order of its directory. Raises WeightsError
    where it is damaged, encrypted, packed in another way than NumPy's, or too large.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members)
            return {_stem(info): _member(archive, info) for info in members}
    except _DAMAGED as error:
        raise WeightsError(f"expected an npz archive, got a damaged one: {error}") from None


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if not 0 < len(members) <= MAX_MEMBERS:
        raise WeightsError(f"expected 1 to {MAX_MEMBERS} arrays, got {len(members)}")
    if len({_stem(info) for info in members}) != len(members):
        raise WeightsError("expected an npz archive with unique names")
    total = sum(info.file_size for info in members)
    if total > MAX_UNPACKED:
        raise WeightsError(f"expected at most {MAX_UNPACKED} bytes in all arrays, got {total}")
    for info in members:
        if not info.filename.endswith(".npy") or not 4 < len(info.filename) <= MAX_NAME:
            raise WeightsError(f"expected an archive of .npy files, got {shown(info.filename)}")
        if info.flag_bits & 1 or info.compress_type not in (0, 8):
            raise WeightsError(f"{shown(info.filename)}: expected it stored or deflated")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    data = archive.read(info)
    try:
        return read_npy(io.BytesIO(data), len(data))
    except (WeightsError, OSError) as error:
        raise WeightsError(f"{shown(info.filename)}: {error}") from None


def _stem(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")
