"""A pickle's opcodes become inert records; nothing is looked up, nothing is called.

A pickle is a program for a stack machine whose REDUCE instruction calls any function of any module
by name: `os.system`, too. This machine runs the same program and writes down what it says:

    "the class OrderedDict of collections"   →  Name("collections", "OrderedDict")
    "call it with these arguments"           →  Record(maker, args)
    "the storage known outside as x"         →  Outside(x)
    a dict, a set                            →  Record(DICT, ()), Record(SET, ()), then filled

Numbers, texts, bytes, lists and tuples are themselves. There is no import and no call to escape
to, and no dict is filled (keys with equal hashes would make that quadratic). Every opcode costs a
bounded amount of memory beside the bytes it consumes, so the limit on their number bounds time
and memory. Nothing here recurses, however deep the data is nested.

Source: the opcodes as documented in CPython's Lib/pickletools.py; protocols 2 to 5.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from npvgg.errors import WeightsError
from npvgg.formats.torch.records import DICT, FROZENSET, SET, Name, Outside, Record
from npvgg.formats.untrusted import shown

MAX_OPCODES = 500_000
"""Most instructions of one pickle; timm's repvgg_d2se with optimizer and average takes 70,000."""

MAX_MARKS = 100
"""Most open tuples, lists and dicts; pickle's own nesting gives up at about 300."""

MAX_NAME = 500
"""Longest name of a module or class, and of anything else that ends with a line."""


class Parsed(NamedTuple):
    """The value of a pickle, the position after its end, and all that it mentions as outside.

    names: every class and function that it mentions
    """

    value: Any
    end: int
    outside: list[Outside]
    names: set[Name]


def parse(data: bytes | memoryview, start: int = 0) -> Parsed:
    """Return what the pickle that begins at data[start] says.

    Raises WeightsError for what is not a complete pickle of protocol 2 to 5, or is beyond a limit.
    """
    machine = _Machine(memoryview(data), start)
    return Parsed(machine.run(), machine.position, machine.outside, machine.names)


def names_in(data: bytes | memoryview, start: int = 0) -> tuple[set[Name], int]:
    """Return what the pickle at data[start] names, as far as it can be followed, and where it ends;
    `start` where it cannot be followed to its end.
    """
    machine = _Machine(memoryview(data), start)
    try:
        machine.run()
    except WeightsError:
        return machine.names, start
    return machine.names, machine.position


def old_names_in(data: bytes) -> set[Name]:
    """Return what a pickle of protocol 0 or 1 names; nothing for what is no such pickle."""
    names, last = set(), ""
    with suppress(ValueError, EOFError, OverflowError):
        for opcode, argument, _ in islice(pickletools.genops(data), MAX_OPCODES):
            last = opcode.name
            if last in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                names.add(Name(module, name))
    return names if last == "STOP" else set()


