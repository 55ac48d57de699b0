"""A photo that a pack was made of, fitted into the network's input in every way that people do.

    bytes → [cut] → resized (filter, size) → cropped (top, left) → (byte/255 − mean) / std

A pack holds its photo, so that what another resize, another crop or another filter make of it can
be replayed. Pillow's filters are antialiased: they average over all pixels that an output pixel
covers. OpenCV's, and those of `torch.nn.functional.interpolate`, take the same two or four
neighbours however much the photo shrinks; they are here as matrices, along rows and columns:

    y = A(h) · x · A(w)ᵀ        a[i, j] = k(c_i − j),   c_i = (i + ½) · size_in / size_out − ½

k: the tent; or Keys's cubic with a = −0.75, edges repeated.

Sources: OpenCV 4 `resize`, PyTorch `upsample_bilinear2d`, `upsample_bicubic2d`; Keys, Cubic
convolution interpolation for digital image processing, 1981.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from npvgg.data import INTERPOLATIONS, create_transform
from npvgg.errors import ArgumentError, ImageError
from npvgg.images import opening
from npvgg.images.transform import Plan, Transform
from npvgg.ops import Array
from npvgg.testing.packs.pack import Pack

Image: TypeAlias = Any
"""One of Pillow's, which `images.opening` alone brings in."""

BYTES_APART = 2.0
"""How many steps of a byte the same filter may differ between implementations: Pillow rounds to
bytes after the first of two passes, half a step times Σ|k| ≤ 1.5 of the second pass's weights, and
at the end; who rounds once, or not at all, is off by half a step of his own: ½ · 1.5 + ½ + ½."""

MANY_PIXELS = 2**22
"""Of larger photos filters and sizes are not tried together: each pair takes some 50 ms."""

Resize: TypeAlias = Callable[[Image, int, int], Array]
"""(photo, height, width) → (C, height, width) in float64, 0 … 1."""


@dataclass(frozen=True)
class Fit:
    """What is cut out of the photo first (the whole, if None), and what becomes of that."""

    said: str
    plan: Plan
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class Photo:
    """An opened photo, and the transform that made a pack's input of it."""

    image: Image
    transform: Transform
    upright: Image | None = None

    @cached_property
    def ways(self) -> tuple[tuple[str, Array], ...]:
        """Return every other input that may come of it, (1, C, H, W) in 0 … 1; single ways first.

        → (what was done, input)
        """
        return tuple(self._ways())

    def _ways(self) -> Iterator[tuple[str, Array]]:
        right, *fits = _fits(self.image, self.transform)
        filters = _filters(self.transform)
        own = partial(_by_pillow, self.transform, self.transform.interpolation)
        singles = [(name, filter, right) for name, filter in filters.items()]
        singles += [(fit.said, own, fit) for fit in fits]
        pairs = [(f"{name}, and {fit.said}", filter, fit)
                 for name, filter in filters.items() for fit in fits]  # fmt: skip
        small = self.image.width * self.image.height <= MANY_PIXELS
        for name, filter, fit in singles + pairs * small:
            yield name, self._fitted(filter, fit)[None]
        if self.transform.crop_mode != "border":
            bordered = replace(self.transform, crop_mode="border")
            x = _unit(bordered, bordered.tensor(self.image))
            yield "resized by its long side, with a border in the colour of the mean", x[None]
        if self.upright is not None:
            x = _unit(self.transform, self.transform.tensor(self.upright))
            yield "turned upright by its EXIF orientation, which the pack's was not", x[None]

    def _fitted(self, filter: Resize, fit: Fit) -> Array:
        _, height, width = self.transform.input_size
        image = self.image if fit.box is None else self.image.crop(fit.box)
        y = filter(image, *fit.plan.resized)
        top, left = fit.plan.top, fit.plan.left
        return y[:, top : top + height, left : left + width]


def photo_of(pack: Pack) -> Photo | None:
    """Return the photo that a pack's input was made of, and holds; None where it holds none.

    A pack is a stranger's: a photo that can't be opened, or a transform that is none, is no photo.
    """
    how = pack.manifest.get("input", {}).get("transform")
    if pack.photo is None or not isinstance(how, dict) or not set(how) <= KEYS:
        return None
    try:
        transform = create_transform(**how)
        if transform.input_size != pack.probe("input").shape[1:]:
            return None
        image, _ = opening.read(pack.photo, transform.opening)
        turned = replace(transform.opening, exif_transpose=True)
        upright, _ = opening.read(pack.photo, turned)
        transform.plan(image.height, image.width)
        transform.plan(upright.height, upright.width)
    except (ArgumentError, ImageError, TypeError):
        return None
    same = upright.size == image.size and np.array_equal(np.asarray(upright), np.asarray(image))
    return Photo(image, transform, None if same else upright)


KEYS = {"input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode"}
"""What a manifest says of a transform."""


# --- Sizes and places -----------------------------------------------------------------------------


def _fits(image: Image, transform: Transform) -> list[Fit]:
    """Return the right way, and every other that leaves as many pixels as the input has."""
    _, height, width = transform.input_size
    right = transform.plan(image.height, image.width)
    seen: set[tuple[Plan, tuple[int, int, int, int] | None]] = {(right, None)}
    found = [Fit("", right)]
    for fit in _other_fits(image, transform, right):
        (h, w), top, left = fit.plan
        inside = 0 <= top <= h - height and 0 <= left <= w - width
        if inside and (fit.plan, fit.box) not in seen:
            seen.add((fit.plan, fit.box))
            found.append(fit)
    return found


