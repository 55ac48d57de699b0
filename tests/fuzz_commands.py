"""Command lines that are searched for one that does not end clearly: the targets of `fuzz_targets`
that run whole commands, in this process.

A command line is one argument after another, a null between two. Wherever it runs, the folder is a
fresh one with a file of every kind in it (`FILES`), and no argument leads out of it, but for a few
that are listed (`OUTSIDE`). It must end with a status that the help names, in words that can be
printed, and a status of 2 says what was wrong; nothing may be raised, nor much memory taken.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

import numpy as np
import tiny
import torchwriter
from PIL import Image

from npvgg import create_model
from npvgg.batch import shards
from npvgg.batch.predictor import Predictor
from npvgg.batch.run import described, plan
from npvgg.batch.sources import listed
from npvgg.cli import batch as batch_command
from npvgg.cli import commands
from npvgg.cli.main import main
from npvgg.formats import checkpoint
from npvgg.testing import conformance_pack

MOST_BYTES = 600 * 2**20
"""More than this on top of what the process had is a finding."""

OUTSIDE = (
    "/dev/null/x", "/dev/zero", "/dev/full", "/proc/self/mem", "/dev", "http://x/", "file:///x",
    "hf-hub:", "hf-hub:a/b", "hf-hub:a/b@..", "memory://x", "s3://x", "://", "~",
)  # fmt: skip

HOSTILE = (
    "", " ", "-", "--", "-0", "-1", "0", "1", "2", "3", "1,2", "0,0", "9999", "1e9,1e9",
    "2147483648", "9223372036854775808", "9" * 18, "9" * 5000, f"1,{'9' * 5000}", "1e400", "nan",
    "inf", "-inf", "1e-320", "1e999999999", "1/0", "0,1,-1,1/2,2",
    "0,1,-1,1e999999999,1e-999999999", "0,1,-1,1e300,1e-300", "0x10",
    "\uff11\uff12", "\u00b2", "1_0", " 5", "+5", "0.5", "3/8", "1/99999999999999999999",
    "\x1b[31mred", "\u202eevil", "\udcff", "a\nb", "x" * 10_000, "%s%n", "{0.__class__}", "=1+1",
    "*", "**", "[", "[!", "?" * 50, "a" * 50 + "*" * 50, "x/" * 300, "y" * 300, "nowhere",
    "folder", "network", "run", "pack", "fifo", "loop", "cat.png", "grey.png", "w.safetensors",
    "w.pth", "config.json", "labels.txt", "labels.json", "x.npz", "x.npy", "x.json", "x.onnx",
    "x.tar", "x.parquet", "junk", "empty", "list", "map.json", "new", "new.csv", "new.npz",
    "new.onnx", "folder/new", "nowhere/new", "repvgg_a0", "repvgg_a0.nothing",
    "repvgg_nano.cifar10", "tiny", "stem", "stages.9.9", "topk", "winograd", "white", "PNG",
    "float16", *OUTSIDE,
)  # fmt: skip
"""What stands in the place of each argument."""

COMMANDS = (
    "classify cat.png --model network", "classify --files-from list --model network --format csv",
    "embed cat.png --model network --output new.npz", "features cat.png --model network",
    "features cat.png --model network --output new", "info network", "info --weights w.pth",
    "list a0", "inspect w.pth", "convert w.pth new.safetensors", "convert network new.onnx",
    "verify network", "verify w.pth w.safetensors", "conformance new", "compare pack x.npz",
    "compare pack x.json", "batch photos --output new --model network", "batch --output run",
    "batch --output run --status", "batch list.parquet x.tar --output new --model network",
    "search run cat.png", "warmup --into new",
    "explain network --model network", "explain fold --model network",
    "explain identities", "explain pixel cat.png --model network", "explain im2col --model network",
    "explain winograd --model network", "explain photo cat.png --model network",
    "explain quantize --model network", "explain mistakes stride --model network",
    "explain training", "explain questions --model network",
    "explain course --output new --model network", "explain live --output new --model network",
)  # fmt: skip
"""A command line of each kind, without anything wrong."""

SLOW = ("explain mistakes", "explain questions", "explain course", "warmup")
"""Commands that take seconds where nothing is wrong; a search that mutates leaves them out."""


@functools.cache
def stock():
    """A folder with a file of every kind, made once."""
    folder = Path(tempfile.mkdtemp(prefix="npvgg-fuzz-"))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).save(folder / "cat.png")
    Image.fromarray(rng.integers(0, 256, (9, 11), np.uint8)).save(folder / "grey.png")
    for name in ("folder", "network", "photos"):
        (folder / name).mkdir()
    shutil.copy(folder / "cat.png", folder / "photos" / "1.png")
    config = {
        "architecture": "repvgg_a0", "num_classes": 5, "label_names": list("abcde"),
        "model_args": tiny.keywords(), "pretrained_cfg": {"tag": "x", "input_size": [3, 16, 16]},
    }  # fmt: skip
    tensors = tiny.tensors()
    (folder / "network" / "config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint.save_safetensors(folder / "network" / "model.safetensors", tensors)
    model = create_model(weights=folder / "network")
    model.save(folder / "w.safetensors")
    (folder / "w.pth").write_bytes(torchwriter.zip_file(torchwriter.state_dict(tensors)))
    (folder / "labels.txt").write_text("\n".join("abcde"))
    (folder / "labels.json").write_text(json.dumps(list("abcde")))
    (folder / "map.json").write_text(json.dumps({"stem": "stem"}))
    (folder / "list").write_text("cat.png\nnowhere.png\n")
    arrays = {"stem": np.ones((1, 8, 9, 9), np.float32)}
    np.savez(folder / "x.npz", **arrays)
    np.save(folder / "x.npy", arrays["stem"])
    (folder / "x.json").write_text('{"stem": [[1, 2], [3, null]]}')
    (folder / "x.onnx").write_bytes(b"\x08\x07")
    (folder / "junk").write_bytes(rng.bytes(500))
    (folder / "empty").write_bytes(b"")
    conformance_pack("tiny").write(folder / "pack")
    with contextlib.chdir(folder):
        containers()
        a_run("run")
    return folder


def containers():
    """Write a tar file and a parquet file of photos, and one of paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tarfile.open("x.tar", "w") as tar:
        tar.add("cat.png")
    photo = Path("cat.png").read_bytes()
    pq.write_table(pa.table({"bytes": [photo, b"x", None]}), "x.parquet")
    pq.write_table(pa.table({"path": ["cat.png", "nowhere.png", None]}), "list.parquet")


