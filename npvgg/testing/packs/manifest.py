"""What manifest.json says, and how it is checked.

A reader needs nothing else to know a pack: the steps that make up the network, the tensors that
were kept, in order, and a word on what they are held against.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from npvgg.config import RepVGGConfig
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats.jsontext import parse_object
from npvgg.formats.untrusted import shown
from npvgg.testing.bounds.rounding import LAMBDA
from npvgg.testing.trace import LEVELS, Operation, Probe
from npvgg.weights.metadata import MAX_MODEL

FORMAT, VERSION = "npvgg-conformance", 1

MAX_MANIFEST = 2**24
"""Bytes of a manifest at most; that of repvgg_d2se, operation by operation, has 3e5."""

TOLERANCES = {
    "local": "|yours - tensor| where the inputs of the tensor were those of the pack: a theorem "
    "for any order of float32 operations",
    "chain": "|yours - tensor| where you ran the whole network from the input: exceeded by a "
    "correct float32 implementation with probability below 1e-15 for each number",
    "lambda": LAMBDA,
}


def heading(
    name: str,
    config: RepVGGConfig,
    form: str,
    level: str,
    winograd: int,
    origins: Mapping[str, Mapping[str, Any]],
    spelled: Sequence[Operation],
) -> dict[str, Any]:
    """Return the manifest without its tensors and files."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": name,
        "config": config.as_dict(),
        "form": form,
        "level": level,
        **{what: dict(origin) for what, origin in origins.items()},
        "tolerances": {**TOLERANCES, "winograd": winograd},
        "steps": [
            {"name": o.name, "op": o.op, "inputs": list(o.inputs), "parameters": dict(o.parameters)}
            for o in spelled
        ],
    }


def entry(probe: Probe, largest: float, local: float, chain: float) -> dict[str, Any]:
    """One tensor of the manifest: the probe, its largest magnitude and its largest tolerances."""
    return {
        "name": probe.name,
        "block": probe.block,
        "op": probe.op,
        "inputs": list(probe.inputs),
        "equation": probe.equation,
        "shape": list(probe.shape),
        "layout": "NCHW" if len(probe.shape) == 4 else "NC",
        "dtype": "F32",
        "largest": largest,
        "local_tolerance": local,
        "chain_tolerance": chain,
        "parameters": dict(probe.parameters),
    }


def as_text(manifest: Mapping[str, Any]) -> str:
    """JSON for people: a line for every entry of a list or object, no deeper."""
    return "{\n" + ",\n".join(_fields(manifest)) + "\n}\n"


def _fields(manifest: Mapping[str, Any]) -> Iterator[str]:
    for key, value in manifest.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list):
            lines = ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in value)
            text = f"[\n    {lines}\n  ]"
        yield f"  {json.dumps(key)}: {text}"


def parse(text: bytes) -> dict[str, Any]:
    """Return the manifest of a stranger, as far as it is believed: format, version and their like.

    Raises WeightsError.
    """
    manifest = parse_object(text, "", MAX_MANIFEST)
    if manifest.get("format") != FORMAT:
        raise WeightsError(f'expected "format": "{FORMAT}"')
    if manifest.get("version") != VERSION:
        raise WeightsError(f"expected version {VERSION}, got {shown(manifest.get('version'))}")
    for key, known in (("form", ("train", "deploy")), ("level", LEVELS)):
        if manifest.get(key) not in list(known):
            raise WeightsError(f"{key}: expected one of {known}, got {shown(manifest.get(key))}")
    model = manifest.get("model")
    if not isinstance(model, str) or not model.isprintable() or len(model) > MAX_MODEL:
        raise WeightsError(f"model: expected a text, a name, got {shown(model)}")
    files, tensors = manifest.get("files"), manifest.get("tensors")
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise WeightsError("files: expected an object of SHA-256 sums")
    if not isinstance(tensors, list) or not all(isinstance(entry, dict) for entry in tensors):
        raise WeightsError("tensors: expected a list of objects")
    return manifest


def config_of(manifest: Mapping[str, Any]) -> RepVGGConfig:
    """Return the network's configuration. Raises WeightsError."""
    fields = manifest.get("config")
    try:
        items = fields.items()  # type: ignore[union-attr]
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in items}
        return RepVGGConfig(**given)
    except (AttributeError, TypeError, ArgumentError) as error:
        raise WeightsError(f"config: expected that of a network: {error}") from None
