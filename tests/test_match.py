"""Which array is which: by name in anyone's spelling, by order, by shape, in either layout."""

import numpy as np
import pytest

from npvgg import ArgumentError
from npvgg.testing import conformance_pack
from npvgg.testing.comparison.match import match

PACK = conformance_pack("tiny", level="branch")
OP = conformance_pack("tiny", level="op")
BLOCK = conformance_pack("tiny")


def tensors(pack=PACK):
    return {probe.name: pack.tensor(probe.name) for probe in pack.probes}


def found(theirs, pack=PACK, **options):
    return match(theirs, pack.probes, pack.tensor, **options)


def assert_all(got, pack=PACK, without=()):
    want = {name: a for name, a in tensors(pack).items() if name not in without}
    assert list(got.arrays) == list(want)
    for name, array in want.items():
        np.testing.assert_array_equal(got.arrays[name], array)


# --- Names ----------------------------------------------------------------------------------------

ORIGINAL = {
    "stem.conv_kxk.bn": "stage0.rbr_dense.bn",
    "stem.conv_1x1.bn": "stage0.rbr_1x1",
    "stem": "stage0",
    "stages.0.1.identity": "stage1.1.rbr_identity",
    "stages.0.1.conv_kxk.bn": "module.stage1.1.rbr_dense",
    "stages.1.0": "stage2.0.nonlinearity",
    "pool": "gap",
    "logits": "linear",
}


def test_our_own_names():
    got = found(tensors())
    assert_all(got)
    assert (got.how, got.layout, got.unused) == ("name", "NCHW", ())


def test_the_originals_names_and_wrappers():
    theirs = {their: PACK.tensor(our) for our, their in ORIGINAL.items()}
    got = found(theirs)
    assert got.how == "name"
    assert got.names == ORIGINAL


def test_timms_other_names_and_folders():
    names = {
        "stages/0/1": "stages.0.1", "stem.act": "stem", "head.fc": "logits",
        "head.global_pool": "pool", "stem.conv_kxk": "stem.conv_kxk.bn", "x": "input",
    }  # fmt: skip
    got = found({their: PACK.tensor(our) for their, our in names.items()})
    assert got.names == {our: their for their, our in names.items()}


def test_underscores_for_dots():
    theirs = {name.replace(".", "_"): array for name, array in tensors(OP).items()}
    assert_all(found(theirs, OP), OP)
    names = {"stage0": "stem", "stage1_1": "stages.0.1", "stage2_0": "stages.1.0",
             "head_fc": "logits", "stages_0_1_conv_1x1": "stages.0.1.conv_1x1.bn"}  # fmt: skip
    got = found({their: PACK.tensor(our) for their, our in names.items()})
    assert got.names == {our: their for their, our in names.items()}


def test_repvggplus_cuts_its_third_stage():
    pack = conformance_pack("tiny_dilated", depths=(1, 1, 4))
    theirs = {
        "stage3_first.blocks.0": pack.tensor("stages.2.0"),
        "stage3_first.blocks.1": pack.tensor("stages.2.1"),
        "stage3_second.blocks.0": pack.tensor("stages.2.2"),
        "stage3_second.blocks.1": pack.tensor("stages.2.3"),
    }
    got = found(theirs, pack)
    assert got.names == {f"stages.2.{i}": name for i, name in enumerate(theirs)}


def test_the_nearest_spelling_wins():
    """A torch run has both: the activation's output, and the block's, which is the same tensor."""
    wrong = PACK.tensor("stem") + 1
    for theirs in ({"stem.act": wrong, "stem": PACK.tensor("stem")},
                   {"stem": PACK.tensor("stem"), "stem.act": wrong}):  # fmt: skip
        np.testing.assert_array_equal(found(theirs).arrays["stem"], PACK.tensor("stem"))


def test_the_sum_and_the_folded_convolution_are_one():
    deploy = conformance_pack("tiny", level="branch", form="deploy")
    assert found({"stem.sum": deploy.tensor("stem.reparam_conv")}, deploy).names == {
        "stem.reparam_conv": "stem.sum"
    }
    assert found({"stage0.rbr_reparam": PACK.tensor("stem.sum")}).names == {
        "stem.sum": "stage0.rbr_reparam"
    }


def test_a_convolution_is_not_taken_for_its_batch_norm():
    theirs = {name: OP.tensor(name) for name in ("stem.conv_kxk.conv", "stem.conv_kxk.bn")}
    assert found(theirs, OP).names == {name: name for name in theirs}
    assert found({**theirs, "stem": OP.tensor("stem")}, PACK).names == {
        "stem.conv_kxk.bn": "stem.conv_kxk.bn",
        "stem": "stem",
    }


def test_what_is_none_of_ours_is_listed():
    got = found({"stem": PACK.tensor("stem"), "loss": np.zeros(1)})
    assert got.unused == ("loss",)


# --- Order, mapping -------------------------------------------------------------------------------


@pytest.mark.parametrize("with_input", [True, False])
def test_by_order(with_input):
    theirs = dict(enumerate(tensors().values()))
    if not with_input:
        del theirs[0]
    theirs = {f"layer {i}": array for i, array in theirs.items()}
    got = found(theirs)
    assert got.how == "order"
    assert_all(got, without=() if with_input else ("input",))


