"""What a PyTorch pickle says of a tensor becomes an array, bounds first.

    element[i, j, …] = storage[first + i·strides[0] + j·strides[1] + …]

A storage is a row of numbers that lies outside the pickle; tensors are windows on it, which may
overlap, skip, or repeat. NumPy believes the strides it is given, so every window is proved to lie
inside its storage, in integers that cannot overflow, before there is an array.

Source: torch 2.14 `torch/_utils.py` (`_rebuild_tensor`, `_v2`, `_v3`, `_rebuild_parameter`) and
`torch/serialization.py` (`persistent_id`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from npvgg.errors import WeightsError
from npvgg.formats import bfloat16
from npvgg.formats.safetensorsfile import DTYPES
from npvgg.formats.torch.records import Name, Outside, Record, is_name
from npvgg.formats.untrusted import MAX_DIMS, checked_numel, shown

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16",
    "BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16",
    "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
SCALARS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32",
    "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""PyTorch's names for storages and dtypes, in safetensors' words."""

REBUILDERS = {Name("torch._utils", name): count for name, count in {
    "_rebuild_tensor": (4, 4), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8),
}.items()}  # fmt: skip
"""What makes a plain tensor, and the fewest and most arguments that it takes."""

V3 = Name("torch._utils", "_rebuild_tensor_v3")
PARAMETERS = {
    Name("torch._utils", "_rebuild_parameter"),
    Name("torch._utils", "_rebuild_parameter_with_state"),
}
FROM_TYPE = Name("torch._tensor", "_rebuild_from_type_v2")
TENSOR_TYPES = {
    Name("torch", "Tensor"),
    Name("torch.nn.parameter", "Parameter"),
    Name("torch.nn.parameter", "Buffer"),
}
SIZE = Name("torch", "Size")


class Storage(NamedTuple):
    """A row of `numel` numbers by its key; `first` and `size` cut a part out (old files only)."""

    key: str
    dtype: str
    numel: int
    first: int
    size: int


class Tensor(NamedTuple):
    """A window on a storage, proved to lie inside it; `nbytes` of the array that it becomes."""

    key: str
    dtype: str
    numel: int
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    nbytes: int


def plain_tensor(value: Any) -> Record | None:
    """Return the record of the plain tensor inside a value (a tensor, Parameter, Buffer), or
    None.
    """
    for _ in range(3):  # a Parameter with attributes is wrapped twice
        if not isinstance(value, Record):
            return None
        if is_name(value.maker, REBUILDERS):
            return value
        if is_name(value.maker, PARAMETERS) and value.args:
            value = value.args[0]
        elif is_name(value.maker, {FROM_TYPE}) and len(value.args) == 4:
            function, kind, args, _ = value.args
            if not is_name(kind, TENSOR_TYPES) or not isinstance(args, tuple):
                return None
            value = Record(function, args)
    return None


def storage(outside: Outside) -> Storage | None:
    """Return the storage that a persistent id names, or None where it names something else.

    Raises WeightsError for a storage that breaks the rules.
    """
    if isinstance(outside.id, tuple) and len(outside.id) > 6:  # of any length, and shared by many
        return None
    match outside.id:
        case ("storage", kind, key, _, count, *view):
            pass
        case _:
            return None
    known = isinstance(kind, Name) and kind.module in ("torch", "torch.cuda", "torch.storage")
    if not known or kind.name not in STORAGES:
        raise WeightsError(f"expected a storage of a known type, got {_called(kind)}")
    if not isinstance(key, str) or type(count) is not int or count < 0 or len(view) > 1:
        raise WeightsError(f"expected a storage with a key and a count, got {shown(count)}")
    first, size = 0, count
    if view and view[0] is not None:
        match view[0]:
            case (str(), int(first), int(size)) if 0 <= first <= first + size <= count:
                pass
            case _:
                raise WeightsError(f"storage {shown(key)}: expected a part that lies inside it")
    return Storage(key, STORAGES[kind.name], count, first, size)


