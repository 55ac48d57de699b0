"""Weights in several files behind an index."""

import hashlib
import json

import numpy as np
import pytest
import torchwriter

from npvgg.errors import WeightsError
from npvgg.formats import checkpoint, sharded
from npvgg.tools.inspection import inspect

A, B, C = np.arange(3, dtype=np.float32), np.ones((2, 2), np.float16), np.array(7)
NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
MAP = {"c": NAMES[1], "a": NAMES[0], "b": NAMES[0]}


@pytest.fixture
def index(tmp_path):
    checkpoint.save_safetensors(tmp_path / NAMES[0], {"a": A, "b": B}, {"format": "pt"})
    checkpoint.save_safetensors(tmp_path / NAMES[1], {"c": C}, {"format": "pt"})
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1.5}, "weight_map": MAP}, indent=2))
    return path


def test_the_files_become_one(index):
    got = checkpoint.load_with_metadata(index)
    assert list(got.tensors) == list(MAP)
    for name, array in {"a": A, "b": B, "c": C}.items():
        np.testing.assert_array_equal(got.tensors[name], array)
        assert got.tensors[name].dtype == array.dtype
    assert got.stored == {"a": "F32", "b": "F16", "c": "I64"}
    assert (got.format, got.metadata, got.path) == ("sharded safetensors", {"format": "pt"}, index)


def test_the_sum_of_sharded_weights_is_of_all_the_files(index):
    report = inspect(index)
    files = [index, *(index.parent / name for name in NAMES)]
    data = b"".join(file.read_bytes() for file in files)
    assert (report["sha256"], report["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))


def test_pytorch_s_files_are_joined_as_well(tmp_path):
    for name, arrays in {"1.bin": {"a": A}, "2.bin": {"b": B}}.items():
        (tmp_path / name).write_bytes(torchwriter.zip_file(torchwriter.state_dict(arrays)))
    (tmp_path / "i.json").write_text('{"weight_map": {"a": "1.bin", "b": "2.bin"}}')
    got = checkpoint.load(tmp_path / "i.json")
    np.testing.assert_array_equal(got["a"], A)
    np.testing.assert_array_equal(got["b"], B)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"metadata": {}}', "weight_map"),
        ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": [1]}', "weight_map"),
        ('{"weight_map": {"a": 1}}', "file's name"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "file's name"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "file's name"),
        ('{"weight_map": {"a": "C:a"}}', "file's name"),
        ('{"weight_map": {"a": "d\\\\a"}}', "file's name"),
        ('{"weight_map": {"a": ".hidden"}}', "file's name"),
        ('{"weight_map": {"a": "i.json"}}', "file's name"),
        ('{"weight_map": {"a": ""}}', "file's name"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "unique"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "No such file"),
        ('{"weight_map": {"a": "' + NAMES[0] + '"}}', "holds, against the index, the tensor 'b'"),
        (
            json.dumps({"weight_map": dict.fromkeys("abd", NAMES[0])}),
            "lacks the tensor 'd'",
        ),
        ('{"weight_map": {"a": "x"', "expected JSON"),
        ("{" * 100_000, "a nesting of at most 32"),
        ('{"weight_map": ' + "[" * 100_000, "a nesting of at most 32"),
        ('{"weight_map": "' + "x" * sharded.MAX_INDEX + '"}', "at most"),
        (json.dumps({"weight_map": {str(i): str(i) for i in range(200)}}), "at most"),
        ('{"number": ' + "9" * 100_000 + "}", "19 digits"),
    ],
    ids=lambda text: text[:40],
)
def test_a_wrong_index_is_refused(index, text, match):
    index.write_text(text)
    with pytest.raises(WeightsError, match=rf"index\.json: (?s:.*){match}"):
        checkpoint.load(index)


def test_a_shard_is_a_file_and_no_index(tmp_path):
    """Folders in folders, 250 deep, overflowed the stack; a folder counted as 4,096 bytes."""
    path = tmp_path / "i.json"
    path.write_text('{"weight_map": {"a": "inside"}}')
    (tmp_path / "inside").mkdir()
    with pytest.raises(WeightsError, match="inside: Is a directory"):
        checkpoint.load(path)
    (tmp_path / "inside").rmdir()
    (tmp_path / "inside").write_text('{"weight_map": {"a": "inside"}}')
    with pytest.raises(WeightsError, match="inside: "):
        checkpoint.load(path)
    (tmp_path / "inside").unlink()
    with pytest.raises(WeightsError, match="inside: No such file"):
        checkpoint.load(path)
