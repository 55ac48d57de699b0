"""ONNX graphs, run by ONNX Runtime with every tensor exposed: right, folded, nameless, faulty."""

import json
from functools import partial

import numpy as np
import pytest

from npvgg.cli.main import main
from npvgg.errors import ArgumentError
from npvgg.testing import compare, conformance_pack
from npvgg.testing.comparison import factories, runners

onnx = pytest.importorskip("onnx", reason="onnx is not installed: nothing to compare with")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to compare with")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

pytestmark = pytest.mark.cross
quick = partial(compare, diagnosis=False)


# --- Graphs by hand: every convolution of the deploy form, as anyone exports it -------------------


def graph(pack, fault=None, free=False, last=False, name=lambda place: place):
    """The pack's network in deploy form as an ONNX model, and the names of its tensors.

    fault: changes a block's nodes      free: any height and width      last: NHWC at its ends
    """
    network, x = pack.network("deploy").astype(np.float32), pack.tensor("input")
    nodes, weights, tip = [], [], "x"
    if last:
        nodes.append(helper.make_node("Transpose", ["x"], ["x.nchw"], perm=[0, 3, 1, 2]))
        tip = "x.nchw"
    for i, block in enumerate(network.blocks):
        spec, form = block.spec, block.form
        weights += [numpy_helper.from_array(form.weight, f"w{i}")]
        weights += [numpy_helper.from_array(form.bias, f"b{i}")]
        pads = {"pads": [spec.dilation] * 4}
        made = [
            helper.make_node(
                "Conv", [tip, f"w{i}", f"b{i}"], [name(f"{spec.name}.reparam_conv")],
                strides=[spec.stride] * 2, dilations=[spec.dilation] * 2, group=spec.groups, **pads,
            ),
            helper.make_node("Relu", [name(f"{spec.name}.reparam_conv")], [name(spec.name)]),
        ]  # fmt: skip
        nodes += fault(spec.name, made) if fault else made
        tip = name(spec.name)
    weights += [numpy_helper.from_array(network.head.weight, "fc.w")]
    weights += [numpy_helper.from_array(network.head.bias, "fc.b")]
    nodes += [
        helper.make_node("GlobalAveragePool", [tip], ["pool4"]),
        helper.make_node("Flatten", ["pool4"], [name("pool")]),
        helper.make_node("Gemm", [name("pool"), "fc.w", "fc.b"], [name("logits")], transB=1),
    ]
    n, c, h, w = x.shape
    size = ["h", "w"] if free else [h, w]
    shape = [n, *size, c] if last else [n, c, *size]
    made = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name("logits"), TensorProto.FLOAT, [n, 5])],
        weights,
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def saved(tmp_path):
    def saved(model):
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return saved


@pytest.mark.parametrize("tiny", ["tiny", "tiny_g2", "tiny_dilated"])
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_every_block_of_a_graph_is_found_and_right(saved, tiny, form):
    pack = conformance_pack(tiny, form=form)
    report = quick(saved(graph(pack)), pack, complete=True)
    assert report.ok, str(report)
    assert report.match.how == "name"
    assert max(row.measured.share for row in report.rows) < 0.3


@pytest.mark.parametrize("options", [{"free": True}, {"last": True}], ids=["free", "NHWC"])
def test_a_graph_of_any_size_or_with_channels_last(saved, options):
    pack = conformance_pack("tiny")
    assert quick(saved(graph(pack, **options)), pack, complete=True).ok


def test_a_graph_that_declares_but_its_channels_or_nothing(saved):
    pack = conformance_pack("tiny")
    model = graph(pack, free=True, last=True)
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for size in ("n", "h", "w", 3):  # as tf2onnx writes it
        dim = model.graph.input[0].type.tensor_type.shape.dim.add()
        setattr(dim, "dim_value" if size == 3 else "dim_param", size)
    assert quick(saved(model), pack, complete=True).ok
    model = graph(pack)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert quick(saved(model), pack, complete=True).ok


def test_a_graph_that_takes_bytes_is_told_so(tmp_path):
    pack = conformance_pack("tiny")
    pack.write(tmp_path / "pack")
    weights, path = tmp_path / "pack" / "weights.deploy.safetensors", tmp_path / "a.onnx"
    options = ["--preprocess", "uint8-nhwc", "--dynamic-size"]
    assert main(["convert", str(weights), str(path), *options]) == 0
    with pytest.raises(ArgumentError, match="is floating-point: export without --preprocess"):
        quick(path, pack)


def test_a_graph_without_names_is_matched_by_shape(saved):
    names = iter(range(1000))
    table = {}

    def nameless(place):
        return table.setdefault(place, f"t{next(names)}")

    pack = conformance_pack("tiny", level="branch", form="deploy")
    report = quick(saved(graph(pack, name=nameless)), pack, complete=True)
    assert report.match.how == "shape"
    assert report.ok, str(report)
    del table["pool"]  # pooled before and after Flatten: one tensor of two shapes
    assert report.match.names | table == report.match.names


