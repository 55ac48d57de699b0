"""Are two weights files the same network? And if not, what differs?

Both are folded in float64 and compared tensor by tensor. They are the same up to rounding where

    |w_a − w_b|  ≤  (8·u + 5·u_stored) · Σ |terms of w|        u = 2⁻²⁴

The terms are the products and summands of the fold: a fold in float32 rounds each of them at most
eight times, and storing its factors in half precision at most five times. Beyond that, the mistakes
that people make are tried one by one: another eps, a forgotten branch, a fold in half precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from npvgg.config import RepVGGConfig
from npvgg.engines.reference import ReferenceNetwork
from npvgg.network import Block, Network
from npvgg.ops import Array
from npvgg.reparam import BatchNorm, Branches, ConvBN, FusedConv, reparameterized_terms
from npvgg.rounding import FLOAT16_SMALLEST_NORMAL, UNITS, U, check_finite
from npvgg.tools.certificate import Subject, logits_row
from npvgg.weights import build

Arrays = dict[str, Array]

HALVES = {"F16": "float16", "BF16": "bfloat16"}

EPS_SEEN = (1e-3, 1e-6, 1e-4, 1e-8, 0.0, 1e-2)
"""The eps of batch norms elsewhere."""


@dataclass(frozen=True)
class WrongFold:
    """A wrong way to fold: what people say of it, and what it does."""

    says: str
    eps: float | None = None  # the network's own
    pointwise: bool = True
    identity: bool = True


WRONG_FOLDS = (
    *(WrongFold(f"the same but for the eps of its batch norms: {eps:g}", eps) for eps in EPS_SEEN),
    WrongFold("the identity branch was forgotten", identity=False),
    WrongFold("the 1×1 branch was forgotten", pointwise=False),
    WrongFold("the 1×1 and identity branches were forgotten", identity=False, pointwise=False),
)


def compare(a: Subject, b: Subject, images: Mapping[str, Array]) -> dict[str, Any]:
    """Whether two files are one network: verdict "identical", "same" or "different", and why.

    differences: per tensor that differs beyond rounding, the largest difference
    """
    report: dict[str, Any] = {"files": [a.described(), b.described()], "runs": [],
                              "differences": []}  # fmt: skip
    if other := list(_other_fields(a, b)):
        return report | {"verdict": "different", "says": "other networks: " + "; ".join(other)}
    report["runs"] = [
        {"image": name, "logits": _logits(a.network, b.network, x)} for name, x in images.items()
    ]
    if a.network.form == b.network.form and _equal(a.network, b.network):
        return report | {"verdict": "identical", "says": "every number is the same"}
    tolerance = _tolerance(a, b)
    rows = list(_differences(_folded(a.network), _folded(b.network), tolerance))
    if not rows:
        return report | {"verdict": "same", "says": "the same up to rounding" + _how(a, b)}
    report["differences"] = rows
    return report | {"verdict": "different", "says": _explanation(a, b, tolerance, rows)}


def _other_fields(a: Subject, b: Subject) -> Iterator[str]:
    for field in fields(RepVGGConfig):
        x, y = getattr(a.config, field.name), getattr(b.config, field.name)
        if x != y:
            yield f"{field.name} is {x!r} and {y!r}"


def _logits(a: Network, b: Network, x: Array) -> dict[str, Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        answers = [ReferenceNetwork(network).logits(x.astype(np.float64)) for network in (a, b)]
    for answer in answers:
        check_finite(answer, "logits")
    return logits_row(answers[0], *answers)


def _equal(a: Network, b: Network) -> bool:
    x, y = build.flatten(a), build.flatten(b)
    return x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)


def _how(a: Subject, b: Subject) -> str:
    """With which precision one file was folded from the other, where the bits tell."""
    train, deploy = (a, b) if a.network.form == "train" else (b, a)
    if (train.network.form, deploy.network.form) != ("train", "deploy"):
        return ""
    if set(deploy.file.stored.values()) != {"F32"}:
        return ""
    source = build.build_network(train.file.tensors, train.config, np.float32)
    for dtype in ("float64", "float32"):
        if _equal(source.reparameterized(dtype), deploy.network):
            return f"; bit for bit, folded in {dtype}"
    return ""


# --- Folding, right and wrong ---------------------------------------------------------------------


def _folded(network: Network, mistake: WrongFold | None = None) -> Arrays:
    """Return the deploy-form arrays of a network, folded in float64, if need be with a mistake."""
    blocks = []
    for block in network.blocks:
        if mistake and isinstance(block.form, Branches):
            block = replace(block, form=_mistaken(block.form, mistake))
        blocks.append(block.reparameterized())
    return build.flatten(replace(network, blocks=tuple(blocks)))


def _mistaken(branches: Branches, mistake: WrongFold) -> Branches:
    def norm(bn: BatchNorm, keep: bool = True) -> BatchNorm:
        zero = np.zeros_like(bn.beta)
        if not keep:
            bn = replace(bn, gamma=zero, beta=zero)
        return bn if mistake.eps is None else replace(bn, eps=mistake.eps)

    kxk, pointwise, identity = branches.conv_kxk, branches.conv_1x1, branches.identity
    return Branches(
        ConvBN(kxk.weight, norm(kxk.bn)),
        ConvBN(pointwise.weight, norm(pointwise.bn, mistake.pointwise)),
        norm(identity, mistake.identity) if identity is not None else None,
    )


def _terms(block: Block, floor: float) -> FusedConv:
    """Σ |terms| of a block's folded kernel and bias; `floor` is added to what was stored."""
    form = block.form
    if isinstance(form, FusedConv):
        return FusedConv(np.abs(form.weight) + floor, np.abs(form.bias) + floor)
    return reparameterized_terms(form, groups=block.spec.groups, floor=floor)


