"""Their numbers, as they come: the usual files → named arrays, strictly checked, nothing run.

    FILE.safetensors, FILE.pth     as weights are read (`checkpoint`)
    FILE.npz, FILE.npy             NumPy's archive, or one array named after its file
    FILE.json                      {"stem": [[…]], …} or {"stem": {"shape": […], "data": […]}, …}
    FOLDER/ of NAME.npy            folders inside become part of the name, "stages/0.npy" as well
    FOLDER/ of NAME.f32            raw little-endian float32 (.bin and .raw, too), and shapes.json
                                   {"NAME": [1, 48, 32, 32], …}; without it each is one flat row

What a file is, its bytes decide, not its suffix. The order of the arrays is that of the names in
files, with numbers counted as people do (conv2 before conv10), and as written in JSON and npz: it
matters where arrays are matched by order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from npvgg.errors import WeightsError
from npvgg.formats import checkpoint, npyfile
from npvgg.formats.files import open_regular, read_into
from npvgg.formats.jsontext import parse_object
from npvgg.formats.untrusted import MAX_BYTES, MAX_NAME, blaming, checked_numel, shown
from npvgg.ops import Array

Arrays = dict[str, Array]

RAW = (".f32", ".bin", ".raw")
SHAPES = "shapes.json"

MAX_JSON = 2**28
"""Largest JSON, in bytes: text of some twelve million numbers."""

MAX_JSON_MEMORY = 2**30
"""What JSON may take in memory while it is parsed, in bytes, by a count of its signs before:

    40 for every comma (a number, 24, and its place in a growing list), 64 for a list, 512 for an
    object, and 128 for a colon, which follows a name
"""

MAX_ARRAYS = MAX_FILES = 10_000


def read(path: str | os.PathLike[str]) -> Arrays:
    """Return the arrays of a file or folder by name, in order. Raises WeightsError, which begins
    with the path, where it holds none or anything else.
    """
    with blaming(path):
        arrays = _folder(Path(path)) if os.path.isdir(path) else _file(Path(path))
        if arrays == {}:
            raise WeightsError("expected at least one array, got none")
        kind = _ARRAYS.get(Path(path).suffix.lower())
        if arrays is None and kind:
            raise WeightsError(f"expected {kind}, got a file of another kind, or a damaged one")
        if arrays is None:
            tensors = checkpoint.load(path)
            arrays = {name: tensors[name] for name in sorted(tensors, key=natural)}
        if len(arrays) > MAX_ARRAYS:
            raise WeightsError(f"expected at most {MAX_ARRAYS} arrays, got {len(arrays)}")
        for name in arrays:
            if len(name) > MAX_NAME:
                raise WeightsError(
                    f"expected names of up to {MAX_NAME} characters, got {shown(name)}"
                )
    return arrays


_ARRAYS = {
    ".npz": "an archive of NumPy's (.npz)", ".npy": "an array of NumPy's (.npy)",
    ".json": "a JSON object of arrays",
}  # fmt: skip
"""What these suffixes say that a file is; the others may be weights."""


def read_mapping(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return a JSON object of their names → ours. Raises WeightsError where it is none."""
    with blaming(path), open_regular(path) as file:
        table = _json(file, os.fstat(file.fileno()).st_size)
        for name, value in table.items():
            if not isinstance(value, str):
                raise WeightsError(f"expected a name of ours for {shown(name)}, got {shown(value)}")
    return table


