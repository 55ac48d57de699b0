"""What is this file? Its format, whose names, which network, which form; and what looks wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import checkpoint
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.files import sha256
from npvgg.formats.untrusted import shown
from npvgg.hub.pretrained import split_tag
from npvgg.network import Block, Network
from npvgg.reparam import BatchNorm, Branches
from npvgg.rounding import whatever_seterr_says
from npvgg.weights import build, keymap
from npvgg.weights.identity import identify

MAX_CALLS = 20
"""Names of foreign code that are listed; a whole model has a dozen."""

TINY_VARIANCE = 1e-12
"""A running variance below this belongs to a channel that was constant: eps alone divides it."""


@whatever_seterr_says
def inspect(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    wrapper: str | None = None,
    prefix: str | None = None,
) -> dict[str, Any]:
    """Everything that can be said of a weights file, ready for JSON.

    bytes, sha256: of the file; of sharded weights, of the index and its shards one after another
    findings: what looks wrong, a sentence each; empty for a sound network
    blocks: per block the range of the fused kernel, of gammas and of variances, and dead channels

    model, wrapper, prefix: as in `npvgg.tools.convert`

    A file that cannot be read as weights, but whose pickles name code, has these findings alone.
    Raises WeightsError where it cannot be read.
    """
    try:
        loaded = checkpoint.load_with_metadata(path, wrapper=wrapper, prefix=prefix)
    except WeightsError as error:
        calls, files = checkpoint.code_in(path)
        if not calls:
            raise
        return _code_alone(files, calls, str(error))
    report: dict[str, Any] = {
        "path": os.fspath(loaded.path),
        "format": loaded.format,
        "bytes": sum(file.stat().st_size for file in loaded.files),
        "sha256": sha256(*loaded.files),
        "wrapper": loaded.key,
        "other_wrappers": list(loaded.others),
        "ignored": loaded.ignored,
        "calls": list(loaded.calls),
        "tensors": len(loaded.tensors),
        "numbers": sum(int(array.size) for array in loaded.tensors.values()),
        "dtypes": dict(Counter(loaded.stored.values()).most_common()),
        "metadata": loaded.metadata,
    }
    report |= _names(loaded.tensors)
    findings = list(_calls(loaded.calls)) + list(suspicious_values(loaded.tensors))
    network, described, problem = _network(loaded, model)
    report |= described
    report["blocks"] = []
    if network is not None:
        report["blocks"] = [_block(block) for block in network.blocks]
        findings += _dead(report["blocks"])
    if problem:
        findings.append(problem)
    report["findings"] = findings
    return report


def _code_alone(files: Sequence[Path], calls: Sequence[str], problem: str) -> dict[str, Any]:
    """Return the report on files that are no weights and name code."""
    return {
        "path": os.fspath(files[0]),
        "format": "pickle",
        "bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "sha256": sha256(*(file for file in files if file.is_file())),
        "wrapper": "",
        "other_wrappers": [],
        "ignored": {},
        "calls": list(calls),
        "tensors": 0,
        "numbers": 0,
        "dtypes": {},
        "metadata": {},
        "naming": None,
        "form": None,
        "prefix": "",
        "network": None,
        "classes": None,
        "channels": None,
        "blocks": [],
        "findings": [*_calls(calls), problem],
    }


def _calls(calls: Sequence[str]) -> Iterator[str]:
    """Return a sentence for each piece of foreign code that the pickle names."""
    for name in calls[:MAX_CALLS]:
        yield (
            f"the pickle names {shown(name, 200)}, which torch.load imports and may call with "
            "weights_only=False; npvgg does not"
        )
    if len(calls) > MAX_CALLS:
        yield f"the pickle names {len(calls) - MAX_CALLS} other functions and classes"


def _names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Whose names they are, which form they tell, and the prefix before them."""
    short = [keymap.strip_prefix(name) for name in tensors]
    whole = [(name, s) for name, s in zip(tensors, short, strict=True) if name.endswith(s)]
    prefixes = {name.removesuffix(s) for name, s in whole}
    try:
        naming = keymap.naming(short)
    except WeightsError:
        return {"naming": None, "form": None, "prefix": ""}
    return {
        "naming": naming,
        "form": keymap.form(short),
        "prefix": ", ".join(sorted(filter(None, prefixes))),
    }


def _network(loaded: Checkpoint, model: str | None) -> tuple[Network | None, dict[str, Any], str]:
    """Return the network that the file holds, its description, and why there is none."""
    nothing = {"network": None, "classes": None, "channels": None}
    if model is not None:
        split_tag(model)  # a wrong argument is no fault of the file
    try:
        found = identify(model, loaded.tensors, loaded)
    except (WeightsError, ArgumentError) as error:
        return None, nothing, str(error)
    config = found.config
    described = {"network": found.name, "classes": config.num_classes, "channels": config.in_chans}
    precision = np.float64 if "F64" in loaded.stored.values() else np.float32
    try:
        return build.build_network(loaded.tensors, config, precision), described, ""
    except WeightsError as error:
        return None, nothing if model else described, str(error)


