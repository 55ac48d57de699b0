"""Which network is this? One answer, for `create_model`, the tools, the export and the packs.

    its name        the caller's word, else the folder's config.json, else the file's metadata, else
                    the network of the table whose tensors have these names and shapes
    its widths      those of the name; what shapes cannot show (activations, dilation) is taken from
                    metadata that speak of the same network
    its ends        as many classes and image channels as the tensors have, whatever else is said
    its images      config.json's or the metadata's, else the table's for this name and tag
    its labels      one for each class. Names of another number of classes that came with a head
                    which is not in the file are left out

A name and a config.json that contradict each other are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from npvgg.config import RepVGGConfig
from npvgg.errors import ArgumentError
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.folder import CONFIG
from npvgg.hub.pretrained import is_network, pretrained_cfg, split_tag
from npvgg.variants import VARIANTS
from npvgg.weights import build, metadata, timmconfig
from npvgg.weights.build import Tensors
from npvgg.weights.cost import check_cost

_size = attrgetter("depths", "widths", "stem_chs", "groups")


@dataclass(frozen=True)
class Identity:
    """A network's name, its pretrained tag ("" for none), its architecture and its images."""

    architecture: str
    tag: str
    config: RepVGGConfig
    pretrained_cfg: dict[str, Any]

    @property
    def name(self) -> str:
        """The name with its tag, "repvgg_a0.pets"."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    def with_changes(self, **changes: Any) -> Identity:
        """Return the network with some fields of its configuration replaced.

        Its data configuration follows: channels, classes, and no names of other classes.
        Raises ArgumentError.
        """
        return _fitted(replace(self, config=self.config.with_changes(**changes)))


def identify(
    name: str | None = None,
    tensors: Tensors | None = None,
    file: Checkpoint | None = None,
    *,
    headless: bool = False,
) -> Identity:
    """Return which network it is: by the caller's word, by its tensors, by what its file says.

    name: a network of the table, with a pretrained tag or without; None where the file tells
    tensors: in either naming and form; None for a network without weights
    file: what the tensors were read from: its metadata and the config.json beside it count
    headless: without a classifier, whatever the tensors have; labels, right or wrong, do not matter

    Raises ArgumentError for an unknown or contradicted name, and with neither name nor tensors;
    WeightsError where the file describes no network, or its tensors are of none in the table.
    """
    architecture, tag = split_tag(name) if name is not None else (None, None)
    ends = build.ends(tensors) if tensors is not None else build.Ends(None, None)
    if headless:
        ends = ends._replace(classes=0)
    if file is not None and file.config is not None:
        found = _from_config(architecture, tag, timmconfig.read(file.config, *ends))
    else:
        found = _from_metadata(architecture, tag, tensors, file.metadata if file else {}, ends)
    found = _fitted(found)
    for key in ("input_size", "test_input_size") if file is not None else ():
        if key in found.pretrained_cfg:
            check_cost(found.config, *found.pretrained_cfg[key][1:])
    return found


def _from_config(
    architecture: str | None, tag: str | None, said: timmconfig.Description
) -> Identity:
    if architecture not in (None, said.architecture):
        raise ArgumentError(
            f"name: expected {said.architecture}, which the folder's {CONFIG} says, "
            f"got {architecture}"
        )
    cfg = pretrained_cfg(said.architecture, tag) if tag else said.pretrained_cfg
    return Identity(said.architecture, tag or said.tag, said.config, cfg)


def _from_metadata(
    named: str | None,
    tag: str | None,
    tensors: Tensors | None,
    entries: Mapping[str, str],
    ends: build.Ends,
) -> Identity:
    """Identify without a config.json: by the name, the metadata, the tensors."""
    said, own_tag = _split(metadata.model_of(entries)) if entries else ("", "")
    own = metadata.config_of(entries) if named in (None, said) else None
    if named is None and own is not None:
        architecture, config, found_tag = said, own, own_tag
    elif named is not None:
        architecture, row, found_tag = named, VARIANTS[named], tag or ""
        config = own if own is not None and _size(own) == _size(row) else row
    elif tensors is not None:
        (architecture, config), found_tag = build.infer_config(tensors), ""
    else:
        raise ArgumentError("name: expected the name of a network, or weights; got neither")
    config = ends.fit(config)
    cfg = pretrained_cfg(architecture, tag)
    described = None if tag else metadata.pretrained_cfg_of(entries)
    if described is not None:
        others = named not in (None, said)  # of another network, as its tensors will tell
        if others and len(described.get("label_names", ())) != config.num_classes:
            described = _without_labels(described)
        cfg = timmconfig.checked(_without_labels(cfg) | described, config.num_classes)
    elif tensors is not None and not tag:  # the names of a tag's classes are those of its weights
        cfg = _without_labels(cfg)
    return Identity(architecture, found_tag, config, cfg)


def _split(name: str) -> tuple[str, str]:
    """Split a name that a file states into network and tag; the tag may be unknown."""
    architecture, _, tag = name.partition(".")
    return (architecture, tag) if is_network(name) else (name, "")


def _fitted(found: Identity) -> Identity:
    """Make the data configuration agree with the network's ends."""
    config, cfg = found.config, found.pretrained_cfg
    if len(cfg.get("label_names", ())) not in (0, config.num_classes):
        cfg = _without_labels(cfg)
    size = (config.in_chans, *cfg["input_size"][1:])
    cfg = {**cfg, "num_classes": config.num_classes, "input_size": size}
    return replace(found, pretrained_cfg=cfg)


def _without_labels(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cfg.items() if not key.startswith("label_")}
