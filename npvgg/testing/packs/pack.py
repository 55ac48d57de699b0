"""A conformance pack: one run of one network, with the truth and the tolerance of every tensor.

    manifest.json                what there is, in order: names, shapes, equations, tolerances
    weights.train.safetensors    the branches (absent where only the folded weights are known)
    weights.deploy.safetensors   the folded convolutions
    tensors.safetensors          the input, and the truth: computed in float64, rounded once
    bounds.safetensors           "local.<name>" and "chain.<name>": see `npvgg.testing.bounds.walk`
    photo.jpg                    of an input that was made of a photo: that, byte for byte
    README.md                    how to use all that without npvgg, or Python

A `Pack` is the same in memory. From a seed, every byte is the same on every machine (`steady`,
`seeded`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from npvgg.config import RepVGGConfig, output_size
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint, safetensorsfile
from npvgg.formats.files import open_regular, sha256, write_folder
from npvgg.formats.untrusted import blaming
from npvgg.images.opening import MAX_STREAM, SUFFIXES
from npvgg.model import RepVGG
from npvgg.network import Network
from npvgg.ops import Array
from npvgg.rounding import check_finite
from npvgg.testing.bounds.shares import within
from npvgg.testing.bounds.tiles import check_tile
from npvgg.testing.bounds.walk import normalisation_error, walk
from npvgg.testing.packs import manifest as manifests
from npvgg.testing.trace import Operation, Probe, at_level, checked_images, operations, probe
from npvgg.weights import build, metadata

Named = TypeVar("Named")

MANIFEST, README = "manifest.json", "README.md"
TENSORS, BOUNDS = "tensors.safetensors", "bounds.safetensors"
WEIGHTS = {form: f"weights.{form}.safetensors" for form in ("train", "deploy")}
PHOTOS = {f"photo{suffix}" for suffix in ("", *SUFFIXES)}
"""What a pack's photo may be called."""


