"""The config.json of a timm repository, as a network and its images.

    {"architecture": "repvgg_a0", "num_classes": 37, "label_names": […], "model_args": {…},
     "pretrained_cfg": {"input_size": [3, 224, 224], "mean": […], "crop_pct": 0.9, …}}

timm writes it beside the weights of every model that is pushed to the hub, fine-tuned ones too.
Older files are flat: what is now inside `pretrained_cfg` lay outside, and `label_names` was
`labels`. What lies outside goes before what lies inside. A stranger wrote it: sizes, types and
numbers are checked, keys that npvgg has no use for are left, and nothing of it is a path.

Source: timm 1.0.31 `models/_hub.py` `_parse_model_cfg`, `models/_pretrained.py` `PretrainedCfg`,
`models/_builder.py` `_update_default_model_kwargs`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from npvgg import from_timm
from npvgg.config import ConfigKeywords, RepVGGConfig
from npvgg.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    create_transform,
    resolve_data_config,
)
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats.files import open_regular
from npvgg.formats.jsontext import parse_object
from npvgg.formats.untrusted import blaming, shown
from npvgg.variants import VARIANTS, canonical_name

_log = logging.getLogger("npvgg")

MAX_CONFIG = 4 * 2**20
"""Largest config.json, in bytes; the names and descriptions of ImageNet-21k take 2 million."""

MAX_CLASSES = 10**6
MAX_PIXELS = 4096**2
"""Most pixels of an input: each is decoded, resized and allocated."""

MAX_TEXT = 4000

DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875,
    "crop_mode": "center", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
}  # fmt: skip
"""What timm takes for what is not said: bicubic, though RepVGG's authors use bilinear."""

OPTIONAL = ("test_input_size", "test_crop_pct")
KEYWORDS = set(ConfigKeywords.__annotations__)
DOUBTS = (ArgumentError, TypeError, RecursionError)
"""What values of wrong types raise: a list where a word is looked up, a nest where one is shown."""


