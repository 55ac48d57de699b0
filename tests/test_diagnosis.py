"""Every mistake of the catalogue, planted in a port that knows nothing of it, is named."""

from functools import cache

import numpy as np
import plants
import porter
import pytest
from plants import PLANTS

from npvgg import weights
from npvgg.config import expand
from npvgg.kit import mistakes
from npvgg.kit.conformance import conformance_pack
from npvgg.kit.diagnosis import UNKNOWN, diagnose


@cache
def pack(network, level="block", form="train", size=18):
    return conformance_pack(network, level=level, form=form, size=size)


def answers(pack, **planted):
    """What the port says, and what the tensors are, in float32."""
    tensors = weights.flatten(pack.network("train"))
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    return porter.run(tensors, expand(pack.config), pack.tensor("input"), **planted)


def first_wrong(pack, theirs):
    """The first tensor outside its bound, or of another shape; "" for none."""
    for probe in pack.probes:
        truth, got = pack.tensor(probe.name), theirs[probe.name]
        if got.shape != truth.shape or not (abs(got - truth) <= pack.bound(probe.name)).all():
            return probe.name
    return ""


def until_wrong(pack, block, **planted):
    """The planted run's tensors up to the block: behind it shapes may not fit any more."""
    try:
        return answers(pack, wrong=block, **planted)
    except (ValueError, IndexError):
        kept = {}
        tensors = weights.flatten(pack.network("train"))
        tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
        for count in range(1, len(expand(pack.config)) + 1):
            places = expand(pack.config)[:count]
            try:
                kept = porter.run(tensors, places, pack.tensor("input"), block, **planted, head=False)
            except (ValueError, IndexError):
                return kept
        return kept


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_a_planted_mistake_is_named_in_a_whole_run(plant):
    one = pack(plant.network)
    theirs = until_wrong(one, plant.block, hooks=plant.hooks, form=plant.form)
    assert first_wrong(one, theirs) == plant.block
    found = diagnose(one, plant.block, theirs)
    names = {finding.mistake for finding in found}
    assert plant.mistake in names, found
    assert names <= {plant.mistake, *plant.also}, found
