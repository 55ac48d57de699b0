"""`npvgg explain`: the lessons, as text, JSON, a page or drawings; the course and the live page."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from npvgg.cli.options import add_choice
from npvgg.cli.output import check_vacant, say
from npvgg.cli.progress import log
from npvgg.create import create_model
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write, check_replaceable, write_folder
from npvgg.formats.untrusted import path_text
from npvgg.hub.pretrained import BUNDLED
from npvgg.model import RepVGG
from npvgg.pages import html

OK = 0

Add = Callable[[argparse.ArgumentParser], None]


def add(verbs: Any) -> None:
    """Give the command line its `explain`."""
    parser = verbs.add_parser(
        "explain",
        help="teach the network, step by step, with your own weights",
        description="Lessons about a network, in numbers and pictures that are computed from its "
        "weights: text, --json, --html FILE (a page that needs nothing else), --svg FOLDER.",
    )
    lessons = parser.add_subparsers(dest="lesson", required=True, metavar="LESSON")
    for name, (said, options, _) in LESSONS.items():
        lesson = lessons.add_parser(name, help=said, description=said[0].upper() + said[1:] + ".")
        options(lesson)
        _add_model(lesson)
        _add_forms(lesson, table=name == TABLE)
        lesson.set_defaults(run=run)
    _add_course(lessons, verbs.choices)
    _add_live(lessons)


def run(args: argparse.Namespace) -> int:
    """Make one lesson and show it."""
    for option in ("csv", "latex"):
        if getattr(args, option) and args.lesson != TABLE:
            raise ArgumentError(
                f"--{option}: expected the lesson {TABLE}, which is a table, got {args.lesson}; "
                "--json gives its numbers"
            )
    check_vacant("--html", args.html, force=args.force)
    if args.svg:
        _check_folder("--svg", args.svg, ".svg", args.force)
    if args.html:
        html.require()
    lesson = LESSONS[args.lesson][2](args)
    if args.csv:
        say(lesson.as_csv())
    elif args.latex:
        say(lesson.as_latex())
    elif args.json:
        say(json.dumps(lesson.as_json(), allow_nan=False) + "\n")
    elif not args.html and not args.svg:
        say(lesson.as_text())
    if args.html:
        page = lesson.as_html().encode()
        with _saying("--html", args.html):
            atomic_write(args.html, page, overwrite=args.force)
    if args.svg:
        files = {name: text.encode() for name, text in lesson.as_svg().items()}
        if not files:
            raise ArgumentError("--svg: this lesson has no picture; text and --html show it")
        with _saying("--svg", args.svg):
            write_folder(args.svg, files, overwrite=args.force)
    return OK


def _add_course(lessons: Any, commands: Mapping[str, argparse.ArgumentParser]) -> None:
    said = "all lessons on pages, in an order that a class can follow, with exercises"
    parser = lessons.add_parser("course", help=said, description=said[0].upper() + said[1:] + ".")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the folder, to be made")
    parser.add_argument("--photo", help="that is taken apart (a cat)")
    parser.add_argument(
        "--reference", metavar="ADDRESS", help="of an API reference, to be linked: api/index.html"
    )
    _add_model(parser)
    parser.add_argument("--force", action="store_true", help="replace FOLDER")
    parser.set_defaults(run=course, commands=commands)


def course(args: argparse.Namespace) -> int:
    """Write the course into a folder, whole or not at all."""
    from npvgg.explain.course import course as pages

    _check_folder("--output", args.output, ".html", args.force)
    html.require()
    helps = {name: parser.format_help() for name, parser in args.commands.items()}
    made = pages(_model(args), args.photo, commands=helps, reference=args.reference)
    files = {name: text.encode() for name, text in made}
    with _saying("--output", args.output):
        write_folder(args.output, files, overwrite=args.force)
    log.info("%s: %d pages, %.1f MB; begin with index.html", path_text(args.output), len(files),
             sum(map(len, files.values())) / 1e6)  # fmt: skip
    return OK


def _add_live(lessons: Any) -> None:
    said = "one page that classifies photos in a browser, with the network inside"
    parser = lessons.add_parser("live", help=said, description=said[0].upper() + said[1:] + ".")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, to be made")
    _add_model(parser)
    parser.add_argument("--force", action="store_true", help="replace FILE")
    parser.set_defaults(run=live)


def live(args: argparse.Namespace) -> int:
    """Write the live page."""
    from npvgg.explain.live import live as page

    check_vacant("--output", args.output, force=args.force)
    html.require()
    made = page(_model(args)).encode()
    with _saying("--output", args.output):
        atomic_write(args.output, made, overwrite=args.force)
    log.info("%s: %.1f MB; drop a photo on it", path_text(args.output), len(made) / 1e6)
    return OK


def _check_folder(option: str, path: str, suffix: str, force: bool) -> None:
    """Refuse a folder likewise, and one with files of other kinds in it, which would be lost."""
    if not os.path.lexists(path):
        check_vacant(option, path, force=force)
    elif not force:
        raise ArgumentError(f"{option}: {path_text(path)} exists; --force replaces it")
    with _saying(option, path):
        check_replaceable(path, {suffix}, force)


@contextmanager
def _saying(option: str, path: str) -> Iterator[None]:
    """Say what could not be written, and why."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise ArgumentError(f"{option}: {path_text(path)} cannot be written: {why}") from None


