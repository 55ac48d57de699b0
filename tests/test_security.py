"""SECURITY.md's table of limits is that of the code, and every limit is held."""

import ast
import contextlib
import io
import json
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torchwriter

import npvgg
from npvgg.batch import reading, sources
from npvgg.batch import run as batch_run
from npvgg.errors import NpvggError
from npvgg.formats import checkpoint, npyfile, safetensorsfile, sharded
from npvgg.formats.torch import choice, pickled, reader
from npvgg.images import labels, opening
from npvgg.testing import Pack
from npvgg.testing.comparison import candidates
from npvgg.testing.packs import manifest
from npvgg.weights import metadata, timmconfig

TESTS = Path(__file__).parent
PACKAGE = Path(npvgg.__file__).parent
PAGE = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| [^|]+ \| ([^|]+) \| `([\w.]+)` \| `(\w+\.py)::(\w+)` \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
OF_STRANGERS = ("formats", "weights", "hub", "images", "batch")
"""Folders that read what strangers made: every limit of theirs stands on the page."""


def number(text):
    """The number that the page writes: "4 GiB", "10,000"."""
    digits, _, unit = text.partition(" ")
    return int(digits.replace(",", "")) * (UNITS[unit] if unit else 1)


@pytest.mark.parametrize(("stated", "where", "file", "test"), ROWS, ids=[row[1] for row in ROWS])
def test_the_page_states_what_the_code_holds(stated, where, file, test):
    assert pkgutil.resolve_name(f"npvgg.{where}") == number(stated)
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_limit_is_missing_on_the_page():
    stated = {where for _, where, _, _ in ROWS}
    assert len(stated) == len(ROWS) > 30
    for folder in OF_STRANGERS:
        for path in (PACKAGE / folder).rglob("*.py"):
            module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            for name in re.findall(
                r"^(MAX_\w+) = ", path.read_text(encoding="utf-8"), re.MULTILINE
            ):
                assert f"{module}.{name}" in stated


def test_every_row_that_points_here_is_held_here():
    here = {where for _, where, file, _ in ROWS if file == Path(__file__).name}
    assert here == HELD.keys()


# --- What no other test holds ---------------------------------------------------------------------


def load(data):
    """Read the bytes of a PyTorch file."""
    return reader.read(io.BytesIO(data), len(data))


def one_pickle(body):
    """Parse a pickle of protocol 2."""
    return pickled.parse(b"\x80\2" + body + b".")


W = torchwriter.state_dict({"w": np.ones(4, np.float32)})
NPY = b"\x93NUMPY\1\0"


def header_of(length):
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(length)
    return NPY + length.to_bytes(2, "little") + text.encode() + bytes(4)


def read_npy(data):
    return npyfile.read_npy(io.BytesIO(data), len(data))


def npz_of(count):
    file = io.BytesIO()
    np.savez(file, **{str(i): np.zeros(1) for i in range(count)})
    return npyfile.read_npz(file, len(file.getvalue()))


def repeated(times):
    """One storage of a million numbers, and so many tensors of it."""
    window = torchwriter.whole(np.zeros(2**20, np.float32), "0")
    return load(torchwriter.zip_file({f"{i}": window for i in range(times)}))


def nested(depth):
    value = W
    for _ in range(depth):
        value = {"a": value}
    return load(torchwriter.zip_file(value))


def folder_of(count, tmp_path):
    for i in range(count):
        (tmp_path / f"{i}.npy").write_bytes(header_of(118))
    return candidates.read(tmp_path)


def pack_of(size, tmp_path):
    (tmp_path / "manifest.json").write_bytes(b" " * size)
    return Pack.read(tmp_path)


def written(size, tmp_path, read, text=b"x"):
    (tmp_path / "file").write_bytes(text * size)
    return read(tmp_path / "file")


def config(**fields):
    return timmconfig.parse(json.dumps({"architecture": "repvgg_a0", **fields}).encode())


def index(files):
    return sharded.parse(
        json.dumps({"weight_map": {str(i): f"{i}.bin" for i in range(files)}}).encode()
    )


def a_plan(size, tmp_path):
    (tmp_path / "run.json").write_bytes(b"{}".ljust(size))
    batch_run.Run.open(tmp_path)  # which is no plan, but that is said of what was read


