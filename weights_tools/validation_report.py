"""What validate_against_torch.py measured, as a page of Markdown."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

from bench.report import machine
from npvgg.variants import VARIANTS

EXACT, OWN = "reference, float64", ("reference", "im2col", "winograd")
RUNTIMES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "ncnn": "ncnn"}
"""Those that run what npvgg exports → the package that each needs."""
COLUMNS = ("PyTorch", EXACT, *OWN, *RUNTIMES)

HEAD = """# npvgg beside PyTorch, layer by layer

Written by `weights_tools/validate_against_torch.py` on {date}, {processor}:
{versions}.

Each cell: the largest error as a share of the tolerance, where 1 would be wrong, and in brackets as
a multiple of PyTorch's own float32 error in the same tensor (or of half an ulp of its largest
number, if that is more). PyTorch's float64 is the truth. The tolerance is derived, element by
element (`testing/bounds/walk.py`, chain), and the same for all, without any allowance for
Winograd's algorithms. Where those are beyond it (npvgg's, ncnn's), they are held to their own
derived bound (`testing/bounds/tiles.py`, F(6 × 6, 3 × 3)), and listed. npvgg's float64 is held to
1e-12 of the tensor's largest number.

Every tensor counts: each branch after its batch norm, their sum, attention, the block, pooling,
logits. Who folds or fuses those inside a block has the others. PyTorch folds by its own code, in
float32. ONNX Runtime, OpenVINO and ncnn run what npvgg exports; ncnn in float32, not in the half
precision of its defaults. Images are noise, weights are made by formula.

The networks are timm's; those called `original-…` are the original's. `full-…` are as wide as they
are published; `quarter-…`, `large-…` and `original-…` a quarter of that (a fifth, where the
original squeezes). `large-…` see 128 × 128 pixels, enough for Winograd's algorithms in nearly all
blocks; the other images are smaller, and they serve the first stages at most.

Columns: `share` of the tolerance; `relative`, the error by the tensor's largest number; `multiple`
of PyTorch's own error. Layers: `conv_bn` is a branch, `batch_norm` the identity's, `conv` the one
convolution that a block is folded into; `activation` and `attention` end a block, or stand in it.
"""


class Measured(NamedTuple):
    """One tensor of one run: its largest error, by tolerance, by magnitude, by PyTorch's own."""

    network: str
    form: str
    runner: str
    tensor: str
    layer: str
    share: float
    relative: float
    multiple: float


class Said(NamedTuple):
    """A sentence about a run, and whether it is a failure."""

    sentence: str
    fails: bool = True


def listed(lines: Iterable[str]) -> list[str]:
    """Return a Markdown list, which says so if nothing is in it."""
    return [f"- {line}" for line in lines] or ["- none"]


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def cell(found: list[Measured]) -> str:
    """Return the largest share, and the largest multiple where it is not of oneself."""
    if not found or found[0].runner in ("PyTorch", EXACT):
        return f"{max(m.share for m in found):.2g}" if found else ""
    return f"{max(m.share for m in found):.2g} ({max(m.multiple for m in found):.1f} ×)"


def by_runner(found: list[Measured], *keys: str) -> list[list[str]]:
    """Return a row for every value of some fields, in order of appearance; a column for
    everybody.
    """
    rows: dict[tuple[str, ...], dict[str, list[Measured]]] = {}
    for m in found:
        rows.setdefault(tuple(getattr(m, k) for k in keys), {}).setdefault(m.runner, []).append(m)
    return [[*key, *(cell(row.get(c, [])) for c in COLUMNS)] for key, row in rows.items()]


def everybody(found: list[Measured]) -> list[list[str]]:
    """One row for everybody: how much was seen, and the largest errors."""
    rows = []
    for runner in COLUMNS:
        if own := [m for m in found if m.runner == runner]:
            networks, relative = {m.network for m in own}, max(m.relative for m in own)
            rows.append([runner, str(len(networks)), f"{len(own):,}", cell(own), f"{relative:.1e}"])
    return rows


def worst(found: list[Measured], runners: Iterable[str], field: str) -> list[list[str]]:
    """Return the ten worst tensors of some runners by a field, but one of each network and
    runner.
    """
    ranked = sorted((m for m in found if m.runner in runners), key=lambda m: getattr(m, field))
    single = {(m.network, m.runner): m for m in ranked}
    ten = sorted(single.values(), key=lambda m: -getattr(m, field))[:10]
    return [[*m[:5], f"{m.share:.2g}", f"{m.relative:.1e}", f"{m.multiple:.1f} ×"] for m in ten]


def left_out(found: list[Measured], seen: dict[str, Any], pattern: str) -> Iterator[str]:
    """List what this run did not see; seen: network → npvgg's name for it and its configuration."""
    if pattern != "*":
        yield f"this is a selection: {pattern}"
    for runner, package in RUNTIMES.items():
        if not find_spec(package):
            yield f"{runner}: the package {package} is not installed"
        elif rest := seen.keys() - {m.network for m in found if m.runner == runner}:
            yield f"{runner}: {len(rest)} networks, {', '.join(sorted(rest))}"
    plain = VARIANTS["repvgg_a0"]
    for f in fields(plain):
        if all(getattr(config, f.name) == getattr(plain, f.name) for _, config in seen.values()):
            yield f"keyword: {f.name} is as in repvgg_a0 everywhere"
    if names := [name for name in VARIANTS if name not in {name for name, _ in seen.values()}]:
        yield f"variants: {', '.join(names)}"


def write(found: list[Measured], said: list[Said], notes: Iterable[str]) -> str:
    """Return the whole report."""
    where = machine()
    versions = {**where["versions"], "timm": version("timm")}
    where["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    groups: dict[bool, list[Measured]] = {True: [], False: []}
    for m in found:
        groups[m.network.startswith(("full-", "quarter-", "large-", "original-"))].append(m)
    by, names = ("network", "form", "layer"), Measured._fields
    sections = {
        "Failures": listed(one.sentence for one in said if one.fails),
        "Right by Winograd's bound only": listed(one.sentence for one in said if not one.fails),
        "Left out": listed(notes),
        "Everybody": table(
            ("runner", "networks", "tensors", "share (multiple)", "relative"), everybody(found)
        ),
        "Layer types": table((*by[1:], *COLUMNS), by_runner(found, *by[1:])),
        "npvgg's worst, by tolerance": table(names, worst(found, OWN, "share")),
        "npvgg's worst, by PyTorch's own error": table(names, worst(found, OWN, "multiple")),
        "The runtimes' worst, by tolerance": table(names, worst(found, RUNTIMES, "share")),
        "Variants": table((*by, *COLUMNS), by_runner(groups[True], *by)),
        "Keywords": table((*by[:2], *COLUMNS), by_runner(groups[False], *by[:2])),
    }
    text = [f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items()]
    return HEAD.format_map(where) + "".join(text)
