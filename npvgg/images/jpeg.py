"""The segments of a JPEG file before its pixels, and how many scans its pixels take.

A scan may change every pixel's block and take eight bytes: 40,000 of them, a file of 700 KB, kept
libjpeg busy for a minute and more. So they are counted before it begins.

Source: JPEG, ISO/IEC 10918-1, annex B.
"""

import re
from collections.abc import Iterator
from typing import IO

from npvgg.errors import ImageError

MAX_SCANS = 100
"""Most scans of a JPEG file, as of libtiff (tif_jpeg.c); those of cameras have one, progressive
ones about ten."""

SOS, EOI = b"\xda", b"\xd9"
_WITHOUT_LENGTH = {bytes([marker]) for marker in (0x00, 0x01, *range(0xD0, 0xD9))}
_FRAMES = {bytes([marker]) for marker in range(0xC0, 0xD0)} - {b"\xc4", b"\xc8", b"\xcc"}
_PROGRESSIVE = {b"\xc2", b"\xc6", b"\xca", b"\xce"}

_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""What ends a scan's data: all but stuffed bytes and what may stand among them."""


def segments(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield marker and contents of each segment of an open JPEG file, up to where the pixels begin:
    the last one may be of the first scan.
    """
    file.seek(2)
    while byte := file.read(1):
        if byte != b"\xff":
            continue
        marker = file.read(1)
        while marker == b"\xff":
            marker = file.read(1)
        if marker in (b"", EOI):
            return
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(file.read(2), "big") - 2
        yield marker, file.read(max(length, 0))
        if marker == SOS:
            return


def check_scans(file: IO[bytes]) -> None:
    """Raise ImageError where an open JPEG file has more than MAX_SCANS before its end.

    One that is decoded in a single scan, as cameras write it, is not read on.
    """
    components, progressive, single = 0, False, True
    for marker, data in segments(file):
        if marker in _FRAMES:
            components, progressive = data[5] if len(data) > 5 else 0, marker in _PROGRESSIVE
        elif marker == SOS:
            single = not progressive and data[:1] == bytes([components])
    if single:
        return
    rest, place, count = file.read(), 0, 1
    while (match := _MARKER.search(rest, place)) and match[1] != EOI:
        length = int.from_bytes(rest[match.end() : match.end() + 2], "big")
        place = match.end() + max(length, 2)
        count += match[1] == SOS
        if count > MAX_SCANS:
            raise ImageError(f"expected at most {MAX_SCANS} scans of a JPEG file, got more")
