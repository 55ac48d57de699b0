"""The nearest photos of a run, by the cosine of their embeddings: exact, one shard at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npvgg.batch.predictor import Predictor
from npvgg.batch.run import Run
from npvgg.batch.spec import refuse_another
from npvgg.errors import ArgumentError, ImageError
from npvgg.images.opening import Source
from npvgg.ops import Array


class Hit(NamedTuple):
    """A photo that was found: its cosine with what was looked for, its number and its path."""

    score: float
    id: int
    path: str


def embedded(run: Run, photo: Source) -> Array:
    """Return the embedding of a photo as the run would have made it: (features,).

    Raises ArgumentError where the run has no embeddings, or another identity than what is here;
    ImageError for a photo that cannot be read.
    """
    if "embedding" not in run.spec.want:
        raise ArgumentError("run: expected one with embeddings (--want embedding)")
    predictor = Predictor(run.spec)
    refuse_another(run.identity, predictor.identity)
    decoded = predictor.decode(photo)
    rows = predictor.rows([decoded])
    if rows["error"][0]:
        raise ImageError(str(rows["error"][0]))
    vector: Array = rows["embedding"][0]
    return vector


def nearest(run: Run, vector: Array, k: int = 10) -> list[Hit]:
    """Return the k photos of the run (so far) whose embeddings e have the largest cosine with
    `vector` v, the nearest first:

        score = Σ e·v / (√Σ e² · √Σ v²)

    vector: (features,)
    Computed in float64; of equal scores the lower number goes first; a vector of zeros scores 0.

    Raises ArgumentError for another length than the embeddings have.
    """
    query = np.asarray(vector, np.float64)
    query = query / (np.linalg.norm(query) or 1.0)
    hits: list[Hit] = []
    for number in sorted(run.done()):
        table = run.rows(number, ["id", "path", "embedding"])
        table = table.filter(table["embedding"].is_valid())
        if not table.num_rows:
            continue
        column = table["embedding"].combine_chunks()
        counts = np.unique(column.value_lengths().to_numpy())
        if len(counts) != 1:
            raise ArgumentError(f"run: expected embeddings of one length in shard {number}")
        if tuple(counts.tolist()) != query.shape:
            raise ArgumentError(f"vector: expected ({counts[0]},), got {query.shape}")
        embeddings = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        embeddings = embeddings.reshape(table.num_rows, -1)
        lengths = np.linalg.norm(embeddings, axis=1)
        # not `@`, whose sums have another order in another row: the same photo scores the same
        scores = np.einsum("nd,d->n", embeddings, query) / np.where(lengths > 0, lengths, 1)
        ids = table["id"].to_numpy()
        best = np.lexsort((ids, -scores))[:k]
        paths = [path or "" for path in table["path"].take(best.tolist()).to_pylist()]
        hits += [Hit(float(scores[n]), int(ids[n]), p) for n, p in zip(best, paths, strict=True)]
        hits = sorted(hits, key=lambda hit: (-hit.score, hit.id))[:k]
    return hits
