"""The usual suspects, run by hooks: timm's modules and the original's, right and with a fault."""

import importlib
import json
import sys
from functools import partial

import numpy as np
import pytest

from npvgg.cli.main import main
from npvgg.errors import ArgumentError
from npvgg.testing import compare, conformance_pack
from npvgg.testing.comparison import factories

timm = pytest.importorskip("timm", reason="timm is not installed: nothing to compare with")
torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")

from tests.oracles import original_peer, timm_peer  # noqa: E402 - they need torch

pytestmark = pytest.mark.cross
quick = partial(compare, diagnosis=False)
torch.set_num_threads(1)

ORIGINAL = original_peer.published()
needs_original = pytest.mark.skipif(
    ORIGINAL is None,
    reason=f"the original is not here: {original_peer.VARIABLE} names no checkout of it",
)

NARROW = {"widths": (16, 24, 32, 40), "stem_chs": 16, "num_classes": 11}
KEYWORDS = {
    "plain": {"depths": (2, 3, 2, 1)},
    "groups": {"depths": (2, 3, 2, 1), "groups": 4},
    "dilated": {"depths": (1, 2, 2, 2), "output_stride": 8},
    "se": {"depths": (1, 2, 1, 1), "attn_layer": "se"},
    "silu-eca": {"depths": (1, 1, 2, 1), "act_layer": "silu", "attn_layer": "eca"},
}


def pack_of(name, level="op", form=None):
    return conformance_pack(
        "repvgg_a0", level=level, form=form, size=40, **NARROW, **KEYWORDS[name]
    )


def timms(name, pack, deploy=False):
    """Timm's network with the pack's weights; in train form it is folded by timm itself."""
    module = timm_peer.network("repvgg_a0", **NARROW, **KEYWORDS[name]).to_empty(device="cpu")
    for buffer in module.buffers():
        buffer.data.zero_()
    assert factories.give_weights(module, pack) == "in train form"
    return timm_peer.deployed(module) if deploy else module


@pytest.mark.parametrize("name", KEYWORDS)
def test_every_tensor_of_timms_is_found_and_right(name):
    pack = pack_of(name)
    report = quick(timms(name, pack), pack, complete=True)
    assert report.ok, str(report)
    assert report.match.how == "name"
    assert max(row.measured.share for row in report.rows) < 0.2


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_timms_folded_network_is_right_in_the_pack_of_either_form(form):
    pack = pack_of("groups", "branch", form)
    report = quick(timms("groups", pack_of("groups"), deploy=True), pack)
    assert report.ok, str(report)
    missing = {row.name.rpartition(".")[2] for row in report.rows if row.status == "missing"}
    assert missing == ({"bn", "identity"} if form == "train" else set())


def test_a_fault_in_timms_network_is_named():
    pack = pack_of("plain")
    module = timms("plain", pack)
    module.stages[1][1].identity.eps = 1e-2
    report = quick(module, pack)
    assert report.first_wrong.name == "stages.1.1.identity"
    module = timms("plain", pack)
    module.stages[1][0].conv_1x1.conv.weight.data.mul_(1.001)
    assert quick(module, pack).first_wrong.name == "stages.1.0.conv_1x1.conv"
    block = quick(module, pack_of("plain", "block"))
    assert block.first_wrong.name == "stages.1.0"


def test_half_precision_is_not_good_enough():
    pack = pack_of("plain", "block")
    assert quick(timms("plain", pack).bfloat16(), pack).first_wrong.name == "stem"


def test_a_module_is_watched_and_left_as_it_was():
    pack = pack_of("plain", "block")
    module = timms("plain", pack).train()
    module.stages[0].eval()
    modes = [part.training for part in module.modules()]
    report = quick(module, pack)
    assert report.ok
    assert "the module was in training mode" in str(report)
    assert [part.training for part in module.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    counter = module.stem.conv_kxk.bn.num_batches_tracked
    assert counter.item() == 0  # batch statistics were not collected
    assert quick(module.eval(), pack).notes == ()


class Wrapped(torch.nn.Module):
    """A network whose users see something else than it computes."""

    def __init__(self, model, end):
        super().__init__()
        self.model, self.end = model, end

    def forward(self, x):
        return self.end(self.model(x))


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda y: y.roll(1, 1) * 3, "wrong"),
        (lambda y: y.softmax(1), "wrong"),
        (lambda y: [y * 2], "wrong"),
        (lambda y: {"top": y.argmax(1), "scores": y.softmax(1)}, "wrong"),
        (lambda y: y[:, :4], "wrong shape"),
    ],
)
def test_what_a_module_returns_is_compared_and_not_what_is_right_inside(end, status):
    pack = pack_of("plain", "block")
    report = quick(Wrapped(timms("plain", pack), end), pack)
    assert (report.first_wrong.name, report.first_wrong.status) == ("logits", status)
    assert "'model.head.fc', inside the network, is the logits" in str(report)


