"""The pickle machine: judged by the pickles that CPython writes, and by ones written by hand."""

import argparse
import collections
import contextlib
import datetime
import os
import pickle
import struct
import tracemalloc
from itertools import chain
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npvgg.errors import WeightsError
from npvgg.formats.torch import pickled
from npvgg.formats.torch.pickled import parse
from npvgg.formats.torch.records import DICT, FROZENSET, SET, Name, Record, is_name

PROTOCOLS = [2, 3, 4, 5]


def plain(value):
    """A parsed value with its records spelled out, so that it can be compared."""
    if isinstance(value, Record):
        if value.maker == DICT:
            return {plain(key): plain(item) for key, item in value.pairs}
        if value.maker == SET:
            return {plain(item) for item in [*value.items, *chain(*value.args)]}
        if value.maker == FROZENSET:
            return frozenset(map(plain, value.args[0]))
        if value.maker == Name("_codecs", "encode"):  # bytes, as protocol 2 writes them
            return value.args[0].encode(value.args[1])
        if value.maker.name in ("set", "bytes"):  # calls, too
            return {"set": set, "bytes": bytes}[value.maker.name](*value.args)
        return value
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value


leaves = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=())) | st.binary()
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.lists(inner, min_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner)
        | st.sets(st.integers())
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(value=values)
def test_plain_data_comes_back_as_it_was(protocol, value):
    data = pickle.dumps(value, protocol)
    got, end, *_ = parse(data)
    assert plain(got) == value
    assert end == len(data)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_become_records(protocol):
    ordered = collections.OrderedDict(a=1, b=(2,))
    value = [ordered, argparse.Namespace(lr=0.1), datetime.timedelta(3), PurePosixPath("a/b")]
    got, *_ = parse(pickle.dumps(value, protocol))
    assert got[0].maker == Name("collections", "OrderedDict")
    assert got[0].pairs == [("a", 1), ("b", (2,))]
    space = got[1]
    assert Name("argparse", "Namespace") in (space.maker, *space.args)
    assert plain(space.state) == {"lr": 0.1}
    assert (got[2].maker, got[2].args) == (Name("datetime", "timedelta"), (3, 0, 0))
    assert got[3].maker == Name("pathlib", "PurePosixPath")


def test_everything_outside_is_listed():
    data = b"\x80\x02U\x01aQU\x01bQ\x86."
    got = parse(data)
    assert [outside.id for outside in got.outside] == ["a", "b"]
    assert got.value == tuple(got.outside)


def test_one_object_twice_stays_one():
    inner = [1]
    got, *_ = parse(pickle.dumps((inner, inner), 2))
    assert got[0] is got[1]


def test_a_list_may_contain_itself():
    loop = []
    loop.append(loop)
    got, *_ = parse(pickle.dumps(loop, 2))
    assert got[0] is got


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_planted_command_is_written_down_and_not_run(protocol, tmp_path):
    class Planted:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/planted",)

    data = pickle.dumps({"weight": Planted()}, protocol)
    got, *_ = parse(data)
    record = got.pairs[0][1]
    assert record.maker == Name(os.system.__module__, "system")
    assert record.args == (f"touch {tmp_path}/planted",)
    assert not (tmp_path / "planted").exists()
    pickle.loads(data)  # the plant is a live one
    assert (tmp_path / "planted").exists()


def test_pickles_in_a_row_are_read_one_after_the_other():
    data = b"..." + pickle.dumps([1], 2) + pickle.dumps("two", 4) + b"rest"
    first, position, *_ = parse(data, 3)
    second, end, *_ = parse(data, position)
    assert (first, second, data[end:]) == ([1], "two", b"rest")


def program(body, protocol=2):
    return bytes([0x80, protocol]) + body


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (b"N.", None),
        (b"\x88\x89\x86.", (True, False)),
        (b"K\x00(K\x01K\x02l\x86.", (0, [1, 2])),
        (b"K\x00(K\x01K\x02K\x03K\x04t\x86.", (0, (1, 2, 3, 4))),
        (b"(U\x01aK\x02d.", {"a": 2}),
        (b"T\x01\0\0\0a.", "a"),
        (b"U\x02\xff\xfe.", b"\xff\xfe"),
        (b"\x8b\x02\0\0\0\x00\x01.", 256),
        (b"K\x072\x86.", (7, 7)),
        (b"K\x01K\x020.", 1),
        (b"K\x01(0.", 1),
        (b"K\x01(K\x02K\x031.", 1),
        (b"ca.b\nc.d\n.", Name("a.b", "c.d")),
        (b"\x8c\x01a\x8c\x01b\x93.", Name("a", "b")),
        (b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.", 5),
    ],
    ids=lambda value: repr(value) if isinstance(value, bytes) else "",
)
def test_what_cpython_seldom_writes_is_read_too(body, want):
    assert plain(parse(program(body))[0]) == want


@pytest.mark.parametrize("call", [b")R.", b")\x81.", b")}\x92.", b"U\x01x0(ca\nb\no."])
def test_every_way_to_make_an_object_gives_the_same_record(call):
    prefix = b"" if call.endswith(b"o.") else b"ca\nb\n"
    got, *_ = parse(program(prefix + call))
    assert (got.maker, got.args) == (Name("a", "b"), ())


