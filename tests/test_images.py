"""Photos as they come: odd modes, odd files, hostile files.

The oracle for the defaults is what timm's users write, ``Image.open(file).convert("RGB")``.
"""

import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from npvgg.errors import ArgumentError, ImageError
from npvgg.formats.files import open_regular
from npvgg.images import exif, jpeg, opening
from npvgg.images.opening import FORMATS, MAX_PIXELS, MAX_SIDE, open_image


def photo(height=7, width=5, channels=3):
    """Every pixel its own colour, so that a flip, a shift or a swapped channel shows."""
    y, x, c = np.mgrid[:height, :width, :channels]
    return ((37 * y + 11 * x + 83 * c + x * y * y) % 256).astype(np.uint8)


def encode(image, fmt="PNG", **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


RGB = Image.fromarray(photo())
ALPHA = Image.fromarray(photo(channels=4)[:, :, 3])
RGBA = Image.merge("RGBA", (*RGB.split(), ALPHA))
LA = Image.merge("LA", (RGB.getchannel(0), ALPHA))
PALETTE = RGB.quantize(32)
DEEP = Image.fromarray((photo()[:, :, 0].astype(np.uint16) * 257) ^ 21)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(RGB, exif=exif.tobytes())


def animation(fmt):
    others = [RGB.rotate(180), ImageOps.invert(RGB)]
    return encode(RGB, fmt, save_all=True, append_images=others)


def png(width, height, data=b"", depth=8, colour=2):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    head, body, end = chunk(b"IHDR", ihdr), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body + end


def png_header(width, height):
    """A PNG that promises the size and holds no pixels."""
    return png(width, height)


def deep_colour(channels):
    """(7, 5, channels) uint16, whose upper bytes are `photo`."""
    return photo(channels=channels).astype(np.uint16) * 256 + 200


def deep_png(channels):
    """A PNG of 16 bits a channel, which Pillow reads but does not write."""
    rows = deep_colour(channels).astype(">u2").reshape(7, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return png(5, 7, data, depth=16, colour={2: 4, 3: 2, 4: 6}[channels])


def deep_tiff(order, strips=None):
    """An uncompressed RGB TIFF of 16 bits a channel, one strip; or of the strips, a plane each."""
    planes = 1 if strips is None else len(strips)
    strips = strips or [deep_colour(3).astype(f"{order}u2").tobytes()]
    bits_at = 8 + 2 + 12 * 10 + 4
    places_at, sizes_at = bits_at + 6, bits_at + 6 + 4 * planes
    begin = sizes_at + 4 * planes
    sizes = [len(strip) for strip in strips]
    places = [begin + sum(sizes[:i]) for i in range(planes)]
    tags = [(256, 5), (257, 7), (259, 1), (262, 2), (277, 3), (278, 7)]
    entries = [(tag, 4, 1, value) for tag, value in tags]
    entries += [(258, 3, 3, bits_at), (284, 4, 1, 1 if planes == 1 else 2)]
    entries += [
        (273, 4, planes, places[0] if planes == 1 else places_at),
        (279, 4, planes, sizes[0] if planes == 1 else sizes_at),
    ]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    ifd = struct.pack(f"{order}H", len(entries))
    ifd += b"".join(struct.pack(f"{order}HHII", *entry) for entry in sorted(entries))
    numbers = struct.pack(f"{order}3H", 16, 16, 16)
    numbers += struct.pack(f"{order}{2 * planes}I", *places, *sizes)
    return head + ifd + bytes(4) + numbers + b"".join(strips)


DEEP_COLOUR = {  # name: (the file, the note)
    "png-rgb": (deep_png(3), "raw mode RGB;16B cut to 8 bits a channel"),
    "png-rgba": (deep_png(4), "raw mode RGBA;16B cut to 8 bits a channel"),
    "png-la": (deep_png(2), "raw mode LA;16B cut to 8 bits a channel"),
    "tiff-little": (deep_tiff("<"), "raw mode RGB;16L cut to 8 bits a channel"),
    "tiff-big": (deep_tiff(">"), "raw mode RGB;16B cut to 8 bits a channel"),
    "ppm": (
        b"P6 5 7 65535\n" + deep_colour(3).astype(">u2").tobytes(),
        "maxval 65535 cut to 8 bits a channel",
    ),
}
BMP_565 = b"BM" + struct.pack("<IIIIiiHHIIIIII3I", 70, 0, 66, 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0,
                              0xF800, 0x7E0, 0x1F) + b"\xff\xff\0\0"  # fmt: skip


ODD = {  # name: (the file, the notes)
    "rgb": (encode(RGB), ()),
    "grey": (encode(RGB.convert("L")), ()),
    "1-bit": (encode(RGB.convert("1")), ()),
    "cmyk-jpeg": (encode(RGB.convert("CMYK"), "JPEG"), ()),
    "jpeg": (encode(RGB, "JPEG"), ()),
    "webp": (encode(RGB, "WEBP", lossless=True), ()),
    "bmp": (encode(RGB, "BMP"), ()),
    "tiff": (encode(RGB, "TIFF", compression="tiff_lzw"), ()),
    "ppm": (encode(RGB, "PPM"), ()),
    "palette": (encode(PALETTE), ()),
    "palette-colour-key": (encode(PALETTE, transparency=3), ("alpha dropped",)),
    "palette-alpha": (encode(PALETTE, transparency=bytes(range(32))), ("alpha dropped",)),
    "rgb-colour-key": (
        encode(RGB, transparency=tuple(map(int, photo()[0, 0]))),
        ("alpha dropped",),
    ),
    "rgba": (encode(RGBA), ("alpha dropped",)),
    "rgba-opaque": (encode(RGB.convert("RGBA")), ()),
    "la": (encode(LA), ("alpha dropped",)),
    "16-bit": (encode(DEEP), ("mode I;16 clipped to 0…255",)),
    "16-bit-colour-key": (encode(DEEP, transparency=9), ("mode I;16 clipped to 0…255",)),
    "32-bit": (
        encode(Image.fromarray(np.asarray(DEEP).astype(np.int32)), "TIFF"),
        ("mode I clipped to 0…255",),
    ),
    "float": (
        encode(Image.fromarray(np.asarray(DEEP) / np.float32(100)), "TIFF"),
        ("mode F clipped to 0…255",),
    ),
    "gif-animation": (animation("GIF"), ("only frame 0 of several read",)),
    "png-animation": (animation("PNG"), ("only frame 0 of several read",)),
    "webp-animation": (animation("WEBP"), ("only frame 0 of several read",)),
    "tiff-pages": (animation("TIFF"), ("only frame 0 of several read",)),
    "exif-1": (oriented(1), ()),
    "exif-6": (oriented(6), ("EXIF orientation 6 ignored",)),
}


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
@pytest.mark.parametrize("name", ODD)
def test_default_is_what_pillow_converts_to(name, channels, mode):
    file, notes = ODD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of a palette with alpha; ours must not
        want = Image.open(io.BytesIO(file)).convert(mode)

    got, got_notes = open_image(file, channels=channels)

    assert (got.mode, got.size, got_notes) == (mode, want.size, notes)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_transpose_turns_the_photo_upright(orientation):
    file = oriented(orientation)
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
    got, notes = open_image(file, exif_transpose=True)
    assert notes == ()
    np.testing.assert_array_equal(np.asarray(got), want)


def test_unreadable_exif_leaves_the_photo_readable():
    file = encode(RGB, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 6)
    got, notes = open_image(file)
    assert notes in ((), ("EXIF unreadable",))  # versions of Pillow differ in how lenient they are
    np.testing.assert_array_equal(np.asarray(got), photo())


@pytest.mark.parametrize("name", ["rgba", "la", "palette-alpha", "palette-colour-key"])
@pytest.mark.parametrize(("colour", "rgb"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48))])
def test_alpha_is_composited_on_the_colour(name, colour, rgb):
    file, _ = ODD[name]
    rgba = np.asarray(Image.open(io.BytesIO(file)).convert("RGBA")).astype(float)
    a = rgba[:, :, 3:] / 255
    want = rgba[:, :, :3] * a + np.array(rgb) * (1 - a)

    got, notes = open_image(file, alpha=colour)

    assert notes == ()
    assert np.abs(np.asarray(got) - want).max() <= 1  # Pillow composites in integers