def without_padding_on_the_left(place, nodes):
    if place == "stages.0.1":
        pads = next(a for a in nodes[0].attribute if a.name == "pads")
        pads.ints[:] = [0, 0, 2, 2]
    return nodes


def without_a_relu(place, nodes):
    if place == "stages.1.0":
        nodes[1].op_type = "Identity"
    return nodes


@pytest.mark.parametrize(
    ("fault", "first"),
    [(without_padding_on_the_left, "stages.0.1"), (without_a_relu, "stages.1.0")],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_fault_in_a_graph_is_named(saved, fault, first, named):
    pack = conformance_pack("tiny")
    name = {"name": (lambda place: place) if named else (lambda place: f"t{hash(place)}")}
    report = quick(saved(graph(pack, fault, **name)), pack)
    assert report.first_wrong.name == first


@pytest.mark.parametrize("named", [True, False])
def test_the_graphs_output_is_compared_and_not_the_logits_behind_it(saved, named):
    pack = conformance_pack("tiny")
    model = graph(pack, name=(lambda place: place) if named else (lambda place: f"t{hash(place)}"))
    logits = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Softmax", [logits], ["p"]))
    model.graph.output[0].name = "p"
    report = quick(saved(model), pack)
    assert (report.first_wrong.name, report.first_wrong.theirs) == ("logits", "p")
    assert f"'{logits}', inside the network, is the logits" in str(report)
    model.graph.node.append(helper.make_node("ArgMax", ["p"], ["best"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, None))
    report = quick(saved(model), pack)
    assert "the graph returns 'best', which is no array of floating-point numbers" in str(report)


def test_the_command_runs_it(saved, tmp_path, capfd):
    pack = conformance_pack("tiny")
    pack.write(tmp_path / "pack")
    arguments = ["compare", str(tmp_path / "pack"), "--onnx"]
    assert main([*arguments, str(saved(graph(pack))), "--json", "--all"]) == 0
    assert json.loads(capfd.readouterr().out)["ok"]
    assert main([*arguments, str(saved(graph(pack, without_a_relu)))]) == 1
    assert "wrong from stages.1.0 on" in capfd.readouterr().out


def test_the_graphs_own_outputs_are_from_an_untouched_run(saved, monkeypatch):
    pack = conformance_pack("tiny")
    asked = []
    run = runners._session_run

    def watched(model, outputs, feed):
        asked.append((len(model.graph.output), tuple(outputs)))
        return {n: a + len(asked) for n, a in run(model, outputs, feed).items()}

    monkeypatch.setattr(runners, "_session_run", watched)
    arrays = runners.run_onnx(saved(graph(pack)), pack.tensor("input")).arrays
    assert asked[0] == (1, ("logits",))
    assert asked[1][0] > 1
    assert abs(arrays["logits"] - pack.tensor("logits") - 1).max() < 1e-4
    assert abs(arrays["stem"] - pack.tensor("stem") - 2).max() < 1e-4


def test_what_cannot_be_run_is_one_error(saved, tmp_path):
    pack = conformance_pack("tiny")
    model = graph(pack)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ArgumentError, match="expected an ONNX model"):
        quick(tmp_path / "text.onnx", pack)
    with pytest.raises(ArgumentError, match=r"takes \[1, 3, 18, 18\] .* input is \[1, 3, 20, 20\]"):
        quick(saved(model), conformance_pack("tiny", size=20))
    del model.graph.node[3]
    with pytest.raises(ArgumentError, match="ONNX Runtime"):
        quick(saved(model), pack)
    two = graph(pack)
    two.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
    with pytest.raises(ArgumentError, match="one input, got 2"):
        quick(saved(two), pack)


# --- Graphs by PyTorch's exporter -----------------------------------------------------------------


def exported(module, x, path):
    """By the exporter that needs no other package; it folds batch norms into convolutions."""
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export with")
    torch.onnx.export(module.eval(), torch.from_numpy(x), path, dynamo=False, opset_version=17)
    return path


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
@pytest.mark.parametrize("level", ["block", "branch"])
@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
def test_timms_network_exported_by_torch(tmp_path, deploy, level):
    pytest.importorskip("timm", reason="timm is not installed: nothing to export")
    from tests.oracles import timm_peer

    keywords = {
        "depths": (1, 2, 2, 1),
        "widths": (16, 24, 32, 40),
        "stem_chs": 16,
        "num_classes": 9,
    }
    source = conformance_pack("repvgg_a0", level="branch", size=32, **keywords)
    module = timm_peer.network("repvgg_a0", **keywords).to_empty(device="cpu")
    factories.give_weights(module, source)
    if deploy:
        module = timm_peer.deployed(module)
    path = exported(module, source.tensor("input"), tmp_path / "timm.onnx")
    form = "deploy" if deploy else "train"
    pack = conformance_pack("repvgg_a0", level=level, form=form, size=32, **keywords)
    report = quick(path, pack)
    assert report.ok, str(report)
    assert report.match.how == "name"
    missing = [row.name for row in report.rows if row.status == "missing"]
    assert missing == []