BAD = {
    "nothing": b"",
    "no protocol": b"N.",
    "protocol 0": b"\x80\x00N.",
    "protocol 6": b"\x80\x06N.",
    "no end": program(b"N"),
    "an empty stack at the end": program(b"."),
    "two values at the end": program(b"NN."),
    "an open mark at the end": program(b"N(N."),
    "pop of nothing": program(b"0."),
    "a tuple of nothing": program(b"\x85."),
    "a pair of one": program(b"N\x86."),
    "no mark": program(b"Nt."),
    "a value below a mark": program(b"N(a."),
    "a memo entry that is not there": program(b"h\x07."),
    "memoize nothing": program(b"\x94N."),
    "append to a number": program(b"K\x01K\x02a."),
    "append to a tuple": program(b")K\x02a."),
    "set an item of a list": program(b"]K\x01K\x02s."),
    "a key without its value": program(b"}(K\x01u."),
    "a dict of three": program(b"(NNNd."),
    "a state for a list": program(b"]}b."),
    "arguments that are a list": program(b"ca\nb\n]R."),
    "an object of nothing": program(b"(o."),
    "a name of numbers": program(b"K\x01K\x02\x93."),
    "a name without an end": program(b"ca" + b"b" * 1000 + b"\nc\n."),
    "a long name": program(b"X\0\x10\0\0" + b"a" * 4096 + b"U\x01b\x93."),
    "text cut short": program(b"X\xff\xff\xff\x7fabc."),
    "text of 2**63 bytes": program(b"\x8d" + b"\xff" * 8 + b"abc."),
    "bytes of 2**64 bytes": program(b"\x8e" + b"\xff" * 8 + b"abc."),
    "a string of negative length": program(b"T\xff\xff\xff\xffabc."),
    "an integer of negative length": program(b"\x8b\xff\xff\xff\xff."),
    "an integer of a megabyte": program(b"\x8b\0\0\x10\0" + b"\1" * 2**20 + b"."),
    "text that is not UTF-8": program(b"X\x02\0\0\0\xff\xfe."),
    "a frame beyond the end": program(b"\x95" + struct.pack("<Q", 100) + b"N.", 4),
    "an extension code": program(b"\x82\x01."),
    "a buffer out of band": program(b"\x97."),
    "an opcode of protocol 0": program(b"I1\n."),
    "a persistent id of protocol 0": program(b"Pkey\n."),
    "an instance of protocol 0": program(b"(ios\nsystem\n."),
    "an unknown opcode": program(b"\xff."),
    "endless nesting": program(b"(" * 1000),
    "endless growth": program(b"]" * (pickled.MAX_OPCODES + 10)),
    "an endless loop of nothing": program(b"N0" * pickled.MAX_OPCODES + b"N."),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_a_weights_error(data):
    with pytest.raises(WeightsError, match="pickle"):
        parse(data)


def test_every_opcode_of_the_later_protocols_is_known_and_no_other():
    import pickletools

    text_only = {"INT", "LONG", "STRING", "UNICODE", "FLOAT", "GET", "PUT", "PERSID", "INST"}
    lookups = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
    known = {
        ord(op.code) for op in pickletools.opcodes if op.name not in text_only | lookups
    } - {ord("."), 0x80}  # fmt: skip
    assert set(pickled.INSTRUCTIONS) == known


def test_depth_costs_no_recursion():
    depth = 100_000
    value, *_ = parse(program(b")" + b"\x85" * depth + b"."))
    for _ in range(depth):
        (value,) = value
    assert value == ()


def test_colliding_keys_cost_no_more_than_others():
    collide = b"".join(
        b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(100_000)
    )
    got, *_ = parse(program(b"}(" + collide + b"u."))
    assert len(got.pairs) == 100_000  # a real dict would compare five thousand million times


@pytest.mark.parametrize("one", [b"]", b"}", b")", b"N", b"\x8f", b"ca\nb\n", b"G" + b"1" * 8])
def test_an_instruction_costs_a_few_hundred_bytes_at_most(one):
    data = program(one * 10_000)
    tracemalloc.start()
    with pytest.raises(WeightsError):
        parse(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000 * 300


@example(b"")
@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_weights_error(body):
    for data in (body, program(body), program(body + b".")):
        try:
            _, end, *_ = parse(data)
        except WeightsError:
            continue
        assert end <= len(data)


@given(st.data())
def test_damaged_pickles_give_a_value_or_a_weights_error(data):
    value = {"a": [1, 2.5, ("x", b"y")], "b": collections.OrderedDict(c={1, 2}), "d": 2**70}
    damaged = bytearray(pickle.dumps(value, data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    with contextlib.suppress(WeightsError):
        parse(bytes(damaged[:cut] if data.draw(st.booleans()) else damaged))


def test_only_names_are_taken_for_names():
    deep, *_ = parse(program(b")" + b"\x85" * 100_000 + b"."))
    names = {Name("a", "b")}
    assert is_name(Name("a", "b"), names)
    for other in (Name("a", "c"), ("a", "b"), ["a"], deep, None, Record(deep, ())):
        assert not is_name(other, names)
