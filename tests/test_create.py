"""From a name, a file and keywords to a model, and back into a file."""

import json

import numpy as np
import pytest
import tiny
import torchwriter

import npvgg
from npvgg import ArgumentError, WeightsError, create_model
from npvgg.config import RepVGGConfig
from npvgg.formats import checkpoint
from npvgg.tools.certificate import subject
from npvgg.tools.conversion import convert
from npvgg.tools.inspection import inspect
from npvgg.weights import metadata
from npvgg.weights.build import flatten
from npvgg.weights.identity import identify


def test_weights_come_from_a_dict_or_a_file_and_are_random_without(tmp_path, rng):
    path = tmp_path / "weights.bin"
    checkpoint.save_safetensors(path, tiny.tensors())
    want = tiny.model()
    x = tiny.photos(want, rng)
    for source in (tiny.tensors(), path, str(path)):
        got = create_model("RepVGG-A0", weights=source, engine="reference", **tiny.keywords())
        np.testing.assert_array_equal(got(x), want(x))
    random = {
        seed: create_model("repvgg_a0", seed=seed, engine="reference", **tiny.keywords())
        for seed in (0, 1)
    }
    np.testing.assert_array_equal(random[0](x), want(x))  # tiny.tensors() has seed 0
    assert (random[1](x) != want(x)).all()


def test_a_file_of_a_network_of_the_table_needs_no_name():
    tensors = create_model("repvgg_nano", num_classes=3).state_dict()
    model = create_model(weights={f"module.{n}": t for n, t in tensors.items()})
    assert (model.name, model.num_classes) == ("repvgg_nano", 3)
    with pytest.raises(WeightsError, match="give the name of the network"):
        create_model(weights=tiny.tensors())


def test_the_weights_of_a_checkpoint_are_chosen_and_named(tmp_path, rng):
    """Averaged weights go first, as in timm; torch's AveragedModel counts beside them."""
    path = tmp_path / "checkpoint.pth.tar"
    averaged = {f"module.{name}": array for name, array in tiny.tensors(seed=1).items()}
    saved = {
        "state_dict": torchwriter.state_dict(tiny.tensors(seed=2)),
        "state_dict_ema": torchwriter.state_dict(averaged | {"n_averaged": np.array(3)}, 999),
        "epoch": 3,
    }
    path.write_bytes(torchwriter.zip_file(saved))
    for wrapper, seed, choice in (
        (None, 1, "the weights under 'state_dict_ema' (not 'state_dict')"),
        ("state_dict", 2, "the weights under 'state_dict' (not 'state_dict_ema')"),
    ):
        options = {"engine": "reference", **tiny.keywords()}
        got = create_model("repvgg_a0", weights=path, wrapper=wrapper, **options)
        want = create_model("repvgg_a0", weights=tiny.tensors(seed=seed), **options)
        x = tiny.photos(got, rng)
        np.testing.assert_array_equal(got(x), want(x))
        assert (got.origin.path, got.origin.choice, got.origin.tensors) == (path, choice, {})
        assert want.origin is None
        read = checkpoint.load_with_metadata(path, wrapper=wrapper)
        again = create_model("repvgg_a0", weights=read, **options)
        np.testing.assert_array_equal(again(x), want(x))
        assert again.origin == got.origin
    with pytest.raises(WeightsError, match="expected weights under 'model', found 'state_dict'"):
        create_model("repvgg_a0", weights=path, wrapper="model")


