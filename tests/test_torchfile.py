"""PyTorch's files: judged by files that an independent writer makes, and by hostile ones."""

import argparse
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import tiny
import torchwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchwriter import (
    ORDERED,
    Global,
    Made,
    Storage,
    parameter,
    state_dict,
    stream_file,
    tensor,
    whole,
    zip_file,
)  # fmt: skip

import npvgg
from npvgg import bfloat16, checkpoint, torchfile
from npvgg.errors import ArgumentError, WeightsError

FORMATS = {"zip": zip_file, "stream": stream_file}
both = pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)


@pytest.fixture
def load(tmp_path):
    """Write bytes and load them."""

    def load(data, **options):
        (tmp_path / "model.pth").write_bytes(data)
        return checkpoint.load_with_metadata(tmp_path / "model.pth", **options)

    return load


def refused(load, data, match, **options):
    with pytest.raises(WeightsError, match=rf"model\.pth: (?s:.*)(?:{match})"):
        load(data, **options)


def assert_same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        array = np.asarray(array)
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].flags.c_contiguous
        assert got[name].flags.aligned
        assert got[name].flags.writeable
        assert got[name].dtype.isnative
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def arrays_of_every_dtype(rng):
    return {
        f"{dtype}-{len(shape)}": np.array(rng.integers(0, 2, shape) * 3, dtype)
        for dtype in torchwriter.KINDS
        for shape in [(), (0,), (3,), (2, 0, 5), (5, 3, 1, 2)]
    }


# --- What is there comes back ---------------------------------------------------------------------


@both
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_shape(load, rng, make, protocol):
    want = arrays_of_every_dtype(rng)
    got = load(make(state_dict(want), protocol=protocol))
    assert_same(got.tensors, want)
    assert got.format == {zip_file: "torch zip", stream_file: "torch stream"}[make]
    assert (got.key, got.others, got.ignored, got.metadata) == ("", (), (), {})
    assert got.stored["f2-1"] == "F16"
    assert got.stored["b1-0"] == "BOOL"


@both
def test_bfloat16_is_widened_exactly(load, make):
    values = np.float32([1.0, -2.5, 3.140625, np.inf, 2.0**-133])
    bits = bfloat16.narrow(values)
    storage = Storage("0", "BFloat16Storage", bits.tobytes(), 5)
    got = load(make({"w": tensor(storage, 0, (5,), (1,)), "e": tensor(storage, 5, (0,), (1,))}))
    assert_same(got.tensors, {"w": values, "e": np.empty(0, np.float32)})
    assert got.stored == {"w": "BF16", "e": "BF16"}