@pytest.mark.parametrize("alpha", ["ivory-ish", "#10203040", "", 3, None])
def test_alpha_must_be_an_opaque_colour(alpha):
    with pytest.raises(ArgumentError, match=r"^alpha: expected 'drop' or an opaque colour, got"):
        open_image(photo(), alpha=alpha)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", ["16-bit", "32-bit"])
def test_16_bit_is_scaled_with_rounding(name, channels):
    want = np.rint(np.asarray(DEEP) / 257)
    got, notes = open_image(ODD[name][0], on_16bit="scale", channels=channels)
    assert notes == ()
    np.testing.assert_array_equal(np.asarray(got).reshape(7, 5, channels)[:, :, 0], want)


def test_16_bit_black_and_white_scale_to_black_and_white():
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))
    assert np.asarray(open_image(deep, on_16bit="scale")[0])[0, :, 0].tolist() == [0, 255]


def test_16_bit_errors_name_the_option():
    with pytest.raises(ImageError, match=r"expected 8 bits a channel, got mode I;16 \(on_16bit\)"):
        open_image(ODD["16-bit"][0], on_16bit="error")
    with pytest.raises(ImageError, match="mode F has no range"):
        open_image(ODD["float"][0], on_16bit="scale")
    wide = encode(Image.fromarray(np.array([[-1, 70000]], np.int32)), "TIFF")
    with pytest.raises(ImageError, match="expected values 0…65535 to scale, found -1…70000"):
        open_image(wide, on_16bit="scale")


