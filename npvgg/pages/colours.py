"""Numbers as colours that the colour-blind tell apart: blue below zero, white at it, orange above.

Pictures of many pixels are PNG, written here: NumPy and zlib are all that it takes.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from npvgg.ops import Array

SIGNED = ((8, 64, 129), (78, 150, 200), (247, 247, 247), (240, 150, 60), (140, 62, 4))
"""From one end over zero to the other; equally light at equal distances from zero."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
"""Of lines; after Okabe & Ito, Color Universal Design, 2008. Each has its dashes as well."""

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
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return "#000000" if light > 140 else "#ffffff"


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
