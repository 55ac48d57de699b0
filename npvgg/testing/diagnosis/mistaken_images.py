"""Mistakes before the first block: the image that the network is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from npvgg.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from npvgg.ops import Array
from npvgg.testing.diagnosis.mistake import Mistake, collector
from npvgg.testing.diagnosis.mistaken_numbers import ORDERS, SHORT
from npvgg.testing.diagnosis.photo import BYTES_APART, Photo, photo_of
from npvgg.testing.diagnosis.recipe import Step, same
from npvgg.testing.packs.pack import Pack

ADVICE = (
    "the network wants RGB, values 0 … 1, minus its mean, divided by its std (a photo's pack has "
    "them under input.transform in its manifest), and all of that once"
)


@dataclass(frozen=True, eq=False)
class Image:
    """How an image was normalised, and what was made of the right one, (N, C, H, W).

    mean, std: one number for each of three channels
    photo: the photo that it was made of, if it is known
    slack: how far other implementations of the same steps may be from the wrong image
    """

    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN
    std: Sequence[float] = IMAGENET_DEFAULT_STD
    step: Step = same
    photo: Photo | None = None
    slack: float = 0.0

    def __call__(self, x: Array) -> Array:
        """Return the wrong image, from the right one."""
        return self.step(x)

    def constants(self, x: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation, (3, 1, 1), in the dtype of x."""
        mean, std = (np.array(values, x.dtype)[:, None, None] for values in (self.mean, self.std))
        return mean, std

    def pixels(self, x: Array) -> Array:
        """Return the numbers 0 … 1 of a normalised image."""
        mean, std = self.constants(x)
        return x * std + mean

    def normalised(self, u: Array) -> Array:
        """Return numbers 0 … 1 normalised."""
        mean, std = self.constants(u)
        x: Array = (u - mean) / std
        return x

    def become(self, step: Step) -> Image:
        """Return the image after a step that images of three channels take; others stay."""
        return replace(self, step=lambda x: step(x) if x.shape[1] == 3 else x)


def image_of(pack: Pack) -> Image:
    """Return how a pack's photo was normalised; by ImageNet's numbers where it does not say."""
    how = pack.manifest.get("input", {}).get("transform", {})
    given: list[Any] = [how.get(key) if isinstance(how, Mapping) else () for key in ("mean", "std")]
    for values in given:
        known = isinstance(values, list | tuple) and len(values) == 3
        if not known or not all(type(v) is float and 1e-6 < v < 1e6 for v in values):
            return Image()
    return Image(given[0], given[1], photo=photo_of(pack))


IMAGES: list[Mistake[Image]] = []
mistake = collector(IMAGES)
two_mistakes = collector(IMAGES, two=True)

Normalisation: TypeAlias = Callable[[Image, Array], Array]
"""Numbers 0 … 1 → what a wrong normalisation makes of them."""