@pytest.mark.parametrize("name", DEEP_COLOUR)
def test_16_bit_colours_are_cut_with_a_note_or_refused(name):
    file, note = DEEP_COLOUR[name]
    want = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    for on_16bit, notes in (("clip", {note}), ("scale", set())):
        got, got_notes = open_image(file, on_16bit=on_16bit)
        assert set(got_notes) - {"alpha dropped"} == notes
        np.testing.assert_array_equal(np.asarray(got), want)
    assert np.abs(want[:, :, 0].astype(int) - photo()[:, :, 0]).max() <= 1  # round, or upper byte
    found = note.removesuffix(" cut to 8 bits a channel")
    with pytest.raises(ImageError, match=rf"expected 8 bits a channel, got {found} \(on_16bit\)"):
        open_image(file, on_16bit="error")


@pytest.mark.parametrize("on_16bit", ["clip", "scale", "error"])
def test_planes_of_16_bits_are_refused_as_pillow_takes_them_for_8(on_16bit):
    file = deep_tiff("<", [deep_colour(3)[:, :, c].astype("<u2").tobytes() for c in range(3)])
    assert (np.asarray(Image.open(io.BytesIO(file))) != photo()).any()  # else it can be let in
    with pytest.raises(ImageError, match="expected 8 bits a plane, got 16"):
        open_image(file, on_16bit=on_16bit)


def test_planes_of_8_bits_are_read():
    planes = [photo()[:, :, c].tobytes() for c in range(3)]
    file = deep_tiff("<", planes).replace(
        struct.pack("<3H", 16, 16, 16), struct.pack("<3H", 8, 8, 8)
    )
    got, notes = open_image(file, on_16bit="error")
    assert notes == ()
    np.testing.assert_array_equal(np.asarray(got), photo())


def test_a_16_bit_bmp_holds_no_16_bit_colours():
    got, notes = open_image(BMP_565, on_16bit="error")
    assert (got.getpixel((0, 0)), notes) == ((255, 255, 255), ())


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_frame_picks_the_frame(fmt):
    got, notes = open_image(animation(fmt), frame=1)
    assert notes == ("only frame 1 of several read",)
    np.testing.assert_array_equal(np.asarray(got), photo()[::-1, ::-1])
    with pytest.raises(ImageError, match="the file has no frame 3"):
        open_image(animation(fmt), frame=3)


def test_frame_of_a_still_photo():
    with pytest.raises(ImageError, match="image bytes: frame: the file has no frame 1"):
        open_image(ODD["rgb"][0], frame=1)