class Description(NamedTuple):
    """What a config.json says: the network's name and configuration, and its pretrained_cfg."""

    architecture: str
    tag: str
    config: RepVGGConfig
    pretrained_cfg: dict[str, Any]

    @property
    def name(self) -> str:
        """The network's name with its tag, "repvgg_a0.pets"."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture


def read(path: Path, classes: int | None = None, channels: int | None = None) -> Description:
    """Return the description in a file. Raises WeightsError, which begins with the path.

    classes, channels: those of the tensors beside it, where they are known (see `parse`)
    """
    with blaming(path), open_regular(path) as file:
        return parse(file.read(MAX_CONFIG + 1), classes, channels)


def parse(data: bytes, classes: int | None = None, channels: int | None = None) -> Description:
    """Return the description that the bytes of a config.json give. Raises WeightsError.

    classes, channels: what the network has, whatever the file says: a config.json is often copied
        from the network that was fine-tuned. Names of as many classes as the file says, and not of
        as many as there are, are left out
    """
    outer = parse_object(data, "config", MAX_CONFIG)
    inner = _object(outer.get("pretrained_cfg", outer), "pretrained_cfg")
    args = _object(outer.get("model_args") or {}, "model_args")
    architecture = _architecture(outer.get("architecture") or inner.get("architecture"))
    said = {**inner, **{key: value for key, value in outer.items() if value is not None}}
    cfg = DEFAULTS | {
        key: _tuples(inner[key]) for key in (*DEFAULTS, *OPTIONAL) if inner.get(key) is not None
    }
    _check_sizes(cfg)
    base = said.get("num_classes", 1000)
    stated = args.get("num_classes", base)
    if type(stated) is not int or not 0 <= stated <= MAX_CLASSES:
        raise WeightsError(f"num_classes: expected 0 … {MAX_CLASSES}, got {shown(stated)}")
    classes = stated if classes is None else classes
    channels = channels or args.get("in_chans") or cfg["input_size"][0]
    config = _configured(architecture, {**args, "num_classes": classes, "in_chans": channels})
    for key in ("input_size", "test_input_size"):
        if key in cfg:
            cfg[key] = (config.in_chans, *cfg[key][1:])
    _check_preparation(cfg)
    tag = _text(inner.get("tag") or "", "tag")
    cfg |= {"architecture": architecture, "tag": tag, "num_classes": classes}
    try:
        labels = _labels(said, classes, (stated, base, inner.get("num_classes")))
    except WeightsError as error:
        raise WeightsError(
            f"{error}; correct them, or give the weights' file in place of the folder, and its "
            "names as --labels FILE: then config.json does not count"
        ) from None
    return Description(architecture, tag, config, cfg | labels)


def checked(cfg: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """Return a pretrained_cfg from a file's metadata, whose preparation and labels can be used.

    Labels as in `parse`. Raises WeightsError.
    """
    _check_sizes(cfg)
    _check_preparation(cfg)
    plain = {key: value for key, value in cfg.items() if not key.startswith("label_")}
    return plain | _labels(cfg, classes, (cfg.get("num_classes"),))


# --- The network ----------------------------------------------------------------------------------


def _architecture(name: Any) -> str:
    try:
        return canonical_name(name)
    except ArgumentError:
        known = ", ".join(VARIANTS)
        raise WeightsError(
            f"architecture: expected a RepVGG ({known}), got {shown(name)}"
        ) from None


def _configured(architecture: str, args: Mapping[str, Any]) -> RepVGGConfig:
    """Return the network of that name with the arguments with which it was made."""
    used = {
        key: _tuples(value)
        for key, value in args.items()
        if key != "pretrained" and not from_timm.changes_nothing(key, value)
    }
    if unknown := sorted(used.keys() - KEYWORDS):
        raise WeightsError(f"model_args: expected keywords of RepVGG, got {shown(unknown[0])}")
    if used.get("attn_layer") == "":  # takes the network's own away
        used["attn_layer"] = None
    try:
        return VARIANTS[architecture].with_changes(**used)
    except DOUBTS as error:
        raise WeightsError(f"model_args: {_quoted(error)}") from None


# --- Its images -----------------------------------------------------------------------------------


def _check_sizes(cfg: Mapping[str, Any]) -> None:
    for key in ("input_size", "test_input_size"):
        size = cfg.get(key, (1, 1, 1))
        whole = isinstance(size, tuple) and all(type(side) is int and side > 0 for side in size)
        if not whole or len(size) != 3 or size[1] * size[2] > MAX_PIXELS:
            raise WeightsError(
                f"{key}: expected three positive integers (C, H, W), at most "
                f"{MAX_PIXELS} pixels, got {shown(size)}"
            )


def _check_preparation(cfg: Mapping[str, Any]) -> None:
    """Raise unless the transform of these words can be made, for photos and at test size."""
    for key in ("interpolation", "crop_mode"):
        if not isinstance(cfg.get(key, ""), str):
            raise WeightsError(f"{key}: expected a word, got {shown(cfg[key])}")
    for key in ("mean", "std"):
        if not isinstance(cfg.get(key, ()), tuple | int | float):
            raise WeightsError(f"{key}: expected numbers, got {shown(cfg[key])}")
    if cfg["input_size"][0] not in (1, 3):
        return  # no photo is prepared for such a network
    for use_test_size in (False, True):
        try:
            transform = create_transform(
                **resolve_data_config({}, cfg, use_test_size=use_test_size)
            )
        except DOUBTS as error:
            raise WeightsError(_quoted(error)) from None
        _, height, width = transform.input_size
        if height * width > 4 * MAX_PIXELS * transform.crop_pct**2:
            raise WeightsError(
                f"crop_pct: expected photos resized to at most {4 * MAX_PIXELS} pixels, "
                f"got {height}×{width} of {transform.crop_pct:.3g}"
            )


# --- Its classes ----------------------------------------------------------------------------------


def _labels(said: Mapping[str, Any], classes: int, stated: tuple[Any, ...]) -> dict[str, Any]:
    """Return the classes' names, one for each, and what describes them, if they are named at all.

    A dict of index → name may leave gaps; such a class is called by its index. Names that fit a
    number of classes that is stated, and not that of the network, are those of another head.
    """
    names = said.get("label_names") or said.get("labels")
    if not names or not classes:
        return {}
    others = [number for number in stated if type(number) is int and number != classes]
    if not _fit(names, classes) and any(_fit(names, number) for number in others):
        _log.info(
            "%d labels are left out: they are not of this head of %d classes", len(names), classes
        )
        return {}
    if isinstance(names, dict):
        table = {_index(key, classes): name for key, name in names.items()}
        names = [table.get(index, str(index)) for index in range(classes)]
    if not isinstance(names, list | tuple) or len(names) != classes:
        count = f"{len(names)} names" if isinstance(names, list | tuple) else shown(names)
        raise WeightsError(f"label_names: expected {classes} names, got {count}")
    described = _object(said.get("label_descriptions") or {}, "label_descriptions")
    return {
        "label_names": tuple(_text(name, "label_names") for name in names),
        "label_descriptions": {
            key: _text(text, "label_descriptions") for key, text in described.items()
        },
    }


def _fit(names: Any, classes: int) -> bool:
    """Return whether names are those of so many classes."""
    if isinstance(names, dict):
        return all(_is_index(key, classes) for key in names)
    return isinstance(names, list | tuple) and len(names) == classes


def _is_index(key: str, classes: int) -> bool:
    return key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < classes


def _index(key: str, classes: int) -> int:
    if not _is_index(key, classes):
        raise WeightsError(f"label_names: expected indices 0 … {classes - 1}, got {shown(key)}")
    return int(key)


# --- Types ----------------------------------------------------------------------------------------


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WeightsError(f"{what}: expected an object, got {shown(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise WeightsError(f"{what}: expected a text, got {shown(value)}")
    return "".join(character if character.isprintable() else " " for character in value)


def _quoted(error: Exception) -> str:
    """Return what an error says; it may repeat a stranger's text."""
    return shown(str(error), 300)[1:-1]


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
