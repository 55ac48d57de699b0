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

from collections.abc import Mapping
from hashlib import sha256
from math import prod, sqrt
from typing import TypeVar

import numpy as np

from npvgg.attention import LAYERS
from npvgg.config import RepVGGConfig
from npvgg.ops import Array
from npvgg.weights.build import expected_shapes

Value = TypeVar("Value")

KXK, POINTWISE, IDENTITY = "conv_kxk", "conv_1x1", "identity"
GATES = tuple({f"attn.{layer.opened_by}" for layer in LAYERS.values() if layer.opened_by})

RANGES: Mapping[tuple[str, ...], tuple[float, float]] = {
    GATES: (1.0, 4.0),
    (f"{KXK}.bn.weight", f"{POINTWISE}.bn.weight"): (0.8, 2.0),
    (f"{KXK}.bn.bias", f"{POINTWISE}.bn.bias"): (0.0, 4.0),
    (f"{KXK}.bn.running_mean", f"{POINTWISE}.bn.running_mean"): (-0.05, 0.05),
    (f"{KXK}.bn.running_var", f"{POINTWISE}.bn.running_var"): (0.002, 0.02),
    (f"{IDENTITY}.weight",): (0.06, 0.16),
    (f"{IDENTITY}.bias",): (-1.6, 1.6),
    (f"{IDENTITY}.running_mean",): (1.5, 4.5),
    (f"{IDENTITY}.running_var",): (0.02, 0.1),
    (".weight",): (0.55, 0.95),
    (".bias",): (-0.35, 0.45),
    (".running_mean",): (-0.4, 0.6),
    (".running_var",): (0.3, 1.7),
}
"""Ranges of vectors, by the ends of their names; the first that fits counts.

Chosen so that mistakes show in the logits: variances are so small that an eps of 0 or 1e-6 moves
them by more than rounding does; every map has numbers above 6, as ReLU6 would not leave; few
channels are dead behind their ReLU (7 % of the last of A0 at 64 × 64; of the tiny networks none
with their own seed); and gates that are half shut, one in every block, would leave nothing.
"""

GAINS = {(f"{KXK}.conv.weight", f"{POINTWISE}.conv.weight"): 0.0006, ("",): 0.75}
"""How a kernel changes the variance of what it reads: behind a division by √running_var maps keep
their size through 48 blocks. The first that fits the name counts."""

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
        if len(shape) > 1:
            limit = sqrt(3 * _by_name(GAINS, name) / prod(shape[1:]))
            made[name] = uniform(seed, name, shape, -limit, limit)
        else:
            made[name] = uniform(seed, name, shape, *_by_name(RANGES, name))
    return made


def _by_name(table: Mapping[tuple[str, ...], Value], name: str) -> Value:
    return next(value for ends, value in table.items() if name.endswith(ends))


def noise(shape: tuple[int, ...], seed: int) -> Array:
    """Return a batch (N, C, H, W) of noise over the range of normalized photos."""
    return uniform(seed, "input", shape, *NOISE)
