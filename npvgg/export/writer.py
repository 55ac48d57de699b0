"""A RepVGG → an ONNX file: the deploy network, as every runtime reads it.

    pixels (N, H, W, 3) uint8 → preprocess → x (N, 3, H, W) → blocks → head → logits → softmax

The network begins at `x` and ends with `logits`, unless the ends are asked for as well. N is open,
H and W on request. `onnxlayers` says what stands between, `onnxgraph` how it is named.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npvgg.config import expand, output_size
from npvgg.create import create_model
from npvgg.data import create_transform, resolve_model_data_config
from npvgg.errors import ArgumentError
from npvgg.export.graph import OPSET, Dimension, Graph, import_onnx, to_proto
from npvgg.export.layers import add_block, add_head
from npvgg.formats import checkpoint
from npvgg.formats.files import atomic_write
from npvgg.formats.untrusted import blaming, shown
from npvgg.images.labels import labels_for
from npvgg.model import RepVGG
from npvgg.reparam import FOLDS
from npvgg.rounding import whatever_seterr_says
from npvgg.weights import metadata

PREPROCESSINGS = ("uint8-nhwc", "uint8-nchw", "float-nhwc", "float-nchw")
"""What pixels come as: their type, and whether the channels are last or first; always 0 … 255."""


@dataclass(frozen=True)
class Exported:
    """What was written: its two ends as name, type and shape; its metadata; how large it is."""

    source: tuple[str, str, tuple[Dimension, ...]]
    result: tuple[str, str, tuple[Dimension, ...]]
    metadata: dict[str, str]
    nodes: int
    numbers: int


def convert_to_onnx(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str | None = None,
    fold_dtype: str = "float64",
    wrapper: str | None = None,
    prefix: str | None = None,
    dynamic_size: bool = False,
    softmax: bool = False,
    preprocess: str | None = None,
    overwrite: bool = False,
) -> tuple[checkpoint.Checkpoint, Exported]:
    """Write the network of a file or folder as ONNX; give what that was, and what was written.

    model, fold_dtype, wrapper, prefix: as in `npvgg.tools.convert`; the others as in `export_onnx`

    The weights are float32, folded in float64 and rounded once. Raises ArgumentError, WeightsError.
    """
    import_onnx()
    if fold_dtype not in FOLDS:
        raise ArgumentError(f"fold_dtype: expected one of {tuple(FOLDS)}, got {fold_dtype!r}")
    _check_vacant(target, overwrite)
    loaded = checkpoint.load_with_metadata(source, wrapper=wrapper, prefix=prefix)
    with blaming(source):
        exact: RepVGG = create_model(
            model, weights=loaded, dtype="float64", reparameterize=False, engine="reference"
        )
    done = _write(
        exact, target, np.dtype(np.float32), metadata.origin(*loaded.files),
        fold=fold_dtype, dynamic_size=dynamic_size, softmax=softmax,
        preprocess=preprocess, overwrite=overwrite,
    )  # fmt: skip
    return loaded, done


def export_onnx(
    model: RepVGG,
    target: str | os.PathLike[str],
    *,
    dynamic_size: bool = False,
    softmax: bool = False,
    preprocess: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model as ONNX in deploy form and in the model's dtype; opset 13, one file.

    dynamic_size: leave height and width open; otherwise they are the model's own,
        `model.pretrained_cfg["input_size"]`. The number of images is always open
    softmax: end with `probabilities` instead of `logits`; of a single class, its sigmoid
    preprocess: begin with `pixels` of 0 … 255, resized and cropped already, in one of
        `PREPROCESSINGS`, and normalise them as the model's transform does; otherwise the network
        begins with `x` (N, C, H, W), normalised
    overwrite: replace an existing target

    Without a classifier (num_classes=0) the output is the `embedding` (N, features), and without
    pooling `features` (N, features, P, Q). Every tensor and weight is named by timm's module path.
    The file's metadata say what it is: npvgg.version, npvgg.model, npvgg.config,
    npvgg.pretrained_cfg, npvgg.labels where they are known; a converted one's, npvgg.source_sha256.

    float64 is written as ONNX's DOUBLE, which hardly any runtime convolves.
    Raises ArgumentError, without onnx (`pip install 'npvgg[onnx]'`) as well; WeightsError where the
    file cannot be written.
    """
    return _write(
        model, target, model.dtype, metadata.origin(), fold="float64",
        dynamic_size=dynamic_size, softmax=softmax, preprocess=preprocess, overwrite=overwrite,
    )  # fmt: skip


