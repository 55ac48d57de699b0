"""A configuration: the blocks that follow from it, written out by hand, and what it refuses."""

import copy
import dataclasses
import pickle

import pytest
import tiny

from npvgg import ArgumentError, RepVGGConfig
from npvgg.attention import reduced_channels
from npvgg.config import expand, feature_info, output_size

# per network: (name, in, out, stride, dilation, groups, identity)
BLOCKS = {
    "plain": [
        ("stem", 3, 4, 2, 1, 1, False),
        ("stages.0.0", 4, 4, 2, 1, 1, False),
        ("stages.1.0", 4, 8, 2, 1, 1, False),
        ("stages.1.1", 8, 8, 1, 1, 1, True),
        ("stages.2.0", 8, 8, 2, 1, 1, False),
        ("stages.2.1", 8, 8, 1, 1, 1, True),
        ("stages.2.2", 8, 8, 1, 1, 1, True),
        ("stages.3.0", 8, 12, 2, 1, 1, False),
    ],
    "output-stride-16": [
        ("stem", 3, 4, 2, 1, 1, False),
        ("stages.0.0", 4, 4, 2, 1, 1, False),
        ("stages.1.0", 4, 8, 2, 1, 1, False),
        ("stages.1.1", 8, 8, 1, 1, 1, True),
        ("stages.2.0", 8, 8, 2, 1, 1, False),
        ("stages.2.1", 8, 8, 1, 1, 1, True),
        ("stages.2.2", 8, 8, 1, 1, 1, True),
        ("stages.3.0", 8, 12, 1, 1, 1, False),
    ],
    "output-stride-8": [  # with two groups: every second block of a stage
        ("stem", 3, 4, 2, 1, 1, False),
        ("stages.0.0", 4, 4, 2, 1, 1, False),
        ("stages.1.0", 4, 8, 2, 1, 1, False),
        ("stages.1.1", 8, 8, 1, 1, 2, True),
        ("stages.2.0", 8, 8, 1, 1, 1, False),  # 8 → 8 at stride 1, yet made for another dilation
        ("stages.2.1", 8, 8, 1, 2, 2, True),
        ("stages.2.2", 8, 8, 1, 2, 1, True),
        ("stages.3.0", 8, 12, 1, 2, 1, False),
    ],
    "identities-everywhere": [
        ("stem", 4, 4, 1, 1, 1, True),
        ("stages.0.0", 4, 4, 1, 1, 1, True),
        ("stages.1.0", 4, 4, 2, 1, 1, False),
        ("stages.1.1", 4, 4, 1, 1, 1, True),
        ("stages.2.0", 4, 8, 1, 1, 1, False),
        ("stages.2.1", 8, 8, 1, 1, 1, True),
        ("stages.2.2", 8, 8, 1, 1, 1, True),
        ("stages.3.0", 8, 8, 1, 1, 1, True),
    ],
}


@pytest.mark.parametrize("network", BLOCKS)
def test_the_blocks_are_those_written_out_by_hand(network):
    fields = ("name", "in_chs", "out_chs", "stride", "dilation", "groups", "identity")
    got = [tuple(getattr(b, f) for f in fields) for b in expand(tiny.config(network))]
    assert got == BLOCKS[network]


def test_activation_and_attention_reach_every_block():
    config = tiny.config("se-after-the-activation", act_layer="silu")
    for block in expand(config):
        assert (block.act_layer, block.attn_layer, block.attn_after_act) == ("silu", "se", True)
        assert block.attn_kwargs == {"rd_channels": 2}


# per network: num_chs, reduction, module, block
FEATURES = {
    "plain": [
        (4, 2, "stem", 0), (4, 4, "stages.0", 1), (8, 8, "stages.1", 3), (8, 16, "stages.2", 6),
        (12, 32, "final_conv", 7),
    ],
    "output-stride-8": [
        (4, 2, "stem", 0), (4, 4, "stages.0", 1), (8, 8, "stages.1", 3), (8, 8, "stages.2", 6),
        (12, 8, "final_conv", 7),
    ],
    "identities-everywhere": [(4, 1, "stages.0", 1), (8, 2, "final_conv", 7)],
}  # fmt: skip


