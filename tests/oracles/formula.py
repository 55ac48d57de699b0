"""Weights and images by formula: the same bits on every machine, so that no golden ships them.

An array follows from its name and shape alone. Its numbers are the raw 64-bit words of PCG64, a
stream that NumPy keeps fixed (NEP 19; the distributions on top of it are not); they pass through
+, × and √ in float64, which IEEE 754 rounds correctly everywhere, and are rounded once to float32.

The statistics of the batch norms are far from 0 and 1, so that a wrong fold cannot hide, and the
maps keep their size through 48 blocks, so that the image is still seen in the logits.

The goldens keep a fingerprint of every large tensor: some entries, and some sums over all entries.

Both the goldens' maker and the tests read this file. It imports NumPy only, and never npvgg.
"""

from collections.abc import Mapping
from math import prod, sqrt

import numpy as np

RANGES = {
    "weight": (0.55, 0.95),  # gamma
    "bias": (-0.35, 0.45),
    "running_mean": (-0.4, 0.6),
    "running_var": (0.3, 1.7),
}
GATES = (
    "attn.fc2.bias", "attn.fc.bias", "se.up.bias", "attn.spatial.conv.bn.bias", "attn.conv2.bias",
)  # fmt: skip
"""These open the gates of attention layers: 48 half-shut gates would leave nothing of the image."""

WHOLE = 1000
"""A tensor of up to so many entries is its own fingerprint."""
ENTRIES, SUMS = 64, 4


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Uniform numbers in low … high, float32, by the name."""
    words = np.random.PCG64(list(name.encode())).random_raw(prod(shape))
    unit = (words >> np.uint64(11)) * 2.0**-53
    return (low + (high - low) * unit).astype(np.float32).reshape(shape)


def tensor(name: str, shape: tuple[int, ...], gain: float = 0.75) -> np.ndarray:
    """One tensor of a state dict, in timm's or the original's naming, train or deploy form.

    gain: how a kernel changes the variance of what it reads; networks whose activation or attention
    damps need more of it, or the image fades on its way to the logits
    """
    kind = name.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.array(1000, np.int64)
    if len(shape) > 1:
        limit = sqrt(3 * gain / prod(shape[1:]))
        return uniform(name, shape, -limit, limit)
    if name.endswith(GATES):
        return uniform(name, shape, 1.0, 4.0)
    return uniform(name, shape, *RANGES[kind])


def tensors(shapes: Mapping[str, tuple[int, ...]], gain: float = 0.75) -> dict[str, np.ndarray]:
    """A whole state dict: name → shape becomes name → array."""
    return {name: tensor(name, tuple(shape), gain) for name, shape in shapes.items()}


def images(shape: tuple[int, ...]) -> np.ndarray:
    """A batch (N, C, H, W) of noise over the range of normalized photos."""
    return uniform("images", shape, -2.0, 2.5)


def fingerprint(y: np.ndarray) -> np.ndarray:
    """What a golden keeps of a tensor, in float64: all of it, or 64 entries and 4 signed sums.

    The entries are at fixed random places. Each sum runs over all entries with fixed random signs,
    so that no entry can be wrong, or in the wrong place, unseen: where every entry is within τ of
    the truth, a sum of n of them is within n·τ.
    """
    y = np.asarray(y, np.float64).ravel()
    if y.size <= WHOLE:
        return y
    words = np.random.PCG64(y.size).random_raw(y.size)
    entries = y[words[:ENTRIES] % np.uint64(y.size)]
    signs = [1.0 - 2.0 * ((words >> np.uint64(bit)) & np.uint64(1)) for bit in range(60, 64)]
    return np.concatenate([entries, [sign @ y for sign in signs]])


def fingerprint_bounds(size: int, bound: float) -> np.ndarray:
    """How far a fingerprint may be off where no entry of the tensor is off by more than bound."""
    if size <= WHOLE:
        return np.full(size, bound)
    return np.array([bound] * ENTRIES + [size * bound] * SUMS)
