"""The command line: what can be asked, and how a run ends.

Results go to standard output, all else to standard error. Exit status: 0 done; 1 a photo could not
be read, a file is suspicious, two files differ, or a tensor is wrong; 2 the run was aborted (a
wrong argument, weights that do not fit, a full disk, a reader that left); 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from npvgg.cli import (
    batch_options,
    crosscheck,
    explain,
    networks,
    photos,
    progress,
    rows,
    weightfiles,
)
from npvgg.cli.predict import warnings_as_notes
from npvgg.cli.progress import log
from npvgg.cli.text import escaped
from npvgg.errors import NpvggError
from npvgg.export import writer
from npvgg.hub.pretrained import BUNDLED
from npvgg.images.opening import FORMATS
from npvgg.version import __version__

ABORTED, INTERRUPTED = 2, 130

NO_MEMORY = ("failed to map segment", "Cannot allocate memory", "cannot allocate memory")
"""What the system's loader says of a library for which there is no memory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not a notebook's, nor a closed one
            stream.reconfigure(errors="backslashreplace")  # odd file names
    args = _parsed(argv)
    quiet = getattr(args, "quiet", False)
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the hub's client reads it, and ours
    with progress.shown(quiet), warnings_as_notes():
        return _run(args)


class _Parser(argparse.ArgumentParser):
    """A parser that repeats what it was given escaped."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with status 2."""
        super().error(escaped(message))


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    # An option -0 would make argparse take -1 for one, too, which is an index.
    words[:end] = ["--null" if word == "-0" else word for word in words[:end]]
    args = parser.parse_args(words)
    if getattr(args, "paths", True) == [] and args.files_from is None:
        parser.error("expected a PATH or --files-from")
    if getattr(args, "null", False) and args.files_from is None:
        parser.error("argument --null: expected --files-from with it")
    for name, value in vars(args).items():
        if value == "" and name != "pattern":
            parser.error(f"argument --{name.replace('_', '-')}: expected some text, got ''")
    return args


