"""From a name, weights and an image to a conformance pack."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from npvgg.config import ConfigKeywords
from npvgg.create import create_model
from npvgg.data import create_transform, resolve_data_config
from npvgg.errors import ArgumentError
from npvgg.formats.files import open_regular, sha256
from npvgg.formats.untrusted import blaming
from npvgg.hub.pretrained import pretrained_cfg, split_tag
from npvgg.images.opening import MAX_STREAM
from npvgg.model import RepVGG
from npvgg.ops import Array
from npvgg.rounding import whatever_seterr_says
from npvgg.testing import seeded
from npvgg.testing.packs.pack import Pack
from npvgg.testing.tiny import TINY, TINY_SEEDS, TINY_SIZE
from npvgg.variants import VARIANTS
from npvgg.weights.build import build_network
from npvgg.weights.cost import check_cost

NOISE = "noise"
SIZE = 64


@whatever_seterr_says
def conformance_pack(
    model: str | None = "tiny",
    *,
    weights: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    image: str | os.PathLike[str] = NOISE,
    level: str = "block",
    size: int | None = None,
    form: str | None = None,
    winograd: int = 0,
    **config: Unpack[ConfigKeywords],
) -> Pack:
    """Make a conformance pack.

    model: a network of the table, with a pretrained tag for trained weights, or one of the tiny
        ones: "tiny", "tiny_g2", "tiny_se", "tiny_plus", "tiny_dilated"
    weights: a weights file; without it and without a tag they come from the seed
    seed: of weights and noise (`npvgg.testing.seeded`); by default 0, or that of the tiny network
    image: a photo, which goes through the network's own transform, or "noise"; the pack holds it,
        byte for byte
    level: "block", "branch" or "op", see `npvgg.testing.trace`
    size: height and width of the image; 64 by default, 18 for a tiny network
    form: "train" or "deploy", which the tensors are of; train by default, where it is known
    winograd: the largest tile, 2 … 6, of Winograd's algorithms that the bounds are to admit, or 0
    config: any field of `RepVGGConfig`

    Raises ArgumentError, WeightsError, ImageError.
    """
    if seed is None:
        seed = TINY_SEEDS.get(model or "", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ArgumentError(f"seed: expected an integer of 0 … 2**63 − 1, got {seed!r}")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ArgumentError(f"size: expected a positive integer, got {size!r}")
    subject, weights_origin = _subject(model, weights, seed, config)
    size = size or (TINY_SIZE if model in TINY else SIZE)
    check_cost(subject.config, size, size)
    x, input_origin, photo = _image(subject, image, size, seed)
    how = input_origin.get("transform")
    return Pack.of(
        subject, x, level=level, form=form, winograd=winograd,
        weights_origin=weights_origin, input_origin=input_origin,
        normalised=(how["mean"], how["std"]) if how else None, photo=photo,
    )  # fmt: skip


def _subject(
    name: str | None, weights: str | os.PathLike[str] | None, seed: int, config: ConfigKeywords
) -> tuple[RepVGG, dict[str, Any]]:
    """Return the model, in train form where it can be, and where its weights come from."""
    options: dict[str, Any] = {"engine": "reference", "reparameterize": False, **config}
    if weights is not None:
        origin = {"file": Path(weights).name, "sha256": sha256(weights)}
        if name in TINY:
            raise ArgumentError(f"model: expected a network of the table with weights, got {name}")
        return create_model(name, weights=weights, **options), origin
    if name is None:
        raise ArgumentError("model: expected a name, or weights; got neither")
    tiny = TINY.get(name)
    architecture, tag = (name, None) if tiny else split_tag(name)
    if tag:
        return create_model(name, pretrained=True, **options), {"pretrained": name}
    row = (tiny or VARIANTS[architecture]).with_changes(**config)
    network = build_network(seeded.tensors(row, seed), row)
    cfg = pretrained_cfg(architecture)
    return RepVGG(architecture, row, network, cfg, engine="reference"), {"seed": seed}


def _image(
    model: RepVGG, image: str | os.PathLike[str], size: int, seed: int
) -> tuple[Array, dict[str, Any], bytes | None]:
    """Return the input, (1, C, size, size) float32, where it comes from, and the photo's bytes."""
    shape = (model.config.in_chans, size, size)
    if image == NOISE:
        low, high = seeded.NOISE
        return seeded.noise((1, *shape), seed), {"noise": seed, "low": low, "high": high}, None
    how = resolve_data_config({"input_size": shape}, model.pretrained_cfg)
    x: Array = np.asarray(create_transform(**how)(image))[None]
    with blaming(image), open_regular(image) as file:
        photo = file.read(MAX_STREAM + 1)
    if len(photo) > MAX_STREAM:
        raise ArgumentError(f"image: expected a photo of at most {MAX_STREAM:,} bytes, got more")
    origin = {"photo": Path(image).name, "sha256": hashlib.sha256(photo).hexdigest()}
    return x, {**origin, "transform": how}, photo
