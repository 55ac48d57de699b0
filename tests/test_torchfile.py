"""PyTorch's files: judged by files that an independent writer makes; see also the hostile ones."""

import argparse
import re
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import tiny
import torchwriter
from torchfiles import X, Y, assert_same, both, refused
from torchwriter import (
    ORDERED,
    Global,
    Made,
    Storage,
    parameter,
    state_dict,
    stream_file,
    tensor,
    whole,
    zip_file,
)  # fmt: skip

import npvgg
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import bfloat16, checkpoint

GOLDEN = Path(__file__).parent / "golden"


def arrays_of_every_dtype(rng):
    return {
        f"{dtype}-{len(shape)}": np.array(rng.integers(0, 2, shape) * 3, dtype)
        for dtype in torchwriter.KINDS
        for shape in [(), (0,), (3,), (2, 0, 5), (5, 3, 1, 2)]
    }


# --- What is there comes back ---------------------------------------------------------------------


@both
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_shape(load, rng, make, protocol):
    want = arrays_of_every_dtype(rng)
    got = load(make(state_dict(want), protocol=protocol))
    assert_same(got.tensors, want)
    assert got.format == {zip_file: "torch zip", stream_file: "torch stream"}[make]
    assert (got.key, got.others, got.ignored, got.metadata) == ("", (), {}, {})
    assert got.stored["f2-1"] == "F16"
    assert got.stored["b1-0"] == "BOOL"


@both
def test_bfloat16_is_widened_exactly(load, make):
    values = np.float32([1.0, -2.5, 3.140625, np.inf, 2.0**-133])
    bits = bfloat16.narrow(values)
    storage = Storage("0", "BFloat16Storage", bits.tobytes(), 5)
    got = load(make({"w": tensor(storage, 0, (5,), (1,)), "e": tensor(storage, 5, (0,), (1,))}))
    assert_same(got.tensors, {"w": values, "e": np.empty(0, np.float32)})
    assert got.stored == {"w": "BF16", "e": "BF16"}


