"""The safetensors library is the judge: what it rejects we reject, what both accept is equal.

Beyond that we are stricter; `STRICTER` lists every case, and the library's acceptance of it is
tested too, so that the list stays true.
"""

import io
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npvgg.errors import WeightsError
from npvgg.formats import safetensorsfile
from npvgg.formats.bfloat16 import narrow

NATIVE = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def read(data):
    """Our reading of the bytes of a file."""
    return safetensorsfile.read(io.BytesIO(data), len(data))


def file(header, data=b""):
    """A file with this header (a text, bytes or something to write as JSON)."""
    if not isinstance(header, str | bytes):
        header = json.dumps(header, separators=(",", ":"))
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write(tensors, metadata=None, cast=None):
    return safetensorsfile.serialized(tensors, metadata or {}, cast)


def random_tensors(rng):
    """Every dtype in ugly shapes, 0-dimensional and empty ones included, in no helpful order."""
    shapes = [(), (0,), (3,), (2, 0, 5), (5, 3, 1, 2)]
    return {
        f"{dtype}/{len(shape)}{'ü' * (i % 2)}": np.array(rng.integers(0, 2, shape) * 3, dtype)
        for i, dtype in enumerate(rng.permutation(NATIVE))
        for shape in shapes
    }


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype, name
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


GOLDEN = (  # 8 + 64 + 16 bytes, written out by hand from the format's description
    b"\x40\x00\x00\x00\x00\x00\x00\x00"
    b'{"bias":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}    '
    b"\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40"
)


def test_golden_bytes():
    want = {"bias": np.array([[1, 2], [3, 4]], np.float32)}
    assert write(want) == GOLDEN
    assert_same(read(GOLDEN).tensors, want)
    assert read(GOLDEN).stored == {"bias": "F32"}


ORDER = ["U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL"]


def by_the_description(tensors, kinds, metadata):
    """A file as the format's description has it: widest first, then by name, 8-byte header."""
    order = sorted(tensors, key=lambda name: (ORDER.index(kinds[name]), name.encode()))
    header = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    data = b""
    for name in order:
        array = tensors[name]
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = entry(kinds[name], array.shape, offsets)
        data += raw
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "metadata",
    [{}, {"format": "pt"}, {"é\n\x1f": '"\\\x7f'}, {key: key for key in "qwertyuiop"}],
)
def test_what_is_written_is_what_the_description_says(metadata):
    """The library writes; its bytes, with the metadata in order, are those of the description."""
    tensors = random_tensors(np.random.default_rng(1))
    got = write(tensors, metadata)
    assert got == by_the_description(tensors, read(got).stored, metadata)
    assert_same(safetensors.numpy.load(got), tensors)
    assert read(got).metadata == metadata


def test_older_versions_of_the_library_are_given_bytes(monkeypatch):
    """Before it had TensorSpec it took a dict; the oldest-versions run has such a one."""
    want, taken = write({"x": np.arange(3.0)}), {}

    def serialize(table, metadata=None):
        taken.update(table)
        return want

    monkeypatch.delattr(safetensors, "TensorSpec", raising=False)
    monkeypatch.setattr(safetensors, "serialize", serialize)
    assert write({"x": np.arange(3.0)}) == want
    data = np.arange(3.0).tobytes()
    assert taken == {"x": {"dtype": "float64", "shape": (3,), "data": data}}


def test_the_library_s_refusal_is_our_error(monkeypatch):
    def refuse(*_, **__):
        raise safetensors.SafetensorError("no room")

    monkeypatch.setattr(safetensors, "serialize", refuse)
    with pytest.raises(WeightsError, match="the safetensors library cannot write it: no room"):
        write({"x": np.ones(1)})


def test_a_variance_that_would_vanish_is_an_error():
    with pytest.raises(WeightsError, match=r"running_var': expected values within F16, got 1e-09"):
        write({"bn.running_var": np.array([1.0, 1e-9])}, cast="F16")
    write({"bn.running_var": np.array([1.0, 0.0]), "bn.bias": np.array([1e-9])}, cast="F16")


def test_what_the_library_writes_we_read():
    want = random_tensors(np.random.default_rng(2))
    got = read(safetensors.numpy.save(want, {"a": "1", "b": "2"}))
    assert_same(got.tensors, want)
    assert got.metadata == {"a": "1", "b": "2"}


def test_equal_input_gives_equal_bytes():
    a, b = np.zeros(3, np.float32), np.ones(2, np.float32)
    assert write({"a": a, "b": b}, {"x": "", "y": ""}) == write(
        {"b": b, "a": a}, {"y": "", "x": ""}
    )


def test_layouts_in_memory_do_not_matter():
    want = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for array in (want.astype(">f4"), np.asfortranarray(want), np.repeat(want, 2, axis=1)[:, ::2]):
        assert write({"x": array}) == write({"x": want})


