"""The safetensors format: read by one strict parser of ours, written by the library.

    file = N (8 bytes, little-endian) · header (N bytes of JSON) · data
    header = {name: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]},
              "__metadata__": {str: str}}

The tensors cover the data without a hole or an overlap, little-endian, in C order.
The `safetensors` library writes. It does not read: it accepts what its own specification forbids
(duplicate names, a space before the brace, unknown fields, entries that are lists), it cannot read
BF16 into NumPy, and two parsers for one file, one that checks and one that loads, are how scanners
are deceived. In the tests each is held against the other.

Source: github.com/huggingface/safetensors, README "Format" and safetensors/src/tensor.rs.
"""

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import WeightsError
from npvgg.formats import bfloat16
from npvgg.formats.files import read_into
from npvgg.formats.jsontext import parse_object
from npvgg.formats.untrusted import MAX_BYTES, MAX_NAME, checked_numel, shown

Tensors = dict[str, NDArray[Any]]

MAX_HEADER = 2**20
"""Largest header, in bytes: ten times that of timm's repvgg_d2se, with its 985 tensors."""

MAX_TENSORS = 10_000

DTYPES = {
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "F32": "<f4",
    "U32": "<u4",
    "I32": "<i4",
    "BF16": "<u2",
    "F16": "<f2",
    "U16": "<u2",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


class Entry(NamedTuple):
    """One tensor of the header: its bytes are data[begin:end]."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Contents(NamedTuple):
    """What a file of tensors holds, and under which dtype each tensor was stored."""

    tensors: Tensors
    stored: dict[str, str]
    metadata: dict[str, str]


def read(file: BinaryIO, size: int) -> Contents:
    """Return the tensors of an open safetensors file of `size` bytes, from its current position 0.

    The data is read once into one private buffer and the arrays are views of it: one array kept
    alive keeps the buffer alive. BF16 is widened to float32, and tensors that the file
    misaligns (legal, and old writers did it) are copied so that no kernel meets them.
    Raises WeightsError.
    """
    header_size = _header_size(file, size)
    header = bytearray(header_size)
    read_into(file, memoryview(header))
    entries, metadata = _parse_header(bytes(header), size - 8 - header_size)
    data = np.empty(size - 8 - header_size, np.uint8)
    read_into(file, data.data)
    tensors = {entry.name: _decode(data, entry) for entry in entries}
    return Contents(tensors, {entry.name: entry.dtype for entry in entries}, metadata)


def _header_size(file: BinaryIO, size: int) -> int:
    if not 10 <= size <= MAX_BYTES:  # 8 bytes of length and the two of "{}"
        raise WeightsError(f"expected a file of 10 to {MAX_BYTES} bytes, got {size}")
    prefix = bytearray(8)
    read_into(file, memoryview(prefix))
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise WeightsError(
            f"header length: expected 2 to {min(MAX_HEADER, size - 8)} bytes, got {length}"
        )
    return length


def _parse_header(header: bytes, data_size: int) -> tuple[list[Entry], dict[str, str]]:
    """Return the entries in the order of their bytes, and the metadata, once every rule holds."""
    if not header.startswith(b"{"):
        raise WeightsError(f"header: expected it to begin with '{{', got {shown(header[:16])}")
    table = parse_object(header, "header", MAX_HEADER, numbers="natural")
    metadata = checked_metadata(table.pop("__metadata__", {}))
    if len(table) > MAX_TENSORS:
        raise WeightsError(f"expected at most {MAX_TENSORS} tensors, got {len(table)}")
    entries = [_checked_entry(name, fields) for name, fields in table.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            problem = "a hole" if entry.begin > position else "an overlap"
            raise WeightsError(
                f"tensor {shown(entry.name)}: expected data from byte {position}, "
                f"got {problem}: data_offsets [{entry.begin}, {entry.end}]"
            )
        position = entry.end
    if position != data_size:
        raise WeightsError(f"expected {position} bytes of data after the header, got {data_size}")
    return entries, metadata


def checked_metadata(metadata: object, what: str = "__metadata__") -> dict[str, str]:
    """Return a file's metadata: texts under names, in Unicode. Raises WeightsError."""
    if not isinstance(metadata, dict):
        raise WeightsError(f"{what}: expected an object of strings, got {shown(metadata)}")
    for text in (*metadata.keys(), *metadata.values()):
        if not isinstance(text, str):
            raise WeightsError(f"{what}: expected strings, got {shown(text)}")
        check_text(text, what)
    return metadata


def check_text(text: str, what: str) -> None:
    """Refuse lone surrogates: legal in a Python string, but in no encoding of a text."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise WeightsError(f"{what}: expected Unicode text, got a lone surrogate in {shown(text)}")


def _checked_entry(name: str, fields: object) -> Entry:
    what = f"tensor {shown(name)}"
    if not 0 < len(name) <= MAX_NAME:
        raise WeightsError(f"header: expected names of 1 to {MAX_NAME} characters, got {len(name)}")
    check_text(name, "header")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(
            f"{what}: expected the fields dtype, shape and data_offsets, got {shown(fields)}"
        )
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{what}: expected a dtype of {', '.join(DTYPES)}, got {shown(dtype)}")
    if not _are_integers(shape):
        raise WeightsError(f"{what}: expected a shape of integers, got {shown(shape)}")
    if not _are_integers(offsets) or len(offsets) != 2:
        raise WeightsError(f"{what}: expected two integers as data_offsets, got {shown(offsets)}")
    itemsize = np.dtype(DTYPES[dtype]).itemsize
    nbytes = checked_numel(shape, itemsize, what) * itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise WeightsError(
            f"{what}: expected {nbytes} bytes for {dtype} {shown(shape)}, got {shown(offsets)}"
        )
    return Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _are_integers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _decode(data: NDArray[np.uint8], entry: Entry) -> NDArray[Any]:
    """Return the bytes of one tensor as an aligned array of the machine's byte order."""
    dtype = np.dtype(DTYPES[entry.dtype])
    raw = data[entry.begin : entry.end]
    if entry.dtype == "BOOL" and np.any(raw > 1):
        raise WeightsError(
            f"tensor {shown(entry.name)}: expected BOOL bytes of 0 and 1, got others"
        )
    array = np.require(raw.view(dtype).reshape(entry.shape), dtype.newbyteorder("="), ["A"])
    return bfloat16.widen(array) if entry.dtype == "BF16" else array


def serialized(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], cast: str | None
) -> bytes:
    """Return the bytes of a safetensors file, as the safetensors library makes them.

    The library orders tensors by dtype, widest first, then by name, and pads the header to a
    multiple of 8 bytes. It writes the metadata in the order of a hash table, another one each time;
    here they are put in the order of their names, so that equal input gives equal bytes.

    cast: the dtype, "F32" "F16" "BF16" or "F64", in which floating-point tensors are stored
    Raises WeightsError for what could not be read back.
    """
    kinds = {name: stored_dtype(name, array, cast) for name, array in tensors.items()}
    metadata = checked_metadata(dict(metadata))
    size = 0
    for name, array in tensors.items():
        itemsize = np.dtype(DTYPES[kinds[name]]).itemsize
        size += checked_numel(array.shape, itemsize, f"tensor {shown(name)}") * itemsize
        if cast:
            check_range(name, array, kinds[name])
    if size > MAX_BYTES or len(tensors) > MAX_TENSORS:
        raise WeightsError(
            f"expected at most {MAX_TENSORS} tensors and {MAX_BYTES} bytes of data, "
            f"got {len(tensors)} and {size}"
        )
    encoded = {name: (kinds[name], encode(array, kinds[name])) for name, array in tensors.items()}
    data = _by_the_library(encoded, metadata)
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise WeightsError(f"expected at most {MAX_HEADER} bytes of header, got {length}")
    return _in_order(data, length) if len(metadata) > 1 else data


