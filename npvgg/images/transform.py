"""The evaluation transform itself: open → resize → crop or pad at the centre → normalise.

The geometry is integer arithmetic on (height, width); Pillow resizes in fixed point; the floats
begin after the crop and follow torch's order of roundings. So the whole is equal to the last bit
to timm 1.0.31 on the same Pillow, on any machine, from the decoded pixels on. Versions of Pillow
differ: since 13, a resize h×w → h'×w' with h − h' > max(0, 2(w − w')), as of a photo over twice as
tall as wide, does its vertical pass before the horizontal one, which rounds otherwise. (And builds
of Pillow may decode a JPEG differently.)
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import ArgumentError, ImageError
from npvgg.images import opening
from npvgg.images.opening import Opening, Source
from npvgg.rounding import whatever_seterr_says

if TYPE_CHECKING:
    from PIL import Image


class ImageWarning(UserWarning):
    """A photo holds something that the network does not get to see."""


class Plan(NamedTuple):
    """What happens to a photo of one size, in pixels; top and left are negative where it pads."""

    resized: tuple[int, int]
    top: int
    left: int


@dataclass(frozen=True, repr=False)
class Transform:
    """Photo → (C, H, W) float32; made by `create_transform`. Its repr shows the steps as data."""

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str
    normalize: str
    opening: Opening

    def __call__(self, source: Source) -> NDArray[np.float32]:
        """Return the photo as the network wants it; warn (ImageWarning) if it holds more than that.

        source: see `images.open_image`. Raises ImageError.
        """
        x, notes = self.apply(source)
        if notes:
            text = f"{opening.name_of(source)}: {'; '.join(notes)}"
            warnings.warn(text, ImageWarning, stacklevel=2)
        return x

    @whatever_seterr_says
    def apply(self, source: Source) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Return what a call does, with the notes instead of a warning of them."""
        image, notes = opening.read(source, self.opening)
        return self.tensor(image), notes

    def tensor(self, image: Image.Image) -> NDArray[np.float32]:
        """Turn a photo that `images.open_image` opened into what the network wants."""
        return self._normalized(np.asarray(self._fitted(image)))

    def plan(self, height: int, width: int) -> Plan:
        """Return the size after the resize and where the crop begins, for height × width.

        Raises ImageError where timm's rule leaves a side of 0 pixels, or where the box around the
        photo and its resized form exceeds max_pixels: 1×10000 would grow to 256×2560000.
        """
        if height < 1 or width < 1:
            raise ArgumentError(f"height, width: expected at least 1, got {height}, {width}")
        resized = resized_size(height, width, self._scale_size, self.crop_mode)
        box = max(height, resized[0]) * max(width, resized[1])
        if min(resized) < 1 or box > self.opening.max_pixels:
            raise ImageError(
                f"photo of {height}×{width} (H×W): crop_mode {self.crop_mode!r} resizes it to "
                f"{resized[0]}×{resized[1]}, expected at least 1 pixel a side and at most "
                f"{self.opening.max_pixels} in the box around both (max_pixels)"
            )
        _, crop_height, crop_width = self.input_size
        top, left = crop_offset(resized[0], crop_height), crop_offset(resized[1], crop_width)
        return Plan(resized, top, left)

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """Return the steps in order, each with its settings."""
        height, width = self._scale_size
        target: dict[str, Any] = {
            "squash": {"to": (height, width)},
            "border": {"fit_in": (height, width)},
            "center": {"short_edge": height} if height == width else {"cover": (height, width)},
        }[self.crop_mode]
        return {
            "open": asdict(self.opening),
            "resize": target | {"interpolation": self.interpolation},
            "crop": {"size": self.input_size[1:], "fill": self._fill},
            "normalize": {"recipe": self.normalize, "mean": self.mean, "std": self.std},
        }

    def __repr__(self) -> str:
        lines = (
            f"    {step}({', '.join(f'{key}={value!r}' for key, value in settings.items())})\n"
            for step, settings in self.steps.items()
        )
        return f"Transform(\n{''.join(lines)})"

    @property
    def _scale_size(self) -> tuple[int, int]:
        _, height, width = self.input_size
        return math.floor(height / self.crop_pct), math.floor(width / self.crop_pct)

    @property
    def _fill(self) -> tuple[int, ...]:
        if self.crop_mode == "border":
            return tuple(round(255 * value) for value in self.mean)
        return (0,) * self.input_size[0]

    def _fitted(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        (height, width), top, left = self.plan(image.height, image.width)
        filter = Image.Resampling[self.interpolation.upper()]
        _, crop_height, crop_width = self.input_size
        fill = self._fill if len(self._fill) == 3 else self._fill[0]
        canvas = Image.new(image.mode, (crop_width, crop_height), fill)
        canvas.paste(image.resize((width, height), filter), (-left, -top))
        return canvas

    def _normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise (H, W, C) or (H, W) uint8 → (C, H, W) float32, rounding in torch's order."""
        channels, height, width = self.input_size
        pixels = pixels.reshape(height, width, channels).transpose(2, 0, 1)
        x: NDArray[np.float32] = pixels.astype(np.float32, order="C")
        unit = 1.0 if self.normalize == "totensor" else 255.0
        if self.normalize == "totensor":
            x /= np.float32(255)
        # Products in float64, rounded once; divisions, not products with reciprocals.
        x -= np.array([unit * value for value in self.mean], np.float32).reshape(-1, 1, 1)
        x /= np.array([unit * value for value in self.std], np.float32).reshape(-1, 1, 1)
        return x


def resized_size(
    height: int, width: int, scale_size: tuple[int, int], crop_mode: str
) -> tuple[int, int]:
    """Return the (height, width) to which timm resizes a photo before the crop.

    squash               scale_size itself
    center, square of s  the short side to s, the long side to int(s · long / short), truncated
    center, other        both sides / min(height / scale_height, width / scale_width)
    border               both sides / max(height / scale_height, width / scale_width)

    The quotients are rounded half to even. Sources: torchvision `_compute_resized_output_size`,
    timm `ResizeKeepRatio` (before timm 1.0.31, "center, other" was bilinear whatever was asked).
    """
    scale_height, scale_width = scale_size
    if crop_mode == "squash":
        return scale_size
    if crop_mode == "center" and scale_height == scale_width:
        long = int(scale_height * max(height, width) / min(height, width))
        return (long, scale_width) if width <= height else (scale_height, long)
    pick = min if crop_mode == "center" else max
    ratio = pick(height / scale_height, width / scale_width)
    return round(height / ratio), round(width / ratio)


def crop_offset(side: int, crop: int) -> int:
    """Return where a centred crop begins; negative: so many pixels of padding come first.

    round, not // 2: torchvision rounds half to even, 33/2 to 16 but 35/2 to 18. An odd padding has
    its larger half at the end. Source: torchvision `center_crop`, timm `center_crop_or_pad`.
    """
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
