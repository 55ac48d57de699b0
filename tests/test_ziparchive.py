"""The zip reader: judged by what Python's zipfile writes, and by archives bent by hand."""

import io
import struct
import zipfile

import numpy as np
import pytest

from npvgg.errors import WeightsError
from npvgg.formats import ziparchive

MEMBERS = {"a/data.pkl": b"pickle", "a/é": b"", "a/data/0": bytes(range(256)) * 3}


def archive(members=MEMBERS, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as z:
        for name, data in members.items():
            z.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


def read(data):
    got = ziparchive.Archive(io.BytesIO(data), len(data))
    return {name: got.read(name).tobytes() for name in got.members}


def with_end64(data, **lies):
    """The same archive with the 64-bit end record that PyTorch writes as well."""
    count, length, begin = struct.unpack_from("<HLL", data, len(data) - 12)
    numbers = {"count": count, "here": count, "length": length, "begin": begin} | lies
    end64 = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 798, 45, 0, 0,
        numbers["here"], numbers["count"], numbers["length"], numbers["begin"],
    )  # fmt: skip
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, lies.get("at", begin + length), 1)
    return data[:-22] + end64 + locator + data[-22:]


def patched(data, at, layout, value):
    data = bytearray(data)
    struct.pack_into(layout, data, at if at >= 0 else len(data) + at, value)
    return bytes(data)


def test_what_zipfile_writes_is_read():
    assert read(archive()) == MEMBERS
    assert read(archive({})) == {}


def test_the_64_bit_end_is_read():
    assert read(with_end64(archive())) == MEMBERS


def test_sizes_behind_the_data_are_read():
    class Pipe(io.RawIOBase):  # cannot seek, so zipfile writes sizes and checksums behind
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as z:
        for name, data in MEMBERS.items():
            z.writestr(zipfile.ZipInfo(name), data)
    assert zipfile.ZipFile(io.BytesIO(pipe.data)).infolist()[0].flag_bits & 8
    assert read(pipe.data) == MEMBERS


def test_a_member_is_read_into_a_buffer_of_its_own():
    data = archive()
    got = ziparchive.Archive(io.BytesIO(data), len(data)).read("a/data/0")
    assert (got.dtype, got.shape) == (np.uint8, (768,))
    got[0] = 7  # writable


def test_more_than_the_limit_is_refused():
    data = archive()
    with pytest.raises(WeightsError, match="'a/data/0': expected at most 767 bytes, got 768"):
        ziparchive.Archive(io.BytesIO(data), len(data)).read("a/data/0", 767)


GOOD = archive()
FIRST = GOOD.index(b"PK\1\2")  # the directory's first entry
SECOND = GOOD.index(b"PK\1\2", FIRST + 1)
TWICE = archive({"a": b"one", "b": b"two"}).replace(b"b", b"a")
BAD = {
    "nothing": (b"", "22 to"),
    "no zip": (b"x" * 100, "expected b'PK"),
    "a comment": (patched(GOOD, -2, "<H", 4) + b"note", "cut short|damaged"),
    "a comment that is not there": (patched(GOOD, -2, "<H", 4), "comment"),
    "bytes after the end": (GOOD + b"\0", "expected b'PK"),
    "bytes before the start": (b"\0" * 7 + GOOD, "end where the archive ends"),
    "bytes before the end": (GOOD[:-22] + b"\0" * 9 + GOOD[-22:], "end where the archive ends"),
    "two parts": (patched(GOOD, -18, "<H", 1), "one part"),
    "more members than there are": (patched(patched(GOOD, -12, "<H", 9), -14, "<H", 9), "entry"),
    "fewer members than there are": (patched(patched(GOOD, -12, "<H", 1), -14, "<H", 1), "got"),
    "two counts": (patched(GOOD, -14, "<H", 1), "one part"),
    "another count in the 64-bit end": (with_end64(GOOD, count=1), "agree"),
    "another directory in the 64-bit end": (with_end64(GOOD, begin=0), "agree"),
    "a locator that points elsewhere": (with_end64(GOOD, at=0), "agree"),
    "deflated": (archive(compression=zipfile.ZIP_DEFLATED), "compressed"),
    "lzma": (archive(compression=zipfile.ZIP_LZMA), "plain member"),
    "a bomb": (archive({"a": bytes(10**7)}, zipfile.ZIP_DEFLATED), "compressed"),
    "two sizes": (patched(GOOD, FIRST + 20, "<L", 5), "expected one size"),
    "encrypted": (patched(GOOD, FIRST + 8, "<H", 1), "encrypted"),
    "an unknown flag": (patched(GOOD, FIRST + 8, "<H", 0x2000), "plain member"),
    "one name twice": (TWICE, "unique"),
    "a name that is not UTF-8": (GOOD.replace("é".encode(), b"\xff\xff"), "UTF-8"),
    "another name in the header": (GOOD.replace(b"a/data/0", b"b/data/0", 1), "agrees"),
    "a method in the header": (patched(GOOD, 8, "<H", 8), "agrees"),
    "a flag in the header": (patched(GOOD, 6, "<H", 8), "agrees"),
    "another size in the header": (patched(GOOD, 18, "<L", 5), "agrees"),
    "a size behind that is there too": (patched(patched(GOOD, 22, "<L", 0), 6, "<H", 8), "agrees"),
    "a wrong checksum": (GOOD.replace(b"pickle", b"tickle"), "checksum"),
    "two members in one place": (patched(GOOD, SECOND + 42, "<L", 0), "overlaps"),
    "a member in the directory": (patched(GOOD, SECOND + 42, "<L", FIRST), "overlaps|expected"),
    "a member beyond the file": (patched(GOOD, SECOND + 42, "<L", 2**31), "overlaps"),
    "an extra field into the next member": (patched(GOOD, 28, "<H", 60000), "next member"),
    "a member of 4 GiB": (
        patched(patched(GOOD, FIRST + 20, "<L", 2**32 - 1), FIRST + 24, "<L", 2**32 - 1),
        "less than 4 GiB",
    ),
    "a long name in the directory": (patched(GOOD, SECOND + 28, "<H", 60000), "cut short"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "match"), BAD.values(), ids=BAD.keys())
