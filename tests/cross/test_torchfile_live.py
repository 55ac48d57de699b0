"""PyTorch's files against the torch that is installed: what torch.save writes, npvgg reads."""

import argparse
import collections

import numpy as np
import pytest

from npvgg.errors import WeightsError
from npvgg.formats import checkpoint

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
pytestmark = pytest.mark.cross

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
    "uint16", "uint32", "uint64", "bool",
]  # fmt: skip


def tensors():
    """Every dtype, and every kind of view that a state dict may hold."""
    random = torch.Generator().manual_seed(0)
    sd = collections.OrderedDict()
    for name in DTYPES:
        dtype = getattr(torch, name)
        for shape in [(), (0,), (3,), (2, 0, 5), (4, 3, 2)]:
            sd[f"{name}{shape}"] = torch.randint(0, 2, shape, generator=random).to(dtype)
    base = torch.randn(6, 5, 4, generator=random)
    sd |= {
        "base": base, "transposed": base.permute(2, 0, 1), "sliced": base[1:5:2, ::3],
        "flipped": base.flip(0), "expanded": base[0, 0].expand(3, 4), "row": base[2],
        "scalar": base[1, 2, 3], "last": base[5:, 4:, 3:],
        "channels": torch.randn(2, 3, 4, 5, generator=random).to(memory_format=torch.channels_last),
        "windows": torch.arange(10.0).unfold(0, 4, 2),
        "parameter": torch.nn.Parameter(base[3].t()),
        "frozen": torch.nn.Parameter(torch.arange(3), requires_grad=False),
        "buffer": torch.nn.Buffer(torch.ones(2)),
    }  # fmt: skip
    sd["attribute"] = torch.arange(4.0)
    sd["attribute"].note = "kept beside"
    return sd


def numpy_of(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def assert_same(got, want):
    assert list(got) == list(want)
    for name, tensor in want.items():
        array = numpy_of(tensor)
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_everything_that_torch_saves_is_read(tmp_path, new, protocol):
    want = tensors()
    path = tmp_path / "a.pth"
    torch.save(want, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    got = checkpoint.load_with_metadata(path)
    assert_same(got.tensors, want)
    assert got.format == ("torch zip" if new else "torch stream")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_a_checkpoint_of_a_training_run_is_read(tmp_path, new):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    wrapped = torch.nn.DataParallel(model)
    saved = {
        "epoch": 3, "state_dict": wrapped.state_dict(), "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu")), "best": np.float64(0.5),
        "rng": torch.get_rng_state(), "dtype": torch.float16,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2).state_dict(),
        "shape": torch.Size([1, 2]), "seen": {1, 2}, "counts": collections.Counter("aab"),
    }  # fmt: skip
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    got = checkpoint.load_with_metadata(tmp_path / "a.pth")
    assert got.key == "state_dict"
    assert_same(got.tensors, wrapped.state_dict())
    assert set(got.ignored) == set(saved) - {"state_dict"}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: torch.nn.Conv2d(3, 4, 3), "'torch.nn.modules.conv.Conv2d'.*state_dict"),
        (lambda: {"model": torch.nn.ReLU()}, "'torch.nn.modules.activation.ReLU'"),
        (lambda: {"w": torch.ones(2, 2).to_sparse()}, "dense tensor, got .*_rebuild_sparse_tensor"),
        (lambda: {"w": torch.ones(2, dtype=torch.complex64)}, "ComplexFloatStorage"),
        (lambda: {"w": torch.ones(2, dtype=torch.complex64).conj().imag}, "Complex|conjugate"),
        (lambda: {"w": torch.ones(2, 2, device="meta")}, "dense tensor|storage"),
        (lambda: {"w": np.ones(3)}, "got none"),
    ],
    ids=["module", "module inside", "sparse", "complex", "negative", "meta", "numpy"],
)
def test_what_is_no_plain_state_dict_is_refused_by_name(tmp_path, new, make, match):
    torch.save(make(), tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=rf"a\.pth: .*(?:{match})"):
        checkpoint.load(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:.torch.jit")  # deprecated, but such files remain
def test_torchscript_is_refused_by_name(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="TorchScript"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_file_without_checksums_is_refused_with_the_reason(tmp_path):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(5.0)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(computed)
    with pytest.raises(WeightsError, match="saved without checksums"):
        checkpoint.load(tmp_path / "a.pth")


@pytest.mark.parametrize("cast", [None, "float32", "float16", "bfloat16"])
def test_torch_opens_what_npvgg_writes(tmp_path, cast):
    arrays = {
        name: numpy_of(tensor)
        for name, tensor in tensors().items()
        if not name.startswith(("uint16", "uint32", "uint64"))
    }
    checkpoint.save_pth(tmp_path / "a.pth", arrays, {"form": "train"}, dtype=cast)
    got = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(got) == list(arrays)
    assert_same(checkpoint.load(tmp_path / "a.pth"), got)
    for name, array in arrays.items():
        if cast is None:
            np.testing.assert_array_equal(got[name].numpy(), array)
        elif array.dtype.kind == "f":
            kind = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[
                cast
            ]
            assert torch.equal(got[name], torch.from_numpy(array).to(kind))
        assert got[name].is_contiguous()
        assert got[name].dtype.is_floating_point == (array.dtype.kind == "f")


def test_a_module_loads_what_npvgg_writes_and_nothing_is_missing(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    arrays = {name: numpy_of(t) for name, t in model.state_dict().items()}
    del arrays["1.num_batches_tracked"]  # npvgg drops it; torch supplies it
    checkpoint.save_pth(tmp_path / "a.pth", arrays)
    model.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=True)
