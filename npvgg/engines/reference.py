"""The reference engine: the forward pass, as the paper draws it.

Everything is in these few lines; `ops`, `reparam` and `attention` say what each word means. It
computes in the dtype of the network, float32 or float64, and needs no compiler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from npvgg import ops
from npvgg.attention import attend
from npvgg.config import BlockSpec
from npvgg.network import Block, Head, Network
from npvgg.ops import Array


def forward_blocks(blocks: Sequence[Block], x: Array) -> Iterator[Array]:
    """Yield every block's output in turn: (N, C, H, W) -> (N, K, ⌈H/stride⌉, ⌈W/stride⌉) -> …"""
    for block in blocks:
        x = forward_block(block, x)
        yield x


def forward_block(block: Block, x: Array) -> Array:
    """Run one block:  act(attn(conv(x))), or attn(act(conv(x))) where the attention comes after."""
    spec = block.spec
    x = block.form(x, stride=spec.stride, dilation=spec.dilation, groups=spec.groups)
    return activate(block, x)


class Activation(Protocol):
    """What follows a block's convolution: a `Block` has it, and so has what engines keep of one."""

    @property
    def spec(self) -> BlockSpec:
        """Which functions, and in which order."""

    @property
    def attention(self) -> Mapping[str, Array]:
        """The weights of the attention layer."""


def activate(block: Activation, x: Array) -> Array:
    """Do what follows a block's convolution: attention and activation, in the block's order."""
    spec = block.spec
    act = ops.activation(spec.act_layer)
    if spec.attn_layer is None:
        return act(x)
    if spec.attn_after_act:
        return attend(act(x), spec.attn_layer, block.attention, spec.attn_kwargs)
    return act(attend(x, spec.attn_layer, block.attention, spec.attn_kwargs))


def forward_head(head: Head, x: Array) -> tuple[Array, Array]:
    """Pool the last map and classify it: (N, C, P, Q) -> (N, C), (N, classes).

    Without a classifier the second is the first; without pooling the first is the map.
    """
    pooled = ops.global_pool(x, head.global_pool)
    if head.weight is None or head.bias is None:
        return pooled, pooled
    return pooled, ops.linear(pooled, head.weight, head.bias)


class ReferenceNetwork:
    """A network run by the reference engine."""

    name = "reference"

    def __init__(self, network: Network) -> None:
        self.network = network

    def with_head(self, head: Head) -> ReferenceNetwork:
        """Return the network with another head; it shares the weights."""
        return ReferenceNetwork(replace(self.network, head=head))

    def load(self) -> None:
        """Do nothing: nothing is compiled."""

    def maps(self, x: Array, taps: Sequence[int]) -> list[Array]:
        """Return the outputs of the blocks with these indices; blocks past the last are not run."""
        wanted = self.network.blocks[: max(taps) + 1]
        return [y for index, y in enumerate(forward_blocks(wanted, x)) if index in taps]

    def outputs(self, x: Array, taps: Sequence[int]) -> tuple[list[Array], Array, Array]:
        """Return maps, pooled vector and logits of one run."""
        last = len(self.network.blocks) - 1
        maps = self.maps(x, [*taps, last])
        pooled, logits = self.head(maps[-1])
        return maps if last in taps else maps[:-1], pooled, logits

    def head(self, x: Array) -> tuple[Array, Array]:
        """Pool and classify the last map: (N, C, P, Q) -> (N, C), (N, classes)."""
        return forward_head(self.network.head, x)

    def logits(self, x: Array) -> Array:
        """Run every block and the head: (N, C, H, W) -> (N, classes)."""
        return self.outputs(x, ())[2]


def prepare(network: Network, *, threads: int | None = None) -> ReferenceNetwork:
    """Make ready; there is nothing to do. NumPy's own threads apply: `threads` has no say here."""
    return ReferenceNetwork(network)
