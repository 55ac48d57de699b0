"""A network as data: its blocks in order of execution, with their weights, and its head.

This is what engines are given. Nothing here computes; `reparam` says what a block's form means,
`ops` and `attention` what the operations mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from npvgg.config import BlockSpec
from npvgg.errors import ArgumentError
from npvgg.ops import Array
from npvgg.reparam import FOLDS, Branches, FusedConv


@dataclass(frozen=True)
class Block:
    """One block: what it is, its weights in train or deploy form, and those of its attention layer.

    The arrays can't be written to: engines pack them once, and would see half of a later change.
    attention: name under `attn.` → array; empty where the network has none.
    """

    spec: BlockSpec
    form: Branches | FusedConv
    attention: Mapping[str, Array]

    @property
    def fused(self) -> FusedConv:
        """Return the block's one convolution: its own in deploy form, else the fold of its
        branches.
        """
        return self._folded("float64")

    def reparameterized(self, fold: str = "float64") -> Block:
        """Return the block in deploy form (itself, if it already is).

        fold: the arithmetic, "float64" (rounded once) or "float32" (in timm's order)
        """
        return self if isinstance(self.form, FusedConv) else replace(self, form=self._folded(fold))

    def _folded(self, fold: str) -> FusedConv:
        if isinstance(self.form, FusedConv):
            return self.form
        fused = FOLDS[fold](self.form, groups=self.spec.groups)
        for array in (fused.weight, fused.bias):
            array.flags.writeable = False
        return fused


@dataclass(frozen=True)
class Head:
    """Global pooling and the classifier; weight (classes, features) and bias are None without a
    classifier.
    """

    global_pool: str
    weight: Array | None
    bias: Array | None

    @property
    def classifier(self) -> tuple[Array, Array]:
        """Return weight (classes, features) and bias (classes,).

        Raises ArgumentError where the network has no classifier.
        """
        if self.weight is None or self.bias is None:
            raise ArgumentError("num_classes: expected a network with a classifier, got 0 classes")
        return self.weight, self.bias


@dataclass(frozen=True, repr=False)
class Network:
    """The whole network in one floating-point type."""

    blocks: tuple[Block, ...]
    head: Head
    dtype: np.dtype[Any]

    def __repr__(self) -> str:
        return f"<Network: {len(self.blocks)} blocks in {self.form} form, {self.dtype}>"

    @property
    def form(self) -> str:
        """Return "deploy" (every block is one convolution) or "train"."""
        return "deploy" if all(isinstance(b.form, FusedConv) for b in self.blocks) else "train"

    def reparameterized(self, fold: str = "float64") -> Network:
        """Return the network in deploy form; `fold` as of `Block.reparameterized`."""
        return replace(self, blocks=tuple(block.reparameterized(fold) for block in self.blocks))

    def astype(self, dtype: DTypeLike) -> Network:
        """Return the network in another floating-point type (itself, if it already is in that one).

        Raises ArgumentError unless dtype is float32 or float64, and for a value that overflows it.
        """
        try:
            resolved = np.dtype(dtype)
        except TypeError:
            resolved = np.dtype(object)
        if resolved not in (np.float32, np.float64):
            raise ArgumentError(f"dtype: expected float32 or float64, got {dtype!r}")
        if resolved == self.dtype:
            return self
        blocks = tuple(_cast(block, resolved) for block in self.blocks)
        return Network(blocks, _cast(self.head, resolved), resolved)


def _cast(value: Any, dtype: np.dtype[Any]) -> Any:
    """Convert every array in a structure of data classes and dicts."""
    if isinstance(value, np.ndarray):
        try:
            with np.errstate(over="raise"):
                array = value.astype(dtype)
        except FloatingPointError:
            raise ArgumentError(f"dtype: a weight overflows {dtype}") from None
        array.flags.writeable = False
        return array
    if isinstance(value, Mapping):
        return {name: _cast(item, dtype) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, BlockSpec | type):
        parts = {f.name: _cast(getattr(value, f.name), dtype) for f in fields(value)}
        return replace(value, **parts)
    return value