REFUSED_OPTIONS = {
    "a wrapper of nothing": ({"wrapper": "model"}, "wrapper: expected a weights file with it"),
    "neither name nor weights": ({"name": None}, "name: expected the name of a network, or weig"),
    "an unknown name": ({"name": "repvgg_z"}, "name: expected a known network, got 'repvgg_z'"),
    "a number for a name": ({"name": 3}, "name: expected the name of a network"),
    "an unknown tag": ({"name": "repvgg_a0.x"}, "name: expected a pretrained tag of repvgg_a0"),
    "weights twice": ({"weights": {}, "pretrained": True}, "weights: expected either weights or"),
    "pretrained nameless": ({"name": None, "pretrained": True}, "pretrained: expected a network"),
    "never trained": ({"name": "repvgg_b1g2", "pretrained": True}, "got repvgg_b1g2; or pass wei"),
    "indices alone": ({"out_indices": 1}, "out_indices: expected features_only=True"),
    "an unknown keyword": ({"num_clases": 3}, "num_clases: not a keyword.* mean num_classes"),
    "an impossible field": ({"output_stride": 4}, "output_stride: expected one of 8, 16, 32"),
    "half precision": ({"dtype": np.float16}, "dtype: expected float32 or float64, got"),
    "integers": ({"dtype": int}, "dtype: expected float32 or float64"),
    "no dtype": ({"dtype": None}, "dtype: expected float32 or float64, got None"),
    "nonsense for a dtype": ({"dtype": "f32x"}, "dtype: expected float32 or float64, got 'f32x'"),
    "an unknown engine": ({"engine": "steam"}, "engine: expected auto, reference.*, got 'steam'"),
    "no threads": ({"threads": 0}, "threads: expected an integer of at least 1, got 0"),
    "half a thread": ({"threads": 0.5}, "threads: expected an integer"),
    "a bad seed": ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
    "text for a seed": ({"seed": "x"}, "seed: expected an integer of at least 0, got 'x'"),
}


@pytest.mark.parametrize("case", REFUSED_OPTIONS)
def test_what_makes_no_model_is_refused_by_name(case):
    options, message = REFUSED_OPTIONS[case]
    with pytest.raises(ArgumentError, match=message):
        create_model(**{"name": "repvgg_a0", **options})


def test_weights_of_no_kind_are_a_weights_error(tmp_path):
    for source in (3, [], {}, tmp_path, tmp_path / "absent", "x" * 5000, "\0", ""):
        with pytest.raises(WeightsError):
            create_model("repvgg_a0", weights=source)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_data_configuration_follows_the_keywords(channels):
    """What the configuration prepares, the model takes."""
    model = tiny.model(changes={"in_chans": channels, "num_classes": 6})
    assert model.pretrained_cfg["input_size"] == (channels, 224, 224)
    assert model.pretrained_cfg["num_classes"] == 6
    cfg = npvgg.data.resolve_model_data_config(model)
    transform = npvgg.data.create_transform(**cfg)
    photo = np.full((30, 20, 3), 128, np.uint8)
    assert model(transform(photo)[None]).shape == (1, 6)


def test_every_data_configuration_is_the_model_s_own():
    tiny.model().pretrained_cfg["mean"] = "mine"
    assert tiny.model().pretrained_cfg["mean"] == (0.485, 0.456, 0.406)


# --- Saving and loading ---------------------------------------------------------------------------

DISK = ["float16", "float32", "float64", None]


