"""Hold npvgg, and all that runs what it exports, against PyTorch, layer by layer, with its own kit.

Needs timm and torch; run it from the root of the repository:

    python -m weights_tools.validate_against_torch --original /path/to/RepVGG

It writes weights_tools/validation.md, which says what is in it (`validation_report`). The networks
are those of the goldens: every variant that timm has, and every keyword of a configuration; with
--original (or NPVGG_ORIGINAL) those of the published original, too. Exit status 1 if anything is
beyond its tolerance, missing, or cannot be run.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import npvgg
from bench.exports import write_ncnn
from bench.report import say
from npvgg.export import export_onnx
from npvgg.testing import Pack, Report, compare, layer_by_layer
from npvgg.testing.bounds.tiles import LARGEST
from npvgg.testing.comparison.report import MISSING, OK
from npvgg.testing.comparison.runners import run_onnx
from tests.oracles import formula, judge, original_peer, runtime_peer, timm_peer
from weights_tools.make_goldens import GAINS, timm_cases
from weights_tools.validation_report import EXACT, OWN, Measured, Said, left_out, write

TILED = ("winograd", "ncnn")
"""Those that compute by Winograd's algorithms."""


class Case(NamedTuple):
    """One network: what npvgg is told of it, and how PyTorch makes it: (type, form) → module."""

    name: str
    model: str
    keywords: dict[str, Any]
    x: np.ndarray
    weights: dict[str, np.ndarray]
    theirs: Callable[[torch.dtype, str], torch.nn.Module]

    def ours(self, form: str, engine: str = "reference", dtype: str = "float32") -> Any:
        """Make npvgg's model in train or deploy form."""
        return npvgg.create_model(
            self.model, weights=self.weights, reparameterize=form == "deploy",
            engine=engine, dtype=dtype, **self.keywords,
        )  # fmt: skip


# --- The networks ---------------------------------------------------------------------------------


def timm_case(name: str, variant: str, keywords: dict[str, Any], shape: tuple[int, ...]) -> Case:
    """One of the goldens' networks, with their weights."""
    gain = GAINS.get(keywords.get("attn_layer") or keywords.get("act_layer"), 0.75)
    weights = formula.tensors(timm_peer.shapes(timm_peer.network(variant, **keywords)), gain)

    def theirs(dtype: torch.dtype, form: str) -> torch.nn.Module:
        module = timm_peer.load(timm_peer.network(variant, **keywords), weights, dtype)
        return timm_peer.deployed(module) if form == "deploy" else module

    return Case(name, variant, keywords, formula.images(shape), weights, theirs)


def original_case(original: Any, name: str) -> Case:
    """One of the original's networks; the widths leave no remainder where it squeezes."""
    size = {"scale": 0.2 if "se" in name else 0.25, "num_classes": 50}
    made = original_peer.network(original, name, **size)
    weights = formula.tensors(timm_peer.shapes(made))

    def theirs(dtype: torch.dtype, form: str) -> torch.nn.Module:
        module = timm_peer.load(original_peer.network(original, name, **size), weights, dtype)
        if form == "train":
            return module
        module = original_peer.deployed(original, module)
        if name == original_peer.PLUS:  # its own forward needs the heads that it dropped
            answers = original_peer.block_answers
            module.forward = lambda x: torch.from_numpy(answers(module, x.numpy())["logits"])
        return module

    x = formula.images((1, 3, 40, 40))  # square, for the squeeze
    return Case(f"original-{name}", name, original_peer.keywords(made), x, weights, theirs)


def cases(original: Any, pattern: str) -> Iterator[Case]:
    """Every case whose name fits, one at a time: each holds its weights."""
    quarter = [row for row in timm_cases() if row[0].startswith("quarter-")]
    large = [(f"large{row[0][7:]}", *row[1:3], (1, 3, 128, 128)) for row in quarter]
    for arguments in (*timm_cases(), *large):
        if fnmatch(arguments[0], pattern):
            yield timm_case(*arguments)
    for name in (*original.repvgg.func_dict, original_peer.PLUS) if original else ():
        if fnmatch(f"original-{name}", pattern):
            yield original_case(original, name)


# --- Those who run them ---------------------------------------------------------------------------


