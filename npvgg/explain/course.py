"""The course: all lessons on pages, in an order that a class can follow, with the map of the house.

Every page is `npvgg.pages.html.page` of a document; none needs a network, or another file than its
neighbours. Numbers in its prose are filled in from the lessons.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import npvgg
from npvgg.engines.cook_toom import cook_toom
from npvgg.engines.reference import forward_block
from npvgg.explain import subject
from npvgg.explain.lesson import Lesson
from npvgg.explain.lessons.fold import fold
from npvgg.explain.lessons.identities import identities
from npvgg.explain.lessons.im2col import im2col
from npvgg.explain.lessons.mistakes import mistakes
from npvgg.explain.lessons.network import network
from npvgg.explain.lessons.photo import PhotoLesson, photo
from npvgg.explain.lessons.pixel import pixel
from npvgg.explain.lessons.quantize import quantize
from npvgg.explain.lessons.questions import questions
from npvgg.explain.lessons.training import training
from npvgg.explain.lessons.winograd import tiled_convolution, winograd
from npvgg.model import RepVGG
from npvgg.ops import conv2d
from npvgg.pages.html import page
from npvgg.pages.parts import Contents, Document, Exercise, Heading, Paragraph, Photo, Source, Table

Make = Callable[[RepVGG, Any], Lesson]

PAGES: tuple[tuple[str, str, str, Make], ...] = (
    ("photo", "A photo",
     "We begin at the end: a photo goes in, a class comes out. What is in between?",
     lambda m, p: photo(m, p)),
    ("network", "The network",
     "The same way, counted: each block's output, what it sees of the image, what it costs.",
     lambda m, p: network(m)),
    ("pixel", "One number",
     "Every one of these outputs is a sum of products. Here is one of them, whole.",
     lambda m, p: pixel(m, p)),
    ("im2col", "All numbers at once",
     "A sum of products for every output is a product of matrices.",
     lambda m, p: im2col(m)),
    ("fold", "Three branches, one convolution",
     "The network was trained with branches. Now they are folded, and nothing is lost.",
     lambda m, p: fold(m, None, None, p)),
    ("identities", "What folds, and what does not",
     "The rules behind the fold, each with the condition without which it fails.",
     lambda m, p: identities()),
    ("training", "Why branches at all",
     "If they fold, why train them? A toy that trains shows what a fold cannot.",
     lambda m, p: training()),
    ("quantize", "Eight bits",
     "The fold is exact, and yet it makes the network harder to quantize.",
     lambda m, p: quantize(m, None, p)),
    ("winograd", "Fewer multiplications",
     "A convolution with small kernels can be had for fewer products than it has.",
     lambda m, p: winograd(m)),
    ("mistakes", "Mistakes",
     "Whoever writes all this anew will make some of these mistakes. Each looks like something.",
     lambda m, p: mistakes(m, None, None, p)),
    ("questions", "Ten questions",
     "Asked by many, answered with the numbers of this network.",
     lambda m, p: questions(m, p)),
)  # fmt: skip
"""Address, title, what leads to it, and the lesson, in the order of the class."""


def course(
    model: RepVGG,
    photo: Any = None,
    *,
    commands: Mapping[str, str] | None = None,
    reference: str | None = None,
) -> Iterator[tuple[str, str]]:
    """Build the course, page by page: (name of the file, HTML).

    model: in train form      photo: a cat by default
    commands: name → help of each command of the shell, for the page about it
    reference: the address of an API reference beside the course, which is linked

    Raises ArgumentError, ImageError.
    """
    subject.named(subject.network_of(model), None, branches=True)
    links = [("index.html", "Start"), *((f"{name}.html", title) for name, title, _, _ in PAGES)]
    links += [("winograd-exercise.html", "Your own Winograd"), ("house.html", "The house")]
    if reference:
        links.append((reference, "API reference"))
    made: dict[str, Lesson] = {}
    for name, title, lead, make in PAGES:
        made[name] = make(model, photo)
        shown = made[name].document()
        whole = Document(title, (Paragraph(lead), Heading(shown.title), *shown.parts))
        yield f"{name}.html", page(whole, links=links, here=f"{name}.html")
    first = made["photo"]
    if isinstance(first, PhotoLesson):
        yield "index.html", page(_start(model, first), links=links, here="index.html")
    exercise = page(_own_winograd(), links=links, here="winograd-exercise.html")
    yield "winograd-exercise.html", exercise
    yield "house.html", page(_house(commands or {}), links=links, here="house.html")


def _start(model: RepVGG, first: PhotoLesson) -> Document:
    """Return the first page: what the network says, and how little code that takes."""
    net = subject.network_of(model).reparameterized()
    top = first.topk[0]
    return Document(
        first.says("How does {model} name a photo?"),
        (
            Paragraph(
                first.says(
                    "Given {photo}, the network says {topk[0][name]}, with a probability of "
                    "{topk[0][probability]:.2%}. The pages of this course take that apart, one "
                    "step after the other, until you could write it yourself. Every number on "
                    "them was computed from this network's weights when the course was built."
                )
            ),
            Photo(
                first.pixels,
                first.says("{photo}, as the network is given it."),
                f"The network takes it for {top.name}.",
            ),
            Heading("The order of the class"),
            Contents(tuple((f"{name}.html", title, lead) for name, title, lead, _ in PAGES)),
            Heading("The whole forward pass"),
            Paragraph(
                first.says(
                    "A network is {count} blocks, one after the other; then the last map is "
                    "averaged and goes through one matrix. This is a block as it is run:",
                    count=len(net.blocks),
                )
            ),
            Source("npvgg.engines.reference.forward_block", inspect.getsource(forward_block)),
            Exercise(
                "Before you read on: of which numbers is the class made, and how many of them does "
                "the network have to learn?",
                first.says(
                    "Of the weights of {count} blocks and one matrix, {parameters:,} numbers.",
                    count=len(net.blocks),
                    parameters=network(model).deploy.parameters,
                ),
            ),
        ),
    )


TASK = '''def tiled_convolution(x, w, f):
    """x: (1, C, H, W)   w: (K, C, 3, 3)   f.at, f.g, f.bt: the matrices, in fractions.

    1. round the matrices to the dtype of x
    2. pad x: a zero above and left; below and right as many as the last tile needs
    3. transform the kernels once:  U = G w Gᵀ
    4. for each tile:  V = Bᵀ d B,  M = Σ_c U ⊙ V,  Y = Aᵀ M A
    5. cut off what lies beyond the map
    """
'''

CHECK = """import numpy as np
from npvgg.engines.cook_toom import cook_toom
from npvgg.ops import conv2d

