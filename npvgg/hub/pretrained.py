"""The pretrained tags: which weights there are for which network, and how their images are
prepared.

Keys and values are those of timm's `pretrained_cfg`, so that `data.resolve_model_data_config` reads
both.

Source: timm 1.0.31 `byobnet.py` `default_cfgs`; the two networks that timm lacks are from
DingXiaoH/RepVGG.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from fnmatch import fnmatchcase
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


def list_models(
    filter: str | Iterable[str] = "",
    module: str | Iterable[str] = "",
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = "",
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
) -> list[str]:
    """List the named networks, in natural order, as timm does.

    filter: pattern(s) of names, with `*`, `?` and `[…]`, one of which the whole name must match;
        where tags are listed, a pattern without one means every tag
    module: timm's module(s) of networks; all of these are in "byobnet"
    pretrained: those with pretrained weights alone, and with their tags
    exclude_filters: pattern(s) of names to leave out
    name_matches_cfg: those that have a data configuration of their own
    include_tags: "network.tag" for every tag, in place of "network"; as `pretrained` by default

    Source: timm 1.0.31 `models/_registry.py` `list_models`.
    """
    tagged = pretrained if include_tags is None else include_tags
    filters, excluded, modules = _patterns(filter), _patterns(exclude_filters), _patterns(module)
    names = [] if modules and "byobnet" not in modules else list(VARIANTS)
    if tagged:
        names = [full for name in names for full in _tags(name) or [name]]
        filters, excluded = _with_every_tag(filters), _with_every_tag(excluded)
    if filters:
        names = [n for n in names if any(fnmatchcase(n, pattern) for pattern in filters)]
    names = [n for n in names if not any(fnmatchcase(n, pattern) for pattern in excluded)]
    if pretrained:
        names = [n for n in names if n in PRETRAINED or _tags(n)]
    if name_matches_cfg:
        names = [n for n in names if n in PRETRAINED or _tags(n)]
    return sorted(names, key=_natural)


def list_pretrained(
    filter: str | Iterable[str] = "", exclude_filters: str | Iterable[str] = ""
) -> list[str]:
    """List the pretrained tags, "network.tag", in natural order; patterns as of `list_models`."""
    return list_models(filter, pretrained=True, exclude_filters=exclude_filters)


def is_model(model_name: str) -> bool:
    """Return whether there is a network of this name, whatever tag stands behind it."""
    return isinstance(model_name, str) and is_network(model_name)


def get_pretrained_cfg(model_name: str, allow_unregistered: bool = True) -> dict[str, Any] | None:
    """Return a copy of the data configuration of a network, or of a tag, as a dict of timm's
    fields.

    allow_unregistered: give None for an unknown network, in place of an error
    Raises ArgumentError for an unknown tag of a known network.
    """
    if allow_unregistered and not is_model(model_name):
        return None
    return pretrained_cfg(*split_tag(model_name))


def _patterns(given: str | Iterable[str]) -> list[str]:
    return [given] * bool(given) if isinstance(given, str) else list(given)


def _with_every_tag(patterns: list[str]) -> list[str]:
    return patterns + [f"{p}.*" for p in patterns if not p.partition(".")[2]]


def _tags(architecture: str) -> list[str]:
    return [full for full, cfg in PRETRAINED.items() if cfg["architecture"] == architecture]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Order numbers in a name by their size: b2 before b10."""
    parts = re.split(r"(\d+)", name)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]


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
    """Return the data configuration of a network: its tag's, or that of its first tag, or
    ImageNet's at 224.

    The two large networks that timm lacks at 320 pixels are evaluated there by their authors.
    """
    for cfg in PRETRAINED.values():
        if cfg["architecture"] == architecture and tag in (None, cfg["tag"]):
            return deepcopy(dict(cfg))
    common = _AT_320 if architecture == "repvggplus_l2pse" else _IMAGENET
    return {**deepcopy(common), "architecture": architecture, "tag": ""}


def default_tag(architecture: str | None) -> str:
    """Return the pretrained tag that is meant when none is named.

    Raises ArgumentError for a network without pretrained weights.
    """
    for cfg in PRETRAINED.values():
        if cfg["architecture"] == architecture:
            return str(cfg["tag"])
    raise ArgumentError(
        f"pretrained: expected a network with pretrained weights ({', '.join(PRETRAINED)}), "
        f"got {architecture or 'no name'}; or pass weights='/path/to/file'"
    )
