"""A photo, wherever it comes from, as one 8-bit Pillow image: the only module to open image files.

By default it gives what timm's users get from ``Image.open(file).convert("RGB")``: the first
frame, EXIF rotation ignored, alpha dropped so that hidden colours show, 16-bit grey clipped at 255
and 16-bit colours cut to their upper byte. Whatever of this a photo brings is told in the notes
and has an option that treats it otherwise.

The guards: formats are an allow-list; the size in the header is checked before anything is
decoded; pixels are decoded inside one boundary, from which every failure leaves as `ImageError`;
none of Pillow's process-wide settings is changed, and no warning filter is touched.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BufferedReader, BytesIO, FileIO
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import ArgumentError, ImageError
from npvgg.formats.files import open_regular
from npvgg.images import exif, jpeg

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | NDArray[Any]"
    " | Image.Image"
)

MAX_PIXELS = 2**30 // 4 // 3
"""89 478 485 pixels, 256 MiB of RGB: from here on Pillow too suspects a decompression bomb."""

MAX_SIDE = 2**20
"""Longest side of a photo, in pixels; a JPEG file has 65,535. Pillow keeps a pointer for each row:
80 million rows of one pixel took 1.9 GB."""

_PLUGINS = {
    "JPEG": "PIL.JpegImagePlugin",
    "PNG": "PIL.PngImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "PPM": "PIL.PpmImagePlugin",
    "AVIF": "PIL.AvifImagePlugin",
}
FORMATS = tuple(_PLUGINS)
"""What may be opened: the formats in which photos and scans come; none starts a program."""

MAX_STREAM = 256 * 2**20
"""Most bytes read from a file object that cannot be sought."""

SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs",
))  # fmt: skip
"""Ends of names, in lower case, that files of these formats have: the photos in a folder."""

_TRANSPOSE = {  # EXIF orientation (tag 0x0112) → the Image.Transpose that sets the photo upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How to open a photo: the options of `open_image`, checked once.

    channels        3 for mode RGB, 1 for mode L
    exif_transpose  turn the photo upright as its EXIF orientation says
    alpha           "drop", or the colour to composite on ("white", "#rrggbb", …)
    on_16bit        "clip" at 255, "scale" 0…65535 to 0…255, or "error"; this is for grey, as Pillow
                    scales 16-bit colours itself: "clip" then gives a note, "error" is the same
    frame           which frame of an animation or page of a TIFF file
    max_pixels      largest width · height that is decoded
    formats         which of `FORMATS` may be opened
    draft           decode a JPEG file at 1/2, 1/4 or 1/8 of its size, the least at which its short
                    side keeps so many pixels; 0: as it is. Faster, and other pixels: see `_reduced`

    Raises ArgumentError.
    """

    channels: int = 3
    exif_transpose: bool = False
    alpha: str = "drop"
    on_16bit: str = "clip"
    frame: int = 0
    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = FORMATS
    draft: int = 0

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ArgumentError(f"channels: expected 3 or 1, got {self.channels!r}")
        if self.on_16bit not in ("clip", "scale", "error"):
            raise ArgumentError(
                f"on_16bit: expected 'clip', 'scale' or 'error', got {self.on_16bit!r}"
            )
        if not isinstance(self.frame, int) or self.frame < 0:
            raise ArgumentError(f"frame: expected an index from 0, got {self.frame!r}")
        if not isinstance(self.max_pixels, int) or self.max_pixels < 1:
            raise ArgumentError(f"max_pixels: expected a positive int, got {self.max_pixels!r}")
        if isinstance(self.formats, str) or not set(self.formats) <= set(FORMATS):
            raise ArgumentError(f"formats: expected some of {FORMATS}, got {self.formats!r}")
        if isinstance(self.draft, bool) or not isinstance(self.draft, int) or self.draft < 0:
            raise ArgumentError(f"draft: expected pixels, 0 for none, got {self.draft!r}")
        if self.alpha != "drop":
            _check_colour(self.alpha)


class OpeningKeywords(TypedDict, total=False):
    """The fields of `Opening` but `channels`, as the type of keywords."""

    exif_transpose: bool
    alpha: str
    on_16bit: str
    frame: int
    max_pixels: int
    formats: tuple[str, ...]
    draft: int