def _other_fits(image: Image, transform: Transform, right: Plan) -> Iterator[Fit]:
    _, height, width = transform.input_size
    (h, w), top, left = right
    for mode in ("center", "squash"):
        for pct in dict.fromkeys((transform.crop_pct, 0.875, 0.9, 0.95, 1.0)):
            try:
                other = replace(transform, crop_mode=mode, crop_pct=pct)
                plan = other.plan(image.height, image.width)
            except ImageError:
                continue
            size = "×".join(map(str, plan.resized))
            how = "squashed" if mode == "squash" else "resized"
            crop = "" if plan.resized == (height, width) else " before the crop"
            yield Fit(f"{how} to {size}{crop} (crop_pct {pct:g})", plan)
    for sides in ((h + 1, w), (h, w + 1), (h + 1, w + 1), (h - 1, w), (h, w - 1), (h - 1, w - 1)):
        place = (round((sides[0] - height) / 2), round((sides[1] - width) / 2))
        yield Fit(f"resized to {sides[0]}×{sides[1]}, not {h}×{w}", Plan(sides, *place))
    for t in (top - 1, top, top + 1):
        for s in (left - 1, left, left + 1):
            said = f"cropped from ({t}, {s}) on, not from ({top}, {left})"
            yield Fit(said, Plan((h, w), t, s))
    yield Fit("cropped at its top left corner", Plan((h, w), 0, 0))
    side = min(image.size)
    for part, said in ((1.0, "its central square"), (0.875, "87.5 % of its central square"),
                       (transform.crop_pct, "crop_pct of its central square")):  # fmt: skip
        s = int(side * part)
        if s:
            x, y = (image.width - s) // 2, (image.height - s) // 2
            box = (x, y, x + s, y + s)
            yield Fit(
                f"cropped to {said} first, and then resized", Plan((height, width), 0, 0), box
            )


# --- Filters --------------------------------------------------------------------------------------


def _filters(transform: Transform) -> dict[str, Resize]:
    """Return all filters but the right one, by what they do."""
    right = transform.interpolation
    found: dict[str, Resize] = {
        f"resized by the filter {name}, not {right}": partial(_by_pillow, transform, name)
        for name in INTERPOLATIONS
        if name != right
    }
    found["resized by bilinear interpolation without antialiasing"] = partial(_by_matrix, tent)
    found["resized by bicubic interpolation without antialiasing"] = partial(_by_matrix, keys)
    found["resized by bilinear interpolation with its corners aligned"] = partial(
        _by_matrix, tent, aligned=True
    )
    found["resized to the nearest pixels, counted from the corner"] = _by_corner
    return found


def _unit(transform: Transform, x: Array) -> Array:
    """Normalised numbers (C, H, W) → 0 … 1, float64."""
    mean, std = (np.array(v, np.float64).reshape(-1, 1, 1) for v in (transform.mean, transform.std))
    return np.rint((x * std + mean) * 255) / 255


def _by_pillow(transform: Transform, name: str, image: Image, height: int, width: int) -> Array:
    size = (transform.input_size[0], height, width)
    whole = replace(
        transform, input_size=size, crop_mode="squash", crop_pct=1.0, interpolation=name
    )
    return _unit(whole, whole.tensor(image))


def _by_corner(image: Image, height: int, width: int) -> Array:
    x = _bytes(image)
    rows, columns = (np.arange(n) * m // n for n, m in ((height, x.shape[1]), (width, x.shape[2])))
    return x[:, rows][:, :, columns] / 255


def _by_matrix(
    kernel: Callable[[Array], Array], image: Image, height: int, width: int, *,
    aligned: bool = False,
) -> Array:  # fmt: skip
    x = _bytes(image)
    rows, columns = (
        weights(kernel, size, count, aligned)
        for size, count in zip(x.shape[1:], (height, width), strict=True)
    )
    y: Array = np.clip(rows @ x @ columns.T, 0, 255)
    rounded: Array = np.floor(y + 0.5) / 255
    return rounded


def weights(kernel: Callable[[Array], Array], size: int, count: int, aligned: bool) -> Array:
    """Return the matrix (count, size) of an interpolation along one axis, edges repeated."""
    i = np.arange(count)
    centre = i * ((size - 1) / max(count - 1, 1)) if aligned else (i + 0.5) * size / count - 0.5
    matrix = np.zeros((count, size))
    for tap in (-1, 0, 1, 2):
        j = np.floor(centre).astype(int) + tap
        np.add.at(matrix, (i, np.clip(j, 0, size - 1)), kernel(np.abs(centre - j)))
    return matrix


def tent(d: Array) -> Array:
    """Bilinear interpolation: max(0, 1 − d) at a distance d ≥ 0."""
    kernel: Array = np.maximum(0.0, 1.0 - d)
    return kernel


def keys(d: Array) -> Array:
    """Keys's cubic, a = −3/4, at a distance d ≥ 0."""
    a = -0.75
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    kernel: Array = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    return kernel


def _bytes(image: Image) -> Array:
    """Return the pixels, (C, H, W) float64, 0 … 255."""
    pixels: Array = np.asarray(image, np.float64)
    return np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), 2, 0)