class _Machine:
    """The stack machine: `stack` lies above the topmost mark, `below` is what each mark hides."""

    def __init__(self, data: memoryview, start: int) -> None:
        self.data = data
        self.position = start
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.outside: list[Outside] = []
        self.names: set[Name] = set()

    def run(self) -> Any:
        """Follow the instructions to STOP."""
        if bytes(self.take(1)) != b"\x80" or self.number("<B") not in (2, 3, 4, 5):
            raise WeightsError("expected a pickle of protocol 2 to 5")
        for _ in range(MAX_OPCODES):
            at = self.position
            opcode = self.take(1)[0]
            if opcode == STOP:
                if len(self.stack) != 1 or self.below:
                    raise WeightsError(f"pickle: expected one value at its end, byte {at}")
                return self.stack.pop()
            instruction = INSTRUCTIONS.get(opcode)
            if instruction is None:
                raise WeightsError(f"pickle: unknown or refused opcode {opcode:#04x} at byte {at}")
            instruction(self)
        raise WeightsError(f"pickle: expected at most {MAX_OPCODES} instructions")

    # --- bytes ---

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise WeightsError(
                f"pickle: expected {shown(count)} bytes at byte {self.position}, "
                f"got {len(self.data) - self.position}: the file was cut short or is damaged"
            )
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, layout: str) -> Any:
        """Return the next bytes as one number of `struct`'s layout."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Return the next bytes up to a line end, as text."""
        head = bytes(self.data[self.position : self.position + MAX_NAME])
        length = head.find(b"\n")
        if length < 0:
            raise WeightsError(f"pickle: expected a name of a line at byte {self.position}")
        self.take(length + 1)
        return _text(head[:length])

    # --- stack ---

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        """Return the topmost value, taken off; a mark is no value."""
        if not self.stack:
            raise WeightsError(f"pickle: expected a value on the stack before byte {self.position}")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the topmost value, left there."""
        self.push(value := self.pop())
        return value

    def pop_to_mark(self) -> list[Any]:
        """Everything above the topmost mark; the mark goes as well."""
        if not self.below:
            raise WeightsError(f"pickle: expected a mark on the stack before byte {self.position}")
        values, self.stack = self.stack, self.below.pop()
        return values

    def mark(self) -> None:
        if len(self.below) >= MAX_MARKS:
            raise WeightsError(f"pickle: expected a nesting of at most {MAX_MARKS}")
        self.below.append(self.stack)
        self.stack = []

    # --- memo ---

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise WeightsError(f"pickle: expected an entry {index} in the memo, got none")
        self.push(self.memo[index])

    # --- objects ---

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise WeightsError("pickle: expected a module and a name as texts")
        if max(len(module), len(name)) > MAX_NAME:
            raise WeightsError(f"pickle: expected a name of at most {MAX_NAME} characters")
        self.names.add(mentioned := Name(module, name))
        self.push(mentioned)

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def make(self, options: bool = False) -> None:
        """REDUCE and the ways of calling a class: all are written down alike."""
        keywords = self.pop() if options else None
        args, maker = self.pop(), self.pop()
        if not isinstance(args, tuple):
            raise WeightsError(f"pickle: expected a tuple of arguments, got {shown(args)}")
        record = Record(maker, args)
        record.state = keywords
        self.push(record)

    def make_from_mark(self) -> None:
        values = self.pop_to_mark()
        if not values:
            raise WeightsError("pickle: expected a class after the mark")
        self.push(Record(values[0], tuple(values[1:])))

    def build(self) -> None:
        state, record = self.pop(), self.top()
        if not isinstance(record, Record):
            raise WeightsError(f"pickle: expected an object to give a state, got {shown(record)}")
        record.state = state

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list | Record):
            raise WeightsError(f"pickle: expected a list to append to, got {shown(target)}")
        (target if isinstance(target, list) else target.items).extend(values)

    def append_one(self) -> None:
        self.append([self.pop()])

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, Record):
            raise WeightsError(f"pickle: expected a dict to fill, got {shown(target)}")
        if len(values) % 2:
            raise WeightsError("pickle: expected keys and values in pairs")
        target.pairs.extend(zip(values[::2], values[1::2], strict=True))

    def set_one(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def dict_from_mark(self) -> None:
        values = self.pop_to_mark()
        self.push(Record(DICT, ()))
        self.set_items(values)

    def discard(self) -> None:
        """POP takes off a value, or the mark where there is no value above it."""
        if self.stack or not self.below:
            self.pop()
        else:
            self.pop_to_mark()

    def discard_to_mark(self) -> None:
        self.pop_to_mark()

    def refer(self) -> None:
        self.outside.append(outside := Outside(self.pop()))
        self.push(outside)

    def frame(self) -> None:
        length = self.number("<Q")
        if length > len(self.data) - self.position:
            raise WeightsError(f"pickle: expected a frame within the file, got {length} bytes")


def _text(data: bytes | memoryview) -> str:
    """Text; a lone surrogate, which pickle can write, is let through and refused in names."""
    try:
        return str(data, "utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise WeightsError(f"pickle: expected UTF-8, got {shown(bytes(data[:40]))}") from None


def _python2_string(data: memoryview) -> str | bytes:
    """Python 2 wrote names and raw bytes alike."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return bytes(data)


