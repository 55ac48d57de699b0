"""Their files: what NumPy, JavaScript or a C program writes is read exactly; all else is one
error.
"""

import io
import json
import zipfile

import numpy as np
import pytest

from npvgg import WeightsError
from npvgg.formats import checkpoint
from npvgg.testing.comparison import candidates

ARRAYS = {
    "stem": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) / 7,
    "stages.0.10": np.array([[1.5, -2.25]]),
    "stages.0.2": np.array([[1, 2], [3, 4]], np.int64),
    "logits": np.array([[0.1, np.nan, np.inf]], np.float32),
}
NATURAL = ["logits", "stages.0.2", "stages.0.10", "stem"]


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].flags.c_contiguous
        assert got[name].dtype.isnative


def npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), **options)
    return buffer.getvalue()


# --- What is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_keeps_the_order_in_which_it_was_written(tmp_path, save):
    save(tmp_path / "theirs.npz", **ARRAYS)
    got = candidates.read(tmp_path / "theirs.npz")
    assert_same(got, ARRAYS)
    assert list(got) == list(ARRAYS)
    assert [a.dtype for a in got.values()] == [a.dtype for a in ARRAYS.values()]


def test_safetensors_and_pth_come_in_natural_order(tmp_path):
    checkpoint.save_safetensors(tmp_path / "a.safetensors", ARRAYS)
    checkpoint.save_pth(tmp_path / "a.pth", ARRAYS)
    for name in ("a.safetensors", "a.pth"):
        got = candidates.read(tmp_path / name)
        assert_same(got, ARRAYS)
        assert list(got) == NATURAL


def test_a_folder_of_npy_files(tmp_path):
    (tmp_path / "stages.0").mkdir()
    for name, array in ARRAYS.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "stages.0" / "1.npy", np.float32(3))
    (tmp_path / "notes.txt").write_text("none of these")
    (tmp_path / ".hidden.npy").write_text("nor this")
    got = candidates.read(tmp_path)
    assert list(got) == ["logits", "stages.0.2", "stages.0.10", "stages.0/1", "stem"]
    assert_same(got, ARRAYS | {"stages.0/1": np.float32(3)})


def test_one_npy_file_is_named_after_itself(tmp_path):
    np.save(tmp_path / "logits.npy", ARRAYS["logits"])
    assert_same(candidates.read(tmp_path / "logits.npy"), {"logits": ARRAYS["logits"]})


@pytest.mark.parametrize("suffix", [".f32", ".bin", ".raw"])
def test_raw_float32_with_a_list_of_shapes_in_its_order_or_flat(tmp_path, suffix):
    floats = {name: array.astype("<f4") for name, array in ARRAYS.items()}
    for name, array in floats.items():
        (tmp_path / f"{name}{suffix}").write_bytes(array.tobytes())
    flat = candidates.read(tmp_path)
    assert list(flat) == NATURAL
    assert_same(flat, {name: array.ravel() for name, array in floats.items()})
    shapes = {name: list(array.shape) for name, array in floats.items()}
    (tmp_path / "shapes.json").write_text(json.dumps(shapes))
    got = candidates.read(tmp_path)
    assert list(got) == list(ARRAYS)
    assert_same(got, floats)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "shape-and-data"])
def test_json_in_both_spellings_with_null_for_nan(tmp_path, nested):
    def spelled(array):
        data = [None if np.isnan(v) else v for v in array.ravel().tolist()]
        if not nested:
            return {"shape": list(array.shape), "data": data}
        return np.array(data, dtype=object).reshape(array.shape).tolist()

    table = {name: spelled(array) for name, array in ARRAYS.items()}
    (tmp_path / "a.json").write_text(json.dumps(table), "utf-8-sig" if nested else "utf-8")
    got = candidates.read(tmp_path / "a.json")
    assert_same(got, ARRAYS)
    assert list(got) == list(ARRAYS)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "array",
    [
        np.float16([[1, 2, 3]]), np.arange(6, dtype=">f8").reshape(2, 3), np.uint8(7),
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), np.zeros((0, 5)), np.arange(3),
    ],
    ids=["float16", "big-endian", "0-d", "fortran", "empty", "1-d"],
)  # fmt: skip
def test_npy_as_numpy_reads_it(tmp_path, array, version):
    (tmp_path / "a.npy").write_bytes(npy(array, version=version))
    got = candidates.read(tmp_path / "a.npy")["a"]
    want = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(got, want)
    assert (got.dtype, got.shape) == (want.dtype.newbyteorder("="), want.shape)
    assert got.flags.c_contiguous


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",  # NumPy, cnpy
        "{'descr':'<f4','fortran_order':False,'shape':(3,)}",  # others
        '{"shape": (3), "fortran_order": False, "descr": "<f4"}\n',
        "{ 'shape' : ( 3 , ) , 'descr' : '<f4' , 'fortran_order' : False }   ",
    ],
)
def test_npy_headers_of_other_writers(tmp_path, header):
    data = np.float32([1, 2, 3])
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "a.npy").write_bytes(head + data.tobytes())
    np.testing.assert_array_equal(candidates.read(tmp_path / "a.npy")["a"], data)


