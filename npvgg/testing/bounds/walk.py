"""How far from the truth a correct float32 implementation may be, element by element.

Two bounds for every tensor, both propagated through the network's operations in float64:

    local   its inputs are given exactly, as the float32 numbers of the pack. A theorem (`WORST`):
            nothing that computes in float32, in any order, can be further off.
    chain   the implementation runs the whole network itself, from the input. The theorem would be
            as sound and useless: after the 22 blocks of RepVGG-A0 it leaves 10¹⁹ times the logits
            (64 × 64, weights of seed 0). So here the roundings are taken for what they nearly
            always are, independent (`PROBABLE`): 1.5·10⁻⁴ times the logits.

Inside a block everything up to the sum is linear. An implementation may run the branches, or one
folded convolution; so a tensor there is seen as a sum of terms, each with at most `depth` roundings
on its way:

    error = carried ⊕ grow(depth) · mass
        carried    what the errors of the block's input come to
        mass       Σ |terms|, over all branches
        depth      conv: number of its terms; batch norm: 8; sum: one less than branches

and ⊕ is + or √(a² + b²), by the rule. Behind the sum, `gates` knows how errors go on.

Both include the rounding of the truth itself to float32, of which the pack is made. The input is
exact, unless it is a photo: then it may be off by whatever `normalisation_error` allows, `chain`
goes on from there, and the first block adds these errors up: they are alike in all pixels.

How much of them correct implementations use at most, over every element of every tensor of the tiny
networks, repvgg_nano and A0, measured in November 2026:

    chain   0.14 the reference engine and PyTorch 2.14.1, 0.08 im2col and Winograd, whose
            blocks alone are seen, on noise and a photo; 0.16 on inputs that are made to be bad:
            constant, huge beside small, subnormal (Winograd: any share, there; see `tiles`)
    local   0.72, of a sum, which is hardly more than its own rounding; 0.40 of a convolution

The tests fail where `chain` is used to more than 0.25, PyTorch 0.55, and `local` to more than 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.model import RepVGG
from npvgg.network import Network
from npvgg.ops import Array
from npvgg.reparam import Branches, reparameterize
from npvgg.rounding import gamma, whatever_seterr_says
from npvgg.testing import steady
from npvgg.testing.bounds import gates
from npvgg.testing.bounds.gates import BN_ROUNDINGS, Ball
from npvgg.testing.bounds.rounding import FLOOR, PROBABLE, WORST, Rule, stored
from npvgg.testing.bounds.tiles import check_tile, winograd_error
from npvgg.testing.trace import (  # fmt: skip
    Operation,
    as_network,
    at_level,
    attention_options,
    checked_images,
    operations,
    run,
)


class Terms(NamedTuple):
    """A tensor of a block as a sum of terms; see the module's docstring."""

    y: Array
    carried: Array
    mass: Array
    depth: int

    def error(self, rule: Rule) -> Array:
        """Return the whole error."""
        return rule.join(self.carried, rule.grow(self.depth) * self.mass)


def settled(y: Array, error: Array) -> Terms:
    """Return a tensor that others read as it is, with an error that is known."""
    return Terms(y, error, np.abs(y) + error, 0)