@pytest.mark.parametrize("network", FEATURES)
def test_feature_info_lists_the_last_map_before_each_stride(network):
    info = feature_info(tiny.config(network))
    keys = ("num_chs", "reduction", "module", "block")
    assert [tuple(entry[key] for key in keys) for entry in info] == FEATURES[network]


def test_a_stem_alone_is_a_network():
    config = tiny.config(depths=(), widths=(), strides=())
    assert [block.name for block in expand(config)] == ["stem"]
    assert config.num_features == config.stem_chs
    assert [entry["module"] for entry in feature_info(config)] == ["final_conv"]


def test_sizes_round_up_and_channels_round_to_their_divisor():
    assert [output_size(n, 2) for n in (1, 2, 3, 7, 224)] == [1, 1, 2, 4, 112]
    assert [reduced_channels(c, 1 / 16, 8) for c in (8, 64, 192, 200, 2560)] == [8, 8, 16, 16, 160]
    assert [reduced_channels(c, 1 / 16, 1) for c in (3, 40, 160)] == [1, 3, 10]


def test_width_factor_rounds_stages_to_eights_and_the_stem_to_ones():
    config = RepVGGConfig((1, 1), (48, 100), (2, 2), stem_chs=48).with_changes(width_factor=0.55)
    assert (config.stem_chs, config.widths) == (26, (24, 56))  # 26.4; 26.4, 55
    small = RepVGGConfig((1, 1), (48, 100), (2, 2)).with_changes(width_factor=0.25)
    assert small.widths == (16, 24)  # 12 → 8 would lose a third: 16


def test_another_attention_layer_starts_without_the_old_one_s_options():
    config = tiny.config("se").with_changes(attn_layer="eca")
    assert (config.attn_layer, dict(config.attn_kwargs)) == ("eca", {})
    same = tiny.config("se").with_changes(attn_layer="se")
    assert dict(same.attn_kwargs) == {"rd_divisor": 1, "rd_ratio": 0.25}


@pytest.mark.parametrize("alias", ["hardswish", "hardsigmoid"])
def test_timm_s_other_spellings_are_known(alias):
    assert tiny.config(act_layer=alias).act_layer == alias.replace("hard", "hard_")
    config = tiny.config("se", attn_kwargs={"gate_layer": alias})
    assert config.attn_kwargs == {"gate_layer": alias.replace("hard", "hard_")}


@pytest.mark.parametrize(
    ("alias", "pool"),
    [("fast", "avg"), ("fastavg", "avg"), ("fastmax", "max"), ("fastavgmax", "avgmax"),
     ("fastcatavgmax", "catavgmax")],
)  # fmt: skip
def test_timm_s_fast_poolings_are_the_same(alias, pool):
    assert tiny.config(global_pool=alias).global_pool == pool