@both
@pytest.mark.parametrize(
    ("first", "size", "stride", "expected"),
    [
        (0, (4, 6), (6, 1), lambda x: x.reshape(4, 6)),
        (0, (6, 4), (1, 6), lambda x: x.reshape(4, 6).T),
        (7, (2, 3), (6, 2), lambda x: x.reshape(4, 6)[1:3, 1::2]),
        (5, (3,), (1,), lambda x: x[5:8]),
        (23, (), (), lambda x: x[23]),
        (3, (2, 5), (0, 1), lambda x: np.stack([x[3:8]] * 2)),
        (0, (5, 3), (2, 1), lambda x: np.stack([x[i : i + 3] for i in range(0, 10, 2)])),
        (23, (1, 1), (2**62, 5), lambda x: x[23:].reshape(1, 1)),
        (999, (0, 3), (2**70, 1), lambda x: np.empty((0, 3))),
    ],
    ids=["whole", "transposed", "sliced", "part", "scalar", "expanded", "overlapping", "one",
         "empty"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["f4", "i8", "f2"])
def test_views(load, make, dtype, first, size, stride, expected):
    x = np.arange(24).astype(dtype)
    got = load(make({"w": tensor(torchwriter.storage_of(x, "0"), first, size, stride)}))
    assert_same(got.tensors, {"w": expected(x).astype(dtype)})


@both
def test_tensors_may_share_a_storage(load, make):
    storage = torchwriter.storage_of(np.arange(6.0), "0")
    got = load(make({"a": tensor(storage, 0, (3,), (1,)), "b": tensor(storage, 2, (4,), (1,))}))
    assert_same(got.tensors, {"a": np.arange(3.0), "b": np.arange(2.0, 6.0)})


@both
def test_parameters_buffers_and_tensors_with_attributes(load, make):
    x = np.arange(3, dtype=np.float32)
    inner = whole(x, "0")

    def from_type(kind):
        function, args = inner.maker, inner.args
        return Made(
            Global("torch._tensor", "_rebuild_from_type_v2"), (function, kind, args, {"a": 1})
        )

    with_state = Made(
        Global("torch._utils", "_rebuild_parameter_with_state"),
        (inner, True, Made(ORDERED), {"a": 1}),
    )
    value = {
        "p": parameter(inner), "s": with_state,
        "b": from_type(Global("torch.nn.parameter", "Buffer")),
        "t": parameter(from_type(Global("torch", "Tensor"))),
    }  # fmt: skip
    assert_same(load(make(value)).tensors, {"p": x, "s": x, "b": x, "t": x})


@both
def test_early_and_late_ways_to_rebuild_a_tensor(load, make):
    x = np.arange(4, dtype=np.uint16)
    untyped = Storage("0", "UntypedStorage", x.tobytes(), 8, module="torch.storage")
    late = Made(
        Global("torch._utils", "_rebuild_tensor_v3"),
        (untyped, 1, (3,), (1,), False, Made(ORDERED), Global("torch", "uint16")),
    )
    storage = torchwriter.storage_of(np.arange(4.0), "1")
    early = Made(Global("torch._utils", "_rebuild_tensor"), (storage, 0, (4,), (1,)))
    sized = tensor(storage, 0, Made(Global("torch", "Size"), ((2, 2),)), (2, 1))
    got = load(make({"late": late, "early": early, "sized": sized}))
    want = {"late": x[1:], "early": np.arange(4.0), "sized": np.arange(4.0).reshape(2, 2)}
    assert_same(got.tensors, want)


def test_cuda_storages_and_parts_of_storages_in_old_files(load):
    x = np.arange(10, dtype=np.float32)
    storage = Storage("0", "FloatStorage", x.tobytes(), 10, "torch.cuda", view=("v", 4, 5))
    got = load(stream_file({"w": tensor(storage, 1, (2, 2), (2, 1))}))
    assert_same(got.tensors, {"w": x[5:9].reshape(2, 2)})


@both
def test_an_ordered_dict_of_any_age(load, make):
    x = np.arange(3.0)
    python2 = Made(ORDERED, ([["w", whole(x, "0")]],))
    assert_same(load(make(python2)).tensors, {"w": x})


def test_big_endian_files(load, rng):
    want = arrays_of_every_dtype(rng)
    data = zip_file(state_dict(want, big_endian=True), byteorder="big")
    assert_same(load(data).tensors, want)


def test_a_file_without_byteorder_is_little_endian(load):
    assert_same(load(zip_file(state_dict({"w": np.arange(3.0)}), byteorder=None)).tensors,
                {"w": np.arange(3.0)})  # fmt: skip


@pytest.mark.parametrize("folder", ["archive", "model", "ünï", "a.b c"])
def test_the_folder_s_name_does_not_matter(load, folder):
    data = zip_file(state_dict({"w": np.arange(3.0)}), folder=folder)
    assert_same(load(data).tensors, {"w": np.arange(3.0)})


def test_a_safetensors_header_that_begins_like_a_pickle_is_none(tmp_path):
    rest = len('{"":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}')
    for size in range(2, 6):  # 0x80 0x02 … as the length of the header
        name = "w" * (0x80 + 0x100 * size - rest)
        checkpoint.save_safetensors(tmp_path / str(size), {name: np.array(1, np.float32)})
        assert (tmp_path / str(size)).read_bytes()[:2] == bytes([0x80, size])
        assert checkpoint.load_with_metadata(tmp_path / str(size)).format == "safetensors"


# --- Which of the weights -------------------------------------------------------------------------

X, Y = np.arange(3.0), np.arange(4.0)
LEFT = {
    "epoch": 3,
    "optimizer": {"state": {0: {"momentum_buffer": whole(X, "x8")}}, "param_groups": [{"lr": 0.1}]},
    "args": argparse.Namespace(lr=0.1),
    "rng": whole(np.zeros(4, np.uint8), "x9"),
}


@both
@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        (["state_dict"], "state_dict"),
        (["model"], "model"),
        (["model", "model_ema"], "model_ema"),
        (["model", "state_dict"], "state_dict"),
        (["state_dict", "state_dict_ema", "model_ema"], "state_dict_ema"),
    ],
)
def test_the_usual_wrapper_is_taken_and_reported(load, make, keys, taken):
    value = LEFT | {k: {"w": whole(X if k == taken else Y, i)} for i, k in enumerate(keys)}
    got = load(make(value))
    assert_same(got.tensors, {"w": X})
    assert got.key == taken
    assert set(got.others) == set(keys) - {taken}
    assert got.ignored == tuple(LEFT)