def test_a_count_that_agrees_by_accident_is_no_order():
    theirs = {f"t{i}": a for i, a in enumerate(list(tensors().values())[1:])}
    theirs["t2"] = np.zeros((1, 2, 3, 4))
    got = found(theirs)
    assert got.how == "shape"
    assert_all(got, without=("input", "stem.sum"))


def test_an_input_with_its_name_stands_outside_the_row():
    theirs = {f"layer {i}": a for i, a in enumerate(list(tensors().values())[1:])}
    assert_all(found({"input": PACK.tensor("input"), **theirs}))


def test_order_needs_the_right_count():
    with pytest.raises(ArgumentError, match=r"expected 2\d arrays .* got 1"):
        found({"a": PACK.tensor("stem")}, by="order")


def test_a_mapping_of_their_names_to_ours():
    theirs = {"first": PACK.tensor("stem"), "last": PACK.tensor("logits"), "z": np.zeros(2)}
    got = found(theirs, by={"first": "stem", "last": "logits"})
    assert (got.how, got.unused) == ("mapping", ("z",))
    assert got.names == {"stem": "first", "logits": "last"}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"frist": "stem"}, r"theirs is 'frist' \(nearest: 'first'\)"),
        ({"first": "stemm"}, r"ours is 'stemm' \(nearest: 'stem'\)"),
        ({"first": "stem", "second": "stem"}, "twice"),
    ],
)
def test_a_mapping_that_names_what_is_not_there(mapping, message):
    theirs = {"first": PACK.tensor("stem"), "second": PACK.tensor("stem")}
    with pytest.raises(ArgumentError, match=message):
        found(theirs, by=mapping)


# --- Shape ----------------------------------------------------------------------------------------


def test_by_shape_in_a_graph_with_more_tensors_than_ours():
    """A graph of every operation, nameless: the blocks' outputs are found among them."""
    theirs = {f"t{i}": array for i, array in enumerate(tensors(OP).values())}
    got = found(theirs, BLOCK)
    assert got.how == "shape"
    assert_all(got, BLOCK)


def test_by_shape_finds_the_wrong_ones_too_and_keeps_the_order(rng):
    """From the third block on everything is off by a third: each is still taken for itself."""
    theirs, want = {}, {}
    names = list(tensors(OP))
    for i, name in enumerate(names):
        array = OP.tensor(name)
        if i > names.index("stages.0.1"):
            array = array + 0.3 * rng.standard_normal(array.shape).astype(np.float32)
        theirs[f"t{i}"] = array
        if name in tensors(BLOCK):
            want[name] = f"t{i}"
    assert found(theirs, BLOCK).names == want


def test_by_shape_leaves_out_what_is_not_there():
    theirs = {f"t{i}": a for i, a in enumerate(tensors(BLOCK).values()) if i not in (2, 5)}
    got = found(theirs, BLOCK, by="shape")
    names = list(tensors(BLOCK))
    assert_all(got, BLOCK, without=(names[2], names[5]))


def test_by_shape_a_folded_block_has_no_branches(rng):
    """A graph in deploy form against a pack of branches: no convolution is taken for a branch."""
    deploy = conformance_pack("tiny", level="branch", form="deploy")
    theirs = {f"t{i}": array for i, array in enumerate(tensors(deploy).values())}
    got = found(theirs)
    kept = ("input", "sum", "pool", "logits")
    want = [p.name for p in PACK.probes if p.name == p.block or p.name.endswith(kept)]
    assert got.how == "shape"
    assert list(got.arrays) == want
    theirs = {n: a + 2 * rng.standard_normal(a.shape) for n, a in theirs.items()}
    outputs = [p.name for p in PACK.probes if p.block in ("", p.name)]
    assert [n for n in found(theirs).arrays if n in outputs] == outputs


def test_by_shape_minds_nan():
    theirs = {f"t{i}": np.full_like(a, np.nan) for i, a in enumerate(tensors(BLOCK).values())}
    assert list(found(theirs, BLOCK, by="shape").arrays) == list(tensors(BLOCK))


# --- Layout ---------------------------------------------------------------------------------------


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def test_channels_last_is_noticed():
    got = found({name: channels_last(array) for name, array in tensors().items()})
    assert got.layout == "NHWC"
    assert_all(got)


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_one_image_needs_no_batch_axis(last):
    turned = channels_last if last else np.asarray
    got = found({name: turned(array)[0] for name, array in tensors().items()})
    assert got.layout == ("NHWC" if last else "NCHW")
    assert_all(got)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_flat_rows_take_our_shape(layout):
    turned = channels_last if layout == "NHWC" else np.asarray
    got = found({name: turned(array).ravel() for name, array in tensors().items()}, layout=layout)
    assert_all(got)


def test_a_pooled_map_may_keep_its_axes():
    pooled = PACK.tensor("pool")[:, :, None, None]
    np.testing.assert_array_equal(found({"pool": pooled}).arrays["pool"], PACK.tensor("pool"))


def test_a_layout_that_is_given_is_not_guessed():
    theirs = {name: channels_last(array) for name, array in tensors().items()}
    got = found(theirs, layout="NCHW")
    assert got.arrays["stem"].shape == theirs["stem"].shape != PACK.tensor("stem").shape


@pytest.mark.parametrize(
    ("options", "message"),
    [({"by": "magic"}, "by:"), ({"layout": "CHWN"}, "layout:"), ({"by": "name"}, "none of its")],
)
def test_what_cannot_be_matched_is_an_error(options, message):
    with pytest.raises(ArgumentError, match=message):
        found({"a": np.zeros(1)}, **options)
