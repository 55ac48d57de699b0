"""Names of tensors, against pairs written out by hand from both upstreams."""

import pytest

from npvgg.errors import WeightsError
from npvgg.variants import VARIANTS
from npvgg.weights import keymap
from npvgg.weights.build import expected_shapes

# timm 1.0.31 `byobnet.py`                      DingXiaoH/RepVGG `repvgg.py`
PAIRS = [
    ("stem.conv_kxk.conv.weight", "stage0.rbr_dense.conv.weight"),
    ("stem.conv_1x1.bn.running_mean", "stage0.rbr_1x1.bn.running_mean"),
    ("stages.0.0.conv_kxk.bn.weight", "stage1.0.rbr_dense.bn.weight"),
    ("stages.1.3.identity.running_var", "stage2.3.rbr_identity.running_var"),
    ("stages.2.13.conv_1x1.conv.weight", "stage3.13.rbr_1x1.conv.weight"),
    ("stages.3.0.reparam_conv.bias", "stage4.0.rbr_reparam.bias"),
    ("stem.reparam_conv.weight", "stage0.rbr_reparam.weight"),
    ("stages.0.7.attn.fc1.weight", "stage1.7.se.down.weight"),
    ("stem.attn.fc2.bias", "stage0.se.up.bias"),
    ("head.fc.weight", "linear.weight"),
    ("head.fc.bias", "linear.bias"),
]
# ... and `repvggplus.py`, whose third stage of 24 blocks is cut at 12
PLUS_PAIRS = [
    ("stem.conv_kxk.conv.weight", "stage0.rbr_dense.conv.weight"),
    ("stem.attn.fc1.weight", "stage0.post_se.down.weight"),
    ("stages.0.7.attn.fc2.bias", "stage1.blocks.7.post_se.up.bias"),
    ("stages.1.13.identity.bias", "stage2.blocks.13.rbr_identity.bias"),
    ("stages.2.11.conv_1x1.conv.weight", "stage3_first.blocks.11.rbr_1x1.conv.weight"),
    ("stages.2.12.conv_kxk.conv.weight", "stage3_second.blocks.0.rbr_dense.conv.weight"),
    ("stages.2.23.reparam_conv.bias", "stage3_second.blocks.11.rbr_reparam.bias"),
    ("stages.3.0.conv_kxk.bn.bias", "stage4.blocks.0.rbr_dense.bn.bias"),
    ("head.fc.bias", "linear.bias"),
]


@pytest.mark.parametrize(("timm", "original"), PAIRS)
def test_each_name_has_its_counterpart(timm, original):
    assert keymap.to_timm(original) == timm
    assert keymap.to_original(timm) == original


@pytest.mark.parametrize(("timm", "plus"), PLUS_PAIRS)
def test_each_name_of_plus_has_its_counterpart(timm, plus):
    assert keymap.to_timm(plus, first_half=12) == timm
    assert keymap.to_original(timm, plus_first_half=12) == plus


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_again_is_the_same_name(variant, form):
    names = list(expected_shapes(VARIANTS[variant], form))
    half = 12 if variant == "repvggplus_l2pse" else None
    original = [keymap.to_original(name, plus_first_half=half) for name in names]
    assert len({*original}) == len(names)
    assert not {*original} & {*names}
    assert [keymap.to_timm(name, half or 0) for name in original] == names
    assert (keymap.naming(names), keymap.naming(original)) == ("timm", "original")
    assert keymap.form(names) == keymap.form(original) == form
    assert not any(map(keymap.is_training_only, names + original))


@pytest.mark.parametrize(
    "name",
    [
        "", "foo", "stage", "stage1", "stage1.", "stage0.0.rbr_dense.conv.weight", "stage01.0.x",
        "stage1.01.rbr_dense.conv.weight", "stage1.rbr_dense.conv.weight", "stage-1.0.x",
        "stages.0.0.identity.weight", "conv1.weight", "linear", "stage1.9999.rbr_dense.conv.weight",
        "xstage1.0.rbr_dense.conv.weight", "stage1_aux.0.conv.weight",
    ],
)  # fmt: skip
def test_what_is_not_the_original_s_comes_back_unchanged(name):
    assert keymap.to_timm(name) == name


@pytest.mark.parametrize("name", ["foo", "layer1.0.conv1.weight", "stages.x.0.identity.weight"])
def test_what_is_not_timm_s_comes_back_unchanged(name):
    assert keymap.to_original(name) == name


def test_prefixes_are_taken_off_the_front_and_wrappers_from_anywhere():
    assert keymap.strip_prefix("module.stem.x") == "stem.x"
    assert keymap.strip_prefix("module._orig_mod.module.stem.x") == "stem.x"
    assert keymap.strip_prefix("model._orig_mod.stem.x") == "stem.x"
    for wrapper in ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"):
        assert keymap.strip_prefix(f"stages.0.{wrapper}.1.x") == "stages.0.1.x"
        assert keymap.strip_prefix(f"{wrapper}.model.{wrapper}.stem.x") == "stem.x"
        assert keymap.strip_prefix(f"stem.{wrapper}") == f"stem.{wrapper}"
    assert keymap.strip_prefix("stem.model.x") == "stem.model.x"
    assert keymap.strip_prefix("stem.modules.x") == "stem.modules.x"
    assert keymap.strip_prefix("modulestem.x") == "modulestem.x"


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("stem.conv_kxk.bn.num_batches_tracked", True),
        ("stem.conv_kxk.conv.total_ops", True),
        ("total_params", True),
        ("stage1_aux.0.conv.weight", True),
        ("stage2_aux.0.bn.running_var", True),
        ("stage3_first_aux.3.weight", True),
        ("stage4_aux.0.conv.weight", False),
        ("stage1_aux.1.weight", False),
        ("stage3_aux.3.weight", False),
        ("num_batches_tracked", False),
        ("stem.num_batches_tracked.weight", False),
        ("aux.weight", False),
    ],
)
def test_training_only_tensors_are_known_by_name(name, skipped):
    assert keymap.is_training_only(name) == skipped


def test_every_prefix_before_the_names_is_listed():
    names = ["loss.w", "student.stem.x", "student.stages.0.x", "ema.net.stage0.x", "head.fc.bias"]
    assert keymap.prefixes(names) == ["student.", "ema.net.", ""]
    assert keymap.prefixes(["mystem.x", "stemmed.x"]) == []
    assert len(keymap.prefixes(f"{i}.stem.x" for i in range(100))) == keymap.MAX_PREFIXES
    with pytest.raises(WeightsError, match=r"prefix='student.' \(--prefix\); or 'ema.net.'$"):
        keymap.naming(names[:-1])


def test_foreign_names_are_shown():
    with pytest.raises(WeightsError, match=r"got 'conv1.weight', 'layer1.0.conv1.weight'"):
        keymap.naming(["conv1.weight", "layer1.0.conv1.weight"])
    with pytest.raises(WeightsError, match="no tensors at all"):
        keymap.naming([])