def test_gif_with_a_broken_second_frame_gives_the_first():
    file = animation("GIF")
    broken = file[: file.rindex(b"\x21\xf9") + 2]  # ends inside the last frame's control block
    want = np.asarray(Image.open(io.BytesIO(broken)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(broken)[0]), want)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 3), (7, 5, 4), (1, 1), (1, 1, 3)])
def test_arrays(shape):
    array = photo(*shape) if len(shape) == 3 else photo(*shape, 1)[:, :, 0]
    want = array if array.ndim == 3 else array[:, :, None]
    want = np.broadcast_to(want[:, :, :3], (*shape[:2], 3))
    got, notes = open_image(array)
    assert notes == (("alpha dropped",) if shape[2:] == (4,) else ())
    np.testing.assert_array_equal(np.asarray(got), want)


def test_arrays_need_not_be_contiguous():
    want = np.ascontiguousarray(photo()[::-1, ::2])
    np.testing.assert_array_equal(np.asarray(open_image(photo()[::-1, ::2])[0]), want)


@pytest.mark.parametrize(
    "array",
    [photo().astype(np.float32), photo().astype(np.uint16), photo()[None], photo()[0, 0],
     photo(channels=2), np.zeros((3, 8, 8), np.uint8), np.zeros((0, 5, 3), np.uint8)],
    ids=lambda a: f"{a.dtype}-{'x'.join(map(str, a.shape))}",
)  # fmt: skip
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError, match="image array: expected "):
        open_image(array)


def test_every_kind_of_source_gives_the_same(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(ODD["rgb"][0])
    data = ODD["rgb"][0]
    for source in (path, str(path), data, bytearray(data), memoryview(data), RGB, photo()):
        np.testing.assert_array_equal(np.asarray(open_image(source)[0]), photo())


@pytest.mark.parametrize("source", [None, 3, 1.5, [1, 2], object()])
def test_other_sources_are_refused(source):
    with pytest.raises(ArgumentError, match="source: expected a path, bytes, a file, a "):
        open_image(source)


def test_result_is_a_new_image():
    image = Image.fromarray(photo())
    open_image(image)[0].putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), photo())


# Files that cannot be read: one clear error each, with the name of the file.


READ = [name for name in FORMATS if name != "AVIF" or opening._reads_avif()]


@pytest.mark.parametrize("fmt", READ)
def test_truncated_files(fmt, tmp_path):
    whole = encode(Image.fromarray(photo(61, 47)), fmt)
    path = tmp_path / "cut.bin"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.bin': "):
        open_image(path)


@pytest.mark.parametrize(
    "junk", [b"", b"P", b"\0", b"\xff\xd8\xff", b"GIF89a", b"not an image" * 9]
)
def test_junk(junk):
    with pytest.raises(ImageError, match=r"^image bytes: "):
        open_image(junk)


def test_missing_path_directory_and_null_byte(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.png': No such file or directory"):
        open_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="Is a directory"):
        open_image(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="expected a regular file, got a device, pipe or socket"):
        open_image(tmp_path / "pipe")
    with pytest.raises(ImageError, match=r"'a\\x00b': "):
        open_image("a\0b")


def test_names_reach_messages_escaped():
    with pytest.raises(ImageError) as caught:
        open_image("evil\n\x1b[31m\u202egnp.png")
    assert str(caught.value).isprintable()


def test_pillow_messages_reach_ours_escaped():
    broken = bytearray(ODD["rgb"][0])
    broken[37:41] = b"\n\x1b[3"  # the name of the first chunk after the header
    with pytest.raises(ImageError) as caught:
        open_image(bytes(broken))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["eps", "ico", "pdf"])
def test_formats_outside_the_list_are_refused(kind):
    with pytest.raises(ImageError, match="not an image that can be read"):
        open_image(encode(RGB, kind))


def test_formats_can_be_narrowed():
    with pytest.raises(ImageError, match=r"not an image that can be read \(formats: JPEG\)"):
        open_image(ODD["rgb"][0], formats=("JPEG",))


# Decompression bombs


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (10000, 10000), (2**31 - 1, 1)])
def test_size_in_the_header_is_checked_before_decoding(width, height):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match=rf"at most {MAX_PIXELS} pixels .* {width}×{height}"):
            open_image(png_header(width, height))
    assert caught == []  # nor does Pillow's own DecompressionBombWarning get out