@dataclass(frozen=True, repr=False)
class Pack:
    """A conformance pack; make one with `Pack.of` or `conformance_pack`, or `Pack.read` a folder.

    manifest: what manifest.json says
    probes: what each tensor is, in the order of execution
    photo: the bytes of the photo that the input was made of, or None
    """

    manifest: Mapping[str, Any]
    probes: tuple[Probe, ...]
    _tensors: Mapping[str, Array]
    _local: Mapping[str, Array]
    _chain: Mapping[str, Array]
    _weights: Mapping[str, Mapping[str, Array]]
    photo: bytes | None = None

    def __repr__(self) -> str:
        model, form, level = (self.manifest[key] for key in ("model", "form", "level"))
        return f"<Pack {model}: {form} form, {len(self.probes)} tensors of level {level}>"

    @classmethod
    def of(
        cls, model: RepVGG, x: Array, *, level: str = "block", form: str | None = None,
        winograd: int = 0,
        weights_origin: Mapping[str, Any] | None = None,
        input_origin: Mapping[str, Any] | None = None,
        normalised: tuple[Sequence[float], Sequence[float]] | None = None,
        photo: bytes | None = None,
    ) -> Pack:  # fmt: skip
        """Run a model's weights in float64 and keep every tensor of a level, with its bounds.

        model: its weights are rounded to float32 first, if they are not in it
        x: (N, C, H, W), rounded to float32, too
        level: "block", "branch" or "op", see `npvgg.testing.trace`
        form: "train" or "deploy", which of its forms is run; the model's own by default
        winograd: the largest tile of Winograd's algorithms that the bounds are to admit, or 0
        weights_origin, input_origin: words for the manifest on where the two come from
        normalised: mean and std by which x was made of a photo's bytes, if it was: then the bounds
        admit whatever float32 arithmetic normalises it
        photo: the bytes of that photo, which go into the pack

        Raises ArgumentError, and WeightsError where the maps overflow float32.
        """
        check_tile(winograd)
        networks = _forms(model)
        form = form or model.form
        if form == "train" and form not in networks:
            raise ArgumentError("form: expected deploy: these weights are folded, got 'train'")
        if form not in networks:
            raise ArgumentError(f"form: expected one of {', '.join(networks)}, got {form!r}")
        exact = networks[form].astype(np.float64)
        x = checked_images(checked_images(x, networks[form]), exact)
        inexact = normalisation_error(x, *normalised) if normalised else 0.0
        spelled = operations(exact)
        kept = at_level(spelled, level)
        probes: list[Probe] = []
        entries: list[dict[str, Any]] = []
        tensors: dict[str, Array] = {}
        local: dict[str, Array] = {}
        chain: dict[str, Array] = {}
        for o, y, local_error, chain_error in walk(exact, x, kept, winograd, inexact):
            if o.name not in kept:
                continue
            with np.errstate(over="ignore", under="ignore"):
                tensors[o.name] = y.astype(np.float32)
            check_finite(tensors[o.name], o.name)
            local[o.name] = rounded_up(local_error)
            chain[o.name] = rounded_up(chain_error)
            probes.append(probe(kept[o.name], y.shape))
            largest = (float(np.abs(a[o.name]).max()) for a in (tensors, local, chain))
            entries.append(manifests.entry(probes[-1], *largest))
        origins = {"weights": weights_origin or {}, "input": input_origin or {}}
        heading = manifests.heading(
            model.name, model.config, form, level, winograd, origins, spelled
        )
        flat = {form: build.flatten(network) for form, network in networks.items()}
        manifest = json.loads(json.dumps({**heading, "tensors": entries}))  # as a file has it
        return cls(manifest, tuple(probes), tensors, local, chain, flat, photo)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Pack:
        """Read a pack's folder, every file of it checked against its sum in the manifest.

        Raises WeightsError, which names the file.
        """
        folder = Path(path)
        with blaming(folder / MANIFEST), open_regular(folder / MANIFEST) as file:
            manifest = manifests.parse(file.read(manifests.MAX_MANIFEST + 1))
            config = manifests.config_of(manifest)
        for name in _files_of(manifest):
            if sha256(folder / name) != manifest["files"].get(name):
                raise WeightsError(f"{folder / name}: expected the file that {MANIFEST} was for")
        tensors, bounds = (checkpoint.load(folder / name) for name in (TENSORS, BOUNDS))
        arrays = {
            form: checkpoint.load(folder / name)
            for form, name in WEIGHTS.items()
            if name in manifest["files"]
        }
        with blaming(folder):
            network = build.build_network(arrays[manifest["form"]], config, np.float32)
            spelled = operations(network)
            kept = at_level(spelled, manifest["level"])
            _check_arrays(manifest, list(kept), tensors, bounds)
            _check_shapes(spelled, tensors)
        probes = tuple(probe(o, tensors[name].shape) for name, o in kept.items())
        local, chain = (
            {name: bounds[f"{kind}.{name}"] for name in kept} for kind in ("local", "chain")
        )
        return cls(manifest, probes, tensors, local, chain, arrays, _photo(folder, manifest))

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the folder, whole or not at all.

        overwrite: replace a folder, which must be a pack as well
        Raises ArgumentError where something else is in the way, WeightsError where it can't be
        written.
        """
        folder = Path(path)
        if os.path.lexists(folder):
            if not _is_pack(folder):
                raise ArgumentError(f"path: {folder} is there and no pack; it is not replaced")
            if not overwrite:
                raise ArgumentError(
                    f"path: {folder} is there; overwrite=True (--force) replaces a pack"
                )
        contents = self._contents()
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        manifest = {**self.manifest, "files": sums}
        contents[MANIFEST] = manifests.as_text(manifest).encode()
        with blaming(folder):
            write_folder(
                folder,
                contents,
                overwrite=overwrite,
                replaces={Path(name).suffix for name in PHOTOS},
            )

    def _contents(self) -> dict[str, bytes]:
        """Every file but the manifest."""
        contents = {
            WEIGHTS[form]: _safetensors(
                arrays, metadata.describe(self.manifest["model"], self.config, form)
            )
            for form, arrays in self._weights.items()
        }
        contents[TENSORS] = _safetensors(self._tensors, {})
        bounds = {f"local.{name}": bound for name, bound in self._local.items()}
        bounds |= {f"chain.{name}": bound for name, bound in self._chain.items()}
        contents[BOUNDS] = _safetensors(bounds, {})
        if self.photo is not None:
            suffix = Path(str(self.manifest["input"].get("photo", ""))).suffix.lower()
            contents[f"photo{suffix if suffix in SUFFIXES else ''}"] = self.photo
        text = (resources("npvgg.testing.packs") / "conformance.md").read_text("utf-8")
        for key in ("model", "form", "level"):  # a model's name may be a stranger's: no Markdown
            plain = re.sub(r"[^\w .-]", r"\\\g<0>", self.manifest[key])
            text = text.replace("{" + key + "}", plain)
        contents[README] = text.encode()
        return contents

    def tensor(self, name: str) -> Array:
        """Return the truth of a tensor, float32."""
        return _named(self._tensors, name)

    def bound(self, name: str) -> Array:
        """How far each element may be off where the whole network was run, float32."""
        return _named(self._chain, name)

    def local_bound(self, name: str) -> Array:
        """How far each element may be off where the tensor's inputs were those of the pack."""
        return _named(self._local, name)

    def tolerance(self, name: str, *, alone: bool = False) -> Array:
        """How far each element may be off; alone: the tensor was computed from the pack's own."""
        return self.local_bound(name) if alone else self.bound(name)

    def accepts(self, name: str, got: Array, *, alone: bool = False) -> bool:
        """Whether a tensor of theirs is right: our shape, and each element within its bound."""
        return within(got, self.tensor(name), self.tolerance(name, alone=alone))

    def probe(self, name: str) -> Probe:
        """Return what a tensor is."""
        return _named({probe.name: probe for probe in self.probes}, name)

    @property
    def config(self) -> RepVGGConfig:
        """The network's configuration."""
        return manifests.config_of(self.manifest)

    def network(self, form: str | None = None) -> Network:
        """Return the network in float64, "train" or "deploy"; by default in the form of the
        tensors.

        Raises ArgumentError for a form that the pack does not have.
        """
        arrays = _named(self._weights, form or self.manifest["form"], "form")
        return build.build_network(arrays, self.config, np.float64)