def by_constants(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
    """Return a normalisation by other constants."""

    def normalise(image: Image, u: Array) -> Array:
        m, s = (np.array(values, u.dtype)[:, None, None] for values in (mean, std))
        y: Array = (u - m) / s
        return y

    return normalise


NORMALISATIONS: dict[str, Normalisation] = {
    "missing: the pixels are 0 … 1": lambda _, u: u,
    "missing: the pixels are 0 … 255": lambda _, u: 255 * u,
    "applied twice": lambda image, u: image.normalised(image.normalised(u)),
    "applied to pixels 0 … 255, which were not divided by 255": lambda image, u: image.normalised(
        255 * u
    ),
    "applied to pixels that were divided by 255 twice": lambda image, u: image.normalised(u / 255),
    "applied to pixels that were divided by 256": lambda image, u: image.normalised(
        u * (255 / 256)
    ),
    "the subtraction of the mean alone": lambda image, u: u - image.constants(u)[0],
    "the subtraction of the mean alone, from pixels 0 … 255": lambda image, u: (
        255 * (u - image.constants(u)[0])
    ),
    "the division by std alone": lambda image, u: u / image.constants(u)[1],
    "a product with std, where it should be divided": lambda image, u: (
        (u - image.constants(u)[0]) * image.constants(u)[1]
    ),
    "done with mean and std exchanged": lambda image, u: (
        (u - image.constants(u)[1]) / image.constants(u)[0]
    ),
    "Inception's, to -1 … 1": lambda _, u: 2 * u - 1,
    "CLIP's": by_constants(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
    "one for all channels": by_constants((0.449,) * 3, (0.226,) * 3),
}
"""What normalisation may have become."""


@mistake("the image is BGR: {}", ADVICE)
def rgb_bgr(right: Image) -> Iterator[tuple[str, Image]]:
    """Channels in the other order, before or after normalisation (OpenCV reads BGR)."""
    yield (
        "its channels were exchanged after normalisation",
        replace(right, step=lambda x: x[:, ::-1]),
    )
    yield (
        "its channels were exchanged before normalisation",
        right.become(lambda x: right.normalised(right.pixels(x)[:, ::-1])),
    )
    for what, step in NORMALISATIONS.items():
        yield (
            f"besides, normalisation is {what}",
            right.become(lambda x, step=step: step(right, right.pixels(x)[:, ::-1])),  # type: ignore[misc]
        )


@mistake("normalisation is {}", ADVICE)
def normalisation(right: Image) -> Iterator[tuple[str, Image]]:
    """Left out, done twice, or with other constants."""
    for what, step in NORMALISATIONS.items():
        yield what, right.become(lambda x, step=step: step(right, right.pixels(x)))  # type: ignore[misc]


@mistake("the image {}", "the network wants (N, 3, H, W), row by row from the top, left to right")
def order_of_the_image(right: Image) -> Iterator[tuple[str, Image]]:
    """NHWC, turned or mirrored."""
    for what, order in ORDERS.items():
        if "channels" not in what:
            yield what, replace(right, step=order)


@mistake("the image is {}", ADVICE)
def image_rounded(right: Image) -> Iterator[tuple[str, Image]]:
    """Fewer bits, or a single brightness."""
    for name, short in SHORT.items():
        yield f"rounded to {name}", replace(right, step=short)
    yield "grey", right.become(lambda x: right.normalised(grey(right.pixels(x))))


FITTING = (
    "fit the photo into the input as input.transform in the pack's manifest says: resize with "
    "antialiasing (Pillow's filters have it, OpenCV's and torch's interpolate have not), and crop "
    "at the centre"
)


@mistake("the photo is {}", FITTING)
def photo_fitted_otherwise(right: Image) -> Iterator[tuple[str, Image]]:
    """Resized by another filter or to another size, or cropped elsewhere."""
    for what, u in right.photo.ways if right.photo else ():
        yield what, fitted(right, u, right.normalised)


@two_mistakes("the photo is {}", f"{FITTING}; {ADVICE}")
def photo_fitted_and_normalised_otherwise(right: Image) -> Iterator[tuple[str, Image]]:
    """Resize by another filter or to another size, and keep OpenCV's BGR or 0 … 255, besides."""
    for what, u in right.photo.ways if right.photo else ():
        for said, step in COLOURS.items():
            if ", and " not in what:
                yield f"{what}; {said}", fitted(right, u, partial(step, right))


def bgr(step: Normalisation) -> Normalisation:
    """Return a normalisation of an image whose channels were exchanged before it."""
    return lambda image, u: step(image, u[:, ::-1])


COLOURS: dict[str, Normalisation] = {
    "its channels are in the order BGR": lambda image, u: image.normalised(u)[:, ::-1],
    "its channels were exchanged before normalisation": bgr(lambda image, u: image.normalised(u)),
    **{f"normalisation is {what}": step for what, step in NORMALISATIONS.items()},
    **{f"it is BGR, and normalisation is {w}": bgr(step) for w, step in NORMALISATIONS.items()},
}
"""What else may have become of a photo that was fitted otherwise."""


def fitted(right: Image, u: Array, normalise: Step) -> Image:
    """Return an image that was made of other pixels u, 0 … 1, in steps of a byte."""
    step = np.abs(normalise(u + BYTES_APART / 255) - normalise(u)).max()
    x = normalise(u)
    return replace(right, step=lambda y: x.astype(y.dtype), slack=float(step))


def grey(u: Array) -> Array:
    """Return the brightness of ITU-R 601, in all three channels."""
    weights = np.array([0.299, 0.587, 0.114], u.dtype)[:, None, None]
    return np.broadcast_to((u * weights).sum(axis=1, keepdims=True), u.shape)
