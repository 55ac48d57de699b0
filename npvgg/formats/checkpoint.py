"""The bytes of a file become a dict of arrays, strictly checked; no code is ever run.

`load` recognises a format by its bytes, never by its name, and refuses what it does not know with
a word on what the file is and what to do. Every failure is one `WeightsError` that begins with
the path. Nothing here knows RepVGG: names and shapes are the business of `weights`.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import safetensorsfile, sharded
from npvgg.formats.files import atomic_write, open_regular
from npvgg.formats.folder import CONFIG, weights_in
from npvgg.formats.untrusted import MAX_BYTES, blaming, shown

Tensors = dict[str, NDArray[Any]]

CASTS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The floating-point types in which tensors can be stored, in safetensors' words."""


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file held and what was taken from it.

    tensors: name → array; `stored`: name → dtype in the file, in safetensors' words (F32, BF16, …)
    metadata: the file's own text, unchecked and untrusted
    format: "safetensors", "torch zip", "torch stream", or "sharded" and the format of the files
    key: the entry of a training checkpoint that was taken (`state_dict_ema`, …), "" for the whole
    others: other entries that could have been taken
    ignored: what else lay beside the weights or among them, name → kind
    calls: what a pickle mentions beside tensors and containers: code that torch.load runs with
        weights_only=False, "module.name"
    prefix: what was taken off the names on request
    config: the config.json of the folder, where one was loaded that has it
    shards: the files that hold the tensors, where `path` is an index of several
    """

    path: Path
    format: str
    tensors: Tensors = field(repr=False)
    stored: dict[str, str] = field(repr=False)
    metadata: dict[str, str] = field(default_factory=dict, repr=False)
    key: str = ""
    others: tuple[str, ...] = ()
    ignored: dict[str, str] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    prefix: str = ""
    config: Path | None = None
    shards: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that was read: the file, or the index and its shards in alphabetical order."""
        return (self.path, *self.shards)

    @property
    def choice(self) -> str:
        """Which weights of a training checkpoint were taken, and which could have been; or ""."""
        others = ", ".join(shown(other) for other in self.others[:10])
        taken = f"the weights under {shown(self.key)}" if self.key else "the outermost weights"
        return taken + (f" (not {others})" if others else "") if self.key or others else ""


def load(
    path: str | os.PathLike[str], *, wrapper: str | None = None, prefix: str | None = None
) -> Tensors:
    """Return the tensors of a weights file by name. Raises WeightsError that begins with the path.

    float16 stays float16; bfloat16, which NumPy lacks, becomes float32, exactly.
    wrapper: which weights of a training checkpoint to take: "model", "state_dict_ema", "a.b" for
        those in a dict in a dict, …; "" for the outermost; None for the averaged ones (…_ema) if
        there are any, as timm does, else for the only set whose names are paths of modules
    prefix: take only the tensors whose names begin so, "backbone.", without it
    """
    return load_with_metadata(path, wrapper=wrapper, prefix=prefix).tensors


def load_with_metadata(
    path: str | os.PathLike[str], *, wrapper: str | None = None, prefix: str | None = None
) -> Checkpoint:
    """Return the tensors of a weights file with its metadata and a report of what was taken.

    path: a file, an index of several, or a folder (see `folder.weights_in`)
    wrapper, prefix: as in `load`. Raises WeightsError, which begins with the path.
    """
    for what, value in (("wrapper", wrapper), ("prefix", prefix)):
        if not isinstance(value, str | None):
            raise ArgumentError(f"{what}: expected None or a text, got {shown(value)}")
    if os.path.isdir(path):
        with blaming(path):
            weights, config = weights_in(Path(path)), Path(path, CONFIG)
        found = replace(_loaded(weights, wrapper), config=config if config.is_file() else None)
    else:
        found = _loaded(path, wrapper)
    return _below(found, prefix) if prefix else found