def tensor(record: Record, what: str) -> Tensor:
    """Return the window that a record of `plain_tensor` describes. Raises WeightsError."""
    fewest, most = REBUILDERS[record.maker]
    args = record.args
    if not fewest <= len(args) <= most or not isinstance(args[0], Outside):
        raise WeightsError(f"{what}: expected the arguments of {record.maker}")
    source = storage(args[0])
    if source is None:
        raise WeightsError(f"{what}: expected a storage, got something else from outside")
    if len(args) == most > 4 and isinstance(args[-1], Record) and args[-1].pairs:
        raise WeightsError(f"{what}: expected a plain tensor, got a conjugate or negative view")
    first, shape, strides = args[1], _integers(args[2], what), _integers(args[3], what)
    if type(first) is not int or shape is None or strides is None or len(shape) != len(strides):
        raise WeightsError(f"{what}: expected an offset, sizes and as many strides")
    if record.maker == V3:
        source = _retyped(source, args[6], what)
    numel = checked_numel(shape, _itemsize(source.dtype), what)
    last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if first < 0 or min(strides, default=0) < 0 or (numel and last >= source.size):
        raise WeightsError(
            f"{what}: expected elements 0 to {source.size - 1} of its storage, got offset "
            f"{shown(first)}, sizes {shown(list(shape))}, strides {shown(list(strides))}"
        )
    # A step along a single row is never taken, but may be too large for NumPy.
    steps = tuple(step if n > 1 else 0 for n, step in zip(shape, strides, strict=True))
    return Tensor(
        source.key, source.dtype, source.numel, source.first + first if numel else 0,
        shape, steps, numel * (4 if source.dtype == "BF16" else _itemsize(source.dtype)),
    )  # fmt: skip


def array(tensor: Tensor, data: NDArray[np.uint8], byteorder: str, what: str) -> NDArray[Any]:
    """Return the window as an array in C order of the machine's byte order, from its storage's
    bytes.

    A view of the bytes where they already lie so, else a copy. bfloat16 becomes float32.
    data: exactly `tensor.numel` numbers      byteorder: "<" or ">"
    """
    itemsize = _itemsize(tensor.dtype)
    if len(data) != tensor.numel * itemsize:
        raise WeightsError(
            f"{what}: expected a storage of {shown(tensor.numel)} {tensor.dtype}, "
            f"got {len(data)} bytes"
        )
    if not tensor.nbytes:
        return np.empty(tensor.shape, np.float32 if tensor.dtype == "BF16" else _code(tensor.dtype))
    raw = np.frombuffer(data, "u1" if tensor.dtype == "BOOL" else _code(tensor.dtype, byteorder))
    steps = tuple(step * itemsize for step in tensor.strides)
    window = as_strided(raw[tensor.first :], tensor.shape, steps)
    values = np.require(window, window.dtype.newbyteorder("="), ["A", "C", "W"])
    if tensor.dtype == "BOOL":
        if np.any(values > 1):
            raise WeightsError(f"{what}: expected bool bytes of 0 and 1, got others")
        return values.view(np.bool_)
    return bfloat16.widen(values) if tensor.dtype == "BF16" else values


def _retyped(source: Storage, dtype: Any, what: str) -> Storage:
    """Return an untyped storage, counted in bytes, as one of the dtype that the tensor names."""
    kind = dtype.name if isinstance(dtype, Name) and dtype.module == "torch" else ""
    if kind not in SCALARS or source.dtype != "U8":
        raise WeightsError(f"{what}: expected a known dtype, got {_called(dtype)}")
    itemsize = _itemsize(SCALARS[kind])
    if source.numel % itemsize or (source.first, source.size) != (0, source.numel):
        raise WeightsError(f"{what}: expected a storage of whole {kind} numbers")
    count = source.numel // itemsize
    return Storage(source.key, SCALARS[kind], count, 0, count)


def _integers(value: Any, what: str) -> tuple[int, ...] | None:
    """Return a tuple (or torch.Size) of integers, else None."""
    if isinstance(value, Record) and is_name(value.maker, {SIZE}) and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, tuple):
        return None
    if len(value) > MAX_DIMS:  # before it is looked through: many tensors may share a long one
        raise WeightsError(f"{what}: expected at most {MAX_DIMS} dimensions, got {len(value)}")
    return value if all(type(number) is int for number in value) else None


def _code(dtype: str, byteorder: str = "=") -> np.dtype[Any]:
    return np.dtype(DTYPES[dtype].replace("<", byteorder))


def _itemsize(dtype: str) -> int:
    return _code(dtype).itemsize


def _called(value: Any) -> str:
    return shown(str(value)) if isinstance(value, Name) else shown(value)
