"""Which of their arrays is which of ours, and in which layout.

    name    theirs is ours, in timm's spelling, the original's, with slashes or underscores for
            dots, or with the prefix of a wrapper; "head.fc" and "linear" are the logits
    order   their i-th array is our i-th; the counts must agree, with or without the input
    shape   in order of execution, each of ours has one of theirs of its shape, or none. Every
            implementation makes the outputs of blocks, so as many of them as possible are found;
            inside a block one is found only where values are alike, for a folded block has fewer.
            Among all ways to do that, the values are nearest

Matching by shape looks at the values, and can still hide nothing: an array of theirs that lies
within the bounds of ours, after and before others that do, is what the network computes there; and
a block's output that is wrong is found, and wrong.

A map is NCHW or NHWC, all of a candidate's alike. An axis of one element may be left out or be
added, (C, H, W) for one image; and a flat row of the right length takes its shape from ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import shown
from npvgg.ops import Array
from npvgg.testing.trace import Probe
from npvgg.weights import keymap

WAYS = ("auto", "name", "order", "shape")
LAYOUTS = ("auto", "NCHW", "NHWC")

_ALIASES = {"head.fc": "logits", "head_fc": "logits", "output": "logits",
            "head.global_pool": "pool", "gap": "pool", "images": "input", "x": "input"}  # fmt: skip
_ENDINGS = {
    "rbr_dense": "conv_kxk", "rbr_1x1": "conv_1x1", "nonlinearity": "act", "se": "attn",
    "post_se": "attn",
}  # fmt: skip
"""The modules of a block: the original's → timm's; `keymap` knows the tensors in them."""

COST_MISSING = 2.0
"""What it costs not to match a tensor by shape: more than any difference of values does."""

MAX_PAIRS = 300_000
"""Pairs of an array of theirs and a tensor of ours that matching by shape looks at: some seconds.
All modules of a B3 in PyTorch with all its tensors of level op are 130,000."""

COST_FOLDED = 0.4
"""The same of a tensor inside a block: as much as a difference of two thirds (`_distance`)."""


@dataclass(frozen=True)
class Match:
    """Our name → their name and their array, the array as NCHW where its shape fits.

    how: "name", "order", "shape" or "mapping"      unused: their names that match none of ours
    """

    how: str
    layout: str
    names: dict[str, str]
    arrays: dict[str, Array]
    unused: tuple[str, ...]


def match(
    theirs: Mapping[str, Array],
    probes: Sequence[Probe],
    truth: Callable[[str], Array],
    *,
    by: str | Mapping[str, str] = "auto",
    layout: str = "auto",
) -> Match:
    """Find each of our tensors among theirs.

    by: one of WAYS, or a mapping of their names to ours; "auto" takes names where two of theirs are
        known, or half of them, else the order where counts and shapes agree, else shapes
    layout: one of LAYOUTS; "auto" takes the one that fits more arrays, NCHW if both do

    Raises ArgumentError where nothing can be matched, or a mapping names what is not there.
    """
    ours = {probe.name: probe.shape for probe in probes}
    if layout not in LAYOUTS:
        raise ArgumentError(f"layout: expected one of {', '.join(LAYOUTS)}, got {shown(layout)}")
    how, names = _names(theirs, ours, by)
    pairs = [(theirs[names[n]].shape, ours[n]) for n in names]
    if how == "shape":
        pairs = [(array.shape, shape) for array in theirs.values() for shape in ours.values()]
    layout = _layout(pairs) if layout == "auto" else layout
    if how == "shape":
        names = _by_shape(theirs, probes, truth, layout)
    if not names:
        raise ArgumentError(
            f"candidate: none of its arrays was found {_found_by(how)}: they are "
            f"{_listed(theirs)}; ours are {_listed(ours)}"
        )
    arrays = {n: _arranged(theirs[names[n]], ours[n], layout) for n in ours if n in names}
    unused = tuple(name for name in theirs if name not in names.values())
    return Match(how, layout, {n: names[n] for n in arrays}, arrays, unused)


def held(found: Match, name: str, array: Array, probe: Probe) -> Match:
    """Return the match with an array of theirs in the place of one of our tensors."""
    arranged = _arranged(array, probe.shape, found.layout)
    return replace(
        found,
        names=found.names | {probe.name: name},
        arrays=found.arrays | {probe.name: arranged},
        unused=tuple(other for other in found.unused if other != name),
    )


def _found_by(how: str) -> str:
    return {"mapping": "by the mapping"}.get(how, f"by {how}")


def _listed(names: Mapping[str, object]) -> str:
    more = ", …" if len(names) > 4 else ""
    return ", ".join(shown(name) for name in list(names)[:4]) + more


def _names(
    theirs: Mapping[str, Array],
    ours: Mapping[str, tuple[int, ...]],
    by: str | Mapping[str, str],
) -> tuple[str, dict[str, str]]:
    """How they are matched, and our name → theirs; nothing yet where that is by shape."""
    if isinstance(by, Mapping):
        return "mapping", _by_mapping(theirs, ours, by)
    if by not in WAYS:
        raise ArgumentError(f"by: expected one of {', '.join(WAYS)} or a mapping, got {shown(by)}")
    named = _by_name(theirs, ours) if by in ("auto", "name") else {}
    known = len(named.keys() - {"input"})
    if by == "name" or known > 1 or 2 * known >= len(_row(theirs)):
        return "name", named
    if by == "order":
        return "order", _by_order(theirs, ours)
    if by == "auto" and len(ours) - len(_row(theirs)) in (0, 1):
        ordered = _by_order(theirs, ours)
        pairs = [(theirs[ordered[our]].shape, ours[our]) for our in ordered]
        if any(all(_fits(a, _stored(b, way)) for a, b in pairs) for way in LAYOUTS[1:]):
            return "order", ordered
    return "shape", {}


# --- By mapping, by name, by order ----------------------------------------------------------------


def _by_mapping(
    theirs: Mapping[str, Array], ours: Mapping[str, object], mapping: Mapping[str, str]
) -> dict[str, str]:
    for kind, names, known in (("theirs", mapping, theirs), ("ours", mapping.values(), ours)):
        for name in names:
            if name not in known:
                near = get_close_matches(str(name)[:100], map(str, known), n=1)
                hint = f" (nearest: {shown(near[0])})" if near else ""
                raise ArgumentError(f"mapping: no tensor of {kind} is {shown(name)}{hint}")
    if len(set(mapping.values())) != len(mapping):
        raise ArgumentError("mapping: expected each tensor of ours once, got one twice")
    return {our: their for their, our in mapping.items()}


def _by_name(theirs: Mapping[str, Array], ours: Mapping[str, object]) -> dict[str, str]:
    """Our name → theirs. Of several spellings of one name the nearest to ours is taken."""
    half = _first_half(theirs)
    flat = {our.replace(".", "_"): our for our in ours}
    found: dict[str, tuple[int, str]] = {}
    for their in theirs:
        for distance, spelling in enumerate(_spellings(their, half)):
            our = spelling if spelling in ours else flat.get(spelling.replace(".", "_"), "")
            if our:
                found[our] = min(found.get(our, (distance, their)), (distance, their))
                break
    return {our: their for our, (_, their) in found.items()}


def _first_half(names: Mapping[str, object]) -> int:
    """Return the number of blocks in the first half of RepVGGplus' third stage, which has a name of
    its own.
    """
    found = [re.match(r"(?:module\.)?stage3_first\.blocks\.([0-9]{1,3})", name) for name in names]
    return max((int(m[1]) + 1 for m in found if m), default=0)


def _spellings(name: str, first_half: int) -> Iterator[str]:
    """Return what a name may mean, the most literal first; "stage1_0" is "stage1.0"."""
    yield from _dotted_spellings(name, first_half)
    dotted = re.sub(r"_([0-9]+)(?=_|$)", r".\1", name)
    dotted = re.sub(r"(?<=[0-9])_(?=[a-z])", ".", dotted)
    if dotted != name:
        yield from _dotted_spellings(dotted, first_half)


def _dotted_spellings(name: str, first_half: int) -> Iterator[str]:
    yield name
    name = keymap.strip_prefix(name.replace("/", "."))
    yield name
    name = keymap.to_timm(f"{name}.", first_half).removesuffix(".")
    yield name
    yield _ALIASES.get(name, name)
    parent, _, last = name.rpartition(".")
    last = _ENDINGS.get(last, last)
    yield f"{parent}.{last}"
    if last in ("conv_kxk", "conv_1x1"):
        yield f"{parent}.{last}.bn"  # a convolution and its batch norm
    elif last == "act":
        yield parent  # the last step of a block makes the block's output
    elif last in ("sum", "reparam_conv"):
        yield from (f"{parent}.sum", f"{parent}.reparam_conv")  # in train and in deploy form


def _by_order(theirs: Mapping[str, Array], ours: Mapping[str, object]) -> dict[str, str]:
    """Our name → theirs, one by one; an input that bears its name stands outside the row."""
    names, row = list(ours), _row(theirs)
    if len(row) not in (len(names), len(names) - 1):
        raise ArgumentError(
            f"candidate: expected {len(ours)} arrays (or one fewer, without the input) to match "
            f"them by order, got {len(row)}"
        )
    found = dict(zip(names[len(names) - len(row) :], row, strict=True))
    return {"input": "input"} | found if "input" in theirs else found


def _row(theirs: Mapping[str, Array]) -> list[str]:
    return [name for name in theirs if name != "input"]


# --- By shape -------------------------------------------------------------------------------------


def _by_shape(
    theirs: Mapping[str, Array],
    probes: Sequence[Probe],
    truth: Callable[[str], Array],
    layout: str,
) -> dict[str, str]:
    """Return the cheapest matching that keeps the order, by dynamic programming:

    cost[i, j] = min(cost[i−1, j] + without[i], cost[i, j−1], cost[i−1, j−1] + distance(i, j))
    """
    ours = {probe.name: probe.shape for probe in probes}
    if len(ours) * len(theirs) > MAX_PAIRS:
        raise ArgumentError(
            f"candidate: {len(theirs):,} arrays are too many to be matched by shape with "
            f"{len(ours)} tensors: say which is which (--map, by=)"
        )
    without = [COST_MISSING if p.block in ("", p.name) else COST_FOLDED for p in probes]
    a, b = list(ours), list(theirs)
    step = np.full((len(a), len(b)), np.inf)
    for i, our in enumerate(a):
        for j, their in enumerate(b):
            array = _arranged(theirs[their], ours[our], layout)
            if array.shape == ours[our]:
                step[i, j] = _distance(array, truth(our))
    cost = np.zeros((len(a) + 1, len(b) + 1))
    cost[1:, 0] = np.cumsum(without)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            matched = cost[i - 1, j - 1] + step[i - 1, j - 1]
            cost[i, j] = min(cost[i - 1, j] + without[i - 1], cost[i, j - 1], matched)
    names: dict[str, str] = {}
    i, j = len(a), len(b)
    while i and j:
        if cost[i, j] == cost[i, j - 1]:
            j -= 1
        elif cost[i, j] == cost[i - 1, j] + without[i - 1]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            names[a[i]] = b[j]
    return names


def _distance(got: Array, want: Array) -> float:
    """From 0 for equal tensors to 1 for tensors that are nothing alike:  d/(1 + d), d = ‖Δ‖/‖y‖."""
    with np.errstate(all="ignore"):
        difference = np.linalg.norm((got.astype(np.float64) - want).ravel())
        d = float(difference / np.linalg.norm(want.astype(np.float64).ravel()))
    return d / (1 + d) if np.isfinite(d) else 1.0


# --- Layout ---------------------------------------------------------------------------------------


def _layout(pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """Return the layout in which more of their shapes are ours."""
    fitting = [sum(_fits(their, _stored(our, way)) for their, our in pairs) for way in LAYOUTS[1:]]
    return LAYOUTS[2] if fitting[1] > fitting[0] else LAYOUTS[1]


def _stored(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Return the shape that a tensor of ours has in a layout."""
    return shape[:1] + shape[2:] + shape[1:2] if layout == "NHWC" else shape


def _fits(their: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    flat = their == (prod(stored),)
    return flat or [n for n in their if n != 1] == [n for n in stored if n != 1]


def _arranged(array: Array, shape: tuple[int, ...], layout: str) -> Array:
    """Their array in our shape, (N, C, H, W); as it is where it does not fit."""
    stored = _stored(shape, layout)
    if not _fits(array.shape, stored):
        return array
    array = array.reshape(stored)
    return np.moveaxis(array, -1, 1) if layout == "NHWC" else array
