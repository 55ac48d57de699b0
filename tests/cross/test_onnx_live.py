"""ONNX files in ONNX Runtime against npvgg: every map of every block, and what the file ends with.

Each block is judged alone, as in `npvgg verify`: npvgg's block in float64 is given the map that
ONNX Runtime had before it, and ONNX Runtime may be off by what onnxbounds.py derives from the
file's own graph: the roundings of its sums in any order, and those of its functions. So the bound
is as tight in the last block as in the first, and neither large maps nor answers that cancel are
special. It is about 1e-5 of the largest value, at most 2e-3; what is found is below a third of it.
"""

import numpy as np
import pytest
import tiny
from scipy import special

import npvgg
from npvgg import ops
from npvgg.config import ACT_LAYERS, ATTN_LAYERS
from npvgg.engines.reference import forward_block, forward_head
from npvgg.export import PREPROCESSINGS, export_onnx
from npvgg.export.layers import ACTIVATIONS
from npvgg.variants import VARIANTS
from npvgg.weights.build import random_tensors
from tests.oracles import formula
from tests.oracles.bounds import assert_within

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no files to compare")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: nothing to compare with"
)

from tests.oracles.onnxbounds import FUNCTION, SLOPES, U, graph_bounds  # noqa: E402 - it needs onnx

pytestmark = pytest.mark.cross


def session(data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def runtime_answers(proto, blocks, given):
    """What ONNX Runtime gives: every block's map, and the file's result.

    The result is that of the file as it is: looking at the maps may not change a bit of it.
    """
    (result,) = (output.name for output in proto.graph.output)
    (want,) = session(proto.SerializeToString()).run(None, given)
    for name in set(blocks) - {result}:
        kind = onnx.TensorProto.FLOAT
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    names = [output.name for output in proto.graph.output]
    said = dict(zip(names, session(proto.SerializeToString()).run(names, given), strict=True))
    np.testing.assert_array_equal(said[result], want, strict=True)
    return said


def compare(tmp_path, keywords, x, name="repvgg_a0", seed=0, **options):
    config = VARIANTS[name].with_changes(**keywords)
    given = {"weights": random_tensors(config, seed), "engine": "reference", **keywords}
    own = npvgg.create_model(name, **given)
    export_onnx(own, tmp_path / "a.onnx", dynamic_size=True, **options)
    truth = npvgg.create_model(name, dtype="float64", **given)
    assert_near(onnx.load(tmp_path / "a.onnx"), truth, {"x": x}, x)


def assert_near(proto, model, given, x, end=lambda y: y):
    """Every block and the head are within their bounds, each given what the runtime had before it.

    given: the file's input      x: what npvgg's network reads      end: what follows the head
    """
    blocks = {block.spec.name: block for block in model.network.blocks}
    x = x.astype(np.float64)
    (result,) = (output.name for output in proto.graph.output)
    if result == "features":  # nothing follows the last block: its map bears that name
        blocks[result] = blocks.pop(list(blocks)[-1])
    graph = onnx.ModelProto.FromString(proto.SerializeToString())
    said = runtime_answers(proto, blocks, given)
    allowed = graph_bounds(graph, given, said)
    for name, block in blocks.items():
        assert said[name].dtype == np.float32
        assert_within(said[name], forward_block(block, x), allowed[name])
        x = said[name].astype(np.float64)
    if result != "features":
        assert_within(said[result], end(forward_head(model.network.head, x)[1]), allowed[result])


FUNCTIONS = {
    "Sigmoid": special.expit,
    "Tanh": np.tanh,
    "Erf": special.erf,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "Selu": ops.selu,
}


@pytest.mark.parametrize("kind", SLOPES)
def test_the_runtime_computes_functions_as_well_as_the_bounds_suppose(kind):
    x = np.linspace(-20, 20, 100_001).astype(np.float32)
    x = np.concatenate([x, x / 1000, np.float32([0, -1e-8, 1e-30, -90, 90])])
    helper = onnx.helper
    ends = [[helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [len(x)])] for n in "xy"]
    options = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805} if kind == "Selu" else {}
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], **options)], kind, *ends)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    (y,) = session(proto.SerializeToString()).run(None, {"x": x})
    truth = FUNCTIONS[kind](x.astype(np.float64))
    assert (abs(y - truth) <= FUNCTION * U * np.maximum(1, abs(truth))).all()