@pytest.mark.parametrize("disk", DISK, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", ["plain", "se-after-the-activation", "no-pool", "grey"])
def test_what_is_saved_comes_back_exactly(network, dtype, disk, tmp_path):
    path = tmp_path / "m.safetensors"
    for loaded_fold, saved_form in ((False, "train"), (False, "deploy"), (True, None)):
        model = tiny.model(network, reparameterize=loaded_fold, dtype=dtype)
        model.save(path, saved_form, dtype=disk)
        back = create_model(weights=path, reparameterize=False, dtype=dtype)
        assert back.form == (saved_form or model.form)
        assert (back.name, back.config) == (model.name, model.config)
        assert back.pretrained_cfg == model.pretrained_cfg
        source = model.network if saved_form == "train" else model.network.reparameterized()
        want = flatten(source)
        assert list(back.state_dict()) == list(want)
        for name, array in back.state_dict().items():
            stored = want[name].astype(disk or dtype).astype(dtype)
            np.testing.assert_array_equal(array, stored, err_msg=name)


def test_a_saved_file_says_what_it_is(tmp_path):
    path = tmp_path / "m.safetensors"
    tiny.model("groups", reparameterize=False).save(path, "deploy")
    metadata = checkpoint.load_with_metadata(path).metadata
    assert metadata["format"] == "pt"
    assert metadata["npvgg.version"] == npvgg.__version__
    assert (metadata["npvgg.form"], metadata["npvgg.fold"]) == ("deploy", "float64")
    config = {k: tuple(v) if isinstance(v, list) else v
              for k, v in json.loads(metadata["npvgg.config"]).items()}  # fmt: skip
    assert RepVGGConfig(**config) == tiny.config("groups")


def test_a_saved_file_says_how_it_was_folded_if_that_is_known(tmp_path):
    def fold_of(model, form=None):
        model.save(tmp_path / "again.safetensors", form)
        return checkpoint.load_with_metadata(tmp_path / "again.safetensors").metadata.get(
            "npvgg.fold"
        )

    train, deploy = tmp_path / "train.safetensors", tmp_path / "deploy.safetensors"
    tiny.model(reparameterize=False).save(train)
    assert fold_of(create_model(weights=train, reparameterize=False)) is None
    assert fold_of(create_model(weights=train)) == "float64"
    convert(train, deploy, form="deploy", fold_dtype="float32")
    assert fold_of(create_model(weights=deploy)) == "float32"
    tensors = checkpoint.load(deploy)
    assert fold_of(create_model("repvgg_a0", weights=tensors, **tiny.keywords())) is None


def test_a_saved_model_can_be_made_otherwise(tmp_path, rng):
    path = tmp_path / "m.safetensors"
    model = tiny.model()
    model.save(path)
    x = tiny.photos(model, rng)
    embedding = create_model(weights=path, num_classes=0, engine="reference")
    np.testing.assert_array_equal(
        embedding(x), model.forward_head(model.forward_features(x), pre_logits=True)
    )
    net = create_model(weights=path, features_only=True, out_indices=1, engine="reference")
    np.testing.assert_array_equal(net(x)[0], model.forward_features(x))


def test_what_cannot_be_saved_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    model = tiny.model()
    huge = create_model(
        "repvgg_a0", **tiny.keywords(),
        weights=tiny.tensors() | {"head.fc.bias": np.full(5, 7e4)},
    )  # fmt: skip
    vanishing = create_model(
        "repvgg_a0", **tiny.keywords(), reparameterize=False,
        weights=tiny.tensors() | {"stem.conv_1x1.bn.running_var": np.full(4, 1e-9)},
    )  # fmt: skip
    for refused, options, message in (
        (model, {"form": "train"}, "form: a folded network cannot be unfolded"),
        (model, {"form": "fused"}, "form: expected 'train' or 'deploy', got 'fused'"),
        (model, {"dtype": "int8"}, "dtype: expected one of float64, .*, got 'int8'"),
        (huge, {"dtype": "float16"}, "dtype: float16 cannot hold the values of head.fc.bias"),
        (vanishing, {"dtype": "float16"}, "float16 cannot hold .* stem.conv_1x1.bn.running_var"),
    ):
        with pytest.raises(ArgumentError, match=message):
            refused.save(path, **options)
    with pytest.raises(WeightsError, match="a file is there"):
        model.save(path, overwrite=False)
    with pytest.raises(WeightsError, match="No such file or directory"):
        model.save(tmp_path / "absent" / "m.safetensors")
    assert path.read_bytes() == b"old"


# --- Files that lie about themselves --------------------------------------------------------------


@pytest.fixture
def lying_file(tmp_path):
    """Write a file whose metadata says something else; give its path."""

    def write(**said):
        path = tmp_path / "lie.safetensors"
        tiny.model().save(path)
        file = checkpoint.load_with_metadata(path)
        metadata = file.metadata | {f"npvgg.{key}": text for key, text in said.items()}
        checkpoint.save_safetensors(path, file.tensors, metadata, overwrite=True)
        return path

    return write


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("config", "{}", "not a configuration"),
        ("config", "[]", "expected a JSON object"),
        ("config", "{", "expected JSON"),
        ("config", "[" * 100_000, "a nesting of at most 32"),
        ("config", '{"depths": [1], "widths": [4], "__class__": 1}', "not a configuration"),
        ("config", '{"depths": [1], "widths": [0]}', "not a configuration: widths"),
        ("config", '{"depths": [1000000000], "widths": [4]}', "not a configuration"),
        (
            "config",
            '{"depths": [1, 2, 3, 1], "widths": [4, 8, 8, 16]}',
            "not a deploy-form file of this network",
        ),
        (
            "config",
            '{"depths": [1], "widths": [4], "strides": [1], "attn_layer": "se", '
            '"attn_kwargs": {"rd_ratio": "x"}}',
            "not a configuration: attn_kwargs",
        ),
        ("model", "\x1b[31mred", "'npvgg.model' is not a name"),
        ("model", "x" * 10_000, "'npvgg.model' is not a name"),
        ("pretrained_cfg", "1", "expected a JSON object"),
        ("pretrained_cfg", '{"input_size": 3}', "input_size: expected three"),
        ("pretrained_cfg", '{"input_size": [3, 224]}', "input_size: expected three"),
        ("pretrained_cfg", '{"input_size": [3, "a", 2]}', "input_size: expected three"),
        ("pretrained_cfg", '{"input_size": [3, 1, 0]}', "input_size: expected three"),
        ("pretrained_cfg", '{"input_size": [3, 99999, 99999]}', "at most 16777216 pixels"),
        ("pretrained_cfg", '{"label_names": 5}', "label_names: expected 5 names, got 5"),
        ("pretrained_cfg", '{"label_names": ["a"]}', "label_names: expected 5 names, got 1 names"),
        ("pretrained_cfg", '{"mean": "dark"}', "mean: expected numbers, got 'dark'"),
        ("pretrained_cfg", '{"crop_pct": "x"}', "crop_pct: expected a number"),
        ("pretrained_cfg", '{"interpolation": {}}', "interpolation: expected a word"),
    ],
)
def test_metadata_is_checked_like_weights(key, text, message, lying_file):
    with pytest.raises(WeightsError, match=message):
        create_model(weights=lying_file(**{key: text}))


