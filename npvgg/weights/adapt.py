"""Pretrained weights for a network of other ends: another number of image channels, or of classes.

As timm 1.0.31 does it, `models/_builder.py` `load_pretrained`, `models/_manipulate.py`
`adapt_input_conv`: with C channels trained and C' wanted, the first kernels become

    C' = 1      w'[k,0] = Σ_c w[k,c]                     a grey image is the same in all channels
    otherwise   w'[k,c] = w[k, c mod C] · C / C'         the sum over channels keeps its size

and a classifier of another size begins anew: weights normal with deviation 0.01, biases 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npvgg.config import RepVGGConfig
from npvgg.weights.build import normalize_names

FIRST = ("stem.conv_kxk.conv.weight", "stem.conv_1x1.conv.weight", "stem.reparam_conv.weight")
RANDOM_CLASSIFIER = "random classifier"
"""The caveat of a model whose classifier alone is random."""

_log = logging.getLogger("npvgg")


def adapt(
    tensors: Mapping[str, NDArray[Any]], source: RepVGGConfig, target: RepVGGConfig, seed: int
) -> tuple[Mapping[str, NDArray[Any]], tuple[str, ...]]:
    """Fit weights to a network that differs from theirs in `in_chans` or `num_classes`.

    tensors: in timm's naming or the original's, in either form
    seed: of the classifier's weights, if there must be another one

    → the weights, and what was done, in words; the weights themselves and () for nothing.
    """
    done: list[str] = []
    if source.in_chans != target.in_chans:
        tensors = normalize_names(tensors, source)
        tensors |= {
            name: first_kernel(tensors[name], target.in_chans) for name in FIRST if name in tensors
        }
        done.append(f"in_chans {source.in_chans} → {target.in_chans}")
    if target.num_classes not in (0, source.num_classes):
        tensors = normalize_names(tensors, source)
        shape = target.num_classes, target.num_pooled_features
        drawn = np.random.default_rng(seed).normal(0, 0.01, shape).astype(np.float32)
        tensors |= {"head.fc.weight": drawn, "head.fc.bias": np.zeros(shape[0], np.float32)}
        done.append(RANDOM_CLASSIFIER)
        _log.info("the classifier of %d classes is random", target.num_classes)
    if source.in_chans != target.in_chans:
        _log.info("the first kernels are adapted: %s", done[0])
    return tensors, tuple(done)


def first_kernel(weight: NDArray[Any], channels: int) -> NDArray[Any]:
    """Fit a kernel (K, C, R, S) to another number of channels, in float32, as timm does."""
    trained = weight.shape[1]
    if trained == channels:
        return weight
    w = weight.astype(np.float32)
    if channels == 1:
        fitted = w.sum(axis=1, keepdims=True)
    else:
        fitted = np.tile(w, (1, -(-channels // trained), 1, 1))[:, :channels]
        fitted = fitted * np.float32(trained / channels)
    stored: NDArray[Any] = fitted.astype(weight.dtype)
    return stored
