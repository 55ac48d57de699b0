"""The lessons: their numbers, held against what was computed in another way; their words."""

import json

import numpy as np
import pytest
import tiny

import npvgg
from npvgg import explain
from npvgg.cli.main import main
from npvgg.config import expand
from npvgg.errors import ArgumentError


@pytest.fixture(scope="module")
def nano():
    return npvgg.create_model(
        "repvgg_nano.cifar10", pretrained=True, reparameterize=False, engine="reference"
    )


@pytest.fixture
def told(capfd):
    """Run the command line, and give its output."""

    def told(*arguments, status=0):
        assert main(["explain", *arguments]) == status
        captured = capfd.readouterr()
        return captured.err if status else captured.out

    return told


# --- network --------------------------------------------------------------------------------------


def seen(config):
    """The receptive field of each block, found backwards: which inputs do two outputs need?"""
    specs = expand(config)
    for end in range(1, len(specs) + 1):
        low = high = 0
        for spec in reversed(specs[:end]):
            low, high = low * spec.stride - spec.dilation, high * spec.stride + spec.dilation
        yield high - low + 1


@pytest.mark.parametrize("name", ["plain", "output-stride-8", "identities-everywhere"])
def test_the_receptive_field_is_what_an_output_needs(name):
    config = tiny.config(name)
    lesson = explain.network(config, (config.in_chans, 40, 40))
    assert [row.receptive_field for row in lesson.blocks] == list(seen(config))


def test_the_network_that_ships_sees_73_pixels_and_halves_its_activations(nano):
    lesson = explain.network(nano)
    assert lesson.blocks[-1].receptive_field == 73
    assert (lesson.train.macs, lesson.deploy.macs) == (121_571_840, 109_414_912)
    assert (lesson.train.activations, lesson.deploy.activations) == (434_186, 217_098)
    assert sum(row.count for row in lesson.collapsed) == len(nano.network.blocks)


def test_network_as_csv_and_latex(told):
    rows = told("network", "--model", "repvgg_a0", "--csv").splitlines()
    assert len(rows) == 1 + 22 + 1
    assert rows[1] == "stem,48x112x112,3,1632,18063360,1204224,1344,16257024,602112"
    latex = told("network", "--model", "repvgg_a0", "--latex")
    assert r"stages.2.1--13 & 13 & 192$\times$14$\times$14 & 503" in latex
    rows = latex.partition(r"\midrule")[2].splitlines()
    assert {row.count(" & ") for row in rows if row.endswith(r"\\")} == {9}


# --- fold -----------------------------------------------------------------------------------------


def photo(rng):
    return rng.integers(0, 256, (40, 33, 3), np.uint8)


def by_hand(tensors, block, k, c, group):
    """The folded window of channels c → k, in Python's own floats."""
    total, bias = [[0.0] * 3 for _ in range(3)], 0.0
    for branch in ("conv_kxk", "conv_1x1", "identity"):
        norm = f"{block}.{branch}" + (".bn" if branch != "identity" else "")
        if f"{norm}.weight" not in tensors:
            continue
        gamma, beta, mean, var = (
            float(tensors[f"{norm}.{name}"][k])
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        t = gamma / (var + 1e-5) ** 0.5
        bias += beta - mean * t
        if branch == "conv_kxk":
            kernel = tensors[f"{block}.conv_kxk.conv.weight"][k, c]
            for r in range(3):
                for s in range(3):
                    total[r][s] += float(kernel[r, s]) * t
        elif branch == "conv_1x1":
            total[1][1] += float(tensors[f"{block}.conv_1x1.conv.weight"][k, c, 0, 0]) * t
        elif c == k % group:
            total[1][1] += t
    return total, bias


@pytest.mark.parametrize(("name", "block"), [("plain", "stages.1.1"), ("groups", "stages.2.1")])
def test_the_example_of_a_fold_is_that_of_a_pocket_calculator(name, block, rng):
    model = tiny.model(name, reparameterize=False)
    lesson = explain.fold(model, block, channel=5, photo=photo(rng))
    example, tensors = lesson.example, tiny.tensors(name)
    group = tensors[f"{block}.conv_kxk.conv.weight"].shape[1]
    total, bias = by_hand(tensors, block, 5, example.input_channel, group)
    np.testing.assert_allclose(example.total, total, rtol=1e-12)
    np.testing.assert_allclose(example.total_bias, bias, rtol=1e-12)
    np.testing.assert_allclose(sum(example.scaled.values()), total, rtol=1e-12)


def test_the_fold_of_the_network_that_ships_shows_why_int8_fails(nano):
    numbers = explain.fold(nano, "stages.0.1").as_json()
    assert numbers["block"] == "stages.0.1"
    assert [row["name"] for row in numbers["branches"]] == ["3×3", "1×1", "identity"]
    assert abs(sum(row["energy_share"] for row in numbers["branches"]) - 1) < 1e-12
    assert 5.5 < numbers["branches"][0]["largest_over_std"] < 5.7
    assert 90 < numbers["folded"]["largest_over_std"] < 92
    assert 0.990 < numbers["folded"]["energy_share_centre"] < 0.992
    assert 0 < numbers["difference"] <= numbers["bound"] < 1e-3
    assert numbers["share_of_bound"] < 1


def test_a_wrong_fold_would_exceed_its_bound(nano, monkeypatch):
    right = explain.fold.__globals__["reparam"].reparameterize

    def wrong(*args, **options):
        fused = right(*args, **options)
        return type(fused)(fused.weight, fused.bias * np.float32(1.001))

    monkeypatch.setattr("npvgg.reparam.reparameterize", wrong)
    assert explain.fold(nano, "stages.0.1").share_of_bound > 1


def test_what_cannot_be_folded_is_refused_with_what_can_be_shown(nano, told):
    folded = tiny.model("plain")
    with pytest.raises(ArgumentError, match="folded already; of that, network, pixel"):
        explain.fold(folded)
    error = told("fold", "stages.9.9", status=2)
    assert "block: expected one of this network's, got 'stages.9.9'" in error
    assert "there are stages.3.0" in error
    assert "channel: expected 0 … 31, got 99" in told("fold", "--channel", "99", status=2)


# --- every lesson ---------------------------------------------------------------------------------


def test_a_lesson_prints_itself_and_gives_json(told, nano):
    text = told("fold", "stages.0.1")
    assert text == explain.fold(nano, "stages.0.1").as_text()
    assert "Both round" in text
    assert json.loads(told("fold", "stages.0.1", "--json")) == json.loads(
        json.dumps(explain.fold(nano, "stages.0.1").as_json())
    )