def test_laxities_of_the_format_are_refused(data, match):
    with pytest.raises(WeightsError, match=match):
        read(data)


def test_an_archive_cut_anywhere_is_refused():
    for cut in range(len(GOOD)):
        with pytest.raises((WeightsError, OSError)):
            read(GOOD[:cut])


def test_one_changed_byte_gives_the_same_members_or_an_error():
    same = 0
    for at in range(len(GOOD)):
        for bit in (0x01, 0x80):
            try:
                assert read(patched(GOOD, at, "B", GOOD[at] ^ bit)) == MEMBERS, at
                same += 1
            except (WeightsError, OSError):
                pass
    assert same < 0.2 * 2 * len(GOOD)  # dates and attributes, which nobody reads


# --- Deflated members, which NumPy's archives may have --------------------------------------------


def inflated(data, **options):
    """The first member of an archive that may be deflated."""
    archive = ziparchive.Archive(io.BytesIO(data), len(data), deflated=True, **options)
    return archive.read(next(iter(archive.members)))


DEFLATED = archive({"a": bytes(range(256)) * 40}, zipfile.ZIP_DEFLATED)
ENTRY = DEFLATED.index(b"PK\1\2")


def test_a_deflated_member_is_read_where_that_is_asked_for():
    got = inflated(DEFLATED)
    assert got.tobytes() == bytes(range(256)) * 40
    got[0] = 7  # a buffer of its own
    wide = io.BytesIO()
    with (
        zipfile.ZipFile(wide, "w", zipfile.ZIP_DEFLATED) as z,
        z.open("a", "w", force_zip64=True) as f,
    ):
        f.write(bytes(1000))  # as numpy.savez does: the sizes are in the extra field
    assert inflated(wide.getvalue()).tobytes() == bytes(1000)
    at = wide.getvalue().index(b"a\1\0\x10\0") + 5
    with pytest.raises(WeightsError, match="agrees with the directory"):
        inflated(patched(wide.getvalue(), at, "<Q", 999))


def sized(size):
    """The archive with another size of the member, in its header and in the directory."""
    return patched(patched(DEFLATED, 22, "<L", size), ENTRY + 24, "<L", size)


@pytest.mark.parametrize("size", [0, 1, 140, 10_239, 10_241, 2**31])
def test_a_member_inflates_to_its_size_or_not_at_all(size):
    with pytest.raises(WeightsError, match=f"inflate to {size} bytes"):
        inflated(sized(size))


def test_a_bomb_is_inflated_one_byte_beyond_its_size(monkeypatch):
    """Counted, not timed: 140 bytes are stated, 10 MB would come."""
    given = []
    make = ziparchive.zlib.decompressobj

    class Counting:
        def __init__(self, *args):
            self.machine = make(*args)

        def decompress(self, data, most):
            given.append(self.machine.decompress(data, most))
            return given[-1]

        def __getattr__(self, name):
            return getattr(self.machine, name)

    monkeypatch.setattr(ziparchive.zlib, "decompressobj", Counting)
    bomb = archive({"a": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    bomb = patched(patched(bomb, 22, "<L", 140), bomb.index(b"PK\1\2") + 24, "<L", 140)
    with pytest.raises(WeightsError, match="inflate to 140 bytes"):
        inflated(bomb)
    assert [len(data) for data in given] == [141]


def test_members_that_share_one_stream_are_refused():
    two = archive({"a": bytes(1000), "b": bytes(1000)}, zipfile.ZIP_DEFLATED)
    second = two.index(b"PK\1\2", two.index(b"PK\1\2") + 1)
    with pytest.raises(WeightsError, match="overlaps"):
        inflated(patched(two, second + 42, "<L", 0))


def test_damaged_deflated_data_are_our_error():
    at = DEFLATED.index(b"a", 30) + 1
    for change in (b"\xff\xff", b"\0\0"):
        with pytest.raises(WeightsError, match=r"deflated data|inflate to|checksum"):
            inflated(DEFLATED[:at] + change + DEFLATED[at + 2 :])


def test_the_directory_is_measured_before_it_is_read(monkeypatch):
    many = archive({str(i): b"" for i in range(30)})
    read_sizes = []
    bytes_at = ziparchive._bytes_at
    monkeypatch.setattr(
        ziparchive, "_bytes_at",
        lambda file, at, count: read_sizes.append(count) or bytes_at(file, at, count),
    )  # fmt: skip
    with pytest.raises(WeightsError, match="at most 29 members and 8388608 bytes, got 30 and 1"):
        ziparchive.Archive(io.BytesIO(many), len(many), most=29)
    assert read_sizes == [ziparchive.END.size]
