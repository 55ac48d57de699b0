"""Every public call of the timm that is installed, held against the tables of `npvgg.from_timm`."""

import dataclasses
import inspect
import re
from fnmatch import fnmatchcase

import numpy as np
import pytest
import test_from_timm

import npvgg
from npvgg.create import CFG_KEYS
from npvgg.data import TransformKeywords
from npvgg.from_timm import CALLS, LAYERS
from npvgg.variants import VARIANTS
from tests.oracles import formula, judge

timm = pytest.importorskip("timm", reason="timm is not installed: nothing to compare with")
torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")

from timm.layers import create_act, create_norm_act, get_attn  # noqa: E402
from timm.models import byobnet  # noqa: E402
from timm.models._builder import build_model_with_cfg  # noqa: E402
from timm.models._manipulate import group_parameters  # noqa: E402
from timm.models._pretrained import PretrainedCfg  # noqa: E402

from tests.oracles import timm_peer  # noqa: E402

pytestmark = [
    pytest.mark.cross,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SMALL = {"depths": (2, 3, 2, 1), "widths": (16, 24, 32, 40), "stem_chs": 16, "num_classes": 11}


def parameters(function):
    """The names of a function's parameters, but self and those that gather others."""
    gathers = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = inspect.signature(function).parameters.values()
    return {p.name for p in named if p.kind not in gathers} - {"self"}


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def small_pair(**keywords):
    """The same small network twice, with the same weights."""
    theirs = timm_peer.network("repvgg_a0", **SMALL, **keywords)
    weights = formula.tensors(timm_peer.shapes(theirs))
    theirs = timm_peer.load(theirs, weights, torch.float64)
    ours = npvgg.create_model(
        "repvgg_a0", weights=weights, dtype="float64", engine="reference", **SMALL, **keywords
    )
    return ours, theirs


# --- Every name has an answer ---------------------------------------------------------------------

FUNCTIONS = {
    "list_models": timm.list_models,
    "list_pretrained": timm.list_pretrained,
    "is_model": timm.is_model,
    "get_pretrained_cfg": timm.get_pretrained_cfg,
    "data.resolve_data_config": timm.data.resolve_data_config,
    "data.resolve_model_data_config": timm.data.resolve_model_data_config,
    "data.create_transform": timm.data.create_transform,
    **{f"model.{name}": getattr(byobnet.ByobNet, name) for name in (
        "forward", "forward_features", "forward_head", "forward_intermediates", "group_matcher",
        "load_state_dict", "prune_intermediate_layers", "reset_classifier",
        "set_grad_checkpointing",
    )},
}  # fmt: skip


@pytest.mark.parametrize("call", FUNCTIONS)
def test_every_parameter_has_an_answer(call):
    assert set(CALLS[call]) == parameters(FUNCTIONS[call])
    if call.startswith("data."):
        ours = getattr(npvgg.data, call.removeprefix("data."))
    elif call.startswith("model."):
        ours = getattr(npvgg.RepVGG, call.removeprefix("model."))
    else:
        ours = getattr(npvgg, call)
    if call == "data.create_transform":  # which takes timm's keywords by name
        own = set(inspect.signature(ours).parameters) | TransformKeywords.__annotations__.keys()
        assert set(CALLS[call]) <= own
    else:
        taken = list(inspect.signature(FUNCTIONS[call]).parameters)
        assert list(inspect.signature(ours).parameters) == taken


def test_every_keyword_of_create_model_has_an_answer():
    every = parameters(timm.create_model) | parameters(build_model_with_cfg)
    every |= parameters(byobnet.ByobNet.__init__)
    every |= {field.name for field in dataclasses.fields(byobnet.ByoModelCfg)}
    every |= {"features_only", "out_indices", "feature_cls", "pruned"}  # read from **kwargs
    assert set(CALLS["create_model"]) == every
    names = list(inspect.signature(timm.create_model).parameters)
    positional = list(inspect.signature(npvgg.create_model).parameters)[: len(names) - 1]
    assert positional == names[:-1]
    assert {field.name for field in dataclasses.fields(PretrainedCfg)} == CFG_KEYS - {"bundled"}


def test_every_name_of_a_model_has_an_answer():
    theirs = timm_peer.network("repvgg_a0", **SMALL)
    assert set(CALLS["model"]) == public(theirs)
    features = timm_peer.network("repvgg_a0", features=True, **SMALL)
    assert set(CALLS["features"]) == public(features)
    assert set(CALLS["FeatureInfo"]) == public(features.feature_info)
    info = small_pair()[0].feature_info
    assert all(hasattr(info, name) for name in CALLS["FeatureInfo"])


def test_every_layer_that_timm_knows_by_name_has_an_answer():
    assert set(LAYERS["act_layer"]) == set(create_act._ACT_LAYER_DEFAULT)
    assert set(LAYERS["norm_layer"]) == set(create_norm_act._NORM_ACT_MAP)
    source = inspect.getsource(get_attn)
    assert set(LAYERS["attn_layer"]) == set(re.findall(r"attn_type == '(\w+)'", source))


@pytest.mark.parametrize(
    "name", ["stem_pool", "downsample", "self_attn_layer", "drop_rate", "drop_path_rate"]
)
def test_what_changes_nothing_changes_nothing_in_timm(name):
    value = {
        "stem_pool": "maxpool", "downsample": "avg", "self_attn_layer": "lambda",
        "drop_rate": 0.5, "drop_path_rate": 0.5,
    }[name]  # fmt: skip
    ours, theirs = small_pair()
    with torch.device("meta"):
        other = timm_peer.network("repvgg_a0", **SMALL, **{name: value})
    other = timm_peer.load(other, formula.tensors(timm_peer.shapes(theirs)), torch.float64)
    x = formula.images((1, 3, 40, 33))
    judge.assert_float64({"": ours(x)}, {"": timm_peer.answers(other, x)["logits"]})


@pytest.mark.parametrize(
    "keywords",
    [
        *({"global_pool": pool} for pool in
          ("fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax")),
        {"attn_layer": "se", "attn_kwargs": {"gate_layer": "hardsigmoid", "act_layer": "swish"}},
        {"act_layer": "hardswish"}, {"bn_eps": 0.01}, {"attn_layer": "ecam"},
    ],
    ids=str,
)  # fmt: skip
def test_timm_s_words_are_known(keywords):
    ours, theirs = small_pair(**keywords)
    x = formula.images((2, 3, 45, 37))
    judge.assert_float64({"": ours(x)}, {"": timm_peer.answers(theirs, x)["logits"]})


def test_an_anti_aliased_repvgg_is_another_network_once_timm_has_folded_it():
    """Why aa_layer is refused: the strides of the folded convolutions are gone."""
    theirs = timm.create_model("repvgg_a0", aa_layer="blur", width_factor=0.25).eval()
    folded = timm_peer.deployed(theirs)
    strides = [block.reparam_conv.stride for stage in folded.stages for block in stage]
    assert set(strides) == {(1, 1)}


# --- Works the same -------------------------------------------------------------------------------


@pytest.mark.parametrize("include_tags", [None, True, False])
@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("module", ["", "byobnet", "resnet", ["resnet", "byobnet"]], ids=str)
def test_lists_are_timm_s(module, pretrained, include_tags):
    extra = set(npvgg.list_models()) - set(timm.list_models("repvgg*"))
    for pattern in (
        "", "repvgg*", "repvgg_b1", "repvgg_b1*", "repvgg_?0", ["repvgg_a*", "repvgg_b0.*"],
        "repvgg_a0.*", "*rvgg*", "REPVGG_A0", "repvgg_[ab]1",
    ):  # fmt: skip
        for excluded in ("", "*g4", ["repvgg_a0", "*b1*"], "*.rvgg_in1k"):
            for matches in (False, True):
                asked = (pattern, module, pretrained, excluded, matches, include_tags)
                want = [n for n in timm.list_models(*asked) if fnmatchcase(n, "repvgg*")]
                got = npvgg.list_models(*asked)
                assert [n for n in got if n.partition(".")[0] not in extra] == want, asked


@pytest.mark.parametrize("name", ["repvgg_a0", "repvgg_d2se.rvgg_in1k", "resnet", "repvgg_a0.x"])
def test_names_are_known_as_in_timm(name):
    assert npvgg.is_model(name) == timm.is_model(name)
    if name == "repvgg_a0.x":
        with pytest.raises(RuntimeError):
            timm.get_pretrained_cfg(name)
        with pytest.raises(npvgg.ArgumentError):
            npvgg.get_pretrained_cfg(name)
        return
    want, got = timm.get_pretrained_cfg(name), npvgg.get_pretrained_cfg(name)
    assert (got is None) == (want is None)
    for key, value in (got or {}).items():
        assert getattr(want, key) == value


@pytest.mark.parametrize("keywords", [{}, {"global_pool": "catavgmax"}, {"in_chans": 1}], ids=str)
def test_attributes_are_timm_s(keywords):
    ours, theirs = small_pair(**keywords)
    for name in (
        "num_classes", "num_features", "head_hidden_size", "in_chans", "global_pool", "training",
        "drop_rate", "grad_checkpointing", "stage_ends",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.group_matcher() == theirs.group_matcher()
    assert ours.group_matcher(coarse=True) == theirs.group_matcher(coarse=True)
    classifier, linear = ours.get_classifier(), theirs.get_classifier()
    assert classifier.in_features == linear.in_features
    assert classifier.out_features == linear.out_features
    np.testing.assert_array_equal(classifier.weight, linear.weight.detach().numpy())


@pytest.mark.parametrize("arguments", [(7,), (7, "max"), (0,), (0, ""), (4, "catavgmax")], ids=str)
def test_a_classifier_is_replaced_as_in_timm(arguments):
    ours, theirs = small_pair()
    ours.reset_classifier(*arguments)
    theirs.reset_classifier(*arguments)
    for name in ("num_classes", "num_features", "head_hidden_size", "global_pool"):
        assert getattr(ours, name) == getattr(theirs, name), name
    if arguments[0]:
        head = ours.get_classifier()
        with torch.no_grad():
            theirs.get_classifier().weight.copy_(torch.from_numpy(head.weight))
            theirs.get_classifier().bias.copy_(torch.from_numpy(head.bias))
    x = formula.images((2, 3, 45, 37))
    with torch.no_grad():
        want = theirs(torch.from_numpy(x).double()).numpy()
    judge.assert_float64({"": ours(x)}, {"": want})


@pytest.mark.parametrize(
    ("indices", "prune_head"),
    [(1, True), (1, False), ([0], True), ([2, 1], False), ([-2], True), (5, False)],
    ids=str,
)
def test_a_network_is_pruned_as_in_timm(indices, prune_head):
    ours, theirs = small_pair()
    assert ours.prune_intermediate_layers(indices, prune_head=prune_head) == (
        theirs.prune_intermediate_layers(indices, prune_head=prune_head)
    )
    for name in ("num_classes", "num_features", "head_hidden_size", "global_pool", "stage_ends"):
        assert getattr(ours, name) == getattr(theirs, name), name
    x = formula.images((2, 3, 45, 37))
    got = {"": ours(x), **dict(enumerate(ours.forward_intermediates(x)[1]))}
    with torch.no_grad():
        x = torch.from_numpy(x).double()
        maps = theirs.forward_intermediates(x)[1]
        want = {"": theirs(x).numpy(), **{i: y.numpy() for i, y in enumerate(maps)}}
    judge.assert_float64(got, want)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3, 4), (1, 3), (-1,), 2], ids=str)
