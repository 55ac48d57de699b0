"""PyTorch, a correct float32 implementation, is within the bounds; and how far, at most."""

from types import SimpleNamespace

import numpy as np
import pytest

from npvgg.testing import conformance_pack
from npvgg.testing.trace import compute, operations, run

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional
pytestmark = pytest.mark.cross

RECORD = {"chain": 0.138, "local": 0.721}
"""The largest shares of the bounds seen with torch 2.14.1. The local one is of a sum of
two exact branches, whose bound is hardly more than the rounding of the truth and of what it reads.
"""


def of_torch(function):
    def called(x, *args, **how):
        tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in (x, *args)]
        with torch.inference_mode():
            return function(*tensors, **how).numpy()

    return called


def squeeze_excite(x, layer, w, options):
    assert layer == "se"
    x, w = torch.from_numpy(x), {n: torch.from_numpy(np.array(a)) for n, a in w.items()}
    hidden = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), w["fc1.weight"], w["fc1.bias"]))
    return (x * torch.sigmoid(F.conv2d(hidden, w["fc2.weight"], w["fc2.bias"]))).numpy()


TORCH = SimpleNamespace(
    conv2d=of_torch(F.conv2d),
    batch_norm=of_torch(
        lambda x, mean, var, gamma, beta, eps: F.batch_norm(x, mean, var, gamma, beta, eps=eps)
    ),
    linear=of_torch(F.linear),
    global_pool=of_torch(lambda x, kind: F.adaptive_avg_pool2d(x, 1).flatten(1)),
    activation=lambda name: of_torch(getattr(F, name)),
    attend=squeeze_excite,
)
NETWORKS = [
    ("tiny", {}), ("tiny_g2", {}), ("tiny_se", {}), ("tiny_plus", {}), ("tiny_dilated", {}),
    ("repvgg_nano.cifar10", {"size": 32}), ("repvgg_a0", {"size": 32}),
]  # fmt: skip


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=[name for name, _ in NETWORKS])
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_torch_is_within_the_bounds(name, options, form):
    pack = conformance_pack(name, level="op", form=form, **options)
    spelled = operations(pack.network().astype(np.float32))
    truth = {p.name: pack.tensor(p.name) for p in pack.probes}
    whole = {o.name: y for o, y in run(spelled, truth["input"], TORCH)}
    alone = {o.name: compute(o, [truth[n] for n in o.inputs], TORCH) for o in spelled[1:]}
    for kind, got, bound in (("chain", whole, pack.bound), ("local", alone, pack.local_bound)):
        errors = {n: abs(y.astype(np.float64) - truth[n]) / bound(n) for n, y in got.items()}
        assert all(error.shape == truth[n].shape for n, error in errors.items())
        worst = max(float(error.max()) for error in errors.values())
        assert 0 < worst <= min(1, 4 * RECORD[kind])


def test_torch_in_half_precision_is_not():
    """Rounded to bfloat16 on the way, as autocast does."""
    pack = conformance_pack("tiny", form="deploy", level="op")

    def coarse(x, weight, bias=None, **how):
        half = (torch.from_numpy(np.array(a)).bfloat16() for a in (x, weight, bias))
        return F.conv2d(*half, **how).float().numpy()

    maths = SimpleNamespace(**{**vars(TORCH), "conv2d": coarse})
    spelled = operations(pack.network().astype(np.float32))
    got = {o.name: y for o, y in run(spelled, pack.tensor("input"), maths)}
    assert (abs(got["stem"] - pack.tensor("stem")) > pack.bound("stem")).any()