def test_a_file_of_another_network_is_named_with_its_path(tmp_path):
    """Its labels, ten and not a thousand, are not what is wrong with it."""
    path = tmp_path / "nano.safetensors"
    npvgg.create_model("repvgg_nano", pretrained=True).save(path)
    with pytest.raises(
        WeightsError, match=r"(?s)nano\.safetensors: .*stem.*\(48, 3, 3, 3\)"
    ) as caught:
        npvgg.create_model("repvgg_a0", weights=path)
    assert "label" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"nano\.safetensors: .*10 classes, the network 7"):
        npvgg.create_model("repvgg_nano", weights=path, num_classes=7)


def test_the_names_of_other_classes_are_forgotten(tmp_path):
    """Ten classes are CIFAR's; three are not."""
    model = create_model("repvgg_nano", num_classes=3)
    assert "label_names" not in model.pretrained_cfg
    model.save(tmp_path / "m.safetensors")
    for source in (tmp_path / "m.safetensors", model.state_dict()):
        assert "label_names" not in create_model(weights=source).pretrained_cfg


def test_metadata_may_leave_things_out(lying_file):
    model = create_model(weights=lying_file(pretrained_cfg='{"crop_pct": 1.0}'))
    assert model.pretrained_cfg["crop_pct"] == 1.0
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)
    assert "made for 3×224×224" in repr(model)


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("reparametrize", "did you mean reparameterize"),
        ("width_facto", "did you mean width_factor"),
        ("num_class", "did you mean num_classes"),
        ("quantize", "known: act_layer, "),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_of_all(keyword, hint):
    with pytest.raises(ArgumentError, match=f"^{keyword}: not a keyword of create_model; {hint}"):
        create_model("repvgg_a0", **{keyword: 1})


