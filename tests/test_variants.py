"""The table of networks, against the papers' tables and formulas written out again here."""

from math import prod

import pytest

from npvgg import ArgumentError, get_pretrained_cfg, is_model, list_models, list_pretrained
from npvgg.config import expand
from npvgg.hub.pretrained import PRETRAINED, default_tag, pretrained_cfg, split_tag
from npvgg.variants import VARIANTS, canonical_name
from npvgg.weights.build import expected_shapes

# arXiv:2101.03697, table 2 (depths without the stem), table 3 and DingXiaoH/RepVGG README (million
# parameters in deploy form, None where none is published): depths, a, b, groups, parameters
A, B, D = (2, 4, 14, 1), (4, 6, 16, 1), (8, 14, 24, 1)
PUBLISHED = {
    "RepVGG-A0": (A, 0.75, 2.5, 1, 8.30),
    "RepVGG-A1": (A, 1, 2.5, 1, 12.78),
    "RepVGG-A2": (A, 1.5, 2.75, 1, 25.49),
    "RepVGG-B0": (B, 1, 2.5, 1, 14.33),
    "RepVGG-B1": (B, 2, 4, 1, 51.82),
    "RepVGG-B1g2": (B, 2, 4, 2, 41.36),
    "RepVGG-B1g4": (B, 2, 4, 4, 36.12),
    "RepVGG-B2": (B, 2.5, 5, 1, 80.31),
    "RepVGG-B2g2": (B, 2.5, 5, 2, None),
    "RepVGG-B2g4": (B, 2.5, 5, 4, 55.77),
    "RepVGG-B3": (B, 3, 5, 1, 110.96),
    "RepVGG-B3g2": (B, 3, 5, 2, None),
    "RepVGG-B3g4": (B, 3, 5, 4, 75.62),
    "RepVGG-D2se": (D, 2.5, 5, 1, None),
    "RepVGGplus-L2pse": (D, 2.5, 5, 1, None),
}
TABLE = pytest.mark.parametrize("name", PUBLISHED)


def row(name):
    return VARIANTS[canonical_name(name)]


def parameters(config, form):
    shapes = expected_shapes(config, form).items()
    return sum(prod(s) for n, s in shapes if not n.endswith(("running_mean", "running_var")))


@TABLE
def test_depths_and_widths_are_the_paper_s(name):
    depths, a, b, _, _ = PUBLISHED[name]
    config = row(name)
    assert config.depths == depths
    assert config.widths == (64 * a, 128 * a, 256 * a, 512 * b)
    assert config.stem_chs == min(64, int(64 * a))
    assert (config.strides, config.stem_stride) == ((2, 2, 2, 2), 2)
    assert (config.num_classes, config.in_chans, config.act_layer) == (1000, 3, "relu")


@TABLE
def test_every_second_layer_of_the_original_is_grouped(name):
    """The original counts layers from 1 over the whole network and groups 2, 4 … 26."""
    groups = PUBLISHED[name][3]
    blocks = expand(row(name))
    want = [groups if layer in range(2, 27, 2) else 1 for layer in range(len(blocks))]
    assert [block.groups for block in blocks] == want


@pytest.mark.parametrize("name", [name for name, facts in PUBLISHED.items() if facts[4]])
def test_the_published_parameter_count_comes_out(name):
    """In deploy form, to the second decimal, cut or rounded."""
    assert abs(parameters(row(name), "deploy") / 1e6 - PUBLISHED[name][4]) < 0.01


def test_exact_parameter_counts_of_timm():
    """As timm 1.0.31 counts them, before and after `reparameterize_model`."""
    assert parameters(row("RepVGG-A2"), "train") == 28_210_600
    assert parameters(row("RepVGG-A2"), "deploy") == 25_499_944


