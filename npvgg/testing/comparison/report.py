"""What a comparison found: a row per tensor, the first wrong one, and how to read it.

A tensor is

    ok            every element is within its bound
    wrong         at least one is not, or is not finite
    wrong shape   it is there, and is not of our shape in the candidate's layout
    missing       it was not given

The first tensor in order of execution that is wrong is where to look: whatever comes after it was
computed from it. `str(report)` says so in a line per tensor, `as_dict` in JSON's types, and
`npvgg.testing.comparison.html` in pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import Any

from npvgg.formats.untrusted import path_text, printable, shown
from npvgg.ops import Array
from npvgg.testing.bounds.shares import shares
from npvgg.testing.comparison.match import Match
from npvgg.testing.comparison.measure import Measured
from npvgg.testing.diagnosis.diagnose import Finding
from npvgg.testing.packs.pack import Pack
from npvgg.testing.trace import Probe

OK, WRONG, WRONG_SHAPE, MISSING = "ok", "wrong", "wrong shape", "missing"

RED, DIM, PLAIN = "\x1b[1;31m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Row:
    """One tensor of ours: its status, their name and shape for it, and its errors."""

    probe: Probe
    status: str
    theirs: str = ""
    their_shape: tuple[int, ...] = ()
    measured: Measured | None = None

    @property
    def name(self) -> str:
        """Our name of the tensor."""
        return self.probe.name

    @property
    def fails(self) -> bool:
        """Whether it is there and wrong."""
        return self.status in (WRONG, WRONG_SHAPE)


@dataclass(frozen=True)
class Report:
    """A comparison.

    candidate: what was compared      pack: with what
    rows: every tensor of ours, in order of execution
    match: which of theirs was taken for which of ours, and their arrays
    findings: what is known about the first wrong tensor, a sentence each
    mistakes: the mistakes that reproduce its numbers, best first
    complete: whether a missing tensor is a failure, too
    alone: whether each tensor was computed from the pack's own inputs: its bound is the local one
    fed: whether the input is the pack's own, with which the candidate was run
    """

    candidate: str
    pack: Pack = field(repr=False)
    rows: tuple[Row, ...]
    match: Match = field(repr=False)
    findings: tuple[str, ...] = ()
    mistakes: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = False
    alone: bool = False
    fed: bool = False

    @property
    def title(self) -> str:
        """What the reference is."""
        m, shape = self.pack.manifest, self.pack.probe("input").shape
        return f"{path_text(m['model'])}, {m['form']} form, input {'×'.join(map(str, shape))}"

    def bound(self, name: str) -> Array:
        """How far each element of a tensor may be off."""
        return self.pack.tolerance(name, alone=self.alone)

    def shares(self, name: str) -> Array:
        """Return the share of its bound that the error of each element of a tensor of theirs is."""
        return shares(self.match.arrays[name], self.pack.tensor(name), self.bound(name))

    @property
    def ok(self) -> bool:
        """Whether everything that was compared is right (and everything was, if `complete`)."""
        missing = self.complete and any(row.status == MISSING for row in self.rows)
        return not missing and self.first_wrong is None

    @property
    def first_wrong(self) -> Row | None:
        """The first wrong tensor in order of execution, or None."""
        return next((row for row in self.rows if row.fails), None)

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        count = {status: sum(row.status == status for row in self.rows)
                 for status in (OK, WRONG, WRONG_SHAPE, MISSING)}  # fmt: skip
        given = len(self.rows) - count[MISSING] - (self.fed and count[MISSING] > 0)
        missing = self._missing(count[MISSING]) if count[MISSING] else ""
        if first := self.first_wrong:
            bad = counted(count[WRONG] + count[WRONG_SHAPE], "is", "are")
            of = counted(given, "tensor", "tensors")
            return f"wrong from {first.name} on: of {of} {bad} wrong{missing}"
        if not self.ok:
            return f"incomplete: {count[OK]} of {len(self.rows)} tensors are right{missing}"
        every = f"each of the {given} tensors given" if missing else f"each of {given} tensors"
        every = "the one tensor given" if given == 1 else every
        return f"right: {every} is within the bound of a correct float32 implementation{missing}"

    def _missing(self, count: int) -> str:
        if not self.match.unused:
            return f"; {counted(count, 'was', 'were')} not given"
        unknown = counted(len(self.match.unused), "array of theirs was", "arrays of theirs were")
        return f"; {counted(count, 'was', 'were')} not found, and {unknown} not recognised"

    @property
    def names_theirs(self) -> bool:
        """Whether it has to be said which of theirs is which of ours: where no name tells."""
        return self.match.how != "name"

    def __str__(self) -> str:
        return "".join(self.as_text())

    def as_text(self, *, colour: bool = False) -> Iterator[str]:
        """Return the report for people: a line per tensor, more about the first wrong one, the
        verdict.
        """
        yield f"{self.candidate} against {self.title}\n"
        yield f"matched by {self.match.how}, {self.match.layout}\n\n"
        width = max(12, *(len(row.name) for row in self.rows)) + 2
        yield f"  {'tensor':{width}}{'shape':15}{'absolute':>9}{'relative':>10}{'ulp':>9}"
        yield f"   of its bound (0.001 % … 100 %){'   theirs' * self.names_theirs}\n"
        first = self.first_wrong
        after = False
        for row in self.rows:
            line = f"{'✗' if row.fails else ' '} {row.name:{width}}{_cells(row)}"
            paint = RED if row is first else DIM if after or row.status == MISSING else ""
            if self.names_theirs and row.theirs:
                line = f"{line:{width + 81}}{printable(row.theirs)}"
            line = line.rstrip() + ("   ◀── first wrong" if row is first else "")
            yield f"{paint}{line}{PLAIN}\n" if colour and paint else f"{line}\n"
            if row is first:
                after = True
                yield from (f"  │ {line}\n" for line in self.explained())
        yield "\n"
        yield from (f"note: {note}\n" for note in self.all_notes())
        yield f"{self.verdict}\n"

    def all_notes(self) -> Iterator[str]:
        """Return what has to be said of the run, and of arrays that found no place."""
        yield from self.notes
        if count := len(self.match.unused):
            names = ", ".join(shown(name) for name in self.match.unused[:5])
            arrays = counted(count, "array of theirs matches", "arrays of theirs match")
            yield f"{arrays} none of ours: {names}{', …' if count > 5 else ''}"

    def explained(self) -> Iterator[str]:
        """Return what is known about the first wrong tensor, a line each."""
        if self.first_wrong is None:
            return
        yield self.first_wrong.probe.equation
        yield from self.findings
        for mistake in self.mistakes:
            yield f"→ {mistake.sentence}{odds(mistake.chance)}"
            yield from wrap(mistake.advice, 96, initial_indent="  ", subsequent_indent="  ")

    def as_dict(self) -> dict[str, Any]:
        """Everything but the arrays, in JSON's types; what is not finite is null."""
        first = self.first_wrong
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "reference": self.title,
            "candidate": self.candidate,
            "matched_by": self.match.how,
            "layout": self.match.layout,
            "first_wrong": first.name if first else None,
            "findings": list(self.findings),
            "mistakes": [_finite(asdict(mistake)) for mistake in self.mistakes],
            "notes": list(self.notes),
            "unused": list(self.match.unused),
            "tensors": [_row(row) for row in self.rows],
        }


