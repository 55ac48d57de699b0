"""ONNX files: what is in them, how it is named, what is refused; what onnx's own evaluator says.

onnx.reference runs the graphs in float64, so that a wrong formula cannot hide behind rounding. ONNX
Runtime has its turn in tests/cross.
"""

import hashlib
import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import tiny
import torchwriter

import npvgg
from npvgg import ops
from npvgg.cli.main import main
from npvgg.config import ACT_LAYERS, ATTN_LAYERS
from npvgg.data import create_transform, resolve_model_data_config
from npvgg.errors import ArgumentError, WeightsError
from npvgg.export import PREPROCESSINGS, convert_to_onnx, export_onnx
from npvgg.export.layers import ACTIVATIONS
from npvgg.formats import checkpoint
from npvgg.model import RepVGG
from npvgg.network import Head
from npvgg.tools.conversion import convert
from npvgg.variants import VARIANTS
from npvgg.weights import build

needs_onnx = pytest.mark.skipif(find_spec("onnx") is None, reason="onnx is not installed")
NANO = VARIANTS["repvgg_nano"]


@pytest.fixture
def source(tmp_path):
    """A train-form safetensors file of a named network."""
    path = tmp_path / "train.safetensors"
    checkpoint.save_safetensors(path, build.random_tensors(NANO, 3), {"by": "me"})
    return path


def read(path):
    import onnx

    return onnx.load(path)