@both
@pytest.mark.parametrize(
    ("first", "size", "stride", "expected"),
    [
        (0, (4, 6), (6, 1), lambda x: x.reshape(4, 6)),
        (0, (6, 4), (1, 6), lambda x: x.reshape(4, 6).T),
        (7, (2, 3), (6, 2), lambda x: x.reshape(4, 6)[1:3, 1::2]),
        (5, (3,), (1,), lambda x: x[5:8]),
        (23, (), (), lambda x: x[23]),
        (3, (2, 5), (0, 1), lambda x: np.stack([x[3:8]] * 2)),
        (0, (5, 3), (2, 1), lambda x: np.stack([x[i : i + 3] for i in range(0, 10, 2)])),
        (23, (1, 1), (2**62, 5), lambda x: x[23:].reshape(1, 1)),
        (999, (0, 3), (2**70, 1), lambda x: np.empty((0, 3))),
    ],
    ids=["whole", "transposed", "sliced", "part", "scalar", "expanded", "overlapping", "one",
         "empty"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["f4", "i8", "f2"])
def test_views(load, make, dtype, first, size, stride, expected):
    x = np.arange(24).astype(dtype)
    got = load(make({"w": tensor(torchwriter.storage_of(x, "0"), first, size, stride)}))
    assert_same(got.tensors, {"w": expected(x).astype(dtype)})


@both
def test_tensors_may_share_a_storage(load, make):
    storage = torchwriter.storage_of(np.arange(6.0), "0")
    got = load(make({"a": tensor(storage, 0, (3,), (1,)), "b": tensor(storage, 2, (4,), (1,))}))
    assert_same(got.tensors, {"a": np.arange(3.0), "b": np.arange(2.0, 6.0)})


@both
def test_parameters_buffers_and_tensors_with_attributes(load, make):
    x = np.arange(3, dtype=np.float32)
    inner = whole(x, "0")

    def from_type(kind):
        function, args = inner.maker, inner.args
        return Made(
            Global("torch._tensor", "_rebuild_from_type_v2"), (function, kind, args, {"a": 1})
        )

    with_state = Made(
        Global("torch._utils", "_rebuild_parameter_with_state"),
        (inner, True, Made(ORDERED), {"a": 1}),
    )
    value = {
        "p": parameter(inner), "s": with_state,
        "b": from_type(Global("torch.nn.parameter", "Buffer")),
        "t": parameter(from_type(Global("torch", "Tensor"))),
    }  # fmt: skip
    assert_same(load(make(value)).tensors, {"p": x, "s": x, "b": x, "t": x})


@both
def test_early_and_late_ways_to_rebuild_a_tensor(load, make):
    x = np.arange(4, dtype=np.uint16)
    untyped = Storage("0", "UntypedStorage", x.tobytes(), 8, module="torch.storage")
    late = Made(
        Global("torch._utils", "_rebuild_tensor_v3"),
        (untyped, 1, (3,), (1,), False, Made(ORDERED), Global("torch", "uint16")),
    )
    storage = torchwriter.storage_of(np.arange(4.0), "1")
    early = Made(Global("torch._utils", "_rebuild_tensor"), (storage, 0, (4,), (1,)))
    sized = tensor(storage, 0, Made(Global("torch", "Size"), ((2, 2),)), (2, 1))
    got = load(make({"late": late, "early": early, "sized": sized}))
    want = {"late": x[1:], "early": np.arange(4.0), "sized": np.arange(4.0).reshape(2, 2)}
    assert_same(got.tensors, want)


def test_cuda_storages_and_parts_of_storages_in_old_files(load):
    x = np.arange(10, dtype=np.float32)
    storage = Storage("0", "FloatStorage", x.tobytes(), 10, "torch.cuda", view=("v", 4, 5))
    got = load(stream_file({"w": tensor(storage, 1, (2, 2), (2, 1))}))
    assert_same(got.tensors, {"w": x[5:9].reshape(2, 2)})


@both
def test_an_ordered_dict_of_any_age(load, make):
    x = np.arange(3.0)
    python2 = Made(ORDERED, ([["w", whole(x, "0")]],))
    assert_same(load(make(python2)).tensors, {"w": x})


def test_big_endian_files(load, rng):
    want = arrays_of_every_dtype(rng)
    data = zip_file(state_dict(want, big_endian=True), byteorder="big")
    assert_same(load(data).tensors, want)


def test_a_file_without_byteorder_is_little_endian(load):
    assert_same(load(zip_file(state_dict({"w": np.arange(3.0)}), byteorder=None)).tensors,
                {"w": np.arange(3.0)})  # fmt: skip


@pytest.mark.parametrize("folder", ["archive", "model", "ünï", "a.b c"])
def test_the_folder_s_name_does_not_matter(load, folder):
    data = zip_file(state_dict({"w": np.arange(3.0)}), folder=folder)
    assert_same(load(data).tensors, {"w": np.arange(3.0)})


def test_a_safetensors_header_that_begins_like_a_pickle_is_none(tmp_path):
    rest = len('{"__metadata__":{"":""},"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}')
    for size in range(2, 6):  # 0x80 0x02 … as the length of the header
        metadata = {"": "m" * (0x80 + 0x100 * size - rest)}
        path = tmp_path / str(size)
        checkpoint.save_safetensors(path, {"w": np.array(1, np.float32)}, metadata)
        assert path.read_bytes()[:2] == bytes([0x80, size])
        assert checkpoint.load_with_metadata(path).format == "safetensors"


# --- Which of the weights -------------------------------------------------------------------------


class CfgNode(dict):
    """Configurations of the original are dicts of a class of their own."""


LEFT = {
    "epoch": 3,
    "config": CfgNode(lr=0.1, data=CfgNode(size=224)),
    "optimizer": {"state": {0: {"momentum_buffer": whole(X, "x8")}}, "param_groups": [{"lr": 0.1}]},
    "args": argparse.Namespace(lr=0.1),
    "rng": whole(np.zeros(4, np.uint8), "x9"),
}


@both
@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        (["state_dict"], "state_dict"),
        (["model"], "model"),
        (["model", "model_ema"], "model_ema"),
        (["model", "state_dict"], "state_dict"),
        (["state_dict", "state_dict_ema", "model_ema"], "state_dict_ema"),
    ],
)
def test_the_usual_wrapper_is_taken_and_reported(load, make, keys, taken):
    value = LEFT | {k: {"w": whole(X if k == taken else Y, i)} for i, k in enumerate(keys)}
    got = load(make(value))
    assert_same(got.tensors, {"w": X})
    assert got.key == taken
    assert set(got.others) == set(keys) - {taken}
    assert tuple(got.ignored) == tuple(LEFT)


