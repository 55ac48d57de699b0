"""From a name, a file and keywords to a model: `create_model`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npvgg import from_timm
from npvgg.config import ConfigKeywords
from npvgg.errors import ArgumentError, WeightsError, refuse_keyword
from npvgg.formats import checkpoint
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.folder import weights_in
from npvgg.formats.untrusted import blaming
from npvgg.hub import locate
from npvgg.hub.pretrained import default_tag, is_network, split_tag
from npvgg.model import FeatureNet, RepVGG
from npvgg.rounding import whatever_seterr_says
from npvgg.weights import timmconfig
from npvgg.weights.adapt import adapt
from npvgg.weights.build import build_network, random_tensors
from npvgg.weights.identity import Identity, identify
from npvgg.weights.timmconfig import DEFAULTS

Tensors = Mapping[str, NDArray[Any]]
Source = str | PathLike[str] | Checkpoint | Tensors


SOURCES = ("state_dict", "file", "hf_hub_id")
"""Where a pretrained_cfg may say that weights are; the first goes before the others, as in timm."""

CFG_KEYS = {
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture",
    "tag", "custom_load", "input_size", "test_input_size", "min_input_size", "fixed_input_size",
    "interpolation", "crop_pct", "test_crop_pct", "crop_mode", "mean", "std", "num_classes",
    "label_offset", "label_names", "label_descriptions", "pool_size", "test_pool_size",
    "first_conv", "classifier", "license", "description", "origin_url", "paper_name",
    "paper_ids", "notes", "bundled",
}  # fmt: skip
"""The fields of timm's PretrainedCfg; and `bundled`, of what ships in the package."""


class TimmKeywords(TypedDict, total=False):
    """The keywords of timm's that change nothing, or have one value, for a RepVGG."""

    drop_rate: float | None
    drop_path_rate: float | None
    drop_block_rate: float | None
    drop_block_size: int | None
    zero_init_last: bool | None
    img_size: int | tuple[int, int] | None
    fixed_input_size: bool | None
    downsample: str | None
    self_attn_layer: str | None
    self_attn_kwargs: Mapping[str, Any] | None
    stem_pool: str | None
    stem_type: str | None
    num_features: int | None
    head_type: str | None
    head_hidden_size: None
    norm_layer: str | None
    aa_layer: str | None
    pruned: bool | None
    device: object
    feature_cls: str | None


class GatheredKeywords(ConfigKeywords, TimmKeywords, total=False):
    """The keywords that `create_model` gathers in `config`."""


