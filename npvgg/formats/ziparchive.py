"""The members of a zip archive that only stores, as PyTorch writes it.

    archive = { local header · name · extra · data · descriptor } … · directory · end of directory

Stricter than the format, because every laxity of it has been used to show one archive to a scanner
and another to the loader: names are unique, headers agree with the directory, members lie one after
another and do not overlap, nothing is encrypted, nothing follows the end. A compressed member may
be there, but is not read; so what is read is never larger than the file.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.7 to 4.3.16.
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
    """The members of an open zip file of `size` bytes by name. Raises WeightsError."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.members = {_text(member.name): member for member in _directory(file, size)}

    def read(self, name: str, limit: int = MAX_BYTES) -> NDArray[np.uint8]:
        """The bytes of a member, in a buffer of their own; their checksum is right.

        Raises WeightsError, also where there are more than `limit`.
        """
        member, what = self.members[name], f"member {shown(name)}"
        if member.method != 0:
            raise WeightsError(f"{what} is compressed, which PyTorch never does: unpack the file")
        if member.size > limit:
            raise WeightsError(f"{what}: expected at most {limit} bytes, got {member.size}")
        _, _, flags, method, _, _, *sums, name_size, extra_size = _unpack(
            self._file, LOCAL, b"PK\x03\x04", member.begin
        )
        begin = member.begin + LOCAL.size + name_size + extra_size
        local_name = _bytes_at(self._file, member.begin + LOCAL.size, name_size)
        described = [member.crc, member.size, member.size]
        agreed = sums == described or (flags & DESCRIPTOR and sums == [0, 0, 0])
        if (local_name, flags, method) != (member.name, member.flags, 0) or not agreed:
            raise WeightsError(f"{what}: expected a header that agrees with the directory")
        if begin + member.size > member.limit:
            raise WeightsError(f"{what}: expected its data to end before the next member")
        data = np.empty(member.size, np.uint8)
        self._file.seek(begin)
        read_into(self._file, data.data)
        if zlib.crc32(data.data) != member.crc:
            raise WeightsError(
                f"{what}: its checksum is wrong: the file is damaged (or was saved without "
                "checksums: load it with torch and save it again)"
            )
        return data


def _directory(file: BinaryIO, size: int) -> list[Member]:
    """The entries in the order of their data, once every rule holds that needs no local header."""
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
    """The 64-bit record, which PyTorch always writes, must say the same as the short one."""
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
    if flags & ~(DESCRIPTOR | UTF8) or disk or 0xFFFFFFFF in (packed, size, begin):
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