def _below(found: Checkpoint, prefix: str) -> Checkpoint:
    """Return what lies below a prefix; the other tensors are left out, and reported."""
    taken = {name: name.removeprefix(prefix) for name in found.tensors if name.startswith(prefix)}
    with blaming(found.path):
        if not all(taken.values()) or not taken:
            names = ", ".join(shown(name) for name in list(found.tensors)[:3])
            raise WeightsError(f"expected tensors below {shown(prefix)}, got {names or 'none'}")
    left = {shown(name)[1:-1]: "a tensor" for name in found.tensors if name not in taken}
    return replace(
        found,
        tensors={short: found.tensors[name] for name, short in taken.items()},
        stored={short: found.stored[name] for name, short in taken.items()},
        ignored=found.ignored | left,
        prefix=prefix,
    )


def _loaded(path: str | os.PathLike[str], wrapper: str | None, *, alone: bool = True) -> Checkpoint:
    """Read one file; one that is not alone is named by an index, and cannot be another index."""
    from npvgg.formats.torch import reader  # 15 ms of import that a network without a file spares

    with blaming(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD)
        file.seek(0)
        if found := _signature(head):
            raise WeightsError(f"expected weights, got {found}")
        if reader.recognised(head):
            return Checkpoint(Path(path), *reader.read(file, size, wrapper))
        if alone and sharded.recognised(head):
            return _joined(Path(path), file.read(sharded.MAX_INDEX + 1), wrapper)
        if wrapper:
            raise WeightsError(f"expected a PyTorch file with weights under {shown(wrapper)}")
        if found := _stranger(head):
            raise WeightsError(f"expected weights (safetensors, or PyTorch's), got {found}")
        contents = safetensorsfile.read(file, size)
    return Checkpoint(
        Path(path), "safetensors", contents.tensors, contents.stored, contents.metadata
    )


def code_in(path: str | os.PathLike[str]) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Return what the pickles of a file, a folder or the shards of an index name beside containers
    of data, also where they hold no weights; and which files these are.
    """
    from npvgg.formats.torch import reader

    names: set[str] = set()
    files: tuple[Path, ...] = ()
    with suppress(OSError, WeightsError):
        files = _files(Path(path))
    for place in files:
        with suppress(OSError, WeightsError), open_regular(place) as file:
            names.update(reader.code_in(file, os.fstat(file.fileno()).st_size))
    return tuple(sorted(names)), files


def _files(path: Path) -> tuple[Path, ...]:
    """Return the files in which the weights at a path are."""
    if path.is_dir():
        path = weights_in(path)
    with open_regular(path) as file:
        if not sharded.recognised(file.read(HEAD)):
            return (path,)
        file.seek(0)
        places = sharded.parse(file.read(sharded.MAX_INDEX + 1))
    return (path, *(path.parent / name for name in sorted(set(places.values()))))


def _joined(path: Path, index: bytes, wrapper: str | None) -> Checkpoint:
    """Return the tensors of all the files that an index names, in the order of the index."""
    places = sharded.parse(index)
    files = {name: _loaded(path.parent / name, wrapper, alone=False)
             for name in _small_together(path.parent, sorted(set(places.values())))}  # fmt: skip
    for name, part in files.items():
        sharded.check(places, name, part.tensors)
    first = next(iter(files.values()))
    return Checkpoint(
        path,
        f"sharded {first.format}",
        {name: files[file].tensors[name] for name, file in places.items()},
        {name: files[file].stored[name] for name, file in places.items()},
        first.metadata if all(part.metadata == first.metadata for part in files.values()) else {},
        ignored={name: kind for part in files.values() for name, kind in part.ignored.items()},
        calls=tuple(sorted({name for part in files.values() for name in part.calls})),
        shards=tuple(path.parent / name for name in files),
    )


def _small_together(folder: Path, names: list[str]) -> list[str]:
    total = 0
    for name in names:
        with blaming(folder / name), open_regular(folder / name) as file:
            total += os.fstat(file.fileno()).st_size
    if total > MAX_BYTES:
        raise WeightsError(f"expected files of at most {MAX_BYTES} bytes together, got {total}")
    return names


# What people mistake for weights, by the bytes at an offset: what it is and what to do.
SIGNATURES = (
    (0, b"version https://git-lfs", "a git-lfs pointer: run `git lfs pull` to get the file itself"),
    (0, b"<!DOCTYPE", "a web page: the download failed or needs a login"),
    (0, b"<!doctype", "a web page: the download failed or needs a login"),
    (0, b"<html", "a web page: the download failed or needs a login"),
    (0, b"\x93NUMPY", "a NumPy array: use numpy.load"),
    (0, b"\x1f\x8b\x08", "a gzip file: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first, or save a state dict with torch.save"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 (Keras) file: save the weights as safetensors"),
    (0, b"GGUF", "a GGUF file: save the weights as safetensors"),
    (4, b"TFL3", "a TFLite model, which has no train-form weights: save those as safetensors"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (0, b"\xfd7zXZ\0", "an xz file: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file: unpack it first"),
    (0, b"BZh", "a bzip2 file: unpack it first"),
    (0, b"Rar!", "a RAR archive: unpack it first"),
)
HEAD = 512


def _signature(head: bytes) -> str:
    """Return what a file is, for the formats that are recognised only to be refused; "" for
    others.
    """
    return next((what for at, magic, what in SIGNATURES if head[at : at + len(magic)] == magic), "")


def _stranger(head: bytes) -> str:
    """Return what a file is that is neither JSON nor PyTorch's nor like safetensors; "" for the
    latter.

    A safetensors file has a length below 2**32 and a brace, and damaged ones mostly the one or the
    other. ONNX begins with fields 1 and 2, 7 or 8 of its ModelProto.
    """
    if not head:
        return "an empty file: the download failed, or the disk was full"
    if not any(head[4:8]) or head[8:9] == b"{":
        return ""
    if head[0] == 0x08 and head[1] < 0x20 and head[2] in b"\x12\x3a\x42":
        return "an ONNX model: give the weights that it was exported from"
    return f"a file of an unknown format, which begins with {shown(head[:16])}"


def save_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the tensors as a safetensors file, at once and whole; equal input gives equal bytes.

    dtype: one of `CASTS` rounds the floating-point tensors to nearest, ties to even (the integers
    stay); None stores each as it is. A finite value that the dtype cannot hold, a variance that it
    would make 0, an existing file without `overwrite`, and a full disk are WeightsErrors that leave
    the old file.
    """
    with blaming(path):
        data = safetensorsfile.serialized(tensors, metadata or {}, _cast(dtype))
        atomic_write(path, data, overwrite=overwrite)


