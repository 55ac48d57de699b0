"""`npvgg explain`: the lessons, as text, JSON, a page or drawings; the course and the live page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npvgg.create import create_model
from npvgg.errors import ArgumentError
from npvgg.formats.files import atomic_write, write_folder
from npvgg.hub.pretrained import BUNDLED
from npvgg.model import RepVGG

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
        _add_forms(lesson)
        lesson.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make one lesson and show it."""
    lesson = LESSONS[args.lesson][2](args)
    if getattr(args, "csv", False):
        sys.stdout.write(lesson.as_csv())
    elif getattr(args, "latex", False):
        sys.stdout.write(lesson.as_latex())
    elif args.json:
        print(json.dumps(lesson.as_json()))
    elif not args.html and not args.svg:
        sys.stdout.write(lesson.as_text())
    if args.html:
        _write(args.html, lesson.as_html(), args.force)
    if args.svg:
        _write_folder(args.svg, lesson.as_svg(), args.force)
    return OK


def _write(path: str, text: str, force: bool) -> None:
    try:
        atomic_write(path, text.encode(), overwrite=force)
    except FileExistsError:
        raise ArgumentError(f"--html: {path} exists; --force replaces it") from None
    except OSError as error:
        raise ArgumentError(
            f"--html: {path} cannot be written: {error.strerror or error}"
        ) from None


def _write_folder(path: str, files: dict[str, str], force: bool) -> None:
    if not files:
        raise ArgumentError("--svg: this lesson has no picture; its text and --html show it")
    if Path(path).exists() and not force:
        raise ArgumentError(f"--svg: {path} exists; --force replaces it")
    try:
        write_folder(path, {name: text.encode() for name, text in files.items()}, overwrite=force)
    except OSError as error:
        raise ArgumentError(f"--svg: {path} cannot be written: {error.strerror or error}") from None


def _model(args: argparse.Namespace) -> RepVGG:
    """The network, in train form where it can be; random weights are no subject of a lesson."""
    return create_model(
        args.model if args.model or args.weights else BUNDLED,
        pretrained=not args.weights,
        weights=args.weights,
        wrapper=args.wrapper,
        reparameterize=False,
        engine="reference",
    )


# --- The lessons ----------------------------------------------------------------------------------


def _network(args: argparse.Namespace) -> Any:
    from npvgg import explain

    named = args.model and not args.weights and not set(args.model) & set(":/\\")
    subject: Any = args.model if named else _model(args)
    return explain.network(subject, args.input_size)


def _fold(args: argparse.Namespace) -> Any:
    from npvgg import explain

    return explain.fold(_model(args), args.block, args.channel, args.photo)


def _network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-size", type=int, nargs=3, metavar=("C", "H", "W"), help="its own by default"
    )
    parser.add_argument("--csv", action="store_true", help="every block in a row")
    parser.add_argument("--latex", action="store_true", help="a table for the package booktabs")


def _fold_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "block", nargs="?", help="a block: stem, stages.0.1 (the first with an identity branch)"
    )
    _add_channel(parser)
    parser.add_argument("--photo", help="where branches and fold are compared (a cat)")


def _add_channel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channel", type=int, metavar="K", help="an output channel (that of the largest weight)"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME", help=f"a network, a tag, a folder, hf-hub:… ({BUNDLED})"
    )
    parser.add_argument("--weights", metavar="PATH", help="take the network from a file or folder")
    parser.add_argument("--wrapper", metavar="KEY", help="which weights of a training checkpoint")


def _add_forms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the numbers, for programs")
    parser.add_argument("--html", metavar="FILE", help="write a page that needs nothing else")
    parser.add_argument("--svg", metavar="FOLDER", help="write each picture into a file")
    parser.add_argument("--force", action="store_true", help="replace FILE or FOLDER")


LESSONS: dict[str, tuple[str, Add, Callable[[argparse.Namespace], Any]]] = {
    "network": (
        "train and deploy form side by side, block by block", _network_options, _network,
    ),
    "fold": ("the branches of a block become one convolution", _fold_options, _fold),
}  # fmt: skip
"""What each is, its options, and how it is made."""
