"""The comparison: a candidate's tensors against the truth, each within its own bound.

    candidate   a dict of arrays; a file or folder of them (`candidates`); a callable, a model of
                npvgg's, a torch module, an ONNX file, which are run on the reference's input
                (`runners`)
    reference   a pack, its folder, or a model and an input, of which a pack is made

Both are brought together by `assign`, measured by `measure`, and told by `report`. A tensor is
right where every element is within its bound. Nothing to compare is an error, never a success.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any, TypedDict, Unpack

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import path_text, shown
from npvgg.model import RepVGG
from npvgg.ops import Array, activation
from npvgg.rounding import whatever_seterr_says
from npvgg.testing.bounds.shares import within
from npvgg.testing.bounds.tiles import LARGEST
from npvgg.testing.bounds.walk import error_bound
from npvgg.testing.comparison import candidates, runners
from npvgg.testing.comparison.assign import assign
from npvgg.testing.comparison.match import Match, held
from npvgg.testing.comparison.measure import measure, pattern
from npvgg.testing.comparison.report import MISSING, OK, WRONG, WRONG_SHAPE, Report, Row, counted
from npvgg.testing.comparison.runners import Run
from npvgg.testing.diagnosis.diagnose import UNKNOWN, diagnose
from npvgg.testing.packs.pack import Pack


@whatever_seterr_says
def compare(
    candidate: Any,
    reference: Any,
    *,
    x: Array | None = None,
    level: str = "block",
    by: str | Mapping[str, str] = "auto",
    layout: str = "auto",
    complete: bool = False,
    alone: bool = False,
    diagnosis: bool = True,
) -> Report:
    """Hold a candidate against a reference, tensor by tensor, and say where it first goes wrong.

    candidate: a dict of name → array, a path to some (npz, npy, safetensors, JSON, a folder), a
        callable that is given the input (N, C, H, W) float32, a model, a torch module, or a path
        that ends in .onnx
    reference: a `Pack`, a pack's folder, or a model, whose weights are then run on x
    level: which tensors of a model are compared, "block", "branch" or "op"
    by: how they are matched: "name", "order", "shape", a mapping of their names to ours, or "auto",
        which also finds the arrays of a right run whose order is another
    layout: "NCHW", "NHWC" or "auto"; a callable is given its input in it
    complete: a tensor that is missing is a failure, too
    alone: each tensor was computed alone, from the reference's own tensors as its inputs: then its
        bound is the sharper, local one
    diagnosis: whether the first wrong tensor is replayed with the mistakes that people make, to see
        which reproduces it; in one block that takes up to some seconds, in all of RepVGG-A0 at
        64 × 64, where only the logits are given, half a minute

    Raises ArgumentError, WeightsError where there is nothing to compare.
    """
    pack = _pack(reference, x, level)
    run = _run(candidate, pack, layout)
    if not run.arrays:
        raise ArgumentError("candidate: expected at least one array, got none")
    weights = [name for name in run.arrays if name.endswith(PARAMETERS)]
    if 2 * len(weights) > len(run.arrays):
        raise ArgumentError(
            f"candidate: expected tensors of a run, got weights ({weights[0]!r} …); two files of "
            "weights are compared by `npvgg verify`"
        )
    found, notes = assign(run.arrays, pack, by=by, layout=layout, alone=alone, watched=run.watched)
    found, more = _with_what_is_returned(run, found, pack, alone)
    found, aside = _with_activation(run, found, pack, alone)
    if set(found.arrays) <= {"input"}:
        raise ArgumentError("candidate: the only tensor of ours that was found is the input")
    rows = tuple(_rows(pack, found, alone))
    if run.watched and all(row.status != MISSING for row in rows):
        found = replace(found, unused=())
    report = Report(
        _name(candidate), pack, rows, found,
        notes=(*run.notes, *notes, *more, *aside), complete=complete, alone=alone,
        fed=run.fed,
    )  # fmt: skip
    return _explained(report, diagnosis)


PARAMETERS = (".weight", ".bias", ".running_mean", ".running_var")
"""How the names of weights end."""


class CompareKeywords(TypedDict, total=False):
    """The keywords of `compare`, which `assert_matches` takes too."""

    x: Array | None
    level: str
    by: str | Mapping[str, str]
    layout: str
    complete: bool
    alone: bool
    diagnosis: bool


def assert_matches(candidate: Any, reference: Any, **options: Unpack[CompareKeywords]) -> Report:
    """Assert that a candidate matches a reference; the message is the report.

    Arguments are those of `compare`. Raises AssertionError, as pytest and unittest expect it, and
    ArgumentError or WeightsError where there is nothing to compare.
    """
    report = compare(candidate, reference, **options)
    __tracebackhide__ = True  # pytest shows the caller's line, not this one
    if not report.ok:
        raise AssertionError(f"\n{report}")
    return report


def _pack(reference: Any, x: Array | None, level: str) -> Pack:
    if isinstance(reference, RepVGG):
        if x is None:
            raise ArgumentError("x: expected an input (N, C, H, W) for the model, got None")
        return Pack.of(reference, x, level=level)
    if isinstance(reference, str | os.PathLike):
        reference = Pack.read(reference)
    if not isinstance(reference, Pack):
        raise ArgumentError(
            f"reference: expected a Pack, its folder or a model, got {type(reference).__name__}"
        )
    if x is not None:
        raise ArgumentError("x: expected None, for a pack has its own input")
    return reference


def _run(candidate: Any, pack: Pack, layout: str) -> Run:
    """Return the candidate's arrays, from whatever it is; those that are run, are run on the
    input.
    """
    if isinstance(candidate, Mapping):
        return Run(runners.as_arrays(candidate))
    path = os.fspath(candidate) if isinstance(candidate, str | os.PathLike) else None
    if path is not None and not path.endswith(".onnx"):
        return Run(candidates.read(path))
    x = pack.tensor("input")
    if path is not None:
        run = runners.run_onnx(path, x)
    elif isinstance(candidate, RepVGG):
        run = runners.run_own(candidate, x)
    elif hasattr(candidate, "register_forward_hook"):
        run = runners.run_torch(candidate, x)
    elif callable(candidate):
        x = np.moveaxis(x, 1, -1) if layout == "NHWC" else x
        run = runners.run_callable(candidate, np.array(x, order="C"))
    else:
        raise ArgumentError(
            "candidate: expected a dict of arrays, a path, a callable or a model, got "
            f"{type(candidate).__name__}"
        )
    return run._replace(arrays={"input": x} | run.arrays, fed="input" not in run.arrays)


def _with_what_is_returned(
    run: Run, found: Match, pack: Pack, alone: bool
) -> tuple[Match, list[str]]:
    """Return the match in which what a network returns is held against the logits, and what to say
    of it.

    A tensor inside may be the logits while its users see another: their softmax, say. So, unless it
    is one of the tensors that are compared already, what is returned is taken for the logits; of
    several tensors the first that can be. Only a mapping may say otherwise.
    """
    compared = {ours: run.arrays[name] for ours, name in found.names.items() if ours != "input"}
    odd = {
        name: array
        for name, array in run.returned.items()
        if not any(_same(array, other) for other in compared.values())
    }
    probe, notes = pack.probes[-1], []
    inner = compared.get(probe.name)
    if probe.name == "logits" and found.how != "mapping":
        fitting = [name for name in odd if odd[name].size == prod(probe.shape)]
        if len(odd) == len(run.returned):
            fitting = [*fitting, *odd]
        elif inner is not None and any(_same(inner, a) for a in run.returned.values()):
            fitting = []
        if fitting:
            array = odd.pop(fitting[0])
            if inner is not None and pack.accepts("logits", found.arrays["logits"], alone=alone):
                notes.append(
                    f"{shown(found.names['logits'])}, inside the network, is the logits; what it "
                    "returns is not"
                )
            found = held(found, fitting[0], array, probe)
    if odd:
        returned = counted(len(odd), "tensor that it returns is", "tensors that it returns are")
        notes.append(f"{returned} compared with nothing: {', '.join(map(shown, odd))}")
    return found, notes


def _with_activation(run: Run, found: Match, pack: Pack, alone: bool) -> tuple[Match, list[str]]:
    """Return the match with the activation done to the maps that are given as they are before it.

    An activation may be a function outside of the module, or stand in the next step. Only where the
    logits of a whole run are right, so that the network does not go on with these maps, and the map
    is right behind its activation; else it may be missing.
    """
    logits = found.arrays.get("logits")
    if alone or logits is None or not pack.accepts("logits", logits):
        return found, []
    act = activation(pack.config.act_layer)
    arrays, outside = dict(found.arrays), []
    for name, array in found.arrays.items():
        if name == pack.probe(name).block and not pack.accepts(name, array):
            with np.errstate(over="ignore", invalid="ignore"):
                behind = act(array)
            if pack.accepts(name, behind):
                arrays[name] = behind
                outside.append(name)
    listed = ", ".join(outside[:5]) + (", …" if len(outside) > 5 else "")
    if run.watched:
        note = f"the activation stands outside of the module, and was done by npvgg: {listed}"
    else:
        note = (
            "these maps are not the ones that the network goes on with, but those before the "
            f"activation, which was done by npvgg (the logits are right): {listed}"
        )
    return replace(found, arrays=arrays), [note] * bool(outside)


def _same(a: Array, b: Array) -> bool:
    return a.size == b.size and np.array_equal(a.ravel(), b.ravel(), equal_nan=True)


def _name(candidate: Any) -> str:
    if isinstance(candidate, str | os.PathLike):
        return path_text(candidate)
    if isinstance(candidate, Mapping):
        return f"{len(candidate)} arrays"
    return getattr(candidate, "__name__", None) or type(candidate).__name__


def _rows(pack: Pack, found: Match, alone: bool) -> Iterator[Row]:
    for probe in pack.probes:
        name = probe.name
        if name not in found.arrays:
            yield Row(probe, MISSING)
            continue
        got = found.arrays[name]
        if got.shape != probe.shape:
            yield Row(probe, WRONG_SHAPE, found.names[name], got.shape)
            continue
        measured = measure(got, pack.tensor(name), pack.tolerance(name, alone=alone))
        status = OK if measured.share <= 1 else WRONG
        yield Row(probe, status, found.names[name], got.shape, measured)


# --- The first wrong tensor -----------------------------------------------------------------------


def _explained(report: Report, diagnosis: bool) -> Report:
    """Return the report, with what can be said of the first wrong tensor."""
    first = report.first_wrong
    if first is None:
        return report
    findings = [*_facts(first, report), *_inputs(first, report)]
    if not diagnosis:
        if note := _tiled_note(report):
            findings.append(f"it may be right: {note}")
        return replace(report, findings=tuple(findings))
    mistakes = diagnose(report.pack, first.name, report.match.arrays, alone=report.alone)
    if all(found.mistake == UNKNOWN for found in mistakes) and (note := _tiled_note(report)):
        if _largest(report) <= BEYOND:
            rows = tuple(replace(row, status=OK) if row.fails else row for row in report.rows)
            return replace(report, rows=rows, notes=(*report.notes, note))
        findings.append(f"if it computes by Winograd's algorithms, it may be right: {note}")
    return replace(report, findings=tuple(findings), mistakes=tuple(mistakes))


BEYOND = 4.0
"""Up to how many times the bound of plain sums a tensor is right by Winograd's bound, unasked.

