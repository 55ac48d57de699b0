"""NumPy's own files, read strictly: one array in an npy, several in an npz.

    npy = \\x93NUMPY · version (2 bytes) · N (2 or 4 bytes) · header (N bytes) · data
    header = {'descr': '<f4', 'fortran_order': False, 'shape': (1, 48, 32, 32), }
    npz = a zip archive of npy files, stored or deflated

The header is Python by its looks, and `numpy.load` hands it to a Python parser and then believes
its shape. Here it is matched as text, the shape must agree with the bytes that follow, and arrays
of objects, which are pickles, are refused. An archive is read as strictly as PyTorch's
(`ziparchive`), and holds at most MAX_UNPACKED bytes.

Source: numpy.lib.format, "Format Version 1.0"; PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import io
import re
from typing import BinaryIO

import numpy as np

from npvgg.errors import WeightsError
from npvgg.formats.files import read_into
from npvgg.formats.untrusted import MAX_BYTES, MAX_NAME, checked_numel, shown
from npvgg.formats.ziparchive import Archive
from npvgg.ops import Array

MAGIC = b"\x93NUMPY"

MAX_HEADER = 10_000
MAX_MEMBERS = 10_000

MAX_UNPACKED = 2**30
"""Most bytes that an npz may hold: every map of the largest network at 224×224 takes half of it."""

_ITEM = re.compile(
    r"""\s*(['"])(descr|fortran_order|shape)\1\s*:\s*"""
    r"""(['"][^'"]*['"]|True|False|\([0-9 ,]*\))\s*(?:,|(?=\}))\s*"""
)
_NUMBERS = re.compile(r"""['"][<>|=]?(?:f[248]|[iu][1248])['"]""")
_SHAPE = re.compile(r"\((?: *[0-9]{1,18} *,)*(?: *[0-9]{1,18})? *\)")


def read_npy(file: BinaryIO, size: int) -> Array:
    """Return the array of an open npy file of `size` bytes, from its current position 0.

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
    """Return the type, the order and the shape that a header states, each exactly once."""
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


def read_npz(file: BinaryIO, size: int) -> dict[str, Array]:
    """Return the arrays of an open npz archive of `size` bytes by name, in their order.

    Raises WeightsError where it is damaged, encrypted, packed in another way than NumPy's, or too
    large.
    """
    archive = Archive(file, size, most=MAX_MEMBERS, deflated=True)
    if not archive.members:
        raise WeightsError("expected at least one array, got an empty archive")
    total = 0
    for name, member in archive.members.items():
        total += member.size
        if not name.endswith(".npy") or not 4 < len(name) <= MAX_NAME:
            raise WeightsError(f"expected an archive of .npy files, got {shown(name)}")
    if total > MAX_UNPACKED:
        raise WeightsError(f"expected at most {MAX_UNPACKED} bytes in all arrays, got {total}")
    return {name.removesuffix(".npy"): _member(archive, name) for name in archive.members}


def _member(archive: Archive, name: str) -> Array:
    data = archive.read(name).tobytes()
    try:
        return read_npy(io.BytesIO(data), len(data))
    except (WeightsError, OSError) as error:
        raise WeightsError(f"{shown(name)}: {error}") from None
