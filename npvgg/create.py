"""From a name, a file and keywords to a model: `create_model`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npvgg.config import ConfigKeywords
from npvgg.errors import ArgumentError, refuse_keyword
from npvgg.formats import checkpoint
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.untrusted import blaming
from npvgg.hub import locate
from npvgg.hub.pretrained import default_tag, is_network, split_tag
from npvgg.model import FeatureNet, RepVGG
from npvgg.weights import timmconfig
from npvgg.weights.build import build_network, random_tensors
from npvgg.weights.identity import identify

Tensors = Mapping[str, NDArray[Any]]
Source = str | PathLike[str] | Checkpoint | Tensors


class ModelKeywords(ConfigKeywords, total=False):
    """The keywords of `create_model` but `features_only`, on which the type of the model hangs."""

    pretrained: bool
    weights: Source | None
    wrapper: str | None
    prefix: str | None
    reparameterize: bool
    dtype: DTypeLike
    engine: str
    threads: int | None
    out_indices: int | Sequence[int] | None
    seed: int


@overload
def create_model(
    name: str | None = None, *, features_only: Literal[True], **options: Unpack[ModelKeywords]
) -> FeatureNet: ...
@overload
def create_model(
    name: str | None = None,
    *,
    features_only: Literal[False] = False,
    **options: Unpack[ModelKeywords],
) -> RepVGG: ...
@overload
def create_model(
    name: str | None = None, *, features_only: bool, **options: Unpack[ModelKeywords]
) -> RepVGG | FeatureNet: ...
def create_model(
    name: str | None = None,
    *,
    pretrained: bool = False,
    weights: Source | None = None,
    wrapper: str | None = None,
    prefix: str | None = None,
    reparameterize: bool = True,
    dtype: DTypeLike = np.float32,
    engine: str = "auto",
    threads: int | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    seed: int = 0,
    **config: Unpack[ConfigKeywords],
) -> RepVGG | FeatureNet:
    """Make a RepVGG from a name, from a file, or from both.

    name: "repvgg_a2", "RepVGG-A2", or with a pretrained tag, "repvgg_a2.rvgg_in1k"; or a repository
        of timm's kind, "hf-hub:owner/name", "hf-hub:owner/name@revision", or a folder. May be left
        out where `weights` is such a folder, a file that npvgg wrote, or one that holds a network
        of the table
    pretrained: load the weights of the tag or repository: from the package, from the local Hugging
        Face cache, or, where they are in neither, from the hub (with the extra [hub])
    weights: a file, a folder, a `Checkpoint` of either, or a dict of name → array, in timm's or the
        original's naming, train or deploy form. Without weights and pretrained they are random
        (`seed`), for trying and testing
    wrapper: which weights of a training checkpoint to take, as in `checkpoint.load`;
        `model.origin.choice` tells which were taken
    prefix: take only the tensors whose names begin so, "backbone.", and without it
    reparameterize: fold train-form weights into one convolution per block; False runs the branches
    dtype: float32 or float64, of weights and arithmetic
    engine, threads: see `npvgg.engines.prepare`
    features_only, out_indices: give a `FeatureNet`, which returns maps; `out_indices` as `indices`
        of `RepVGG.forward_intermediates`
    config: any field of `RepVGGConfig`, and `width_factor`

    Raises ArgumentError for a bad argument, WeightsError for weights that are not exactly this
    network's.
    """
    if weights is not None and pretrained:
        raise ArgumentError("weights: expected either weights or pretrained=True, got both")
    if out_indices is not None and not features_only:
        raise ArgumentError("out_indices: expected features_only=True with it")
    if features_only:
        config["num_classes"] = 0
    resolved_dtype = _checked_dtype(dtype)
    _check_keywords(config)

    if name is not None and (folder := _repository(name, pretrained)):
        name, pretrained, weights = None, False, folder
    if pretrained:
        architecture, tag = split_tag(name) if name is not None else (None, None)
        weights = locate.locate(f"{architecture}.{tag or default_tag(architecture)}")
        name = f"{architecture}.{tag or default_tag(architecture)}"
    tensors, origin = _read(weights, wrapper, prefix)
    path = origin.path if origin else None
    with blaming(path):
        found = identify(name, tensors, origin)
    found = found.with_changes(**config)
    if tensors is None:
        tensors = random_tensors(found.config, _checked_seed(seed))
        found = replace(found, tag="")  # a tag stands for weights
    with blaming(path):
        network = build_network(tensors, found.config, resolved_dtype)
    del tensors  # a file's worth of memory, before the engine asks for its own
    model = RepVGG(
        found.name,
        found.config,
        network.reparameterized() if reparameterize else network,
        found.pretrained_cfg,
        engine=engine,
        threads=threads,
        origin=origin,
    )
    return FeatureNet(model, out_indices) if features_only else model


def _repository(name: object, pretrained: bool) -> Path | None:
    """Find the folder that a name means, of the hub or of this machine; None for a network's name.

    Raises ArgumentError, WeightsError.
    """
    if not isinstance(name, str):
        return None
    if not set(name) & set(":/\\") and (is_network(name) or not os.path.isdir(name)):
        return None
    source, colon, place = name.partition(":")
    if not colon or len(source) == 1:  # C: is a drive
        source, place = "local-dir", name
    if source not in ("hf-hub", "hf_hub", "local-dir") or not place:
        raise ArgumentError(f"name: expected hf-hub:owner/name or a folder, got {name!r}")
    if not pretrained:
        raise ArgumentError(f"pretrained: expected True with {name!r}, whose weights are meant")
    if source != "local-dir":
        return locate.obtain(*locate.split_revision(place))
    if not os.path.isdir(place):
        raise ArgumentError(
            f"name: expected a folder, got {place!r}; a repository of the hub is hf-hub:{place}"
        )
    return Path(place)


def _read(
    source: Source | None, wrapper: str | None, prefix: str | None
) -> tuple[Tensors | None, Checkpoint | None]:
    """Read what the caller gave as weights: tensors, and the file that they are of without them."""
    if isinstance(source, str | PathLike):
        source = checkpoint.load_with_metadata(source, wrapper=wrapper, prefix=prefix)
    elif (wrapper, prefix) != (None, None):
        what = "prefix" if wrapper is None else "wrapper"
        raise ArgumentError(f"{what}: expected a weights file with it")
    if not isinstance(source, Checkpoint):
        return source, None
    return source.tensors, replace(source, tensors={})


def _check_keywords(config: Mapping[str, Any]) -> None:
    """Every keyword is one of a configuration, or ArgumentError names the nearest of all."""
    for name in config:
        if name not in timmconfig.KEYWORDS:
            refuse_keyword(name, "create_model", {"features_only", *ModelKeywords.__annotations__})


def _checked_seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ArgumentError(f"seed: expected an integer of at least 0, got {seed!r}")
    return seed


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        resolved = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64
    except TypeError:
        resolved = None
    if resolved not in (np.float32, np.float64):
        raise ArgumentError(f"dtype: expected float32 or float64, got {dtype!r}")
    return resolved
