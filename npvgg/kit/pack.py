"""A conformance pack: one run of one network, with the truth and the tolerance of every tensor.

    manifest.json                what there is, in order: names, shapes, equations, tolerances
    weights.train.safetensors    the branches (absent where only the folded weights are known)
    weights.deploy.safetensors   the folded convolutions
    tensors.safetensors          the input, and the truth: computed in float64, rounded once
    bounds.safetensors           "local.<name>" and "chain.<name>": see `npvgg.kit.bounds`
    README.md                    how to use all that without npvgg, or Python

A `Pack` is the same in memory. From a seed, every byte is the same on every machine (`steady`,
`seeded`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from npvgg import checkpoint, weights
from npvgg.config import RepVGGConfig
from npvgg.errors import ArgumentError, WeightsError
from npvgg.kit.bounds import walk
from npvgg.kit.trace import (
    Operation, Probe, as_network, at_level, checked_images, operations, probe,
)  # fmt: skip
from npvgg.model import RepVGG
from npvgg.network import Network
from npvgg.ops import Array

FORMAT, VERSION = "npvgg-conformance", 1


@dataclass(frozen=True)
class Pack:
    """A conformance pack; make one with `Pack.of`, or `Pack.read` a folder.

    manifest: what manifest.json holds
    probes: what each tensor is, in the order of execution
    """

    manifest: Mapping[str, Any]
    probes: tuple[Probe, ...]
    _tensors: Mapping[str, Array]
    _local: Mapping[str, Array]
    _chain: Mapping[str, Array]
    _weights: Mapping[str, Mapping[str, Array]]

    @classmethod
    def of(cls, model: RepVGG, x: Array, *, level: str = "block") -> Pack:
        """Run a model's weights in float64 and keep every tensor of a level, with its bounds."""
        network = model.network.astype(np.float32).astype(np.float64)
        x = checked_images(x, network.astype(np.float32)).astype(np.float64)
        spelled = operations(network)
        kept = at_level(spelled, level)
        probes, tensors, local, chain = [], {}, {}, {}
        for o, y, local_error, chain_error in walk(network, x, kept):
            if o.name in kept:
                probes.append(probe(kept[o.name], y.shape))
                tensors[o.name] = y.astype(np.float32)
                local[o.name] = rounded_up(local_error)
                chain[o.name] = rounded_up(chain_error)
        forms = {network.form: model.network, "deploy": model.network.reparameterized()}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "model": model.name,
            "config": {**vars(model.config), "attn_kwargs": dict(model.config.attn_kwargs)},
            "form": network.form,
            "level": level,
        }
        flat = {form: weights.flatten(net) for form, net in forms.items()}
        return cls(manifest, tuple(probes), tensors, local, chain, flat)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Pack:
        """Read a pack's folder."""
        raise ArgumentError("not yet")

    def tensor(self, name: str) -> Array:
        """The truth of a tensor, float32."""
        return self._named(self._tensors, name)

    def bound(self, name: str) -> Array:
        """How far each element may be off where the whole network was run, float32."""
        return self._named(self._chain, name)

    def local_bound(self, name: str) -> Array:
        """How far each element may be off where the tensor's inputs were those of the pack."""
        return self._named(self._local, name)

    def probe(self, name: str) -> Probe:
        """What a tensor is."""
        return self._named({probe.name: probe for probe in self.probes}, name)

    def network(self, form: str | None = None) -> Network:
        """The pack's weights as a float64 network, in the form of its tensors by default."""
        form = form or self.manifest["form"]
        if form not in self._weights:
            raise ArgumentError(f"form: expected one of {', '.join(self._weights)}, got {form!r}")
        return weights.build_network(self._weights[form], self.config, np.float64)

    @property
    def config(self) -> RepVGGConfig:
        """The network's configuration."""
        lists = self.manifest["config"].items()
        return RepVGGConfig(**{n: tuple(v) if isinstance(v, list) else v for n, v in lists})

    def _named(self, table: Mapping[str, Any], name: str) -> Any:
        if name not in table:
            raise ArgumentError(f"name: expected one of {', '.join(table)}, got {name!r}")
        return table[name]


def rounded_up(bound: Array) -> Array:
    """The least float32 numbers that are not below the bounds."""
    near = bound.astype(np.float32)
    return np.where(near < bound, np.nextafter(near, np.float32(np.inf)), near)
