"""A search for files that break a reader, guided by what they reach in its code, with atheris:

    pip install atheris
    python tests/fuzz_atheris.py TARGET [FOLDER …] [-max_total_time=600] [-rss_limit_mb=2048] …

TARGET is one of those below; what follows are the options of libFuzzer and folders with files to
begin from, the first of which also receives what is found. Without a folder it begins from small
valid files. Each input must give an answer or a WeightsError, within a second and with little
memory; libFuzzer stops at the first that does not, and writes it to a file, which

    python tests/fuzz_atheris.py TARGET FILE

runs again. `fuzz_torchfile.py` needs no atheris and mutates blindly.
"""

import io
import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np
import torchwriter

with atheris.instrument_imports(include=["npvgg"]):
    from npvgg.errors import WeightsError
    from npvgg.formats import safetensorsfile, sharded
    from npvgg.formats.torch import pickled, reader
    from npvgg.weights import timmconfig

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
    """Any JSON as the header of a file of 80 bytes of numbers."""
    read_safetensors(len(data).to_bytes(8, "little") + data + bytes(80))


def safetensors_file():
    return safetensorsfile.serialized(ARRAYS, {"format": "pt"}, None)


TARGETS = {
    "safetensors": (read_safetensors, lambda: [safetensors_file()]),
    "header": (read_header, lambda: [safetensors_file()[8:-80].rstrip()]),
    "pickle": (
        read_pickle, lambda: [torchwriter.pickled(CHECKPOINT, protocol) for protocol in (2, 4, 5)],
    ),
    "opcodes": (pickled.parse, lambda: [torchwriter.pickled({"a": [1, (2.5, "x")]}, 4)]),
    "zip": (read_torch, lambda: [torchwriter.zip_file(STATE)]),
    "stream": (read_torch, lambda: [torchwriter.stream_file(CHECKPOINT)]),
    "index": (sharded.parse, lambda: [b'{"weight_map": {"a": "1.bin"}}']),
    "config": (timmconfig.parse, lambda: [json.dumps(CONFIG).encode()]),
}  # fmt: skip


def main(target, *options):
    read, seeds = TARGETS[target]

    def once(data):
        with suppress(WeightsError, OSError):  # OSError: cut short; `load` makes it a WeightsError
            read(data)

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            once(seed)
            Path(folder, str(number)).write_bytes(seed)
        begin = [option for option in options if not option.startswith("-")] or [folder]
        flags = [option for option in options if option.startswith("-")]
        atheris.Setup([sys.argv[0], "-timeout=1", *flags, *begin], once)
        atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTARGET: {', '.join(TARGETS)}")
    main(*sys.argv[1:])
