"""The files of a tar archive, one after another, as they are found: names, sizes and places.

    archive = { header (512) · data, filled up to a multiple of 512 } … · blocks of zeros

Read forwards, with a loop and no recursion: every step moves at least one block on, so the work is
bounded by the file's size whatever it states. Links, devices, folders and files with holes are
passed over; a name is a text and is never opened. A header that is damaged is an error and not the
end, so that no file is lost in silence.

Source: POSIX.1-2024, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar 1.35
manual, "Basic Tar Format".
"""

import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from npvgg.errors import WeightsError
from npvgg.formats.untrusted import shown

BLOCK = 512

MAX_HEADER = 2**20
"""Longest extended header or name, in bytes: paths have 4,096 on Linux."""

MAX_SIZE = 2**62
"""Largest member, in bytes: places in a file have 63 bits."""

REGULAR, WITHOUT_DATA = b"\x0007", b"123456"
LONG_NAME, EXTENDED, GLOBAL, SPARSE = b"L", b"xX", b"g", b"S"

_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=")


class Member(NamedTuple):
    """A regular file inside of an archive: its name, its bytes, and the place of the first."""

    name: str
    size: int
    offset: int


def members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the regular files of an open tar archive that is not compressed, in their order.

    The last one may reach beyond the archive's end, where that was cut off.
    Raises WeightsError, OSError.
    """
    general: dict[bytes, bytes] = {}
    extended: dict[bytes, bytes] = {}
    place, long_name = 0, b""
    while header := _block(file, place):
        if not any(header):
            return
        _check(header, place)
        kind, name, size = header[156:157], _name(header), _number(header[124:136], place)
        data = place + BLOCK
        if kind in EXTENDED or kind == GLOBAL:
            records = _records(_text(file, data, size), place)
            general |= records if kind == GLOBAL else {}
            extended |= records if kind in EXTENDED else {}
        elif kind == LONG_NAME:
            long_name = _text(file, data, size).partition(b"\0")[0]
        else:
            known = general | extended
            name = known.get(b"path", long_name or name)
            if b"size" in known:
                size = _decimal(known[b"size"], place)
            holes = kind == SPARSE or any(key.startswith(b"GNU.sparse.") for key in known)
            if kind == SPARSE:
                data = _after_sparse(file, header, data)
            if kind in WITHOUT_DATA:
                size = 0
            folder = kind == b"\0" and name.endswith(b"/")
            if kind in REGULAR and not holes and not folder:
                yield Member(name.decode("utf-8", "surrogateescape"), size, data)
            extended, long_name = {}, b""
        place = data + -(-size // BLOCK) * BLOCK
    if place == 0:
        raise WeightsError("expected a tar file, got an empty one")


def _block(file: IO[bytes], place: int) -> bytes:
    """Read the block at a place; none at the end of the file."""
    file.seek(place)
    block = file.read(BLOCK)
    if len(block) not in (0, BLOCK):
        raise WeightsError(f"tar: expected a header at {place}, the file was cut short")
    return block


def _check(header: bytes, place: int) -> None:
    """Hold a header against its checksum: of its bytes, which some took as signed ones."""
    stated = header[148:156].partition(b"\0")[0].strip(b" ")
    plain = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if re.fullmatch(b"[0-7]+", stated):
        if int(stated, 8) == plain:
            return
        if int(stated, 8) == plain - 256 * sum(b > 127 for b in header[:148] + header[156:]):
            return
    if place == 0:
        raise WeightsError("expected a tar file that is not compressed")
    raise WeightsError(f"tar: expected a header at {place}, got another checksum than it states")


def _name(header: bytes) -> bytes:
    name, prefix = (field.partition(b"\0")[0] for field in (header[:100], header[345:500]))
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes, place: int) -> int:
    """Read a number: octal digits, or, where its first bit is set, the bits that follow."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (1 << (8 * len(field) - 1))
        if value > MAX_SIZE or field[0] & 0x40:
            raise WeightsError(f"tar: expected numbers of 0 to {MAX_SIZE} in the header at {place}")
        return value
    digits = field.partition(b"\0")[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise WeightsError(
            f"tar: expected octal digits in the header at {place}, got {shown(digits)}"
        )
    return int(digits or b"0", 8)


def _decimal(digits: bytes, place: int) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", digits):
        raise WeightsError(f"tar: expected a size before {place}, got {shown(digits)}")
    return int(digits)


def _text(file: IO[bytes], place: int, size: int) -> bytes:
    if size > MAX_HEADER:
        raise WeightsError(f"tar: expected at most {MAX_HEADER} bytes of header, got {size}")
    file.seek(place)
    text = file.read(size)
    if len(text) != size:
        raise WeightsError(f"tar: expected {size} bytes at {place}, the file was cut short")
    return text


def _records(text: bytes, place: int) -> dict[bytes, bytes]:
    """Read an extended header: records of "length key=value\\n", filled up with nulls."""
    records, at = {}, 0
    while at < len(text) and text[at]:
        match = _RECORD.match(text, at)
        end = at + int(match[1]) if match else 0
        if match is None or end > len(text) or end <= match.end() or text[end - 1] != ord("\n"):
            raise WeightsError(f"tar: expected records in the extended header at {place}")
        records[match[2]] = text[match.end() : end - 1]
        at = end
    return records


def _after_sparse(file: IO[bytes], header: bytes, place: int) -> int:
    """Return where the data of a file with holes begin: behind the blocks that list the holes."""
    more = header[482]
    while more:
        block = _block(file, place)
        place += BLOCK
        more = block[504] if block else 0
    return place
