"""PyTorch's two file formats, written without PyTorch and without npvgg.

Python's own pickler and zipfile do the writing. `Global` stands for a class or function of a
library that is not here, `Made` for what calling it would give.
"""

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass, field

import numpy as np

KINDS = {
    "f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage",
    "i4": "IntStorage", "i2": "ShortStorage", "i1": "CharStorage", "u1": "ByteStorage",
    "b1": "BoolStorage",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Global:
    module: str
    name: str

    def __call__(self, *args):
        raise AssertionError("only pickle may believe that this is called")


@dataclass(eq=False)
class Made:
    maker: object
    args: tuple = ()
    state: object = None


@dataclass(eq=False)
class Storage:
    key: str
    kind: str
    data: bytes
    count: int
    module: str = "torch"
    view: tuple = field(default=())  # (key, first, size), of the stream format


class Pickler(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()
    stream = False

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        view = (obj.view or None,) if self.stream else ()
        return ("storage", Global(obj.module, obj.kind), obj.key, "cpu", obj.count, *view)

    def save_global_name(self, obj):
        if self.proto < 4:
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        else:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    def save_made(self, obj):
        self.save_reduce(obj.maker, obj.args, obj.state, obj=obj)

    dispatch[Global] = save_global_name
    dispatch[Made] = save_made


ORDERED = Global("collections", "OrderedDict")


def tensor(storage, first, size, stride):
    args = (storage, first, size, stride, False, Made(ORDERED))
    return Made(Global("torch._utils", "_rebuild_tensor_v2"), args)


def parameter(inner):
    return Made(Global("torch._utils", "_rebuild_parameter"), (inner, True, Made(ORDERED)))


def storage_of(array, key, big_endian=False):
    array = np.ascontiguousarray(array)
    data = array.astype(array.dtype.newbyteorder(">")) if big_endian else array
    return Storage(key, KINDS[array.dtype.str[1:]], data.tobytes(), array.size)


def whole(array, key, **options):
    """An array as the tensor that covers its own storage."""
    array = np.asarray(array)
    strides = tuple(s // array.itemsize for s in np.empty(array.shape, array.dtype).strides)
    return tensor(storage_of(array, str(key), **options), 0, array.shape, strides)


def state_dict(arrays, first=0, **options):
    """Arrays as tensors whose storages are numbered from `first` on."""
    return {name: whole(a, i, **options) for i, (name, a) in enumerate(arrays.items(), first)}


def pickled(value, protocol=2, stream=False):
    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    pickler.stream = stream
    pickler.dump(value)
    return file.getvalue()


def storages_of(value, found=None):
    """Every storage inside a value, by key."""
    found = {} if found is None else found
    if isinstance(value, Storage):
        found[value.key] = value
    elif isinstance(value, Made):
        storages_of(value.args, found)
        storages_of(value.state, found)
    elif isinstance(value, dict):
        storages_of(list(value.values()), found)
    elif isinstance(value, list | tuple):
        for inner in value:
            storages_of(inner, found)
    return found


def zip_file(value, *, folder="archive", protocol=2, byteorder="little", change=None, more=None):
    """The bytes of a zip file; `change` maps a member's name to other bytes, None drops it."""
    members = {"data.pkl": pickled(value, protocol), "version": b"3\n"}
    if byteorder:
        members["byteorder"] = byteorder.encode()
    members |= {f"data/{key}": s.data for key, s in storages_of(value).items()}
    members |= change or {}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), data)
        for name, data in (more or {}).items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def stream_file(value, *, protocol=2, little_endian=True, keys=None, counts=None, magic=MAGIC):
    """The bytes of the stream format; `keys` and `counts` lie where they differ."""
    storages = storages_of(value)
    machine = {
        "protocol_version": 1001, "little_endian": little_endian,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }  # fmt: skip
    parts = [pickle.dumps(magic, 2), pickle.dumps(1001, 2), pickle.dumps(machine, 2)]
    parts.append(pickled(value, protocol, stream=True))
    parts.append(pickle.dumps(sorted(storages) if keys is None else keys, protocol))
    for key, storage in sorted(storages.items()):
        count = (counts or {}).get(key, storage.count)
        parts += [struct.pack("<q", count), storage.data]
    return b"".join(parts)
