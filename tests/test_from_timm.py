"""What timm's users write: what works the same, what changes nothing, and what is refused."""

import copy
import pickle
import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import tiny
from PIL import Image

import npvgg
from npvgg import AbsentError, ArgumentError, WeightsError, create_model, from_timm
from npvgg.from_timm import CALLS, LAYERS
from npvgg.weights.adapt import adapt, first_kernel
from npvgg.weights.build import flatten

PRETRAINED = {"pretrained": True, "engine": "reference"}


def names(call, kind):
    return [name for name, answer in CALLS[call].items() if answer.kind == kind]


# --- The tables -----------------------------------------------------------------------------------


def test_every_answer_is_one_of_three_and_says_why():
    for call, table in {**CALLS, **LAYERS}.items():
        for name, (kind, note) in table.items():
            assert kind in ("same", "nothing", "refused"), (call, name)
            assert note or kind == "same", (call, name)
            assert f"| `{name}` | {kind} | {note} |" in from_timm.__doc__


@pytest.mark.parametrize("call", ["model", "features"])
def test_a_model_has_what_the_table_promises_and_says_why_it_lacks_the_rest(call):
    model = tiny.model(features_only=call == "features")
    for name in (*names(call, "same"), *names(call, "nothing")):
        assert hasattr(model, name), name
    for name in names(call, "refused"):
        with pytest.raises(AbsentError, match=f"has no '{name}': ") as caught:
            getattr(model, name)
        assert CALLS[call][name].note in str(caught.value)
        assert isinstance(caught.value, AttributeError)
        assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=r"has no 'num_clases'$"):
        _ = model.num_clases


def test_a_model_is_copied_and_pickled_like_any_object(rng):
    for model in (tiny.model(), tiny.model(features_only=True)):
        x = np.zeros((1, 3, 9, 9), np.float32)
        for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            np.testing.assert_array_equal(twin(x)[0], model(x)[0])
            assert twin.feature_info.out_indices == model.feature_info.out_indices


# --- The page -------------------------------------------------------------------------------------


def listings():
    """The page's listings: timm's and npvgg's, in turn."""
    found = re.findall(r"(?:^    \S.*\n|^\n(?=    \S))+", from_timm.__doc__, re.MULTILINE)
    found = [dedent(text) for text in found if "create_model" in text]
    return found[::2], found[1::2]


def test_the_page_s_listings_differ_in_little_more_than_the_import():
    before, after = listings()
    assert len(before) == len(after) == 3
    for theirs, ours in zip(before, after, strict=True):
        theirs = theirs.replace("import timm, torch", "import timm").replace("timm", "npvgg")
        theirs = theirs.replace(".unsqueeze(0)", "[None]").replace("torch.topk", "npvgg.topk")
        theirs = theirs.replace("output.softmax(dim=1)", "npvgg.softmax(output, dim=1)")
        assert theirs.strip() == ours.strip()


def test_the_page_s_listings_run():
    (_, classes), (_, shapes), (_, embedding) = (
        run_listing(text.replace("repvgg_a2.rvgg_in1k", "repvgg_nano.cifar10"))
        for text in listings()[1]
    )
    assert classes["top5_class_indices"][0, 0] == 3
    assert classes["top5_probabilities"][0, 0] == pytest.approx(96.99, abs=0.01)
    assert [shape[1:3] for shape in shapes["shapes"]] == [(32, 32), (64, 16), (128, 8), (256, 4)]
    assert embedding["unpooled"].shape == (1, 256, 4, 4)
    np.testing.assert_array_equal(embedding["embedding"], embedding["output"])


def run_listing(text):
    """Run a listing on a photo; give its text and its names."""
    names = {"img": Image.open(Path(__file__).parent / "photos" / "chelsea.png")}
    exec(compile(text, "from_timm", "exec"), names)
    return text, names


# --- create_model ---------------------------------------------------------------------------------

