"""Is a fold right, or are two files one network? Both questions in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from npvgg.data import create_transform, resolve_data_config
from npvgg.errors import ArgumentError
from npvgg.formats import checkpoint
from npvgg.hub.locate import ASSETS
from npvgg.hub.pretrained import pretrained_cfg
from npvgg.ops import Array
from npvgg.rounding import whatever_seterr_says
from npvgg.tools.certificate import Subject, certify, probes, subject
from npvgg.tools.sameness import compare
from npvgg.weights.cost import check_cost

PHOTO = ASSETS / "chelsea.png"
SIZE = 64


@whatever_seterr_says
def verify(
    path: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    wrapper: str | None = None,
    other_wrapper: str | None = None,
    prefix: str | None = None,
    size: int = SIZE,
    photos: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Return the certificate of a train-form file's fold, or whether two files are one network.

    path, other: files or folders of weights; without `other` the fold of `path` is proved, block by
        block, within the bound of float32 rounding
    model: the network, where the files do not tell
    wrapper, other_wrapper, prefix: which of a file's tensors, as in `convert`; the prefix is of
        `path`
    size: height and width of the images that are run
    photos: photos to run beside noise and a cat

    The report is ready for JSON. verdict: "proved" or "failed" of one file; "identical", "same" (up
    to rounding) or "different" of two; says: a sentence on it; runs: the differences of blocks and
    logits, image by image; differences: the tensors that differ beyond rounding.
    Raises ArgumentError, ImageError, WeightsError.
    """
    one = subject(checkpoint.load_with_metadata(path, wrapper=wrapper, prefix=prefix), model)
    images = _images(one, size, [os.fspath(photo) for photo in photos])
    if other is None:
        return certify(one, images)
    two = subject(checkpoint.load_with_metadata(other, wrapper=other_wrapper), model)
    return compare(one, two, images)


def _images(one: Subject, size: int, photos: Sequence[str]) -> dict[str, Array]:
    """Return noise, a photo of a cat, and the caller's; a pattern where the network sees no photos.

    Raises ArgumentError, ImageError, WeightsError.
    """
    check_cost(one.config, size, size)
    images = probes(one.config, size)
    channels = one.config.in_chans
    if channels in (1, 3):
        cfg = pretrained_cfg(one.name.partition(".")[0])
        transform = create_transform(
            **resolve_data_config({"input_size": (channels, size, size)}, cfg)
        )
        del images["pattern"]
        images |= {
            "photo": transform(PHOTO)[None],
            **{photo: transform(photo)[None] for photo in photos},
        }
    elif photos:
        raise ArgumentError(
            f"photos (--image): expected a network of 1 or 3 channels, got {channels}"
        )
    return images
