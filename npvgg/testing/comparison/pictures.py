"""Tensors as small pictures: where the errors lie, and what the two maps look like.

    share of the bound    0 … 1 in blues, the darker the nearer the bound; above it from yellow over
                          red to black; both by the logarithm, five decades each
    values                blue below zero, white, red above; one scale for theirs and ours

Large maps are reduced by the maximum of each square: no wrong pixel is lost.
"""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np

from npvgg.ops import Array

DECADES = 5

INSIDE = ((250, 252, 255), (198, 219, 239), (107, 174, 214), (8, 81, 156))
OUTSIDE = ((255, 237, 140), (254, 153, 41), (217, 33, 32), (60, 0, 20))
SIGNED = ((33, 78, 160), (146, 190, 226), (255, 255, 255), (240, 150, 120), (170, 20, 40))


def share_colours(share: Array) -> Array:
    """Shares of the bound (…) → colours (…, 3) uint8; what is infinite is darkest."""
    with np.errstate(divide="ignore"):
        decades = np.nan_to_num(np.log10(share), nan=0.0, posinf=DECADES, neginf=-DECADES)
    height = np.clip(decades / DECADES, -1, 1)
    inside, outside = _along(INSIDE, height + 1), _along(OUTSIDE, height)
    colours = np.where((share > 1)[..., None], outside, inside)
    painted: Array = np.where((share == 0)[..., None], np.uint8(255), colours)
    return painted


def value_colours(values: Array, scale: float) -> Array:
    """Values from −scale to scale (…) → colours (…, 3) uint8; what is not finite is black."""
    finite = np.isfinite(values)
    with np.errstate(over="ignore"):
        height = np.where(finite, values, 0.0) / (scale or 1.0)
    colours = _along(SIGNED, (np.clip(height, -1, 1) + 1) / 2)
    return np.where(finite[..., None], colours, np.uint8(0))


def _along(anchors: tuple[tuple[int, int, int], ...], height: Array) -> Array:
    """Return the colours at heights from 0 to 1 along a row of anchors."""
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(height, places, channel) for channel in zip(*anchors, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def reduced(share: Array, limit: int = 64) -> Array:
    """Return a map (P, Q) of at most `limit` along each side: the maximum of each square."""
    p, q = share.shape
    size = ceil(max(p, q) / limit)
    padded = np.pad(share, ((0, -p % size), (0, -q % size)))
    squares = padded.reshape(ceil(p / size), size, ceil(q / size), size)
    return np.asarray(squares.max(axis=(1, 3)))


def error_map(share: Array) -> Array:
    """Return the map (P, Q) of a tensor's largest shares over images and channels; a vector's as
    rows.

    share: (N, K, P, Q), or (N, K), folded to a width of at most 64
    """
    if share.ndim == 4:
        return np.asarray(share.max(axis=(0, 1)))
    flat = share.reshape(-1)
    width = min(64, len(flat))
    return np.pad(flat, (0, -len(flat) % width)).reshape(-1, width)


def mosaic(share: Array, limit: int = 512) -> Array:
    """All channels of a tensor (N, K, P, Q) side by side, row after row, a pixel between them.

    Over images the maximum is taken; where all channels would be larger than limit × limit pixels,
    each is reduced.
    """
    maps = share.max(axis=0)
    columns = ceil(sqrt(len(maps)))
    side = max(1, limit // columns - 1)
    maps = np.stack([reduced(m, side) for m in maps])
    maps = np.pad(maps, ((0, -len(maps) % columns), (0, 1), (0, 1)))
    k, p, q = maps.shape
    tiles = maps.reshape(k // columns, columns, p, q).transpose(0, 2, 1, 3)
    return tiles.reshape(k // columns * p, columns * q)