class ModelKeywords(GatheredKeywords, total=False):
    """Every keyword of `create_model` behind its positional ones, but `features_only`."""

    name: str | None
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
    model_name: str | None = None,
    pretrained: bool = False,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    scriptable: bool | None = None,
    exportable: bool | None = None,
    no_jit: bool | None = None,
    *,
    features_only: Literal[True],
    **options: Unpack[ModelKeywords],
) -> FeatureNet: ...
@overload
def create_model(
    model_name: str | None = None,
    pretrained: bool = False,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    scriptable: bool | None = None,
    exportable: bool | None = None,
    no_jit: bool | None = None,
    *,
    features_only: Literal[False] = False,
    **options: Unpack[ModelKeywords],
) -> RepVGG: ...
@overload
def create_model(
    model_name: str | None = None,
    pretrained: bool = False,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    scriptable: bool | None = None,
    exportable: bool | None = None,
    no_jit: bool | None = None,
    *,
    features_only: bool,
    **options: Unpack[ModelKeywords],
) -> RepVGG | FeatureNet: ...
@whatever_seterr_says
def create_model(
    model_name: str | None = None,
    pretrained: bool = False,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    scriptable: bool | None = None,
    exportable: bool | None = None,
    no_jit: bool | None = None,
    *,
    name: str | None = None,
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
    **config: Unpack[GatheredKeywords],
) -> RepVGG | FeatureNet:
    """Make a RepVGG from a name, from a file, or from both.

    model_name: "repvgg_a2", "RepVGG-A2", or with a pretrained tag, "repvgg_a2.rvgg_in1k"; or a
        repository of timm's kind, "hf-hub:owner/name", "hf-hub:owner/name@revision", or a folder.
        May be left out where `weights` is such a folder, a file that npvgg wrote, or one that holds
        a network of the table. `name` is the same
    pretrained: load the weights of the tag or repository: from the package, from the local Hugging
        Face cache, or, where they are in neither, from the hub (with the extra [hub]). They are
        adapted to other `in_chans` and `num_classes` as timm adapts them: the first kernels are
        repeated or summed over their channels, and another classifier is random (`seed`); the log
        (logger "npvgg") and `model.caveats` tell
    pretrained_cfg: a tag, or a mapping in place of the table's, as timm's: how images are prepared,
        and where weights are, under "state_dict", "file" or "hf_hub_id"
    pretrained_cfg_overlay: what replaces some of its entries
    checkpoint_path: a file of weights for the finished network, as `weights`; goes before
        `pretrained`
    cache_dir: the folder of the Hugging Face cache
    scriptable, exportable, no_jit: nothing (`npvgg.from_timm` has all of timm's keywords)
    weights: a file, a folder, a `Checkpoint` of either, or a dict of name → array, in timm's or the
        original's naming, train or deploy form; never adapted. Without weights and pretrained they
        are random (`seed`), for trying and testing
    wrapper: which weights of a training checkpoint to take, as in `checkpoint.load`;
        `model.origin.choice` tells which were taken
    prefix: take only the tensors whose names begin so, "backbone.", and without it
    reparameterize: fold train-form weights into one convolution per block; False runs the branches
    dtype: float32 or float64, of weights and arithmetic
    engine, threads: see `npvgg.engines.prepare`
    features_only, out_indices: give a `FeatureNet`, which returns maps; `out_indices` as `indices`
        of `RepVGG.forward_intermediates`
    config: any field of `RepVGGConfig`, and `width_factor`. None leaves a field as it is, as in
        timm, and attn_layer="" takes the attention away

    Raises ArgumentError for a bad argument, WeightsError for weights that are not exactly this
    network's.
    """
    if model_name is not None and name is not None:
        raise ArgumentError("name: expected model_name or name, got both")
    if weights is not None and (pretrained or checkpoint_path):
        other = "checkpoint_path" if checkpoint_path else "pretrained=True"
        raise ArgumentError(f"weights: expected either weights or {other}, got both")
    if out_indices is not None and not features_only:
        raise ArgumentError("out_indices: expected features_only=True with it")
    changes = _checked_keywords(config)
    if features_only:
        changes["num_classes"] = 0
    resolved_dtype = _checked_dtype(dtype)
    said = _checked_cfg(pretrained_cfg, pretrained_cfg_overlay)

    name = _with_tag(model_name if name is None else name, pretrained_cfg)
    weights = checkpoint_path or weights
    adapting = pretrained and not checkpoint_path
    if name is not None and (folder := _repository(name, pretrained, cache_dir)):
        if said or checkpoint_path:
            given = "checkpoint_path" if checkpoint_path else "pretrained_cfg"
            raise ArgumentError(f"{given}: expected the name of a network with it, got {name!r}")
        name, weights = None, folder
    elif adapting:
        name, weights = _pretrained(name, said, isinstance(pretrained_cfg, Mapping), cache_dir)
    tensors, origin = _read(weights, wrapper, prefix)
    path = origin.path if origin else None
    with blaming(path):
        source = identify(name, tensors, origin, headless=changes.get("num_classes") == 0)
    found = _described(source, said, isinstance(pretrained_cfg, Mapping), tensors is None)
    found = found.with_changes(**changes)
    caveats: tuple[str, ...] = ()
    if tensors is None:
        tensors, caveats = random_tensors(found.config, _checked_seed(seed)), ("random weights",)
        found = replace(found, tag="")  # a tag stands for weights
    elif adapting:
        with blaming(path):
            tensors, caveats = adapt(tensors, source.config, found.config, _checked_seed(seed))
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
        caveats=caveats,
    )
    return FeatureNet(model, out_indices) if features_only else model


# --- Which weights --------------------------------------------------------------------------------


def _with_tag(name: str | None, pretrained_cfg: str | Mapping[str, Any] | None) -> str | None:
    """Return the network's name with the tag that `pretrained_cfg` is, if it is one."""
    if not isinstance(pretrained_cfg, str) or not pretrained_cfg or not isinstance(name, str):
        return name
    return f"{split_tag(name.partition('.')[0])[0]}.{pretrained_cfg}"


def _pretrained(
    name: str | None, said: Mapping[str, Any], whole: bool, cache: str | PathLike[str] | None
) -> tuple[str, Source]:
    """Find the weights of a network: where its data configuration says, or by its tag.

    said: what the caller says of the configuration; whole: and nothing else counts
    → the network's name, with the tag if the weights are the tag's; the weights
    """
    architecture, tag = split_tag(name) if name is not None else (None, None)
    if architecture is not None:
        if said.get("state_dict"):
            return architecture, said["state_dict"]
        if said.get("file"):
            return architecture, said["file"]
        if said.get("hf_hub_id"):
            folder = locate.obtain(
                *locate.split_revision(str(said["hf_hub_id"])), config=False, cache=cache
            )
            return architecture, weights_in(folder)
        if whole:
            raise ArgumentError(
                "pretrained_cfg: expected 'state_dict', 'file' or 'hf_hub_id' in it with "
                "pretrained=True"
            )
    tag = tag or default_tag(architecture)
    return f"{architecture}.{tag}", locate.locate(f"{architecture}.{tag}", cache)


