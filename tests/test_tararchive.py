"""Tar archives: the files that Python's tarfile finds, and no number of a header believed."""

import io
import tarfile

import pytest

from npvgg.errors import WeightsError
from npvgg.formats import tararchive
from npvgg.formats.tararchive import BLOCK, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def info(name, kind=tarfile.REGTYPE, **fields):
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def archive(*files, format=tarfile.PAX_FORMAT, **options):
    """The bytes of an archive of (TarInfo, data)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, **options) as tar:
        for made, data in files:
            made.size = len(data)
            tar.addfile(made, io.BytesIO(data))
    return out.getvalue()


def found(data):
    return [tuple(member) for member in members(io.BytesIO(data))]


def by_python(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [(m.name, m.size, m.offset_data) for m in tar if m.isreg() and not m.issparse()]


def header(name=b"a.png", size=b"00000000005\0", kind=b"0", change=()):
    """One block, with its checksum."""
    block = bytearray(BLOCK)
    block[: len(name)], block[124:136], block[156:157] = name, size, kind
    block[257:265] = b"ustar\0" + b"00"
    for at, value in change:
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def filled(data):
    return data + bytes(-len(data) % BLOCK)


KINDS = [
    (info("a.png"), b"12345"),
    (info("b/c.png"), b""),
    (info("links", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
    (info("hard", tarfile.LNKTYPE, linkname="a.png"), b""),
    (info("device", tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
    (info("pipe", tarfile.FIFOTYPE), b""),
    (info("folder", tarfile.DIRTYPE), b""),
    (info("block", tarfile.BLKTYPE), b""),
    (info("other", tarfile.CONTTYPE), bytes(513)),
    (info("../../out.png"), b"x"),
    (info("/absolute.png"), b"x"),
    (info("n\u00e4me\x1b[31m.png"), b"x" * 512),
]


@pytest.mark.parametrize("format", FORMATS)
def test_what_tarfile_finds(format):
    long = [(info("d" * 90 + "/" + "x" * 90), b"1")]
    if format != "ustar":
        long.append((info("y" * 3000 + ".png"), b"22"))
        long.append((info("odd\udcff.png"), b"333"))
    data = archive(*KINDS, *long, format=FORMATS[format])
    assert found(data) == by_python(data)
    assert [name for name, _, _ in found(data)][:3] == ["a.png", "b/c.png", "other"]


def test_what_tarfile_finds_in_rarer_archives():
    general = archive(*KINDS, pax_headers={"comment": "x"})
    stated = archive((info("a.png", pax_headers={"size": "5", "path": "b.png"}), b"12345"))
    holes = header(kind=b"S", change=[(482, b"\1")]) + bytes(504) + b"\1" + bytes(7) + bytes(512)
    sparse = holes + filled(b"12345") + header(b"b.png") + filled(b"54321") + bytes(1024)
    binary = header(size=b"\x80" + bytes(10) + b"\5") + filled(b"12345") + bytes(1024)
    for data in (general, stated, sparse, binary):
        assert found(data) == by_python(data)
        assert found(data)


def test_no_end_is_needed_and_a_cut_file_is_listed():
    data = header() + filled(b"12345")
    assert found(data) == [("a.png", 5, 512)]
    assert found(header(size=b"00000001000\0") + b"x") == [("a.png", 512, 512)]


DAMAGED = {
    "empty": (b"", "empty"),
    "no archive": (b"x" * 2000, "not compressed"),
    "cut header": (header() + filled(b"12345") + header()[:100], "cut short"),
    "checksum": (header() + filled(b"12345") + b"x" + header()[1:], "checksum"),
    "size": (header(size=b"0000000000x\0"), "octal"),
    "negative size": (header(size=b"\xff" * 12), "0 to"),
    "huge size": (header(size=b"\x80" + b"\x7f" * 11), "0 to"),
    "long name": (header(size=b"77777777777\0", kind=b"L"), "at most"),
    "cut name": (header(kind=b"L") + b"x", "cut short"),
    "records": (header(kind=b"x") + filled(b"9 a=b"), "records"),
    "short record": (header(kind=b"x") + filled(b"2 a=\n"), "records"),
    "pax size": (
        header(size=b"00000000013\0", kind=b"x") + filled(b"11 size=-5\n") + header(), "size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_an_error_and_not_the_end(case):
    data, words = DAMAGED[case]
    with pytest.raises(WeightsError, match=words):
        found(data)


class Counting(io.BytesIO):
    """A file that counts what is read of it."""

    work = 0

    def read(self, size=-1):
        data = super().read(size)
        self.work += len(data)
        return data


def test_the_work_is_bounded_by_the_size():
    """Headers upon headers are a loop, without recursion; none moves backwards."""
    chain = (header(kind=b"L") + filled(b"x.png")) * 2000 + header() + filled(b"12345")
    file = Counting(chain)
    assert [name for name, _, _ in members(file)] == ["x.png"]
    assert file.work <= len(chain)


def test_an_extended_header_has_a_limit(monkeypatch):
    monkeypatch.setattr(tararchive, "MAX_HEADER", 3)
    with pytest.raises(WeightsError, match="at most 3 bytes"):
        found(archive(*KINDS, pax_headers={"comment": "x"}))


def test_a_member_has_a_limit():
    size = tararchive.MAX_SIZE.to_bytes(11, "big")
    assert found(header(size=b"\x80" + size)) == [("a.png", tararchive.MAX_SIZE, 512)]
    with pytest.raises(WeightsError, match=f"0 to {tararchive.MAX_SIZE}"):
        found(header(size=b"\x80" + (tararchive.MAX_SIZE + 1).to_bytes(11, "big")))