@both
def test_a_wrapper_can_be_chosen(load, make):
    value = LEFT | {"state_dict": {"w": whole(X, "0")}, "teacher": {"v": whole(Y, "1")}}
    got = load(make(value), wrapper="teacher")
    assert_same(got.tensors, {"v": Y})
    assert (got.key, got.others) == ("teacher", ("state_dict",))
    got = load(make(value), wrapper="")
    assert list(got.tensors) == ["rng"]
    refused(load, make(value), "expected weights under 'pupil', found 'state_dict', 'teacher'",
            wrapper="pupil")  # fmt: skip
    refused(load, make(value), "under 'epoch'", wrapper="epoch")


def test_the_only_set_of_weights_is_taken_whatever_its_key(load):
    value = {"net": {"w": whole(X, "0")}, "epoch": 1, 7: 8}
    got = load(zip_file(value))
    assert (got.key, tuple(got.ignored)) == ("net", ("epoch", "7"))
    value["critic"] = {"w": whole(Y, "1")}
    refused(load, zip_file(value), "several sets of weights: 'net', 'critic'; choose")


class Own(dict):
    """A dict of a class that only its program has."""


def test_a_defaultdict_is_a_dict_and_a_class_of_its_own_is_not(load):
    tensors = {"a.w": whole(X, "0"), "b.w": whole(Y, "1")}
    for value in (defaultdict(list, tensors), {"model": defaultdict(None, tensors)}):
        assert list(load(zip_file(value)).tensors) == ["a.w", "b.w"]
    for value in (Own(tensors), {"model": Own(tensors)}):
        refused(
            load,
            zip_file(value),
            r"a dict of a class of its own \('.*Own'\).* a plain dict\(\) of it",
        )


PATHS = {"a.w": whole(X, "0"), "b.w": whole(X, "1")}
STRAY = whole(Y, "9")


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"model_state_dict": PATHS, "loss": STRAY, "epoch": 3}, "model_state_dict"),
        ({"best": STRAY, "state_dict": PATHS, "mean": STRAY, "std": STRAY}, "state_dict"),
        ({"weights": PATHS, "stats": {"mean": STRAY, "std": STRAY}}, "weights"),
        ({"net": {"params": PATHS, "depth": 3}, "class_weights": STRAY}, "net.params"),
        ({"a": {"b": {"c": PATHS}}}, "a.b.c"),
        ({"loss": STRAY} | PATHS, ""),
        ({"loss": STRAY, "w": STRAY}, ""),
    ],
)
def test_the_one_set_of_weights_is_found_beside_single_tensors(load, value, key):
    got = load(zip_file(value))
    assert got.key == key
    assert set(got.tensors) >= ({"a.w", "b.w"} if key else {"loss"})
    assert load(zip_file(value), wrapper=key).tensors.keys() == got.tensors.keys()


def test_two_sets_of_weights_are_listed_with_the_option_that_chooses(load):
    value = {"student": PATHS, "teacher": {"deep": PATHS}, "loss": STRAY}
    refused(
        load, zip_file(value), r"sets of weights: 'student', 'teacher.deep'; .* \(wrapper=, --wr"
    )
    got = load(zip_file(value), wrapper="teacher.deep")
    assert (got.key, got.others) == ("teacher.deep", ("student",))
    assert got.ignored == {"loss": "a single tensor"}
    assert list(load(zip_file(value), wrapper="").tensors) == ["loss"]


def test_a_prefix_takes_what_is_below_it(tmp_path, rng):
    arrays = tiny.tensors()
    path = tmp_path / "lightning.ckpt"
    named = {f"backbone.net.{name}": array for name, array in arrays.items()}
    path.write_bytes(zip_file({"state_dict": state_dict(named | {"loss_fn.weight": Y})}))
    options = {"engine": "reference", **tiny.keywords()}
    with pytest.raises(WeightsError, match=r"pass prefix='backbone.net.' \(--prefix\)"):
        npvgg.create_model("repvgg_a0", weights=path, **options)
    got = npvgg.create_model("repvgg_a0", weights=path, prefix="backbone.net.", **options)
    assert got.origin.ignored == {"loss_fn.weight": "a tensor"}
    x = tiny.images(rng, dtype=np.float32)
    want = npvgg.create_model("repvgg_a0", weights=arrays, **options)
    np.testing.assert_array_equal(got(x), want(x))
    for prefix in ("head.", "backbone.net.stem.conv_kxk.conv.weight"):
        with pytest.raises(WeightsError, match=f"expected tensors below '{prefix}', got 'backbone"):
            checkpoint.load(path, prefix=prefix)
    with pytest.raises(ArgumentError, match="prefix: expected a weights file with it"):
        npvgg.create_model("repvgg_a0", weights=arrays, prefix="x")
    for before, advice in (
        ("", "save it without"),
        ("model.", r"prefix='model.' \(--prefix\) take"),
    ):
        file = {before + name: array for name, array in arrays.items()} | {"loss_fn.weight": Y}
        with pytest.raises(WeightsError, match=rf"1 unexpected:\n +loss_fn.weight\n  {advice}"):
            npvgg.create_model("repvgg_a0", weights=file, **options)