def test_max_pixels_is_exact():
    assert open_image(photo(), max_pixels=35)[0].size == (5, 7)
    for source in (photo(), RGB, ODD["rgb"][0]):
        with pytest.raises(ImageError, match="expected at most 34 pixels"):
            open_image(source, max_pixels=34)


def test_max_pixels_above_pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_image(ODD["rgb"][0])[0].size == (5, 7)
    assert caught == []


def test_pillows_global_settings_stay(tmp_path):
    from PIL import ImageFile, PngImagePlugin

    def settings():
        return (
            Image.MAX_IMAGE_PIXELS,
            getattr(Image, "WARN_POSSIBLE_FORMATS", None),  # not in Pillow 10.3
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_CHUNK,
            list(warnings.filters),
        )

    before = settings()
    open_image(ODD["gif-animation"][0])
    with pytest.raises(ImageError):
        open_image(png_header(60000, 60000))
    assert settings() == before


def test_files_are_closed(tmp_path, monkeypatch):
    opened = []

    def recording_open(*args):
        opened.append(open_regular(*args))
        return opened[-1]

    monkeypatch.setattr(opening, "open_regular", recording_open)
    for name in ("rgb", "gif-animation", "tiff-pages", "jpeg"):
        path = tmp_path / name
        path.write_bytes(ODD[name][0])
        open_image(path)
        path.write_bytes(ODD[name][0][:40])
        with pytest.raises(ImageError):
            open_image(path)
    assert [file.closed for file in opened] == [True] * 8


@pytest.mark.parametrize(
    ("option", "value"),
    [("channels", 4), ("on_16bit", "round"), ("frame", -1), ("frame", 0.5), ("max_pixels", 0),
     ("max_pixels", None), ("formats", "PNG"), ("formats", ("EPS",)), ("draft", -1),
     ("draft", True)],
)  # fmt: skip
def test_options_are_checked(option, value):
    with pytest.raises(ArgumentError, match=f"^{option}: expected .* got "):
        open_image(photo(), **{option: value})


@pytest.mark.parametrize(
    ("draft", "scale"), [(0, 1), (1, 8), (6, 8), (7, 4), (12, 4), (13, 2), (24, 2), (25, 1)]
)
def test_a_jpeg_is_decoded_at_the_least_scale_that_keeps_so_many_pixels(draft, scale):
    """Each block of 8 × 8 has one grey, its one coefficient: any scale shows it exactly."""
    greys = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    file = encode(Image.fromarray(greys.repeat(8, 0).repeat(8, 1)), "JPEG", quality=100)
    got, notes = open_image(file, draft=draft)
    assert notes == ((f"decoded at 1/{scale} of 64×48 (draft)",) if scale > 1 else ())
    want = greys.repeat(8 // scale, 0).repeat(8 // scale, 1)
    np.testing.assert_array_equal(np.asarray(got)[:, :, 0], want)


def test_draft_leaves_other_formats_and_images_of_the_caller_alone():
    with Image.open(io.BytesIO(encode(RGB, "JPEG"))) as image:
        assert open_image(image, draft=1)[0].size == image.size == RGB.size
    assert open_image(encode(RGB), draft=1) == (RGB, ())


def test_draft_bounds_the_photo_by_its_header():
    with pytest.raises(ImageError, match=r"expected at most 34 pixels .* says 5×7"):
        open_image(encode(RGB, "JPEG"), draft=1, max_pixels=34)


def test_importing_the_module_leaves_pillow_out():
    code = "import sys, npvgg.images.opening; assert 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- What metadata claim --------------------------------------------------------------------------


def directory(entries, order="<", link=0):
    """A directory of a TIFF structure; an entry is (tag, type, count, value or offset)."""
    data = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        packed = (
            struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "L", value)
        )
        data += struct.pack(order + "HHL", tag, kind, count) + packed
    return data + struct.pack(order + "L", link)


def tiff(entries, order="<", link=0):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "L", 8) + directory(entries, order, link)


CLAIMS = [(0x9000 + i, 7, 2000, 8) for i in range(300)]
BOMB = tiff(CLAIMS) + bytes(2000)
"""300 entries that name the same 2,000 bytes."""