def test_reading_is_aligned_private_and_writable():
    data = file({"a": entry("U8", [1], [0, 1]), "b": entry("F32", [2], [1, 9])}, bytes(9))
    array = read(data).tensors["b"]
    assert array.flags.aligned
    assert array.flags.writeable
    aligned = read(GOLDEN).tensors["bias"]
    assert aligned.base is not None  # a view: the data is held once
    assert aligned.flags.writeable


def test_bfloat16_becomes_float32():
    bits = np.array([0x3F80, 0xC049, 0x7F80, 0x0001], np.uint16)
    got = read(file({"x": entry("BF16", [2, 2], [0, 8])}, bits.tobytes()))
    assert got.stored == {"x": "BF16"}
    assert got.tensors["x"].tolist() == [[1, -3.140625], [np.inf, 2.0**-133]]
    assert got.tensors["x"].dtype == np.float32


@pytest.mark.parametrize("cast", ["F64", "F32", "F16", "BF16"])
def test_casts_touch_floats_only(cast):
    values = np.linspace(-3, 3, 7)
    tensors = {"d": values, "h": values.astype("f2"), "i": np.arange(3), "s": np.array(1.1)}
    got = read(write(tensors, cast=cast))
    assert got.stored == {"d": cast, "h": cast, "i": "I64", "s": cast}
    if cast == "BF16":
        raw = write({"d": values}, cast=cast)[-14:]
        assert raw == narrow(values).tobytes()
    else:
        want = values.astype({"F64": np.float64, "F32": np.float32, "F16": np.float16}[cast])
        np.testing.assert_array_equal(got.tensors["d"], want)


@pytest.mark.parametrize(
    ("cast", "fits", "too_big"), [("F16", 65519.0, 65520.0), ("F32", 3.4028235e38, 3.5e38)]
)
def test_values_beyond_the_dtype_are_an_error(cast, fits, too_big):
    write({"x": np.array([fits, np.inf, -np.inf, np.nan])}, cast=cast)
    with pytest.raises(
        WeightsError, match=rf"'x': expected values within {cast}, got .* at \[1, 0"
    ):
        write({"x": np.array([[fits, -fits], [-too_big, 0]])}, cast=cast)


def test_bfloat16_overflow_is_an_error():
    with pytest.raises(WeightsError, match=r"within BF16, got 3\.4e\+38 at \[\]"):
        write({"x": np.array(3.4e38)}, cast="BF16")