class Walker:
    """Follows errors through the operations of a network, by one rule.

    exact: names of tensors that are given as the float32 numbers of a pack: what reads them sees
    no other error than that rounding
    winograd: the largest tile of Winograd's algorithms that is to be within, 0 for none
    photo: the error that the input may have from normalising a photo, or 0
    """

    def __init__(
        self,
        network: Network,
        rule: Rule,
        exact: Iterable[str],
        winograd: int = 0,
        photo: Array | float = 0.0,
    ) -> None:
        self.rule = rule
        self.winograd = winograd
        self.photo = photo
        self.first = network.blocks[0].spec.name
        self.exact = set(exact)
        self.blocks = {block.spec.name: block for block in network.blocks}
        self.terms: dict[str, Terms] = {}

    def step(self, o: Operation, y: Array) -> Array:
        """Return the error of the next operation's tensor, whose truth is y."""
        terms = self._terms(o, y)
        error = terms.error(self.rule)
        if o.name in self.exact:
            terms = settled(y, stored(y))
        elif o.name == o.block:
            terms = settled(y, error)
        if o.name == o.block:  # nothing behind it reads anything before it
            self.terms.clear()
        if o.name == o.block or o.op == "input":
            self.source = terms
        self.terms[o.name] = terms
        return error + stored(y)

    def _terms(self, o: Operation, y: Array) -> Terms:
        inputs = [self.terms[name] for name in o.inputs]
        match o.op:
            case "input":
                return settled(y, np.zeros_like(y) + self.photo)
            case "conv":
                return self._conv(o, y, inputs[0])
            case "batch_norm":
                return self._batch_norm(o, y, inputs[0])
            case "sum":
                return self._sum(o, y, inputs)
        x = Ball(inputs[0].y, inputs[0].error(self.rule))
        p, w = o.parameters, o.weights
        match o.op:
            case "activation":
                error = gates.activate(x, p["function"], self.rule).error
            case "attention":
                error = gates.attend(x, p["layer"], w, attention_options(p), self.rule).error
            case "pool":
                error = gates.pool(x, p["kind"], self.rule)
            case _:
                weight = w["weight"][:, :, None, None]
                x = Ball(*(a[:, :, None, None] for a in x))
                error = gates.convolve(x, weight, w["bias"], self.rule).error[:, :, 0, 0]
        return settled(y, error)

    def _conv(self, o: Operation, y: Array, x: Terms) -> Terms:
        weight, bias = o.weights["weight"], o.weights.get("bias")
        how = {n: o.parameters[n] for n in ("stride", "padding", "dilation", "groups")}
        size = None if bias is None else np.abs(bias)
        mass = steady.conv2d(x.mass, np.abs(weight), size, **how) + FLOOR
        depth = x.depth + weight[0].size + (bias is not None)
        mass = self._tiled(x, weight, mass, depth, how)
        return Terms(y, self._carry(o.block, x.carried, weight, how), mass, depth)

    def _carry(self, block: str, error: Array, weight: Array, how: Mapping[str, int]) -> Array:
        """Return the errors of a block's input behind its convolution.

        What normalising does to a photo, a rounded constant say, it does to all pixels.
        """
        rule = WORST if block == self.first else self.rule
        return rule.carry(error, weight, **how)

    def _tiled(
        self, x: Terms, weight: Array, mass: Array, depth: int, how: Mapping[str, int]
    ) -> Array:
        """Return the mass, raised to where grow(depth)·mass covers Winograd's algorithms."""
        if not self.winograd or weight.shape[2] != 3 or how["dilation"] != 1:
            return mass
        error = winograd_error(
            x.y, x.mass, weight, self.rule,
            largest=self.winograd, stride=how["stride"], groups=how["groups"],
        )  # fmt: skip
        return np.maximum(mass, error / self.rule.grow(depth))

    def _batch_norm(self, o: Operation, y: Array, x: Terms) -> Terms:
        gamma, beta, mean, var = (
            o.weights[n][:, None, None] for n in ("weight", "bias", "running_mean", "running_var")
        )
        t = np.abs(gamma / np.sqrt(var + o.parameters["eps"]))
        mass = t * (x.mass + np.abs(mean)) + np.abs(beta) + FLOOR
        return Terms(y, t * x.carried, mass, x.depth + BN_ROUNDINGS)

    def _sum(self, o: Operation, y: Array, branches: list[Terms]) -> Terms:
        """Return the sum of a block's branches.

        Errors of the block's input go through all branches at once, that is, through the one kernel
        that they fold into.
        """
        mass = np.add.reduce([branch.mass for branch in branches])
        depth = max(branch.depth for branch in branches) + len(branches) - 1
        if self.exact.issuperset(o.inputs):
            carried = np.add.reduce([branch.carried for branch in branches])
        else:
            spec = self.blocks[o.block].spec
            how = {
                "stride": spec.stride, "padding": spec.dilation, "dilation": spec.dilation,
                "groups": spec.groups,
            }  # fmt: skip
            kernel = self.folded(o.block)
            carried = self._carry(o.block, self.source.carried, kernel, how)
            mass = self._tiled(self.source, kernel, mass, depth, how)
        return Terms(y, carried, mass, depth)

    def folded(self, block: str) -> Array:
        """Return the kernel of a block's one convolution, in float64."""
        form, spec = self.blocks[block].form, self.blocks[block].spec
        if isinstance(form, Branches):
            form = reparameterize(form, groups=spec.groups, dtype=np.float64)
        return form.weight


