"""Numbers as colours that the colour-blind tell apart: blue below zero, white at it, orange above.

Pictures of many pixels are PNG, written here: NumPy and zlib are all that it takes.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from npvgg.ops import Array

SIGNED = ((8, 65, 131), (84, 162, 216), (247, 247, 247), (218, 136, 54), (110, 49, 3))
"""From one end over zero to the other; equally light at equal distances from zero."""

LINES = ("#0073b9", "#d76000", "#a145fd", "#77744f", "#b3779e", "currentColor")
"""Of lines, on a light ground and on a dark one: far apart in every kind of sight (the tests have
the numbers). The first two are near the blue and the vermilion of Okabe & Ito, Color Universal
Design, 2008. Each has its dashes as well.
"""

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")


def colours(values: Array, scale: float) -> Array:
    """Numbers from −scale to scale (…) → (…, 3) uint8; what is not finite is black."""
    finite = np.isfinite(values)
    height = (np.clip(np.where(finite, values, 0.0) / (scale or 1.0), -1, 1) + 1) / 2
    places = np.linspace(0, 1, len(SIGNED))
    channels = [np.interp(height, places, channel) for channel in zip(*SIGNED, strict=True)]
    painted: Array = np.stack(channels, axis=-1).round().astype(np.uint8)
    return np.where(finite[..., None], painted, np.uint8(0))


def hexadecimal(colour: Array) -> str:
    """Return a colour as SVG writes it."""
    return "#" + "".join(f"{int(c):02x}" for c in colour)


def on(colour: Array) -> str:
    """Black or white, whichever is legible on this colour."""
    share = np.asarray(colour, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    # WCAG's contrast is (lighter + 0.05) / (darker + 0.05), with black at 0 and white at 1.
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def png(pixels: Array) -> str:
    """Return the `data:` address of a picture, (H, W, 3) uint8."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # before each row: no filter
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