def _run(args: argparse.Namespace) -> int:
    try:
        status: int = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader had enough, as `head` does
        with suppress(OSError, AttributeError):  # a stream of its own, as in a notebook
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ABORTED
    except MemoryError:
        log.error("error: out of memory")
        return ABORTED
    except ImportError as error:
        if not any(words in str(error) for words in NO_MEMORY):
            raise
        log.error(f"error: out of memory: {error}")
        return ABORTED
    except (NpvggError, OSError) as error:
        log.error(f"error: {error}")
        return ABORTED
    except KeyboardInterrupt:
        log.error("interrupted")
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="npvgg",
        description="RepVGG in pure NumPy and Numba: classify photos, embed them, look inside.",
        epilog="Exit status: 0 done; 1 a photo could not be read, a file is suspicious, two files "
        "differ, or a tensor is wrong; 2 aborted; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"npvgg {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_classify(verbs)
    _add_embed(verbs)
    _add_features(verbs)
    _add_info(verbs)
    _add_list(verbs)
    _add_warmup(verbs)
    _add_inspect(verbs)
    _add_convert(verbs)
    _add_verify(verbs)
    _add_conformance(verbs)
    _add_compare(verbs)
    batch_options.add(verbs, [_model_options(), _photo_options()])
    explain.add(verbs)
    return parser


def _add_classify(verbs: Any) -> None:
    parser = verbs.add_parser(
        "classify",
        help="name what is in photos",
        description="Prints the classes that the network finds likeliest in each photo, with their "
        "probabilities.",
        parents=[_run_options(), _model_options(), _photo_options()],
    )
    parser.add_argument(
        "--topk", type=_positive, default=5, metavar="K", help="classes per photo (5)"
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="names of the classes: .txt, a line each, or .json"
    )
    parser.add_argument(
        "--format",
        choices=tuple(rows.FORMATS),
        help="by the suffix of --output, or table",
    )
    parser.add_argument(
        "--escape-formulas",
        action="store_true",
        help="in csv and tsv, put ' before text that a spreadsheet would run as a formula",
    )
    parser.set_defaults(run=photos.classify)


def _add_embed(verbs: Any) -> None:
    parser = verbs.add_parser(
        "embed",
        help="turn photos into vectors",
        description="One vector per photo, in their order. In npy and npz the row of a photo that "
        "could not be read, or of an argument that gives no photo, is NaN; npz names the photos "
        "and errors beside it.",
        parents=[_run_options(), _model_options(), _photo_options()],
    )
    parser.add_argument(
        "--format",
        choices=photos.EMBEDDING_FORMATS,
        help="by the suffix of --output, or jsonl",
    )
    parser.set_defaults(run=photos.embed)


def _add_features(verbs: Any) -> None:
    parser = verbs.add_parser(
        "features",
        help="give the feature maps of photos",
        description="Prints the shapes of the maps; with --output FOLDER, each photo's maps go "
        "into an npz file there, named after the photo and a digest of its path.",
        parents=[_run_options(), _model_options(), _photo_options()],
    )
    parser.add_argument(
        "--out-indices",
        type=_indices,
        nargs="+",
        metavar="I",
        help="which maps (all), negative from the end: --out-indices=0,-1, or the same with spaces "
        "after the photos",
    )
    parser.add_argument(
        "--pooled", action="store_true", help="the mean of each map over height and width alone"
    )
    parser.add_argument(
        "--save-dtype",
        choices=("float16", "float32", "float64"),
        help="of the arrays in the files (that of --dtype)",
    )
    parser.add_argument(
        "--skip-existing", action="store_true", help="leave out photos whose file is there"
    )
    _add_format(parser, "jsonl")
    parser.set_defaults(run=photos.features)


def _add_info(verbs: Any) -> None:
    parser = verbs.add_parser(
        "info",
        help="count parameters, MACs and activations",
        description="Prints how large a network is and what an image costs, in train and in deploy "
        "form, layer by layer.",
    )
    parser.add_argument(
        "model", nargs="?", default=None, help=f"a network, a tag, a folder, hf-hub:… ({BUNDLED})"
    )
    parser.add_argument("--weights", metavar="PATH", help="take the network from a file or folder")
    parser.add_argument("--wrapper", metavar="KEY", help="which weights of a training checkpoint")
    parser.add_argument("--prefix", metavar="TEXT", help="only tensors whose names begin so")
    parser.add_argument(
        "--input-size",
        type=_side,
        nargs=3,
        metavar=("C", "H", "W"),
        help="the network's own by default",
    )
    _add_format(parser, "json")
    parser.set_defaults(run=networks.info)


def _add_list(verbs: Any) -> None:
    parser = verbs.add_parser(
        "list",
        help="list the networks",
        description="Prints the networks that have a name, their size in deploy form, and the tags "
        "of their pretrained weights.",
    )
    parser.add_argument(
        "pattern", nargs="?", default="", help="part of the name, or a pattern such as '*_b?'"
    )
    _add_format(parser, "json")
    parser.set_defaults(run=networks.list_networks)


def _add_warmup(verbs: Any) -> None:
    parser = verbs.add_parser(
        "warmup",
        help="compile the fast engines ahead",
        description="Compiles the kernels for this processor and keeps them for this user, so that "
        "the first photo does not have to wait.",
    )
    parser.add_argument(
        "--into",
        metavar="FOLDER",
        help="keep them there, for a container's image; NUMBA_CACHE_DIR=FOLDER finds them later",
    )
    _add_quiet(parser)
    parser.set_defaults(run=networks.warm_up)


def _add_inspect(verbs: Any) -> None:
    parser = verbs.add_parser(
        "inspect",
        help="say what a weights file is, and what looks wrong in it",
        description="Format, names, network, form, ranges per block; NaN, odd variances, dead "
        "channels. Exit status 1 where something looks wrong.",
    )
    parser.add_argument("file", metavar="FILE", help="any weights file")
    parser.add_argument("--model", metavar="NAME", help="the network, where FILE does not tell")
    parser.add_argument("--wrapper", metavar="KEY", help="which weights of a training checkpoint")
    parser.add_argument("--prefix", metavar="TEXT", help="only tensors whose names begin so")
    _add_format(parser, "json")
    parser.set_defaults(run=weightfiles.inspect)


def _add_convert(verbs: Any) -> None:
    parser = verbs.add_parser(
        "convert",
        help="write weights in another form, naming, precision or file format",
        description="Reads .safetensors, .pth and their like; writes .safetensors, .pth or .onnx, "
        "by the suffix of OUT. Without --form, --naming and --model every tensor is copied as it "
        "is. An ONNX file (opset 13, float32) holds the network in deploy form, for any number of "
        "images.",
    )
    parser.add_argument("source", metavar="IN", help="any weights file, sharded index or folder")
    parser.add_argument("target", metavar="OUT", help="FILE.safetensors, FILE.pth or FILE.onnx")
    parser.add_argument("--form", choices=("deploy", "train"), help="deploy folds the branches")
    parser.add_argument(
        "--naming", choices=("timm", "original"), help="whose names the tensors get"
    )
    parser.add_argument(
        "--dtype",
        type=_dtype,
        choices=("float32", "float16", "bfloat16", "float64"),
        help="the file's own by default (f32, f16, bf16 and f64 will do)",
    )
    parser.add_argument(
        "--fold-dtype",
        type=_dtype,
        choices=("float64", "float32"),
        default="float64",
        help="float64 rounds once (float64); float32 rounds every step, as timm does",
    )
    parser.add_argument("--model", metavar="NAME", help="the network, where IN does not tell")
    parser.add_argument("--wrapper", metavar="KEY", help="which weights of a training checkpoint")
    parser.add_argument("--prefix", metavar="TEXT", help="only tensors whose names begin so")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    _add_quiet(parser)
    onnx = parser.add_argument_group("what an ONNX file holds beside the network")
    onnx.add_argument("--dynamic-size", action="store_true", help="leave height and width open")
    onnx.add_argument("--softmax", action="store_true", help="probabilities, not logits")
    onnx.add_argument(
        "--preprocess",
        choices=writer.PREPROCESSINGS,
        help="take pixels of 0 … 255, resized and cropped already, and normalise them",
    )
    parser.set_defaults(run=weightfiles.convert)


def _add_verify(verbs: Any) -> None:
    parser = verbs.add_parser(
        "verify",
        help="prove a fold, or tell whether two files are the same network",
        description="One train-form file: folds it and reports, block by block, how far branches "
        "and folded convolution differ on noise and on a photo, against float64 and a proved "
        "bound. Two files: are they the same network, in any form, naming and precision? Exit "
        "status 1 where not.",
    )
    parser.add_argument("a", metavar="A", help="a weights file, in train form if it is alone")
    parser.add_argument("b", metavar="B", nargs="?", help="a second one")
    parser.add_argument("--model", metavar="NAME", help="the network, where the files do not tell")
    parser.add_argument(
        "--image",
        metavar="PHOTO",
        action="append",
        default=[],
        help="try it on this photo as well; may be repeated",
    )
    parser.add_argument(
        "--size", type=_side, default=64, metavar="N", help="height and width of images (64)"
    )
    parser.add_argument("--wrapper", metavar="KEY", help="which weights of a checkpoint A")
    parser.add_argument("--prefix", metavar="TEXT", help="only tensors whose names begin so")
    parser.add_argument("--wrapper-b", metavar="KEY", help="which weights of a checkpoint B")
    _add_format(parser, "json")
    parser.set_defaults(run=weightfiles.verify)


def _add_conformance(verbs: Any) -> None:
    parser = verbs.add_parser(
        "conformance",
        help="write a test pack for another implementation",
        description="Writes a folder with weights, an input, every tensor on the way, and for each "
        "of its numbers the largest error that a correct float32 implementation can make; with a "
        "README for people who have neither npvgg nor Python.",
    )
    parser.add_argument("out", metavar="OUT", help="the folder, to be made")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a network, with a pretrained tag for trained weights, or tiny, tiny_g2, tiny_se, "
        "tiny_plus, tiny_dilated (tiny)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="weights file; without it they are random, by the seed"
    )
    parser.add_argument(
        "--seed",
        type=_natural,
        metavar="N",
        help="seed of weights and noise (0; tiny networks have their own)",
    )
    parser.add_argument("--input", default="noise", metavar="PHOTO", help="a photo, or noise")
    parser.add_argument(
        "--level",
        choices=("block", "branch", "op"),
        default="block",
        help="the outputs of blocks; and of branches; and of convolutions before their batch norm",
    )
    parser.add_argument(
        "--size", type=_side, metavar="N", help="height and width of the input (64; tiny: 18)"
    )
    parser.add_argument(
        "--form", choices=("train", "deploy"), help="form of the tensors (train, where it is known)"
    )
    parser.add_argument(
        "--winograd",
        type=_natural,
        default=0,
        metavar="M",
        help="wider bounds, within which Winograd's tiles up to M × M stay for every input, too",
    )
    parser.add_argument("--force", action="store_true", help="replace a pack")
    _add_quiet(parser)
    parser.set_defaults(run=crosscheck.conformance)