@pytest.mark.parametrize(
    ("tensors", "metadata", "match"),
    [
        ({"": np.zeros(1)}, {}, "name"),
        ({"__metadata__": np.zeros(1)}, {}, "name"),
        ({3: np.zeros(1)}, {}, "name"),
        ({"\ud800": np.zeros(1)}, {}, "surrogate"),
        ({"x": [1.0]}, {}, "'x': expected an array, got list"),
        ({"x": np.zeros(1, complex)}, {}, "complex128"),
        ({"x": np.array(["a"])}, {}, "'x': expected numbers or bools"),
        ({"x": np.array([None])}, {}, "object"),
        ({"x": np.zeros((1,) * 9)}, {}, "8 dimensions"),
        ({}, {"a": 1}, "metadata"),
        ({}, {1: "a"}, "metadata"),
        ({}, {"a": "\udfff"}, "surrogate"),
        ({}, {"a": "x" * 2**20}, "of header"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tensors, metadata, match):
    with pytest.raises(WeightsError, match=match):
        safetensorsfile.serialized(tensors, metadata, None)


GOOD = {"a": entry(), "b": entry("F32", [2], [4, 12])}
REJECTED_BY_BOTH = {
    "nothing": b"",
    "short": b"\x02\0\0",
    "no header": struct.pack("<Q", 0),
    "huge length": struct.pack("<Q", 2**63) + b"{}",
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "not an object": file("[]"),
    "not JSON": file("{'a': 1}"),
    "cut JSON": file('{"a":'),
    "text after the object": file("{}x"),
    "null after the object": file(b"{}\0"),
    "not UTF-8": file(b'{"\xff":' + json.dumps(entry("U8", [0], [0, 0])).encode() + b"}"),
    "byte order mark": file(b"\xef\xbb\xbf{}"),
    "UTF-16": file("{}".encode("utf-16-le")),
    "control character": file(json.dumps({"a\x01": entry()}).replace("\\u0001", "\x01"), bytes(4)),
    "lone surrogate": file(json.dumps({"\ud800": entry()}), bytes(4)),
    "deep nesting": file('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "missing dtype": file({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "missing shape": file({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "missing offsets": file({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "unknown dtype": file({"a": entry("F33")}, bytes(4)),
    "dtype a number": file({"a": entry(1)}, bytes(4)),
    "float size": file({"a": entry(shape=[1.0])}, bytes(4)),
    "exponent size": file('{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', bytes(4)),
    "bool size": file({"a": entry(shape=[True])}, bytes(4)),
    "text size": file({"a": entry(shape=["1"])}, bytes(4)),
    "negative size": file({"a": entry(shape=[-1])}, bytes(4)),
    "minus zero": file('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
    "leading zero": file('{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}', bytes(4)),
    "NaN": file('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "giant number": file('{"a":{"dtype":"F32","shape":[' + "9" * 9999 + '],"data_offsets":[0,4]}}'),
    "three offsets": file({"a": entry(offsets=[0, 4, 4])}, bytes(4)),
    "offsets backwards": file({"a": entry(offsets=[4, 0])}, bytes(4)),
    "negative offset": file({"a": entry(offsets=[-4, 0])}, bytes(4)),
    "shape and bytes disagree": file({"a": entry(shape=[2])}, bytes(4)),
    "product overflows": file({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}),
    "product times itemsize overflows": file({"a": entry(shape=[2**62], offsets=[0, 0])}),
    "a hole at the start": file({"a": entry(offsets=[4, 8])}, bytes(8)),
    "a hole": file({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)),
    "an overlap": file({"a": entry(), "b": entry(offsets=[2, 6])}, bytes(6)),
    "the same bytes twice": file({"a": entry(), "b": entry()}, bytes(4)),
    "trailing bytes": file(GOOD, bytes(13)),
    "too few bytes": file(GOOD, bytes(11)),
    "data beyond the file": file({"a": entry(offsets=[2**40, 2**40 + 4])}, bytes(4)),
    "metadata of numbers": file({"__metadata__": {"a": 1}}),
    "metadata a list": file({"__metadata__": ["a"]}),
    "entry null": file({"a": None}),
    "field twice": file('{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
}
STRICTER = {
    "tensor twice": file('{"a":%s,"a":%s}' % ((json.dumps(entry()),) * 2), bytes(4)),
    "metadata key twice": file('{"__metadata__":{"a":"1","a":"2"}}'),
    "leading space": file(b" {}"),
    "unknown field": file({"a": entry() | {"code": "x"}}, bytes(4)),
    "metadata null": file({"__metadata__": None}),
    "empty name": file({"": entry()}, bytes(4)),
    "entry a list": file({"a": ["F32", [1], [0, 4]]}, bytes(4)),
    "dtype an object": file({"a": entry({"F32": None})}, bytes(4)),
    "BOOL of other bytes": file({"a": entry("BOOL", [1], [0, 1])}, b"\x02"),
    "nine dimensions": file({"a": entry(shape=[1] * 9)}, bytes(4)),
    "header over our limit": file(b"{}" + b" " * 2**20),
    "too many tensors": file({f"{i}": entry("U8", [0], [0, 0]) for i in range(10_001)}),
}
BEYOND_NUMPY = {  # the library's parser accepts these; its NumPy half cannot serve them
    "empty but giant": file({"a": entry(shape=[0, 2**62], offsets=[0, 0])}),
    "F8": file({"a": entry("F8_E4M3", [4])}, bytes(4)),
}


def ids(cases):
    return {"argvalues": cases.values(), "ids": cases.keys()}


@pytest.mark.parametrize("data", **ids(REJECTED_BY_BOTH))
def test_rejected_by_the_library_and_by_us(data):
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load(data)
    with pytest.raises(WeightsError, match="expected"):
        read(data)


@pytest.mark.parametrize("data", **ids(STRICTER))
def test_accepted_by_the_library_but_not_by_us(data):
    safetensors.numpy.load(data)
    with pytest.raises(WeightsError, match="expected"):
        read(data)


@pytest.mark.parametrize("data", **ids(BEYOND_NUMPY))
def test_what_numpy_cannot_hold_is_our_error_too(data):
    with pytest.raises((KeyError, ValueError, safetensors.SafetensorError)):
        safetensors.numpy.load(data)
    with pytest.raises(WeightsError, match="'a': expected"):
        read(data)


def test_messages_escape_what_the_file_says():
    with pytest.raises(WeightsError) as caught:
        read(file({"\x1b[2J\u202e" + "x" * 10**5: entry(shape=[2])}, bytes(4)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@given(st.data())
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_mutated_files_agree_with_the_library(data):
    """One to three bytes changed: we return what the library returns, or raise WeightsError."""
    good = safetensors.numpy.save(
        {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros((0, 2), "i8")},
        {"k": "v"},
    )
    mutated = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 1))
        mutated[at] = data.draw(
            st.sampled_from(b'\x00\x01\xff"{}[],:0129.-eE \\') | st.integers(0, 255)
        )
    _agree(bytes(mutated))


@given(st.binary(max_size=200))
@example(b"{}")
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_random_headers_agree_with_the_library(header):
    _agree(file(header))


def _agree(data):
    try:
        got = read(data).tensors
    except WeightsError:
        return  # stricter is allowed; the lists above say where
    assert_same(got, safetensors.numpy.load(data))