@pytest.mark.parametrize("before", ["", "encoder.", "encoder.model.", "module.encoder."])
def test_timm_s_features_only_weights_are_a_network_without_a_classifier(before, rng):
    arrays = tiny.tensors()
    flat = {
        before + re.sub(r"^stages\.", "stages_", name): array
        for name, array in arrays.items() if not name.startswith("head.")
    }  # fmt: skip
    keywords = {n: v for n, v in tiny.keywords().items() if n != "num_classes"}
    got = npvgg.create_model("repvgg_a0", weights=flat, engine="reference", **keywords)
    x = tiny.images(rng, dtype=np.float32)
    want = npvgg.create_model(
        "repvgg_a0", weights=arrays, engine="reference", **keywords, num_classes=0
    )
    np.testing.assert_array_equal(got(x), want(x))


def test_an_unpacked_file_is_named_and_packed_again(tmp_path):
    packed = tmp_path / "a.pth"
    packed.write_bytes(zip_file(state_dict({"w": X})))
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
        folder = tmp_path / archive.namelist()[0].split("/")[0]
    for path in (folder, folder / "data.pkl"):
        with pytest.raises(WeightsError, match=r"unpacked.*`zip -0 -r weights\.pth"):
            checkpoint.load(path)
    again = tmp_path / "again.pth"
    with zipfile.ZipFile(again, "w") as archive:  # as zip -0 -r does, with entries for folders
        for path in [folder, *sorted(folder.rglob("*"))]:
            archive.write(path, path.relative_to(tmp_path))
    assert_same(checkpoint.load(again), {"w": X})


def test_a_wrapper_for_safetensors_is_refused(tmp_path):
    checkpoint.save_safetensors(tmp_path / "a", {})
    with pytest.raises(WeightsError, match="PyTorch file with weights under 'model'"):
        checkpoint.load(tmp_path / "a", wrapper="model")
    with pytest.raises(ArgumentError, match="wrapper: expected"):
        checkpoint.load(tmp_path / "a", wrapper=3)


@both
def test_what_is_no_tensor_is_reported(load, make):
    value = {"w": whole(X, "0"), "n": 3, "t": "text", "none": None, "extra": Made(Global("a", "b"))}
    got = load(make(value))
    assert_same(got.tensors, {"w": X})
    assert tuple(got.ignored) == ("n", "t", "none", "extra")
    assert got.ignored["t"] == "a str"
    assert got.calls == ("a.b",)


@both
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_a_network_is_made_from_a_checkpoint_of_a_training_run(tmp_path, rng, make, prefix):
    arrays = tiny.tensors()
    named = {prefix + name: array for name, array in arrays.items()}
    named |= {f"{prefix}stem.conv_kxk.bn.num_batches_tracked": np.array(7)}
    (tmp_path / "last.pth.tar").write_bytes(make(LEFT | {"state_dict": state_dict(named)}))
    x = tiny.images(rng, dtype=np.float32)
    want = npvgg.create_model("repvgg_a0", weights=arrays, **tiny.keywords())(x)
    got = npvgg.create_model("repvgg_a0", weights=tmp_path / "last.pth.tar", **tiny.keywords())(x)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("format", ["zip", "stream"])
def test_files_that_torch_2_14_wrote(format):
    # weights_tools/make_torchfiles.py made them
    got = checkpoint.load_with_metadata(GOLDEN / f"torch-{format}.pth")
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8
    want = {
        "weight": base, "transposed": base.transpose(2, 0, 1), "sliced": base[1, ::2, 1:3],
        "half": base[0].astype(np.float16), "bfloat16": base[0],  # few bits: exact
        "double": base[0].astype(np.float64), "bool": base[0] > 0.5,
        "uint16": np.arange(3, dtype=np.uint16), "empty": np.empty((0, 3), np.float32),
        "num_batches_tracked": np.array(7),
    }  # fmt: skip
    assert_same(got.tensors, {f"module.{name}": array for name, array in want.items()})
    assert (got.key, tuple(got.ignored), got.format) == (
        "state_dict",
        ("epoch", "args"),
        f"torch {format}",
    )