def run(path, **inputs):
    """What onnx's own evaluator gives for a file."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(path)).run(None, inputs)[0]


def shape(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def metadata(path):
    return {entry.key: entry.value for entry in read(path).metadata_props}


# --- The formulas, in float64 ---------------------------------------------------------------------

SINGLE = {
    "leaky_relu": "its slope is an attribute",
    "selu": "its two constants are attributes",
    "hard_sigmoid": "its slope, 1/6, is an attribute",
    "hard_swish": "its slope, 1/6, is an attribute",
    "gelu": "onnx's evaluator has erf in float32",
}
"""Activations that are float32 at heart even in a float64 graph: attributes of ONNX are float32."""


def digits(*activations):
    """How near the truth a graph must be: twelve digits, or eight blocks of six roundings each."""
    return 48 * 2.0**-24 if set(activations) & set(SINGLE) else 1e-12


def assert_the_graph_is_the_network(model, tmp_path, rng, bound=1e-12, **options):
    x = tiny.photos(model, rng, dtype=np.float64)
    export_onnx(model, tmp_path / "a.onnx", dynamic_size=True, **options)
    want, got = model(x), run(tmp_path / "a.onnx", x=x)
    assert got.dtype == np.float64
    assert got.shape == want.shape
    assert abs(got - want).max() <= bound * abs(want).max()
    assert abs(want).max() > 0


@needs_onnx
@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_a_graph_is_the_network(name, form, tmp_path, rng):
    model = tiny.model(name, dtype="float64", reparameterize=form == "deploy")
    bound = digits(model.config.act_layer, "hard_sigmoid" if "ese" in name else "")
    assert_the_graph_is_the_network(model, tmp_path, rng, bound)


@needs_onnx
@pytest.mark.parametrize("name", ACT_LAYERS)
def test_an_activation_is_that_of_ops(name, tmp_path, rng):
    model = tiny.model(changes={"act_layer": name}, dtype="float64")
    assert_the_graph_is_the_network(model, tmp_path, rng, digits(name))


@needs_onnx
@pytest.mark.parametrize("name", [name for name in ACT_LAYERS if name not in SINGLE])
def test_an_activation_far_from_zero_is_that_of_ops(name, tmp_path):
    changes = {"depths": (1,), "widths": (4,), "strides": (1,), "num_classes": 0, "global_pool": ""}
    model = tiny.model(changes={**changes, "act_layer": name}, dtype="float64")
    x = np.linspace(-1500, 1500, 3 * 40 * 2).reshape(2, 3, 8, 5)
    export_onnx(model, tmp_path / "a.onnx", dynamic_size=True)
    with np.errstate(over="ignore", invalid="ignore"):  # in branches that the evaluator drops
        got = run(tmp_path / "a.onnx", x=x)
    np.testing.assert_allclose(got, model(x), rtol=1e-12, atol=1e-12)


OPTIONS = {
    "se-maximum": ("se", {"add_maxpool": True, "act_layer": "silu", "rd_channels": 2}),
    "se-without-bias": ("se", {"bias": False, "gate_layer": "tanh", "rd_channels": 3}),
    "ese-maximum": ("ese", {"add_maxpool": True, "gate_layer": "sigmoid"}),
    "eca-long": ("eca", {"gamma": 0.6, "beta": 2}),
    "eca-mlp": ("eca", {"use_mlp": True, "rd_channels": 3, "act_layer": "silu"}),
    "ceca-long": ("ceca", {"gamma": 0.6, "beta": 2, "gate_layer": "tanh"}),
    "cbam-bias": ("cbam", {"mlp_bias": True, "spatial_kernel_size": 5, "gate_layer": "tanh"}),
    "lcbam-bias": ("lcbam", {"mlp_bias": True, "rd_channels": 3}),
    **{name: (name, {"gate_layer": "sigmoid"} if name == "ese" else {}) for name in ATTN_LAYERS},
}


@needs_onnx
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("case", OPTIONS)
def test_an_attention_layer_is_that_of_attention(case, after, tmp_path, rng):
    layer, options = OPTIONS[case]
    changes = {"attn_layer": layer, "attn_kwargs": options, "attn_after_act": after}
    model = tiny.model(changes=changes, dtype="float64")
    assert_the_graph_is_the_network(model, tmp_path, rng)


@needs_onnx
@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_a_pooling_is_that_of_ops(pool, num_classes, tmp_path, rng):
    model = tiny.model(changes={"global_pool": pool, "num_classes": num_classes}, dtype="float64")
    assert_the_graph_is_the_network(model, tmp_path, rng)


@needs_onnx
def test_a_planted_fault_is_seen(tmp_path, rng, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "relu", lambda m, x: m("Clip", x, 0.0, 0.5))
    with pytest.raises(AssertionError):
        assert_the_graph_is_the_network(tiny.model(dtype="float64"), tmp_path, rng)


# --- The ends -------------------------------------------------------------------------------------


@needs_onnx
def test_softmax_is_inside_on_request(tmp_path, rng):
    model = tiny.model(dtype="float64")
    done = export_onnx(model, tmp_path / "a.onnx", dynamic_size=True, softmax=True)
    assert done.result == ("probabilities", "float64", ("N", 5))
    x = tiny.photos(model, rng, dtype=np.float64)
    want = ops.softmax(model(x), axis=1)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x=x), want, rtol=1e-12)


def bundled(**options):
    return npvgg.create_model("repvgg_nano.cifar10", engine="reference", **options)


@needs_onnx
@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("how", PREPROCESSINGS)
def test_pixels_are_normalised_to_the_bits_of_the_transform(how, in_chans, tmp_path, rng):
    from onnx.reference import ReferenceEvaluator

    model = bundled(in_chans=in_chans)
    done = export_onnx(model, tmp_path / "a.onnx", preprocess=how)
    kind, _, order = how.partition("-")
    pixels = rng.integers(0, 256, (2, 32, 32, in_chans), dtype=np.uint8)
    normalise = create_transform(**resolve_model_data_config(model))._normalized
    want = np.stack([normalise(photo) for photo in pixels])
    given = pixels if order == "nhwc" else pixels.transpose(0, 3, 1, 2)
    given = given if kind == "uint8" else given.astype(np.float32)
    assert done.source == ("pixels", str(given.dtype), ("N", *given.shape[1:]))
    proto = read(tmp_path / "a.onnx")
    end = next(i for i, node in enumerate(proto.graph.node) if node.output[0] == "x")
    del proto.graph.node[end + 1 :], proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].name = "x"
    got = ReferenceEvaluator(proto).run(None, {"pixels": given})[0]
    np.testing.assert_array_equal(got, want, strict=True)


@needs_onnx
def test_sizes_are_the_network_s_own_or_open(tmp_path):
    model = bundled()
    for name, options, want in (
        ("fixed", {}, ["N", 3, 32, 32]),
        ("open", {"dynamic_size": True}, ["N", 3, "H", "W"]),
        ("pixels", {"dynamic_size": True, "preprocess": "uint8-nhwc"}, ["N", "H", "W", 3]),
    ):
        path = tmp_path / f"{name}.onnx"
        export_onnx(model, path, **options)
        graph = read(path).graph
        assert shape(graph.input[0]) == want
        assert shape(graph.output[0]) == ["N", 10]


@needs_onnx
@pytest.mark.parametrize(
    ("options", "name", "want"),
    [
        ({"global_pool": ""}, "features", ["N", 256, 4, 4]),
        ({"global_pool": "avg"}, "embedding", ["N", 256]),
        ({"global_pool": "catavgmax"}, "embedding", ["N", 512]),
    ],
)
def test_without_a_classifier_the_output_is_what_is_left(tmp_path, options, name, want):
    model = npvgg.create_model("repvgg_nano", num_classes=0, engine="reference", **options)
    export_onnx(model, tmp_path / "a.onnx")
    (output,) = read(tmp_path / "a.onnx").graph.output
    assert (output.name, shape(output)) == (name, want)


# --- Names and words ------------------------------------------------------------------------------


@needs_onnx
def test_everything_is_named_by_timm_s_module_paths(tmp_path):
    model = tiny.model("se")
    export_onnx(model, tmp_path / "a.onnx", dynamic_size=True)
    graph = read(tmp_path / "a.onnx").graph
    nodes = [node.name for node in graph.node]
    assert [name for name in nodes if "stages" not in name] == [
        "stem.reparam_conv", "stem.attn/GlobalAveragePool", "stem.attn.fc1", "stem.attn.act",
        "stem.attn.fc2", "stem.attn.gate", "stem.attn", "stem.act",
        "head.global_pool/GlobalAveragePool", "head.global_pool", "head.fc",
    ]  # fmt: skip
    tensors = [node.output[0] for node in graph.node]
    assert {block.spec.name for block in model.network.blocks} <= set(tensors)
    assert tensors[-1] == "logits"
    assert len(set(nodes)) == len(nodes)
    assert {c.name for c in graph.initializer} == set(model.state_dict())


@needs_onnx
@pytest.mark.parametrize("name", [*tiny.NETWORKS])
def test_weights_have_the_names_and_values_of_the_state_dict(name, tmp_path):
    from onnx.numpy_helper import to_array

    model = tiny.model(name)
    export_onnx(model, tmp_path / "a.onnx", dynamic_size=True)
    proto = read(tmp_path / "a.onnx")
    kept = {c.name: to_array(c) for c in proto.graph.initializer}
    for key, array in model.state_dict().items():
        if ".spatial.conv." not in key:  # whose batch norm is folded
            np.testing.assert_array_equal(kept[key], array, strict=True)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


@needs_onnx
def test_one_class_ends_in_a_sigmoid(tmp_path, rng):
    from onnx.reference import ReferenceEvaluator

    model = tiny.model(changes={"num_classes": 1}, dtype="float64")
    export_onnx(model, tmp_path / "a.onnx", dynamic_size=True, softmax=True)
    x = tiny.photos(model, rng, dtype=np.float64)
    (got,) = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(["probabilities"], {"x": x})
    np.testing.assert_allclose(got, ops.probabilities(model(x)), rtol=1e-12)
    assert (got < 0.99).all()


@needs_onnx
def test_every_map_of_every_block_can_be_read_by_its_name(tmp_path, rng):
    from onnx.reference import ReferenceEvaluator

    model = tiny.model("groups", dtype="float64")
    export_onnx(model, tmp_path / "a.onnx", dynamic_size=True)
    x = tiny.photos(model, rng, dtype=np.float64)
    want = tiny.answers(model, x)
    want["head.global_pool"] = want.pop("pooled")
    got = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(list(want), {"x": x})
    assert tiny.first_wrong(dict(zip(want, got, strict=True)), want) == ""


@needs_onnx
def test_a_converted_file_says_what_it_is(source, tmp_path):
    _, done = convert_to_onnx(source, tmp_path / "a.onnx", fold_dtype="float32")
    said = metadata(tmp_path / "a.onnx")
    assert said == done.metadata
    assert said["npvgg.version"] == npvgg.__version__
    assert said["npvgg.model"] == "repvgg_nano"
    assert said["npvgg.source"] == source.name
    assert said["npvgg.source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert said["npvgg.fold"] == "float32"
    assert "npvgg.labels" not in said  # nobody said that its ten classes are those of CIFAR-10
    assert json.loads(said["npvgg.config"])["widths"] == list(NANO.widths)
    proto = read(tmp_path / "a.onnx")
    assert (proto.producer_name, proto.producer_version) == ("npvgg", npvgg.__version__)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 13)]


@needs_onnx
def test_a_folder_is_what_its_config_says(tmp_path):
    """As timm saves a fine-tuned network: nothing but config.json tells what it is."""
    names = ["ant", "bee", "cow", "dog", "elk"]
    config = {
        "architecture": "repvgg_a0", "model_args": tiny.keywords(), "label_names": names,
        "pretrained_cfg": {"tag": "mine", "input_size": [3, 20, 24], "mean": [0.25, 0.5, 0.75]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    held = tmp_path / "pytorch_model.bin"
    checkpoint.save_pth(held, tiny.tensors())
    for model in (None, "RepVGG-A0"):
        loaded, done = convert_to_onnx(
            tmp_path, tmp_path / "a.onnx", model=model, preprocess="uint8-nhwc", overwrite=True
        )
        assert loaded.config == tmp_path / "config.json"
        assert done.source == ("pixels", "uint8", ("N", 20, 24, 3))
        said = metadata(tmp_path / "a.onnx")
        assert said["npvgg.model"] == "repvgg_a0.mine"
        assert said["npvgg.source"] == held.name
        assert said["npvgg.source_sha256"] == hashlib.sha256(held.read_bytes()).hexdigest()
        assert json.loads(said["npvgg.labels"]) == names
        assert json.loads(said["npvgg.config"])["widths"] == [4, 8, 8, 12]
        means = read(tmp_path / "a.onnx").graph.initializer
        (mean,) = (c for c in means if c.name == "preprocess.mean")
        assert list(np.frombuffer(mean.raw_data, np.float32)) == [0.25, 0.5, 0.75]


@needs_onnx
def test_a_folder_of_another_network_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "repvgg_nano", "num_classes": 10}')
    checkpoint.save_safetensors(tmp_path / "model.safetensors", build.random_tensors(NANO, 0))
    with pytest.raises(ArgumentError, match="expected repvgg_nano, which the folder's config"):
        convert_to_onnx(tmp_path, tmp_path / "a.onnx", model="repvgg_a0")
    assert not (tmp_path / "a.onnx").exists()


@needs_onnx
def test_the_wrapper_says_which_weights_are_written(tmp_path):
    path = tmp_path / "a.pth"
    both = {k: build.random_tensors(NANO, i) for i, k in enumerate(("state_dict_ema", "model"))}
    saved = {k: torchwriter.state_dict(held, 999 * i) for i, (k, held) in enumerate(both.items())}
    path.write_bytes(torchwriter.zip_file(saved))
    for wrapper, want in ((None, "state_dict_ema"), ("model", "model")):
        loaded, _ = convert_to_onnx(path, tmp_path / "a.onnx", wrapper=wrapper, overwrite=True)
        assert loaded.key == want
        model = npvgg.create_model(weights=both[want], engine="reference")
        kept = {c.name: c.raw_data for c in read(tmp_path / "a.onnx").graph.initializer}
        assert kept == {name: array.tobytes() for name, array in model.state_dict().items()}


@needs_onnx
def test_labels_of_another_number_of_classes_are_left_out(tmp_path):
    arrays = build.random_tensors(NANO.with_changes(num_classes=7), 0)
    checkpoint.save_safetensors(tmp_path / "a.safetensors", arrays)
    convert_to_onnx(tmp_path / "a.safetensors", tmp_path / "a.onnx", model="repvgg_nano")
    assert "npvgg.labels" not in metadata(tmp_path / "a.onnx")


@needs_onnx
def test_a_converted_file_is_the_exported_model(source, tmp_path):
    """The float64 fold is rounded once; the same weights give the same graph, byte for byte."""
    convert_to_onnx(source, tmp_path / "a.onnx", dynamic_size=True)
    convert_to_onnx(source, tmp_path / "b.onnx", dynamic_size=True)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    model = npvgg.create_model(weights=source, engine="reference")
    export_onnx(model, tmp_path / "c.onnx", dynamic_size=True)
    assert read(tmp_path / "a.onnx").graph == read(tmp_path / "c.onnx").graph


@needs_onnx
@pytest.mark.parametrize("fold_dtype", ["float64", "float32"])
def test_both_folds_are_those_of_convert(source, tmp_path, fold_dtype):
    from onnx.numpy_helper import to_array

    convert(source, tmp_path / "a.safetensors", form="deploy", fold_dtype=fold_dtype)
    convert_to_onnx(source, tmp_path / "a.onnx", fold_dtype=fold_dtype)
    kept = {c.name: to_array(c) for c in read(tmp_path / "a.onnx").graph.initializer}
    want = checkpoint.load(tmp_path / "a.safetensors")
    assert kept.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(kept[name], array, strict=True)


@needs_onnx
def test_a_file_of_float64_is_rounded_once(tmp_path):
    from onnx.numpy_helper import to_array

    arrays = build.random_tensors(NANO, 0)
    arrays = {n: a.astype(np.float64) * (1 + 2**-30) for n, a in arrays.items()}
    checkpoint.save_safetensors(tmp_path / "a.safetensors", arrays)
    convert_to_onnx(tmp_path / "a.safetensors", tmp_path / "a.onnx")
    exact = npvgg.create_model(weights=tmp_path / "a.safetensors", dtype="float64").state_dict()
    for constant in read(tmp_path / "a.onnx").graph.initializer:
        want = exact[constant.name].astype(np.float32)
        np.testing.assert_array_equal(to_array(constant), want, strict=True)


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "match"),
    [
        ("a.onnx", {"preprocess": "uint8"}, "preprocess: expected one of uint8-nhwc"),
        ("a.pth", {}, r"target: expected a name in \.onnx"),
        ("there.onnx", {}, "there.onnx exists"),
    ],
)
def test_what_cannot_be_done_is_refused(target, options, match, tmp_path):
    (tmp_path / "there.onnx").write_bytes(b"old")
    with pytest.raises(ArgumentError, match=match):
        export_onnx(tiny.model(), tmp_path / target, **options)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_softmax_needs_classes_and_preprocessing_colours(tmp_path):
    with pytest.raises(ArgumentError, match="softmax: expected a network with a classifier"):
        export_onnx(tiny.model("embedding"), tmp_path / "a.onnx", softmax=True)
    model = tiny.model("identities-everywhere")
    with pytest.raises(ArgumentError, match="expected a network of 1 or 3 channels, got 4"):
        export_onnx(model, tmp_path / "a.onnx", preprocess="uint8-nhwc")
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_file_holds_is_refused(tmp_path):
    model = tiny.model()
    huge = np.broadcast_to(np.float32(0), (2**26, 12))  # 3 GiB on paper
    network = replace(model.network, head=Head("avg", huge, huge[:, 0]))
    model = RepVGG("huge", model.config, network, model.pretrained_cfg, engine="reference")
    with pytest.raises(ArgumentError, match=r"at most 2,130,706,432 bytes .* head\.fc\.weight"):
        export_onnx(model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_error_says_what_to_install(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for write in (
        lambda: export_onnx(tiny.model(), tmp_path / "a.onnx"),
        lambda: convert_to_onnx(source, tmp_path / "a.onnx"),
    ):
        with pytest.raises(ArgumentError, match=r"pip install onnx` \(npvgg's extra \[onnx\]\)"):
            write()
    assert not (tmp_path / "a.onnx").exists()


@needs_onnx
@pytest.mark.parametrize(
    "words",
    [{"input_size": 3}, {"mean": [1, 2]}, {"label_names": ["a"]}, {"label_names": [1] * 10}],
    ids=str,
)
def test_a_file_whose_metadata_lie_is_refused(words, tmp_path):
    """As `create_model` refuses it: whatever the ONNX file would say has been checked."""
    path, said = tmp_path / "a.safetensors", {"npvgg.pretrained_cfg": json.dumps(words)}
    checkpoint.save_safetensors(path, build.random_tensors(NANO, 0), said)
    with pytest.raises(WeightsError, match=rf"^{path}: {next(iter(words))}: expected"):
        convert_to_onnx(path, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


# --- The command ----------------------------------------------------------------------------------


@needs_onnx
def test_the_command(source, tmp_path, capfd):
    target = tmp_path / "out.onnx"
    arguments = ["convert", str(source), str(target)]
    arguments += ["--softmax", "--dynamic-size", "--preprocess", "uint8-nhwc"]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "repvgg_nano, ONNX opset 13, pixels uint8 N×H×W×3 → probabilities float32 N×10" in err
    assert "folded in float64" in err
    assert main(arguments) == 2
    assert "exists" in capfd.readouterr().err
    assert main([*arguments, "--force", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("target", "arguments", "match"),
    [
        ("a.onnx", ["--form", "train"], "--form: expected deploy for .onnx, got train"),
        ("a.onnx", ["--dtype", "f16"], "--dtype: expected float32 for .onnx, got float16"),
        ("a.onnx", ["--naming", "original"], "--naming: only for .safetensors and .pth"),
        ("a.pth", ["--softmax"], "--softmax: only for .onnx"),
        ("a.pth", ["--dynamic-size"], "--dynamic-size: only for .onnx"),
        ("a.pth", ["--preprocess", "uint8-nchw"], "--preprocess: only for .onnx"),
    ],
)
def test_options_of_another_format_are_refused(source, tmp_path, capfd, target, arguments, match):
    assert main(["convert", str(source), str(tmp_path / target), *arguments]) == 2
    assert match in capfd.readouterr().err
    assert not (tmp_path / target).exists()
