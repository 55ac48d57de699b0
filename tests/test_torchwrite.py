"""The .pth writer: judged by Python's zipfile and pickletools, and by reading back.

tests/cross/test_torchfile_live.py has torch open the files.
"""

import io
import os
import pickletools
import zipfile

import numpy as np
import pytest

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint
from npvgg.formats.torch import writer

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?"]
TENSORS = {
    f"{dtype}.{len(shape)}.ü": np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    for dtype in DTYPES
    for shape in [(), (0,), (3,), (2, 0, 5), (5, 3, 1, 2)]
}


def written(tensors, metadata=None, cast=None):
    return b"".join(writer.write_chunks(tensors, metadata or {}, cast))


def test_what_is_written_is_read_back(tmp_path):
    checkpoint.save_pth(tmp_path / "a.pth", TENSORS, {"form": "train", "é": "\n"})
    got = checkpoint.load_with_metadata(tmp_path / "a.pth")
    assert list(got.tensors) == list(TENSORS)
    for name, array in TENSORS.items():
        assert (got.tensors[name].dtype, got.tensors[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got.tensors[name], array)
    assert got.metadata == {"form": "train", "é": "\n"}
    assert (got.format, got.key, got.ignored) == ("torch zip", "", {})


def test_the_archive_is_sound_and_every_storage_is_aligned():
    data = written(TENSORS)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.read("archive/version") == b"3\n"
        for info in archive.infolist():
            with archive.open(info) as member:
                member.read(1)
            header = data[info.header_offset :]
            sizes = np.frombuffer(header[26:30], "<u2")
            assert (info.header_offset + 30 + int(sizes.sum())) % 64 == 0
        pickletools.dis(archive.read("archive/data.pkl"), io.StringIO())


def test_equal_input_gives_equal_bytes_in_the_order_of_the_dict():
    assert written(TENSORS) == written(TENSORS)
    names = list(TENSORS)[::-1]
    data = written({name: TENSORS[name] for name in names})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickle = archive.read("archive/data.pkl")
    places = [pickle.index(name.encode()) for name in names]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")]
)
def test_casting_is_that_of_safetensors(tmp_path, dtype, stored, rng):
    tensors = {"w": rng.standard_normal((4, 5)), "n": np.array(7)}
    checkpoint.save_pth(tmp_path / "a.pth", tensors, dtype=dtype)
    checkpoint.save_safetensors(tmp_path / "a.safetensors", tensors, dtype=dtype)
    a, b = (checkpoint.load_with_metadata(tmp_path / f"a.{s}") for s in ("pth", "safetensors"))
    assert a.stored == b.stored == {"w": stored, "n": "I64"}
    np.testing.assert_array_equal(a.tensors["w"], b.tensors["w"])


def test_transposed_arrays_are_written_in_c_order(tmp_path):
    x = np.arange(6.0).reshape(2, 3).T
    checkpoint.save_pth(tmp_path / "a.pth", {"x": x})
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "a.pth")["x"], x)


@pytest.mark.parametrize(
    ("tensors", "options", "error", "match"),
    [
        ({"w": np.zeros(3, np.uint16)}, {}, WeightsError, "'w': expected a dtype of .pth"),
        ({"w": np.zeros(3, complex)}, {}, WeightsError, "'w': expected numbers"),
        ({"w": [1]}, {}, WeightsError, "'w': expected an array"),
        ({"": np.zeros(3)}, {}, WeightsError, "names"),
        ({"w": np.array([7e4])}, {"dtype": "float16"}, WeightsError, r"got 70000\.0 at \[0\]"),
        ({}, {"dtype": "f64"}, ArgumentError, "dtype: expected"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, tensors, options, error, match):
    with pytest.raises(error, match=match):
        checkpoint.save_pth(tmp_path / "a.pth", tensors, **options)
    assert os.listdir(tmp_path) == []


def test_overwriting_must_be_asked_for(tmp_path):
    checkpoint.save_pth(tmp_path / "a", {"w": np.zeros(3)})
    with pytest.raises(WeightsError, match="overwrite=True"):
        checkpoint.save_pth(tmp_path / "a", {})
    checkpoint.save_pth(tmp_path / "a", {"w": np.ones(3)}, overwrite=True)
    assert checkpoint.load(tmp_path / "a")["w"][0] == 1
