"""Photos and runs for the tests of batch runs."""

import json
from functools import cache

import numpy as np
from PIL import Image

from npvgg.batch.predictor import Predictor
from npvgg.batch.run import Run, described, file_digest, plan
from npvgg.batch.sources import listed

SPEC = {"engine": "winograd", "topk": 3}  # the network that ships


def save_photos(folder, count, rng):
    """Write photos of noise, each of a size of its own: 000.png, 001.jpg, 002.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        pixels = rng.integers(0, 256, (20 + n % 7, 30 - n % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:03}.{('png', 'jpg')[n % 2]}")
    return folder


@cache
def predictor_of(spec):
    return Predictor(json.loads(spec))


def planned(folder, *sources, spec=SPEC, shard_size=4, column=None, files_from=None, **options):
    """Plan a run; give it and the predictor of its spec."""
    predictor = predictor_of(json.dumps({**SPEC, **spec}))
    sources = [str(source) for source in sources]
    run = plan(
        folder,
        listed(sources, files_from, column),
        spec=predictor.spec,
        identity=predictor.identity,
        sources=described(sources, files_from, column),
        shard_size=shard_size,
        **options,
    )
    return run, predictor


def digests(run):
    """Give the sha256 of every shard that is done."""
    run = run if isinstance(run, Run) else Run.open(run)
    return {number: file_digest(run.shard(number)) for number in sorted(run.done())}


def rows_of(run):
    """Give all rows of a run, as dicts."""
    return [row for n in range(run.shards) for row in run.rows(n).to_pylist()]