def _add_compare(verbs: Any) -> None:
    parser = verbs.add_parser(
        "compare",
        help="hold another implementation against a conformance pack",
        description="A line per tensor: its largest error, absolute, relative to the largest value "
        "and in units of the last place, and its share of the bound that a correct float32 "
        "implementation keeps. The first wrong tensor is where to look. Exit status 1 where one is "
        "wrong.",
    )
    parser.add_argument("pack", metavar="PACK", help="a folder by `npvgg conformance`")
    theirs = parser.add_mutually_exclusive_group(required=True)
    theirs.add_argument(
        "theirs",
        metavar="THEIRS",
        nargs="?",
        help="arrays: .npz, .npy, .safetensors, .json, or a folder of .npy, or of raw float32 "
        "(.f32) with their shapes in shapes.json",
    )
    theirs.add_argument("--onnx", metavar="FILE", help="a model, run with ONNX Runtime")
    theirs.add_argument(
        "--torch",
        metavar="MODULE:FACTORY[:ARGUMENT]",
        help="what makes a torch module, which is run: timm:create_model:repvgg_a0",
    )
    parser.add_argument(
        "--load-weights", action="store_true", help="give the torch module the pack's weights"
    )
    parser.add_argument(
        "--weights-map",
        metavar="FILE",
        help='for --load-weights, a JSON file: {"the module\'s name": "the pack\'s"}; without it '
        "by name, or by order and shapes",
    )
    parser.add_argument(
        "--match",
        choices=("auto", "name", "order", "shape"),
        default="auto",
        help="how their arrays are matched to the pack's (auto)",
    )
    parser.add_argument(
        "--map",
        metavar="FILE",
        help='instead of --match, a JSON file: {"their name": "the pack\'s"}',
    )
    parser.add_argument(
        "--layout", choices=("auto", "NCHW", "NHWC"), default="auto", help="of their maps (auto)"
    )
    parser.add_argument(
        "--all", action="store_true", help="tensors that are missing are a failure, too"
    )
    parser.add_argument(
        "--alone",
        action="store_true",
        help="each tensor was computed from the pack's own inputs: take the sharper, local bound",
    )
    parser.add_argument(
        "--no-diagnosis",
        dest="diagnosis",
        action="store_false",
        help="do not try which known mistake reproduces the first wrong tensor",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page with maps of the errors")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    _add_quiet(parser)
    parser.set_defaults(run=crosscheck.compare)


def _run_options() -> argparse.ArgumentParser:
    """Return the options that every command over photos has."""
    parser = _Parser(add_help=False)
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
        type=_positive,
        metavar="N",
        help="threads of the compiled engines (default: all cores that the process may use)",
    )
    parser.add_argument(
        "--batch-size", type=_at_most(MAX_BATCH), default=1, metavar="N", help="photos at once (1)"
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="write there instead of to standard output; .gz compresses",
    )
    parser.add_argument("--force", action="store_true", help="replace existing output")
    _add_quiet(parser)
    return parser


