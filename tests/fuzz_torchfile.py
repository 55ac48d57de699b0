"""A longer search for files that break the reader:  python tests/fuzz_torchfile.py SECONDS [SEED]

Valid files and their pickles are mutated (bytes changed, removed, copied, opcodes put in). Each
must give arrays or a WeightsError; anything else, and any file that takes over a second, is
reported with the bytes that show it.
"""

import collections
import io
import random
import sys
import time

import numpy as np
import torchwriter

from npvgg.errors import WeightsError
from npvgg.formats.torch import reader

SEED = {
    "state_dict": torchwriter.state_dict({"a": np.arange(6.0).reshape(2, 3), "b": np.arange(4)}),
    "model": {"p": torchwriter.parameter(torchwriter.whole(np.arange(3.0), "8"))},
    "optimizer": {"state": {0: {"m": torchwriter.whole(np.arange(2.0), "9")}}},
    "args": torchwriter.Made(torchwriter.Global("argparse", "Namespace"), (), {"lr": 0.1}),
}
OPCODES = b".(Rb0t\x85\x86hq\x94\x93cQ}]()uesoad\x81\x8f\x90"


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        kind, at = rng.random(), rng.randrange(len(data))
        if kind < 0.5:
            data[at] = rng.choice(OPCODES) if rng.random() < 0.5 else rng.randrange(256)
        elif kind < 0.7:
            del data[at : at + rng.randrange(1, 9)]
        elif kind < 0.85:
            source = rng.randrange(len(data) or 1)
            data[at:at] = data[source : source + rng.randrange(1, 40)]
        else:
            data[at:at] = bytes([rng.choice(OPCODES)])
        data = data or bytearray(b".")
    return bytes(data)


def case(rng):
    """A file with a damaged pickle in a sound archive, or a damaged stream or archive."""
    protocol, kind = rng.choice((2, 3, 4, 5)), rng.random()
    if kind < 0.6:
        pickle = mutated(rng, torchwriter.pickled(SEED, protocol))
        return torchwriter.zip_file(SEED, protocol=protocol, change={"data.pkl": pickle})
    make = torchwriter.stream_file if kind < 0.9 else torchwriter.zip_file
    return mutated(rng, make(SEED, protocol=protocol))


def search(more, seed=0):
    """Read one file after another while more() says so; count what became of them."""
    rng, counts = random.Random(seed), collections.Counter()
    while more():
        data = case(rng)
        begin = time.monotonic()
        try:
            got = reader.read(io.BytesIO(data), len(data))
            assert sum(array.nbytes for array in got.tensors.values()) <= 4 * len(data) + 2**21
            counts["read"] += 1
        except (WeightsError, OSError):  # OSError: cut short; checkpoint.load makes it WeightsError
            counts["refused"] += 1
        except BaseException:
            print(f"seed {seed}: {data!r}")
            raise
        if time.monotonic() - begin > 1:
            print(f"slow: {data!r}")
            counts["slow"] += 1
    return counts


def main(seconds, seed=0):
    end = time.monotonic() + seconds
    counts = search(lambda: time.monotonic() < end, seed)
    print(dict(counts))
    return bool(counts["slow"])


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *map(int, sys.argv[2:])))