@both
def test_a_wrapper_can_be_chosen(load, make):
    value = LEFT | {"state_dict": {"w": whole(X, "0")}, "teacher": {"v": whole(Y, "1")}}
    got = load(make(value), wrapper="teacher")
    assert_same(got.tensors, {"v": Y})
    assert (got.key, got.others) == ("teacher", ("state_dict",))
    got = load(make(value), wrapper="")
    assert list(got.tensors) == ["rng"]
    refused(load, make(value), "expected weights under 'pupil', found 'state_dict', 'teacher'",
            wrapper="pupil")  # fmt: skip
    refused(load, make(value), "under 'epoch'", wrapper="epoch")


def test_the_only_set_of_weights_is_taken_whatever_its_key(load):
    value = {"net": {"w": whole(X, "0")}, "epoch": 1, 7: 8}
    got = load(zip_file(value))
    assert (got.key, got.ignored) == ("net", ("epoch", "7"))
    value["critic"] = {"w": whole(Y, "1")}
    refused(load, zip_file(value), "several sets of weights: 'net', 'critic'; choose")


def test_a_wrapper_for_safetensors_is_refused(tmp_path):
    checkpoint.save_safetensors(tmp_path / "a", {})
    with pytest.raises(WeightsError, match="PyTorch file with weights under 'model'"):
        checkpoint.load(tmp_path / "a", wrapper="model")
    with pytest.raises(ArgumentError, match="wrapper: expected"):
        checkpoint.load(tmp_path / "a", wrapper=3)


@both
def test_what_is_no_tensor_is_reported(load, make):
    value = {"w": whole(X, "0"), "n": 3, "t": "text", "none": None, "extra": Made(Global("a", "b"))}
    got = load(make(value))
    assert_same(got.tensors, {"w": X})
    assert got.ignored == ("n", "t", "none", "extra")


@both
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_network_is_made_from_a_checkpoint_of_a_training_run(tmp_path, rng, make, prefix):
    arrays = tiny.tensors()
    named = {prefix + name: array for name, array in arrays.items()}
    named |= {f"{prefix}stem.conv_kxk.bn.num_batches_tracked": np.array(7)}
    (tmp_path / "last.pth.tar").write_bytes(make(LEFT | {"state_dict": state_dict(named)}))
    x = tiny.images(rng, dtype=np.float32)
    want = npvgg.create_model("repvgg_a0", weights=arrays, **tiny.keywords())(x)
    got = npvgg.create_model("repvgg_a0", weights=tmp_path / "last.pth.tar", **tiny.keywords())(x)
    np.testing.assert_array_equal(got, want)


# --- What is refused ------------------------------------------------------------------------------


