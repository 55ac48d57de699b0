"""Every mistake of the catalogue, planted in a port that knows nothing of it, is named."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from npvgg.config import expand
from npvgg.testing.diagnosis import mistakes
from npvgg.testing.diagnosis.diagnose import diagnose
from npvgg.testing.diagnosis.fitted import NUMBER_PER_CHANNEL, SCALED_BRANCH
from npvgg.testing.diagnosis.hypotheses import OTHER_NORMS, OTHER_WEIGHTS
from npvgg.testing.packs.conformance import conformance_pack
from npvgg.weights import build
from tests.oracles import plants, porter
from tests.oracles.plants import PLANTS


@cache
def pack(network, level="block", form="train", size=18):
    return conformance_pack(network, level=level, form=form, size=size)


def answers(pack, **planted):
    """What the port says, and what the tensors are, in float32."""
    tensors = build.flatten(pack.network("train"))
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    return porter.run(tensors, expand(pack.config), pack.tensor("input"), **planted)


def first_wrong(pack, theirs):
    """The first tensor outside its bound, or of another shape; "" for none."""
    for probe in pack.probes:
        truth, got = pack.tensor(probe.name), theirs.get(probe.name)
        if got is None:
            continue
        if got.shape != truth.shape or not (abs(got - truth) <= pack.bound(probe.name)).all():
            return probe.name
    return ""


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_a_planted_mistake_is_named_in_a_whole_run(plant):
    one = pack(plant.network)
    theirs = answers(one, wrong=plant.block, hooks=plant.hooks, form=plant.form)
    assert first_wrong(one, theirs) == plant.block
    found = diagnose(one, plant.block, theirs)
    names = {finding.mistake for finding in found}
    assert plant.mistake in names, found
    assert names <= {plant.mistake, *plant.also}, found


# --- Both ends ------------------------------------------------------------------------------------

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def rgb(x):
    """0 … 1"""
    return x * STD + MEAN


IMAGES = {
    "rgb-bgr": [
        lambda x: x[:, [2, 1, 0]],
        lambda x: (rgb(x)[:, [2, 1, 0]] - MEAN) / STD,
        lambda x: rgb(x)[:, [2, 1, 0]] * 255,
        lambda x: rgb(x)[:, [2, 1, 0]] * 2 - 1,
    ],
    "normalisation": [
        rgb,
        lambda x: rgb(x) * 255,
        lambda x: (x - MEAN) / STD,
        lambda x: (rgb(x) * 255 - MEAN) / STD,
        lambda x: rgb(x) - MEAN,
        lambda x: rgb(x) / STD,
        lambda x: rgb(x) * 2 - 1,
        lambda x: (rgb(x) * 255 / 256 - MEAN) / STD,
        lambda x: (rgb(x) - 0.449) / 0.226,
    ],
    "order-of-the-image": [
        lambda x: x.transpose(0, 1, 3, 2),
        lambda x: x[:, :, :, ::-1],
        lambda x: x[:, :, ::-1, :],
        lambda x: plants.channels_last_bytes(None, x),
        lambda x: plants.read_as_channels_last(None, x),
    ],
    "image-rounded": [plants.half, plants.upper_half],
}
EVERY_IMAGE = [(name, wrong) for name, wrongs in IMAGES.items() for wrong in wrongs]


@pytest.mark.parametrize(("name", "wrong"), EVERY_IMAGE)
def test_a_wrong_image_is_explained_where_it_was_written(name, wrong):
    one = pack("tiny")
    x = wrong(one.tensor("input")).astype(np.float32)
    assert {f.mistake for f in diagnose(one, "input", {"input": x})} == {name}


@pytest.mark.parametrize(("name", "wrong"), EVERY_IMAGE)
def test_a_wrong_image_is_explained_where_it_was_read(name, wrong):
    one = pack("tiny")
    hooks = {"read": lambda port, x: wrong(x).astype(np.float32)}
    theirs = answers(one, wrong="stem", hooks=hooks)
    for given in (theirs, {"stem": theirs["stem"]}):
        found = {f.mistake for f in diagnose(one, "stem", given)}
        same = {"channels-reversed"} if wrong is IMAGES["rgb-bgr"][0] else set()
        assert found == {name, *same}


def log_softmax(y):
    return y - np.log(np.sum(np.exp(y), axis=1, keepdims=True))


def classify(x, w, b):
    return np.stack([(row * w).sum(axis=1) + b for row in x]).astype(np.float32)


ENDINGS = {
    "another-pool": [
        ("pool", lambda x, w, b: x.max(axis=(2, 3))),
        ("pool", lambda x, w, b: x.sum(axis=(2, 3))),
        ("pool", lambda x, w, b: x[:, :, 0, 0]),
        ("pool", lambda x, w, b: x.sum(axis=(2, 3)) / 49),
        ("pool", lambda x, w, b: np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).mean(axis=(2, 3))),
    ],
    "classifier-transposed": [
        ("logits", lambda x, w, b: classify(x, np.array(w.ravel()).reshape(12, 5).T, b)),
    ],
    "classifier-bias": [
        ("logits", lambda x, w, b: classify(x, w, 0 * b)),
        ("logits", lambda x, w, b: classify(x, w, 2 * b)),
    ],
    "logits-activated": [
        ("logits", lambda x, w, b: np.exp(log_softmax(classify(x, w, b)))),
        ("logits", lambda x, w, b: log_softmax(classify(x, w, b))),
        ("logits", lambda x, w, b: porter.sigmoid(classify(x, w, b))),
        ("logits", lambda x, w, b: np.maximum(classify(x, w, b), 0)),
    ],
    "features-changed": [
        ("logits", lambda x, w, b: classify(x / np.linalg.norm(x, axis=1, keepdims=True), w, b)),
        ("logits", lambda x, w, b: classify(x * 2, w, b)),
    ],
    "classes-shifted": [
        ("logits", lambda x, w, b: classify(x, w, b)[:, [4, 0, 1, 2, 3]]),
        ("logits", lambda x, w, b: np.insert(classify(x, w, b), 0, 0, axis=1)),
    ],
    "classifier-rounded": [
        ("logits", lambda x, w, b: classify(x, plants.half(w), plants.half(b))),
        ("logits", lambda x, w, b: plants.upper_half(classify(x, w, b))),
    ],
}
EVERY_ENDING = [(name, *wrong) for name, wrongs in ENDINGS.items() for wrong in wrongs]


@pytest.mark.parametrize(("name", "target", "wrong"), EVERY_ENDING)
def test_a_wrong_ending_is_explained(name, target, wrong):
    one = pack("tiny")
    theirs = answers(one)
    head = one.network("train").head
    w, b = head.weight.astype(np.float32), head.bias.astype(np.float32)
    theirs[target] = wrong(theirs[{"pool": "stages.1.1", "logits": "pool"}[target]], w, b)
    assert {f.mistake for f in diagnose(one, target, theirs)} == {name}


def test_every_mistake_of_the_catalogue_is_planted():
    planted = {*IMAGES, *ENDINGS, *(plant.mistake for plant in PLANTS), "eps-outside-the-root"}
    photos = {"photo-fitted-otherwise", "photo-fitted-and-normalised-otherwise"}  # test_photo_packs
    more = {m.name for m in (NUMBER_PER_CHANNEL, SCALED_BRANCH, OTHER_NORMS, OTHER_WEIGHTS)}
    assert sorted((planted | photos) - more) == mistakes.names()
    assert more <= planted


# --- Other levels, other weights ------------------------------------------------------------------


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("network", ["tiny", "tiny_g2", "tiny_se", "tiny_plus", "tiny_dilated"])
@pytest.mark.parametrize("level", ["block", "op"])
def test_a_right_port_is_left_alone(network, form, level):
    one = pack(network, level, form)
    theirs = answers(one, form={"train": porter.Port, "deploy": porter.Folded}[form])
    both = [probe.name for probe in one.probes if probe.name in theirs]
    assert len(both) >= len(expand(one.config)) + 3  # the blocks, and both ends
    for name in both:
        assert diagnose(one, name, theirs) == []


@pytest.mark.parametrize(("mistake", "hooks", "where"), [
    ("kernel-flipped", {"kernel": plants.kernels(plants.turned)}, "conv_kxk.conv"),
    ("batch-norm-eps", {"norm": plants.eps(1e-3, "conv_1x1")}, "conv_1x1.bn"),
    ("batch-norm-missing", {"norm": lambda port, branch, y: y}, "conv_kxk.bn"),
    ("beta-missing", {"norm": plants.normed(lambda g, b, m, v: (g, 0 * b, m, v), "identity")},
     "identity"),
    ("branch-missing", {"join": plants.missing("identity")}, "sum"),
    ("activation-before-the-sum", {"join": lambda port, branches: sum(
        np.maximum(y, 0) for y in branches.values())}, "sum"),
    ("attention-activations", {"hidden": lambda port, y: y}, "attn"),
    ("padding-missing", {"kxk": lambda port, x: porter.conv(x, port.kernel("conv_kxk"))},
     "conv_kxk.conv"),
])  # fmt: skip
@pytest.mark.parametrize("level", ["branch", "op"])
def test_a_mistake_is_found_in_its_own_step(mistake, hooks, where, level):
    one = pack("tiny_se", level)
    theirs = answers(one, wrong="stages.0.1", hooks=hooks)
    where = f"stages.0.1.{where}"
    if where.endswith("conv") and level == "branch":
        where = where.replace("conv_kxk.conv", "conv_kxk.bn")
    assert first_wrong(one, theirs) == where
    assert mistake in {f.mistake for f in diagnose(one, where, theirs)}


@pytest.mark.parametrize(
    ("wrong", "mistake"),
    [
        (lambda u, mean, std: (u[:, ::-1] - mean) / std, "rgb-bgr"),
        (lambda u, mean, std: u, "normalisation"),
        (lambda u, mean, std: ((u - mean) / std - mean) / std, "normalisation"),
    ],
    ids=["bgr", "not-normalised", "normalised-twice"],
)
def test_a_photo_is_explained_by_the_packs_own_mean_and_std(wrong, mistake):
    photo = Path(__file__).parent / "photos/chelsea.png"
    pack = conformance_pack("repvgg_nano", image=photo, size=32)
    how = pack.manifest["input"]["transform"]
    mean, std = (np.array(how[key])[:, None, None] for key in ("mean", "std"))
    pixels = pack.tensor("input").astype(np.float64) * std + mean
    theirs = {"input": wrong(pixels, mean, std).astype(np.float32)}
    assert [f.mistake for f in diagnose(pack, "input", theirs)] == [mistake]
