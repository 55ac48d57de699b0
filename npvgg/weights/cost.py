"""What a configuration costs for one photo, before anything of that size is allocated.

    bytes = 4 · (2·C₀·H·W + max over blocks of  2·C·(H + 2d)·(W + 2d)  +  (9·C + 8·K + 8·k²)·P·Q)
                 the photo    the padded input and a copy; the columns of im2col; eight maps of the
                              output's size; a spatial attention's k×k windows of mean and maximum,
                              copied four times on their way

C and K are rounded up to 16, as the compiled engines lay channels out. It is a bound: of 40 random
networks with each engine in both forms, none took more than 0.99 of it with the photo counted once,
half of them less than 0.51 (peak of resident memory beside the photo; Zen 4, one thread,
2026-11-28).

A stranger's config.json or metadata may state a network whose weights are small and whose maps are
not: dilation that doubles from stage to stage, a stem that keeps a vast input's size, an attention
kernel of a hundred pixels.
"""

from __future__ import annotations

from npvgg.config import RepVGGConfig, expand, output_size
from npvgg.errors import WeightsError

MAX_PHOTO_BYTES = 2**31
"""Most memory that one photo may take; every network of the table takes half of it at most at
1024 × 1024 pixels."""

LANES = 16
"""Channels are laid out in so many at once, at most."""


def photo_bytes(config: RepVGGConfig, height: int, width: int) -> int:
    """Return how many bytes one photo needs at most, in float32."""
    most, h, w = 0, height, width
    for spec in expand(config):
        ins, outs = (-(-channels // LANES) * LANES for channels in (spec.in_chs, spec.out_chs))
        padded = ins * (h + 2 * spec.dilation) * (w + 2 * spec.dilation)
        h, w = output_size(h, spec.stride), output_size(w, spec.stride)
        kernel = spec.attn_kwargs.get("spatial_kernel_size", 0)
        windows = 8 * kernel**2 if isinstance(kernel, int) else 0
        most = max(most, 2 * padded + (9 * ins + 8 * outs + windows) * h * w)
    return 4 * (2 * config.in_chans * height * width + most)


def check_cost(config: RepVGGConfig, height: int, width: int) -> None:
    """Raise WeightsError for a configuration that one photo of its size would cost too much."""
    if (cost := photo_bytes(config, height, width)) > MAX_PHOTO_BYTES:
        raise WeightsError(
            f"config: expected a network that takes at most {MAX_PHOTO_BYTES} bytes for a photo of "
            f"{height}×{width}, got one that takes some {min(cost, 2**63)}"
        )