def test_feature_info_reads_what_timm_s_does(out_indices):
    theirs = timm_peer.network("repvgg_a0", features=True, out_indices=out_indices, **SMALL)
    ours = npvgg.create_model(
        "repvgg_a0", features_only=True, out_indices=out_indices, engine="reference", **SMALL
    )
    want, got = theirs.feature_info, ours.feature_info
    assert len(got) == len(want)
    for method in ("channels", "reduction", "module_name"):
        for idx in (None, 0, [1, 2]):
            assert getattr(got, method)(idx) == getattr(want, method)(idx)
    keys = ["num_chs", "reduction", "module", "stage", "index"]
    for idx in (None, 3, [4, 0]):
        assert got.get_dicts(keys, idx) == want.get_dicts(keys, idx)
    assert {key for entry in want.info for key in entry} <= set(got[0])
    assert (ours.in_chans, ours.output_fmt) == (theirs.in_chans, theirs.output_fmt)


@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_classes", [11, 4, 0])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pretrained_weights_are_adapted_as_in_timm(in_chans, num_classes, dtype):
    """To the bit: the first kernels. The distribution: a new classifier's."""
    source = timm_peer.network("repvgg_a0", **SMALL)
    state = {
        name: torch.from_numpy(array).to(getattr(torch, dtype))
        for name, array in formula.tensors(timm_peer.shapes(source)).items()
    }
    blocks = timm_peer._blocks(byobnet.model_cfgs["repvgg_a0"].blocks, SMALL["depths"],
                               SMALL["widths"], None, None)  # fmt: skip
    overlay = {"num_classes": 11}
    theirs = timm.create_model(
        "repvgg_a0", pretrained=True, blocks=blocks, stem_chs=16, in_chans=in_chans,
        num_classes=num_classes, pretrained_cfg_overlay={**overlay, "state_dict": dict(state)},
    ).eval()  # fmt: skip
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    ours = npvgg.create_model(
        "repvgg_a0", pretrained=True, in_chans=in_chans, engine="reference", reparameterize=False,
        pretrained_cfg_overlay={**overlay, "state_dict": arrays},
        **{**SMALL, "num_classes": num_classes},
    )  # fmt: skip
    want, got = theirs.state_dict(), ours.state_dict()
    assert got.keys() == {name for name in want if not name.endswith("tracked")}
    for name, array in got.items():
        if name.startswith("head.fc.") and num_classes == 4:
            assert array.shape == want[name].shape
            for numbers in (array, want[name].numpy()):  # n numbers tell σ to σ/√(2n)
                spread = 0.01 if name.endswith("weight") else 0.0
                assert abs(numbers.std() - spread) <= 6 * spread / (2 * numbers.size) ** 0.5
        else:
            np.testing.assert_array_equal(array, want[name].numpy(), name)
    assert bool(ours.caveats) == (in_chans != 3 or num_classes == 4)