def save_pth(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the tensors as a state dict that torch.load opens with weights_only=True.

    Arguments and errors are those of `save_safetensors`.
    """
    with blaming(path):
        from npvgg.formats.torch import writer

        chunks = writer.write_chunks(tensors, metadata or {}, _cast(dtype))
        atomic_write(path, chunks, overwrite=overwrite)


def _cast(dtype: str | None) -> str | None:
    if dtype is not None and dtype not in CASTS:
        raise ArgumentError(f"dtype: expected one of {', '.join(CASTS)}, got {shown(dtype)}")
    return None if dtype is None else CASTS[dtype]


def holds(dtype: str, name: str, array: NDArray[Any]) -> bool:
    """Return whether a dtype of `CASTS` can hold a tensor: no infinity, no variance of 0 is new."""
    return safetensorsfile.unheld(name, array, CASTS[dtype]) is None


def check_values(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Every value is finite, and no running variance is negative, or WeightsError says where.

    NaN and infinities are legal in every weights format, and make every later number meaningless.
    """
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            _blame_value(name, array, ~np.isfinite(array), "finite values")
        if name.rpartition(".")[2] == "running_var" and (array < 0).any():
            _blame_value(name, array, array < 0, "variances of 0 or more")


def _blame_value(name: str, array: NDArray[Any], bad: NDArray[np.bool_], expected: str) -> None:
    where = tuple(map(int, np.unravel_index(int(np.argmax(bad)), array.shape)))
    raise WeightsError(
        f"tensor {shown(name)}: expected {expected}, got {array[where]} at {list(where)} "
        f"({int(bad.sum())} of {array.size} are bad)"
    )
