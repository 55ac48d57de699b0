"""What a stranger's configuration may cost for one photo, told from its numbers alone."""

import itertools
import json
import tracemalloc

import numpy as np
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
    side = 1024 if VARIANTS[name].stem_stride == 2 else 512  # repvgg_nano is one for 32 × 32
    assert photo_bytes(VARIANTS[name], side, side) < MAX_PHOTO_BYTES / 2


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
    with pytest.raises(WeightsError, match="at most 2147483648 bytes for a photo of 224×224"):
        create_model(weights=path)


def test_the_bound_holds_for_the_arrays_that_are_made():
    """For the worst of the random networks: few channels, of which sixteen are laid out."""
    config = {"depths": (2, 1), "widths": (8, 16), "strides": (1, 1), "stem_chs": 16,
              "stem_stride": 1, "in_chans": 1, "num_classes": 5}  # fmt: skip
    x, peaks = np.ones((1, 1, 128, 128), np.float32), []
    for engine, form in itertools.product(("reference", "im2col", "winograd"), (True, False)):
        model = create_model("repvgg_a0", engine=engine, reparameterize=form, **config)
        model(x[:, :, :16, :16])  # what is made once
        tracemalloc.start()
        try:
            model(x)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    bound = photo_bytes(model.config, 128, 128)
    assert bound / 3 < max(peaks) < bound


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