Winograd's bound is derived (`bounds.tiles`: |Aᵀ| M̃ |A| and γ of the lengths); this limit on its use
is a convention, and no theorem. A tile's largest numbers decide that bound, so it is up to `WIDER`
times the plain one, and a mistake would fit in between. The largest share seen of a correct
implementation is 2.13 (ncnn's F(6) in a stem); the limit is twice that, rounded down. Whoever is
further off is told of `--winograd`, and asks for the wider bounds himself."""

WIDER = 200.0
"""How much wider Winograd's bound may be, roughly (2.13 of the one was seen to be 0.0155 of the
other): tensors that are further off are not asked for it, as that takes as long as another pack."""


def _largest(report: Report) -> float:
    """Return the largest share of a bound of what is wrong; infinite for a wrong shape."""
    shares = [row.measured.share if row.measured else np.inf for row in report.rows if row.fails]
    return max(shares)


def _tiled_note(report: Report) -> str:
    """Say that all that is wrong is right by the bounds of Winograd's algorithms; "" if not."""
    pack, wrong = report.pack, [row for row in report.rows if row.fails]
    largest = _largest(report)
    if largest > WIDER:
        return ""
    bounds = error_bound(
        pack.network(), pack.tensor("input"), level=pack.manifest["level"],
        kind="local" if report.alone else "chain", winograd=LARGEST,
    )  # fmt: skip
    for row in wrong:
        if not within(report.match.arrays[row.name], pack.tensor(row.name), bounds[row.name]):
            return ""
    return (
        f"{counted(len(wrong), 'tensor is', 'tensors are')} beyond the bound of plain sums, "
        f"{largest:.2f} times at most, and within that of Winograd's algorithms (`npvgg "
        f"conformance --winograd {LARGEST}` makes a pack with such bounds)"
    )


