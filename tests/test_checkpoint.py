import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.numpy

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "stem.conv.weight": rng.standard_normal((5, 3, 3, 3)).astype(np.float32),
        "stem.bn.running_var": rng.random(5).astype(np.float32),
        "stem.bn.num_batches_tracked": np.array(7),
    }


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype
        np.testing.assert_array_equal(got[name], want[name])


def test_round_trip(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    checkpoint.save_safetensors(path, tensors, {"form": "train"})
    assert_same(checkpoint.load(path), tensors)
    assert_same(safetensors.numpy.load_file(path), tensors)
    got = checkpoint.load_with_metadata(str(path))
    assert_same(got.tensors, tensors)
    assert (got.path, got.format, got.metadata) == (path, "safetensors", {"form": "train"})
    assert got.stored["stem.conv.weight"] == "F32"
    assert (got.key, got.others, got.ignored) == ("", (), {})


def test_the_name_of_a_file_does_not_matter(tmp_path, tensors):
    checkpoint.save_safetensors(tmp_path / "weights.bin", tensors)
    assert_same(checkpoint.load(tmp_path / "weights.bin"), tensors)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(None, "F32"), ("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")],
)
def test_saving_in_other_dtypes(tmp_path, tensors, dtype, stored):
    checkpoint.save_safetensors(tmp_path / "a", tensors, dtype=dtype)
    got = checkpoint.load_with_metadata(tmp_path / "a")
    assert got.stored["stem.conv.weight"] == stored
    assert got.stored["stem.bn.num_batches_tracked"] == "I64"
    want, name = tensors["stem.conv.weight"], "stem.conv.weight"
    assert got.tensors[name].dtype == (np.float16 if dtype == "float16" else np.float32)
    half_step = {"F32": 0, "F16": 2.0**-11, "BF16": 2.0**-8}[stored]  # relative, round to nearest
    assert np.all(abs(got.tensors[name] - want) <= half_step * abs(want) + 2.0**-25)
    assert (got.tensors[name] != want).any() == (half_step > 0)


def test_an_unknown_dtype_is_an_argument_error(tmp_path):
    with pytest.raises(ArgumentError, match="dtype: expected"):
        checkpoint.save_safetensors(tmp_path / "a", {}, dtype="f16")


def test_overwriting_must_be_asked_for(tmp_path, tensors):
    path = tmp_path / "a"
    checkpoint.save_safetensors(path, {})
    with pytest.raises(WeightsError, match=r"a: .*overwrite=True"):
        checkpoint.save_safetensors(path, tensors)
    checkpoint.save_safetensors(path, tensors, overwrite=True)
    assert_same(checkpoint.load(path), tensors)


def test_a_bad_tensor_leaves_the_old_file(tmp_path, tensors):
    path = tmp_path / "a"
    checkpoint.save_safetensors(path, tensors)
    bad = {"fine": np.zeros(3, np.float32), "huge": np.array([1, 7e4], np.float32)}
    with pytest.raises(WeightsError, match=r"a: tensor 'huge': .* got 70000\.0 at \[1\]"):
        checkpoint.save_safetensors(path, bad, dtype="float16", overwrite=True)
    assert_same(checkpoint.load(path), tensors)
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_opened_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="missing: No such file"):
        checkpoint.load(tmp_path / "missing")
    with pytest.raises(WeightsError, match=f"{tmp_path}: expected a file of weights"):
        checkpoint.load(tmp_path)
    with pytest.raises(WeightsError, match="No such file"):
        checkpoint.save_safetensors(tmp_path / "no" / "a", {})
    with pytest.raises(ArgumentError, match="path: expected str"):
        checkpoint.load(3)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file"
)
def test_an_unreadable_file_is_a_weights_error(tmp_path):
    (tmp_path / "a").touch(mode=0)
    with pytest.raises(WeightsError, match="Permission denied"):
        checkpoint.load(tmp_path / "a")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux only")
def test_devices_are_refused():
    with pytest.raises(WeightsError, match="regular file"):
        checkpoint.load("/dev/full")
    with pytest.raises(WeightsError, match="regular file"):
        checkpoint.save_safetensors("/dev/full", {}, overwrite=True)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"<html><body>403", "web page"),
        (b"\x93NUMPY\x01\x00", "numpy.load"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"model/".ljust(257, b"\0") + b"ustar\0", "tar archive"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (bytes(4) + b"TFL3", "TFLite"),
        (b"7z\xbc\xaf\x27\x1c", "7z archive: unpack it"),
        (b"\xfd7zXZ\0", "xz file: unpack it"),
        (b"\x28\xb5\x2f\xfd", "zstd file: unpack it"),
        (b"BZh91AY", "bzip2 file: unpack it"),
        (b"Rar!\x1a\x07", "RAR archive: unpack it"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX model: give the weights"),
        (b"", "an empty file"),
        (b"hello", "a file of an unknown format, which begins with b'hello"),
        (b"\x1b[31m" * 200, r"which begins with b'\\x1b"),
        (b"?" * 8 + b"{" * 600, "header length"),
        (b"????\0\0\0\0", "header length"),
    ],
)
def test_what_is_no_weights_file_is_named(tmp_path, head, match):
    (tmp_path / "model.safetensors").write_bytes(head + bytes(64) * bool(head))
    with pytest.raises(WeightsError, match=rf"model\.safetensors: .*{match}"):
        checkpoint.load(tmp_path / "model.safetensors")


def test_check_values_names_the_tensor_and_the_first_bad_index():
    good = {"w": np.ones((2, 3), np.float32), "n": np.arange(3), "bn.running_var": np.zeros(2)}
    checkpoint.check_values(good)
    for bad in (np.nan, np.inf, -np.inf):
        array = np.ones((2, 3, 4), np.float16)
        array[1, 0, 2] = array[1, 2, 3] = bad
        with pytest.raises(
            WeightsError, match=rf"'w': expected finite values, got {bad} at \[1, 0, 2\] \(2 of 24"
        ):
            checkpoint.check_values(good | {"w": array})


def test_check_values_refuses_negative_variances_only():
    checkpoint.check_values({"bn.running_mean": np.array([-1.0]), "x_running_var": -np.ones(1)})
    for name in ("running_var", "stem.bn.running_var"):
        with pytest.raises(WeightsError, match=r"variances of 0 or more, got -1e-09 at \[1\]"):
            checkpoint.check_values({name: np.array([0, -1e-9])})


def run(script, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_reading_takes_one_file_size_of_memory(tmp_path):
    pytest.importorskip("resource", reason="measuring memory needs POSIX")
    size = 64 * 2**20
    checkpoint.save_safetensors(
        tmp_path / "a", {f"{i}": np.ones(size // 32, np.float32) for i in range(8)}
    )
    script = """
        import resource, sys
        from npvgg.formats import checkpoint
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        tensors = checkpoint.load(sys.argv[1])
        print(peak() - before)
    """
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run(script, tmp_path / "a")) * unit < 1.1 * size


def test_a_lying_file_of_a_terabyte_is_refused_at_once(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.write((2**40 - 8).to_bytes(8, "little") + b"{")
        file.truncate(2**40)  # sparse: takes no space
    resource = pytest.importorskip("resource", reason="measuring memory needs POSIX")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match="expected a file of"):
        checkpoint.load(tmp_path / "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_importing_is_light():
    script = """
        import sys
        import npvgg.formats.checkpoint
        print({"numba", "scipy", "torch", "PIL", "safetensors"} & set(sys.modules))
    """
    assert run(script) == "set()"
