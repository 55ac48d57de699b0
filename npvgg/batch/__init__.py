"""Millions of photos: a run that can be killed at any moment and goes on, each photo exactly once.

A run is a folder. Its plan, made once, gives every photo a number and cuts the numbers into shards;
a shard's file is named by its number, is written whole and under its final name once, and holds the
same bytes whoever wrote it. So "done" means that the file is there, and whoever computes shards (a
few processes here, a job array, Dask, Ray) only has to be told their numbers.

    guests     pyarrow, fsspec, Dask and Ray, imported where they are needed
    spec       what decides the rows, beside the photos, and the identity that it gives a run
    predictor  photos → rows, for this package and for anybody's own pipeline
    sources    what was asked for → the list of photos, one after another
    reading    one photo of the list → what can be decoded, if it is still what was planned
    run        the folder: planned, opened, counted, finished
    shards     the rows of one shard, and its file
    worker     the process that computes shards
    local      the processes of one machine, hired, watched and replaced
    clusters   the same work given to Dask or to Ray
    search     the nearest photos of a finished run
"""

from npvgg.batch.predictor import Predictor
from npvgg.batch.spec import Spec

__all__ = ["Predictor", "Spec"]