WITHOUT_EFFECT = {
    "scriptable": True, "exportable": True, "no_jit": False, "drop_rate": 0.3,
    "drop_path_rate": 0.1, "drop_block_rate": 0.1, "drop_block_size": 3, "zero_init_last": False,
    "img_size": 224, "fixed_input_size": False, "downsample": "avg", "self_attn_layer": "halo",
    "self_attn_kwargs": {}, "stem_pool": "", "stem_type": "rep", "num_features": 0,
    "head_type": "classifier", "head_hidden_size": None, "norm_layer": "batchnorm",
    "aa_layer": "", "pruned": False, "device": "cpu", "act_layer": None, "global_pool": None,
}  # fmt: skip


def test_keywords_that_change_nothing_change_nothing():
    assert {*names("create_model", "nothing")} <= WITHOUT_EFFECT.keys()
    model = tiny.model()
    assert create_model("repvgg_a0", **tiny.keywords(), **WITHOUT_EFFECT).config == model.config
    net = create_model("repvgg_a0", features_only=True, feature_cls="list", **tiny.keywords())
    assert isinstance(net, npvgg.FeatureNet)


@pytest.mark.parametrize("name", names("create_model", "refused"))
def test_a_keyword_that_is_refused_says_what_to_do(name):
    with pytest.raises(ArgumentError) as caught:
        create_model("repvgg_a0", **{name: "other"})
    assert str(caught.value) == f"{name}: {CALLS['create_model'][name].note}"


@pytest.mark.parametrize("keyword", LAYERS)
def test_a_layer_that_is_not_here_says_why(keyword):
    kinds = LAYERS[keyword]
    for name, (kind, note) in kinds.items():
        if kind == "refused":
            with pytest.raises(ArgumentError) as caught:
                create_model("repvgg_a0", **{keyword: name})
            assert str(caught.value) == f"{keyword}: {name!r} is refused: {note}"
        elif keyword == "norm_layer":
            create_model("repvgg_a0", width_factor=0.1, norm_layer=name)


def test_timm_s_positions_and_words_are_known():
    x = np.zeros((1, 3, 32, 32), np.float32)
    want = create_model("repvgg_nano.cifar10", **PRETRAINED)(x)
    for arguments, keywords in (
        (("repvgg_nano", True), {}),
        ((), {"model_name": "repvgg_nano", "pretrained": True}),
        ((), {"name": "repvgg_nano", "pretrained": True, "dtype": "float32"}),
        (("repvgg_nano.wrong", True, "cifar10"), {}),
        (("repvgg_nano", True), {"pretrained_cfg_overlay": {"crop_pct": 0.5}}),
    ):
        got = create_model(*arguments, engine="reference", **keywords)
        np.testing.assert_array_equal(got(x), want)
        assert got.name == "repvgg_nano.cifar10"
        assert got.caveats == ()
    assert got.pretrained_cfg["crop_pct"] == 0.5


@pytest.mark.parametrize("source", ["state_dict", "file"])
def test_weights_come_from_a_pretrained_cfg(source, tmp_path):
    model = tiny.model(reparameterize=False)
    model.save(tmp_path / "m.safetensors")
    place = {"state_dict": model.state_dict(), "file": tmp_path / "m.safetensors"}[source]
    keywords = {**tiny.keywords(), **PRETRAINED}
    x = np.ones((1, 3, 9, 9), np.float32)
    want = tiny.model()(x)
    overlaid = create_model("repvgg_a0", pretrained_cfg_overlay={source: place}, **keywords)
    np.testing.assert_array_equal(overlaid(x), want)
    cfg = {source: place, "num_classes": 5, "crop_pct": 0.9, "input_size": [3, 64, 64]}
    whole = create_model("repvgg_a0", pretrained_cfg=cfg, **keywords)
    np.testing.assert_array_equal(whole(x), want)
    assert whole.pretrained_cfg["input_size"] == (3, 64, 64)
    assert (whole.pretrained_cfg["crop_pct"], whole.pretrained_cfg["interpolation"]) == (
        0.9, "bicubic",
    )  # fmt: skip
    assert source not in whole.pretrained_cfg
    loaded = create_model(
        "repvgg_a0", checkpoint_path=tmp_path / "m.safetensors", **tiny.keywords()
    )
    assert loaded.config == model.config


