"""Converted files in the hands of timm and the original: loaded strictly, with the same answer."""

import contextlib
import io
import os

import numpy as np
import pytest

from npvgg.formats import checkpoint
from npvgg.tools.conversion import convert
from npvgg.variants import VARIANTS
from npvgg.weights import build
from tests.oracles import formula

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
timm = pytest.importorskip("timm", reason="timm is not installed: nothing to compare with")
from timm.utils.model import reparameterize_model  # noqa: E402

pytestmark = pytest.mark.cross
torch.set_num_threads(1)

NAMES = {"repvgg_a0": "RepVGG-A0", "repvgg_b1g4": "RepVGG-B1g4"}


@pytest.fixture(scope="module", params=NAMES)
def source(request, tmp_path_factory):
    """The train-form weights of a network in a safetensors file."""
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.safetensors"
    checkpoint.save_safetensors(path, build.random_tensors(VARIANTS[request.param], 1))
    return path


def same_answer(model, want, x):
    """The model's logits are those wanted, but for float32's rounding: 1e-4 of the largest."""
    with torch.no_grad():
        got = model.eval()(x)
    assert want.abs().max() > 0
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


def timm_model(path):
    model = timm.create_model(path.stem).eval()
    tensors = {n: torch.from_numpy(a) for n, a in checkpoint.load(path).items()}
    model.load_state_dict(tensors, strict=True)
    return model


X = torch.from_numpy(formula.images((1, 3, 64, 64)).astype(np.float32))


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_timm_loads_what_was_converted(source, tmp_path, form):
    convert(source, tmp_path / "a.pth", naming="timm", form=form)
    reference = timm_model(source)
    model = timm.create_model(source.stem).eval()
    if form == "deploy":
        model = reparameterize_model(model)
    model.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=True)
    with torch.no_grad():
        want = reference(X)
    same_answer(model, want, X)


@pytest.mark.skipif(
    not os.environ.get("NPVGG_ORIGINAL"), reason="NPVGG_ORIGINAL names no checkout of the original"
)
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_the_original_loads_what_was_converted(source, tmp_path, form):
    from tests.oracles import original_peer

    convert(source, tmp_path / "a.pth", naming="original", form=form)
    make = original_peer.published().repvgg.func_dict[NAMES[source.stem]]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it builds
        model = make(deploy=form == "deploy")
    model.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=True)
    with torch.no_grad():
        want = timm_model(source)(X)
    same_answer(model, want, X)


def test_folding_in_float32_gives_timm_s_bits_where_torch_rounds_roots_correctly(
    source, monkeypatch
):
    # On AVX-512, torch 2.14's float32 sqrt is one unit off for a fifth of all numbers. Rounding the
    # float64 root gives the correctly rounded one.
    root = torch.Tensor.sqrt
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda tensor: root(tensor.double()).float())
    want = reparameterize_model(timm_model(source)).state_dict()
    network = build.build_network(checkpoint.load(source), VARIANTS[source.stem])
    got = build.flatten(network.reparameterized("float32"))
    assert got.keys() == want.keys()
    for name, array in got.items():
        np.testing.assert_array_equal(array, want[name].numpy(), err_msg=name)