def _by_the_library(
    encoded: Mapping[str, tuple[str, NDArray[Any]]], metadata: dict[str, str]
) -> bytes:
    """Serialize arrays, each with its dtype, as `encode` made them."""
    import safetensors

    spec = getattr(safetensors, "TensorSpec", None)  # older ones take a dict that holds bytes
    table: Any = {}
    for name, (kind, array) in encoded.items():
        what = {"dtype": "bfloat16" if kind == "BF16" else array.dtype.name, "shape": array.shape}
        if spec is None:
            table[name] = what | {"data": array.tobytes()}
        else:
            table[name] = spec(**what, data_ptr=array.ctypes.data, data_len=array.nbytes)
    try:
        return bytes(safetensors.serialize(table, metadata=metadata or None))
    except (safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(f"the safetensors library cannot write it: {error}") from None


def _in_order(data: bytes, length: int) -> bytes:
    """Return the bytes of a file with its metadata in the order of their names."""
    table = json.loads(data[8 : 8 + length])
    table["__metadata__"] = dict(sorted(table["__metadata__"].items()))
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    return data[:8] + text.ljust(length) + data[8 + length :]


def stored_dtype(name: str, array: NDArray[Any], cast: str | None) -> str:
    """Return the dtype under which an array goes into a file. Raises WeightsError where there is
    none.
    """
    if not isinstance(name, str) or name in ("", "__metadata__") or len(name) > MAX_NAME:
        raise WeightsError(
            f"expected tensors with names of 1 to {MAX_NAME} characters, got the name {shown(name)}"
        )
    check_text(name, "tensors")
    if not isinstance(array, np.ndarray):
        raise WeightsError(f"tensor {shown(name)}: expected an array, got {type(array).__name__}")
    if cast and array.dtype.kind == "f":
        return cast
    little = array.dtype.newbyteorder("<")
    for stored, code in DTYPES.items():
        if stored != "BF16" and little == np.dtype(code):
            return stored
    raise WeightsError(f"tensor {shown(name)}: expected numbers or bools, got {array.dtype}")


def check_range(name: str, array: NDArray[Any], stored: str) -> None:
    """Raise WeightsError for a finite value that would become an infinity, and a variance 0.

    That would be an error, not a rounding.
    """
    if (where := unheld(name, array, stored)) is not None:
        raise WeightsError(
            f"tensor {shown(name)}: expected values within {stored}, "
            f"got {float(array[where])!r} at {list(where)}"
        )


def unheld(name: str, array: NDArray[Any], stored: str) -> tuple[int, ...] | None:
    """Return where a tensor has a number that the stored dtype cannot hold, or None."""
    if array.dtype.kind != "f":
        return None
    rounded = _narrowed(array, stored)
    lost = np.isinf(rounded) & ~np.isinf(array)
    if name.rpartition(".")[2] == "running_var":
        lost |= (rounded == 0) & (array > 0)
    if not lost.any():
        return None
    return tuple(map(int, np.unravel_index(int(np.argmax(lost)), array.shape)))


def _narrowed(array: NDArray[Any], stored: str) -> NDArray[Any]:
    """Return the values after rounding to the stored dtype, as an array whose infinities can be
    seen.
    """
    if stored == "BF16":
        return bfloat16.widen(bfloat16.narrow(array))
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(DTYPES[stored])


def encode(array: NDArray[Any], stored: str) -> NDArray[Any]:
    """Return the array as it lies in the file: C order, little-endian, in the stored dtype."""
    if stored == "BF16":
        array = bfloat16.narrow(array)
    with np.errstate(under="ignore"):  # subnormals round to zero; overflow was checked
        return np.asarray(array, dtype=DTYPES[stored], order="C")