def _file(path: Path) -> Arrays | None:
    """Return the arrays of a file of NumPy's or of JSON; None for others, which may be weights."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(512)
        file.seek(0)
        if head.startswith(npyfile.MAGIC):
            return {path.name.removesuffix(".npy"): npyfile.read_npy(file, size)}
        if npyfile.is_npz(head):
            return npyfile.read_npz(file, size)
        if b"\0" not in head and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
            return dict(_from_json(_json(file, size)))
    return None


def _folder(path: Path) -> Arrays:
    """Return the arrays of a folder: all npy files in it, or all raw files and the list of
    shapes.
    """
    files = sorted(_files(path), key=lambda file: natural(_name(path, file)))
    named = {_name(path, file): file for file in files}
    kinds = {file.suffix for file in files}
    total = sum(file.stat().st_size for file in files)
    if len(kinds) > 1:
        raise WeightsError(f"expected files of one kind, got {', '.join(sorted(kinds))}")
    if total > MAX_BYTES:
        raise WeightsError(f"expected files of at most {MAX_BYTES} bytes together, got {total}")
    if kinds <= {".npy"}:
        return {name: _npy(file, name) for name, file in named.items()}
    shapes = _shapes(path / SHAPES)
    if shapes and shapes.keys() != named.keys():
        odd = sorted(shapes.keys() ^ named.keys())[0]
        raise WeightsError(
            f"{SHAPES}: expected the names of the files, {shown(odd)} is in only one of the two"
        )
    return {name: _raw(named[name], name, shapes.get(name)) for name in shapes or named}


def _files(path: Path) -> Iterator[Path]:
    count = 0
    for root, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            count += 1
            if count > MAX_FILES:
                raise WeightsError(f"expected at most {MAX_FILES} files, got more")
            if Path(name).suffix in (".npy", *RAW) and not name.startswith("."):
                yield Path(root, name)


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names with numbers as people do: conv2 before conv10."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(p.lstrip("0")), p.lstrip("0")) if i % 2 else (0, p) for i, p in enumerate(parts)]


def _npy(path: Path, name: str) -> Array:
    with blaming(name), open_regular(path) as file:
        return npyfile.read_npy(file, os.fstat(file.fileno()).st_size)


def _raw(path: Path, name: str, shape: tuple[int, ...] | None) -> Array:
    """Raw little-endian float32 of a known shape, or flat."""
    with blaming(name), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES or size % 4:
            raise WeightsError(f"expected up to {MAX_BYTES} bytes of float32, got {size}")
        shape = (size // 4,) if shape is None else shape
        expected = 4 * checked_numel(shape, 4, "shape")
        if expected != size:
            raise WeightsError(f"expected {expected} bytes for {list(shape)}, got {size}")
        data = np.empty(size // 4, "<f4")
        read_into(file, data.view(np.uint8).data)
    return data.reshape(shape).astype(np.float32)


# --- JSON -----------------------------------------------------------------------------------------


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if not path.exists():
        return {}
    with blaming(SHAPES), open_regular(path) as file:
        table = _json(file, os.fstat(file.fileno()).st_size)
    return {name: _shape(value, f"{SHAPES}: {shown(name)}") for name, value in table.items()}


def _json(file: BinaryIO, size: int) -> dict[str, Any]:
    """Return a JSON object, every number of it a float, NaN and Infinity among them."""
    if size > MAX_JSON:
        raise WeightsError(f"expected JSON of at most {MAX_JSON} bytes, got {size}")
    data = bytearray(size)
    read_into(file, memoryview(data))
    needed = sum(_MEMORY[sign] * data.count(sign) for sign in _MEMORY)
    if needed > MAX_JSON_MEMORY:
        raise WeightsError(
            f"expected JSON that takes at most {MAX_JSON_MEMORY} bytes of memory, got one of some "
            f"{needed}: hand arrays over as .npz or .safetensors"
        )
    return parse_object(data, "", MAX_JSON, numbers="real")


_MEMORY = {b",": 40, b"[": 64, b"{": 512, b":": 128}


def _from_json(table: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """Each entry as an array; null is NaN, for JavaScript's JSON.stringify writes it so."""
    for name, value in table.items():
        what = f"array {shown(name)}"
        if not isinstance(value, dict):
            yield name, _numbers(value, what)
            continue
        if value.keys() - {"dtype"} != {"shape", "data"}:
            raise WeightsError(f"{what}: expected shape and data, got {shown(sorted(value))}")
        shape, data = _shape(value["shape"], what), _numbers(value["data"], what)
        if data.size != checked_numel(shape, 8, what):
            raise WeightsError(f"{what}: expected the numbers of {shape}, got {data.size}")
        yield name, data.reshape(shape)


def _numbers(value: object, what: str) -> Array:
    try:
        array = np.array(value)
        if array.dtype == object:  # where there is a null; whatever else float() takes is text
            array = np.array([np.nan if v is None else v for v in array.flat]).reshape(array.shape)
    except ValueError:  # lists of unequal length
        array = np.array("")
    if array.dtype != np.float64:
        raise WeightsError(f"{what}: expected nested lists of numbers, all of one length")
    return array


def _shape(value: object, what: str) -> tuple[int, ...]:
    sizes: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(n, float) and 0 <= n <= MAX_BYTES and n.is_integer() for n in sizes):
        raise WeightsError(f"{what}: expected a shape of integers, got {shown(value)}")
    return tuple(int(size) for size in sizes)