def _model_options() -> argparse.ArgumentParser:
    """Return the options that say which network runs."""
    parser = _Parser(add_help=False)
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a network with its tag, a timm repository hf-hub:OWNER/NAME[@REVISION], or a folder "
        f"({BUNDLED})",
    )
    parser.add_argument(
        "--weights", metavar="PATH", help="file or folder with weights of it, or of any that fits"
    )
    parser.add_argument("--wrapper", metavar="KEY", help="which weights of a training checkpoint")
    parser.add_argument("--prefix", metavar="TEXT", help="only tensors whose names begin so")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="of weights and arithmetic",
    )
    return parser


def _photo_options() -> argparse.ArgumentParser:
    """Return the options that say how a photo is opened."""
    parser = _Parser(add_help=False)
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
        type=_natural,
        default=0,
        metavar="N",
        help="which frame of an animation, or page of a TIFF file, counted from 0 (0)",
    )
    photo.add_argument("--max-pixels", type=_positive, metavar="N", help="refuse larger photos")
    photo.add_argument(
        "--formats",
        type=lambda text: tuple(text.upper().split(",")),
        default=FORMATS,
        metavar="A,B",
        help=f"open these formats alone ({','.join(FORMATS)})",
    )
    return parser


def _add_format(parser: argparse.ArgumentParser, other: str) -> None:
    parser.add_argument(
        "--format", choices=("table", other), default="table", help="of what is printed (table)"
    )


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quiet", action="store_true", help="not a word on standard error but of what fails"
    )


def _indices(text: str) -> list[int]:
    try:
        return [int(index) for index in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected integers, got {text!r}; if that is a photo, write --out-indices=0,1 before "
            "it, or put the photo first"
        ) from None


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"expected an integer of 0 or more, got {text[:50]!r}")
    return int(text)


def _dtype(text: str) -> str:
    """Read a dtype's name, long or short: "float16", "f16"."""
    short = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    return short.get(text, text)


def _at_most(limit: int) -> Callable[[str], int]:
    def positive(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        if not 1 <= value <= limit:
            raise argparse.ArgumentTypeError(
                f"expected a positive integer, {limit:,} at most, got {text[:50]!r}"
            )
        return value

    return positive


MAX_BATCH = 4096
MAX_SIDE = 16384
_side = _at_most(MAX_SIDE)
_positive = _at_most(10**12)
