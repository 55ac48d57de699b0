"""What a configuration costs for one photo, before anything of that size is allocated.

    bytes = 4 · max over blocks of  C·(H + 2d)·(W + 2d)  +  2·K·P·Q  +  8·k²·P·Q
            the padded input, two maps of the output's size, a spatial attention's k×k
            windows of mean and maximum, copied four times on their way

A stranger's config.json or metadata may state a network whose weights are small and whose maps are
not: dilation that doubles from stage to stage, a stem that keeps a vast input's size, an attention
kernel of a hundred pixels.
"""

from __future__ import annotations

from npvgg.config import RepVGGConfig, expand, output_size
from npvgg.errors import WeightsError

MAX_PHOTO_BYTES = 2**30
"""Most memory that one photo may take; timm's repvgg_d2se takes 15 MB at its 320 pixels."""


def photo_bytes(config: RepVGGConfig, height: int, width: int) -> int:
    """Return about how many bytes the largest block needs for one photo, in float32."""
    most, h, w = 0, height, width
    for spec in expand(config):
        padded = spec.in_chs * (h + 2 * spec.dilation) * (w + 2 * spec.dilation)
        h, w = output_size(h, spec.stride), output_size(w, spec.stride)
        kernel = spec.attn_kwargs.get("spatial_kernel_size", 0)
        windows = 8 * kernel**2 if isinstance(kernel, int) else 0
        most = max(most, padded + (2 * spec.out_chs + windows) * h * w)
    return 4 * most


def check_cost(config: RepVGGConfig, height: int, width: int) -> None:
    """Raise WeightsError for a configuration that one photo of its size would cost too much."""
    if (cost := photo_bytes(config, height, width)) > MAX_PHOTO_BYTES:
        raise WeightsError(
            f"config: expected a network that takes at most {MAX_PHOTO_BYTES} bytes for a photo of "
            f"{height}×{width}, got one that takes some {min(cost, 2**63)}"
        )