def rounded_up(bound: Array) -> Array:
    """Return the least float32 numbers that are not below the bounds."""
    with np.errstate(over="ignore", under="ignore"):
        near = bound.astype(np.float32)
    return np.where(near < bound, np.nextafter(near, np.float32(np.inf)), near)


def _forms(model: RepVGG) -> dict[str, Network]:
    """Return the forms that a model can be given in, in float32."""
    if not isinstance(model, RepVGG):
        raise ArgumentError(f"model: expected one of create_model, got {type(model).__name__}")
    network = model.network.astype(np.float32)
    return {network.form: network, "deploy": network.reparameterized()}


def _named(table: Mapping[str, Named], name: str, argument: str = "name") -> Named:
    if name not in table:
        raise ArgumentError(f"{argument}: expected one of {', '.join(table)}, got {name!r}")
    return table[name]


def _safetensors(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    return safetensorsfile.serialized(arrays, metadata, None)


def _is_pack(folder: Path) -> bool:
    """Tell a folder that holds a pack and nothing else."""
    try:
        with open_regular(folder / MANIFEST) as file:
            names = _files_of(manifests.parse(file.read(manifests.MAX_MANIFEST + 1)))
    except (OSError, WeightsError):
        return False
    return set(os.listdir(folder)) <= {*names, MANIFEST, README}


def _files_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the files that a pack has beside its manifest."""
    names = [name for name in (*WEIGHTS.values(), *PHOTOS) if name in manifest["files"]]
    return sorted({*names, WEIGHTS[manifest["form"]], TENSORS, BOUNDS})


def _photo(folder: Path, manifest: Mapping[str, Any]) -> bytes | None:
    """Return the bytes of the photo that a pack holds, if it holds one."""
    for name in sorted(PHOTOS & manifest["files"].keys()):
        with blaming(folder / name), open_regular(folder / name) as file:
            data = file.read(MAX_STREAM + 1)
            if len(data) > MAX_STREAM:
                raise WeightsError(f"expected a photo of at most {MAX_STREAM:,} bytes, got more")
            return data
    return None


def _check_arrays(
    manifest: Mapping[str, Any],
    names: list[str],
    tensors: Mapping[str, Array],
    bounds: Mapping[str, Array],
) -> None:
    """Raise unless the tensors are the network's, with finite numbers and bounds of their
    shapes.
    """
    listed = {str(entry.get("name")): entry.get("shape") for entry in manifest["tensors"]}
    if list(listed) != names or set(tensors) != set(names):
        raise WeightsError(f"tensors: expected those of this network, {', '.join(names[:3])}, …")
    wanted = {f"{kind}.{name}" for kind in ("local", "chain") for name in names}
    if set(bounds) != wanted:
        raise WeightsError(f"bounds: expected local.… and chain.… of {len(names)} tensors")
    checkpoint.check_values(tensors)
    checkpoint.check_values(bounds)
    for name in wanted:
        truth, bound = tensors[name.split(".", 1)[1]], bounds[name]
        if list(truth.shape) != listed[name.split(".", 1)[1]] or truth.shape != bound.shape:
            raise WeightsError(f"{name}: expected shapes that agree, got {bound.shape}")
        if truth.dtype != np.float32 or bound.dtype != np.float32 or (bound < 0).any():
            raise WeightsError(f"{name}: expected float32 numbers, and no bound below 0")


def _check_shapes(spelled: Sequence[Operation], tensors: Mapping[str, Array]) -> None:
    """Every tensor has the shape that the network gives it, from the input's on."""
    shapes: dict[str, tuple[int, ...]] = {}
    for o in spelled:
        source = shapes[o.inputs[0]] if o.inputs else tensors[o.name].shape
        if not o.inputs and (len(source) != 4 or 0 in source[2:]):
            raise WeightsError(f"{o.name}: expected (N, C, H, W), got {source}")
        shapes[o.name] = _shape(o, source)
        if o.name in tensors and tensors[o.name].shape != shapes[o.name]:
            raise WeightsError(
                f"{o.name}: expected the shape {shapes[o.name]} that its inputs give, "
                f"got {tensors[o.name].shape}"
            )


def _shape(o: Operation, source: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an operation's tensor from that of the first that it reads."""
    match o.op:
        case "conv":
            weight, stride = o.weights["weight"], o.parameters["stride"]
            if source[1] != weight.shape[1] * o.parameters["groups"]:
                raise WeightsError(f"{o.name}: expected another number of channels, got {source}")
            return (source[0], len(weight), *(output_size(side, stride) for side in source[2:]))
        case "pool":
            return source[0], source[1] * (2 if o.parameters["kind"] == "catavgmax" else 1)
        case "linear":
            return source[0], len(o.weights["weight"])
        case _:
            return source
