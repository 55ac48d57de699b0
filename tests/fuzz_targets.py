"""What is searched for bytes that break a reader.

Each reader gets any bytes and must give an answer or an error of npvgg's, within a second of the
processor's time and with little memory. `fuzz_atheris.py` searches guided by coverage,
`fuzz_blind.py` without atheris.
"""

import contextlib
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fuzz_commands
import numpy as np
import tiny
import torchwriter

from npvgg import create_model
from npvgg.batch.reading import Reader
from npvgg.batch.run import Run
from npvgg.batch.search import nearest
from npvgg.batch.sources import listed
from npvgg.data import create_transform, resolve_model_data_config
from npvgg.errors import ArgumentError, ImageError, WeightsError
from npvgg.formats import checkpoint, npyfile, safetensorsfile, sharded, tararchive
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.torch import pickled, reader
from npvgg.images import labels
from npvgg.testing import Pack, conformance_pack
from npvgg.testing.comparison import candidates
from npvgg.weights import metadata, timmconfig
from npvgg.weights.cost import check_cost

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(4, dtype=np.float16)}
STATE = torchwriter.state_dict(ARRAYS)
CHECKPOINT = {
    "state_dict": STATE,
    "model": {"p": torchwriter.parameter(torchwriter.whole(np.arange(3.0), "8"))},
    "args": torchwriter.Made(torchwriter.Global("argparse", "Namespace"), (), {"lr": 0.1}),
}
CONFIG = {
    "architecture": "repvgg_a0", "num_classes": 2, "label_names": {"0": "ant"},
    "model_args": {"in_chans": 1, "attn_layer": "se", "attn_kwargs": {"rd_ratio": 0.25}},
    "pretrained_cfg": {"input_size": [1, 32, 32], "mean": [0.5], "crop_pct": 0.9, "tag": "x"},
}  # fmt: skip
FOLDER = Path(tempfile.mkdtemp(prefix="npvgg-fuzz-"))


def small(tensors, data):
    """What was read takes at most four times what it was read from, and a little."""
    assert sum(array.nbytes for array in tensors.values()) <= 4 * len(data) + 2**21


def read_torch(data):
    small(reader.read(io.BytesIO(data), len(data)).tensors, data)


def read_pickle(data):
    """Any pickle in a sound archive: the checksums of an archive would stop the search."""
    read_torch(torchwriter.zip_file(CHECKPOINT, change={"data.pkl": data}))


def read_safetensors(data):
    small(safetensorsfile.read(io.BytesIO(data), len(data)).tensors, data)


def read_header(data):
    """Any JSON as the header of a file of 56 bytes of numbers."""
    read_safetensors(len(data).to_bytes(8, "little") + data + bytes(56))


def safetensors_file():
    return safetensorsfile.serialized(ARRAYS, {"format": "pt"}, None)


def placed(name, data):
    """Write bytes to a file in a folder of the search."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def read_labels(data):
    names = labels.load_labels(placed("labels", data))
    assert all(label.name.isprintable() for label in names)


def read_candidate(data):
    candidates.read(placed("candidate", data))


def feed(model):
    """What was made takes the photo that its configuration prepares."""
    cfg = model.pretrained_cfg
    check_cost(model.config, *cfg["input_size"][1:])
    if model.config.in_chans in (1, 3) and np.prod(cfg["input_size"]) < 10**5:
        transform = create_transform(**resolve_model_data_config(model))
        model(transform(np.zeros((5, 7, 3), np.uint8))[None])


def use_config(data):
    """config.json → network → photo, for the tiny weights of tests."""
    timmconfig.parse(data)
    placed("config.json", data)
    if not (FOLDER / "model.safetensors").exists():
        checkpoint.save_safetensors(FOLDER / "model.safetensors", tiny.tensors())
    feed(create_model(weights=FOLDER, engine="reference"))


def use_metadata(data):
    """A file whose metadata are any texts: a line each for the configuration and the images."""
    text = data.decode("utf-8", "replace")
    config, _, cfg = text.partition("\n")
    entries = {"npvgg.config": config, "npvgg.pretrained_cfg": cfg or "{}"}
    file = Checkpoint(FOLDER / "m", "safetensors", tiny.tensors(), {}, entries)
    feed(create_model(weights=file, engine="reference"))


def use_manifest(data):
    """A pack whose manifest is any bytes."""
    folder = FOLDER / "pack"
    if not folder.exists():
        conformance_pack("tiny").write(folder)
    (folder / "manifest.json").write_bytes(data)
    Pack.read(folder)


# --- What a batch run reads -----------------------------------------------------------------------


def read_container(name):
    """Return what lists a file of photos, and reads each of them; or refuses."""

    def read(data):
        path = str(placed(name, data))
        reader = Reader(str(FOLDER))
        with contextlib.closing(reader):
            for count, entry in enumerate(listed([path])):
                with contextlib.suppress(ImageError), reader.photo(entry) as source:
                    assert count < len(data)
                    assert not isinstance(source, bytes) or len(source) <= 64 * len(data)

    return read


def read_list(data):
    list(listed([], str(placed("list", data))))


def use_run(name):
    """Return what reads a run of which one file is any bytes: all that is not computed anew."""

    def use(data):
        folder = FOLDER / f"run-{os.path.basename(name)}"
        if not folder.exists():
            shutil.copytree(fuzz_commands.stock() / "run", folder)
        (folder / name).write_bytes(data)
        run = Run.open(folder)
        run.entries(0)
        run.failed(run.done())
        nearest(run, np.ones(12), 3)

    return use


def of_a_run(name):
    return [(fuzz_commands.stock() / "run" / name).read_bytes()]


def of_stock(name):
    return [(fuzz_commands.stock() / name).read_bytes()]


def tar_files():
    made = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            info = tarfile.TarInfo(
                "x" * 90 + ("/a.png" if kind == tarfile.USTAR_FORMAT else "y" * 90)
            )
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
        made.append(out.getvalue())
    return made


def npz():
    file = io.BytesIO()
    np.savez_compressed(file, **ARRAYS)
    return file.getvalue()


def npy():
    file = io.BytesIO()
    np.save(file, ARRAYS["a"])
    return file.getvalue()


def a_manifest():
    with tempfile.TemporaryDirectory() as folder:
        conformance_pack("tiny").write(Path(folder, "pack"))
        return Path(folder, "pack", "manifest.json").read_bytes()


def a_config():
    return json.dumps(CONFIG | {"num_classes": 5, "label_names": list("abcde"), "model_args": (
        {**tiny.config().as_dict(), "num_classes": 5})}).encode()  # fmt: skip


def the_metadata():
    entries = metadata.describe("x", tiny.config(), "train", pretrained_cfg={
        "input_size": [3, 32, 32], "mean": [0.5], "label_names": list("abcde")})  # fmt: skip
    return f"{entries['npvgg.config']}\n{entries['npvgg.pretrained_cfg']}".encode()


class Target(NamedTuple):
    """What is searched.

    read: takes any bytes; must give an answer or refuse
    seeds: gives the small valid inputs from which a search begins
    seconds: of the processor's time, that an input may take
    mutate: gives another input near to one, where the search has a better way than to change bytes
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    seconds: float = 1.0
    mutate: Callable[[random.Random, bytes], bytes] | None = None


