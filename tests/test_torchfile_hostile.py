"""PyTorch's files from strangers: nothing in them runs, and nothing is believed."""

import argparse
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torchwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchfiles import X, Y, assert_same, both, refused
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

from npvgg.errors import WeightsError
from npvgg.formats.torch import choice


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
    "no tensors": ({"a": 1}, r"got none: \{a: an int\}"),
    "nothing": ({}, "got none"),
    "a single tensor": (whole(X, "0"), "got a single tensor"),
    "a list": ([whole(X, "0")], "got a list"),
    "a number": (3, "got an int"),
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


DEEP = b")" + b"\x85" * 100_000  # hashing or comparing it would overflow the stack
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ODD = {
    "made by a deep tuple": DEEP + b")R",
    "made by a list": b"])R",
    "made by a pair of texts": b"U\x0ctorch._utilsU\x12_rebuild_tensor_v2\x86)R",
    "a deep tuple": DEEP,
    "a dict made with a deep tuple": b"ccollections\nOrderedDict\n" + DEEP + b"R",
    "a deep tuple outside": REBUILD + b"(" + DEEP + b"QK\0K\1\x85K\1\x85\x89NtR",
    "a storage of a deep type": (
        REBUILD + b"((U\x07storage" + DEEP + b"U\0010U\3cpuK\3tQK\0K\1\x85K\1\x85\x89NtR"
    ),
    "deep sizes": (
        REBUILD + b"((U\x07storagectorch\nFloatStorage\nU\0010U\3cpuK\3tQK\0" + DEEP
        + b"K\1\x85\x89NtR"
    ),
    "a tensor of a deep type": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + REBUILD + DEEP + b")NtR"
    ),
}  # fmt: skip


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_odd_values_in_the_place_of_names_do_no_harm(load, value):
    good = torchwriter.pickled(state_dict({"w": X}))
    pickle = good[:-1] + b"U\1v" + value + b"s."
    try:
        got = load(zip_file(state_dict({"w": X}), change={"data.pkl": pickle}))
    except WeightsError:
        return
    assert_same(got.tensors, {"w": X})
    assert list(got.ignored) == ["v"]


GOOD = state_dict({"w": X, "v": Y})
BROKEN = {
    "a TorchScript archive": (zip_file(GOOD, change={"constants.pkl": b""}), "torch.jit.load"),
    "a NumPy archive": (zip_file({}, change={"data.pkl": None, "version": None, "byteorder": None},
                                 more={"x.npy": b""}), "numpy.load"),
    "some other archive": (zip_file({}, change={"data.pkl": None}), "unpack it first"),
    "an empty archive": (b"PK\5\6" + bytes(18), "got an empty zip archive"),
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
    is_tensor = choice._is_tensor
    monkeypatch.setattr(choice, "_is_tensor", lambda value: searched.append(1) or is_tensor(value))
    shared = {str(i): i for i in range(1_000)}
    value = {"w": whole(X, "0")} | {f"k{i}": shared for i in range(1_000)}
    assert_same(load(zip_file(value)).tensors, {"w": X})
    assert len(searched) < 10_000


def pickle_of(body):
    """A zip file whose pickle of protocol 2 has this body."""
    return zip_file({}, change={"data.pkl": b"\x80\x02" + body + b"."})


PAIRS = b"](" + b"".join(b"K" + bytes([i % 256]) + b"N\x86" for i in range(2_000)) + b"eq\0"
MAKER = b"ccollections\nOrderedDict\nq\1"


def test_a_list_of_pairs_that_many_dicts_share_is_budgeted(load, monkeypatch):
    """What records make is counted, not what the pickle has of opcodes: 90 KB took 43 s."""
    counted = []
    spend = choice.Work._spend
    monkeypatch.setattr(choice.Work, "_spend", lambda self, n: counted.append(n) or spend(self, n))
    dicts = b"".join(b"X\4\0\0\0" + b"%04d" % i + b"h\1h\0\x85R" for i in range(2_000))
    data = pickle_of(b"}q\2(X\1\0\0\0a" + PAIRS + b"X\1\0\0\0b" + MAKER + dicts + b"u")
    assert len(data) < 100_000
    with pytest.raises(WeightsError, match="dicts of at most 1000000 entries together"):
        load(data)
    assert sum(counted) < choice.MAX_WORK + 2 * len(data)


def test_what_a_candidate_holds_is_looked_through_once(load, monkeypatch):
    looked = []
    is_tensor = choice._is_tensor
    monkeypatch.setattr(choice, "_is_tensor", lambda value: looked.append(1) or is_tensor(value))
    shared = {"w": whole(X, "0")} | {f"n{i}": i for i in range(300)}
    got = load(zip_file({f"k{i}": shared for i in range(300)} | {"state_dict": shared}))
    assert_same(got.tensors, {"w": X})
    assert len(looked) < 5_000


def test_long_sizes_and_ids_that_many_tensors_share_are_not_looked_through(load):
    """They are refused by their length; a file of 1 MB would take minutes."""
    long = b"(" + b"K\1" * 50_000 + b"t"
    sizes = REBUILD + b"((U\x07storagectorch\nFloatStorage\nU\0010U\3cpuK\1tQK\0" + long + long
    with pytest.raises(WeightsError, match="at most 8 dimensions, got 50000"):
        load(pickle_of(b"}(U\1w" + sizes + b"\x89NtRu"))
    storage = b"(U\x07storagectorch\nFloatStorage\nU\0010U\3cpuK\1" + b"N" * 50_000 + b"tQ"
    with pytest.raises(WeightsError, match="expected a storage, got something else"):
        load(pickle_of(b"}(U\1w" + REBUILD + b"(" + storage + b"K\0K\1\x85K\1\x85\x89NtRu"))


@both
def test_reading_takes_little_more_memory_than_the_file_has_bytes(load, make):
    data = make({"epoch": 3, "model": state_dict({"w": np.ones((2**20,), np.float32)})})
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


DAMAGES = settings(
    max_examples=300,
    deadline=None,  # what is asked is truth, not speed: a busy machine may stall
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def damaged(draw, data):
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255) | st.sampled_from(b"\0\xff.(Rb0t\x85h"))
    return bytes(data)


@DAMAGES
@given(data=st.data(), protocol=st.sampled_from([2, 4]))
def test_a_damaged_zip_file_gives_the_right_answer_or_a_weights_error(load, data, protocol):
    try:
        got = load(damaged(data.draw, zip_file(SEED, protocol=protocol)))
    except WeightsError:
        return
    assert_same(got.tensors, WANT)  # every byte that matters is under a checksum


@DAMAGES
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


@DAMAGES
@given(data=st.data(), protocol=st.sampled_from([2, 4]))
def test_a_damaged_stream_stays_inside_the_file(load, data, protocol):
    try:
        got = load(damaged(data.draw, stream_file(SEED, protocol=protocol)))
    except WeightsError:
        return
    for array in got.tensors.values():
        assert array.nbytes <= 2**20 + 10_000
        array.sum()
