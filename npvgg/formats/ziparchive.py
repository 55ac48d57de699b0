"""The members of a zip archive, as PyTorch and NumPy write it, stored or, for NumPy, deflated.

    archive = { local header · name · extra · data · descriptor } … · directory · end of directory

Stricter than the format, because every laxity of it has been used to show one archive to a scanner
and another to the loader: names are unique, headers agree with the directory, members lie one after
another and do not overlap, nothing is encrypted, nothing follows the end. A deflated member is read
only where that is asked for, and never beyond the size that the directory states.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

import struct
import zlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import WeightsError
from npvgg.formats.files import read_into
from npvgg.formats.untrusted import MAX_BYTES, shown

LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")

DESCRIPTOR, UTF8 = 0x0008, 0x0800
"""The flags allowed: checksum and sizes follow the data; the name is UTF-8."""


STORED, DEFLATED = 0, 8

WIDE = 0xFFFFFFFF
WIDE_SIZES = struct.Struct("<2H2Q")

MAX_MEMBERS = 20_000
"""Most members of an archive: twice the tensors that a set of weights may have."""

MAX_DIRECTORY = 8 * 2**20
"""Largest directory, in bytes; that of timm's repvgg_d2se has 90,000."""


class Member(NamedTuple):
    """A member as the directory has it; its header begins at `begin`, the next thing at `limit`."""

    name: bytes
    flags: int
    method: int
    crc: int
    size: int
    packed: int
    begin: int
    limit: int


class Archive:
    """The members of an open zip file of `size` bytes by name.

    most: how many there may be      deflated: whether members may be compressed
    Raises WeightsError.
    """

    def __init__(
        self, file: BinaryIO, size: int, *, most: int = MAX_MEMBERS, deflated: bool = False
    ) -> None:
        self._file = file
        self._methods = (STORED, DEFLATED) if deflated else (STORED,)
        self.members = {_text(member.name): member for member in _directory(file, size, most)}

    def read(self, name: str, limit: int = MAX_BYTES) -> NDArray[np.uint8]:
        """Return the bytes of a member, in a buffer of their own; their checksum is right.

        Raises WeightsError, also where there are more than `limit`.
        """
        member, what = self.members[name], f"member {shown(name)}"
        if member.method not in self._methods:
            raise WeightsError(
                f"{what} is compressed, which "
                + ("only deflate may do" if DEFLATED in self._methods else "PyTorch never does")
                + ": unpack the file"
            )
        if member.size > limit:
            raise WeightsError(f"{what}: expected at most {limit} bytes, got {member.size}")
        begin = self._data_of(member, what)
        if member.method == DEFLATED:
            data = self._inflated(member, begin, what)
        else:
            data = np.empty(member.size, np.uint8)
            self._file.seek(begin)
            read_into(self._file, data.data)
        if zlib.crc32(data.data) != member.crc:
            raise WeightsError(
                f"{what}: its checksum is wrong: the file is damaged (or was saved without "
                "checksums: load it with torch and save it again)"
            )
        return data

    def _data_of(self, member: Member, what: str) -> int:
        """Return where a member's data begin, once its own header agrees with the directory."""
        _, _, flags, method, _, _, *sums, name_size, extra_size = _unpack(
            self._file, LOCAL, b"PK\x03\x04", member.begin
        )
        after = member.begin + LOCAL.size
        begin: int = after + name_size + extra_size
        if begin + member.packed > member.limit:
            raise WeightsError(f"{what}: expected its data to end before the next member")
        local_name = _bytes_at(self._file, after, name_size)
        described = [member.crc, member.packed, member.size]
        agreed = sums == described or (flags & DESCRIPTOR and sums == [0, 0, 0])
        if sums[1:] == [WIDE, WIDE]:  # the sizes stand in the extra field, in 64 bits
            wide = WIDE_SIZES.pack(1, 16, member.size, member.packed)
            extra = _bytes_at(self._file, after + name_size, min(extra_size, len(wide)))
            agreed = sums[0] == member.crc and extra == wide
        if (local_name, flags, method) != (member.name, member.flags, member.method) or not agreed:
            raise WeightsError(f"{what}: expected a header that agrees with the directory")
        return begin

    def _inflated(self, member: Member, begin: int, what: str) -> NDArray[np.uint8]:
        """Inflate a member, one byte beyond its size at most."""
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        packed = _bytes_at(self._file, begin, member.packed)
        try:
            data = machine.decompress(packed, member.size + 1)
        except zlib.error as error:
            raise WeightsError(f"{what}: expected deflated data: {error}") from None
        if len(data) != member.size or not machine.eof or machine.unused_data:
            raise WeightsError(f"{what}: expected data that inflate to {member.size} bytes")
        return np.frombuffer(bytearray(data), np.uint8)