def _facts(row: Row, report: Report) -> Iterator[str]:
    m = row.measured
    if m is None:
        yield f"its shape is {list(row.their_shape)}, ours is {list(row.probe.shape)}"
        return
    digits = next((n for n in (7, 9) if f"{m.got:.{n}g}" != f"{m.want:.{n}g}"), 17)
    numbers = f"it is {m.got:.{digits}g}, and should be {m.want:.{digits}g}"
    yield f"at {list(m.where)} {numbers} ± {m.bound:.2g}"
    if m.not_finite:
        are = "is" if m.not_finite == 1 else "are"
        yield f"{m.not_finite:,} of {m.size:,} elements {are} NaN or infinite"
    alike = "; ".join(pattern(report.shares(row.name) > 1))
    are = "is" if m.wrong == 1 else "are"
    yield f"{m.wrong:,} of {m.size:,} elements {are} wrong" + (f": {alike}" if alike else "")


def _inputs(first: Row, report: Report) -> Iterator[str]:
    """Whether what it is computed from is right: then the mistake is in this very step."""
    status = {row.name: row.status for row in report.rows}
    if status.get("logits") == OK and first.name != "logits":
        yield "the logits are right: the network does not go on with this tensor as it is here"
    missing = [name for name in first.probe.inputs if status[name] == MISSING]
    if missing:
        yield f"not given: {', '.join(missing)}; the mistake may be there already"
    elif first.probe.inputs and not report.alone:
        yield f"what it is computed from is right ({', '.join(first.probe.inputs)})"