@pytest.mark.parametrize("fault", ["the last weights", "the first weights", "an activation"])
def test_a_planted_fault_is_seen(fault, tmp_path, rng, monkeypatch):
    """Weights off by 2⁻¹², as those of TF32 are; a gate that is a little too steep."""
    given = tiny.keywords("ese-hard-swish") | {"engine": "reference"}
    x, tensors = tiny.images(rng, 2, dtype=np.float32), tiny.tensors("ese-hard-swish")
    truth = npvgg.create_model("repvgg_a0", weights=tensors, dtype="float64", **given)
    name = {"the last weights": "head.fc.weight", "the first weights": "stem.conv_kxk.bn.weight"}
    if fault in name:
        tensors[name[fault]] = tensors[name[fault]] * np.float32(1 + 2**-12)
    else:
        steep = lambda m, x: m("HardSigmoid", x, alpha=0.1667, beta=0.5)  # noqa: E731
        monkeypatch.setitem(ACTIVATIONS, "hard_sigmoid", steep)
    own = npvgg.create_model("repvgg_a0", weights=tensors, **given)
    export_onnx(own, tmp_path / "a.onnx", dynamic_size=True)
    with pytest.raises(AssertionError, match=r"error .*, bound"):
        assert_near(onnx.load(tmp_path / "a.onnx"), truth, {"x": x}, x)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_at_small_width(name, tmp_path):
    compare(tmp_path, {"width_factor": 0.125}, formula.images((2, 3, 40, 33)), name)


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_every_turn_of_the_road(name, tmp_path, rng):
    keywords = tiny.keywords(name)
    channels = keywords.get("in_chans", 3)
    compare(tmp_path, keywords, tiny.images(rng, 3, channels, dtype=np.float32))


@pytest.mark.parametrize("act_layer", ACT_LAYERS)
def test_every_activation(act_layer, tmp_path, rng):
    x = tiny.images(rng, 2, height=24, width=31, dtype=np.float32)
    compare(tmp_path, tiny.keywords(act_layer=act_layer), x)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("attn_layer", ATTN_LAYERS)
def test_every_attention_layer(attn_layer, after, tmp_path, rng):
    x = tiny.images(rng, 2, height=24, width=31, dtype=np.float32)
    compare(tmp_path, tiny.keywords(attn_layer=attn_layer, attn_after_act=after), x)


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_every_pooling(pool, num_classes, tmp_path, rng):
    x = tiny.images(rng, 2, height=24, width=31, dtype=np.float32)
    compare(tmp_path, tiny.keywords(global_pool=pool, num_classes=num_classes), x)


@pytest.mark.parametrize("seed", range(30))
def test_random_configurations(seed, tmp_path):
    rng = np.random.default_rng(seed)
    stages = int(rng.integers(1, 6))
    choices = {
        "groups": [1, 2, 4, 8],
        "stem_chs": [8, 12, 20],
        "stem_stride": [1, 2],
        "in_chans": [1, 3, 8],
        "num_classes": [0, 1, 7],
        "output_stride": [8, 16, 32],
        "global_pool": ["avg", "max", "avgmax", "catavgmax"],
        "act_layer": ACT_LAYERS,
        "attn_layer": [None, *ATTN_LAYERS],
        "attn_after_act": [False, True],
    }
    keywords = {key: values[rng.integers(len(values))] for key, values in choices.items()}
    for key, low, high, unit in (("depths", 1, 4, 1), ("widths", 1, 4, 8), ("strides", 1, 2, 1)):
        keywords[key] = tuple((rng.integers(low, high + 1, stages) * unit).tolist())
    n, h, w = int(rng.integers(1, 4)), *rng.integers(1, 60, 2).tolist()
    compare(tmp_path, keywords, formula.images((n, keywords["in_chans"], h, w)), seed=seed)


# --- The ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn_layer", [None, *ATTN_LAYERS])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_any_number_of_images_of_the_fixed_size(n, attn_layer, tmp_path, rng):
    own, truth = (
        npvgg.create_model("repvgg_nano", attn_layer=attn_layer, engine="reference", dtype=dtype)
        for dtype in ("float32", "float64")
    )
    export_onnx(own, tmp_path / "a.onnx")
    proto = onnx.load(tmp_path / "a.onnx")
    x = rng.standard_normal((n, 3, 32, 32)).astype(np.float32)
    if n:
        assert_near(proto, truth, {"x": x}, x)
    else:
        (got,) = session(proto.SerializeToString()).run(None, {"x": x})
        assert got.shape == (0, 10)


def test_another_size_than_the_fixed_one_is_refused_by_the_runtime(tmp_path):
    export_onnx(npvgg.create_model("repvgg_nano", engine="reference"), tmp_path / "a.onnx")
    x = np.zeros((1, 3, 40, 40), np.float32)
    run = session((tmp_path / "a.onnx").read_bytes()).run
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(None, {"x": x})


@pytest.mark.parametrize("how", PREPROCESSINGS)
def test_photos_become_the_probabilities_of_npvgg(how, tmp_path, rng):
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, engine="reference")
    export_onnx(model, tmp_path / "a.onnx", preprocess=how, softmax=True)
    kind, _, order = how.partition("-")
    pixels = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    transform = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(model))
    x = np.stack([transform(photo) for photo in pixels])
    given = pixels if order == "nhwc" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    given = given if kind == "uint8" else given.astype(np.float32)
    truth = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, dtype="float64")
    proto = onnx.load(tmp_path / "a.onnx")
    assert_near(proto, truth, {"pixels": given}, x, lambda y: ops.softmax(y, axis=1))
