"""Photos → rows: a dict of arrays in, a dict of arrays out, for any pipeline that has such batches.

    predictor = Predictor({"model": "repvgg_a0.rvgg_in1k", "want": ["embedding"]})
    rows = predictor({"path": np.array(["a.jpg", "b.jpg"])})

A photo that cannot be read is a row with its error. A row has the same bits in any batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npvgg.batch.spec import Spec, identity
from npvgg.create import create_model
from npvgg.data import create_transform, resolve_model_data_config
from npvgg.errors import ArgumentError, ImageError
from npvgg.images import labels, opening
from npvgg.images.opening import Source
from npvgg.ops import Array, probabilities, topk

Columns = dict[str, NDArray[Any]]

SOURCES = ("bytes", "image", "path")
"""Columns in which a batch may hold its photos; the first that it has is taken."""


@dataclass(frozen=True)
class Decoded:
    """One photo: the network's input, (C, H, W), or the error; its size as opened, and notes."""

    x: Array | None = None
    error: str = ""
    width: int = -1
    height: int = -1
    notes: tuple[str, ...] = ()


class Predictor:
    """A network and its transform, made ready in this process to turn batches of photos into rows.

    spec: a `Spec`, or a mapping of its fields
    threads: of the compiled engines; None for all that the process may use
    A Predictor may be pickled: it is made again from its spec where it arrives.

    Raises ArgumentError, WeightsError.
    """

    def __init__(self, spec: Spec | Mapping[str, Any], *, threads: int | None = 1) -> None:
        self.spec = spec = Spec.of(spec).resolved()
        self.threads = threads
        self.model = create_model(
            spec.model,
            pretrained=spec.weights is None,
            weights=spec.weights,
            wrapper=spec.wrapper,
            prefix=spec.prefix,
            dtype=spec.dtype,
            engine=spec.engine,
            threads=threads,
        )
        self.transform = create_transform(**resolve_model_data_config(self.model), **spec.opening)
        self.names = class_names(spec, self.model)
        self.classes = min(spec.topk, self.model.num_classes)
        if "topk" in spec.want and not self.model.num_classes:
            raise ArgumentError("want: expected a network with a classifier for topk; it has none")
        if "embedding" in spec.want and not self.model.config.global_pool:
            raise ArgumentError("want: expected a network that pools for embedding; it does not")

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.spec, self.threads)

    def __repr__(self) -> str:
        return f"<Predictor of {', '.join(self.spec.want)}: {self.model!r}>"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the bits of a row beside its photo."""
        return identity(self.spec, self.model, self.transform, self.names)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Columns:
        """Return the rows of a batch of N photos.

        batch: arrays of length N; the photos are in the column "bytes" (whole files), "image"
            (uint8, (H, W, 3) each) or "path"; further columns are handed on
        Returns status ("ok" or "error"), error and notes (text), width and height (int32), and what
        the spec wants: top_index (N, k) int32, top_label (N, k) text, top_prob (N, k), embedding
        (N, features). A photo that failed has −1, "" or NaN there.

        Raises ArgumentError for a batch without photos.
        """
        column = next((name for name in SOURCES if name in batch), None)
        if column is None:
            raise ArgumentError(
                f"batch: expected a column {', '.join(SOURCES)}, got {', '.join(batch) or 'none'}"
            )
        decoded = [self.decode(_source(item)) for item in batch[column]]
        handed_on = {name: batch[name] for name in batch if name not in ("bytes", "image")}
        notes = np.array(["; ".join(photo.notes) for photo in decoded], dtype=np.str_)
        return {**handed_on, **self.rows(decoded), "notes": notes}

    def decode(self, source: Source) -> Decoded:
        """Open a photo and make it the network's input; what goes wrong is in the answer."""
        try:
            image, notes = opening.read(source, self.transform.opening)
            return Decoded(self.transform.tensor(image), "", image.width, image.height, notes)
        except ImageError as error:
            return Decoded(error=str(error))

    def rows(self, decoded: Sequence[Decoded]) -> Columns:
        """Return the rows of photos that were decoded, as `__call__` does, less the notes."""
        good = [n for n, photo in enumerate(decoded) if photo.x is not None]
        errors = [photo.error for photo in decoded]
        answers: Columns = {}
        if good or decoded:
            inputs = [decoded[n].x for n in good]
            shape = (0, *self.transform.input_size)
            answers = self._answers(np.stack(inputs) if inputs else np.zeros(shape, np.float32))  # type: ignore[arg-type]
        for n, row in zip(good, answers.get("embedding", ()), strict=False):
            if not np.isfinite(row).all():
                errors[n] = f"the embedding is not finite in {self.spec.embedding_dtype}"
        kept = [place for place, n in enumerate(good) if not errors[n]]
        at = [good[place] for place in kept]
        columns: Columns = {
            "status": np.array(["error" if error else "ok" for error in errors]),
            "error": np.array(errors, dtype=np.str_),
            "width": np.array([photo.width for photo in decoded], np.int32),
            "height": np.array([photo.height for photo in decoded], np.int32),
        }
        for name, values in answers.items():
            missing: Any = {"i": -1, "f": np.nan}.get(values.dtype.kind, "")
            column = np.full((len(decoded), *values.shape[1:]), missing, values.dtype)
            column[at] = values[kept]
            columns[name] = column
        return columns

    def warm_up(self) -> None:
        """Do once what is done at the first call: compile kernels, or load them; pack weights."""
        self._answers(np.zeros((1, *self.transform.input_size), np.float32))

    def _answers(self, x: Array) -> Columns:
        """Return what the spec wants of a batch x (N, C, H, W)."""
        logits, pooled = self._run(x)
        answers: Columns = {}
        if "topk" in self.spec.want:
            prob, index = topk(probabilities(logits), self.classes, axis=1)
            names = np.array(self.names or [str(n) for n in range(self.model.num_classes)])
            answers["top_index"] = index.astype(np.int32)
            answers["top_label"] = names[index]
            answers["top_prob"] = prob.astype(np.float32)
        if "embedding" in self.spec.want:
            with np.errstate(over="ignore"):  # rows that do not fit become errors
                answers["embedding"] = pooled.astype(self.spec.embedding_dtype)
        return answers

    def _run(self, x: Array) -> tuple[Array, Array]:
        """Return logits and pooled vectors, whose bits do not depend on the batch."""
        if self.model.engine != "reference" or len(x) < 2:
            outputs = self.model.outputs(x)
            return outputs.logits, outputs.pooled
        # the sums of NumPy's matrix products have another order for another number of rows
        logits, pooled = zip(*(self._run(x[n : n + 1]) for n in range(len(x))), strict=True)
        return np.concatenate(logits), np.concatenate(pooled)


