"""One weights file → another: other form, names, number type or container.

    train → deploy   is the re-parameterization (`reparam`), in float64 and rounded once, or in
                     float32 step by step, in the order of timm and the original
    timm ↔ original  is a change of names (`keymap`)

Where neither form nor names nor a network are given, every tensor is copied as it is, whatever
network it is of. The new file says where it comes from: the source's name and sha256, the fold,
this version.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npvgg.config import RepVGGConfig
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.untrusted import blaming
from npvgg.ops import Array
from npvgg.reparam import FOLDS
from npvgg.rounding import whatever_seterr_says
from npvgg.weights import build, keymap, metadata
from npvgg.weights.identity import Identity, identify

FORMS = ("deploy", "train")
NAMINGS = ("timm", "original")
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


@whatever_seterr_says
def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str | None = None,
    form: str | None = None,
    naming: str | None = None,
    dtype: str | None = None,
    fold_dtype: str = "float64",
    wrapper: str | None = None,
    prefix: str | None = None,
    overwrite: bool = False,
) -> Converted:
    """Write the weights of `source` into `target`, a .safetensors or .pth file by its suffix.

    model: the network, where the file's names and shapes do not tell
    form: "deploy" folds train-form weights; None keeps the form
    naming: "timm" or "original"; None keeps the names
    dtype: "float32", "float16", "bfloat16" or "float64", that of the floating-point tensors; None
        keeps that of the file
    fold_dtype: "float64" folds in float64 and rounds once, "float32" rounds every step as timm does
    wrapper, prefix: which of a file's tensors, as in `checkpoint.load`

    Raises ArgumentError, WeightsError; an existing target stays unless `overwrite`.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in WRITERS:
        raise ArgumentError(
            f"target: expected a name in {', '.join(WRITERS)} (or .onnx: `npvgg convert`, "
            f"npvgg.export.convert_to_onnx), got {suffix!r}"
        )
    for what, value, allowed in (
        ("form", form, (None, *FORMS)), ("naming", naming, (None, *NAMINGS)),
        ("fold_dtype", fold_dtype, tuple(FOLDS)),
    ):  # fmt: skip
        if value not in allowed:
            raise ArgumentError(f"{what}: expected one of {allowed}, got {value!r}")
    if not overwrite and os.path.lexists(target):
        raise ArgumentError(
            f"target: {os.fspath(target)} exists; overwrite=True (--force) replaces it"
        )
    loaded = checkpoint.load_with_metadata(source, wrapper=wrapper, prefix=prefix)
    tensors, entries = dict(loaded.tensors), metadata.FORMAT | loaded.metadata
    with blaming(source):
        if form or naming or model:
            tensors, described = _rebound(loaded, model, form, naming, fold_dtype)
        else:
            described = _folder_metadata(loaded)
    entries |= described | metadata.origin(*loaded.files)
    dtype = dtype or _common_dtype(loaded)
    WRITERS[suffix](target, tensors, entries, dtype=dtype, overwrite=overwrite)
    return Converted(loaded, tensors, entries, dtype)


def _described(found: Identity, form: str, loaded: Checkpoint, fold: str | None) -> dict[str, str]:
    """Return what the new file says of its network; of its images where the source says that."""
    told = loaded.config is not None or "npvgg.pretrained_cfg" in loaded.metadata
    cfg = found.pretrained_cfg if told else None
    return metadata.describe(found.name, found.config, form, pretrained_cfg=cfg, fold=fold)


def _folder_metadata(loaded: Checkpoint) -> dict[str, str]:
    """Return what a folder's config.json says, so that it is not lost; nothing of no RepVGG."""
    if loaded.config is None:
        return {}
    try:
        found = identify(None, loaded.tensors, loaded)
    except WeightsError:
        return {}
    form = keymap.form(map(keymap.strip_prefix, loaded.tensors))
    return _described(found, form, loaded, None)


def _common_dtype(loaded: Checkpoint) -> str | None:
    """Return the half precision in which all floating-point tensors of a file are stored, if it is
    one.

    Reading widened bfloat16, and folding works on float32: what was half becomes half again.
    """
    floating = set(loaded.stored.values()) & {"F64", "F32", "F16", "BF16"}
    return (
        {"F16": "float16", "BF16": "bfloat16"}.get(floating.pop()) if len(floating) == 1 else None
    )


def _rebound(
    loaded: Checkpoint, model: str | None, form: str | None, naming: str | None, fold_dtype: str
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors in another form and under other names, and the metadata that says so."""
    found = identify(model, loaded.tensors, loaded)
    precision = np.float64 if "F64" in loaded.stored.values() else np.float32
    network = build.build_network(loaded.tensors, found.config, precision)
    fold = None
    if form == "deploy" and network.form == "train":
        fold = fold_dtype
        network = network.reparameterized(fold)
    elif form == "train" and network.form == "deploy":
        raise ArgumentError("form: a folded network cannot be unfolded, and this file is deploy")
    arrays: dict[str, Array] = build.flatten(network)
    if (naming or keymap.naming(map(keymap.strip_prefix, loaded.tensors))) == "original":
        arrays = {
            keymap.to_original(n, plus_first_half=_half(found.config)): a for n, a in arrays.items()
        }
    return dict(arrays), _described(found, network.form, loaded, fold)


def _half(config: RepVGGConfig) -> int | None:
    """Where RepVGGplus, which squeezes after the activation, cuts its third stage; else None."""
    plus = config.attn_layer and config.attn_after_act
    return keymap.first_half(config.depths) if plus else None
