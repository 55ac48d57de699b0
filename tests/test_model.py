"""The model in people's hands: every method and attribute, what goes in, what comes out."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny

from npvgg import ArgumentError, FeatureNet, RepVGG, create_model
from npvgg.engines import compiled, packing, reference
from npvgg.weights.build import flatten
from tests.oracles import judge

NETWORKS = pytest.mark.parametrize("network", tiny.NETWORKS)


# --- How the answers hang together ----------------------------------------------------------------


def test_every_public_name_is_known_here():
    """A new method or attribute needs a test, then a place in this list."""
    assert {name for name in vars(tiny.model()) if not name.startswith("_")} == {
        "caveats", "config", "feature_info", "name", "origin", "pretrained_cfg",
    }  # fmt: skip
    assert {name for name in vars(RepVGG) if not name.startswith("_")} == {
        "classify", "default_cfg", "drop_rate", "dtype", "engine", "form", "forward",
        "forward_features", "forward_head", "forward_intermediates", "get_classifier",
        "global_pool", "group_matcher",
        "head_hidden_size", "in_chans", "load_state_dict", "network", "num_classes",
        "num_features", "outputs", "prune_intermediate_layers", "reset_classifier", "save",
        "stage_ends", "state_dict",
    }  # fmt: skip


@NETWORKS
def test_attributes_tell_what_it_is(network):
    model = tiny.model(network, reparameterize=False)
    config = tiny.config(network)
    assert (model.name, model.form, model.engine) == ("repvgg_a0", "train", "reference")
    assert (model.dtype, model.config, model.num_classes) == (
        np.float32, config, config.num_classes,
    )  # fmt: skip
    assert model.num_features == config.widths[-1]
    assert list(model.state_dict()) == list(tiny.tensors(network))
    assert tiny.model(network).form == "deploy"


@NETWORKS
@pytest.mark.parametrize("engine", ["reference", "im2col", "winograd"])
@pytest.mark.parametrize("fold", [False, True], ids=["train", "deploy"])
def test_one_run_gives_the_bits_of_every_single_question(network, engine, fold, rng):
    model = tiny.model(network, engine=engine, reparameterize=fold)
    x = tiny.photos(model, rng, n=3)
    names = [block.spec.name for block in model.network.blocks]
    every, none, some = (model.outputs(x, maps) for maps in (True, False, [names[5], names[2]]))
    assert list(every.maps) == names
    assert none.maps == {}
    assert list(some.maps) == [names[2], names[5]]
    for name, y in some.maps.items():
        np.testing.assert_array_equal(y, every.maps[name])
    last, taps = model.forward_intermediates(x)
    np.testing.assert_array_equal(every.maps[names[-1]], last)
    for info, y in zip(model.feature_info, taps, strict=True):
        np.testing.assert_array_equal(every.maps[names[info["block"]]], y)
    for got in (every, none, some):
        np.testing.assert_array_equal(got.logits, model(x))
        np.testing.assert_array_equal(got.logits, model.forward_head(last))
        np.testing.assert_array_equal(got.pooled, model.forward_head(last, pre_logits=True))
    empty = model.outputs(x[:0], maps=True)
    assert [y.shape for y in (*empty.maps.values(), empty.pooled, empty.logits)] == [
        (0, *y.shape[1:]) for y in (*every.maps.values(), every.pooled, every.logits)
    ]


@pytest.mark.parametrize("engine", ["im2col", "winograd"])
def test_an_image_s_head_has_the_same_bits_in_any_batch(engine, rng):
    changes = {"widths": (4, 8, 8, 80), "num_classes": 33}
    model = tiny.model("plain", engine=engine, changes=changes)
    last = rng.standard_normal((130, 80, 3, 2)).astype(np.float32)  # more than one slice
    whole = model.forward_head(last)
    for i in (0, 77, 129):
        np.testing.assert_array_equal(model.forward_head(last[i : i + 1])[0], whole[i])
    head = model.network.head
    truth = last.astype(np.float64).mean((2, 3)) @ head.weight.T + head.bias
    terms = abs(last).mean((2, 3)) @ abs(head.weight.T) + abs(head.bias)
    assert (abs(whole - truth) <= 90 * 2**-24 * terms).all()  # 6 + 80 additions, 2 products, bias


@pytest.mark.parametrize("maps", ["stem", ["stem", "stages.9.9"], [0], 5, None])
def test_maps_that_are_not_there_are_refused(maps, rng):
    model = tiny.model()
    with pytest.raises(ArgumentError, match=r"maps: expected True, False or a list of blocks"):
        model.outputs(tiny.photos(model, rng), maps)


@NETWORKS
def test_the_whole_is_its_parts(network, rng):
    model = tiny.model(network)
    x = tiny.photos(model, rng)
    last = model.forward_features(x)
    pooled = model.forward_head(last, pre_logits=True)
    np.testing.assert_array_equal(model(x), model.forward_head(last))
    assert last.shape[:2] == (2, model.num_features)
    vector = (2, model.config.num_pooled_features)
    assert pooled.shape == (vector if model.config.global_pool else last.shape)
    np.testing.assert_array_equal(tiny.model(network, changes={"num_classes": 0})(x), pooled)
    outputs = (2, model.num_classes) if model.num_classes else pooled.shape
    assert model(x).shape == outputs
    assert {y.dtype for y in (last, pooled, model(x))} == {np.dtype(np.float32)}


@NETWORKS
def test_feature_info_foretells_the_maps(network, rng):
    model = tiny.model(network)
    x = tiny.photos(model, rng)
    last, maps = model.forward_intermediates(x)
    np.testing.assert_array_equal(last, model.forward_features(x))
    np.testing.assert_array_equal(last, maps[-1])
    info = model.feature_info
    sizes = [(-(-13 // r), -(-10 // r)) for r in info.reduction()]
    assert [y.shape for y in maps] == [
        (2, c, *size) for c, size in zip(info.channels(), sizes, strict=True)
    ]
    assert info.channels() == [entry["num_chs"] for entry in info]
    assert info.module_name() == [entry["module"] for entry in info]
    assert info.module_name()[-1] == "final_conv"


FULL = [0, 1, 2, 3, 4]
TAKEN = {  # as timm 1.0.31 `feature_take_indices`; maps always come in order of execution
    "all by default": (None, FULL),
    "the last one": (1, [4]),
    "the last three": (3, [2, 3, 4]),
    "all by number": (5, FULL),
    "the first": ([0], [0]),
    "from the end": ([-1, -5], [0, 4]),
    "a tuple": ((1, 3), [1, 3]),
    "out of order": ([4, 0, 2], [0, 2, 4]),
    "twice": ([2, 2, -3], [2]),
    "a range": (range(1, 4), [1, 2, 3]),
    "an array": (np.array([3, 1]), [1, 3]),
    "numpy's integers": ([np.int64(1)], [1]),
    "numpy's integer": (np.int8(2), [3, 4]),
}


@pytest.mark.parametrize("case", TAKEN)
def test_indices_choose_maps_as_in_timm(case, rng):
    indices, want = TAKEN[case]
    model = tiny.model()
    x = tiny.photos(model, rng)
    last, everything = model.forward_intermediates(x)
    final, maps = model.forward_intermediates(x, indices)
    np.testing.assert_array_equal(final, last)
    alone = model.forward_intermediates(x, indices, intermediates_only=True)
    early, stopped = model.forward_intermediates(x, indices, stop_early=True)
    np.testing.assert_array_equal(early, everything[want[-1]])
    net = tiny.model(features_only=True, out_indices=indices)
    assert net.out_indices == tuple(want)
    assert net.feature_info.get_dicts() == [model.feature_info[i] for i in want]
    for found in (maps, alone, stopped, net(x)):
        assert len(found) == len(want)
        for y, index in zip(found, want, strict=True):
            np.testing.assert_array_equal(y, everything[index])


@pytest.mark.parametrize(
    "indices",
    [0, -1, 6, [5], [-6], [], (), [0, 5], True, [True], 1.0, [1.0], "1", ["1"], {1, 2}, [None],
     np.array([[0, 1]]), np.array([0.0])],
    ids=repr,
)  # fmt: skip
def test_indices_that_choose_nothing_are_refused(indices, rng):
    model = tiny.model()
    with pytest.raises(ArgumentError, match="indices: expected"):
        model.forward_intermediates(tiny.photos(model, rng), indices)
    with pytest.raises(ArgumentError, match="indices: expected"):
        tiny.model(features_only=True, out_indices=indices)


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, 8),
        ({"stop_early": True}, 4),
        ({"intermediates_only": True}, 4),
        ({"stop_early": True, "intermediates_only": True}, 4),
    ],
)
def test_no_block_runs_in_vain(options, blocks, rng, monkeypatch):
    model, run = tiny.model(), []
    monkeypatch.setattr(
        reference, "forward_block", lambda block, x, f=reference.forward_block: (
            run.append(block.spec.name), f(block, x))[1],
    )  # fmt: skip
    model.forward_intermediates(tiny.photos(model, rng), [1, 2], **options)
    assert len(run) == blocks


def test_a_feature_net_has_no_head_and_needs_none(rng):
    net = tiny.model(features_only=True)
    assert isinstance(net, FeatureNet)
    assert (net.model.num_classes, net.out_indices) == (0, (0, 1, 2, 3, 4))
    assert net.pretrained_cfg is net.model.pretrained_cfg
    headless = {n: t for n, t in tiny.tensors().items() if not n.startswith("head.")}
    bare = create_model(
        "repvgg_a0", weights=headless, features_only=True, engine="reference", **tiny.keywords()
    )
    x = tiny.photos(net.model, rng)
    for y, z in zip(net(x), bare(x), strict=True):
        np.testing.assert_array_equal(y, z)


@NETWORKS
def test_train_and_deploy_form_give_one_answer(network, rng):
    """To twelve digits in float64; in float32 both are as near the truth as one of them."""
    forms = {"train": False, "deploy": True}
    x = tiny.photos(tiny.model(network), rng)

    def answers(dtype, fold):
        model = tiny.model(network, dtype=dtype, reparameterize=fold)
        last, maps = model.forward_intermediates(x)
        return {"logits": model(x), "last": last, **{f"map {i}": y for i, y in enumerate(maps)}}

    double = {form: answers(np.float64, fold) for form, fold in forms.items()}
    single = {form: answers(np.float32, fold) for form, fold in forms.items()}
    judge.assert_float64(double["deploy"], double["train"])
    judge.assert_float32(single["deploy"], single["train"], double["train"])


def test_repr_tells_what_matters():
    model = tiny.model("grey", changes={"num_classes": 7}, reparameterize=False, dtype="float64")
    assert repr(model) == (
        "<RepVGG repvgg_a0: train form, 7 classes, float64, engine reference, made for 1×224×224>"
    )
    assert "deploy form, 1 class, float32" in repr(tiny.model(changes={"num_classes": 1}))
    assert repr(tiny.model(features_only=True, out_indices=[0])).startswith(
        "<FeatureNet (0,) of <RepV"
    )


# --- What goes in ---------------------------------------------------------------------------------

GOOD = np.zeros((2, 3, 5, 4), np.float32)
REFUSED = {
    "three axes": (
        GOOD[0],
        r"\(N, 3, H, W\) of a floating-point type, got \(3, 5, 4\) float32",
    ),
    "channels last": (
        GOOD.transpose(0, 2, 3, 1),
        r"got \(2, 5, 4, 3\) float32; channels",
    ),
    "four channels": (np.zeros((1, 4, 5, 4), np.float32), r"got \(1, 4, 5, 4\)"),
    "no channels": (GOOD[:, :0], r"got \(2, 0, 5, 4\)"),
    "bytes": (GOOD.astype(np.uint8), r"got \(2, 3, 5, 4\) uint8"),
    "integers": (GOOD.astype(int), "got .* int64"),
    "booleans": (GOOD.astype(bool), "got .* bool"),
    "complex": (GOOD.astype(complex), "got .* complex128"),
    "objects": (GOOD.astype(object), "got .* object"),
    "no rows": (GOOD[:, :, :0], r"expected at least one pixel, got shape \(2, 3, 0, 4\)"),
    "no columns": (GOOD[:, :, :, :0], r"expected at least one pixel, got shape \(2, 3, 5, 0\)"),
    "ragged lists": ([[1.0], [1.0, 2.0]], "expected .* got setting an array element"),
    "text": ("cat.png", r"got \(\) <U7"),
    "none": (None, r"got \(\) object"),
    "beyond float32": (np.full((1, 3, 5, 4), 1e39), "a float64 value overflows float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_batch_of_images_is_refused(case):
    model, (x, message) = tiny.model(), REFUSED[case]
    for method in (model, model.forward_features, model.forward_intermediates):
        with pytest.raises(ArgumentError, match=f"^x: .*{message}"):
            method(x)


def test_the_head_takes_maps_of_its_own_channels(rng):
    model = tiny.model()
    with pytest.raises(
        ArgumentError, match=r"x: expected \(N, 12, H, W\) of a floating-point type, got"
    ):
        model.forward_head(tiny.photos(model, rng))


def view_of(x, kind):
    """The same numbers, laid out otherwise."""
    match kind:
        case "fortran":
            return np.asfortranarray(x)
        case "channels last in memory":
            return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        case "every second":
            return np.repeat(x, 2, axis=3)[..., ::2]
        case "backwards":
            return np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]
        case "big-endian":
            return x.astype(">f4")
        case "float64":
            return x.astype(np.float64)
        case "lists":
            return x.tolist()
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["fortran", "channels last in memory", "every second", "backwards", "big-endian", "float64",
     "lists"],
)  # fmt: skip
def test_the_layout_of_the_images_does_not_matter(kind, rng):
    model = tiny.model()
    x = tiny.photos(model, rng)
    np.testing.assert_array_equal(model(view_of(x, kind)), model(x))


def test_half_precision_is_widened(rng):
    model = tiny.model()
    x = tiny.photos(model, rng).astype(np.float16)
    np.testing.assert_array_equal(model(x), model(x.astype(np.float32)))


@NETWORKS
@pytest.mark.parametrize("fold", [False, True], ids=["train", "deploy"])
def test_no_input_is_written_to(network, fold, rng):
    model = tiny.model(network, reparameterize=fold)
    x = tiny.photos(model, rng)
    before = x.copy()
    x.flags.writeable = False
    last, _ = model.forward_intermediates(x)
    model(x)
    last.flags.writeable = False
    kept = last.copy()
    model.forward_head(last)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(last, kept)


@NETWORKS
def test_an_empty_batch_has_the_shapes_of_any_other(network, rng):
    model = tiny.model(network)
    x = tiny.photos(model, rng)
    last, maps = model.forward_intermediates(x[:0])
    for got, want in (
        (model(x[:0]), model(x)),
        (last, model.forward_features(x)),
        *zip(maps, model.forward_intermediates(x)[1], strict=True),
    ):
        assert (got.shape, got.dtype) == ((0, *want.shape[1:]), want.dtype)


@NETWORKS
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 2)], ids=str)
def test_any_size_will_do(network, size, rng):
    model = tiny.model(network)
    x = tiny.images(rng, 1, model.config.in_chans, *size, dtype=np.float32)
    assert np.isfinite(model(x)).all()


@NETWORKS
def test_images_know_nothing_of_each_other(network, rng):
    model = tiny.model(network, dtype=np.float64)
    x = tiny.photos(model, rng, n=3, dtype=np.float64)
    want = model(x)
    for n in range(3):
        got = model(x[n : n + 1])[0]
        assert abs(got - want[n]).max() <= judge.float64_bound(abs(want).max())
    x[1] = np.nan
    spoilt = model(x)
    assert np.isnan(spoilt[1]).all()
    assert abs(spoilt[[0, 2]] - want[[0, 2]]).max() <= judge.float64_bound(abs(want).max())


def test_many_threads_may_ask_at_once(rng):
    model = tiny.model()
    batches = [tiny.photos(model, rng) for _ in range(24)]
    want = [model(x) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        for got, expected in zip(pool.map(model, batches), want, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("fold", [False, True], ids=["train", "deploy"])
def test_a_model_cannot_be_changed_from_outside(fold, rng):
    """Engines pack weights once: a change would be seen by one and not by another."""
    model = tiny.model("se", reparameterize=fold)
    x = tiny.photos(model, rng)
    want = model(x)
    for array in model.state_dict().values():
        array[...] = 0
    np.testing.assert_array_equal(model(x), want)
    for array in flatten(model.network).values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    for owner, name in (
        (model, "dtype"), (model.network, "blocks"), (model.network.head, "weight"),
        (model.network.blocks[0], "form"), (model.network.blocks[0].form, "bias"),
        (model.config, "depths"),
    ):  # fmt: skip
        with pytest.raises(AttributeError):
            setattr(owner, name, None)


def test_a_model_travels_to_other_processes(rng):
    for model in (tiny.model("se"), tiny.model(features_only=True).model):
        x = tiny.photos(model, rng)
        copy = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(copy(x), model(x))
        assert repr(copy) == repr(model)


def test_a_block_gives_its_one_convolution_in_either_form():
    train, deploy = (tiny.model("groups", reparameterize=r).network for r in (False, True))
    for a, b in zip(train.blocks, deploy.blocks, strict=True):
        assert b.fused is b.form
        np.testing.assert_array_equal(a.fused.weight, b.form.weight)
        np.testing.assert_array_equal(a.fused.bias, b.form.bias)
    assert train.head.classifier == (train.head.weight, train.head.bias)
    with pytest.raises(ArgumentError, match="num_classes: expected a network with a class"):
        tiny.model("embedding").network.head.classifier  # noqa: B018 - a property that raises


# --- Shared weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [False, True], ids=["train", "deploy"])
@pytest.mark.parametrize("engine", ["winograd", "im2col", "reference"])
def test_classifier_embedder_and_feature_net_share_one_set_of_weights(
    monkeypatch, rng, engine, fold
):
    """From eight threads at once: every convolution is packed once, whoever comes first."""
    packed = []
    monkeypatch.setattr(compiled, "pack", lambda *a: packed.append(a[3].nbytes) or packing.pack(*a))
    model = tiny.model(engine=engine, reparameterize=fold)
    alone = tiny.model(engine=engine, reparameterize=fold)
    x = tiny.photos(model, rng)
    whole = alone.outputs(x, maps=True)
    bytes_of_one, convolutions = sum(packed), len(packed)
    assert convolutions == (engine != "reference") * (1 + len(whole.maps) * (1 if fold else 2))
    packed.clear()

    embedder = copy.copy(model)
    embedder.reset_classifier(0)
    maps = FeatureNet(model, (1, 3))
    assert (model.num_classes, embedder.num_classes, maps.model.num_classes) == (5, 0, 0)
    with ThreadPoolExecutor(8) as pool:
        logits, vectors, (_, late) = pool.map(lambda run: run(x), (model, embedder, maps))
    np.testing.assert_array_equal(logits, whole.logits)
    np.testing.assert_array_equal(vectors, whole.pooled)
    np.testing.assert_array_equal(late, alone.forward_intermediates(x)[1][3])
    assert (sum(packed), len(packed)) == (bytes_of_one, convolutions)


def test_a_copy_that_is_given_other_weights_leaves_the_others_theirs(rng):
    model = tiny.model(engine="winograd")
    x = tiny.photos(model, rng)
    other, headed, before = copy.copy(model), copy.copy(model), model(x)
    other.load_state_dict(tiny.tensors(seed=1))
    headed.reset_classifier(3)
    assert headed(x).shape == (2, 3)
    assert not np.array_equal(other(x), before)
    np.testing.assert_array_equal(model(x), before)
    np.testing.assert_array_equal(headed.forward_features(x), model.forward_features(x))
    assert model.get_classifier().out_features == 5
