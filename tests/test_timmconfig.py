"""The config.json of a repository: what is taken from it, and what is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npvgg import WeightsError, create_model
from npvgg.data import create_transform, resolve_data_config
from npvgg.images import labels
from npvgg.variants import VARIANTS
from npvgg.weights import timmconfig

# timm/repvgg_a2.rvgg_in1k, as it lies on the hub.
A2 = {
    "architecture": "repvgg_a2",
    "num_classes": 1000,
    "num_features": 1408,
    "pretrained_cfg": {
        "tag": "rvgg_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "pool_size": [7, 7],
        "first_conv": ["stem.conv_kxk.conv", "stem.conv_1x1.conv"],
        "classifier": "head.fc",
        "license": "mit",
    },
}
PETS = ["ant", "bee", "cat"]


def parse(**config):
    return timmconfig.parse(json.dumps({"architecture": "repvgg_a0", **config}).encode())


def test_a_repository_of_timm_s_says_what_the_table_says():
    got = timmconfig.parse(json.dumps(A2).encode())
    assert (got.architecture, got.tag, got.config) == (
        "repvgg_a2", "rvgg_in1k", VARIANTS["repvgg_a2"],
    )  # fmt: skip
    table = create_model("repvgg_a2.rvgg_in1k").pretrained_cfg
    assert {key: table[key] for key in got.pretrained_cfg} == got.pretrained_cfg


def test_what_is_not_said_is_what_timm_takes_for_it():
    got = parse()
    assert got.config == VARIANTS["repvgg_a0"]
    want = {
        "input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875,
        "crop_mode": "center", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    assert resolve_data_config({}, got.pretrained_cfg) == want


def test_the_flat_form_of_old_files_is_read():
    got = parse(num_classes=3, labels=PETS, input_size=[3, 96, 96], crop_pct=0.8, tag="old")
    assert (got.config.num_classes, got.tag) == (3, "old")
    assert got.pretrained_cfg["label_names"] == tuple(PETS)
    assert got.pretrained_cfg["input_size"] == (3, 96, 96)
    assert got.pretrained_cfg["crop_pct"] == 0.8


def test_what_lies_outside_goes_before_what_lies_inside():
    got = parse(
        num_classes=3, label_names=PETS, label_descriptions={"ant": "small"},
        pretrained_cfg={"num_classes": 2, "label_names": ["x", "y"], "architecture": "repvgg_b0"},
    )  # fmt: skip
    assert got.architecture == "repvgg_a0"
    assert got.config.num_classes == got.pretrained_cfg["num_classes"] == 3
    assert [label.name for label in labels.labels_for(got.pretrained_cfg)] == PETS
    assert got.pretrained_cfg["label_descriptions"] == {"ant": "small"}


def test_the_arguments_of_the_model_make_the_network():
    args = {"in_chans": 1, "output_stride": 8, "act_layer": "silu", "drop_rate": 0.2,
            "global_pool": "max", "attn_layer": None, "num_classes": 4}  # fmt: skip
    got = parse(model_args=args, num_classes=7, pretrained_cfg={"test_input_size": [3, 288, 288]})
    want = VARIANTS["repvgg_a0"].with_changes(
        in_chans=1, output_stride=8, act_layer="silu", global_pool="max", num_classes=4
    )
    assert got.config == want
    assert got.pretrained_cfg["input_size"] == (1, 224, 224)
    assert got.pretrained_cfg["test_input_size"] == (1, 288, 288)


def test_what_changes_nothing_in_timm_changes_nothing_here():
    args = {"drop_path_rate": 0.1, "downsample": "avg", "stem_pool": "", "stem_type": "rep",
            "norm_layer": "batchnorm", "num_features": 0, "attn_layer": "", "pretrained": True,
            "global_pool": "fast"}  # fmt: skip
    got = parse(architecture="repvgg_d2se", model_args=args, num_classes=1000)
    assert got.config == VARIANTS["repvgg_d2se"].with_changes(attn_layer=None)
    for name, value in (("stem_type", "deep"), ("norm_layer", ["x"]), ("aa_layer", "blur")):
        with pytest.raises(WeightsError, match=f"model_args: expected keywords .*'{name}'"):
            parse(model_args={name: value})


def test_a_width_factor_is_an_argument_like_any_other():
    want = VARIANTS["repvgg_a0"].with_changes(width_factor=0.5)
    assert parse(model_args={"width_factor": 0.5}, num_classes=1000).config == want


def test_grey_images_are_known_from_the_input_size():
    assert parse(pretrained_cfg={"input_size": [1, 64, 64]}).config.in_chans == 1


def test_labels_by_index_may_leave_gaps():
    got = parse(num_classes=4, label_names={"0": "ant", "3": "eel"})
    assert got.pretrained_cfg["label_names"] == ("ant", "1", "2", "eel")


def test_a_label_cannot_command_a_terminal():
    got = parse(num_classes=1, label_names=["\x1b[31mred\u202e\ud800"])
    assert got.pretrained_cfg["label_names"] == (" [31mred  ",)


REFUSED = {
    "another architecture": ({"architecture": "resnet18"}, "architecture: expected a RepVGG .*18'"),
    "no architecture": ({"architecture": None}, "architecture: expected a RepVGG .* got None"),
    "a nest for an architecture": ({"architecture": [[]]}, "architecture: expected a RepVGG"),
    "a list for pretrained_cfg": ({"pretrained_cfg": []}, "pretrained_cfg: expected an object"),
    "a text for model_args": ({"model_args": "x"}, "model_args: expected an object, got 'x'"),
    "an unknown argument": ({"model_args": {"depth": 3}}, "model_args: expected keywords"),
    "an impossible argument": ({"model_args": {"output_stride": 3}}, "model_args: output_stride"),
    "a list for a word": ({"model_args": {"act_layer": ["relu"]}}, "model_args: act_layer"),
    "no factor": ({"model_args": {"width_factor": "wide"}}, "model_args: width_factor"),
    "an endless factor": ({"model_args": {"width_factor": 1e308}}, "model_args: width_factor"),
    "a factor of nothing": ({"model_args": {"width_factor": 0}}, "model_args: width_factor"),
    "too many blocks": ({"model_args": {"depths": [10**9] * 4}}, "model_args: depths"),
    "options of nothing": ({"model_args": {"attn_kwargs": {"x": 1}}}, "model_args: attn_kwargs"),
    "wrong options": (
        {"model_args": {"attn_layer": "se", "attn_kwargs": {"rd_ratio": []}}}, "attn_kwargs"),
    "text for classes": ({"num_classes": "7"}, "num_classes: expected 0 … 1000000, got '7'"),
    "half a class": ({"num_classes": 1.5}, "num_classes: expected"),
    "true classes": ({"num_classes": True}, "num_classes: expected"),
    "countless classes": ({"num_classes": 10**12}, "num_classes: expected"),
    "two sides": ({"pretrained_cfg": {"input_size": [224, 224]}}, "input_size: .* three positive"),
    "a side of text": ({"pretrained_cfg": {"input_size": [3, "a", 2]}}, "input_size: .* got a"),
    "a vast input": ({"pretrained_cfg": {"input_size": [3, 10**5, 10**5]}}, "at most 16777216"),
    "a vast test": ({"pretrained_cfg": {"test_input_size": [3, 10**5, 10**5]}}, "test_input_size"),
    "a word for mean": ({"pretrained_cfg": {"mean": "dark"}}, "mean: expected numbers"),
    "a mean too many": ({"pretrained_cfg": {"mean": [1, 2, 3, 4]}}, "mean: expected 3 numbers"),
    "an infinite mean": ({"pretrained_cfg": {"mean": [1e300] * 3}}, "mean: expected numbers f"),
    "no deviation": ({"pretrained_cfg": {"std": [0, 1, 1]}}, "std: expected numbers finite and"),
    "a crop above one pixel": ({"pretrained_cfg": {"crop_pct": 1000}}, "crop_pct: expected"),
    "a crop of next to nothing": ({"pretrained_cfg": {"crop_pct": 1e-320}}, "crop_pct: expected"),
    "a crop of little": ({"pretrained_cfg": {"crop_pct": 0.004}}, "resized to at most 67108864"),
    "a crop of text": ({"pretrained_cfg": {"crop_pct": "x\n\x1b"}}, r"crop_pct: .* got 'x\\\\n"),
    "an unknown filter": ({"pretrained_cfg": {"interpolation": "best"}}, "interpolation: expected"),
    "no filter": ({"pretrained_cfg": {"interpolation": {}}}, "interpolation: expected a word"),
    "an unknown crop": ({"pretrained_cfg": {"crop_mode": "left"}}, "crop_mode: expected"),
    "a number for a tag": ({"pretrained_cfg": {"tag": 3}}, "tag: expected a text, got 3"),
    "few labels": ({"num_classes": 3, "label_names": ["a"]}, "expected 3 names, got 1 names"),
    "many labels": ({"num_classes": 1, "label_names": PETS}, "expected 1 names, got 3 names"),
    "labels of text": ({"num_classes": 3, "label_names": "abc"}, "expected 3 names, got 'abc'"),
    "numbers as labels": ({"num_classes": 1, "label_names": [1]}, "label_names: expected a text"),
    "a label far away": (
        {"num_classes": 3, "label_names": {"3": "x"}}, "label_names: expected indices 0 … 2"),
    "a label of text": ({"num_classes": 3, "label_names": {"x": "x"}}, "expected indices 0 … 2"),
    "a list of descriptions": (
        {"num_classes": 3, "label_names": PETS, "label_descriptions": [1]}, "label_descriptions"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name(case):
    config, message = REFUSED[case]
    with pytest.raises(WeightsError, match=message):
        parse(**config)


def test_a_deep_nest_is_refused_where_it_would_be_shown():
    nest = "[" * 900 + "]" * 900
    args = f'{{"attn_layer": "se", "attn_kwargs": {{"a": {nest}}}}}'
    with pytest.raises(WeightsError, match=r"model_args|config"):
        timmconfig.parse(f'{{"architecture": "repvgg_a0", "model_args": {args}}}'.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**13) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["repvgg_a0", "bilinear", "se", "relu"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(max_size=3) | st.sampled_from([*timmconfig.KEYWORDS, *timmconfig.DEFAULTS]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
KEYS = st.sampled_from(
    [
        *("architecture", "num_classes", "model_args", "pretrained_cfg", "label_names", "labels"),
        *("label_descriptions", "tag", "test_input_size", "test_crop_pct", *timmconfig.DEFAULTS),
    ]
)


@settings(max_examples=150, deadline=None)
@given(config=st.dictionaries(KEYS, JSON, max_size=6), inside=st.dictionaries(KEYS, JSON))
def test_any_json_gives_a_network_that_can_be_fed_or_a_weights_error(config, inside):
    config = {"architecture": "repvgg_a0", "pretrained_cfg": inside} | config
    try:
        got = timmconfig.parse(json.dumps(config).encode())
    except WeightsError as error:
        assert "\x1b" not in str(error)  # noqa: PT017 - either outcome is right
        return
    if got.config.in_chans in (1, 3):
        for use_test_size in (False, True):
            cfg = resolve_data_config({}, got.pretrained_cfg, use_test_size=use_test_size)
            assert create_transform(**cfg).input_size[0] == got.config.in_chans
    names = labels.labels_for(got.pretrained_cfg)
    assert names is None or len(names) == got.config.num_classes


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(WeightsError, match=f"^{path}: config: expected at most 4194304 bytes"):
        timmconfig.read(path)