class Planted:
    """Unpickled, it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def planted_everywhere(command):
    planted = Planted(command)
    x = whole(X, "0")
    storage = x.args[0]
    return {
        "as the whole": planted,
        "as a tensor": {"w": planted},
        "beside the tensors": {"w": x, "p": planted},
        "as a key": {"w": x, (1, planted): 2},
        "as the sizes": {"w": tensor(storage, 0, planted, (1,))},
        "as the offset": {"w": tensor(storage, planted, (3,), (1,))},
        "as the storage": {"w": tensor(planted, 0, (3,), (1,))},
        "as the storage's key": {
            "w": tensor(Storage(planted, "FloatStorage", b"", 3), 0, (3,), (1,))
        },
        "as hooks": {
            "w": Made(x.maker, (storage, 0, (3,), (1,), False, planted)),
        },
        "inside a Parameter": {"w": parameter(planted)},
        "as the attributes of a tensor": {
            "w": Made(
                Global("torch._tensor", "_rebuild_from_type_v2"),
                (x.maker, Global("torch", "Tensor"), x.args, planted),
            )
        },
        "as an optimizer": {"state_dict": {"w": x}, "optimizer": planted},
        "as the state of a dict": Made(ORDERED, (), planted),
        "as the maker": Made(x.maker, (planted,)),
    }


@both
@pytest.mark.parametrize("place", planted_everywhere(""))
def test_a_planted_command_does_not_run(load, make, place, tmp_path, monkeypatch):
    # storages of the writer are found by their key; a planted key is looked for in none
    value = planted_everywhere(f"touch {tmp_path}/planted")[place]
    monkeypatch.setattr(torchwriter, "storages_of", lambda value: {"0": whole(X, "0").args[0]})
    data = make(value)
    assert b"touch" in data
    try:
        got = load(data)
    except WeightsError:
        pass
    else:
        assert_same(got.tensors, {"w": X})
    assert not (tmp_path / "planted").exists()


def one(first=0, size=(3,), stride=(1,), storage=None, *more, maker="_rebuild_tensor_v2"):
    storage = storage or Storage("0", "FloatStorage", bytes(12), 3)
    tail = (False, Made(ORDERED)) if maker == "_rebuild_tensor_v2" else ()
    args = (storage, first, size, stride, *tail, *more)
    return {"w": Made(Global("torch._utils", maker), args)}


HOSTILE = {
    "beyond the storage": (one(size=(4,)), "elements 0 to 2"),
    "an offset beyond the storage": (one(first=1), "elements 0 to 2"),
    "a negative offset": (one(first=-1), "elements 0 to 2"),
    "an offset of 2**64": (one(first=2**64), "elements 0 to 2"),
    "an offset that is a text": (one(first="0"), "offset"),
    "an offset that is a bool": (one(first=True), "offset"),
    "a negative stride": (one(first=2, stride=(-1,)), "elements 0 to 2"),
    "a stride beyond the storage": (one(stride=(2,)), "elements 0 to 2"),
    "a stride that wraps around": (one(stride=(2**63,)), "elements 0 to 2"),
    "sizes that wrap around": (one(size=(2**32, 2**32), stride=(0, 0)), "at most"),
    "sizes times stride that wrap around": (one(size=(2,), stride=(2**62,)), "elements"),
    "sizes of zero and 2**62": (one(size=(0, 2**62), stride=(1, 1)), "at most"),
    "a negative size": (one(size=(-3,)), "0 or more"),
    "nine dimensions": (one(size=(1,) * 9, stride=(1,) * 9), "at most 8"),
    "more strides than sizes": (one(stride=(1, 1)), "as many strides"),
    "sizes that are a list": (one(size=[3]), "as many strides"),
    "sizes that are floats": (one(size=(3.0,)), "as many strides"),
    "sizes that are text": (one(size="3"), "as many strides"),
    "an expansion bomb": (one(size=(2**15, 2**14), stride=(0, 0)), "repeat"),
    "a storage of a negative count": (one(storage=Storage("0", "FloatStorage", b"", -3)), "count"),
    "a storage of an unknown type": (one(storage=Storage("0", "OsStorage", b"", 3)), "type"),
    "a storage of another module": (
        one(storage=Storage("0", "FloatStorage", b"", 3, "os")), "type"
    ),
    "a complex storage": (one(storage=Storage("0", "ComplexFloatStorage", b"", 3)), "Complex"),
    "a storage that is none": (one(storage=X.tolist()), "arguments"),
    "too few arguments": (one(maker="_rebuild_tensor_v2", storage=None) | {
        "v": Made(Global("torch._utils", "_rebuild_tensor_v2"), ())}, "arguments"),
    "too many arguments": (one(0, (3,), (1,), None, 1, 2, 3), "arguments"),
    "a conjugate view": (one(0, (3,), (1,), None, {"conj": True}), "conjugate"),
    "a sparse tensor": (one(maker="_rebuild_sparse_tensor"), "plain dense tensor"),
    "a quantized tensor": (one(maker="_rebuild_qtensor"), "plain dense tensor"),
    "a storage that holds less": (
        one(storage=Storage("0", "FloatStorage", bytes(8), 3)), "got 8 bytes|expected 3 numb"
    ),
    "a storage that holds more": (
        one(storage=Storage("0", "FloatStorage", bytes(16), 3)), "got 16 bytes|file to end"
    ),
    "one storage of two types": (
        one() | {"v": tensor(Storage("0", "IntStorage", bytes(12), 3), 0, (3,), (1,))}, "one type"
    ),
    "bools of 2": (
        {"w": tensor(Storage("0", "BoolStorage", b"\0\1\2", 3), 0, (3,), (1,))}, "0 and 1"
    ),
    "a tensor without a name": ({"": whole(X, "0")}, "names"),
    "a name with a lone surrogate": ({"\ud800": whole(X, "0")}, "surrogate"),
    "a long name": ({"module." * 200: whole(X, "0")}, "names of 1 to 1000 characters"),
    "a tensor under a number": ({1: whole(X, "0")}, "names"),
    "one name twice": (Made(ORDERED, ([["w", whole(X, "0")], ["w", whole(Y, "1")]],)), "unique"),
    "no tensors": ({"a": 1}, r"got none: \{a: a int\}"),
    "nothing": ({}, "got none"),
    "a single tensor": (whole(X, "0"), "got a single tensor"),
    "a list": ([whole(X, "0")], "got a list"),
    "a number": (3, "got a int"),
    "a whole module": (
        Made(Global("torchvision.models.resnet", "ResNet"), (), {"training": True}),
        "whole object .'torchvision.models.resnet.ResNet'.*state_dict",
    ),
    "a module inside": ({"model": Made(Global("a", "Net"))}, "whole object .'a.Net'"),
}  # fmt: skip


@both
@pytest.mark.parametrize(("value", "match"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_tensors_are_refused(load, make, value, match):
    refused(load, make(value), match)


GOOD = state_dict({"w": X, "v": Y})
BROKEN = {
    "a TorchScript archive": (zip_file(GOOD, change={"constants.pkl": b""}), "torch.jit.load"),
    "a NumPy archive": (zip_file({}, change={"data.pkl": None, "version": None, "byteorder": None},
                                 more={"x.npy": b""}), "numpy.load"),
    "some other archive": (zip_file({}, change={"data.pkl": None}), "unpack it first"),
    "an empty archive": (b"PK\5\6" + bytes(18), "nothing"),
    "two folders": (zip_file(GOOD, more={"other/a": b""}), "unpack it first"),
    "a storage that is not there": (zip_file(GOOD, change={"data/1": None}), "storage '1'"),
    "a storage cut short": (zip_file(GOOD, change={"data/1": bytes(31)}), "got 31 bytes"),
    "a storage too long": (zip_file(GOOD, change={"data/1": bytes(33)}), "got 33 bytes"),
    "an unknown byteorder": (zip_file(GOOD, byteorder="middle"), "'little' or 'big'"),
    "a long byteorder": (zip_file(GOOD, byteorder="x" * 100), "at most 10"),
    "an empty pickle": (zip_file(GOOD, change={"data.pkl": b""}), "pickle"),
    "a pickle of protocol 0": (zip_file(GOOD, change={"data.pkl": b"N."}), "protocol 2 to 5"),
    "a pickle of something else": (pickle.dumps({"w": [1, 2]}, 2), "a pickle of something else"),
    "a stream with another magic": (stream_file(GOOD, magic=7), "something else"),
    "a stream of a big-endian machine": (stream_file(GOOD, little_endian=False), "little-endian"),
    "a stream without its storages": (stream_file(GOOD)[:-60], "storage|cut short"),
    "a stream that lies about a count": (stream_file(GOOD, counts={"1": 3}), "expected 4 numbers"),
    "a stream with a huge count": (stream_file(GOOD, counts={"1": 2**62}), "expected 4 numbers"),
    "a stream with a negative count": (stream_file(GOOD, counts={"1": -1}), "expected 4 numbers"),
    "a stream with a key too many": (stream_file(GOOD, keys=["0", "1", "2"]), "listed storages"),
    "a stream with a key twice": (stream_file(GOOD, keys=["0", "0", "1"]), "listed storages"),
    "a stream with a key too few": (stream_file(GOOD, keys=["0"]), "listed storages"),
    "a stream with no keys": (stream_file(GOOD, keys=3), "list of the keys"),
    "a part outside its storage": (
        stream_file({"w": tensor(Storage("0", "FloatStorage", bytes(12), 3, view=("v", 2, 2)),
                                 0, (1,), (1,))}), "part that lies inside"),
    "an index of 1 TiB": (b"PK\3\4" + bytes(100), "cut short|damaged|expected"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "match"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_files_are_refused(load, data, match):
    refused(load, data, match)


@both
def test_a_file_cut_anywhere_is_refused(load, make):
    data = make(GOOD)
    for cut in range(0, len(data), 3):
        with pytest.raises(WeightsError):
            load(data[:cut])


def test_a_dict_that_is_named_many_times_is_searched_once(load, monkeypatch):
    searched = []
    is_tensor = torchfile._is_tensor
    monkeypatch.setattr(
        torchfile, "_is_tensor", lambda value: searched.append(1) or is_tensor(value)
    )
    shared = {str(i): i for i in range(1_000)}
    value = {"w": whole(X, "0")} | {f"k{i}": shared for i in range(1_000)}
    assert_same(load(zip_file(value)).tensors, {"w": X})
    assert len(searched) < 10_000


@both
def test_reading_takes_little_more_memory_than_the_file_has_bytes(load, make):
    data = make(LEFT | {"model": state_dict({"w": np.ones((2**20,), np.float32)})})
    tracemalloc.start()
    load(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * len(data)


def test_only_the_storages_that_are_taken_are_read(load):
    large = {"optimizer": {"0": whole(np.ones(2**20), "7")}, "model": {"w": whole(X, "0")}}
    data = zip_file(large)
    tracemalloc.start()
    got = load(data, wrapper="model")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got.others == ("optimizer",)
    assert peak < 0.2 * len(data)


SEED = {
    "state_dict": state_dict({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": Y}),
    "epoch": 1,
    "args": argparse.Namespace(lr=0.1),
}
WANT = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": Y}


def damaged(draw, data):
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255) | st.sampled_from(b"\0\xff.(Rb0t\x85h"))
    return bytes(data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), protocol=st.sampled_from([2, 4]))
def test_a_damaged_zip_file_gives_the_right_answer_or_a_weights_error(load, data, protocol):
    try:
        got = load(damaged(data.draw, zip_file(SEED, protocol=protocol)))
    except WeightsError:
        return
    assert_same(got.tensors, WANT)  # every byte that matters is under a checksum


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), protocol=st.sampled_from([2, 4]))
def test_a_damaged_pickle_in_a_sound_archive_stays_inside_its_storages(load, data, protocol):
    inner = damaged(data.draw, torchwriter.pickled(SEED, protocol))
    try:
        got = load(zip_file(SEED, protocol=protocol, change={"data.pkl": inner}))
    except WeightsError:
        return
    for array in got.tensors.values():
        assert array.nbytes <= 2**20 + 10_000
        array.sum()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), protocol=st.sampled_from([2, 4]))
def test_a_damaged_stream_stays_inside_the_file(load, data, protocol):
    try:
        got = load(damaged(data.draw, stream_file(SEED, protocol=protocol)))
    except WeightsError:
        return
    for array in got.tensors.values():
        assert array.nbytes <= 2**20 + 10_000
        array.sum()
