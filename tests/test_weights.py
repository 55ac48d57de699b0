"""Weights are loaded whole or not at all, from either naming, either form and any layout."""

from itertools import product

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from npvgg import WeightsError
from npvgg.variants import VARIANTS
from npvgg.weights import keymap
from npvgg.weights.build import (
    build_network,
    expected_shapes,
    flatten,
    infer_config,
    normalize_names,
    random_tensors,
)

CONFIG = tiny.config()
TENSORS = tiny.tensors()
DEPLOY = flatten(build_network(TENSORS, CONFIG).reparameterized())
WEIGHT = "stages.1.1.conv_kxk.conv.weight"
VAR = "stages.1.1.conv_kxk.bn.running_var"


def assert_holds(network, want, dtype=np.float32):
    """The network has these arrays to the last bit, as private, contiguous, sealed copies."""
    got = flatten(network)
    assert list(got) == list(want)
    for name, array in got.items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)
        assert array.dtype == np.dtype(dtype)
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        assert not np.shares_memory(array, want[name])


# --- What is accepted -----------------------------------------------------------------------------

NAMINGS = {
    "timm": lambda name: name,
    "original": keymap.to_original,
    "original-plus": lambda name: keymap.to_original(name, plus_first_half=3),
}
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.")
DTYPES = ("float16", "float32", "float64", ">f4", ">f8")


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_form_dtype_and_prefix_gives_the_same_network(naming, form):
    config = tiny.config("se", groups=2, depths=(1, 2, 7, 1))  # cut in the middle: 3 + 4
    tensors = {n: t.astype(np.float16).astype(np.float32)
               for n, t in random_tensors(config, 1).items()}  # fmt: skip
    if form == "deploy":
        folded = flatten(build_network(tensors, config).reparameterized())
        tensors = {n: t.astype(np.float16).astype(np.float32) for n, t in folded.items()}
    for dtype, prefix in product(DTYPES, PREFIXES):
        file = {prefix + NAMINGS[naming](n): t.astype(dtype) for n, t in tensors.items()}
        network = build_network(file, config)
        assert network.form == form
        assert_holds(network, tensors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_what_is_flattened_can_be_built_again(name, form, dtype):
    config = tiny.config(name)
    network = build_network(random_tensors(config, 2), config, dtype)
    network = network.reparameterized() if form == "deploy" else network
    tensors = flatten(network)
    assert {n: t.shape for n, t in tensors.items()} == expected_shapes(config, form)
    assert list(tensors) == list(expected_shapes(config, form))
    assert_holds(build_network(tensors, config, dtype), tensors, dtype)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "every-second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "nested-lists": lambda a: a.astype(np.float64).tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_in_memory_does_not_matter(layout):
    laid_out = {name: LAYOUTS[layout](array) for name, array in TENSORS.items()}
    assert_holds(build_network(laid_out, CONFIG), TENSORS)


def test_the_order_in_the_file_does_not_matter():
    config = tiny.config("se")
    want = tiny.tensors("se")
    assert_holds(build_network(dict(reversed(want.items())), config), want)


def test_the_caller_s_arrays_stay_the_caller_s():
    mine = {name: array.copy() for name, array in TENSORS.items()}
    network = build_network(mine, CONFIG)
    for array in mine.values():
        array[...] = 7
    assert_holds(network, TENSORS)


def test_what_only_training_reads_is_skipped_by_name():
    plus = {keymap.to_original(n, plus_first_half=1): t for n, t in TENSORS.items()}
    extra = {
        "stage0.rbr_dense.bn.num_batches_tracked": np.array(1000),
        "stage1_aux.0.conv.weight": np.zeros((4, 4, 3, 3)),
        "stage2_aux.0.bn.running_var": np.array([-1.0]),
        "stage3_first_aux.3.weight": np.array([np.nan]),
    }
    assert_holds(build_network(plus | extra, CONFIG), TENSORS)
    with pytest.raises(WeightsError, match=r"1 unexpected:\n    stage4_aux\.0\.conv\.weight"):
        build_network(plus | {"stage4_aux.0.conv.weight": np.zeros(4)}, CONFIG)


def test_embeddings_drop_the_classifier_and_nothing_else():
    headless = {n: t for n, t in TENSORS.items() if not n.startswith("head.")}
    config = tiny.config(num_classes=0)
    assert_holds(build_network(TENSORS, config), headless)
    assert_holds(build_network(headless, config), headless)
    with pytest.raises(WeightsError, match=r"1 unexpected:\n    head\.fc\.scale"):
        build_network(TENSORS | {"head.fc.scale": np.ones(5)}, config)


# --- What is refused ------------------------------------------------------------------------------


def change(**arrays):
    """The tensors with some replaced; the names are written with _ for the dots of the stem."""
    return TENSORS | {name.replace("__", "."): array for name, array in arrays.items()}


def without(*prefixes):
    return {n: t for n, t in TENSORS.items() if not n.startswith(prefixes)}


def put(name, value, at=0):
    array = TENSORS[name].astype(np.float64)
    array.flat[at] = value
    return TENSORS | {name: array}


REFUSED = {
    "missing": (without(VAR), rf"not a train-form file of this network\n  1 missing:\n    {VAR}$"),
    "missing, many": (without("stages.1."), r"24 missing:\n(    stages.+\n){5}    … and 19 more$"),
    "renamed": (
        without(VAR) | {VAR.replace("running", "runing"): TENSORS[VAR]},
        rf"1 missing:\n    {VAR} \(nearest: '\S+runing_var'\)\n"
        rf"  1 unexpected:\n    \S+runing_var \(nearest: '{VAR}'\)$",
    ),
    "unexpected": (change(stem__bias=np.ones(4)), r"1 unexpected:\n    stem\.bias$"),
    "unexpected, unprintable": (
        TENSORS | {"\x1b[31mstem\n": np.ones(4)}, r"unexpected:\n    \\x1b\[31mstem\\n\n  save it",
    ),
    "unexpected, endless": (
        TENSORS | {"x" * 10**6: np.ones(4)}, r"unexpected:\n    x{120}\n  save it",
    ),
    "misshapen": (
        TENSORS | {WEIGHT: TENSORS[WEIGHT].reshape(8, 72)},
        rf"1 misshapen:\n    {WEIGHT}: expected \(8, 8, 3, 3\), got \(8, 72\)$",
    ),
    "transposed": (
        TENSORS | {"stages.1.0.conv_kxk.conv.weight":
                   TENSORS["stages.1.0.conv_kxk.conv.weight"].swapaxes(0, 1)},
        r"expected \(8, 4, 3, 3\), got \(4, 8, 3, 3\)$",
    ),
    "a scalar": (TENSORS | {VAR: np.float32(1)}, rf"{VAR}: expected \(8,\), got \(\)$"),
    "grey weights": (
        tiny.tensors(in_chans=1),
        r"2 misshapen:\n    stem\.conv_kxk\.conv\.weight: expected \(4, 3, 3, 3\), got \(4, 1, 3, ",
    ),
    "another width": (tiny.tensors(widths=(4, 8, 8, 16)), r"11 misshapen:\n"),
    "another depth": (tiny.tensors(depths=(1, 2, 4, 1)), r"14 unexpected:\n    stages\.2\.3\."),
    "grouped weights": (tiny.tensors("groups"), r"4 misshapen:\n    stages\.1\.1\.conv_kxk"),
    "attention weights": (tiny.tensors("eca"), r"8 unexpected:\n    stem\.attn\.conv\.weight"),
    "another number of classes": (
        tiny.tensors(num_classes=7),
        r"the file has 7 classes, the network 5; pass num_classes=7 .* or num_classes=0 for emb",
    ),
    "no classifier": (without("head."), r"2 missing:\n    head\.fc\.weight\n    head\.fc\.bias$"),
    "both forms": (TENSORS | DEPLOY, r"not a deploy-form file of this network\n  92 unexpected:"),
    "half in each form": (
        without("stem.") | {n: t for n, t in DEPLOY.items() if n.startswith("stem.")},
        r"14 missing:\n(.+\n)+  82 unexpected:",
    ),
    "folded, but the stem": (
        {n: t for n, t in TENSORS.items() if n.startswith("stem.")}
        | {n: t for n, t in DEPLOY.items() if not n.startswith("stem.")},
        r"2 missing:\n    stem\.reparam_conv\.weight",
    ),
    "one tensor twice": (
        TENSORS | {f"module.{VAR}": TENSORS[VAR]},
        rf"two tensors claim the place of '{VAR}', one of them 'module\.{VAR}'$",
    ),
    "one tensor in both namings": (
        TENSORS | {keymap.to_original(VAR): TENSORS[VAR]},
        rf"two tensors claim the place of '{VAR}'",
    ),
    "nan": (put(WEIGHT, np.nan, 9), rf"{WEIGHT}': expected finite.*got nan at \[0, 1, 0, 0\] \(1 "),
    "inf": (put(WEIGHT, np.inf), "expected finite values, got inf"),
    "minus inf": (put("head.fc.bias", -np.inf, 4), r"head.fc.bias.* got -inf at \[4\]"),
    "negative variance": (put(VAR, -1e-9, 2), rf"{VAR}': expected variances of 0.* at \[2\]"),
    "beyond float32": (put(WEIGHT, 1e39), f"{WEIGHT}: a float64 value overflows float32"),
    "integers": (TENSORS | {VAR: np.ones(8, int)}, f"{VAR}: expected floating-point.*got int64"),
    "booleans": (TENSORS | {VAR: np.ones(8, bool)}, "got bool"),
    "complex": (TENSORS | {VAR: np.ones(8, complex)}, "got complex128"),
    "text": (TENSORS | {VAR: np.array(["1"] * 8)}, "expected floating-point values, got <U1"),
    "objects": (TENSORS | {VAR: np.array([None] * 8)}, "got object"),
    "dates": (TENSORS | {VAR: np.ones(8, "M8[s]")}, "got datetime64"),
    "ragged lists": (TENSORS | {VAR: [[1.0], [1.0, 2.0]]}, f"'{VAR}': expected an array, got set"),
    "nothing": ({}, "expected the tensor names of a RepVGG .* got no tensors at all"),
    "another network": ({"conv1.weight": np.ones(3)}, "got 'conv1.weight'"),
    "names that are numbers": ({1: np.ones(3)}, "got '1'"),
    "a list": ([1, 2], "expected a path or a dict of name → array, got list"),
    "none": (None, "expected a path or a dict of name → array, got NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_this_network_is_refused_and_named(case):
    tensors, message = REFUSED[case]
    with pytest.raises(WeightsError, match=message):
        build_network(tensors, CONFIG)


DAMAGES = {
    "removed": lambda name, array: {},
    "renamed": lambda name, array: {f"{name}_": array},
    "one longer": lambda name, array: {name: np.concatenate([array, array[:1]])},
    "wrapped": lambda name, array: {name: array[None]},
    "nan": lambda name, array: {name: np.where(np.arange(array.size) > 0, array.flat, np.nan)
                                .reshape(array.shape)},
    "integer": lambda name, array: {name: array.astype(np.int8)},
}  # fmt: skip


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_single_tensor_may_be_wrong(damage, form):
    tensors = TENSORS if form == "train" else DEPLOY
    for name, array in tensors.items():
        rest = {n: t for n, t in tensors.items() if n != name}
        with pytest.raises(WeightsError, match=name.replace(".", r"\.") + "|classes"):
            build_network(rest | DAMAGES[damage](name, array), CONFIG)


def test_float64_holds_what_float32_cannot():
    network = build_network(put(WEIGHT, 1e39), CONFIG, np.float64)
    assert flatten(network)[WEIGHT].flat[0] == 1e39


def test_zero_is_a_variance():
    assert_holds(build_network(put(VAR, 0.0), CONFIG), put(VAR, 0.0))
    assert flatten(build_network(put(VAR, -0.0), CONFIG))[VAR][0] == 0


NAMES = st.sampled_from([*TENSORS, *DEPLOY, "module.stem", "linear.weight"]) | st.text(max_size=9)
ARRAYS = st.sampled_from(
    [*TENSORS.values(), None, "x", [[1], [2, 3]], np.float32("nan"), np.zeros(0), object()]
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=3))
def test_any_dict_is_a_network_or_a_weights_error(changes):
    try:
        network = build_network(TENSORS | changes, CONFIG)
    except WeightsError:
        return
    assert list(flatten(network)) == list(TENSORS)


# --- Which network is it? -------------------------------------------------------------------------


def hollow(config, form):
    """Tensors of the right shapes that take no memory."""
    shapes = expected_shapes(config, form)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_of_the_table_is_known_by_its_tensors(variant, form):
    half = 12 if variant == "repvggplus_l2pse" else None
    for changes in ({}, {"num_classes": 7, "in_chans": 5}, {"num_classes": 0}):
        config = VARIANTS[variant].with_changes(**changes)
        tensors = hollow(config, form)
        assert infer_config(tensors) == (variant, config)
        original = {f"module.{keymap.to_original(n, plus_first_half=half)}": t
                    for n, t in tensors.items()}  # fmt: skip
        assert infer_config(original) == (variant, config)


A0 = hollow(VARIANTS["repvgg_a0"], "train")


@pytest.mark.parametrize(
    "tensors",
    [
        TENSORS,
        {n: t for n, t in A0.items() if n != "stages.1.1.identity.weight"},
        A0 | {"stages.0.0.attn.fc.bias": np.zeros(48)},
        A0 | {"head.fc.weight": np.zeros(1000)},
        A0 | {"head.fc.weight": np.float32(0)},
        A0 | {"stem.conv_kxk.conv.weight": np.zeros((48, 0, 3, 3))},
        A0 | {"stem.conv_kxk.conv.weight": np.zeros(48)},
    ],
    ids=["tiny", "missing", "unexpected", "head-1d", "head-0d", "no-channels", "stem-1d"],
)
def test_what_is_no_network_of_the_table_needs_a_name(tensors):
    with pytest.raises(WeightsError, match="no network of the table; give the name"):
        infer_config(tensors)


def under(prefix, tensors=A0):
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (under("encoder.") | {"decoder.w": 1}, "hold repvgg_a0 below 'encoder.': pass "
         r"prefix='encoder.' \(--prefix\) to take it alone; left over 'decoder.w'$"),
        (under("student.") | under("teacher.") | {"head.fc.bias": 1}, "hold repvgg_a0 below "
         "'student.', repvgg_a0 below 'teacher.': pass prefix='student.' .* left over 'head.fc.b"),
        (A0 | {f"criterion.{n}": 1 for n in range(5)}, "hold repvgg_a0 beside 'criterion.0', "
         r"'criterion.1', 'criterion.2' … \(5 in all\): save it without those$"),
        (TENSORS | {"loss.w": 1}, "give the name of the network .*; not a RepVGG's are 'loss.w'$"),
        (hollow(VARIANTS["repvgg_b0"], "train") | {"x": 1}, "hold repvgg_b0 beside 'x'"),
    ],
    ids=["encoder", "two", "criterion", "tiny", "a1-is-inside-b0"],
)  # fmt: skip
def test_what_is_left_over_beside_a_network_is_named(tensors, message):
    with pytest.raises(WeightsError, match=message):
        infer_config(tensors)