def a_run(folder):
    """Make a run of two shards, of which one is done."""
    predictor = Predictor({"model": "network", "engine": "reference", "topk": 2})
    sources = ["photos", "list.parquet"]
    run = plan(
        folder, listed(sources), spec=predictor.spec, identity=predictor.identity, shard_size=2,
        sources=described(sources, None, None),
    )  # fmt: skip
    shards.run_shard(run, 0, predictor)


def here(args, run, numbers, watch):
    """Compute shards in this process; the processes of `local` have tests of their own."""
    for number in numbers:
        watch.photo(0)
        yield shards.run_shard(run, number, retry=args.retry_failed)


@contextlib.contextmanager
def a_copy(change=None):
    """Work in a fresh copy of the stock; `change` is made there."""
    source = stock()
    with tempfile.TemporaryDirectory(prefix="npvgg-fuzz-") as folder:
        inside = Path(folder, "inside")
        shutil.copytree(source, inside, symlinks=True)
        os.mkfifo(inside / "fifo")
        somebody = os.open(inside / "fifo", os.O_RDONLY | os.O_NONBLOCK)  # reads what is written
        (inside / "loop").symlink_to("loop")
        with contextlib.chdir(inside):
            if change:
                change()
            yield inside
        os.close(somebody)
        assert os.listdir(folder) == ["inside"], "something was written outside"


class Waits(BaseException):
    """It takes a minute: nobody may catch it."""


def waits(number, frame):
    raise Waits


def leads_out(argument):
    """Tell whether a mutated argument might reach what is not the search's own."""
    return argument not in OUTSIDE and (
        ".." in argument or argument.startswith(("/", "~")) or ":/" in argument or "=/" in argument
    )