@whatever_seterr_says
def _write(
    model: RepVGG,
    target: str | os.PathLike[str],
    dtype: np.dtype[Any],
    origin: dict[str, str],
    *,
    fold: str,
    dynamic_size: bool,
    softmax: bool,
    preprocess: str | None,
    overwrite: bool,
) -> Exported:
    if preprocess not in (None, *PREPROCESSINGS):
        raise ArgumentError(
            f"preprocess: expected one of {', '.join(PREPROCESSINGS)}, got {preprocess!r}"
        )
    if softmax and not model.num_classes:
        raise ArgumentError("softmax: expected a network with a classifier, got num_classes=0")
    _check_vacant(target, overwrite)
    graph = Graph(dtype)
    size: tuple[Dimension, Dimension] = ("H", "W")
    if not dynamic_size:
        size = model.pretrained_cfg["input_size"][1:]
    pixels, x = _begin(graph, model, preprocess, size)
    for block in model.network.reparameterized(fold).blocks:
        x = add_block(graph, block, x)
    x = add_head(graph, model.network.head, x)
    result = _end(graph, model, x, size, softmax)
    entries = origin | _described(model, fold, softmax, preprocess)
    data = to_proto(
        graph, model.name or "RepVGG", pixels, result, entries, entries["npvgg.version"]
    )
    with blaming(target):
        atomic_write(target, data, overwrite=overwrite)
    return Exported(
        (pixels[0], pixels[1].name, pixels[2]), (result[0], dtype.name, result[1]), entries,
        len(graph.nodes), sum(array.size for array in graph.constants.values()),
    )  # fmt: skip


# --- The two ends ---------------------------------------------------------------------------------

End = tuple[str, np.dtype[Any], tuple[Dimension, ...]]


def _begin(
    graph: Graph, model: RepVGG, preprocess: str | None, size: tuple[Dimension, Dimension]
) -> tuple[End, str]:
    """Write what comes before the network; give the file's input and the tensor that it becomes.

    The steps are those of `Transform`, and in float32 their results have its bits.
    """
    channels = model.config.in_chans
    if preprocess is None:
        return ("x", graph.dtype, ("N", channels, *size)), "x"
    if channels not in (1, 3):
        raise ArgumentError(f"preprocess: expected a network of 1 or 3 channels, got {channels}")
    transform = create_transform(**resolve_model_data_config(model))
    mean, std = (np.array(row).reshape(-1, 1, 1) for row in (transform.mean, transform.std))
    kind, _, order = preprocess.partition("-")
    m, x = graph.module("preprocess"), "pixels"
    if kind == "uint8":
        x = m("Cast", x, to=import_onnx().helper.np_dtype_to_tensor_dtype(graph.dtype))
    if order == "nhwc":
        x = m("Transpose", x, perm=[0, 3, 1, 2])
    x = m("Sub", m("Div", x, 255.0), m.weight("mean", mean))
    x = graph.rename(m("Div", x, m.weight("std", std)), "x")
    shape = ("N", *size, channels) if order == "nhwc" else ("N", channels, *size)
    return ("pixels", np.dtype(np.uint8) if kind == "uint8" else graph.dtype, shape), x


def _end(
    graph: Graph, model: RepVGG, x: str, size: tuple[Dimension, Dimension], softmax: bool
) -> tuple[str, tuple[Dimension, ...]]:
    """Name what the network gives, with a softmax behind it on request; give name and shape."""
    config = model.config
    if config.num_classes:
        shape: tuple[Dimension, ...] = ("N", config.num_classes)
        x = graph.rename(x, "logits")
        if softmax:
            m = graph.module("softmax")
            y = m("Softmax", x, axis=1) if config.num_classes > 1 else m("Sigmoid", x)
            x = graph.rename(m.ends(y), "probabilities")
        return x, shape
    if config.global_pool:
        return graph.rename(x, "embedding"), ("N", config.num_pooled_features)
    for spec in expand(config):
        size = tuple(
            output_size(side, spec.stride) if isinstance(side, int) else side for side in size
        )  # type: ignore[assignment]
    height, width = (s if isinstance(s, int) else name for s, name in zip(size, "PQ", strict=True))
    return graph.rename(x, "features"), ("N", config.num_features, height, width)


# --- What the file says of itself -----------------------------------------------------------------


def _described(model: RepVGG, fold: str, softmax: bool, preprocess: str | None) -> dict[str, str]:
    """Return the metadata that follow from the model and from what was asked for."""
    described = metadata.describe(
        model.name,
        model.config,
        "deploy",
        pretrained_cfg=model.pretrained_cfg,
        fold=fold if model.form == "train" else None,
    )
    del described["format"]  # which is a matter of safetensors
    described |= {
        "npvgg.preprocess": preprocess or "none",
        "npvgg.softmax": "inside" if softmax else "none",
    }
    if labels := labels_for(model.pretrained_cfg):
        described["npvgg.labels"] = json.dumps([label.name for label in labels])
    return described


def _check_vacant(target: str | os.PathLike[str], overwrite: bool) -> None:
    if Path(target).suffix.lower() != ".onnx":
        raise ArgumentError(f"target: expected a name in .onnx, got {shown(os.fspath(target))}")
    if not overwrite and os.path.lexists(target):
        raise ArgumentError(
            f"target: {os.fspath(target)} exists; overwrite=True (--force) replaces it"
        )


__all__ = ["OPSET", "PREPROCESSINGS", "Exported", "convert_to_onnx", "export_onnx"]