def open_image(
    source: Source,
    *,
    channels: int = 3,
    exif_transpose: bool = False,
    alpha: str = "drop",
    on_16bit: str = "clip",
    frame: int = 0,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    draft: int = 0,
) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the photo as a new 8-bit Pillow image, and notes on what that leaves out.

    source: a path, the bytes of a file, a binary file (left open), a Pillow image (as it stands:
    `frame` is for files), or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). The options
    are those of `Opening`.
    Raises ImageError for a photo that cannot or may not be read, ArgumentError for a wrong option.
    Source of the defaults: timm 1.0.31, data/dataset.py `ImageDataset`.
    """
    image, notes = read(
        source,
        Opening(
            channels=channels,
            exif_transpose=exif_transpose,
            alpha=alpha,
            on_16bit=on_16bit,
            frame=frame,
            max_pixels=max_pixels,
            formats=formats,
            draft=draft,
        ),
    )
    return image.copy(), notes


def read(source: Source, opening: Opening) -> tuple[Image.Image, tuple[str, ...]]:
    """Do what `open_image` does, with options that are checked already; the image is for reading:
    it may be the caller's own, and needs no copy of what is right as it is.
    """
    notes = []
    with _boundary(name_of(source)), _opened(source, opening) as image:
        _check_size(image, opening.max_pixels)
        if image is not source:  # the caller's own stays as large as it is
            note = _reduced(image, opening)
            notes += [note] if note else []
        note = _deep_colour(image, opening)  # before load, which leaves no trace of it
        notes += [note] if note else []
        image.load()
        for step in (_one_frame, _upright, _to_8bit, _to_opaque):
            image, note = step(image, opening)
            notes += [note] if note else []
        # convert() would copy it even so. Twelve photos of 12 megapixels through A0: 2.5 → 2.1 s,
        # 137,000 … 181,000 → 59,000 page faults; keeping Pillow's blocks (PILLOW_BLOCKS_MAX) on top
        # of that gained nothing (80,000). Zen 4, two cores, 2026-11-28.
        right = image.mode == _mode(opening)
        return image if right else image.convert(_mode(opening)), tuple(notes)


def name_of(source: Source) -> str:
    """Return what messages call the photo: its path, escaped, or its kind."""
    from PIL import Image

    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))  # repr escapes whatever a terminal would act on
    if isinstance(source, bytes | bytearray | memoryview):
        return "image bytes"
    if isinstance(source, np.ndarray):
        return "image array"
    if isinstance(source, Image.Image):
        return "image"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return repr(name) if isinstance(name, str) else "image stream"
    raise ArgumentError(
        "source: expected a path, bytes, a file, a Pillow image or an array, "
        f"got {type(source).__name__}"
    )


@contextmanager
def _boundary(name: str) -> Iterator[None]:
    """Turn whatever hostile bytes make Pillow raise into ImageErrors that name the photo."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name}: {_printable(reason)}") from error


@contextmanager
def _opened(source: Source, opening: Opening) -> Iterator[Image.Image]:
    """Open the photo: its header is read and, of a file, no pixel decoded yet."""
    from PIL import Image

    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        yield _from_array(source)
    else:
        with _stream(source) as file:
            image = _identified(file, opening)
            if opening.frame:
                _check_size(image, opening.max_pixels)  # seeking may decode the frames before
                _seek(image, opening.frame)
            yield image


