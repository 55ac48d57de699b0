"""What a lesson is about: the network, one of its blocks, a photo; or one error that says what
can be shown instead.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from npvgg.data import create_transform, resolve_model_data_config
from npvgg.engines.reference import forward_blocks
from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import path_text
from npvgg.hub.locate import ASSETS
from npvgg.images.labels import labels_for
from npvgg.model import RepVGG
from npvgg.network import Block, Network
from npvgg.ops import Array
from npvgg.reparam import Branches, FusedConv
from npvgg.testing.trace import as_network

PHOTO = ASSETS / "chelsea.png"
"""The photo that is taken where none is given."""

PhotoSource = str | os.PathLike[str] | bytes | Array | Any


def network_of(model: RepVGG | Network) -> Network:
    """Return the network of a model, in float32: the lessons are about what float32 does.

    Raises ArgumentError.
    """
    return as_network(model).astype(np.float32)


def named(network: Network, name: str | None, *, branches: bool = False) -> Block:
    """Return a block by its name; the first one that has an identity branch where none is given.

    branches: it must have its branches still. Raises ArgumentError.
    """
    blocks = {block.spec.name: block for block in network.blocks}
    if branches and network.form != "train":
        raise ArgumentError(
            "model: expected the branches, in train form, got a network that is folded already; "
            f"of that, {showable(network)} can be shown "
            "(a model of create_model keeps its branches with reparameterize=False)"
        )
    if name is None:
        return next((b for b in network.blocks if b.spec.identity), network.blocks[0])
    if name not in blocks:
        near = get_close_matches(str(name), blocks, n=3) or list(blocks)
        raise ArgumentError(
            f"block: expected one of this network's, got {name!r}; there are "
            f"{', '.join(near[:3])}{', …' if len(blocks) > 3 else ''} "
            f"(`npvgg explain network` lists all {len(blocks)})"
        )
    return blocks[name]


def showable(network: Network) -> str:
    """Return in words which lessons can be given about a network."""
    train, head = network.form == "train", network.head
    photos = network.blocks[0].spec.in_chs in (1, 3)
    classes = photos and head.weight is not None and head.bias is not None
    lessons = {
        "network": True,
        "fold": train,
        "pixel": photos and named(network, None).spec.attn_layer is None,
        "im2col": True,
        "winograd": True,
        "photo": classes and head.global_pool == "avg",
        "quantize": train and classes,
        "mistakes": classes,
        "questions": train and classes,
    }
    *most, last = (name for name, possible in lessons.items() if possible)
    return f"{', '.join(most)} and {last}"


def branches_of(block: Block) -> Branches:
    """Return the branches of a block that has them. Raises ArgumentError."""
    if not isinstance(block.form, Branches):
        raise ArgumentError(f"block: expected branches, got {block.spec.name}, which is folded")
    return block.form


def fused_of(block: Block) -> FusedConv:
    """Return the one convolution of a block in either form."""
    form = block.reparameterized().form
    if isinstance(form, Branches):
        raise ArgumentError(f"block: expected a convolution, got the branches of {block.spec.name}")
    return form


def check_classifier(network: Network) -> None:
    """Raise ArgumentError for an embedding, which names no class."""
    if network.head.weight is None or network.head.bias is None:
        raise ArgumentError(
            "model: expected a classifier, got an embedding (num_classes=0); "
            f"{showable(network)} can be shown"
        )


def index_below(name: str, value: int | None, count: int, default: int) -> int:
    """Return a channel, a row, a class: the default where none is given. Raises ArgumentError."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < count:
        raise ArgumentError(f"{name}: expected 0 … {count - 1}, got {value!r}")
    return int(value)


def image(model: RepVGG, photo: PhotoSource | None) -> tuple[Array, str]:
    """Return a photo as the network is given it, (1, C, H, W) float32, and what it is called.

    photo: whatever the transform opens; a cat by default. Raises ArgumentError, ImageError.
    """
    if not isinstance(model, RepVGG):
        raise ArgumentError(
            f"model: expected one of create_model, which knows its transform, got "
            f"{type(model).__name__}"
        )
    channels = model.config.in_chans
    if channels not in (1, 3):
        raise ArgumentError(
            f"photo: expected a network of 1 or 3 channels, got {channels}; "
            f"{showable(model.network)} can be shown, without a photo"
        )
    transform = create_transform(**resolve_model_data_config(model))
    x = transform(PHOTO if photo is None else photo)[None]
    return x, title(photo)


def title(photo: PhotoSource | None) -> str:
    """Return what a photo is called: its file's name, no more."""
    if photo is None:
        return PHOTO.name
    return path_text(Path(photo).name) if isinstance(photo, str | os.PathLike) else "the image"


def pixels(model: RepVGG, x: Array) -> Array:
    """Return an image as the network is given it, as pixels again: (1, C, H, W) → (H, W, 3)
    uint8.
    """
    cfg = resolve_model_data_config(model)
    mean, std = (np.asarray(cfg[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    colours = np.clip((x[0] * std + mean) * 255, 0, 255).round().astype(np.uint8)
    shown: Array = np.broadcast_to(colours.transpose(1, 2, 0), (*x.shape[2:], 3))
    return shown


def noise(network: Network, size: int = 32, seed: int = 0) -> Array:
    """Return an image for a network that sees no photos, (1, C, size, size)."""
    shape = (1, network.blocks[0].spec.in_chs, size, size)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def input_of(network: Network, name: str, x: Array) -> Array:
    """Return what a block reads, when the image x goes through the network."""
    names = [block.spec.name for block in network.blocks]
    for y in forward_blocks(network.blocks[: names.index(name)], x):
        x = y
    return x


def how(block: Block) -> dict[str, int]:
    """Stride, dilation and groups of a block, as its form takes them."""
    spec = block.spec
    return {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}


def class_name(model: RepVGG, index: int) -> str:
    """Return the name of a class, or its number."""
    labels = labels_for({**model.pretrained_cfg, "num_classes": model.num_classes})
    return labels[index].name.split(",")[0] if labels else str(index)
