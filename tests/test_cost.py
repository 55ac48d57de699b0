"""What a stranger's configuration may cost for one photo, told from its numbers alone."""

import json

import pytest
import tiny

from npvgg import WeightsError, create_model
from npvgg.formats import checkpoint
from npvgg.variants import VARIANTS
from npvgg.weights import metadata
from npvgg.weights.cost import MAX_PHOTO_BYTES, photo_bytes

WIDE_KERNEL = {"attn_layer": "cbam", "attn_kwargs": {"spatial_kernel_size": 101}}
DILATED = {
    "depths": (2,) * 42, "widths": (4,) * 42, "strides": (2,) * 42, "output_stride": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_of_the_table_is_far_below_the_limit(name):
    assert photo_bytes(VARIANTS[name], 1024, 1024) < MAX_PHOTO_BYTES / 2


@pytest.mark.parametrize("changes", [WIDE_KERNEL, DILATED], ids=["kernel", "dilation"])
@pytest.mark.parametrize("how", ["metadata", "config.json"])
def test_what_would_fill_memory_when_it_is_fed_is_refused_when_it_is_read(tmp_path, changes, how):
    """A kernel of 101 took 4.2 GB for one photo, forty stages of dilation 683 GiB."""
    config, tensors = tiny.config(**changes), tiny.tensors(**changes)
    entries = metadata.describe("RepVGG", config, "train") if how == "metadata" else {}
    checkpoint.save_safetensors(tmp_path / "model.safetensors", tensors, entries)
    path = tmp_path / "model.safetensors"
    if how == "config.json":
        args = {**config.as_dict(), "num_classes": 5}
        path = tmp_path
        (path / "config.json").write_text(
            json.dumps({"architecture": "repvgg_a0", "model_args": args})
        )
    with pytest.raises(WeightsError, match="at most 1073741824 bytes for a photo of 224×224"):
        create_model(weights=path)


def test_what_a_caller_asks_for_is_the_caller_s_own_business():
    create_model("repvgg_a0", weights=tiny.tensors(**WIDE_KERNEL), **tiny.keywords(**WIDE_KERNEL))


def test_a_vast_input_that_is_kept_at_its_size_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    cfg = {"input_size": (3, 4096, 4096)}
    config = tiny.config(stem_chs=64, stem_stride=1)
    entries = metadata.describe("RepVGG", config, "train", pretrained_cfg=cfg)
    checkpoint.save_safetensors(path, tiny.tensors(stem_chs=64, stem_stride=1), entries)
    with pytest.raises(WeightsError, match="for a photo of 4096×4096"):
        create_model(weights=path)