def a_photo_in_a_tar_file(size, tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(100))
    stamp = sources.stamp((tmp_path / "x.tar").stat())
    entry = sources.Entry("x.png", size, stamp, str(tmp_path / "x.tar"), 0)
    with contextlib.closing(reading.Reader("")) as reader, reader.photo(entry):
        pass


HELD = {
    # constant: (module, its name, the number it is set to or None, what is done with n, its folder)
    "formats.untrusted.MAX_NAME": (safetensorsfile, 1000, lambda n, _: safetensorsfile.serialized(
        {"x" * n: np.zeros(1)}, {}, None)),
    "formats.sharded.MAX_SHARDS": (sharded, 100, lambda n, _: index(n)),
    "formats.torch.reader.MAX_PICKLE": (reader, 200, lambda n, _: load(
        torchwriter.zip_file(W, change={"data.pkl": torchwriter.pickled(W) + bytes(
            max(0, n - len(torchwriter.pickled(W))))}))),
    "formats.torch.reader.MAX_REPEATS": (reader, 4, lambda n, _: repeated(n)),
    "formats.torch.pickled.MAX_MARKS": (pickled, 100, lambda n, _: one_pickle(b"(" * n + b"t" * n)),
    "formats.torch.pickled.MAX_NAME": (pickled, 500, lambda n, _: one_pickle(
        b"X" + n.to_bytes(4, "little") + b"x" * n + b"U\1y\x93")),
    "formats.torch.choice.MAX_NESTING": (choice, 3, lambda n, _: nested(n)),
    "formats.npyfile.MAX_HEADER": (npyfile, 10_000, lambda n, _: read_npy(header_of(n))),
    "formats.npyfile.MAX_MEMBERS": (npyfile, 3, lambda n, _: npz_of(n)),
    "testing.comparison.candidates.MAX_JSON": (candidates, 20, lambda n, folder: written(
        1, folder, candidates.read, b'{"a": 1}'.ljust(n))),
    "testing.comparison.candidates.MAX_FILES": (candidates, 3, folder_of),
    "testing.packs.manifest.MAX_MANIFEST": (manifest, 100, lambda n, _: manifest.parse(
        json.dumps({"format": "x"}).encode().ljust(n))),
    "weights.timmconfig.MAX_TEXT": (timmconfig, 4000, lambda n, _: config(
        num_classes=1, label_names=["x" * n])),
    "weights.metadata.MAX_ENTRY": (metadata, 100, lambda n, _: metadata.pretrained_cfg_of(
        {"npvgg.pretrained_cfg": "{}".ljust(n)})),
    "batch.run.MAX_SHARDS": (batch_run, 3, lambda n, _: batch_run._check_count(n * 5, 5)),
    "batch.run.MAX_PLAN": (batch_run, 100, a_plan),
    "batch.sources.MAX_PATH": (sources, 30, lambda n, folder: written(
        n, folder, lambda path: list(sources.listed([], str(path))))),
    "batch.reading.MAX_BYTES": (reading, 30, a_photo_in_a_tar_file),
    "images.labels.MAX_BYTES": (labels, 100, lambda n, folder: written(
        n, folder, labels.load_labels)),
    "images.opening.MAX_STREAM": (opening, 100, lambda n, _: opening.open_image(
        Pipe(b"x" * n))),
}  # fmt: skip

LIMIT = "at most|expected at least|got none|got more|expected a text|1 to 1000|not much larger"


class Pipe(io.BytesIO):
    """A stream that cannot be sought."""

    def seekable(self):
        return False


@pytest.mark.parametrize("constant", HELD)
def test_a_limit_holds(constant, monkeypatch, tmp_path):
    """So many are let through, one more is not."""
    module, limit, act = HELD[constant]
    monkeypatch.setattr(module, constant.rpartition(".")[2], limit)
    try:
        act(limit, tmp_path)
    except NpvggError as error:
        assert "at most" not in str(error)  # noqa: PT017 - wrong for another reason
    with pytest.raises(NpvggError, match=LIMIT):
        act(limit + 1, tmp_path)


def test_a_file_at_its_limit_is_still_a_file(tmp_path):
    """The numbers are not so small that anybody's weights meet them."""
    checkpoint.save_safetensors(tmp_path / "a", {"x" * 1000: np.zeros((1,) * 8)})
    assert list(checkpoint.load(tmp_path / "a")) == ["x" * 1000]
