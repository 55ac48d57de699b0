"""Options that several commands share, and the kinds of numbers that options take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from npvgg.batch.run import MAX_BATCH_SIZE
from npvgg.cli.output import flush, say
from npvgg.cli.text import escaped
from npvgg.engines.threads import MAX_THREADS
from npvgg.hub.pretrained import BUNDLED
from npvgg.images.opening import FORMATS

MAX_SIDE = 16384


class Parser(argparse.ArgumentParser):
    """A parser that repeats what it was given escaped, and says where help cannot be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and file is not None and file is sys.stdout:
            say(message)
            flush()
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with status 2."""
        super().error(escaped(message))


def run_options() -> argparse.ArgumentParser:
    """Return the options that every command over photos has."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="photos, folders, patterns, or - for standard input",
    )
    parser.add_argument(
        "--files-from",
        metavar="FILE",
        help="a list of photos, a line each; - for standard input",
    )
    parser.add_argument(
        "--null",
        action="store_true",
        help="the list is separated by nulls, as by find -print0; or -0",
    )
    parser.add_argument(
        "--follow", action="store_true", help="go into linked folders as well, once each"
    )
    parser.add_argument("--engine", default="auto", help="auto or the name of an engine (auto)")
    parser.add_argument(
        "--threads",
        type=at_most(MAX_THREADS),
        metavar="N",
        help="threads of the compiled engines (default: all cores that the process may use)",
    )
    parser.add_argument(
        "--batch-size",
        type=at_most(MAX_BATCH_SIZE),
        metavar="N",
        help="photos at once (16, or as many as there are; 1 with the reference engine, whose bits "
        "depend on it)",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="write there instead of to standard output; .gz compresses",
    )
    parser.add_argument("--force", action="store_true", help="replace existing output")
    add_quiet(parser)
    return parser


def model_options() -> argparse.ArgumentParser:
    """Return the options that say which network runs."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a network with its tag, a timm repository hf-hub:OWNER/NAME[@REVISION], or a folder "
        f"({BUNDLED})",
    )
    parser.add_argument(
        "--weights", metavar="PATH", help="file or folder with weights of it, or of any that fits"
    )
    add_choice(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="of weights and arithmetic",
    )
    return parser


def photo_options() -> argparse.ArgumentParser:
    """Return the options that say how a photo is opened."""
    parser = Parser(add_help=False)
    photo = parser.add_argument_group("what a photo brings")
    photo.add_argument(
        "--exif-transpose", action="store_true", help="turn photos upright (timm does not)"
    )
    photo.add_argument(
        "--alpha",
        default="drop",
        metavar="COLOUR",
        help="what happens to transparency: drop (as in timm), or a backdrop, such as white",
    )
    photo.add_argument(
        "--on-16bit",
        choices=("clip", "scale", "error"),
        default="clip",
        help="what happens to 16-bit values (clip, as in timm)",
    )
    photo.add_argument(
        "--frame",
        type=natural,
        default=0,
        metavar="N",
        help="which frame of an animation, or page of a TIFF file, counted from 0 (0)",
    )
    photo.add_argument("--max-pixels", type=positive, metavar="N", help="refuse larger photos")
    photo.add_argument(
        "--formats",
        type=lambda text: tuple(text.upper().split(",")),
        default=FORMATS,
        metavar="A,B",
        help=f"open these formats alone ({','.join(FORMATS)})",
    )
    photo.add_argument(
        "--draft",
        type=positive,
        default=0,
        metavar="N",
        help="decode a JPEG at 1/2, 1/4 or 1/8 of its size where its short side keeps N pixels: "
        "faster, other bits, and said in the row's notes",
    )
    return parser


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add what chooses among the weights of a file that holds several."""
    parser.add_argument("--wrapper", metavar="KEY", help="which weights of a training checkpoint")
    parser.add_argument("--prefix", metavar="TEXT", help="only tensors whose names begin so")


def add_format(parser: argparse.ArgumentParser, other: str) -> None:
    """Add --format: a table, or another one."""
    parser.add_argument(
        "--format", choices=("table", other), default="table", help="of what is printed (table)"
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add --quiet."""
    parser.add_argument(
        "--quiet", action="store_true", help="not a word on standard error but of what fails"
    )


def indices(text: str) -> list[int]:
    """Read integers with commas between them. Raises ArgumentTypeError, as all of these do."""
    try:
        return [int(index) for index in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected integers, got {text!r}; if that is a photo, write --out-indices=0,1 before "
            "it, or put the photo first"
        ) from None


def natural(text: str) -> int:
    """Read an integer of 0 or more."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"expected an integer of 0 or more, got {text[:50]!r}")
    return int(text)


def dtype(text: str) -> str:
    """Read a dtype's name, long or short: "float16", "f16"."""
    short = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    return short.get(text, text)


def at_most(limit: int) -> Callable[[str], int]:
    """Return what reads a positive integer up to a limit."""

    def positive(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        if not 1 <= value <= limit:
            raise argparse.ArgumentTypeError(
                f"expected a positive integer, {limit:,} at most, got {text[:50]!r}"
            )
        return value

    return positive


side = at_most(MAX_SIDE)
positive = at_most(10**12)
