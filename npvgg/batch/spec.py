"""What decides the rows of a run, beside the photos; and the identity that this gives to a run.

Two runs with one identity give the same bytes. The identity is a JSON object that names everything
on which a bit of a row depends: the weights and not their file, the steps of the transform and not
the name they came from, the engine that `auto` stood for, and the versions of all that computes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from npvgg.data import Transform
from npvgg.engines import ENGINES, FASTEST
from npvgg.errors import ArgumentError, refuse_keyword
from npvgg.formats.untrusted import shown
from npvgg.hub.pretrained import BUNDLED
from npvgg.images.opening import FORMATS, MAX_PIXELS
from npvgg.model import RepVGG
from npvgg.version import __version__
from npvgg.weights.build import flatten

WANTS = ("topk", "embedding")

PACKAGE = Path(__file__).parents[1]
"""The folder of npvgg's sources."""

OPENING = ("exif_transpose", "alpha", "on_16bit", "frame", "max_pixels", "formats", "draft")
"""The fields of a Spec that say how a photo is opened: the options of `images.open_image`."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What becomes of a photo: plain values, so that any process can be told.

    model            a network with its tag, hf-hub:owner/name[@revision], a folder; None: the
                     weights tell, or, without them, the network that ships
    weights          a file or folder of weights
    wrapper          which weights of a training checkpoint
    prefix           only tensors whose names begin so
    dtype            float32 or float64, of weights and arithmetic
    engine           auto, or the name of an engine
    labels           a file with the names of the classes
    want             "topk", "embedding" or both
    topk             how many classes a photo gets
    embedding_dtype  float32 or float16
    exif_transpose, alpha, on_16bit, frame, max_pixels, formats, draft: see `images.open_image`

    Raises ArgumentError.
    """

    model: str | None = None
    weights: str | None = None
    wrapper: str | None = None
    prefix: str | None = None
    dtype: str = "float32"
    engine: str = "auto"
    labels: str | None = None
    want: tuple[str, ...] = WANTS
    topk: int = 5
    embedding_dtype: str = "float32"
    exif_transpose: bool = False
    alpha: str = "drop"
    on_16bit: str = "clip"
    frame: int = 0
    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = FORMATS
    draft: int = 0

    def __post_init__(self) -> None:
        for name in ("model", "weights", "wrapper", "prefix", "labels"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ArgumentError(f"{name}: expected a text or None, got {shown(value)}")
        for name in ("dtype", "engine", "embedding_dtype", "alpha", "on_16bit"):
            if not isinstance(value := getattr(self, name), str):
                raise ArgumentError(f"{name}: expected a text, got {shown(value)}")
        for name in ("want", "formats"):
            value = getattr(self, name)
            if not isinstance(value, str | list | tuple) or not all(
                isinstance(v, str) for v in value
            ):
                raise ArgumentError(f"{name}: expected texts, got {shown(value)}")
        for name in ("topk", "frame", "max_pixels", "draft"):
            if type(value := getattr(self, name)) is not int:
                raise ArgumentError(f"{name}: expected an int, got {shown(value)}")
        want = [self.want] if isinstance(self.want, str) else list(self.want)
        if not want or not set(want) <= set(WANTS):
            raise ArgumentError(f"want: expected some of {', '.join(WANTS)}, got {self.want!r}")
        object.__setattr__(self, "want", tuple(w for w in WANTS if w in want))
        object.__setattr__(self, "formats", tuple(self.formats))
        if not isinstance(self.topk, int) or self.topk < 1:
            raise ArgumentError(f"topk: expected a positive int, got {self.topk!r}")
        if self.embedding_dtype not in ("float32", "float16"):
            raise ArgumentError(
                f"embedding_dtype: expected float32 or float16, got {self.embedding_dtype!r}"
            )
        if self.engine not in ("auto", *ENGINES):
            raise ArgumentError(f"engine: expected auto, {', '.join(ENGINES)}, got {self.engine!r}")

    @classmethod
    def of(cls, values: Spec | Mapping[str, Any]) -> Spec:
        """Return a Spec from a mapping of its fields (itself, if it is one already)."""
        if isinstance(values, Spec):
            return values
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                refuse_keyword(name, "Spec", known)
        return cls(**values)

    def resolved(self) -> Spec:
        """Return what any process on any day takes it for: no `auto`, no default, no relative path.

        A worker that lacks Numba must fail, not fall back to an engine with other bits.

        Raises ArgumentError.
        """
        model = self.model or (None if self.weights else BUNDLED)
        if model and os.path.isdir(model):
            model = os.path.abspath(model)
        engine = self.engine
        if engine == "auto":
            fast = self.dtype == "float32" and find_spec("numba") is not None
            engine = FASTEST if fast else "reference"
        elif engine != "reference" and find_spec("numba") is None:
            raise ArgumentError(f"engine: expected Numba to be installed for {engine!r}")
        paths = {
            name: os.path.abspath(path)
            for name in ("weights", "labels")
            if (path := getattr(self, name)) is not None
        }
        return replace(self, model=model, engine=engine, **paths)

    @property
    def opening(self) -> dict[str, Any]:
        """The options with which a photo is opened."""
        return {name: getattr(self, name) for name in OPENING}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return plain(asdict(self))


def identity(
    spec: Spec, model: RepVGG, transform: Transform, names: Sequence[str] | None
) -> dict[str, Any]:
    """Return everything that decides the bits of a row beside its photo, as JSON has it.

    names: of the classes
    """
    topk = {"topk": min(spec.topk, model.num_classes), "labels": _digest(names)}
    embedding = {"embedding_dtype": spec.embedding_dtype}
    return plain({
        "dtype": str(model.dtype),
        "weights": weights_digest(model),
        "config": model.config.as_dict(),
        "form": model.form,
        "engine": spec.engine,
        "transform": transform.steps,
        "want": spec.want,
        **(topk if "topk" in spec.want else {}),
        **(embedding if "embedding" in spec.want else {}),
        "versions": versions(spec.engine),
    })  # fmt: skip


def weights_digest(model: RepVGG) -> str:
    """Return the sha256 of a model's tensors: their names, types, shapes and numbers, in order of
    the names. The file that they came in, its format and its metadata do not count.
    """
    state = hashlib.sha256()
    for name, tensor in sorted(flatten(model.network).items()):
        state.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        state.update(tensor.tobytes())
    return state.hexdigest()


def versions(engine: str) -> dict[str, str]:
    """Return the versions of all that computes, decodes or writes; nothing heavy is imported."""
    from PIL import features

    packages = ["numpy", "scipy", "pillow", "pyarrow"]
    packages += ["numba", "llvmlite"] if engine != "reference" else []
    found = {"npvgg": __version__, "npvgg_sources": sources_digest(PACKAGE)}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {
        "libjpeg": str(features.version_feature("libjpeg_turbo") or features.version("jpg")),
        "libtiff": str(features.version("libtiff")),
        "libwebp": str(features.version("webp")),
    }


@cache
def sources_digest(folder: Path) -> str:
    """Return the sha256 of a package's sources, their paths in it and their bytes: two states of a
    working tree have one version, and may compute different bits.
    """
    state = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(name for name in files if name.endswith(".py")):
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                data = file.read()
            state.update(f"{os.path.relpath(path, folder)} {len(data)}\n".encode())
            state.update(data)
    return state.hexdigest()


def refuse_another(planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise ArgumentError, with the name of the field, where two identities differ."""
    mine, theirs = dict(_leaves(found)), dict(_leaves(planned))
    for name in theirs | mine:
        if mine.get(name) != theirs.get(name):
            raise ArgumentError(
                f"{name}: the run was planned with {_text(theirs.get(name))}, got "
                f"{_text(mine.get(name))}; rows of the two must not be mixed: take another folder"
            )


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value as it comes back from JSON: tuples as lists."""
    back: dict[str, Any] = json.loads(json.dumps(value))
    return back


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [
        leaf
        for key, item in value.items()
        for leaf in _leaves(item, f"{name}.{key}" if name else key)
    ]


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _digest(names: Sequence[str] | None) -> str | None:
    return None if names is None else hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()