NORMALISING = 14
"""Roundings between two ways to normalise a photo; see `normalisation_error`."""


def normalisation_error(x: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """How far other float32 arithmetic may be from a photo x = (p/255 − m)/s in float32, p bytes:

        |error|  ≤  γ_14 · (p/255 + |m|)/s

    However it is arranged, (p/255 − m)/s, p·k + b, (p − 255·m)·k or (p·k − m)·k', it is the sum of
    two terms, p/(255·s) and −m/s. On the way of a term are at most 8 roundings: of the constants m
    and s, of 255 times each, of a reciprocal and its product, of the difference, and one to spare;
    so each result is within γ_8 of the exact one, times Σ|terms|. x itself, by two divisions and a
    difference, m and s rounded, is within γ_5. Both together are within γ_13; one more, for
    p/255 = x·s + m is computed from the rounded x.

    x: (N, C, H, W); mean, std: one number a channel, or one for all → float64, of the shape of x
    """
    m, s = (np.array(values, np.float64).reshape(-1, 1, 1) for values in (mean, std))
    return gamma(NORMALISING) * (np.abs(x + m / s) + np.abs(m / s))


def walk(
    network: Network, x: Array, exact: Iterable[str], winograd: int = 0, photo: Array | float = 0.0
) -> Iterator[tuple[Operation, Array, Array, Array]]:
    """Run a float64 network and follow its errors: (operation, truth, local error, chain error).

    exact: the tensors that are given where the local error is asked for
    winograd, photo: as of `Walker`
    """
    local = Walker(network, WORST, exact, winograd, photo)
    chain = Walker(network, PROBABLE, (), winograd, photo)
    for o, y in run(operations(network), x, steady):
        yield o, y, local.step(o, y), chain.step(o, y)


@whatever_seterr_says
def error_bound(
    model: RepVGG | Network,
    x: Array,
    *,
    level: str = "block",
    kind: str = "chain",
    winograd: int = 0,
) -> dict[str, Array]:
    """How far from the truth a correct float32 implementation may be, for every tensor of a level.

    model, x, level: as of `layer_by_layer`; the truth is that of the float32 weights
    kind: "chain" where the whole network is run from x, "local" where the inputs of each tensor are
    the float32 numbers next to the truth
    winograd: the largest tile, 2 … 6, of Winograd's algorithms that are to be within the bounds
    too; 0 for none (`npvgg.testing.bounds.tiles`)

    → name → float64 array of the tensor's shape. Raises ArgumentError.
    """
    if kind not in ("chain", "local"):
        raise ArgumentError(f"kind: expected 'chain' or 'local', got {kind!r}")
    check_tile(winograd)
    network = as_network(model).astype(np.float64)
    spelled = operations(network)
    kept = at_level(spelled, level)
    rule, exact = (WORST, kept) if kind == "local" else (PROBABLE, {})
    walker = Walker(network, rule, exact, winograd)
    steps = run(spelled, checked_images(x, network), steady)
    errors = {o.name: walker.step(o, y) for o, y in steps}
    return {name: errors[name] for name in kept}
