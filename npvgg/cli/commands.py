"""The commands and their options: what can be asked; each names the function that does it."""

from __future__ import annotations

import argparse
from typing import Any

from npvgg.cli import batch_options, explain, networks, photos, rows, weightfiles
from npvgg.cli.options import (
    Parser,
    add_choice,
    add_format,
    add_quiet,
    dtype,
    indices,
    model_options,
    natural,
    photo_options,
    positive,
    run_options,
    side,
)
from npvgg.export import writer
from npvgg.hub.pretrained import BUNDLED
from npvgg.version import __version__


def parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
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
    batch_options.add(verbs, [model_options(), photo_options()])
    explain.add(verbs)
    return parser


def _add_classify(verbs: Any) -> None:
    parser = verbs.add_parser(
        "classify",
        help="name what is in photos",
        description="Prints the classes that the network finds likeliest in each photo, with their "
        "probabilities.",
        parents=[run_options(), model_options(), photo_options()],
    )
    parser.add_argument(
        "--topk", type=positive, default=5, metavar="K", help="classes per photo (5)"
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
        parents=[run_options(), model_options(), photo_options()],
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
        parents=[run_options(), model_options(), photo_options()],
    )
    parser.add_argument(
        "--out-indices",
        type=indices,
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
    add_format(parser, "jsonl")
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
    add_choice(parser)
    parser.add_argument(
        "--input-size",
        type=side,
        nargs=3,
        metavar=("C", "H", "W"),
        help="the network's own by default",
    )
    add_format(parser, "json")
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
    add_format(parser, "json")
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
    add_quiet(parser)
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
    add_choice(parser)
    add_format(parser, "json")
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
        type=dtype,
        choices=("float32", "float16", "bfloat16", "float64"),
        help="the file's own by default (f32, f16, bf16 and f64 will do)",
    )
    parser.add_argument(
        "--fold-dtype",
        type=dtype,
        choices=("float64", "float32"),
        default="float64",
        help="float64 rounds once (float64); float32 rounds every step, as timm does",
    )
    parser.add_argument("--model", metavar="NAME", help="the network, where IN does not tell")
    add_choice(parser)
    parser.add_argument("--force", action="store_true", help="replace OUT")
    add_quiet(parser)
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
        "--size", type=side, default=64, metavar="N", help="height and width of images (64)"
    )
    add_choice(parser)
    parser.add_argument("--wrapper-b", metavar="KEY", help="which weights of a checkpoint B")
    add_format(parser, "json")
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
        type=natural,
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
        "--size", type=side, metavar="N", help="height and width of the input (64; tiny: 18)"
    )
    parser.add_argument(
        "--form", choices=("train", "deploy"), help="form of the tensors (train, where it is known)"
    )
    parser.add_argument(
        "--winograd",
        type=natural,
        default=0,
        metavar="M",
        help="wider bounds, within which Winograd's tiles up to M × M stay for every input, too",
    )
    parser.add_argument("--force", action="store_true", help="replace a pack")
    add_quiet(parser)
    parser.set_defaults(run=_conformance)


def _conformance(args: argparse.Namespace) -> int:
    from npvgg.cli.crosscheck import conformance  # half of what other commands take to start

    return conformance(args)


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
    add_quiet(parser)
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from npvgg.cli.crosscheck import compare

    return compare(args)
