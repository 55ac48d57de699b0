"""The live page: one file that classifies photos in a browser, with the network inside.

Its JavaScript (`npvgg/explain/browser/repvgg.js`) is a port like anybody's, and held against a
conformance pack by `port.js`, in Node.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import Any

import numpy as np

from npvgg.data import resolve_model_data_config
from npvgg.errors import ArgumentError
from npvgg.explain import subject
from npvgg.formats import safetensorsfile
from npvgg.images.labels import labels_for
from npvgg.model import RepVGG
from npvgg.ops import Array
from npvgg.pages import html
from npvgg.pages.colours import SIGNED

ALL = "the lessons and the course"
FIELDS = {
    "act_layer": ("relu", ALL),
    "attn_layer": (None, "network, fold and photo"),
    "global_pool": ("avg", "network, fold and pixel"),
    "output_stride": (32, ALL),
}
"""What the JavaScript knows, the plain networks as they were published; what else shows others."""


def live(model: RepVGG) -> str:
    """Make the live page of a network.

    model: in train form, with a classifier, without attention; its weights go into the page, in
    half precision where that holds them exactly

    Raises ArgumentError for what the page's JavaScript does not know, or without Jinja2.
    """
    net = subject.network_of(model)
    subject.named(net, None, branches=True)
    config = model.config
    for name, (known, instead) in FIELDS.items():
        if getattr(config, name) != known:
            raise ArgumentError(
                f"model: expected {name} {known!r}, which the page's JavaScript knows, got "
                f"{getattr(config, name)!r}; {instead} can be shown"
            )
    how = resolve_model_data_config(model)
    _, height, width = how["input_size"]
    plain = (how["interpolation"], how["crop_mode"]) == ("bilinear", "center")
    if not plain or height != width or config.in_chans != 3 or not config.num_classes:
        raise ArgumentError(
            "model: expected a classifier of square photos in colour, resized bilinearly and "
            f"cropped at the centre; {ALL} can be shown"
        )
    labels = labels_for({**model.pretrained_cfg, "num_classes": model.num_classes})
    names = [label.name for label in labels or ()] or list(map(str, range(model.num_classes)))
    settings = {
        "size": height, "crop_pct": how["crop_pct"], "mean": how["mean"], "std": how["std"],
        "labels": names, "scale": SIGNED[2:],
        "example": base64.b64encode(subject.PHOTO.read_bytes()).decode("ascii"),
    }  # fmt: skip
    return html.render(
        _file("live.html"),
        style=_file("live.css"),
        scripts=(_file("repvgg.js"), _file("page.js")),
        name=model.name,
        settings=settings,
        weights=base64.b64encode(_weights(model)).decode("ascii"),
    )


def _weights(model: RepVGG) -> bytes:
    """Return the branches as safetensors, F16 where every number is one."""
    tensors = {name: _short(array) for name, array in model.state_dict().items()}
    metadata = {"npvgg.model": model.name, "npvgg.config": json.dumps(model.config.as_dict())}
    return safetensorsfile.serialized(tensors, metadata, None)


def _short(array: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        half: Array = array.astype(np.float16)
    exact = np.array_equal(half.astype(array.dtype), array)
    return half if exact else array.astype(np.float32)


def _file(name: str) -> Any:
    return (files("npvgg.explain.browser") / name).read_text("utf-8")
