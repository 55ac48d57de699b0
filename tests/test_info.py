"""Counts, against published numbers, sums by hand, and the work that is really done."""

from math import prod

import numpy as np
import pytest
import tiny

from npvgg import ArgumentError, RepVGGConfig, attention, info, list_models, ops, reparam
from npvgg.summary import Counts

# The model card of repvgg_a2 says 28.2 M parameters, 5.7 GMACs, 6.3 M activations (train form).
A2 = {
    "train": Counts(28_210_600, 5_685_345_280, 6_260_456),
    "deploy": Counts(25_499_944, 5_116_951_552, 3_130_728),
}


def test_a2_has_the_published_size():
    counts = info("repvgg_a2")
    assert counts.input_size == (3, 224, 224)
    assert {"train": counts.train, "deploy": counts.deploy} == A2
    assert info("RepVGG-A2.rvgg_in1k") == counts


def test_a2_by_hand():
    """Each layer is one 3×3 kernel; in train form a 1×1 kernel stands beside it."""
    layers = [(3, 64, 112)]  # in, out, side
    for depth, width, side in ((2, 96, 56), (4, 192, 28), (14, 384, 14), (1, 1408, 7)):
        for _ in range(depth):
            layers.append((layers[-1][1], width, side))
    macs = sum(9 * c * k * side**2 for c, k, side in layers)
    assert A2["deploy"].macs == macs + 1408 * 1000
    assert A2["train"].macs == macs * 10 // 9 + 1408 * 1000
    activations = sum(k * side**2 for _, k, side in layers)
    assert A2["deploy"].activations == activations + 1000
    assert A2["train"].activations == 2 * activations + 1000
    assert A2["deploy"].parameters == sum(9 * c * k + k for c, k, _ in layers) + 1409 * 1000


def test_a_tiny_network_layer_by_layer():
    """4 → 6 channels with groups of 2 and squeeze-excite, on 5×3 pixels; every number by hand."""
    config = RepVGGConfig(
        (2,), (6,), (1,), groups=2, stem_chs=4, num_classes=3, attn_layer="se",
        attn_kwargs={"rd_channels": 2},
    )  # fmt: skip
    got = info(config, (3, 5, 3))
    assert (got.name, got.input_size) == ("RepVGG", (3, 5, 3))
    # squeeze-excite of k channels: 2·k products up and down, 2 + k outputs, 4·k + 2 + k parameters
    want = [
        ("stem", (4, 3, 2), Counts(10 * 12 + 16 + 22, 6 * 120 + 16, 6 * 8 + 6),
                            Counts(9 * 12 + 4 + 22, 6 * 108 + 16, 6 * 4 + 6)),
        ("stages.0.0", (6, 3, 2), Counts(10 * 24 + 24 + 32, 6 * 240 + 24, 6 * 12 + 8),
                                  Counts(9 * 24 + 6 + 32, 6 * 216 + 24, 6 * 6 + 8)),
        ("stages.0.1", (6, 3, 2), Counts(10 * 18 + 36 + 32, 6 * 180 + 24, 6 * 12 + 8),
                                  Counts(9 * 18 + 6 + 32, 6 * 162 + 24, 6 * 6 + 8)),
        ("head.fc", (3,), Counts(21, 18, 3), Counts(21, 18, 3)),
    ]  # fmt: skip
    assert [(la.name, la.output_shape, la.train, la.deploy) for la in got.layers] == want


@pytest.mark.parametrize("name", list_models())
def test_the_whole_is_the_sum_of_its_layers(name):
    counts = info(name)
    for form in ("train", "deploy"):
        whole = getattr(counts, form)
        for field in ("parameters", "macs", "activations"):
            parts = [getattr(getattr(layer, form), field) for layer in counts.layers]
            assert getattr(whole, field) == sum(parts) > 0


