"""What timm's users write, without timm: resolve a model's data config, create its transform.

    config = resolve_model_data_config(model)
    x = create_transform(**config)("photo.jpg")  # (3, 224, 224) float32

The result is equal to the last bit to timm 1.0.31's `create_transform(**config)`; see transform.py.
Sources: timm 1.0.31, data/config.py, data/transforms_factory.py `transforms_imagenet_eval`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, TypedDict, Unpack

import numpy as np

from npvgg import from_timm
from npvgg.errors import ArgumentError, refuse_keyword
from npvgg.images.opening import Opening, OpeningKeywords
from npvgg.images.transform import ImageWarning, Transform
from npvgg.rounding import whatever_seterr_says

__all__ = [
    "ImageWarning",
    "Transform",
    "create_transform",
    "resolve_data_config",
    "resolve_model_data_config",
]

IMAGENET_DEFAULT_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEFAULT_STD = (0.229, 0.224, 0.225)
DEFAULT_CROP_PCT = 0.875
MAX_RESIZED = 2**16
"""Longest side to which a photo is resized before it is cropped; 1e-320 of a photo is no crop."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
RECIPES = ("totensor", "prefetcher")


def resolve_model_data_config(
    model: Any,
    args: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    use_test_size: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """Return what `create_transform` needs to feed this model: timm's rules, from
    `model.pretrained_cfg`.

    Returns input_size (C, H, W), interpolation, mean, std, crop_pct, crop_mode. `args` wins over
    `pretrained_cfg`, which stands in for the model's own; `use_test_size` prefers test_input_size
    and test_crop_pct; `verbose` does nothing. Raises ArgumentError.
    """
    return resolve_data_config(args, pretrained_cfg, model, use_test_size)


def resolve_data_config(
    args: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    model: Any = None,
    use_test_size: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """`resolve_model_data_config` with timm's other order of arguments."""
    if not args and not pretrained_cfg and model is None:
        raise ArgumentError("args, pretrained_cfg, model: expected at least one, got none")
    args = args or {}
    cfg = pretrained_cfg or _own_cfg(model)
    test = cfg if use_test_size else {}
    input_size, channels = _resolve_input_size(args, cfg, test)
    return {
        "input_size": input_size,
        # bicubic, though create_transform alone falls back to bilinear: so it is in timm
        "interpolation": args.get("interpolation") or cfg.get("interpolation") or "bicubic",
        "mean": _resolve_channels("mean", args, cfg, IMAGENET_DEFAULT_MEAN, channels),
        "std": _resolve_channels("std", args, cfg, IMAGENET_DEFAULT_STD, channels),
        "crop_pct": args.get("crop_pct")
        or test.get("test_crop_pct")
        or cfg.get("crop_pct")
        or DEFAULT_CROP_PCT,
        "crop_mode": args.get("crop_mode") or cfg.get("crop_mode") or "center",
    }


class TimmKeywords(TypedDict, total=False):
    """The keywords of timm's `create_transform` that change nothing in evaluation."""

    no_aug: bool
    train_crop_mode: str | None
    scale: tuple[float, float] | None
    ratio: tuple[float, float] | None
    hflip: float
    vflip: float
    color_jitter: float | tuple[float, ...] | None
    color_jitter_prob: float | None
    grayscale_prob: float
    gaussian_blur_prob: float
    auto_augment: str | None
    re_prob: float
    re_mode: str
    re_count: int
    re_num_splits: int
    crop_border_pixels: None
    tf_preprocessing: bool
    use_prefetcher: bool
    separate: bool
    naflex: bool
    patch_size: int | tuple[int, int]
    max_seq_len: int
    patchify: bool
    patchify_channels_last: bool
    patchify_flatten: bool


OFF = ("crop_border_pixels", "tf_preprocessing", "use_prefetcher", "separate", "naflex", "patchify")
"""Those of them that must be off."""


class TransformKeywords(OpeningKeywords, TimmKeywords, total=False):
    """The keywords that `create_transform` gathers in `opening`."""


@whatever_seterr_says
def create_transform(
    input_size: int | Sequence[int] = 224,
    is_training: bool = False,
    interpolation: str = "bilinear",
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    normalize: str | bool = "totensor",
    **opening: Unpack[TransformKeywords],
) -> Transform:
    """Return the evaluation transform: any photo that `images.open_image` opens → (C, H, W)
    float32.

    input_size      S, (H, W) or (C, H, W) with C 3 or 1 (grey); C is 3 if not given
    is_training     must be False: npvgg only infers
    interpolation   nearest, bilinear, bicubic, box, hamming or lanczos
    mean, std       one number a channel, or one for all; averaged if C is 1
    crop_pct        the photo is resized to floor(size / crop_pct), then cropped; None or 0 is 0.875
    crop_mode       center: the short side to that size; border: the long side, padded with the
                    mean; squash: both sides, the aspect ratio is lost; None is center
    normalize       totensor: (x/255 − μ) / σ; prefetcher: (x − 255μ) / 255σ, which timm's
                    loaders compute (validate.py) and which differs in the last bits; True is
                    the first
    opening         the options of `images.open_image` (exif_transpose, alpha, on_16bit, …); and
                    timm's keywords for training, which change nothing

    Raises ArgumentError. Source: timm 1.0.31 `create_transform`.
    """
    if is_training:
        raise ArgumentError("is_training: expected False (npvgg only infers), got True")
    channels, height, width = size = _shape(input_size)
    if channels not in (1, 3):
        raise ArgumentError(
            "input_size: expected 3 channels or 1, as photos have them, of a network that takes "
            f"such; got {input_size!r}"
        )
    crop_pct = DEFAULT_CROP_PCT if crop_pct is None or crop_pct == 0 else crop_pct
    possible = isinstance(crop_pct, int | float) and 0 < crop_pct <= min(height, width)
    if not possible or max(height, width) / crop_pct > MAX_RESIZED:
        raise ArgumentError(
            f"crop_pct: expected a number above 0, at most the input size, got {crop_pct!r}"
        )
    return Transform(
        input_size=size,
        interpolation=_one_of("interpolation", interpolation, INTERPOLATIONS),
        mean=_per_channel("mean", mean, channels),
        std=_per_channel("std", std, channels, positive=True),
        crop_pct=crop_pct,
        crop_mode=_one_of("crop_mode", crop_mode or "center", CROP_MODES),
        normalize=_one_of("normalize", "totensor" if normalize is True else normalize, RECIPES),
        opening=_opening(channels, opening),
    )


# Checks


def _own_cfg(model: Any) -> Mapping[str, Any]:
    cfg = getattr(model, "pretrained_cfg", None)
    if model is not None and not isinstance(cfg, Mapping):
        raise ArgumentError(
            f"model: expected an object with a mapping pretrained_cfg, got {type(model).__name__}"
        )
    return cfg or {}


def _resolve_input_size(
    args: Mapping[str, Any], cfg: Mapping[str, Any], test: Mapping[str, Any]
) -> tuple[tuple[int, int, int], int]:
    """Return the input size, and the channels that `mean` and `std` in args must have."""
    channels = next((args[key] for key in ("in_chans", "chans") if args.get(key) is not None), 3)
    if args.get("input_size") is not None:
        size = _shape(args["input_size"])
        return size, size[0]
    if args.get("img_size") is not None:
        return _shape((channels, args["img_size"], args["img_size"])), channels
    # As in timm, the size in a pretrained_cfg keeps its own channels, whatever in_chans says.
    for found in (test.get("test_input_size"), cfg.get("input_size")):
        if found is not None:
            return _shape(found), channels
    return _shape((channels, 224, 224)), channels


def _resolve_channels(
    name: str,
    args: Mapping[str, Any],
    cfg: Mapping[str, Any],
    default: tuple[float, ...],
    channels: int,
) -> tuple[float, ...]:
    if args.get(name) is None:
        return tuple(cfg.get(name) or default)
    values = tuple(np.atleast_1d(args[name]).tolist())
    if len(values) not in (1, channels):
        raise ArgumentError(f"{name}: expected 1 or {channels} numbers, got {values!r}")
    return values * channels if len(values) == 1 else values


def _shape(input_size: int | Sequence[int]) -> tuple[int, int, int]:
    """S, (H, W) or (C, H, W) as (C, H, W)."""
    sides = tuple(input_size) if isinstance(input_size, Sequence) else (input_size, input_size)
    size = (3, *sides) if len(sides) == 2 else sides
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ArgumentError(
            f"input_size: expected S, (H, W) or (C, H, W), positive ints, got {input_size!r}"
        )
    return size[0], size[1], size[2]


def _per_channel(
    name: str, values: Sequence[float], channels: int, positive: bool = False
) -> tuple[float, ...]:
    """One number a channel; one for all is repeated, several for a grey network are averaged.

    The average is that of timm's loaders, data/loader.py `adapt_to_chs`.
    """
    try:
        numbers = np.atleast_1d(np.asarray(values, np.float64))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    fits = len(numbers) in (1, channels) or (channels == 1 and len(numbers) > 0)
    if numbers.ndim != 1 or not fits:
        raise ArgumentError(f"{name}: expected {channels} numbers, got {values!r}")
    with np.errstate(over="ignore"):
        used = numbers.astype(np.float32)  # 1e-50 is 0 here, 1e50 infinite
    if not np.isfinite(used).all() or (positive and used.min() <= 0):
        kind = "finite and above 0" if positive else "finite"
        raise ArgumentError(f"{name}: expected numbers {kind} in float32, got {values!r}")
    if len(numbers) != channels:
        numbers = np.full(channels, numbers.mean())
    return tuple(numbers.tolist())


def _one_of(name: str, value: str | bool, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ArgumentError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    return str(value)


def _opening(channels: int, options: TransformKeywords) -> Opening:
    taken: dict[str, Any] = {}
    for name, value in options.items():
        if name in OpeningKeywords.__annotations__:
            taken[name] = value
        elif name not in TimmKeywords.__annotations__:
            own = signature(create_transform).parameters.keys() - {"opening"}
            refuse_keyword(name, "create_transform", own | OpeningKeywords.__annotations__.keys())
        elif name in OFF and value:
            from_timm.refuse("data.create_transform", name)
    return Opening(channels=channels, **taken)