def runners(case: Case, form: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """All who can run this form, PyTorch first: (name, what makes a candidate for the kit)."""
    model = case.ours(form)
    yield "PyTorch", lambda: case.theirs(torch.float32, form)
    yield "reference", lambda: arrays(layer_by_layer(model, case.x, level="branch"))
    for engine in OWN[1:]:
        yield engine, lambda engine=engine: case.ours(form, engine)
    if form == "train":
        return
    path, names = folder / "network.onnx", [block.spec.name for block in model.network.blocks]
    ends = {"head.global_pool": "pool", "embedding": "pool", "features": names[-1]}

    def ours(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {ends.get(name, name): y for name, y in found.items()}

    if find_spec("onnx"):
        export_onnx(model, path, dynamic_size=True)
        if find_spec("onnxruntime"):
            yield "ONNX Runtime", lambda: ours(run_onnx(path, case.x).arrays)
        if find_spec("openvino"):
            watched = [*names, "head.global_pool"]
            yield "OpenVINO", lambda: ours(runtime_peer.by_openvino(path, watched, case.x))
    if find_spec("ncnn") and runtime_peer.ncnn_has_words_for(model.config):
        write_ncnn(model, path)
        yield "ncnn", lambda: runtime_peer.by_ncnn(path, model.network.blocks, case.x)


def arrays(steps: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors without what they are."""
    return {name: step.array for name, step in steps.items()}


# --- Measuring ------------------------------------------------------------------------------------


def validate(case: Case, form: str, folder: Path) -> Iterator[Measured | Said]:
    """Everything that was measured of one form of a network, and what has to be said of it."""
    where = f"{case.name}, {form}"
    pack = Pack.of(case.ours(form), case.x, level="branch", form=form)
    layers = {probe.name: probe.op for probe in pack.probes}
    report = compare(case.theirs(torch.float64, form), pack, diagnosis=False)
    if bad := [f"{row.name} is {row.status}" for row in report.rows if row.status != OK]:
        yield Said(f"{where}, PyTorch in float64: {', '.join(bad)}")
        return
    truth = report.match.arrays
    scales = {name: float(abs(y).max()) or 1.0 for name, y in truth.items()}
    exact = arrays(layer_by_layer(case.ours(form, dtype="float64"), case.x, level="branch"))
    for name, error in list(judge.errors(exact, truth).items())[1:]:  # without the input
        share, relative = error / judge.float64_bound(scales[name]), error / scales[name]
        yield Measured(case.name, form, EXACT, name, layers[name], share, relative, np.nan)
        if not share <= 1:
            yield Said(f"{where}, {EXACT}: {name} is wrong, {share:.3g} of its tolerance")
    own: dict[str, float] = {}
    for runner, candidate in runners(case, form, folder):
        try:
            report = compare(candidate(), pack, diagnosis=False)
        except Exception as error:  # anybody's, of any type: it is one more result
            yield Said(f"{where}, {runner}: {type(error).__name__}: {error}")
            continue
        for row in report.rows[1:]:
            if row.measured is not None:
                name, scale = row.name, scales[row.name]
                error = judge.errors(report.match.arrays, {name: truth[name]})[name]
                if runner == "PyTorch":
                    own[name] = max(error, judge.U * scale)
                yield Measured(
                    case.name, form, runner, name, layers[name], row.measured.share,
                    error / scale, error / own.get(name, np.nan),
                )  # fmt: skip
        yield from failures_of(case, form, runner, report)


def failures_of(case: Case, form: str, runner: str, report: Report) -> Iterator[Said]:
    """Return what is wrong or missing; Winograd's algorithms get a second chance, by their own
    bound.
    """
    wide = report
    if not report.ok and runner in TILED:
        pack = Pack.of(case.ours(form), case.x, level="branch", form=form, winograd=LARGEST)
        wide = compare(report.match.arrays, pack, diagnosis=False)
    for row, second in list(zip(report.rows, wide.rows, strict=True))[1:]:  # without the input
        folded = row.probe.block not in ("", row.name) and runner not in ("PyTorch", "reference")
        if row.status == OK or (row.status == MISSING and folded):
            continue
        how = row.status if second.status != OK else "beyond"
        text = f"{case.name}, {form}, {runner}: {row.name} is {how}"
        if row.measured and second.measured:
            text += f", {row.measured.share:.3g} of its tolerance"
            if wide is not report:
                text += f", {second.measured.share:.3g} of that for Winograd's algorithms"
        yield Said(text, fails=second.status != OK)


# --- All of it -----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Validate, write the report; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--original", help="a checkout of DingXiaoH/RepVGG")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="networks of these names")
    parser.add_argument("--output", type=Path, default=Path("weights_tools/validation.md"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: list[Measured] = []
    said: list[Said] = []
    seen, start = {}, time.monotonic()
    for case in cases(original_peer.published(args.original), args.only):
        for form in ("train", "deploy"):
            with tempfile.TemporaryDirectory() as folder:
                for one in validate(case, form, Path(folder)):
                    (said if isinstance(one, Said) else found).append(one)
        model = case.ours("train")
        seen[case.name] = (model.name, model.config)
        say(f"{time.monotonic() - start:5.0f} s  {case.name}")
    if not seen:
        parser.error(f"--only: no network is called {args.only}")
    text = write(found, said, left_out(found, seen, args.only))
    args.output.write_text(text, encoding="utf-8")
    failures = sum(one.fails for one in said)
    say(f"{len(found):,} tensors, {failures} failures: {args.output}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