def work_of(model, x, monkeypatch):
    """The products and outputs of all convolutions and matrix products of one forward pass."""
    done = {"macs": 0, "activations": 0}

    def counting(function):
        def wrapped(x, weight, *args, **options):
            y = function(x, weight, *args, **options)
            done["macs"] += y.size * prod(weight.shape[1:])
            done["activations"] += y.size
            return y

        return wrapped

    def counting_channels(x, weights, options, mode, function=attention._channel_conv):
        done["macs"] += x.shape[1] * weights["conv.weight"].size
        done["activations"] += x.shape[1]
        return function(x, weights, options, mode)

    for module, name in ((reparam, "conv2d"), (attention, "conv2d"), (ops, "linear")):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    monkeypatch.setattr(attention, "_channel_conv", counting_channels)
    model(x)
    return done["macs"], done["activations"]


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_the_counts_are_the_work_that_is_done(network, form, rng, monkeypatch):
    model = tiny.model(network, reparameterize=form == "deploy")
    x = tiny.photos(model, rng, n=1)
    counts = getattr(info(model, x.shape[1:]), form)
    assert (counts.macs, counts.activations) == work_of(model, x, monkeypatch)
    learnt = [a.size for n, a in model.state_dict().items() if ".running_" not in n]
    assert counts.parameters == sum(learnt)


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_output_shapes_are_those_of_the_maps(network, rng):
    model = tiny.model(network)
    x = tiny.photos(model, rng)
    want = {name: y.shape[1:] for name, y in model.outputs(x, maps=True).maps.items()}
    if model.num_classes:
        want["head.fc"] = model(x).shape[1:]
    assert {layer.name: layer.output_shape for layer in info(model, x.shape[1:]).layers} == want


def test_the_default_size_is_that_of_the_data_configuration():
    assert info("repvgg_d2se").input_size == (3, 320, 320)
    assert info("repvgg_nano").input_size == (3, 32, 32)
    assert info(tiny.model("grey")).input_size == (1, 224, 224)
    assert info(tiny.config("grey")).input_size == (1, 224, 224)
    assert info(tiny.model(), [3, 7, 9]) == info(tiny.model(), (3, 7, 9))


def test_the_table_shows_every_layer_and_the_totals():
    counts = info("repvgg_a2")
    lines = str(counts).splitlines()
    assert lines[0] == "repvgg_a2 at 3×224×224"
    names = [line.split()[0] for line in lines[4:-3]]
    assert names == [layer.name for layer in counts.layers] + ["total"]
    assert "28,210,600    5,685.3    6,260.5" in lines[-4]
    assert lines[-2:] == [
        "train  form: 28.2 M parameters, 5.7 GMACs, 6.3 M activations",
        "deploy form: 25.5 M parameters, 5.1 GMACs, 3.1 M activations",
    ]
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("repvgg_z",), "name: expected a known network"),
        ((3,), "model: expected a RepVGG, a RepVGGConfig or a name, got int"),
        ((None,), "model: .* got NoneType"),
        ((tiny.model(features_only=True),), "model: .* got FeatureNet"),
        (("repvgg_a2", (1, 9, 9)), "input_size: expected 3 channels, got 1"),
        (("repvgg_a2", (3, 0, 9)), r"input_size: expected three positive .* got \(3, 0, 9\)"),
        (("repvgg_a2", (3, 9)), "input_size: expected three positive integers"),
        (("repvgg_a2", 224), "input_size: .* got 224"),
        (("repvgg_a2", (3, 9.0, 9)), "input_size: expected three positive integers"),
        (("repvgg_a2", (3, True, 9)), "input_size: expected three positive integers"),
        (("repvgg_a2", "abc"), "input_size: expected three positive integers"),
    ],
    ids=str,
)
def test_what_cannot_be_counted_is_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        info(*arguments)


def test_counting_takes_no_weights_and_no_time(monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", None)
    assert info("repvgg_b3").train.parameters == 123_085_288


def test_the_decay_of_layers_follows_the_groups():
    rows = info("repvgg_nano").layer_decay(0.5)
    assert [row.group for row in rows] == list(range(len(rows)))
    assert (rows[0].name, rows[-1].name, rows[-1].scale) == ("stem", "head.fc", 1.0)
    assert rows[-3].scale == 0.25
    assert str(rows).splitlines()[1].split() == ["stem", "0", f"{rows[0].scale:.4g}"]
    for decay in (0, 1.5, "x", True):
        with pytest.raises(ArgumentError, match="decay: expected a number above 0, at most 1"):
            info("repvgg_nano").layer_decay(decay)


def test_a_notebook_shows_the_table():
    class Printer:
        def text(self, said):
            self.said = said

    printer = Printer()
    info("repvgg_a0")._repr_pretty_(printer, False)
    assert printer.said == str(info("repvgg_a0"))
