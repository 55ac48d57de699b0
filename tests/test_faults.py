"""The tests of the tests: faults planted in the code are seen by the oracle and by the goldens.

Each fault is one that a port of RepVGG can make, and most of them leave the shapes and the rough
size of the answers as they were. The oracle must find it, and say where it begins; PyTorch's
answers must find it, too, in a case of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import test_golden as golden
import tiny

from npvgg import attention, network, ops, reparam
from npvgg.engines import reference
from npvgg.weights import build

BOTH = ("train", "deploy")


@dataclass(frozen=True)
class Fault:
    """What is changed, in which tiny network and golden it shows, in which forms, where first.

    spares: a network without the turn of the road where the fault sits; it must stay right there,
    or the fault is another than its name says.
    """

    plant: tuple[tuple[object, str, Callable], ...]
    shows_in: str = "plain"
    golden: str = "input-2x3x45x37"
    forms: tuple[str, ...] = BOTH
    first: str = "stem"
    spares: str = ""


conv2d, batch_norm, branches = reparam.conv2d, reparam.batch_norm, reparam.Branches.__call__
forward_block, se, linear = reference.forward_block, attention.se, ops.linear


def conv2d_with(change):
    """A convolution whose (x, weight, options) are changed first."""

    def planted(x, weight, bias=None, **options):
        x, weight, options = change(x, weight, dict(options))
        return conv2d(x, weight, bias, **options)

    return ((reparam, "conv2d", planted),)


def fold_with(change):
    """A fold of a block whose branches are changed first."""
    true = reparam.reparameterize
    planted = {"float64": lambda form, *, groups: true(change(form), groups=groups)}
    return ((network, "FOLDS", network.FOLDS | planted),)


def eps(value):
    return ((build, "BatchNorm", lambda *arrays: reparam.BatchNorm(*arrays[:4], eps=value)),)


def identity_in_every_group(channels, groups):
    """K // groups where k mod (C/G) belongs: right for one group only."""
    kernel = np.zeros((channels, channels // groups, 1, 1))
    kernel[np.arange(channels), np.arange(channels) // groups] = 1
    return kernel


def corner(weight):
    return np.pad(weight, ((0, 0), (0, 0), (0, 2), (0, 2)))


def without_identity(form, x, **options):
    return branches(replace(form, identity=None), x, **options)


def without_1x1(form):
    silent = replace(form.conv_1x1.bn, gamma=0 * form.conv_1x1.bn.gamma)
    return replace(form, conv_1x1=replace(form.conv_1x1, bn=silent))


def relu_before_the_sum(form, x, **options):
    """relu(a) + relu(b) + relu(c) instead of relu(a + b + c)."""
    options["padding"] = options["dilation"]
    parts = [
        form.conv_kxk.bn(conv2d(x, form.conv_kxk.weight, **options)),
        form.conv_1x1.bn(conv2d(x, form.conv_1x1.weight, **options | {"padding": 0})),
    ]
    if form.identity is not None:
        parts.append(form.identity(x))
    return sum(map(ops.relu, parts))


def attention_on_the_other_side(block, x):
    spec = replace(block.spec, attn_after_act=not block.spec.attn_after_act)
    return forward_block(replace(block, spec=spec), x)


def padding_one(x, weight, options):
    return x, weight, options | ({"padding": 1} if options.get("padding") else {})


def no_dilation(x, weight, options):
    return x, weight, options | ({"padding": 1, "dilation": 1} if "dilation" in options else {})


def flipped(x, weight, options):
    return x, weight[..., ::-1, ::-1], options


def transposed(x, weight, options):
    return x, weight.swapaxes(2, 3), options


def pointwise_off_by_one(x, weight, options):
    """A strided 1×1 kernel that reads the pixel after its own."""
    late = weight.shape[2] == 1 and options["stride"] == 2
    return np.roll(x, -1, axis=(2, 3)) if late else x, weight, options


def interleaved_groups(x, weight, options):
    """Channel c in group c mod G, where c // (C/G) belongs."""
    c, groups = x.shape[1], options["groups"]
    return x[:, np.arange(c).reshape(-1, groups).T.ravel()], weight, options


def reflected(x, weight, options):
    """The border continued by its mirror image, where zeros belong."""
    p = options.get("padding", 0)
    x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), mode="symmetric") if p else x
    return x, weight, options | {"padding": 0}


def fold_without_mean(weight, bn):
    t = bn.gamma.astype(np.float64) / np.sqrt(bn.var + bn.eps)
    return reparam.FusedConv(weight * t[:, None, None, None], bn.beta.astype(np.float64))


def fold_without_root(weight, bn):
    t = bn.gamma.astype(np.float64) / (bn.var + bn.eps)
    return reparam.FusedConv(weight * t[:, None, None, None], bn.beta - bn.mean * t)


def batch_statistics(x, mean, var, gamma, beta, eps):
    """Those of the batch, as in training, where the running ones belong."""
    axes = (0, 2, 3)
    return batch_norm(x, x.mean(axes), x.var(axes), gamma, beta, eps)


def se_of_the_maximum(x, build, options):
    """Squeezed by the maximum, where the mean belongs."""
    peak = np.broadcast_to(x.max(axis=(2, 3), keepdims=True), x.shape)
    safe = np.where(peak == 0, 1, peak)
    return x * se(peak, build, options) / safe


DILATED = {"shows_in": "output-stride-8", "golden": "output_stride-8", "first": "stages.2.1",
           "spares": "plain"}  # fmt: skip
GROUPED = {"shows_in": "groups", "golden": "groups-4", "first": "stages.1.1", "spares": "plain"}
SE = {"shows_in": "se", "golden": "attn_layer-se", "spares": "plain"}

FAULTS = {
    "another eps": Fault(eps(1e-3)),
    "no eps": Fault(eps(0.0)),
    "mean and variance swapped": Fault(
        ((build, "BatchNorm", lambda g, b, m, v, e: reparam.BatchNorm(g, b, v, abs(m), e)),)
    ),
    "batch statistics": Fault(((reparam, "batch_norm", batch_statistics),), forms=("train",)),
    "the mean left out of the fold": Fault(
        ((reparam, "fuse_conv_bn", fold_without_mean),), forms=("deploy",)
    ),
    "no root in the fold": Fault(
        ((reparam, "fuse_conv_bn", fold_without_root),), forms=("deploy",)
    ),
    "1×1 in the corner": Fault(((reparam, "pad_1x1_to_3x3", corner),), forms=("deploy",)),
    "no 1×1 branch": Fault(fold_with(without_1x1), forms=("deploy",)),
    "no identity branch": Fault(
        fold_with(lambda form: replace(form, identity=None)), forms=("deploy",), first="stages.1.1"
    ),
    "no identity branch in train form": Fault(
        ((reparam.Branches, "__call__", without_identity),), forms=("train",), first="stages.1.1"
    ),
    "identity in the wrong group": Fault(
        ((reparam, "identity_kernel", identity_in_every_group),), forms=("deploy",), **GROUPED
    ),
    "interleaved groups": Fault(conv2d_with(interleaved_groups), **GROUPED),
    "no dilation": Fault(conv2d_with(no_dilation), **DILATED),
    "padding without dilation": Fault(conv2d_with(padding_one), forms=("deploy",), **DILATED),
    "flipped kernels": Fault(conv2d_with(flipped)),
    "transposed kernels": Fault(conv2d_with(transposed)),
    "mirrored borders": Fault(conv2d_with(reflected)),
    "1×1 off by one pixel": Fault(conv2d_with(pointwise_off_by_one), forms=("train",)),
    "ReLU before the sum": Fault(
        ((reparam.Branches, "__call__", relu_before_the_sum),), forms=("train",)
    ),
    "no ReLU": Fault(((ops, "activation", lambda name: lambda x: x),)),
    "attention after the activation": Fault(
        ((reference, "forward_block", attention_on_the_other_side),), **SE
    ),
    "attention before the activation": Fault(
        ((reference, "forward_block", attention_on_the_other_side),),
        shows_in="se-after-the-activation", golden="original-RepVGGplus-L2pse", spares="plain",
    ),
    "squeezed by the maximum": Fault(
        ((attention, "LAYERS", attention.LAYERS | {
            "se": replace(attention.LAYERS["se"], apply=se_of_the_maximum),
        }),), **SE
    ),
    "a sum for a pool": Fault(
        ((ops, "global_pool", lambda x, kind: x.sum(axis=(2, 3))),), first="pooled",
        shows_in="identities-everywhere",
    ),
    "no bias in the classifier": Fault(
        ((ops, "linear", lambda x, weight, bias: linear(x, weight, 0 * bias)),), first="logits",
    ),
}  # fmt: skip


@cache
def problem(name):
    """Images and the oracle's answers to them."""
    size = (72, 60) if name == "output-stride-8" else (13, 10)  # dilated kernels need their room
    x = tiny.images(np.random.default_rng(7), 1, tiny.config(name).in_chans, *size)
    return x, tiny.oracle(tiny.tensors(name), x, name)


def found_by_the_oracle(name, form):
    """Where the oracle sees the first wrong number; "" for nowhere."""
    x, want = problem(name)
    model = tiny.model(name, dtype=np.float64, reparameterize=form == "deploy")
    return tiny.first_wrong(tiny.answers(model, x), want)


def found_by_the_goldens(name, form):
    """What the comparison with PyTorch's answers says; "" for nothing."""
    case = golden.CASES[name]
    model = golden.create(case, reparameterize=form == "deploy", engine="reference")
    try:
        got = golden.answers(model, golden.formula.images(case["input"]))
        golden.assert_within(got, case, golden.float32_bounds(case, form))
    except AssertionError as error:
        return str(error)
    return ""


TABLE = pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for name, fault in FAULTS.items() for form in fault.forms],
    ids=lambda value: value.replace(" ", "-"),
)