def _directory(file: BinaryIO, size: int, most: int) -> list[Member]:
    """Return the entries in the order of their data, once every rule holds that needs no local
    header.
    """
    if not END.size <= size <= MAX_BYTES:
        raise WeightsError(f"expected a zip archive of 22 to {MAX_BYTES} bytes, got {size}")
    end = size - END.size
    _, disk, first_disk, here, count, length, begin, comment = _unpack(
        file, END, b"PK\x05\x06", end
    )
    if (disk, first_disk, comment) != (0, 0, 0) or here != count:
        raise WeightsError("expected a zip archive in one part without a comment")
    if begin + length == end - LOCATOR.size - END64.size:
        _check_end64(file, begin + length, (count, count, length, begin))
    elif begin + length != end:
        raise WeightsError("expected the zip directory to end where the archive ends")
    if count > most or length > MAX_DIRECTORY:
        raise WeightsError(
            f"zip directory: expected at most {most} members and {MAX_DIRECTORY} bytes, "
            f"got {count} and {length}"
        )
    directory, position = _bytes_at(file, begin, length), 0
    members = []
    for _ in range(count):
        entry, position = _entry(directory, position)
        members.append(entry)
    if position != length:
        raise WeightsError(f"zip directory: expected {position} bytes, got {length}")
    if len({member.name for member in members}) != count:
        raise WeightsError("zip directory: expected unique names")
    members.sort(key=lambda member: member.begin)
    limits = [member.begin for member in members[1:]] + [begin]
    members = [m._replace(limit=limit) for m, limit in zip(members, limits, strict=bool(members))]
    for member in members:
        if member.begin + LOCAL.size + len(member.name) + member.packed > member.limit:
            raise WeightsError(f"zip directory: {shown(member.name)} overlaps what follows it")
    return members


def _check_end64(file: BinaryIO, begin: int, expected: tuple[int, int, int, int]) -> None:
    """Raise unless the 64-bit record, which PyTorch always writes, says the same as the short
    one.
    """
    _, size, _, _, disk, first_disk, *numbers = _unpack(file, END64, b"PK\x06\x06", begin)
    _, other_disk, offset, disks = _unpack(file, LOCATOR, b"PK\x06\x07", begin + END64.size)
    agreed = (size, disk, first_disk, other_disk, disks) == (END64.size - 12, 0, 0, 0, 1)
    if not agreed or tuple(numbers) != expected or offset != begin:
        raise WeightsError("expected the two ends of the zip directory to agree")


def _entry(directory: bytes, position: int) -> tuple[Member, int]:
    if directory[position : position + 4] != b"PK\x01\x02":
        raise WeightsError(f"zip directory: expected an entry at its byte {position}")
    if position + ENTRY.size > len(directory):
        raise WeightsError("zip directory: an entry is cut short")
    (_, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size,
     disk, _, _, begin) = ENTRY.unpack_from(directory, position)  # fmt: skip
    position += ENTRY.size
    name = directory[position : position + name_size]
    position += name_size + extra_size + comment_size
    if position > len(directory):
        raise WeightsError("zip directory: an entry is cut short")
    what = f"zip directory: {shown(name)}"
    if flags & 1:
        raise WeightsError(f"{what} is encrypted")
    if method == 0 and packed != size:
        raise WeightsError(f"{what}: expected one size, got {size} and {packed}")
    if flags & ~(DESCRIPTOR | UTF8) or disk or WIDE in (packed, size, begin):
        raise WeightsError(f"{what}: expected a plain member of less than 4 GiB")
    return Member(name, flags, method, crc, size, packed, begin, 0), position


def _unpack(file: BinaryIO, layout: struct.Struct, magic: bytes, offset: int) -> tuple[Any, ...]:
    fields = layout.unpack(_bytes_at(file, offset, layout.size))
    if fields[0] != magic:
        raise WeightsError(f"zip archive: expected {magic!r} at byte {offset}: cut short, damaged?")
    return fields


def _bytes_at(file: BinaryIO, offset: int, count: int) -> bytes:
    data = bytearray(count)
    file.seek(offset)
    read_into(file, memoryview(data))
    return bytes(data)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise WeightsError(f"zip directory: expected names in UTF-8, got {shown(name)}") from None