def run(arguments, change=None):
    """Run a command line; give its status and what it said."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    stdin = io.TextIOWrapper(io.BytesIO(b"cat.png\n"))
    signal.signal(signal.SIGALRM, waits)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        with (
            a_copy(change),
            mock.patch.multiple(sys, stdin=stdin, stdout=out, stderr=err),
            mock.patch.object(batch_command, "_computed", here),
            mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}),
        ):
            try:
                status = main(arguments)
            except SystemExit as exit:
                status = exit.code
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    err.flush()
    said = err.buffer.getvalue().decode()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak - before < MOST_BYTES // 1024, f"took {(peak - before) // 1024} MiB"
    assert status in (0, 1, 2), f"ended with {status!r}"
    assert status != 2 or said.strip() or "--status" in arguments, "not a word about what is wrong"
    assert "out of memory" not in said
    assert "Traceback" not in said
    assert len(said) < 20_000, f"said {len(said)} characters"
    for line in said.split("\n"):
        assert line.isprintable(), line
    return status, said


def run_arguments(data):
    """Any bytes as a command line."""
    arguments = data.decode("utf-8", "surrogateescape").split("\0")
    words = " ".join(arguments)
    if any(map(leads_out, arguments)) or re.search("--(tor|addr|engine=(dask|ray))", words):
        return  # which would run somebody's code, or ask a machine
    if words.startswith(SLOW):
        return
    run(arguments)


def other_arguments(rng, data):
    """A command line with some of its words exchanged, left out or added."""
    words = data.decode("utf-8", "surrogateescape").split("\0")
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, at = rng.random(), rng.randrange(len(words))
        if kind < 0.3:
            words[at] = rng.choice(HOSTILE)
        elif kind < 0.4 and len(words) > 1:
            del words[at]
        else:
            option, valued = rng.choice(list(of(" ".join(words)).items()) or [("--x", True)])
            words.append(f"{option}={rng.choice(HOSTILE)}" if valued else option)
    return "\0".join(words).encode("utf-8", "surrogateescape")


@functools.cache
def options():
    """Every option of every command: the words of the command → option → whether it has a value."""

    def walk(parser, words):
        found = {}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    yield from walk(inner, (*words, name))
            elif action.option_strings and not isinstance(action, argparse._HelpAction):
                found[action.option_strings[-1]] = action.nargs != 0
        yield words, found

    return dict(walk(commands.parser(), ()))


def of(command):
    """The options of a command line."""
    words = command.split()
    return options().get(tuple(words[:2])) or options().get(tuple(words[:1]), {})


def cases(commands=COMMANDS, hostile=HOSTILE):
    """Every command with every value in every place."""
    for command in commands:
        words = command.split()
        begin = 2 if words[0] == "explain" else 1
        for place in range(begin, len(words)):
            for value in hostile:
                yield [*words[:place], value, *words[place + 1 :]]
        for option, valued in of(command).items():
            if option in ("--torch", "--address"):
                continue
            if not valued:
                yield [*words, option]
                continue
            for value in hostile:
                yield [*words, f"{option}={value}"]
                if option in ("--input-size", "--out-indices"):
                    yield [*words, option, value, value, value]


def sweep(text=""):
    """Run all cases whose command matches the text, and say what was found."""
    begin, count, findings = time.monotonic(), 0, {}
    for arguments in cases([c for c in COMMANDS if re.search(text, c)]):
        count += 1
        start = time.process_time()
        try:
            run(arguments)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            tell = traceback.extract_tb(error.__traceback__)[-1]
            key = (type(error).__name__, str(error)[:150], tell.filename, tell.lineno)
            if key not in findings:
                print([a[:60] for a in arguments], *key, flush=True)
            findings.setdefault(key, []).append(arguments)
        if (took := time.process_time() - start) > 6:
            print("slow", round(took, 1), [a[:60] for a in arguments], flush=True)
    print(count, "in", round(time.monotonic() - begin), "s;", len(findings), "findings")


if __name__ == "__main__":
    sweep(*sys.argv[1:])