def _row(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": row.name, "op": row.probe.op, "block": row.probe.block, "status": row.status,
        "theirs": row.theirs or None, "shape": list(row.probe.shape),
        "their_shape": list(row.their_shape) if row.theirs else None,
    }  # fmt: skip
    return fields | (_finite(asdict(row.measured)) if row.measured else {})


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }


# --- A line of the table --------------------------------------------------------------------------


def _cells(row: Row) -> str:
    shape = "×".join(map(str, row.probe.shape))
    if row.measured is None:
        got = f" {'×'.join(map(str, row.their_shape)) or 'a number'}" if row.fails else ""
        return f"{shape:15}{row.status}{got}"
    m = row.measured
    return (
        f"{shape:15}{number(m.absolute):>9}{number(m.relative):>10}{number(m.ulp):>9}"
        f"   {gauge(m.share)} {share_text(m.share):>9}"
    )


def odds(chance: float) -> str:
    """How often a mistake that was not made is named, in words, where that is worth a word."""
    return f" (a coincidence at most once in {1 / chance:,.0f})" if 1e-9 < chance < 1 else ""


def counted(count: int, one: str, many: str) -> str:
    """Return a number with its word: "1 is", "2 are"."""
    return f"{count} {one if count == 1 else many}"


def number(value: float) -> str:
    """Return a number in at most seven characters: 0, 0.5, 12, 3.1e-08, ∞."""
    if not math.isfinite(value):
        return "∞"
    if value == 0 or 0.05 <= value < 1e5:
        return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"
    return f"{value:.1e}"


def share_text(share: float) -> str:
    """Return a share of the bound in words: 3.1 %, 5,100 ×."""
    if share <= 1:
        return f"{100 * share:.2g} %"
    return f"{share:,.1f} ×" if share < 10 else f"{share:,.0f} ×" if share < 1e6 else "> 10⁶ ×"


def gauge(share: float, width: int = 10) -> str:
    """Return a bar on a logarithmic scale, from 0.001 % of the bound to all of it; "▶" goes
    beyond.
    """
    if share > 1:
        return "█" * width + "▶"
    eighths = round(8 * width * (1 + math.log10(share) / 5)) if share > 0 else 0
    whole, part = divmod(max(eighths, 0), 8)
    bar = "█" * whole + ("" if part == 0 else "▏▎▍▌▋▊▉"[part - 1])
    return f"{bar:{width}}│"
