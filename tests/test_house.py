"""The laws of the house, read off the source: who may import whom, and what no module may do.

A law is a function from sources (module → text) to the sentences that say where it is broken. The
house breaks none; and for each law a few modules are planted that do, which the law must name.
"""

import ast
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import npvgg

PACKAGE = Path(npvgg.__file__).parent

FLOORS = [
    "errors version",
    "from_timm rounding",
    "ops",
    "formats attention reparam pages",
    "config",
    "variants",
    "network images",
    "data",
    "engines hub",
    "pipeline weights features",
    "prediction",
    "model",
    "create",
    "tools batch summary",
    "npvgg",
    "testing export",
    "explain",
    "cli",
    "__main__",
]
"""The staircase, the ground floor first: a folder, or a module of the root, imports from the floors
below its own, only. (`npvgg` is the front door, `npvgg/__init__.py`.)"""

GUESTS = {
    "numpy": "everywhere",
    "scipy": "ops",  # erf and expit, for the networks that need them
    "PIL": "images.opening images.transform batch.spec",
    "jinja2": "pages.html",
    "markupsafe": "pages.html",  # Jinja2's own: what is not to be escaped
    "numba": "engines.",
    "llvmlite": "engines.",
    "huggingface_hub": "hub.client",
    "safetensors": "formats.safetensorsfile",
    # whose modules are run to be compared
    "torch": "testing.comparison.runners testing.comparison.factories",
    "onnx": "export.graph testing.comparison.runners",
    "onnxruntime": "testing.comparison.runners",
    # of batch runs
    "pyarrow": "batch.guests",
    "fsspec": "batch.guests",
    "distributed": "batch.guests",
    "ray": "batch.guests",
}
"""Packages from outside, and the modules that may have them in (a dot at the end: all below it)."""

LATE_GUESTS = {
    "jinja2",
    "markupsafe",
    "scipy",
    "PIL",
    "huggingface_hub",
    "safetensors",
    "torch",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "fsspec",
    "distributed",
    "ray",
}
"""These come when they are needed: inside a function, or for the type checker alone."""

UNWELCOME = {
    "pickle", "marshal", "shelve", "subprocess", "socket", "ssl", "urllib", "http", "ftplib",
    "multiprocessing", "webbrowser",
}  # fmt: skip
"""Modules of Python that run what a file says, start programs, or reach for the network."""

EXCUSED_GUESTS = {
    ("engines.kernelcache", "pickle"),  # Numba's own form of compiled functions
    ("batch.local", "subprocess"),  # starts this interpreter with npvgg.batch.worker, nothing else
    ("batch.local", "socket"),  # two connected ends, one for each of the two: no network
    ("batch.worker", "socket"),
}

OURS = {"ArgumentError", "AbsentError", "WeightsError", "ImageError"}
EXCUSED_ERRORS = {
    ("npvgg", "raises AttributeError"),  # as Python asks of a module's __getattr__
    ("formats.files", "raises OSError"),  # as the system's own; `blaming` translates
    ("formats.files", "raises _in_the_way"),
    ("cli.batch_options", "raises argparse.ArgumentTypeError"),
    ("cli.options", "raises argparse.ArgumentTypeError"),  # what argparse asks of its types
    ("engines.kernelcache", "catches Exception"),  # so may a damaged file of compiled kernels
    ("engines.kernelcache", "raises PermissionError"),  # as the system's own, all caught there
    ("engines.jit", "raises MemoryError"),  # where LLVM would end the process
    ("engines.jit", "catches Exception"),  # so may private parts of another Numba
    ("images.ahead", "catches BaseException"),  # handed to the thread that waits for the result
    ("images.ahead", "raises error"),
    ("cli.process", "catches BaseException"),  # a crash has a status of its own
    ("testing.comparison.compare", "raises AssertionError"),  # what test frameworks ask
    ("batch.worker", "catches Exception"),  # a fault of ours must end the run, not blame a photo
    ("images.opening", "catches Exception"),  # a photo may make Pillow's plugins raise anything
}
TALKERS = {"cli.output", "cli.progress", "cli.process"}
"""Modules that may write to the terminal; others call `cli.output.say`, or log."""

