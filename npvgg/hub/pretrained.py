"""The pretrained tags: which weights there are for which network, and how their images are
prepared.

Keys and values are those of timm's `pretrained_cfg`, so that `data.resolve_model_data_config` reads
both.

Source: timm 1.0.31 `byobnet.py` `default_cfgs`; the two networks that timm lacks are from
DingXiaoH/RepVGG.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from fnmatch import fnmatchcase
from glob import has_magic
from types import MappingProxyType
from typing import Any

from npvgg.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from npvgg.errors import ArgumentError
from npvgg.variants import VARIANTS, canonical_name, spelled

_IMAGENET: dict[str, Any] = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bilinear",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": ("stem.conv_kxk.conv", "stem.conv_1x1.conv"),
    "classifier": "head.fc",
    "license": "mit",
}
_AT_320: dict[str, Any] = {
    **_IMAGENET,
    "input_size": (3, 320, 320),
    "pool_size": (10, 10),
    "crop_pct": 1.0,
}

_CIFAR10: dict[str, Any] = {
    **_IMAGENET,
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": (4, 4),
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
    "label_names": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
}  # fmt: skip

BUNDLED = "repvgg_nano.cifar10"
"""The tag whose weights ship in the package; what the command line runs when no network is named.
"""

_ON_THE_HUB = ("a0", "a1", "a2", "b0", "b1", "b1g4", "b2", "b2g4", "b3", "b3g4", "d2se")

PRETRAINED: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    f"repvgg_{name}.rvgg_in1k": {
        **(_AT_320 if name == "d2se" else _IMAGENET),
        "architecture": f"repvgg_{name}",
        "tag": "rvgg_in1k",
        "hf_hub_id": f"timm/repvgg_{name}.rvgg_in1k",
    }
    for name in _ON_THE_HUB
} | {
    BUNDLED: {
        **_CIFAR10,
        "architecture": "repvgg_nano",
        "tag": "cifar10",
        "bundled": "repvgg_nano.cifar10.safetensors",
    }
})  # fmt: skip
"""Tag → pretrained_cfg."""


def list_models(pattern: str = "", *, pretrained: bool = False) -> list[str]:
    """List the named networks, or the pretrained tags, whose name contains `pattern`; with `*`, `?`
    or `[…]` in it the whole name must match, with or without the tag, as in timm.
    """
    names, pattern = PRETRAINED if pretrained else VARIANTS, pattern.lower()
    if not has_magic(pattern):
        return [name for name in names if pattern in name]
    return [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]


def split_tag(name: str) -> tuple[str, str | None]:
    """Split "repvgg_a2.rvgg_in1k" into the network's canonical name and the tag, None where there
    is none.

    Raises ArgumentError for an unknown network or tag.
    """
    if not isinstance(name, str):
        raise ArgumentError(
            f"name: expected the name of a network (str), got {type(name).__name__}"
        )
    architecture, _, tag = name.strip().partition(".")
    architecture = canonical_name(architecture if is_network(name) else name)
    tags = [cfg["tag"] for cfg in PRETRAINED.values() if cfg["architecture"] == architecture]
    if tag and tag not in tags:
        known = ", ".join(tags) or "none"
        raise ArgumentError(
            f"name: expected a pretrained tag of {architecture} ({known}), got {tag!r}"
        )
    return architecture, tag or None


def is_network(name: str) -> bool:
    """Whether a name is a network of the table, with a tag or without, right or wrong."""
    return spelled(name.partition(".")[0]) in VARIANTS


def pretrained_cfg(architecture: str, tag: str | None = None) -> dict[str, Any]:
    """Give the data configuration of a network: its tag's, or that of its first tag, or ImageNet's
    at 224.

    The two large networks that timm lacks at 320 pixels are evaluated there by their authors.
    """
    for cfg in PRETRAINED.values():
        if cfg["architecture"] == architecture and tag in (None, cfg["tag"]):
            return deepcopy(dict(cfg))
    common = _AT_320 if architecture == "repvggplus_l2pse" else _IMAGENET
    return {**deepcopy(common), "architecture": architecture, "tag": ""}


def default_tag(architecture: str | None) -> str:
    """Give the pretrained tag that is meant when none is named.

    Raises ArgumentError for a network without pretrained weights.
    """
    for cfg in PRETRAINED.values():
        if cfg["architecture"] == architecture:
            return str(cfg["tag"])
    raise ArgumentError(
        f"pretrained: expected a network with pretrained weights ({', '.join(PRETRAINED)}), "
        f"got {architecture or 'no name'}; or pass weights='/path/to/file'"
    )