def test_a_configuration_is_a_value():
    config = tiny.config("se")
    assert config == tiny.config("se") != tiny.config()
    assert hash(config) == hash(tiny.config("se"))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert RepVGGConfig(**dataclasses.asdict(config)) == config
    block = expand(config)[0]
    assert pickle.loads(pickle.dumps(block)) == block
    assert hash(block) == hash(expand(config)[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.groups = 2


def test_a_configuration_comes_back_from_its_dict():
    for config in (tiny.config("se"), tiny.config(bn_eps=0.001)):
        assert RepVGGConfig(**config.as_dict()) == config
    assert "bn_eps" not in tiny.config().as_dict()
    assert tiny.config(bn_eps=0.001).as_dict()["bn_eps"] == 0.001


def test_a_configuration_keeps_its_own_options():
    options = {"rd_channels": 2}
    config = tiny.config("se", attn_kwargs=options)
    options["rd_channels"] = 3
    assert config.attn_kwargs["rd_channels"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": 4}, "depths: expected a tuple of integers, got 4"),
        ({"depths": (1, 2)}, "depths, widths, strides: .* got 2, 4 and 4"),
        ({"depths": (), "widths": ()}, "depths, widths, strides: .* got 0, 0 and 4"),
        ({"depths": (1, 0, 1, 1)}, "depths: .* got 0"),
        ({"depths": (1, 1, 1, 10**9)}, "depths: expected at most 1000 blocks, got 1000000003"),
        ({"widths": (4, 8, 8.0, 12)}, "widths: .* got 8.0"),
        ({"widths": (4, 8, True, 12)}, "widths: .* got True"),
        ({"strides": (2, 2, 3, 2)}, "strides: expected 1 or 2"),
        ({"stem_stride": 4}, "stem_stride: expected 1 or 2, got 4"),
        ({"stem_stride": 2.0}, "stem_stride: .* got 2.0"),
        ({"stem_stride": True}, "stem_stride: .* got True"),
        ({"stem_stride": [2]}, r"stem_stride: .* got \[2\]"),
        ({"groups": 3}, "groups: 3 does not divide the 8 → 8 channels of stages.1.1"),
        ({"groups": 0}, "groups: expected an integer of at least 1, got 0"),
        ({"stem_chs": -4}, "stem_chs: .* got -4"),
        ({"in_chans": 0}, "in_chans: .* got 0"),
        ({"in_chans": "3"}, "in_chans: .* got '3'"),
        ({"num_classes": -1}, "num_classes: expected an integer of at least 0, got -1"),
        ({"output_stride": 4}, "output_stride: expected one of 8, 16, 32, got 4"),
        ({"output_stride": 32.0}, "output_stride: .* got 32.0"),
        ({"act_layer": "rely"}, "act_layer: expected one of 'relu', .* got 'rely'"),
        ({"act_layer": None}, "act_layer: .* got None"),
        ({"act_layer": ["relu"]}, r"act_layer: .* got \['relu'\]"),
        ({"attn_layer": "sea"}, "attn_layer: expected one of None, 'se', .* got 'sea'"),
        ({"attn_kwargs": {"rd_ratio": 1}}, "attn_kwargs: expected an attn_layer with them"),
        ({"attn_layer": "se", "attn_kwargs": "ab"}, "attn_kwargs: expected a dict .* 'ab'"),
        ({"attn_layer": "se", "attn_kwargs": None}, "attn_kwargs: expected a dict .* None"),
        ({"act_layer": "prelu"}, "act_layer: 'prelu' is refused: its slope is a weight"),
        ({"bn_eps": 0.0}, "bn_eps: expected a number above 0, at most 1, got 0.0"),
        ({"bn_eps": "x"}, "bn_eps: .* got 'x'"),
        ({"bn_eps": float("nan")}, "bn_eps: .* got nan"),
        ({"attn_after_act": "no"}, "attn_after_act: expected True or False, got 'no'"),
        ({"global_pool": "median"}, "global_pool: expected one of 'avg'"),
        ({"global_pool": ""}, "global_pool: '' needs num_classes=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_not_a_network_is_refused_by_name(changes, message):
    with pytest.raises(ArgumentError, match=message):
        tiny.config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_laier": "relu"}, "act_laier: .*did you mean act_layer"),
        ({"zzz": 1}, "zzz: not a keyword .*known: act_layer"),
        ({"width_factor": 0}, "width_factor: expected a number above 0, at most 1000, got 0"),
        ({"width_factor": True}, "width_factor: .* got True"),
        ({"width_factor": "2"}, "width_factor: .* got '2'"),
        ({"width_factor": float("nan")}, "width_factor: .* got nan"),
        ({"width_factor": float("inf")}, "width_factor: .* got inf"),
        ({"width_factor": 0.01}, "stem_chs: expected an integer of at least 1, got 0"),
    ],
)
def test_wrong_changes_are_refused_by_name(changes, message):
    with pytest.raises(ArgumentError, match=message):
        tiny.config().with_changes(**changes)
