"""Photos in, classes out: in order, whatever they are, whatever is wrong with some."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

import npvgg
from npvgg import ArgumentError, ImageError, create_model, predict

CAT = Path(__file__).parent / "photos" / "chelsea.png"


@pytest.fixture(scope="module")
def nano():
    return create_model("repvgg_nano.cifar10", pretrained=True, engine="reference")


def test_a_photo_has_classes_with_names(nano):
    for photo in (CAT, str(CAT), CAT.read_bytes(), Image.open(CAT), np.asarray(Image.open(CAT))):
        classes = nano.classify(photo)
        assert [c.label for c in classes[:2]] == ["cat", "frog"]
        assert (classes[0].number, len(classes)) == (3, 5)
        assert 0.96 < classes[0].probability < 0.98
    every = nano.classify(CAT, k=50)
    assert sum(c.probability for c in every) == pytest.approx(1, abs=1e-5)
    assert len(every) == 10
    with pytest.raises(ImageError):
        nano.classify(b"no photo")
    with pytest.raises(ArgumentError, match="k: expected an integer of at least 1, got 0"):
        nano.classify(CAT, k=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_each_photo_has_its_outcome_in_order(nano, batch_size):
    grey = np.full((40, 30, 3), 128, np.uint8)
    photos = [CAT, b"no photo", grey, CAT.read_bytes(), "absent.png", Image.fromarray(grey)]
    outcomes = list(predict(nano, iter(photos), k=2, batch_size=batch_size))
    assert [outcome.photo is photo for outcome, photo in zip(outcomes, photos, strict=True)]
    assert [bool(outcome.error) for outcome in outcomes] == [0, 1, 0, 0, 1, 0]
    assert "absent.png" in outcomes[4].error
    for outcome in outcomes:
        assert len(outcome.classes) == (0 if outcome.error else 2)
        assert (outcome.logits is None) == bool(outcome.error)
    transform = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(nano))
    np.testing.assert_allclose(
        outcomes[2].logits, nano(transform(grey)[None])[0], rtol=1e-4, atol=1e-5
    )
    for outcome in (outcomes[0], outcomes[3]):
        assert [(c.number, c.label) for c in outcome.classes] == [(3, "cat"), (6, "frog")]


def test_photos_are_taken_a_batch_at_a_time(nano):
    taken = []

    def photos():
        while True:
            taken.append(CAT)
            yield CAT

    outcomes = predict(nano, photos(), batch_size=2)
    next(outcomes)
    assert len(taken) == 2


def test_one_logit_is_a_sigmoid():
    model = tiny.model(changes={"num_classes": 1})
    transform = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(model))
    (logit,) = model(transform(CAT)[None])[0].tolist()
    (only,) = model.classify(CAT)
    assert only.probability == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-5)
    (outcome,) = predict(model, [CAT])
    assert outcome.classes == (only,)


def test_an_answer_that_is_not_finite_is_an_error():
    class Broken:
        pretrained_cfg, num_classes = {}, 2

        def __call__(self, x):
            return np.array([[0, np.nan if image.max() > 1 else 1] for image in x])

    class Pixels:
        def apply(self, source):
            return np.full((1, 1, 1), source.max(), np.float32), ()

    photos = [np.full((1, 1, 3), value, np.uint8) for value in (1, 2, 1)]
    outcomes = list(predict(Broken(), photos, transform=Pixels()))
    assert [o.error for o in outcomes] == ["", "the network's answer is not finite", ""]
    assert (outcomes[1].classes, outcomes[1].logits) == ((), None)
    assert outcomes[2].classes[0].number == 1


def test_classes_without_names_have_none():
    model = tiny.model()
    assert [c.label for c in model.classify(CAT, k=3)] == ["", "", ""]


@pytest.mark.parametrize(
    ("photos", "options", "message"),
    [
        ("cat.jpg", {}, "photos: expected several, as a list say, got str"),
        (np.zeros((3, 3, 3), np.uint8), {}, "photos: expected several, .* got ndarray"),
        (3, {}, "photos: expected several, .* got int"),
        ([], {"k": 1.5}, "k: expected an integer"),
        ([], {"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
        ([], {"threads": 0}, "threads: expected"),
    ],
)
def test_what_cannot_be_predicted_is_refused_at_once(nano, photos, options, message):
    with pytest.raises(ArgumentError, match=message):
        predict(nano, photos, **options)


def test_a_model_without_classes_predicts_none():
    with pytest.raises(ArgumentError, match="model: expected one with a classifier"):
        predict(tiny.model(changes={"num_classes": 0}), [CAT])


# --- Images that nobody has normalised ------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [(0, 1, "0 … 1"), (0, 255, "0 … 255"), (-2, 2.5, None), (0, 0.1, None), (7, 7, None)],
)
def test_images_that_look_raw_draw_one_warning(low, high, scale, caplog, rng):
    model = tiny.model()
    x = np.linspace(low, high, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    with caplog.at_level(logging.WARNING, logger="npvgg"):
        model(np.zeros((1, 3, 8, 8), np.float32))
        model(x)
        model.forward_features(x)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (scale is not None)
    assert all(f"look like {scale}, not normalised" in line for line in said)


def test_a_network_of_raw_images_draws_no_warning(caplog):
    model = tiny.model()
    model.pretrained_cfg |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    with caplog.at_level(logging.WARNING, logger="npvgg"):
        model(np.linspace(0, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8))
    assert not caplog.records


# --- torch's words and tensors --------------------------------------------------------------------


def test_torch_s_word_for_an_axis_is_known(rng):
    x = rng.standard_normal((3, 4))
    np.testing.assert_array_equal(npvgg.softmax(x, dim=0), npvgg.softmax(x, axis=0))
    np.testing.assert_array_equal(npvgg.softmax(x, dim=1), npvgg.softmax(x))
    top = npvgg.topk(x, 2, dim=0)
    np.testing.assert_array_equal(top.values, npvgg.topk(x, 2, axis=0)[0])
    np.testing.assert_array_equal(top.indices, npvgg.topk(x, 2, 0)[1])
    for call in (npvgg.softmax, lambda x, **w: npvgg.topk(x, 1, **w)):
        with pytest.raises(ArgumentError, match="dim: expected axis or dim, got both"):
            call(x, axis=0, dim=0)
        with pytest.raises(ArgumentError, match="dim: expected an axis of x"):
            call(x, dim=2)


Tensor = type("Tensor", (), {"__module__": "torch"})


def test_a_torch_tensor_is_one_clear_error():
    model = tiny.model()
    for call in (
        npvgg.softmax, lambda x: npvgg.topk(x, 1), model, model.forward_features,
        model.forward_head, tiny.model(features_only=True),
    ):  # fmt: skip
        with pytest.raises(
            ArgumentError, match=r"^x: expected a NumPy array, got a torch Tensor; x\."
        ):
            call(Tensor())