def test_a_folder_needs_no_slash_in_its_name_and_a_network_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    tiny.model(reparameterize=False).save(tmp_path / "mine" / "model.safetensors")
    assert create_model("mine", pretrained=True).config == tiny.config()
    (tmp_path / "mine").rename(tmp_path / "repvgg_a0.tuned")
    assert create_model("./repvgg_a0.tuned", pretrained=True).config == tiny.config()
    assert create_model("repvgg_a0.tuned/", pretrained=True).config == tiny.config()
    (tmp_path / "repvgg_nano").mkdir()
    assert create_model("repvgg_nano", pretrained=True).name == "repvgg_nano.cifar10"


def test_weights_of_another_network_are_said_to_be_its(tmp_path):
    create_model("repvgg_nano", pretrained=True, reparameterize=False).save(
        tmp_path / "nano.safetensors"
    )
    with pytest.raises(WeightsError, match="file of this network, but of repvgg_nano"):
        create_model("repvgg_a0", weights=tmp_path / "nano.safetensors")


def test_random_weights_have_no_tag_and_a_file_needs_the_right_suffix(tmp_path):
    model = create_model("repvgg_nano.cifar10")
    assert model.name == "repvgg_nano"
    for name in ("a.pth", "a.onnx", "a"):
        with pytest.raises(ArgumentError, match=r"^path: expected a name in \.safetensors, got"):
            model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# --- Which network is it? -------------------------------------------------------------------------

THREE = {"num_classes": 3, "label_names": ["ant", "bee", "cat"]}


@pytest.fixture(scope="module")
def nano():
    """Train-form tensors of a network of the table with three classes."""
    return create_model("repvgg_nano", num_classes=3, reparameterize=False).state_dict()


@pytest.fixture
def nano_folder(tmp_path, nano):
    """Make a folder with the three classes' weights and a config.json that says what is given."""

    def folder(**config):
        checkpoint.save_safetensors(tmp_path / "model.safetensors", nano, overwrite=True)
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "repvgg_nano", **config}))
        return tmp_path

    return folder


def test_the_tensors_say_how_many_classes_and_channels_there_are(tmp_path, nano):
    """A name says how wide a network is; its ends are those of the file."""
    for changes, want in (({}, (3, 3)), ({"num_classes": 0}, (0, 3))):
        model = create_model("repvgg_nano", weights=nano, engine="reference", **changes)
        assert (model.num_classes, model.config.in_chans) == want
    grey = create_model("repvgg_nano", in_chans=1, num_classes=2, reparameterize=False)
    for tensors in (grey.state_dict(), create_model("repvgg_nano", in_chans=1).state_dict()):
        model = create_model("repvgg_nano", weights=tensors, engine="reference")
        assert model.pretrained_cfg["input_size"] == (1, 32, 32)
        assert "label_names" not in model.pretrained_cfg  # nobody said that they are CIFAR's
    headless = {name: a for name, a in nano.items() if not name.startswith("head.")}
    assert create_model("repvgg_nano", weights=headless).num_classes == 0
    with pytest.raises(WeightsError, match=r"3 classes, the network 10; pass num_classes=3 \(or l"):
        create_model("repvgg_nano", weights=nano, num_classes=10)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, None),
        ({"num_classes": 1000}, None),
        (THREE, ("ant", "bee", "cat")),
        (THREE | {"num_classes": 1000}, ("ant", "bee", "cat")),
        ({"num_classes": 2, "label_names": ["yes", "no"]}, None),
        ({"num_classes": 9, "label_names": {"0": "ant", "8": "bee"}}, None),
        ({"num_classes": 9, "label_names": {"0": "ant", "2": "cat"}}, ("ant", "1", "cat")),
        ({"model_args": {"num_classes": 1000}, **THREE}, ("ant", "bee", "cat")),
        ({"model_args": {"num_classes": 3}, "num_classes": 2, "label_names": ["y", "n"]}, None),
        ({"num_classes": 3, "pretrained_cfg": {"num_classes": 2, "label_names": ["y", "n"]}}, None),
    ],
)
def test_a_config_json_that_was_copied_does_not_make_a_folder_useless(nano_folder, config, labels):
    folder = nano_folder(**config)
    for name in (None, "repvgg_nano"):
        model = create_model(name, weights=folder, engine="reference")
        assert model.num_classes == model.pretrained_cfg["num_classes"] == 3
        assert model.pretrained_cfg.get("label_names") == labels
    convert(folder, folder / "out.safetensors", form="deploy", overwrite=True)
    (folder / "config.json").unlink()
    again = create_model(weights=folder / "out.safetensors", engine="reference")
    assert model.pretrained_cfg.items() <= again.pretrained_cfg.items()
    assert again.pretrained_cfg.get("label_names") == labels


