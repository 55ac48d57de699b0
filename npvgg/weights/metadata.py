"""What a weights file says beside its tensors: the `npvgg.*` keys, written and read here alone.

    format                  "pt": loaders of the PyTorch world ask for it
    npvgg.model             the network's name, "repvgg_a0" or with its tag, "repvgg_nano.cifar10"
    npvgg.config            the fields of `RepVGGConfig`, as JSON
    npvgg.form              "train" or "deploy"
    npvgg.fold              the dtype in which a deploy form was folded, where that is known
    npvgg.pretrained_cfg    how its images are prepared and what its classes are called, as JSON
    npvgg.version           the npvgg that wrote the file
    npvgg.source, npvgg.source_sha256   the file that it was made from

A file's metadata are its author's word: whatever is read here is checked like weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npvgg.config import RepVGGConfig
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats.files import sha256
from npvgg.formats.jsontext import parse_object
from npvgg.formats.untrusted import shown
from npvgg.version import __version__

MAX_ENTRY = 2**20
"""Longest entry that is read, in characters."""

MAX_MODEL = 100
"""Longest name of a network, in characters."""

FORMAT = {"format": "pt"}


def describe(
    name: str,
    config: RepVGGConfig,
    form: str,
    *,
    pretrained_cfg: Mapping[str, Any] | None = None,
    fold: str | None = None,
) -> dict[str, str]:
    """Return the entries that say which network the tensors are.

    fold: the dtype in which they were folded; None where nothing was, or nobody knows
    Raises ArgumentError for a pretrained_cfg that JSON cannot hold.
    """
    entries = FORMAT | {
        "npvgg.model": name,
        "npvgg.form": form,
        "npvgg.config": json.dumps(config.as_dict()),
    }
    if pretrained_cfg is not None:
        try:
            entries["npvgg.pretrained_cfg"] = json.dumps(dict(pretrained_cfg), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"pretrained_cfg: expected values of JSON, got {error}") from None
    return entries | {"npvgg.fold": fold} if fold else entries


def origin(*files: Path) -> dict[str, str]:
    """Return the entries that say where a file comes from: this version, the source, its SHA-256.

    files: the source's, `Checkpoint.files`; none for a model that came from no file
    """
    if not files:
        return {"npvgg.version": __version__}
    return {
        "npvgg.version": __version__,
        "npvgg.source": files[0].name.encode(errors="backslashreplace").decode(),
        "npvgg.source_sha256": sha256(*files),
    }


def model_of(metadata: Mapping[str, str]) -> str:
    """Return the network's name, "RepVGG" where none is given. Raises WeightsError."""
    name = metadata.get("npvgg.model", "RepVGG")
    if not name.isprintable() or len(name) > MAX_MODEL:
        raise WeightsError("weights: the file's metadata 'npvgg.model' is not a name")
    return name


def config_of(metadata: Mapping[str, str]) -> RepVGGConfig | None:
    """Return the network's configuration, None where none is given. Raises WeightsError."""
    if "npvgg.config" not in metadata:
        return None
    try:
        config = RepVGGConfig(**_object(metadata, "npvgg.config"))
    except (TypeError, ArgumentError, RecursionError) as error:
        raise WeightsError(
            "weights: the file's metadata 'npvgg.config' is not a configuration: "
            f"{shown(str(error), 300)[1:-1]}"
        ) from None
    return config


def pretrained_cfg_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the data configuration, unchecked but for its form; None where none is given.

    Raises WeightsError.
    """
    key = "npvgg.pretrained_cfg"
    return _object(metadata, key) if key in metadata else None


def _object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    value = parse_object(metadata[key], f"weights: the file's metadata {key!r}", MAX_ENTRY)
    return {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