@contextmanager
def _stream(source: Any) -> Iterator[IO[bytes]]:
    """Open the bytes of a photo as a file that can be sought; a caller's own is not closed.

    No pipe is waited for and no device read, whenever one takes the place of a file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        yield BytesIO(source)
    elif not hasattr(source, "read"):
        with BufferedReader(cast(FileIO, open_regular(source))) as file:
            yield file
    elif source.seekable():
        yield source
    else:
        data = source.read(MAX_STREAM + 1)
        if len(data) > MAX_STREAM:
            raise ImageError(f"expected at most {MAX_STREAM:,} bytes from a stream, got more")
        yield BytesIO(data)


def _identified(file: IO[bytes], opening: Opening) -> Image.Image:
    """Open with the plugin that knows the first bytes: ``Image.open`` less its check of the size.

    That check warns through the process-wide filters, which no thread can change for itself alone;
    `_check_size` follows in its place.
    """
    from PIL import Image

    file.seek(0)
    exif.check_claims(file, opening.frame)
    head = file.read(16)
    if head.startswith(b"\xff\xd8"):
        jpeg.check_scans(file)
    for name in opening.formats:
        if name == "AVIF" and not _reads_avif():
            continue
        import_module(_PLUGINS[name])  # registers the plugin
        factory, accept = Image.OPEN[name]
        try:
            verdict = accept is None or accept(head)
            if verdict and not isinstance(verdict, str):  # a str says that Pillow lacks the codec
                file.seek(0)
                return factory(_without_comments(file) if name == "PPM" else file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # as in Image.open: the plugin found that the file is not its own after all
    raise ImageError(
        f"not an image that can be read{_hint(head)} (formats: {', '.join(opening.formats)})"
    )


def _reads_avif() -> bool:
    """Return whether this Pillow decodes AVIF and bounds what its EXIF data take (since 13)."""
    import PIL
    from PIL import features

    return int(PIL.__version__.partition(".")[0]) >= 13 and bool(features.check("avif"))


def _hint(head: bytes) -> str:
    """Return what the first bytes say of a file that is not read."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in (b"avif", b"avis"):
        return ": AVIF needs Pillow 13 or newer, built with libavif"
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return ": HEIC, which Pillow does not read; convert it first"
    return ""


def _without_comments(file: IO[bytes]) -> IO[bytes]:
    """Return a plain PPM file without comments: Pillow's time for them grows with their square.

    What Pillow takes for a comment: from # to the end of the line, which goes, too.
    """
    magic = file.read(3)
    file.seek(0)
    if magic[:2] not in (b"P1", b"P2", b"P3") or not magic[2:].isspace():
        return file
    data = file.read()
    file.seek(0)
    return BytesIO(re.sub(rb"#[^\r\n]*[\r\n]?", b"", data)) if b"#" in data else file


def _seek(image: Image.Image, frame: int) -> None:
    try:
        image.seek(frame)
    except EOFError:
        raise ImageError(f"frame: the file has no frame {frame}, counted from 0") from None


def _from_array(array: NDArray[Any]) -> Image.Image:
    from PIL import Image

    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    colour = array.ndim == 3 and array.shape[2] in (3, 4)
    if array.dtype != np.uint8 or not (grey or colour):
        raise ImageError(
            "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, "
            f"got {array.shape} {array.dtype}"
        )
    if array.size == 0:
        raise ImageError(f"expected at least one pixel, got {array.shape}")
    plane = array.reshape(array.shape[:2]) if grey else array
    return Image.fromarray(np.ascontiguousarray(plane))


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"expected at least one pixel, got {width}×{height}")
    if width * height > max_pixels:
        raise ImageError(
            f"expected at most {max_pixels} pixels (max_pixels), the header says {width}×{height}"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"expected at most {MAX_SIDE:,} pixels a side, the header says {width}×{height}"
        )


# The steps: each returns the image and, if it leaves something out, a note.


def _one_frame(image: Image.Image, opening: Opening) -> tuple[Image.Image, str | None]:
    frame = image.tell()
    try:
        several = getattr(image, "is_animated", False)  # not n_frames: it walks the whole file
    except Exception:  # the frames after this one are broken; this one is loaded already
        several = True
    return image, f"only frame {frame} of several read" if several else None


def _upright(image: Image.Image, opening: Opening) -> tuple[Image.Image, str | None]:
    from PIL import Image

    try:
        orientation = exif.orientation(image.info, getattr(image, "tag_v2", None))
    except (ImageError, ValueError):  # the pixels are still good, and timm reads no EXIF at all
        return image, "EXIF unreadable"
    if orientation not in _TRANSPOSE:
        return image, None
    if not opening.exif_transpose:
        return image, f"EXIF orientation {orientation} ignored"
    return image.transpose(Image.Transpose[_TRANSPOSE[orientation]]), None