def _integer(data: memoryview) -> int:
    if len(data) > 255:  # the work on a long integer grows faster than its length
        raise WeightsError(f"pickle: expected integers of at most 255 bytes, got {len(data)}")
    return int.from_bytes(data, "little", signed=True)


# --- The instruction set --------------------------------------------------------------------------

STOP = ord(".")
Instruction = Callable[[_Machine], None]


def _push(make: Callable[[], Any]) -> Instruction:
    return lambda machine: machine.push(make())


def _push_number(layout: str) -> Instruction:
    return lambda machine: machine.push(machine.number(layout))


def _push_counted(layout: str, decode: Callable[[memoryview], Any]) -> Instruction:
    return lambda machine: machine.push(decode(machine.take(machine.number(layout))))


def _push_tuple(count: int) -> Instruction:
    def instruction(machine: _Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return instruction


# Absent, hence refused: the text opcodes of protocols 0 and 1, which later ones do not write;
# the extension registry (EXT1 …), which is a lookup; buffers out of band, which no file has.
INSTRUCTIONS: dict[int, Instruction] = {
    # constants
    ord("N"): _push(lambda: None),
    0x88: _push(lambda: True),
    0x89: _push(lambda: False),
    ord(")"): _push(tuple),
    ord("]"): _push(list),
    ord("}"): _push(lambda: Record(DICT, ())),
    0x8F: _push(lambda: Record(SET, ())),
    # numbers
    ord("K"): _push_number("<B"),
    ord("M"): _push_number("<H"),
    ord("J"): _push_number("<i"),
    ord("G"): _push_number(">d"),
    0x8A: _push_counted("<B", _integer),
    0x8B: _push_counted("<i", _integer),
    # texts and bytes
    0x8C: _push_counted("<B", _text),
    ord("X"): _push_counted("<I", _text),
    0x8D: _push_counted("<Q", _text),
    ord("C"): _push_counted("<B", bytes),
    ord("B"): _push_counted("<I", bytes),
    0x8E: _push_counted("<Q", bytes),
    0x96: _push_counted("<Q", bytes),  # a bytearray
    ord("U"): _push_counted("<B", _python2_string),
    ord("T"): _push_counted("<i", _python2_string),
    # tuples and what fills lists, dicts and sets
    0x85: _push_tuple(1),
    0x86: _push_tuple(2),
    0x87: _push_tuple(3),
    ord("("): _Machine.mark,
    ord("t"): lambda machine: machine.push(tuple(machine.pop_to_mark())),
    ord("l"): lambda machine: machine.push(machine.pop_to_mark()),
    ord("d"): _Machine.dict_from_mark,
    0x91: lambda machine: machine.push(Record(FROZENSET, (machine.pop_to_mark(),))),
    ord("a"): _Machine.append_one,
    ord("e"): lambda machine: machine.append(machine.pop_to_mark()),
    0x90: lambda machine: machine.append(machine.pop_to_mark()),
    ord("s"): _Machine.set_one,
    ord("u"): lambda machine: machine.set_items(machine.pop_to_mark()),
    # the memo and the stack itself
    ord("q"): lambda machine: machine.remember(machine.number("<B")),
    ord("r"): lambda machine: machine.remember(machine.number("<I")),
    0x94: lambda machine: machine.remember(len(machine.memo)),
    ord("h"): lambda machine: machine.recall(machine.number("<B")),
    ord("j"): lambda machine: machine.recall(machine.number("<I")),
    ord("0"): _Machine.discard,
    ord("1"): _Machine.discard_to_mark,
    ord("2"): lambda machine: machine.push(machine.top()),
    # names, objects, the world outside
    ord("c"): lambda machine: machine.name(machine.line(), machine.line()),
    0x93: _Machine.stack_name,
    ord("R"): _Machine.make,
    0x81: _Machine.make,
    0x92: lambda machine: machine.make(options=True),
    ord("o"): _Machine.make_from_mark,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.refer,
    0x95: _Machine.frame,
}