TARGETS = {
    "safetensors": Target(read_safetensors, lambda: [safetensors_file()]),
    "header": Target(read_header, lambda: [safetensors_file()[8:-56].rstrip()]),
    "pickle": Target(
        read_pickle, lambda: [torchwriter.pickled(CHECKPOINT, protocol) for protocol in (2, 4, 5)],
    ),
    "opcodes": Target(pickled.parse, lambda: [torchwriter.pickled({"a": [1, (2.5, "x")]}, 4)]),
    "zip": Target(read_torch, lambda: [torchwriter.zip_file(STATE)]),
    "stream": Target(read_torch, lambda: [torchwriter.stream_file(CHECKPOINT)]),
    "index": Target(sharded.parse, lambda: [b'{"weight_map": {"a": "1.bin"}}']),
    "config": Target(timmconfig.parse, lambda: [json.dumps(CONFIG).encode()]),
    "use": Target(use_config, lambda: [a_config()]),
    "metadata": Target(use_metadata, lambda: [the_metadata()]),
    "labels": Target(read_labels, lambda: [
        b"0\tn02121620\tcat\n1\tn02084071\tdog\n", b"1,dog\n0,cat\n", b'{"id2label": {"0": "cat"}}',
        b'{"cat": 0, "dog": 1}', b"{0: 'cat', 1: \"dog\"}", b'["cat", ["n02121620", "dog"]]']),
    "npz": Target(lambda data: npyfile.read_npz(io.BytesIO(data), len(data)), lambda: [npz()]),
    "npy": Target(lambda data: npyfile.read_npy(io.BytesIO(data), len(data)), lambda: [npy()]),
    "candidate": Target(read_candidate, lambda: [
        npz(), npy(), b'{"stem": [[1, 2], [3, null]], "b": {"shape": [2], "data": [1, 2]}}']),
    "tar": Target(lambda data: list(tararchive.members(io.BytesIO(data))), tar_files),
    "container": Target(read_container("x.tar"), lambda: of_stock("x.tar")),
    "parquet": Target(read_container("x.parquet"), lambda: of_stock("x.parquet")),
    "paths": Target(read_container("list.parquet"), lambda: of_stock("list.parquet")),
    "list": Target(read_list, lambda: [b"a.png\nfile:///b.png\r\n\xff.png\n\n x \n"]),
    "plan": Target(use_run("run.json"), lambda: of_a_run("run.json")),
    "inputs": Target(use_run("inputs.parquet"), lambda: of_a_run("inputs.parquet")),
    "shard": Target(use_run("shards/00000.parquet"), lambda: of_a_run("shards/00000.parquet")),
    "arguments": Target(
        fuzz_commands.run_arguments,
        lambda: ["\0".join(c.split()).encode() for c in fuzz_commands.COMMANDS
                 if not c.startswith(fuzz_commands.SLOW)],
        8.0, fuzz_commands.other_arguments,
    ),
    "manifest": Target(use_manifest, lambda: [a_manifest()]),
}  # fmt: skip

REFUSALS = (WeightsError, ArgumentError, ImageError, OSError)
"""How bytes are refused; `checkpoint.load` makes an OSError (cut short) a WeightsError."""