def _terms_of(network: Network, floor: float) -> Arrays:
    blocks = tuple(replace(block, form=_terms(block, floor)) for block in network.blocks)
    terms = build.flatten(replace(network, blocks=blocks))
    return {n: a if ".reparam_conv." in n else np.abs(a) + floor for n, a in terms.items()}


def _tolerance(a: Subject, b: Subject) -> Arrays:
    """Return the largest difference of each number that rounding explains."""
    stored = {*a.file.stored.values(), *b.file.stored.values()}
    half = max((UNITS[HALVES[dtype]] for dtype in stored if dtype in HALVES), default=0.0)
    floor = FLOAT16_SMALLEST_NORMAL if half else 0.0
    x, y = _terms_of(a.network, floor), _terms_of(b.network, floor)
    return {name: (8 * U + 5 * half) * np.maximum(x[name], y[name]) for name in x}


def _differences(a: Arrays, b: Arrays, tolerance: Arrays) -> Iterator[dict[str, Any]]:
    for name, x in a.items():
        beyond = np.abs(x - b[name]) > tolerance[name]
        if beyond.any():
            largest = float(np.abs(x - b[name]).max())
            scale = float(np.maximum(np.abs(x), np.abs(b[name])).max())
            yield {
                "tensor": name,
                "beyond_rounding": int(beyond.sum()),
                "of": int(x.size),
                "absolute": largest,
                "relative": largest / scale,
            }


def _explanation(a: Subject, b: Subject, tolerance: Arrays, rows: list[dict[str, Any]]) -> str:
    """Return the one mistake that explains every difference, or how far they go."""
    train, deploy = (a, b) if a.network.form == "train" else (b, a)
    if (train.network.form, deploy.network.form) == ("train", "deploy"):
        want = build.flatten(deploy.network)
        where = deploy.file.path.name
        for mistake in WRONG_FOLDS:
            if not any(_differences(_folded(train.network, mistake), want, tolerance)):
                return f"{where}: {mistake.says}"
        exact = _folded(train.network)
        everywhere = 2 * len(rows) > len(want)  # a coarse fold spares no layer
        for name in HALVES.values() if everywhere else ():
            terms = _terms_of(train.network, FLOAT16_SMALLEST_NORMAL)
            coarse = {key: 8 * UNITS[name] * array for key, array in terms.items()}
            if not any(_differences(exact, want, coarse)):
                return f"{where}: the same, but folded in {name} or with its precision"
    blocks = {
        re.sub(r"(\.reparam_conv|\.attn\..+)?\.(weight|bias)$", "", row["tensor"]) for row in rows
    }
    return f"other weights in {len(blocks)} of {len(a.network.blocks) + 1} layers"
