"""Weights and noise from a seed, by integers: the same bits on every machine, in any language.

    state  = the first eight bytes, little-endian, of SHA-256("<seed>:<name>")
    word_i = mix(state + (i + 1) · 0x9E3779B97F4A7C15)        i = 0, 1, 2 … in C order, modulo 2⁶⁴
    mix(z):  z = (z ^ (z >> 30)) · 0xBF58476D1CE4E5B9
             z = (z ^ (z >> 27)) · 0x94D049BB133111EB
             z ^ (z >> 31)
    value  = low + (high − low) · (word >> 11) · 2⁻⁵³        in float64, rounded once to float32

Every number follows from the name of its tensor and its place alone.

Source: SplitMix64, Steele, Lea & Flood, Fast splittable pseudorandom number generators, 2014.
"""

from __future__ import annotations

from hashlib import sha256
from math import prod, sqrt

import numpy as np

from npvgg.attention import LAYERS
from npvgg.config import RepVGGConfig
from npvgg.ops import Array
from npvgg.weights.build import expected_shapes

RANGES = {
    "weight": (0.55, 0.95),  # gamma
    "bias": (-0.35, 0.45),
    "running_mean": (-0.4, 0.6),
    "running_var": (0.3, 1.7),
}
"""Ranges of a batch norm's numbers: far from 0 and 1, so that a wrong fold cannot hide."""

GAIN = 0.75
"""How a kernel changes the variance of what it reads: maps keep their size through 48 blocks."""

GATES = tuple({f"attn.{layer.opened_by}" for layer in LAYERS.values() if layer.opened_by})
OPEN = (1.0, 4.0)
"""Half-shut gates, one in every block, would leave nothing of the image."""

NOISE = (-2.0, 2.5)
"""The range of normalized photos."""


def uniform(seed: int, name: str, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Numbers in low … high, float32, by the seed and the name."""
    state = int.from_bytes(sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    counters = np.arange(1, prod(shape) + 1, dtype=np.uint64)
    z = np.uint64(state) + counters * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(11)) * 2.0**-53
    return (low + (high - low) * unit).astype(np.float32).reshape(shape)


def tensors(config: RepVGGConfig, seed: int) -> dict[str, Array]:
    """Train-form weights of a network, under timm's names."""
    made = {}
    for name, shape in expected_shapes(config, "train").items():
        limit = sqrt(3 * GAIN / prod(shape[1:]))
        low_high = (-limit, limit) if len(shape) > 1 else RANGES[name.rpartition(".")[2]]
        made[name] = uniform(seed, name, shape, *(OPEN if name.endswith(GATES) else low_high))
    return made


def noise(shape: tuple[int, ...], seed: int) -> Array:
    """A batch (N, C, H, W) of noise over the range of normalized photos."""
    return uniform(seed, "input", shape, *NOISE)