# --- What is refused ------------------------------------------------------------------------------


def with_header(header, data=b""):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def zipped(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


GOOD = npy(np.arange(3))
HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"
BAD = {
    "pickled-objects": (npy(np.array([{}], object)), "real numbers"),
    "complex": (npy(np.zeros(2, complex)), "real numbers"),
    "shape-with-a-separator": (with_header(HEADER.replace("(", "(\x1f"), GOOD[-24:]), "npy header"),
    "shape-with-a-line": (with_header(HEADER.replace("(", "(\n"), GOOD[-24:]), "npy header"),
    "long-double": (with_header(HEADER.replace("f8", "f16"), bytes(48)), "real numbers"),
    "records": (npy(np.zeros(2, [("a", "<f4")])), "one plain array"),
    "huge-shape": (with_header(HEADER.replace("3,", "999999999999999999,")), "bytes"),
    "short": (with_header(HEADER, bytes(23)), "24 bytes"),
    "long": (with_header(HEADER, bytes(25)), "24 bytes"),
    "code": (with_header(HEADER.replace("(3,)", "__import__('os').getpid()")), "one plain array"),
    "two-shapes": (with_header(HEADER[:-1] + "'shape': (2,)}", bytes(24)), "one plain array"),
    "no-shape": (with_header("{'descr': '<f8', 'fortran_order': False}", bytes(8)), "one plain"),
    "order-is-a-shape": (with_header(HEADER.replace("False", "(3,)"), bytes(24)), "an order"),
    "long-header": (with_header(HEADER + " " * 20_000, bytes(24)), "at most"),
    "version-9": (b"\x93NUMPY\x09" + GOOD[7:], "version"),
    "cut": (GOOD[:9], "cut short"),
    "npz-with-another-file": (zipped([("a.npy", GOOD), ("b.txt", b"")]), ".npy files"),
    "npz-twice-one-name": (zipped([("a.npy", GOOD), ("b.npy", GOOD)]).replace(b"b.npy", b"a.npy"),
                           "unique"),
    "npz-packed-with-lzma": (zipped([("a.npy", GOOD)], zipfile.ZIP_LZMA), "plain member"),
    "npz-of-nonsense": (zipped([("a.npy", b"nonsense")]), "'a.npy'"),
    "npz-cut": (zipped([("a.npy", GOOD)])[:-1], "damaged"),
    "json-text": (b'{"a": ["x"]}', "numbers"),
    "json-ragged": (b'{"a": [[1, 2], [3]]}', "numbers"),
    "json-objects": (b'{"a": [{}, null]}', "numbers"),
    "json-bool": (b'{"a": [true]}', "numbers"),
    "json-twice": (b'{"a": [1], "a": [2]}', "unique"),
    "json-shape": (b'{"a": {"shape": [2, 2], "data": [1, 2, 3]}}', "the numbers of (2, 2)"),
    "json-negative-shape": (b'{"a": {"shape": [-1], "data": [1]}}', "shape of integers"),
    "json-half-shape": (b'{"a": {"shape": [0.5], "data": []}}', "shape of integers"),
    "json-no-data": (b'{"a": {"shape": [2]}}', "shape and data"),
    "json-deep": (b'{"a": ' + b"[" * 100_000, "nesting"),
    "json-cut": (b'{"a": [1, 2', "JSON"),
    "json-empty": (b"{}", "at least one"),
    "empty": (b"", "empty file"),
    "text": (b"hello there, this is no weights file", "unknown format"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_named_arrays_of_numbers_is_one_error(tmp_path, name):
    data, message = BAD[name]
    (tmp_path / "theirs").write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        candidates.read(tmp_path / "theirs")
    assert str(caught.value).startswith(f"{tmp_path / 'theirs'}: ")
    assert str(caught.value).count(str(tmp_path)) == 1
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.npz", "an archive of NumPy's"), ("a.npy", "an array of NumPy's"), ("a.json", "a JSON")],
)
def test_a_file_that_is_not_what_its_name_says_is_no_weights_file(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=f"{name}: expected {kind}"):
        candidates.read(tmp_path / name)


def test_names_and_their_number_have_limits(tmp_path, monkeypatch):
    long = "a" * 1001
    (tmp_path / "a.json").write_text(json.dumps({long: [1.0]}))
    with pytest.raises(WeightsError, match="names of up to 1000 characters"):
        candidates.read(tmp_path / "a.json")
    monkeypatch.setattr(candidates, "MAX_ARRAYS", 3)
    np.savez(tmp_path / "a.npz", *[np.zeros(1)] * 4)
    with pytest.raises(WeightsError, match="at most 3 arrays, got 4"):
        candidates.read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "text", ['{"a": [' + "1," * 999 + "1]}", '{"a": [' + "[]," * 400 + "[]]}",
             "{" + ",".join(f'"{i}": {{}}' for i in range(60)) + "}"],
)  # fmt: skip
def test_json_is_refused_by_what_it_would_take_in_memory(tmp_path, text, monkeypatch):
    import tracemalloc

    (tmp_path / "a.json").write_text(text)
    tracemalloc.start()
    parsed = json.loads(text, parse_int=float)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert parsed
    monkeypatch.setattr(candidates, "MAX_JSON_MEMORY", taken)
    with pytest.raises(WeightsError, match="bytes of memory"):
        candidates.read(tmp_path / "a.json")


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates.npyfile, "MAX_UNPACKED", 10_000)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(5000))
    assert (tmp_path / "a.npz").stat().st_size < 1000
    with pytest.raises(WeightsError, match="at most 10000 bytes"):
        candidates.read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "at least one"),
        ({"a.npy": GOOD, "b.raw": bytes(4)}, "of one kind, got .npy, .raw"),
        ({"a.f32": bytes(4), "a.raw": bytes(4)}, "of one kind, got .f32, .raw"),
        ({"a.raw": bytes(4), "shapes.json": b"{"}, "shapes.json: expected JSON"),
        ({"a.raw": bytes(5)}, "float32"),
        ({"a.raw": bytes(8), "shapes.json": b'{"a": [3]}'}, "12 bytes"),
        ({"a.raw": bytes(8), "shapes.json": b'{"b": [2]}'}, "only one of the two"),
        ({"a.raw": bytes(8), "shapes.json": b'{"a": "2"}'}, "shape"),
        ({"a.npy": b"\x93NUMPY"}, ": a: expected"),
    ],
)
def test_folders_that_say_two_things_or_nothing(tmp_path, files, message):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        candidates.read(tmp_path)


def test_damage_is_a_weights_error_or_another_array_and_nothing_else(tmp_path, rng):
    """Every byte of an npy's header, and many of an npz, once each with a random other value."""
    npz = io.BytesIO()
    np.savez_compressed(npz, a=np.arange(40.0), b=np.ones((2, 3), np.float32))
    refused = 0
    for whole in (npy(np.arange(3)), npz.getvalue()):
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= int(rng.integers(1, 256))
            (tmp_path / "theirs").write_bytes(damaged)
            try:
                candidates.read(tmp_path / "theirs")
            except WeightsError:
                refused += 1
    assert refused > 300


def test_numbers_sort_as_people_count():
    names = ["b", "a10", "a9", "a09", "a", "a9.10", "a9.9"]
    want = ["a", "a9", "a09", "a9.9", "a9.10", "a10", "b"]
    assert sorted(names, key=candidates.natural) == want