rng = np.random.default_rng(0)
x = rng.standard_normal((1, 3, 7, 9))
w = rng.standard_normal((4, 3, 3, 3))
for m in range(2, 7):
    np.testing.assert_allclose(
        tiled_convolution(x, w, cook_toom(m)), conv2d(x, w, padding=1), atol=1e-9
    )
"""


def _own_winograd() -> Document:
    """Return an exercise with its check, which is run while the course is built, and its
    solution.
    """
    error = _check(tiled_convolution)
    return Document(
        "Write your own Winograd",
        (
            Paragraph(
                "You know the matrices and how tiles cover a map. Write the convolution: start "
                "from this head, and let the check below tell you when it is right."
            ),
            Source("your task", TASK, ""),
            Source("the check", CHECK, ""),
            Paragraph(
                f"In float64 the solution is off by {error:.1g} at most, for every tile size and a "
                "map whose sides are no multiples of it."
            ),
            Source(
                "a solution: npvgg.explain.lessons.winograd", inspect.getsource(tiled_convolution)
            ),
            Exercise(
                "Your version transforms the kernels at every call. What would an engine do?",
                "Transform them once, when the network is loaded, and keep them: they do not "
                "depend on the photo.",
            ),
        ),
    )


def _check(convolve: Callable[..., Any]) -> float:
    """Return the largest error of a solution over all tile sizes, as the page's check has it."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 3, 7, 9)), rng.standard_normal((4, 3, 3, 3))
    right = conv2d(x, w, padding=1)
    return max(float(np.abs(convolve(x, w, cook_toom(m)) - right).max()) for m in range(2, 7))


def _house(commands: Mapping[str, str]) -> Document:
    """Return the map of the house, from its own docstrings, and the command line, from its own
    help.
    """
    return Document(
        "The house",
        (
            Paragraph(
                "Where things are in npvgg, as its modules say themselves. The modules at the root "
                "can be read in order as a text about RepVGG; each folder is one subject."
            ),
            Table(("module", "what it is"), tuple(modules())),
            Heading("The command line"),
            *(
                Source(f"npvgg {name} --help", text, "", folded=True)
                for name, text in commands.items()
            ),
        ),
    )


def modules() -> Iterator[tuple[str, str]]:
    """Every module of the root and every folder, with the first sentence of its docstring."""
    root = Path(npvgg.__file__).parent
    for path in sorted(root.iterdir()):
        source = path / "__init__.py" if path.is_dir() else path
        if source.suffix == ".py" and source.is_file() and not path.name.startswith("_"):
            text = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
            sentence = " ".join(text.partition("\n\n")[0].split())
            yield path.stem + ("/" if path.is_dir() else ""), sentence
