"""From a name, a file and keywords to a model: `create_model`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npvgg import checkpoint, hub
from npvgg.config import RepVGGConfig
from npvgg.errors import ArgumentError, WeightsError
from npvgg.model import FeatureNet, RepVGG
from npvgg.pretrained import default_tag, pretrained_cfg, split_tag
from npvgg.variants import VARIANTS
from npvgg.weights import build_network, infer_config, random_tensors

Tensors = Mapping[str, NDArray[Any]]
Source = str | PathLike[str] | Tensors


@overload
def create_model(
    name: str | None = None, *, features_only: Literal[True], **options: Any
) -> FeatureNet: ...
@overload
def create_model(
    name: str | None = None, *, features_only: Literal[False] = False, **options: Any
) -> RepVGG: ...
def create_model(
    name: str | None = None,
    *,
    pretrained: bool = False,
    weights: Source | None = None,
    reparameterize: bool = True,
    dtype: DTypeLike = np.float32,
    engine: str = "auto",
    threads: int | None = None,
    deterministic: bool = False,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    seed: int = 0,
    **config: Any,
) -> RepVGG | FeatureNet:
    """Make a RepVGG from a name, from a file, or from both.

    name: "repvgg_a2", "RepVGG-A2", or with a pretrained tag, "repvgg_a2.rvgg_in1k"; may be left out
        where `weights` is a file that npvgg wrote, or holds a network of the table
    pretrained: load the tag's weights, from the package or from the local Hugging Face cache
    weights: a file, or a dict of name → array, in timm's or the original's naming, train or deploy
        form. Without weights and pretrained they are random (`seed`), for trying and testing
    reparameterize: fold train-form weights into one convolution per block; False runs the branches
    dtype: float32 or float64, of weights and arithmetic
    engine, threads, deterministic: see `npvgg.engines.prepare`
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

    architecture, tag = split_tag(name) if name is not None else (None, None)
    if pretrained:
        tag = tag or default_tag(architecture)
        weights = hub.locate(f"{architecture}.{tag}")
    tensors, metadata = _read(weights)
    architecture, row, cfg = _identify(architecture, tag, tensors, metadata)
    row = row.with_changes(**config)
    height, width = _image_size(cfg)
    cfg |= {"num_classes": row.num_classes, "input_size": (row.in_chans, height, width)}
    if tensors is None:
        tensors = random_tensors(row, _checked_seed(seed))

    network = build_network(tensors, row, resolved_dtype)
    del tensors  # a file's worth of memory, before the engine asks for its own
    model = RepVGG(
        f"{architecture}.{tag}" if tag else architecture,
        row,
        network.reparameterized() if reparameterize else network,
        cfg,
        engine=engine,
        threads=threads,
        deterministic=deterministic,
    )
    return FeatureNet(model, out_indices) if features_only else model


def _read(source: Source | None) -> tuple[Tensors | None, Mapping[str, str]]:
    """Read what the caller gave as weights: (tensors, the file's metadata)."""
    if isinstance(source, str | PathLike):
        file = checkpoint.load_with_metadata(source)
        return file.tensors, file.metadata
    return source, {}


def _identify(
    architecture: str | None, tag: str | None, tensors: Tensors | None, metadata: Mapping[str, str]
) -> tuple[str, RepVGGConfig, dict[str, Any]]:
    """Settle which network it is: its name, its configuration, its data configuration.

    The caller's word goes first, then the file's metadata, then the names and shapes of the
    tensors.
    """
    if architecture is not None:
        row = VARIANTS[architecture]
    elif "npvgg.config" in metadata:
        architecture, row = config_from(metadata)
    elif tensors is not None:
        architecture, row = infer_config(tensors)
    else:
        raise ArgumentError("name: expected the name of a network, or weights; got neither")
    own = {} if tag else _json_object(metadata, "npvgg.pretrained_cfg")
    return architecture, row, pretrained_cfg(architecture, tag) | own


def config_from(metadata: Mapping[str, str]) -> tuple[str, RepVGGConfig]:
    """Read name and configuration from the metadata that `RepVGG.save` writes."""
    name = metadata.get("npvgg.model", "RepVGG")
    if not name.isprintable() or len(name) > 100:
        raise WeightsError("weights: the file's metadata 'npvgg.model' is not a name")
    try:
        return name, RepVGGConfig(**_json_object(metadata, "npvgg.config"))
    except (TypeError, ArgumentError) as error:
        raise WeightsError(
            f"weights: the file's metadata 'npvgg.config' is not a configuration: {error}"
        ) from None


def _json_object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise WeightsError(f"weights: the file's metadata {key!r} is not a JSON object")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


def _image_size(cfg: Mapping[str, Any]) -> tuple[int, int]:
    """Read height and width of a data configuration, which may come from a file's metadata."""
    size = cfg["input_size"]
    if (
        not isinstance(size, tuple)
        or len(size) != 3
        or not all(type(s) is int and s > 0 for s in size)
    ):
        raise WeightsError(
            "weights: the file's metadata 'npvgg.pretrained_cfg' must have an input_size of three "
            "positive integers (C, H, W)"
        )
    return size[1], size[2]


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