def _model(args: argparse.Namespace) -> RepVGG:
    """Return the network, in train form where it can be; random weights are no subject of a
    lesson.
    """
    return create_model(
        args.model if args.model or args.weights else BUNDLED,
        pretrained=not args.weights,
        weights=args.weights,
        wrapper=args.wrapper,
        prefix=args.prefix,
        reparameterize=False,
        engine="reference",
    )


# --- The lessons ----------------------------------------------------------------------------------
# `npvgg.explain` is loaded when a lesson is asked for, not before.


def _network(args: argparse.Namespace) -> Any:
    from npvgg import explain

    named = args.model and not args.weights and not set(args.model) & set(":/\\")
    subject: Any = args.model if named else _model(args)
    return explain.network(subject, args.input_size)


def _fold(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.fold(_model(args), args.block, args.channel, args.photo)


def _identities(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.identities()


def _pixel(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.pixel(_model(args), args.photo, args.block, args.channel, _place(args.at))


def _im2col(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.im2col(_model(args))


def _winograd(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.winograd(_model(args), args.m, args.points)


def _photo(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.photo(_model(args), args.photo, args.class_)


def _quantize(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.quantize(_model(args), args.block, args.photo)


def _mistakes(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.mistakes(_model(args), args.name, args.block, args.photo)


def _training(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.training()


def _questions(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.questions(_model(args), args.photo)


def _network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-size", type=int, nargs=3, metavar=("C", "H", "W"), help="its own by default"
    )


def _fold_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("block", nargs="?", help=f"a block: stem, stages.0.1 ({FIRST})")
    _add_channel(parser)
    parser.add_argument("--photo", help="where branches and fold are compared (a cat)")


def _pixel_options(parser: argparse.ArgumentParser) -> None:
    _add_photo(parser)
    _add_block(parser)
    _add_channel(parser)
    parser.add_argument(
        "--at", metavar="P,Q", help="row and column of the output (its largest number)"
    )


def _winograd_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--m", type=int, help="outputs of a tile along a side, 2 … 6 (4)")
    parser.add_argument(
        "--points",
        type=lambda text: text.split(","),
        metavar="A,B",
        help="finite points, m + 1 of them, such as --points=0,1,-1,1/2 (the engine's)",
    )


def _photo_options(parser: argparse.ArgumentParser) -> None:
    _add_photo(parser)
    parser.add_argument(
        "--class", type=int, dest="class_", metavar="C", help="whose map is shown (the likeliest)"
    )


def _quantize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "block", nargs="?", help="a block: stem, stages.0.1 (that of the largest weight over σ)"
    )
    parser.add_argument("--photo", help="on which the network is run (a cat)")


def _mistakes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one mistake, in all its variants (all, once)")
    _add_block(parser)
    parser.add_argument("--photo", help="on which they are made (a cat)")


def _questions_options(parser: argparse.ArgumentParser) -> None:
    _add_photo(parser)


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


TABLE = "network"
"""The lesson that is a table, of which there is CSV and LaTeX."""

FIRST = "the first with an identity branch"


def _add_photo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", nargs="?", help="a photo (a cat)")


def _add_block(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--block", metavar="B", help=f"a block: stem, stages.0.1 ({FIRST})")


def _add_channel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channel", type=int, metavar="K", help="an output channel (the strongest)"
    )


def _place(text: str | None) -> list[int] | None:
    """Read a row and a column; None where none is given."""
    if text is None:
        return None
    places = text.split(",")
    if len(places) != 2 or not all(len(p) < 19 and p.strip().isdecimal() for p in places):
        raise ArgumentError(f"--at: expected row,column such as 3,5, got {text[:50]!r}")
    return [int(place) for place in places]


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME", help=f"a network, a tag, a folder, hf-hub:… ({BUNDLED})"
    )
    parser.add_argument("--weights", metavar="PATH", help="take the network from a file or folder")
    add_choice(parser)


def _add_forms(parser: argparse.ArgumentParser, *, table: bool) -> None:
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--json", action="store_true", help="the numbers, for programs")
    for option, said in (
        ("--csv", "every block in a row"),
        ("--latex", "a table for the package booktabs"),
    ):
        shown = said if table else argparse.SUPPRESS  # known there, to be refused with a reason
        one.add_argument(option, action="store_true", help=shown)
    parser.add_argument("--html", metavar="FILE", help="write a page that needs nothing else")
    parser.add_argument("--svg", metavar="FOLDER", help="write each picture into a file")
    parser.add_argument("--force", action="store_true", help="replace FILE or FOLDER")


LESSONS: dict[str, tuple[str, Add, Callable[[argparse.Namespace], Any]]] = {
    "network": (
        "train and deploy form side by side, block by block", _network_options, _network,
    ),
    "fold": ("the branches of a block become one convolution", _fold_options, _fold),
    "identities": (
        "the six identities by which branches fold, and where they end", _no_options, _identities,
    ),
    "pixel": ("one output number, taken apart", _pixel_options, _pixel),
    "im2col": ("windows become columns, a convolution one product", _no_options, _im2col),
    "winograd": (
        "fewer multiplications: derived, proved, counted, tiled, measured",
        _winograd_options, _winograd,
    ),
    "photo": ("the way of a photo, and what decides its class", _photo_options, _photo),
    "quantize": ("why eight bits are not enough for a folded kernel", _quantize_options, _quantize),
    "mistakes": ("the mistakes that people make, each made once", _mistakes_options, _mistakes),
    "training": ("why train branches, if they fold", _no_options, _training),
    "questions": ("ten questions of learners, answered by numbers", _questions_options, _questions),
}  # fmt: skip
"""What each is, its options, and how it is made."""