@pytest.mark.parametrize("decay", [0.75, 0.5])
def test_the_decay_of_layers_is_timm_s(decay):
    ours, theirs = small_pair()
    groups = group_parameters(theirs, theirs.group_matcher(), reverse=True)
    layers = npvgg.info(ours).layer_decay(decay)
    last = max(groups.values())
    for parameter, group in groups.items():
        (layer,) = (row for row in layers if parameter.startswith(f"{row.name}."))
        assert (layer.group, layer.scale) == (group, decay ** (last - group))
    assert len(layers) == len(VARIANTS["repvgg_a0"].with_changes(**SMALL).depths) + 6


# --- torch's own tensors and words ----------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, 3, 8, 8),
        torch.zeros(1, 3, 8, 8, requires_grad=True),
        torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, device="meta"),
        torch.nn.Parameter(torch.zeros(1, 3, 8, 8)),
    ],
    ids=lambda tensor: f"{type(tensor).__name__}-{tensor.dtype}-{tensor.device}",
)
def test_a_tensor_is_one_clear_error(tensor):
    ours, _ = small_pair()
    for call in (ours, ours.forward_features, npvgg.softmax, lambda x: npvgg.topk(x, 1)):
        with pytest.raises(npvgg.ArgumentError, match=r"^x: expected a NumPy array, got a torch"):
            call(tensor)
    if tensor.device.type == "cpu":
        ours(tensor.detach().cpu().float().numpy())


def test_softmax_and_topk_give_what_torch_gives():
    x = formula.images((3, 7))
    tensor = torch.from_numpy(x)
    np.testing.assert_allclose(npvgg.softmax(x, dim=1), tensor.softmax(dim=1), rtol=1e-6)
    want, got = torch.topk(tensor, 3, dim=0), npvgg.topk(x, 3, dim=0)
    np.testing.assert_array_equal(got.values, want.values)
    np.testing.assert_array_equal(got.indices, want.indices)


def test_the_page_s_listings_of_timm_give_the_shapes_of_ours():
    for theirs, ours in zip(*test_from_timm.listings(), strict=True):
        _, want = test_from_timm.run_listing(theirs.replace("pretrained=True", "pretrained=False"))
        _, got = test_from_timm.run_listing(ours.replace("pretrained=True", "engine='reference'"))
        for name in set(want) & {"top5_class_indices", "output", "shapes", "embedding"}:
            if hasattr(want[name], "shape"):
                assert tuple(want[name].shape) == got[name].shape
            elif name == "shapes":
                assert want[name] == got[name]