@pytest.mark.parametrize("config", [{"num_classes": 3, "label_names": ["a", "b"]},
                                    {"num_classes": 9, "label_names": ["a", "b"]}])  # fmt: skip
def test_names_that_fit_no_head_are_refused(nano_folder, config):
    folder = nano_folder(**config)
    with pytest.raises(WeightsError, match=r"expected 3 names, got 2 names; .* --labels FILE"):
        create_model(weights=folder)
    assert create_model(weights=folder / "model.safetensors").num_classes == 3  # as it advises


def test_a_name_and_a_config_json_that_contradict_each_other_are_refused(nano_folder):
    folder = nano_folder()
    with pytest.raises(ArgumentError, match="name: expected repvgg_nano, which the folder's"):
        create_model("repvgg_a0", weights=folder)
    with pytest.raises(ArgumentError, match="name: expected repvgg_nano, which the folder's"):
        convert(folder, folder / "out.safetensors", model="repvgg_a0")


def test_a_name_does_not_hide_what_shapes_cannot_show(tmp_path, rng):
    """The activation of a file of the same network is kept, where it was ReLU in silence."""
    path = tmp_path / "m.safetensors"
    model = create_model("repvgg_nano", act_layer="silu", engine="reference")
    model.save(path)
    for name, options in ((None, {}), ("repvgg_nano", {}), ("repvgg_nano.cifar10", {})):
        again = create_model(name, weights=path, engine="reference", **options)
        assert again.config == model.config
    assert create_model("repvgg_nano", weights=path, act_layer="relu").config.act_layer == "relu"


def test_every_tool_has_the_same_answer(tmp_path, nano):
    path = tmp_path / "three.safetensors"
    checkpoint.save_safetensors(path, nano)
    for name in (None, "repvgg_nano", "RepVGG-nano"):
        model = create_model(name, weights=path, engine="reference")
        file = checkpoint.load_with_metadata(path)
        found = identify(name, file.tensors, file)
        assert (found.name, found.config) == (model.name, model.config)
        assert found.pretrained_cfg == model.pretrained_cfg
        said = inspect(path, model=name)
        assert (said["network"], said["classes"], said["channels"]) == ("repvgg_nano", 3, 3)
        assert subject(file, name).config == model.config
        done = convert(path, tmp_path / "out.pth", model=name, form="deploy", overwrite=True)
        assert metadata.config_of(done.metadata) == model.config


def test_wrong_labels_never_stop_what_has_no_classes(nano_folder):
    folder = nano_folder(num_classes=3, label_names=["a", "b"])
    for options in ({"num_classes": 0}, {"features_only": True}):
        create_model(weights=folder, engine="reference", **options)
    with pytest.raises(WeightsError, match="label_names"):
        create_model(weights=folder)


def test_a_folder_may_have_a_colon_in_its_name(tmp_path):
    folder = tmp_path / "run 12:30"
    tiny_folder = {"architecture": "repvgg_a0", "num_classes": 5, "model_args": tiny.keywords()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_folder))
    checkpoint.save_safetensors(folder / "model.safetensors", tiny.tensors())
    assert create_model(str(folder), pretrained=True).num_classes == 5
    with pytest.raises(ArgumentError, match="expected hf-hub:owner/name or a folder"):
        create_model(f"{folder}x", pretrained=True)
