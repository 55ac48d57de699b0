"""REBINDING: one weights file → another: other form, names, number type or container.

    train → deploy   is the re-parameterization (`reparam`), in float64 and rounded once, or in
                     float32 step by step, in the order of timm and the original
    timm ↔ original  is a change of names (`keymap`)

Where neither form nor names nor a network are given, every tensor is copied as it is, whatever
network it is of. The new file says where it comes from: the source's name and sha256, the fold,
this version.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npvgg.config import RepVGGConfig
from npvgg.create import config_from
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.files import open_regular
from npvgg.formats.untrusted import blaming
from npvgg.network import Block, Network
from npvgg.ops import Array
from npvgg.reparam import (
    BatchNorm,
    Branches,
    FusedConv,
    identity_kernel,
    pad_1x1_to_3x3,
    reparameterize,
)
from npvgg.variants import VARIANTS, canonical_name
from npvgg.version import __version__
from npvgg.weights import build, keymap, timmconfig

FORMS = ("deploy", "train")
NAMINGS = ("timm", "original")
FOLD_DTYPES = {"f32": "float32", "f64": "float64"}
WRITERS = {
    ".safetensors": checkpoint.save_safetensors,
    ".pth": checkpoint.save_pth,
    ".pt": checkpoint.save_pth,
    ".bin": checkpoint.save_pth,
}


@dataclass(frozen=True)
class Converted:
    """What was written: tensors, before they are rounded to `dtype`; metadata; and its source."""

    source: Checkpoint
    tensors: dict[str, NDArray[Any]]
    metadata: dict[str, str]
    dtype: str | None


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str | None = None,
    form: str | None = None,
    naming: str | None = None,
    dtype: str | None = None,
    fold_dtype: str = "f64",
    wrapper: str | None = None,
    overwrite: bool = False,
) -> Converted:
    """Write the weights of `source` into `target`, a .safetensors or .pth file by its suffix.

    model: the network, where the file's names and shapes do not tell
    form: "deploy" folds train-form weights; None keeps the form
    naming: "timm" or "original"; None keeps the names
    dtype: "f32", "f16" or "bf16", that of the floating-point tensors; None keeps that of the file
    fold_dtype: "f64" folds in float64 and rounds once, "f32" rounds every step as timm does
    wrapper: as in `checkpoint.load`

    Raises ArgumentError, WeightsError; an existing target stays unless `overwrite`.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in WRITERS:
        raise ArgumentError(
            f"target: expected a name in {', '.join(WRITERS)} (or .onnx: `npvgg convert`, "
            f"npvgg.export.writer), got {suffix!r}"
        )
    for what, value, allowed in (
        ("form", form, (None, *FORMS)), ("naming", naming, (None, *NAMINGS)),
        ("fold_dtype", fold_dtype, tuple(FOLD_DTYPES)),
    ):  # fmt: skip
        if value not in allowed:
            raise ArgumentError(f"{what}: expected one of {allowed}, got {value!r}")
    if not overwrite and os.path.lexists(target):
        raise ArgumentError(
            f"target: {os.fspath(target)} exists; overwrite=True (--force) replaces it"
        )
    loaded = checkpoint.load_with_metadata(source, wrapper=wrapper)
    tensors, metadata = dict(loaded.tensors), {**loaded.metadata, **_folder_metadata(loaded)}
    with blaming(source):
        if form or naming or model:
            tensors, described = _rebound(loaded, model, form, naming, fold_dtype)
            metadata |= described
    metadata |= origin(*loaded.files)
    dtype = dtype or _common_dtype(loaded)
    WRITERS[suffix](target, tensors, metadata, dtype=dtype, overwrite=overwrite)
    return Converted(loaded, tensors, metadata, dtype)


def _folder_metadata(loaded: Checkpoint) -> dict[str, str]:
    """What a folder's config.json says, so that it is not lost; nothing if it is of no RepVGG."""
    if loaded.config is None:
        return {}
    try:
        described = timmconfig.read(loaded.config)
    except WeightsError:
        return {}
    return {
        "npvgg.model": described.name,
        "npvgg.config": json.dumps(described.config.as_dict()),
        "npvgg.pretrained_cfg": json.dumps(described.pretrained_cfg),
    }


def _common_dtype(loaded: Checkpoint) -> str | None:
    """The half precision in which all floating-point tensors of a file are stored, if it is one.

    Reading widened bfloat16, and folding works on float32: what was half becomes half again.
    """
    floating = set(loaded.stored.values()) & {"F64", "F32", "F16", "BF16"}
    return {"F16": "f16", "BF16": "bf16"}.get(floating.pop()) if len(floating) == 1 else None


