"""What a photo's EXIF data and TIFF directories claim, read before Pillow reads them.

A directory is a list of entries, each with a size and the place of its data. Thousands of entries
may name the same place: Pillow before 13 keeps a copy for each (a file of 800 KB: 50 GB), when it
opens a JPEG or TIFF file. So what is claimed is added up first; and the orientation, all that is
wanted, is read here.

Sources: TIFF 6.0, section 2; EXIF 2.32, 4.6.2; JPEG, ISO/IEC 10918-1, annex B; CIPA DC-007 (MPF).
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from typing import IO, Any

from npvgg.errors import ImageError
from npvgg.images import jpeg

ORIENTATION = 0x0112
MAX_EXIF = 16 * 2**20
"""Most bytes of EXIF data in a JPEG file; one segment holds 65,533."""

MAX_ENTRIES = 65_535
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_INTEGERS = {3: "H", 4: "L", 8: "h", 9: "l"}


def check_claims(file: IO[bytes], frame: int = 0) -> None:
    """Raise ImageError where directories that Pillow reads as it opens a file claim more bytes than
    there are; leave the file at its beginning.

    frame: the page that will be read; Pillow looks at the directory of the next one, too
    """
    file.seek(0)
    head = file.read(4)
    if head[:2] == b"\xff\xd8":
        for blob in _jpeg_blobs(file):
            _check(io.BytesIO(blob), 0)
    elif head[:2] in (b"II", b"MM"):
        _check(file, frame + 1)
    file.seek(0)


def _check(file: IO[bytes], pages: int) -> None:
    """Add up what the entries of each directory claim."""
    size = file.seek(0, os.SEEK_END)
    try:
        for number, directory in enumerate(_directories(file)):
            claimed = sum(claim for _, _, claim, _ in directory)
            if claimed > size:
                raise ImageError(
                    f"expected a directory whose entries claim {size:,} bytes at most, as many as "
                    f"there are, got {claimed:,}"
                )
            if number == pages:
                return
    except struct.error:  # cut short: Pillow will say so
        return


def _directories(file: IO[bytes]) -> Iterator[list[tuple[int, int, int, bytes]]]:
    """Return the directories of a TIFF file in their order: (tag, type, bytes elsewhere, value) per
    entry. Raises struct.error where the file ends first; each place is read once.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4]) == (43,)
    at, count, entry, link = ("Q", "Q", "HHQ8s", "Q") if big else ("L", "H", "HHL4s", "L")
    (place,) = struct.unpack_from(order + at, head, 8 if big else 4)
    seen: set[int] = set()
    while place and place not in seen:
        seen.add(place)
        file.seek(min(place, 2**62))
        (number,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
        if number > MAX_ENTRIES:
            raise ImageError(
                f"expected at most {MAX_ENTRIES:,} entries in a directory, got {number:,}"
            )
        width = struct.calcsize(order + entry)
        data = file.read(number * width)
        entries = []
        for position in range(0, number * width, width):
            tag, kind, length, value = struct.unpack_from(order + entry, data, position)
            claim = length * _SIZES.get(kind, 0)
            entries.append((tag, kind, claim if claim > len(value) else 0, value))
        rest = file.read(struct.calcsize(order + link))
        yield entries
        (place,) = struct.unpack(order + link, rest)


def _jpeg_blobs(file: IO[bytes]) -> Iterator[bytes]:
    """Return the TIFF structures in a JPEG file's segments before its pixels: EXIF (its segments
    joined, as Pillow joins them) and MPF.
    """
    exif = b""
    for marker, data in jpeg.segments(file):
        if marker == b"\xe1" and data[:6] == b"Exif\0\0":
            exif += data[6:]
            if len(exif) > MAX_EXIF:
                raise ImageError(f"expected at most {MAX_EXIF:,} bytes of EXIF data, got more")
        elif marker == b"\xe2" and data[:4] == b"MPF\0":
            yield data[4:]
    if exif:
        yield exif


def orientation(info: dict[Any, Any], tags: Any) -> int:
    """Return the orientation 1 … 8 that a photo's metadata tell, 1 where they tell none.

    info: Pillow's `image.info`; tags: its `tag_v2` of a TIFF file, or None. As in Pillow's
    `getexif`, EXIF data go before TIFF's tags, and both before XMP. Raises ImageError or ValueError
    where the EXIF data cannot be read.
    """
    found: Any = None
    exif = info.get("exif")
    if exif is None and "Raw profile type exif" in info:  # ImageMagick's, in PNG
        exif = bytes.fromhex("".join(str(info["Raw profile type exif"]).split("\n")[3:]))
    if exif:
        found = _orientation_of(re.sub(rb"^(Exif\x00\x00){1,2}", b"", exif))
    elif exif is None and tags is not None:
        found = tags.get(ORIENTATION)
    if found is None:
        xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
        xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        found = int(match[1]) if match else 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _orientation_of(exif: bytes) -> int | None:
    if exif[:4] not in (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"):
        raise ImageError("expected EXIF data to begin as TIFF does")
    order = "<" if exif[:2] == b"II" else ">"
    try:
        directory = next(_directories(io.BytesIO(exif)), [])
    except struct.error:
        raise ImageError("expected whole EXIF data") from None
    for tag, kind, elsewhere, value in directory:
        if tag == ORIENTATION and kind in _INTEGERS and not elsewhere:
            return int(struct.unpack_from(order + _INTEGERS[kind], value)[0])
    return None