def identified(spec: Spec | Mapping[str, Any]) -> tuple[Spec, dict[str, Any]]:
    """Return a spec resolved and the identity that it gives, without starting its engine: who plans
    or watches a run needs no Numba, whose import takes longer than all the rest.

    Raises ArgumentError, WeightsError.
    """
    spec = Spec.of(spec).resolved()
    planner = Predictor(replace(spec, engine="reference"))
    if spec.engine != "reference" and planner.model.dtype != np.float32:
        raise ArgumentError(
            f"dtype: engine {spec.engine} computes in float32, got {planner.model.dtype}"
        )
    return spec, identity(spec, planner.model, planner.transform, planner.names)


def class_names(spec: Spec, model: Any) -> list[str] | None:
    """Return the names of the classes, or None where nothing tells them. Raises ArgumentError."""
    found = (
        labels.load_labels(spec.labels) if spec.labels else labels.labels_for(model.pretrained_cfg)
    )
    if found is None or not model.num_classes:
        return None
    if len(found) != model.num_classes:
        raise ArgumentError(f"labels: expected {model.num_classes} names, got {len(found)}")
    return [label.name for label in found]


def _again(spec: Spec, threads: int | None) -> Predictor:
    return Predictor(spec, threads=threads)


def _source(item: Any) -> Source:
    """Return one element of a column as what `images.open_image` takes."""
    return str(item) if isinstance(item, str) else item  # np.str_ is a str