def suspicious_values(tensors: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Return a sentence for each tensor with values that no sound network has."""
    for name, array in tensors.items():
        if array.dtype.kind != "f":
            continue
        count = int(array.size - np.isfinite(array).sum())
        if count:
            yield f"{shown(name)}: {count} of {array.size} values are NaN or infinite"
        if name.rpartition(".")[2] == "running_var":
            for problem, where in (
                ("negative", array < 0),
                (f"below {TINY_VARIANCE:g}", (array >= 0) & (array < TINY_VARIANCE)),
            ):
                if where.any():
                    yield f"{shown(name)}: {int(where.sum())} of {array.size} variances {problem}"


def _block(block: Block) -> dict[str, Any]:
    """Return the ranges of one block; `kernel` and `bias` are those after folding."""
    conv = block.fused
    peaks = np.abs(conv.weight).reshape(len(conv.weight), -1).max(axis=1)
    spread = float(conv.weight.std(dtype=np.float64))
    row: dict[str, Any] = {
        "name": block.spec.name,
        "kernel": _range(conv.weight),
        "bias": _range(conv.bias),
        "peak_over_sigma": float(peaks.max()) / spread if spread else None,
        "dead": int(((peaks == 0) & (conv.bias <= 0)).sum()),
        "channels": len(peaks),
    }
    if isinstance(block.form, Branches):
        bns = _batch_norms(block.form)
        row["gamma"] = _range(np.concatenate([bn.gamma for bn in bns]))
        row["variance"] = _range(np.concatenate([bn.var for bn in bns]))
    return row


def _batch_norms(branches: Branches) -> list[BatchNorm]:
    identity = [branches.identity] if branches.identity is not None else []
    return [branches.conv_kxk.bn, branches.conv_1x1.bn, *identity]


def _range(array: NDArray[Any]) -> list[float]:
    return [float(array.min()), float(array.max())]


def _dead(blocks: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['name']}: {row['dead']} of {row['channels']} channels are dead: zero for every image"
        for row in blocks
        if row["dead"]
    ]


def as_table(report: dict[str, Any]) -> Iterator[str]:
    """Return what people read: the file, the network, the blocks, the findings."""
    dtypes = ", ".join(f"{count} × {dtype}" for dtype, count in report["dtypes"].items())
    network = report["network"] or "none of the table"
    if report["classes"] is not None:
        for key, many in (("classes", "es"), ("channels", "s")):
            count = report[key]
            network += f", {count} {key if count != 1 else key.removesuffix(many)}"
        network += " in"
    wrapper = report["wrapper"] and shown(report["wrapper"])
    if report["other_wrappers"]:
        wrapper += " (not " + ", ".join(map(shown, report["other_wrappers"])) + ")"
    names = f"{report['naming']}'s, {report['form']} form" if report["naming"] else "unknown"
    rows = {
        "file": f"{shown(report['path'], 1000)}, {report['bytes']:,} bytes, {report['format']}",
        "sha256": report["sha256"],
        "tensors": f"{report['tensors']} ({dtypes}), {report['numbers']:,} numbers",
        "weights of": wrapper,
        "left out": ", ".join(f"{shown(n)} ({kind})" for n, kind in report["ignored"].items()),
        "names": names + (f", prefix {report['prefix']}" if report["prefix"] else ""),
        "network": network,
    }
    for label, text in rows.items():
        if text:
            yield f"{label:11} {text}\n"
    for key, value in report["metadata"].items():
        yield f"{'metadata':11} {shown(key)}: {shown(value)}\n"
    if report["blocks"]:
        yield f"\n{'block':14}{'kernel after folding':>25}{'peak/σ':>8}{'bias':>21}"
        yield f"{'gamma':>21}{'variance':>21}\n"
    for row in report["blocks"]:
        peak = "-" if row["peak_over_sigma"] is None else f"{row['peak_over_sigma']:.1f}"
        yield f"{row['name']:14}{_span(row['kernel']):>25}{peak:>8}{_span(row['bias']):>21}"
        yield f"{_span(row.get('gamma')):>21}{_span(row.get('variance')):>21}\n"
    yield "\n"
    for finding in report["findings"]:
        yield f"! {finding}\n"
    if not report["findings"]:
        yield "nothing suspicious\n"


def _span(pair: list[float] | None) -> str:
    return f"{pair[0]:.3g} … {pair[1]:.3g}" if pair else ""
