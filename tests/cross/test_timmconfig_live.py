"""Folders that timm saves, and timm and npvgg load: the same network, the same preparation."""

import json

import numpy as np
import pytest

import npvgg

timm = pytest.importorskip("timm", reason="timm is not installed: nothing to compare with")
torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
pytestmark = [
    pytest.mark.cross,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NAMES = ["ant", "bee", "cat", "dog"]


def assert_same_preparation(ours, theirs):
    """Where JSON has made lists of timm's tuples, they are the same numbers."""
    want = timm.data.resolve_model_data_config(theirs)
    want = {key: tuple(value) if isinstance(value, list) else value for key, value in want.items()}
    assert npvgg.data.resolve_model_data_config(ours) == want


@pytest.mark.parametrize(
    ("keywords", "safe"),
    [
        ({}, True),
        ({"in_chans": 1}, False),
        ({"output_stride": 16, "act_layer": "silu"}, True),
        ({"global_pool": "max"}, "both"),
    ],
    ids=str,
)
def test_what_timm_pushes_is_the_same_network_here(tmp_path, keywords, safe, rng):
    torch.manual_seed(0)
    made = timm.create_model("repvgg_a0", num_classes=4, **keywords).eval()
    timm.models.save_for_hf(
        made,
        tmp_path,
        model_config={"label_names": NAMES},
        data_config={"input_size": (keywords.get("in_chans", 3), 96, 96)},
        safe_serialization=safe,
    )
    peer = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    ours = npvgg.create_model(f"local-dir:{tmp_path}", pretrained=True, dtype="float64")
    x = rng.standard_normal((2, ours.config.in_chans, 40, 33))
    with torch.no_grad():
        want = peer.double()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(x), want, rtol=0, atol=1e-10 * np.abs(want).max())
    assert_same_preparation(ours, peer)
    assert list(ours.pretrained_cfg["label_names"]) == NAMES


def test_the_flat_form_is_the_same_network_here(tmp_path):
    """As timm 0.6 wrote it."""
    made = timm.create_model("repvgg_a0", num_classes=4).eval()
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    flat = {**config["pretrained_cfg"], "architecture": "repvgg_a0", "num_features": 1280}
    flat |= {"labels": NAMES, "num_classes": 4, "crop_pct": 0.8, "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    peer = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    ours = npvgg.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert_same_preparation(ours, peer)
    assert ours.pretrained_cfg["label_names"] == tuple(NAMES)
    assert tuple(peer.pretrained_cfg["label_names"]) == tuple(NAMES)