def test_a_pretrained_cfg_without_weights_describes_the_network():
    cfg = {"num_classes": 7, "input_size": (1, 32, 48), "mean": (0.5,)}
    model = create_model("repvgg_a0", pretrained_cfg=cfg, width_factor=0.1)
    assert (model.num_classes, model.in_chans) == (7, 1)
    assert model.pretrained_cfg["input_size"] == (1, 32, 48)
    assert model.caveats == ("random weights",)
    assert repr(model).startswith("<RepVGG repvgg_a0: random weights, deploy form, 7 classes")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"pretrained_cfg": 3}, "pretrained_cfg: expected a mapping, got int"),
        ({"pretrained_cfg": "x"}, "name: expected a pretrained tag of repvgg_a0"),
        ({"pretrained_cfg": {"num_clases": 3}}, "num_clases: not a keyword of pretrained_cfg"),
        ({"pretrained_cfg_overlay": {"url": "http://x"}}, r"pretrained_cfg_overlay\['url'\]: exp"),
        ({"pretrained_cfg": {"mean": "dark"}}, "pretrained_cfg: mean: expected numbers"),
        ({"pretrained_cfg": {"input_size": 3}}, "pretrained_cfg: "),
        ({"pretrained_cfg": {"crop_pct": 1}, "pretrained": True}, "expected 'state_dict', 'file'"),
        ({"name": "repvgg_a1"}, "name: expected model_name or name, got both"),
        ({"checkpoint_path": "a", "weights": {}}, "weights: expected either weights or checkpoi"),
    ],
)
def test_what_says_too_little_or_too_much_is_refused(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        create_model("repvgg_a0", **keywords)


# --- Pretrained weights for other ends ------------------------------------------------------------


def test_the_first_kernels_are_summed_or_repeated(rng):
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(first_kernel(w, 3), w)
    np.testing.assert_allclose(first_kernel(w, 1)[:, 0], w.sum(1), rtol=1e-6)
    five = first_kernel(w, 5)
    for channel in range(5):
        np.testing.assert_allclose(five[:, channel], w[:, channel % 3] * 0.6, rtol=1e-6)
    assert first_kernel(w.astype(np.float16), 2).dtype == np.float16


def test_pretrained_weights_fit_other_ends(caplog):
    with caplog.at_level("INFO", logger="npvgg"):
        model = create_model("repvgg_nano", num_classes=3, in_chans=1, **PRETRAINED)
    assert model.caveats == ("in_chans 3 → 1", "random classifier")
    assert [record.message for record in caplog.records] == [
        "the classifier of 3 classes is random", "the first kernels are adapted: in_chans 3 → 1",
    ]  # fmt: skip
    assert "in_chans 3 → 1, random classifier, deploy form, 3 classes" in repr(model)
    weight = model.get_classifier().weight
    assert 0.009 < weight.std() < 0.011
    assert not model.get_classifier().bias.any()
    again = create_model("repvgg_nano", num_classes=3, in_chans=1, **PRETRAINED)
    np.testing.assert_array_equal(again.get_classifier().weight, weight)
    other = create_model("repvgg_nano", num_classes=3, seed=1, **PRETRAINED)
    assert (other.get_classifier().weight != weight).all()
    assert create_model("repvgg_nano", num_classes=0, **PRETRAINED).caveats == ()


def test_a_grey_image_is_the_same_in_all_channels(rng):
    grey = rng.standard_normal((1, 1, 20, 17))
    options = {**tiny.keywords(), **PRETRAINED, "dtype": "float64", "in_chans": 1}
    model = create_model(
        "repvgg_a0", pretrained_cfg_overlay={"state_dict": tiny.tensors()}, **options
    )
    assert model.caveats == ("in_chans 3 → 1",)
    want = tiny.model(dtype="float64")(np.repeat(grey, 3, axis=1))
    np.testing.assert_allclose(model(grey), want, rtol=1e-5, atol=1e-6 * abs(want).max())


def test_weights_that_a_caller_gives_are_never_adapted():
    with pytest.raises(WeightsError, match="5 classes, the network 7"):
        create_model("repvgg_a0", weights=tiny.tensors(), **tiny.keywords() | {"num_classes": 7})
    tensors, done = adapt(tiny.tensors(), tiny.config(), tiny.config(), 0)
    assert done == ()
    assert tensors.keys() == tiny.tensors().keys()


# --- Its images -----------------------------------------------------------------------------------


def test_a_transform_takes_timm_s_words():
    nothing = names("data.create_transform", "nothing")
    off = dict.fromkeys(nothing, False) | {"normalize": True}
    want = npvgg.data.create_transform(64)
    assert npvgg.data.create_transform(64, **off) == want
    for name in npvgg.data.OFF:
        with pytest.raises(ArgumentError, match=f"^{name}: "):
            npvgg.data.create_transform(64, **{name: True})
    cfg = npvgg.data.resolve_model_data_config(tiny.model(), verbose=True)
    assert npvgg.data.resolve_data_config(model=tiny.model(), verbose=True) == cfg


# --- The model ------------------------------------------------------------------------------------


def test_evaluation_is_the_only_state():
    for model in (tiny.model(), tiny.model(features_only=True)):
        assert model.eval() is model.train(False) is model.cpu() is model.to("cpu") is model
        assert model.to("cpu", np.float32) is model.to(device="cpu") is model
        assert model.requires_grad_(False) is model
        assert model.set_grad_checkpointing(False) is None
        assert (model.training, model.grad_checkpointing) == (False, False)
        for call in (
            model.train, lambda m=model: m.train(True), model.requires_grad_,
            model.set_grad_checkpointing, lambda m=model: m.to("cuda"),
            lambda m=model: m.to(np.float64),
        ):  # fmt: skip
            with pytest.raises(ArgumentError):
                call()
    with pytest.raises(ArgumentError, match=r"train: .* batch statistics"):
        model.train()


def test_the_classifier_can_be_read_and_replaced(rng):
    model = tiny.model()
    x = tiny.photos(model, rng)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    classifier = model.get_classifier()
    assert (classifier.in_features, classifier.out_features) == (12, 5)
    np.testing.assert_allclose(classifier(pooled), model(x), rtol=1e-5, atol=1e-6)
    model.reset_classifier(7, "catavgmax")
    assert (model.num_classes, model.global_pool, model.head_hidden_size) == (7, "catavgmax", 24)
    assert model(x).shape == (2, 7)
    assert model.caveats == ("random classifier",)
    assert abs(model.get_classifier().weight).max() <= 24**-0.5
    model.reset_classifier(0)
    assert model.get_classifier()(pooled) is pooled
    assert model.get_classifier().in_features == 0
    assert model.caveats == ()
    model.reset_classifier(0, "")
    np.testing.assert_array_equal(model(x), model.forward_features(x))
    with pytest.raises(ArgumentError, match="num_classes"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("fold", [False, True], ids=["train", "deploy"])
def test_other_weights_are_taken_whole_or_not_at_all(fold, rng):
    model, other = (tiny.model(reparameterize=fold) for _ in range(2))
    tensors = tiny.tensors(seed=1)
    x = tiny.photos(model, rng)
    assert model.load_state_dict(tensors) == ([], [])
    want = create_model(
        "repvgg_a0", weights=tensors, engine="reference", reparameterize=fold, **tiny.keywords()
    )
    np.testing.assert_array_equal(model(x), want(x))
    kept = {name: array for name, array in tensors.items() if name != "head.fc.bias"}
    with pytest.raises(WeightsError, match=r"(?s)missing.*head\.fc\.bias"):
        model.load_state_dict(kept)
    with pytest.raises(ArgumentError, match="strict: expected True"):
        model.load_state_dict(kept, strict=False)
    np.testing.assert_array_equal(model(x), want(x))
    if fold:
        model.load_state_dict(other.state_dict())
        np.testing.assert_array_equal(model(x), other(x))
    else:
        with pytest.raises(WeightsError, match="expected train form"):
            model.load_state_dict(tiny.model().state_dict())


def test_a_pruned_network_ends_at_the_last_map_that_is_kept(rng, tmp_path):
    whole, model = tiny.model(), tiny.model()
    x = tiny.photos(model, rng)
    maps = whole.forward_intermediates(x)[1]
    assert model.prune_intermediate_layers([2, 1]) == [2, 1]
    np.testing.assert_array_equal(model.forward_features(x), maps[2])
    assert (model.num_features, model.num_classes, model.global_pool) == (8, 0, "")
    for got, want in zip(model.forward_intermediates(x)[1], maps[:3], strict=True):
        np.testing.assert_array_equal(got, want)
    model.save(tmp_path / "m.safetensors")
    back = create_model(weights=tmp_path / "m.safetensors", engine="reference")
    np.testing.assert_array_equal(back(x), maps[2])
    model.prune_intermediate_layers([0])
    np.testing.assert_array_equal(model(x), maps[0])
    assert [name for name in flatten(model.network) if not name.startswith("stem.")] == []
    model = tiny.model()
    assert model.prune_intermediate_layers(1, prune_head=False) == [4]
    np.testing.assert_array_equal(model(x), whole(x))
    assert model.prune_intermediate_layers() == [4]
    np.testing.assert_array_equal(model(x), maps[4])


def test_intermediates_take_timm_s_positions(rng):
    model = tiny.model()
    x = tiny.photos(model, rng)
    want = model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
    got = model.forward_intermediates(x, [1], True, True, "NCHW", True, True)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(model.forward(x), model(x))
    with pytest.raises(ArgumentError, match="output_fmt: expected 'NCHW', got 'NHWC'"):
        model.forward_intermediates(x, output_fmt="NHWC")


def test_feature_info_reads_columns_as_timm_does():
    net = tiny.model(features_only=True, out_indices=(3, 1))
    info = net.feature_info
    assert (info.out_indices, net.out_indices) == ((1, 3), (1, 3))
    assert (info.channels(), info.channels(0), info.channels([0, 4])) == ([4, 8], 4, [4, 12])
    assert (info.reduction(), info.module_name(4)) == ([4, 16], "final_conv")
    assert (len(info), len(info.info), info[1]["index"]) == (5, 5, 1)
    assert info.get("stage") == [1, 3]
    assert info.get_dicts(["num_chs"]) == [{"num_chs": 4}, {"num_chs": 8}]
    assert info.get_dicts(["num_chs", "stage"], 0) == {"num_chs": 4, "stage": 0}
    assert info.get_dicts(idx=[0]) == [info[0]]
    other = info.from_other(2)
    assert other.out_indices == (3, 4)
    other[0]["num_chs"] = 0
    assert info[0]["num_chs"] == 4
    net.model.forward_intermediates(np.zeros((1, 3, 9, 9), np.float32))


def test_the_groups_of_layers_are_timm_s():
    matcher = tiny.model().group_matcher()
    assert matcher["stem"] == "^stem"
    assert matcher["blocks"][0][0] == r"^stages\.(\d+)\.(\d+)"
    assert tiny.model().group_matcher(coarse=True)["blocks"][0][0] == r"^stages\.(\d+)"