def jpeg_with(*segments):
    plain = encode(RGB, "JPEG")
    made = b"".join(b"\xff" + kind + struct.pack(">H", len(d) + 2) + d for kind, d in segments)
    return plain[:2] + made + plain[2:]


@pytest.mark.parametrize(
    "file",
    [
        jpeg_with((b"\xe1", b"Exif\0\0" + BOMB)),
        jpeg_with((b"\xe1", b"Exif\0\0" + BOMB[:900]), (b"\xe1", b"Exif\0\0" + BOMB[900:])),
        jpeg_with((b"\xfe", b"\xff\xda"), (b"\xe2", b"MPF\0" + BOMB)),
        BOMB,
        tiff([(0x100, 3, 1, 4)], ">", link=26) + directory(CLAIMS, ">") + bytes(2000),
    ],
    ids=["exif", "exif-in-two-segments", "mpf", "tiff", "tiff-second-page"],
)  # fmt: skip
def test_directories_that_claim_more_than_there_is_are_refused_before_pillow_reads_them(
    file, monkeypatch
):
    monkeypatch.setattr(opening, "import_module", lambda name: pytest.fail("Pillow reads it"))
    with pytest.raises(ImageError, match=r"expected a directory whose entries claim .* got [\d,]+"):
        open_image(file)


def test_exif_of_many_segments_has_a_limit(monkeypatch):
    monkeypatch.setattr(exif, "MAX_EXIF", 1000)
    with pytest.raises(ImageError, match="at most 1,000 bytes of EXIF data"):
        open_image(jpeg_with(*[(b"\xe1", b"Exif\0\0" + bytes(600))] * 2))


def scans(count, begin=b""):
    """A progressive JPEG file with so many scans, some of which change nothing."""
    file = encode(RGB, "JPEG", progressive=True)
    there = len(re.findall(b"\xff\xda", file))
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + begin + last * (count - there) + b"\xff\xd9"


def test_scans_of_a_jpeg_file_have_a_limit(monkeypatch):
    limit = jpeg.MAX_SCANS
    assert open_image(scans(limit))[0].size == (5, 7)
    for hidden in (b"", b"\0\xff\0\xff\xd0", b"\xff\xff\xfe\0\4\xff\xd9", b"\xff\xfe\0\0"):
        with pytest.raises(ImageError, match=f"expected at most {limit} scans"):
            jpeg.check_scans(io.BytesIO(scans(limit + 1, hidden)))
    monkeypatch.setattr(opening, "import_module", lambda name: pytest.fail("Pillow reads it"))
    with pytest.raises(ImageError, match=f"expected at most {limit} scans"):
        open_image(scans(limit + 1))


def test_what_is_no_scan_is_not_counted(monkeypatch):
    """Nor is what follows the end, as a film behind a photo; a file in one scan is not read on."""
    monkeypatch.setattr(jpeg, "MAX_SCANS", 10)
    more = b"\xff\xda\0\x0c" * 20
    assert open_image(scans(10) + more)[0].size == (5, 7)
    assert open_image(scans(10, b"\xff\xfe\0\x52" + more))[0].size == (5, 7)
    assert open_image(jpeg_with((b"\xe2", more)))[0].size == (5, 7)
    plain = io.BytesIO(encode(RGB, "JPEG") + more)
    jpeg.check_scans(plain)
    assert plain.tell() < len(plain.getvalue()) / 2 + 400
    for cut in range(2, 400, 7):
        jpeg.check_scans(io.BytesIO(scans(10)[:cut]))


def test_sides_of_a_photo_have_a_limit():
    for size in ((MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)):
        with pytest.raises(ImageError, match="at most 1,048,576 pixels a side, the header says"):
            open_image(png_header(*size))
    with pytest.raises(ImageError, match=r"^image bytes: (?!expected at most)"):
        open_image(png_header(MAX_SIDE, 1))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_is_the_one_that_pillow_reads(fmt, order):
    for entries in ([(0x112, 3, 1, 6)], [(0x10F, 7, 2, 5), (0x112, 3, 1, 3)], [(0x112, 4, 1, 8)],
                    [(0x112, 7, 1, 5)], [(0x112, 3, 1, 9)], []):  # fmt: skip
        file = encode(RGB, fmt, exif=b"Exif\0\0" + tiff(entries, order))
        image = Image.open(io.BytesIO(file))
        want = image.getexif().get(0x112, 1)
        want = want if isinstance(want, int) and want in range(1, 9) else 1
        assert exif.orientation(image.info, None) == want