def test_a_squeeze_stands_before_the_activation_in_d2se_and_after_it_in_plus():
    d2se, plus = row("RepVGG-D2se"), row("RepVGGplus-L2pse")
    assert (d2se.attn_layer, d2se.attn_after_act) == ("se", False)
    assert (plus.attn_layer, plus.attn_after_act) == ("se", True)
    assert expected_shapes(d2se, "deploy")["stages.0.0.attn.fc1.weight"] == (10, 160, 1, 1)
    assert expected_shapes(plus, "deploy")["stages.0.0.attn.fc1.weight"] == (40, 160, 1, 1)
    plain = {name for name, config in VARIANTS.items() if config.attn_layer is None}
    assert plain == set(VARIANTS) - {"repvgg_d2se", "repvggplus_l2pse"}


@TABLE
def test_both_spellings_are_one_network(name):
    timm = name.lower().replace("-", "_")
    for spelling in (name, timm, name.upper(), f"  {name} ", timm.replace("_", "-")):
        assert canonical_name(spelling) == timm
        assert split_tag(spelling) == (timm, None)


def test_list_models_lists_the_table_and_the_tags():
    assert sorted(list_models()) == sorted(VARIANTS)
    assert set(list_models()) >= {canonical_name(name) for name in PUBLISHED}
    assert sorted(list_models(pretrained=True)) == sorted(PRETRAINED)
    assert list_pretrained("*a0*") == ["repvgg_a0.rvgg_in1k"]


def test_list_models_takes_patterns_as_timm_does():
    assert list_models("*b1*") == ["repvgg_b1", "repvgg_b1g2", "repvgg_b1g4"]
    assert list_models("repvgg_a[01]") == ["repvgg_a0", "repvgg_a1"]
    assert list_models("b1*") == list_models("REPVGG_A0") == list_models("*", "resnet") == []
    assert list_models(["*a0", "*a1"], exclude_filters="*1") == ["repvgg_a0"]
    assert list_models("*a0", include_tags=True) == ["repvgg_a0.rvgg_in1k"]
    assert list_models("*b1g2", name_matches_cfg=True) == []
    for pattern in ("*b1", "*b1.*", "*b1.rvgg*"):
        assert list_models(pattern, pretrained=True) == ["repvgg_b1.rvgg_in1k"]


def test_names_are_asked_for_as_in_timm():
    assert is_model("repvgg_a0")
    assert is_model("repvgg_a0.whatever")
    assert not is_model("resnet50")
    assert get_pretrained_cfg("resnet50") is None
    cfg = get_pretrained_cfg("repvgg_a0")
    assert cfg == get_pretrained_cfg("repvgg_a0.rvgg_in1k") == PRETRAINED["repvgg_a0.rvgg_in1k"]
    cfg["mean"] = "mine"
    assert get_pretrained_cfg("repvgg_a0") == PRETRAINED["repvgg_a0.rvgg_in1k"]
    for name, allowed in (("repvgg_a0.x", True), ("resnet50", False)):
        with pytest.raises(ArgumentError, match=r"^name: expected"):
            get_pretrained_cfg(name, allowed)


def test_every_tag_resolves_and_describes_a_network_of_the_table():
    for tag, cfg in PRETRAINED.items():
        architecture, name = split_tag(tag)
        assert (architecture, name) == (cfg["architecture"], cfg["tag"])
        assert f"{architecture}.{default_tag(architecture)}" in PRETRAINED
        assert pretrained_cfg(architecture, name) == cfg
        assert VARIANTS[architecture].num_classes == cfg["num_classes"]
        assert VARIANTS[architecture].in_chans == cfg["input_size"][0]


def test_a_data_configuration_is_the_caller_s_own():
    pretrained_cfg("repvgg_a0")["mean"] = "mine"
    assert pretrained_cfg("repvgg_a0")["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("repvgg_a9", "nearest: repvgg_a"),
        ("resnet50", "name: expected a known network, got 'resnet50'"),
        ("", "name: expected a known network, got ''"),
        (None, "name: .*NoneType"),
        (7, "name: .*int"),
        ("repvgg_a2.in22k", r"tag of repvgg_a2 \(rvgg_in1k\), got 'in22k'"),
        ("repvgg_b1g2.rvgg_in1k", r"tag of repvgg_b1g2 \(none\), got 'rvgg_in1k'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(ArgumentError, match=message):
        split_tag(name)