def test_what_a_module_returns_may_be_the_logits_among_others():
    pack = pack_of("plain", "block")
    module = timms("plain", pack)
    assert quick(Wrapped(module, lambda y: y).eval(), pack, complete=True).notes == ()
    report = quick(Wrapped(module, lambda y: (y, y.softmax(1))).eval(), pack, complete=True)
    assert report.ok
    assert report.notes == ("1 tensor that it returns is compared with nothing: 'output[1]'",)
    mapped = quick(Wrapped(module, lambda y: y * 2).eval(), pack, by={"model.head.fc": "logits"})
    assert mapped.ok
    assert mapped.notes == ("1 tensor that it returns is compared with nothing: 'output'",)


def test_what_is_returned_in_a_strange_box_is_not_passed_over_in_silence():
    pack = pack_of("plain", "block")
    module = timms("plain", pack)
    boxed = quick(Wrapped(module, lambda y: {y * 2}).eval(), pack)
    assert boxed.ok
    (note,) = boxed.notes
    assert note.startswith("no tensor of numbers was found in what it returns (set)")
    assert quick(Wrapped(module, lambda y: (y, y > 0)).eval(), pack).notes == ()


def test_the_command_gives_timm_the_packs_weights(tmp_path, capfd):
    pack = conformance_pack("repvgg_a0", size=32)
    pack.write(tmp_path / "pack")
    arguments = ["compare", str(tmp_path / "pack"), "--torch", "timm:create_model:repvgg_a0"]
    assert main([*arguments, "--load-weights", "--all"]) == 0
    out, err = capfd.readouterr()
    assert "given the pack's weights, in train form" in err
    assert "right: each of 25 tensors" in out
    assert main([*arguments, "--no-diagnosis"]) == 1  # timm's own random weights
    out, err = capfd.readouterr()
    assert "wrong from stem on" in out
    assert "--load-weights" in err


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_factory_in_the_current_folder(tmp_path, monkeypatch, capfd):
    (tmp_path / "my_port.py").write_text(
        "import torch\n"
        "def make():\n    return torch.nn.Conv2d(3, 8, 3, 2, 1)\n"
        "def broken():\n    return 1 / 0\n"
        "def narrow():\n    return torch.nn.Conv2d(4, 8, 3)\n"
        "def scripted():\n    return torch.jit.trace(make(), torch.zeros(1, 3, 9, 9))\n"
    )
    monkeypatch.chdir(tmp_path)
    conformance_pack("tiny").write("pack")
    path = list(sys.path)
    try:
        assert main(["compare", "pack", "--torch", "my_port:make"]) == 1
        assert "wrong shape 1×8×9×9" in capfd.readouterr().out  # taken for the logits
        assert main(["compare", "pack", "--torch", "my_port:make", "--load-weights"]) == 2
        assert "expected the tensors of tiny in train form" in capfd.readouterr().err
        assert main(["compare", "pack", "--torch", "my_port:broken"]) == 2
        assert "ZeroDivisionError" in capfd.readouterr().err
        assert main(["compare", "pack", "--torch", "my_port:narrow"]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "expected a torch module that takes [1, 3, 18, 18], got RuntimeError: " in line
        assert main(["compare", "pack", "--torch", "my_port:scripted"]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "expected a torch module that hooks can watch, got a scripted one" in line
    finally:
        sys.modules.pop("my_port", None)
        importlib.invalidate_caches()
    assert sys.path == path


class Own(torch.nn.Module):
    """The tiny network as somebody writes it: own names, the 1×1 first, train() without a value."""

    class Block(torch.nn.Module):
        def __init__(self, c, k, stride):
            super().__init__()
            self.point = torch.nn.Sequential(
                torch.nn.Conv2d(c, k, 1, stride, bias=False), torch.nn.BatchNorm2d(k)
            )
            self.dense = torch.nn.Sequential(
                torch.nn.Conv2d(c, k, 3, stride, 1, bias=False), torch.nn.BatchNorm2d(k)
            )
            self.skip = torch.nn.BatchNorm2d(k) if c == k and stride == 1 else None

        def forward(self, x):
            y = self.dense(x) + self.point(x)
            return y if self.skip is None else y + self.skip(x)

    def __init__(self):
        super().__init__()
        shapes = [(3, 8, 2), (8, 8, 1), (8, 8, 1), (8, 12, 2), (12, 12, 1)]
        self.layers = torch.nn.ModuleList(Own.Block(*shape) for shape in shapes)
        self.last = torch.nn.Linear(12, 5)

    def train(self, mode=True):
        super().train(mode)

    def eval(self):
        self.train(False)

    def forward(self, x):
        print("a module may say what it likes")
        for layer in self.layers:
            x = layer(x).relu()
        return self.last(x.mean((2, 3)))


def test_a_module_with_names_of_its_own_is_given_the_weights_by_order_and_shapes():
    pack, module = conformance_pack("tiny"), Own()
    how = factories.give_weights(module, pack)
    assert how == "in train form, in the order of its tensors, by their shapes"
    report = quick(module, pack)
    assert report.ok, str(report)
    assert "logits" in report.match.names
    names = {
        f"layers.{i}.{our}.{part}": f"{block}.{branch}.{part}"
        for i, block in enumerate(["stem", "stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"])
        for our, branch in (
            ("point.0", "conv_1x1.conv"), ("point.1", "conv_1x1.bn"), ("dense.0", "conv_kxk.conv"),
            ("dense.1", "conv_kxk.bn"), ("skip", "identity"),
        )
        for part in ("weight", "bias", "running_mean", "running_var")
        if f"layers.{i}.{our}.{part}" in module.state_dict()
    } | {"last.weight": "head.fc.weight", "last.bias": "head.fc.bias"}  # fmt: skip
    again = Own()
    assert factories.give_weights(again, pack, names) == "in train form"
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    del names["last.bias"]
    with pytest.raises(ArgumentError, match="say which is which"):
        factories.give_weights(Own(), pack, names)


def test_what_a_module_prints_is_no_part_of_the_report(tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loud.py").write_text(
        "import test_compare_torch\nprint('imported')\nmake = test_compare_torch.Own\n"
    )
    conformance_pack("tiny").write(tmp_path / "pack")
    arguments = ["compare", str(tmp_path / "pack"), "--torch", "loud:make", "--load-weights"]
    assert main([*arguments, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["ok"]
    assert "a module may say what it likes" in err


def test_other_weights_are_not_loaded_by_halves():
    module = timm_peer.network("repvgg_a0", **NARROW, depths=(2, 3, 2, 2)).to_empty(device="cpu")
    with pytest.raises(ArgumentError, match="names are only in one"):
        factories.give_weights(module, pack_of("plain", "block"))
    wide = timm_peer.network(
        "repvgg_a0", **{**NARROW, "num_classes": 12}, depths=(2, 3, 2, 1)
    ).to_empty(device="cpu")
    with pytest.raises(ArgumentError, match=r"head\.fc\.weight: expected"):
        factories.give_weights(wide, pack_of("plain", "block"))


# --- The original ---------------------------------------------------------------------------------


def originals(name, pack, scale):
    module = original_peer.network(ORIGINAL, name, scale=scale, num_classes=11)
    module = module.to_empty(device="cpu")
    factories.give_weights(module, pack)
    return module


@needs_original
@pytest.mark.parametrize("name", ["RepVGG-A0", "RepVGG-B1g2", "RepVGG-D2se", original_peer.PLUS])
def test_every_tensor_of_the_originals_is_found_and_right(name):
    scale = 0.2 if "se" in name else 1 / 16  # see test_original_live.narrow
    shape = original_peer.keywords(
        original_peer.network(ORIGINAL, name, scale=scale, num_classes=11)
    )
    pack = conformance_pack(name, level="op", size=33, **shape)
    report = quick(originals(name, pack, scale), pack, complete=True)
    assert report.ok, str(report)
    assert max(row.measured.share for row in report.rows) < 0.2


@needs_original
def test_a_fault_in_the_originals_network_is_named():
    shape = original_peer.keywords(
        original_peer.network(ORIGINAL, "RepVGG-A0", scale=1 / 16, num_classes=11)
    )
    pack = conformance_pack("RepVGG-A0", level="op", size=33, **shape)
    module = originals("RepVGG-A0", pack, 1 / 16)
    module.stage2[3].rbr_identity.running_var.mul_(1.01)
    assert quick(module, pack).first_wrong.name == "stages.1.3.identity"
    np.testing.assert_equal(module.training, False)