def test_the_orientation_comes_from_tiff_tags_and_xmp_as_well():
    image = Image.open(io.BytesIO(encode(RGB, "TIFF", tiffinfo={0x112: 5})))
    assert exif.orientation(image.info, image.tag_v2) == image.getexif()[0x112] == 5
    xmp = '<x tiff:Orientation="7"/>'
    assert exif.orientation({"XML:com.adobe.xmp": xmp}, None) == 7
    assert exif.orientation({"xmp": xmp.encode()}, None) == 7


def test_comments_in_plain_ppm_files_never_reach_pillow():
    """Its time for them grows with their square."""
    lines = [b"# a\n12 #b\r34\n", b"5#c\n6 ", b" 7\t8 #\n#\n"]
    file = b"P3\n#size\n3 #w\n 1 # h\n255\n" + b"".join(lines) + b"9 10 11 12 # no end"
    want = np.asarray(Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(np.asarray(open_image(file)[0]), want)
    assert b"#" not in opening._without_comments(io.BytesIO(file)).read()
    binary = io.BytesIO(b"P6\n1 1 255\n###")
    assert opening._without_comments(binary) is binary
    assert np.asarray(open_image(binary.getvalue())[0]).tolist() == [[[35, 35, 35]]]


# --- Kinds of files -------------------------------------------------------------------------------


@pytest.mark.skipif(not opening._reads_avif(), reason="this Pillow reads no AVIF")
def test_avif_is_read():
    file = encode(RGB, "AVIF")
    want = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(file)[0]), want)


def test_what_pillow_does_not_read_gets_its_name(monkeypatch):
    monkeypatch.setattr(opening, "_reads_avif", lambda: False)
    for brand, name in ((b"heic", "HEIC"), (b"mif1", "HEIC"), (b"avif", "AVIF needs Pillow 13")):
        with pytest.raises(ImageError, match=f"not an image that can be read: {name}"):
            open_image(b"\0\0\0\x1cftyp" + brand + bytes(20))


def test_a_transparency_longer_than_any_palette_is_cut():
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    file = b"\x89PNG\r\n\x1a\n" + b"".join((
        chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 8, 3, 0, 0, 0)),
        chunk(b"PLTE", bytes(range(9))), chunk(b"tRNS", b"\xff\0\x80" + bytes(997)),
        chunk(b"IDAT", zlib.compress(b"\0\0\1\2")), chunk(b"IEND", b""),
    ))  # fmt: skip
    image, notes = open_image(file)
    assert np.asarray(image).tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
    assert notes == ("alpha dropped",)


def test_a_file_object_is_read_and_left_open():
    file = io.BytesIO(ODD["rgb"][0])
    file.seek(5)
    want = np.asarray(open_image(ODD["rgb"][0])[0])
    np.testing.assert_array_equal(np.asarray(open_image(file)[0]), want)
    assert not file.closed

    class Pipe(io.RawIOBase):
        name = "a pipe"

        def __init__(self, data):
            self.data = data

        def seekable(self):
            return False

        def read(self, size=-1):
            return self.data[:size]

    np.testing.assert_array_equal(np.asarray(open_image(Pipe(ODD["rgb"][0]))[0]), want)
    with pytest.raises(ImageError, match="'a pipe': not an image"):
        open_image(Pipe(b"junk"))


def test_an_image_that_is_opened_is_a_new_one_and_one_that_is_read_need_not_be():
    mine = Image.new("RGB", (3, 2), "red")
    opened, _ = open_image(mine)
    opened.putpixel((0, 0), (0, 0, 255))
    assert mine.getpixel((0, 0)) == (255, 0, 0)
    assert opening.read(mine, opening.Opening())[0] is mine
    assert opening.read(mine, opening.Opening(channels=1))[0].mode == "L"