def plant(fault, monkeypatch):
    for place, name, planted in fault.plant:
        monkeypatch.setattr(place, name, planted)


@TABLE
def test_the_oracle_finds_the_fault_and_where_it_begins(name, form, monkeypatch):
    fault = FAULTS[name]
    assert found_by_the_oracle(fault.shows_in, form) == ""
    plant(fault, monkeypatch)
    assert found_by_the_oracle(fault.shows_in, form) == fault.first
    if fault.spares:
        assert found_by_the_oracle(fault.spares, form) == ""


@TABLE
def test_pytorch_s_answers_find_the_fault_too(name, form, monkeypatch):
    fault = FAULTS[name]
    assert found_by_the_goldens(fault.golden, form) == ""
    plant(fault, monkeypatch)
    assert "times the bound" in found_by_the_goldens(fault.golden, form)


def test_a_fault_of_one_form_is_silent_in_the_other(monkeypatch):
    """Otherwise "deploy only" in the table would hide that train form was never looked at."""
    for name, fault in FAULTS.items():
        if name == "padding without dilation":
            continue  # the branches of train form differ in size then, and cannot be added up
        for form in {*BOTH} - {*fault.forms}:
            with monkeypatch.context() as planted:
                plant(fault, planted)
                assert found_by_the_oracle(fault.shows_in, form) == "", name