def _reduced(image: Image.Image, opening: Opening) -> str | None:
    """Have libjpeg compute fewer pixels of each block of 8 × 8, if that is asked for; note it.

    Smooth noise of 12 megapixels at 1/4 (draft=512): 113 → 38 ms of CPU, and 0.6 grey levels of
    the input beside the exact one in the mean, 4 at most; at 1/8 (draft=256): 31 ms, 2 and 11.
    Zen 4, 2026-11-28. Source: libjpeg, jddctmgr.c (scaled inverse DCT), by way of Pillow's
    `Image.draft`.
    """
    width, height = image.size
    if not opening.draft or image.format not in ("JPEG", "MPO"):
        return None
    done = image.draft(None, (opening.draft, opening.draft))
    scale = round(width / done[1][2]) if done else 1
    return f"decoded at 1/{scale} of {width}×{height} (draft)" if scale > 1 else None


def _deep_colour(image: Image.Image, opening: Opening) -> str | None:
    """Return a note if Pillow will cut colours of over 8 bits as it decodes them, or raise."""
    if image.mode.startswith(("I", "F")):  # deep grey: see _to_8bit
        return None
    for decoder, _, _, args in getattr(image, "tile", ()):
        rawmode, *others = args if isinstance(args, tuple) else (args,)
        if decoder == "raw" and rawmode in ("R", "G", "B", "C", "M", "Y", "K", "A"):  # of a TIFF
            if max(image.tag_v2.get(258, (8,))) > 8:  # type: ignore[attr-defined]  # BitsPerSample
                raise ImageError("expected 8 bits a plane, got 16, of which Pillow reads half")
            continue
        if decoder in ("ppm", "ppm_plain") and others and others[0] > 255:
            found = f"maxval {others[0]}"
        # PNG and TIFF: RGB;16B, LA;16B, CMYK;16L, …; but BMP's BGR;16 is 5, 6 and 5 bits
        elif ";16" in str(rawmode) and not rawmode.startswith("BGR"):
            found = f"raw mode {rawmode}"
        else:
            continue
        if opening.on_16bit == "error":
            raise ImageError(f"expected 8 bits a channel, got {found} (on_16bit)")
        return f"{found} cut to 8 bits a channel" if opening.on_16bit == "clip" else None
    return None


def _to_8bit(image: Image.Image, opening: Opening) -> tuple[Image.Image, str | None]:
    if not image.mode.startswith(("I", "F")):  # I, I;16, I;16B, …, F: Pillow's deep grey modes
        return image, None
    if opening.on_16bit == "error":
        raise ImageError(f"expected 8 bits a channel, got mode {image.mode} (on_16bit)")
    if opening.on_16bit == "scale":
        return _scaled(image), None
    clipped = image.convert(_mode(opening))
    clipped.info.pop("transparency", None)  # a 16-bit colour key means nothing among 8-bit values
    return clipped, f"mode {image.mode} clipped to 0…255"


def _scaled(image: Image.Image) -> Image.Image:
    """Return grey 0…65535 as round(v / 257), so that 65535 = 257 · 255 is white."""
    from PIL import Image

    if image.mode == "F":
        raise ImageError("mode F has no range to scale from (on_16bit)")
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"expected values 0…65535 to scale, found {values.min()}…{values.max()} (on_16bit)"
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _to_opaque(image: Image.Image, opening: Opening) -> tuple[Image.Image, str | None]:
    from PIL import Image

    if not image.has_transparency_data:
        return image, None
    transparency = image.info.get("transparency")
    if isinstance(transparency, bytes) and len(transparency) > 256:  # more than a palette has
        image = image.copy()
        image.info["transparency"] = transparency[:256]
    # By way of RGBA also to drop alpha: the colours are the same, and convert("RGB") of a palette
    # with transparency would warn.
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba, None
    if opening.alpha == "drop":
        return rgba, "alpha dropped"
    return Image.alpha_composite(Image.new("RGBA", rgba.size, opening.alpha), rgba), None


def _mode(opening: Opening) -> str:
    return "RGB" if opening.channels == 3 else "L"


def _check_colour(colour: str) -> None:
    from PIL import ImageColor

    try:
        opaque = len(ImageColor.getrgb(colour)) == 3
    except (ValueError, AttributeError, TypeError):
        opaque = False
    if not opaque:
        raise ArgumentError(f"alpha: expected 'drop' or an opaque colour, got {colour!r}")


def _printable(text: str, limit: int = 200) -> str:
    """Return what Pillow says, with bytes of the file in it, in one line, escaped and short."""
    return repr(text[:limit])[1:-1]