def identify(loaded: Checkpoint, model: str | None = None) -> tuple[str, RepVGGConfig]:
    """The network's name and configuration: by the caller's word, the folder's config.json,
    npvgg's metadata, names and shapes.

    With a name, the numbers of classes and channels are still those of the file.
    Raises WeightsError, ArgumentError.
    """
    if model is None:
        if loaded.config:
            described = timmconfig.read(loaded.config)
            return described.name, described.config
        if "npvgg.config" in loaded.metadata:
            return config_from(loaded.metadata)
        return build.infer_config(loaded.tensors)
    name = canonical_name(model)
    named = build.normalize_names(loaded.tensors, VARIANTS[name])
    head = named.get("head.fc.weight")
    stem = named.get("stem.conv_kxk.conv.weight", named.get("stem.reparam_conv.weight"))
    config = replace(VARIANTS[name], num_classes=0 if head is None else len(head))
    if stem is not None and stem.ndim == 4 and stem.shape[1]:
        config = replace(config, in_chans=stem.shape[1])
    return name, config


def _rebound(
    loaded: Checkpoint, model: str | None, form: str | None, naming: str | None, fold_dtype: str
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The tensors in another form and under other names, and the metadata that says so."""
    name, config = identify(loaded, model)
    precision = np.float64 if "F64" in loaded.stored.values() else np.float32
    network = build.build_network(loaded.tensors, config, precision)
    metadata = {
        "format": "pt",  # loaders of the PyTorch world ask for this key
        "npvgg.model": name,
        "npvgg.config": json.dumps(config.as_dict()),
    }
    if form == "deploy" and network.form == "train":
        network = folded(network, FOLD_DTYPES[fold_dtype])
        metadata["npvgg.fold"] = FOLD_DTYPES[fold_dtype]
    elif form == "train" and network.form == "deploy":
        raise ArgumentError("form: a folded network cannot be unfolded, and this file is deploy")
    metadata["npvgg.form"] = network.form
    arrays: dict[str, Array] = build.flatten(network)
    if (naming or keymap.naming(map(keymap.strip_prefix, loaded.tensors))) == "original":
        arrays = {
            keymap.to_original(n, plus_first_half=_half(config)): a for n, a in arrays.items()
        }
    return dict(arrays), metadata


def _half(config: RepVGGConfig) -> int | None:
    """Where RepVGGplus, which squeezes after the activation, cuts its third stage; else None."""
    plus = config.attn_layer and config.attn_after_act
    return keymap.first_half(config.depths) if plus else None


def folded(network: Network, dtype: str = "float64") -> Network:
    """The network in deploy form, folded in float64 or in float32."""
    if dtype == "float64":
        return network.reparameterized()
    blocks = []
    for block in network.blocks:
        form = block.form
        if isinstance(form, Branches):
            form = fold_float32(form, groups=block.spec.groups)
        blocks.append(replace(block, form=form))
    return replace(network, blocks=tuple(blocks))


def fused(block: Block) -> FusedConv:
    """The one convolution that a block is, or folds into."""
    if isinstance(block.form, FusedConv):
        return block.form
    return reparameterize(block.form, groups=block.spec.groups)


def fold_float32(branches: Branches, *, groups: int) -> FusedConv:
    """Fold a block in float32, each operation rounded as IEEE 754 has it, in timm's order:

        std = √(var + eps)      t = gamma / std      w' = w · t      b' = beta − mean · gamma / std
        w = w3' + pad(w1') + w_id'                   b = b3' + b1' + b_id'

    torch's own sqrt is not always correctly rounded; where it is, the bits are timm's.

    Source: timm 1.0.31 `byobnet.py` `RepVggBlock._get_kernel_bias`, `_fuse_bn_tensor`.
    """
    kernels = [(branches.conv_kxk.weight, branches.conv_kxk.bn)]
    kernels.append((pad_1x1_to_3x3(branches.conv_1x1.weight), branches.conv_1x1.bn))
    if branches.identity is not None:
        identity = identity_kernel(len(branches.conv_kxk.weight), groups)
        kernels.append((pad_1x1_to_3x3(identity), branches.identity))
    weight, bias = _fuse_float32(*kernels[0])
    for kernel, bn in kernels[1:]:
        other_weight, other_bias = _fuse_float32(kernel, bn)
        weight, bias = weight + other_weight, bias + other_bias
    dtype = branches.conv_kxk.weight.dtype
    return FusedConv(weight.astype(dtype), bias.astype(dtype))


def _fuse_float32(weight: Array, bn: BatchNorm) -> tuple[Array, Array]:
    gamma, beta, mean, var = (a.astype(np.float32) for a in (bn.gamma, bn.beta, bn.mean, bn.var))
    std = np.sqrt(var + np.float32(bn.eps))
    t = gamma / std
    return weight.astype(np.float32) * t[:, None, None, None], beta - mean * gamma / std


def origin(*files: Path) -> dict[str, str]:
    """What a written file says of where it comes from: this version, the source and its SHA-256.

    files: the source's, `Checkpoint.files`; none for a model that came from no file
    """
    if not files:
        return {"npvgg.version": __version__}
    return {
        "npvgg.version": __version__,
        "npvgg.source": files[0].name.encode(errors="backslashreplace").decode(),
        "npvgg.source_sha256": sha256(*files),
    }


def sha256(*paths: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file or of several one after another, hexadecimal. Raises WeightsError."""
    digest = hashlib.sha256()
    for path in paths:
        with blaming(path), open_regular(path) as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()