def _described(found: Identity, said: Mapping[str, Any], whole: bool, weightless: bool) -> Identity:
    """Return a network the data configuration that the caller wants for it.

    Where there are no weights to tell, the ends of the network follow it too.
    """
    if not said and not whole:
        return found
    cfg = DEFAULTS if whole else found.pretrained_cfg
    cfg = {**cfg, **{key: value for key, value in said.items() if key not in SOURCES}}
    try:
        if weightless:
            ends = {"num_classes": cfg.get("num_classes", 1000), "in_chans": cfg["input_size"][0]}
            found = found.with_changes(**ends)
        cfg = timmconfig.checked(cfg, found.config.num_classes)
    except (WeightsError, TypeError, IndexError) as error:
        raise ArgumentError(f"pretrained_cfg: {error}") from None
    return replace(found, pretrained_cfg=cfg)


def _repository(name: object, pretrained: bool, cache: str | PathLike[str] | None) -> Path | None:
    """Find the folder that a name means, of the hub or of this machine; None for a network's name.

    Raises ArgumentError, WeightsError.
    """
    if not isinstance(name, str):
        return None
    if not set(name) & set(":/\\") and (is_network(name) or not os.path.isdir(name)):
        return None
    source, colon, place = name.partition(":")
    known = source in ("hf-hub", "hf_hub", "local-dir")
    if not colon or len(source) == 1 or (not known and os.path.isdir(name)):  # C: is a drive
        known, source, place = True, "local-dir", name
    if not known or not place:
        raise ArgumentError(f"name: expected hf-hub:owner/name or a folder, got {name!r}")
    if not pretrained:
        raise ArgumentError(f"pretrained: expected True with {name!r}, whose weights are meant")
    if source != "local-dir":
        return locate.obtain(*locate.split_revision(place), cache=cache)
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


# --- Checks ---------------------------------------------------------------------------------------


def _checked_keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes the configuration; what changes nothing is left, as None is.

    Raises ArgumentError for a keyword or a value that is refused, and names the nearest keyword.
    """
    changes = {}
    for name, value in given.items():
        if name in TimmKeywords.__annotations__:
            from_timm.refuse_value(name, value)
        elif name in ConfigKeywords.__annotations__:
            if value is not None:
                changes[name] = None if name == "attn_layer" and value == "" else value
        elif from_timm.refused("create_model", name):
            from_timm.refuse("create_model", name)
        else:
            own = signature(create_model).parameters.keys() - {"config"}
            refuse_keyword(name, "create_model", own | ConfigKeywords.__annotations__.keys())
    return changes


def _checked_cfg(
    whole: str | Mapping[str, Any] | None, overlay: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what the caller says of the data configuration, in timm's words."""
    said: dict[str, Any] = {}
    for argument, cfg in (("pretrained_cfg", whole), ("pretrained_cfg_overlay", overlay)):
        if cfg is None or (argument == "pretrained_cfg" and isinstance(cfg, str)):
            continue
        if not isinstance(cfg, Mapping):
            raise ArgumentError(f"{argument}: expected a mapping, got {type(cfg).__name__}")
        for key, value in cfg.items():
            if key not in CFG_KEYS:
                refuse_keyword(key, argument, CFG_KEYS)
            if key in ("url", "hf_hub_filename", "custom_load", "label_offset") and value:
                raise ArgumentError(
                    f"{argument}[{key!r}]: expected none; give weights= a file that is on this "
                    "machine, or a dict of arrays"
                )
            said[key] = tuple(value) if isinstance(value, list) else value
    return {key: value for key, value in said.items() if value is not None}


def _checked_seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ArgumentError(f"seed: expected an integer of at least 0, got {seed!r}")
    return seed


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:  # torch's types say "torch.float32"; NumPy takes None for float64
        named = str(dtype).removeprefix("torch.") if "torch." in str(dtype) else dtype
        resolved = None if dtype is None else np.dtype(named)
    except TypeError:
        resolved = None
    if resolved not in (np.float32, np.float64):
        raise ArgumentError(f"dtype: expected float32 or float64, got {dtype!r}")
    return resolved