def test_wrappers_and_counters_inside_are_no_names():
    inside = "._fsdp_wrapped_module.0._orig_mod."
    wrapped = {name.replace(".0.", inside): tensor for name, tensor in A0.items()}
    assert f"stages.1{inside}conv_kxk.conv.weight" in wrapped
    wrapped |= {"total_ops": np.zeros(1), "stem.conv_kxk.conv.total_params": np.zeros(1)}
    assert infer_config(wrapped)[0] == "repvgg_a0"
    with pytest.raises(WeightsError, match="two tensors claim the place of"):
        infer_config(wrapped | {WEIGHT: 0, WEIGHT.replace("1.1", "1.module.1"): 0})


def test_names_come_out_in_timm_s_spelling():
    original = {keymap.to_original(n): t for n, t in TENSORS.items()}
    assert list(normalize_names(original)) == list(TENSORS)


# --- Random weights -------------------------------------------------------------------------------


def test_a_seed_fixes_the_weights():
    first, again, other = (random_tensors(CONFIG, seed) for seed in (3, 3, 4))
    for name in TENSORS:
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any(), name


def test_random_kernels_keep_the_size_of_what_they_read():
    tensors = random_tensors(tiny.config(widths=(8, 8, 32, 64), num_classes=99), 0)
    large = [name for name, array in tensors.items() if array.ndim > 1 and array.size > 1000]
    assert len(large) > 5
    for name in large:
        array = tensors[name]
        spread = array.std() * np.sqrt(array[0].size)
        assert 0.9 < spread < 1.1, name
        assert abs(array.mean()) * np.sqrt(array[0].size) < 0.1, name


@pytest.mark.parametrize("depths", [(3,), (1, 2), (1, 1, 4)])
def test_fewer_stages_are_a_network_too(depths):
    config = tiny.config(depths=depths, widths=(4, 8, 8)[: len(depths)],
                         strides=(2, 2, 2)[: len(depths)])  # fmt: skip
    tensors = random_tensors(config, 0)
    half = depths[2] // 2 if len(depths) == 3 else None
    original = {keymap.to_original(n, plus_first_half=half): t for n, t in tensors.items()}
    assert_holds(build_network(original, config), tensors)


def test_random_statistics_are_away_from_0_and_1_so_that_no_wrong_fold_can_hide():
    for name, array in TENSORS.items():
        assert array.dtype == np.float32
        if name.endswith(("bn.weight", "identity.weight")):
            assert 0.25 <= array.min() <= array.max() <= 0.75
        elif name.endswith("running_var"):
            assert 0.5 <= array.min() <= array.max() <= 1.5
            assert abs(array - 1).max() > 0.01
        elif array.ndim == 1:
            assert 0 < abs(array).max() <= 0.1