ORACLES = {
    "__init__": set(), "naive": set(), "pack_reader": set(),
    "bounds": {"numpy"}, "judge": {"numpy"}, "formula": {"numpy"},
    "porter": {"numpy"}, "plants": {"numpy"},
    "onnxbounds": {"numpy", "scipy", "onnx"},
    "timm_peer": {"timm", "torch"}, "original_peer": {"torch"},
    "runtime_peer": {"numpy", "openvino", "ncnn"},
}  # fmt: skip
"""Files of tests/oracles, and what they may import beside the standard library and each other."""


def house() -> dict[str, str]:
    """Every module of the package: name below `npvgg.` → source."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or "npvgg"] = path.read_text(encoding="utf-8")
    return found


tree = cache(ast.parse)
"""A planted violation changes one module of a hundred; the others are parsed once."""


@cache
def nodes(source: str) -> list[ast.AST]:
    """Every node of a source."""
    return list(ast.walk(tree(source)))


@cache
def imports(source: str) -> list[tuple[str, bool]]:
    """Every imported name in full, "npvgg.ops.relu", and whether that happens late."""

    def visit(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        late = late or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((f"{module}.{alias.name}", late) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late)

    return list(visit(tree(source), False))


# --- The laws -------------------------------------------------------------------------------------


def unit(module: str) -> str:
    """The folder of the root that a module lies in, or the module itself."""
    return module.split(".")[0]


def inner_imports(sources):
    """Every import of one module of the house by another, as a pair of modules."""
    for module, source in sources.items():
        for name, _ in imports(source):
            if name.split(".")[0] == "npvgg":
                inside = name.removeprefix("npvgg").lstrip(".")
                while inside and inside not in sources:
                    inside = inside.rpartition(".")[0]
                yield module, inside or "npvgg"


def imports_go_downstairs(sources):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
    for module, source in sources.items():
        if unit(module) not in floor:
            yield f"{unit(module)} has no floor: give it one in FLOORS"
        for name, _ in imports(source):
            if name.startswith("."):
                yield f"{module} imports {name}: write the name in full"
    for module, other in inner_imports(sources):
        here, there = unit(module), unit(other)
        if here != there and floor.get(here, len(FLOORS)) <= floor[there]:
            yield f"{module} imports {other}, which is not downstairs"


def no_circle_inside_a_folder(sources):
    needs = {module: set() for module in sources}
    for module, other in inner_imports(sources):
        if unit(module) == unit(other):
            needs[module].add(other)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        yield "a circle: " + " → ".join(sorted(error.args[1][1:]))


def only_invited_guests_come_in(sources):
    for module, source in sources.items():
        for name, late in imports(source):
            package = name.split(".")[0]
            if package in UNWELCOME and (module, package) not in EXCUSED_GUESTS:
                yield f"{module} imports {package}, which nobody may"
            if package in sys.stdlib_module_names or package in ("npvgg", ""):
                continue
            rooms = GUESTS.get(package, "").split()
            above = [r for r in rooms if r.endswith(".") and f"{module}.".startswith(r)]
            if not (rooms == ["everywhere"] or module in rooms or above):
                yield f"{module} imports {package}, which is no guest there"
            elif package in LATE_GUESTS and not late:
                yield f"{module} imports {package} at once, not when it is needed"


def everything_public_says_what_it_is(sources):
    documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

    def visit(node, path):
        words = ast.get_docstring(node)
        if not words:
            yield f"{path} has no docstring"
        elif re.match(r"[A-Z][A-Z ]{3,}(:|, the )", words):
            yield f"{path} begins with a title, not with a sentence"
        for child in node.body:
            if isinstance(child, documented) and not child.name.startswith("_"):
                overload = any("overload" in ast.unparse(d) for d in child.decorator_list)
                if not overload and not isinstance(node, ast.FunctionDef):
                    yield from visit(child, f"{path}.{child.name}")

    for module, source in sources.items():
        yield from visit(tree(source), module)


def only_our_errors_are_raised(sources):
    for module, source in sources.items():
        for node in nodes(source):
            deed = ""
            if isinstance(node, ast.Raise) and node.exc is not None:
                error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                deed = "" if ast.unparse(error) in OURS else f"raises {ast.unparse(error)}"
            elif isinstance(node, ast.Assert):
                deed = "asserts, which may be switched off"
            elif isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    deed = f"catches {caught}"
            if deed and (module, deed) not in EXCUSED_ERRORS:
                yield f"{module} {deed}"


def no_text_is_run_as_code(sources):
    for module, source in sources.items():
        for node in nodes(source):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
                    yield f"{module} calls {name}"


def all_text_passes_the_gate(sources):
    for module, source in sources.items():
        for node in nodes(source):
            if isinstance(node, ast.Call) and module not in TALKERS:
                name = ast.unparse(node.func)
                stream = name.startswith(("sys.stdout", "sys.stderr"))
                asks = unit(module) == "cli" and name.endswith((".flush", ".fileno", ".isatty"))
                if name == "print" or (stream and not asks):
                    yield f"{module} calls {name}"


LAWS = {
    imports_go_downstairs: {
        "config imports model, which is not downstairs": {
            "config": "from npvgg.model import RepVGG"},
        "network imports engines.reference, which is not downstairs": {
            "network": "def f():\n    from npvgg.engines.reference import prepare"},
        "network imports engines, which is not downstairs": {
            "network": "from npvgg.engines import prepare"},
        "weights.build imports npvgg, which is not downstairs": {
            "weights.build": "from npvgg import RepVGG"},
        "reparam imports attention, which is not downstairs": {
            "reparam": "import npvgg.attention"},
        "ops imports .errors.ArgumentError: write the name in full": {
            "ops": "from .errors import ArgumentError"},
        "attic has no floor: give it one in FLOORS": {"attic.chest": ""},
    },
    no_circle_inside_a_folder: {
        "a circle: formats.checkpoint → formats.folder": {
            "formats.folder": "from npvgg.formats import checkpoint"},
        "a circle: testing → testing.trace": {
            "testing.trace": "from npvgg.testing import Pack"},
    },
    only_invited_guests_come_in: {
        "model imports torch, which is no guest there": {"model": "import torch.nn as nn"},
        "weights.keymap imports timm, which is no guest there": {
            "weights.keymap": "def f():\n    import timm"},
        "reparam imports numba, which is no guest there": {"reparam": "from numba import njit"},
        "attention imports scipy, which is no guest there": {
            "attention": "def f():\n    from scipy.special import erf"},
        "ops imports scipy at once, not when it is needed": {
            "ops": "from scipy.special import erf"},
        "images.opening imports PIL at once, not when it is needed": {
            "images.opening": "import PIL.Image"},
        "formats.checkpoint imports pickle, which nobody may": {
            "formats.checkpoint": "import pickle"},
        "batch.local imports multiprocessing, which nobody may": {
            "batch.local": "def f():\n    import multiprocessing"},
        "hub.locate imports urllib, which nobody may": {
            "hub.locate": "from urllib.request import urlopen"},
    },
    everything_public_says_what_it_is: {
        "ops has no docstring": {"ops": "x = 1"},
        "ops begins with a title, not with a sentence": {"ops": '"""LIBRARY: what it means."""'},
        "ops.relu has no docstring": {"ops": '"""."""\ndef relu(x):\n    return x'},
        "model.RepVGG.save has no docstring": {
            "model": '"""."""\nclass RepVGG:\n    """."""\n    def save(self): ...'},
    },
    only_our_errors_are_raised: {
        "ops raises ValueError": {"ops": 'raise ValueError("k")'},
        "ops raises OSError": {"ops": "raise OSError"},
        "hub.locate raises NotImplementedError": {
            "hub.locate": "def f():\n    raise NotImplementedError"},
        "ops asserts, which may be switched off": {"ops": "assert 1"},
        "hub.locate catches Exception": {
            "hub.locate": "try:\n    f()\nexcept Exception:\n    pass"},
        "hub.locate catches everything": {
            "hub.locate": "try:\n    f()\nexcept:\n    pass"},
    },
    no_text_is_run_as_code: {
        "config calls eval": {"config": "x = eval('1')"},
        "hub.locate calls os.system": {
            "hub.locate": "def f():\n    os.system('ls')"},
    },
    all_text_passes_the_gate: {
        "cli.photos calls print": {"cli.photos": "def f():\n    print(1)"},
        "model calls print": {"model": "def f():\n    print(1)"},
        "hub.locate calls sys.stderr.write": {
            "hub.locate": "sys.stderr.write('x')"},
    },
}  # fmt: skip


def name_of(law):
    return law.__name__.replace("_", "-")


@pytest.mark.parametrize("law", LAWS, ids=name_of)
def test_the_house_keeps_its_laws(law):
    assert list(law(house())) == []


@pytest.mark.parametrize(
    ("law", "sentence"),
    [(law, sentence) for law, planted in LAWS.items() for sentence in planted],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else name_of(value),
)
def test_a_planted_violation_is_named(law, sentence):
    assert sentence in list(law(house() | LAWS[law][sentence]))


def recommended(sources):
    """What error messages send people to: module → dotted names of ours."""
    for module, source in sources.items():
        for node in ast.walk(tree(source)):
            if isinstance(node, ast.Raise):
                texts = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
                found = re.findall(r"(?<!['\"\w])npvgg(?:\.[a-z]\w*)+", "".join(map(str, texts)))
                yield from ((module, name) for name in found)


def test_whatever_an_error_recommends_can_be_imported_and_is_documented():
    names = {name for _, name in recommended(house())}
    assert {"npvgg.tools.convert", "npvgg.export.export_onnx"} <= names
    for name in names:
        assert pkgutil.resolve_name(name).__doc__, name


def test_every_folder_has_one_floor_and_every_floor_is_lived_on():
    listed = " ".join(FLOORS).split()
    assert sorted(listed) == sorted({*listed}) == sorted({unit(module) for module in house()})


@pytest.mark.parametrize("excuse", sorted(EXCUSED_ERRORS))
def test_every_excuse_is_needed(excuse, monkeypatch):
    """An excuse that nobody uses any more is an open door."""
    monkeypatch.setattr(sys.modules[__name__], "EXCUSED_ERRORS", EXCUSED_ERRORS - {excuse})
    broken = list(only_our_errors_are_raised(house()))
    assert broken
    assert all(sentence.startswith(excuse[0]) for sentence in broken)


@pytest.mark.parametrize("excuse", sorted(EXCUSED_GUESTS))
def test_every_excused_import_is_needed(excuse, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "EXCUSED_GUESTS", EXCUSED_GUESTS - {excuse})
    module, package = excuse
    assert list(only_invited_guests_come_in(house())) == [
        f"{module} imports {package}, which nobody may"
    ]


# --- The judges -----------------------------------------------------------------------------------


JUDGES = Path(__file__).parent / "oracles"


def strangers(source: str, allowed: set[str]) -> set[str]:
    """What a judging file imports and should not."""
    names = {name for name, _ in imports(source) if not name.startswith("tests.oracles.")}
    return {n.split(".")[0] for n in names} - allowed - (sys.stdlib_module_names - UNWELCOME)


def test_every_judge_is_listed():
    assert {path.stem for path in JUDGES.glob("*.py")} == ORACLES.keys()


@pytest.mark.parametrize("name", ORACLES)
def test_no_judge_knows_the_judged(name):
    source = (JUDGES / f"{name}.py").read_text(encoding="utf-8")
    assert strangers(source, ORACLES[name]) == set()
    for planted in (
        "import npvgg", "def f():\n    from npvgg.ops import conv2d", "import tiny",
        "from tests import tiny", "from .. import tiny",
    ):  # fmt: skip
        assert strangers(f"{source}\n{planted}\n", ORACLES[name]), planted


def test_the_loops_do_without_numpy():
    source = (JUDGES / "naive.py").read_text(encoding="utf-8")
    assert strangers(f"{source}\nimport numpy as np\n", ORACLES["naive"]) == {"numpy"}


# --- What an import brings in ---------------------------------------------------------------------

RUN = """
import numpy as np, npvgg
model = npvgg.create_model("repvgg_a0", width_factor=0.1, engine="reference")
model(np.zeros((1, 3, 9, 9), np.float32))
npvgg.info("repvgg_a2"), npvgg.list_models()
"""
HEAVY = {
    "numba", "llvmlite", "scipy", "PIL", "torch", "timm", "safetensors", "huggingface_hub", "onnx",
    "jinja2", "pyarrow", "fsspec", "npvgg.batch", "npvgg.explain",
}  # fmt: skip


def brought_in(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has after running some code."""
    code += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return HEAVY & set(json.loads(done.stdout))


@pytest.mark.parametrize("code", ["import npvgg", RUN], ids=["importing", "running-a-network"])
def test_no_heavy_package_comes_uncalled(code):
    assert brought_in(code) == set()


def test_what_is_called_comes():
    code = "import numpy as np, npvgg.ops; npvgg.ops.gelu(np.ones(1))"
    assert "scipy" in brought_in(code)
