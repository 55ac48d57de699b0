"""A search for bytes that break a reader, without atheris:

    python tests/fuzz_blind.py TARGET SECONDS [SEED]

The valid files of `fuzz_targets.py` are mutated blindly. Each must give an answer or an error of
npvgg's; anything else, and whatever takes over a second, is reported with the bytes that show it.
TARGET may be "all".
"""

import collections
import random
import sys
import time

from fuzz_targets import REFUSALS, TARGETS

from npvgg.errors import NpvggError

TOKENS = (
    b"1e999", b"NaN", b"-1", b"0", b"99999999999999999999", b"null", b"true", b"[]", b"{}", b'""',
    b"1e-320", b"[[[[", b'"a":', b"\x1b[31m", b"\x1f", b"\x00", b"\xff", b"\n", b",", b":", b"4096",
    b"\xe2\x80\xae", b'"\\ud800"', b"repvgg_b3", b"se", b"cbam", b'"layer"', b"1.5", b"'", b"\\",
)  # fmt: skip


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        kind, at = rng.random(), rng.randrange(len(data) + 1)
        if kind < 0.3 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind < 0.5:
            del data[at : at + rng.randrange(1, 12)]
        elif kind < 0.65:
            source = rng.randrange(len(data) or 1)
            data[at:at] = data[source : source + rng.randrange(1, 40)]
        else:
            end = at + rng.choice((0, 0, 1, 2, 4))
            data[at:end] = rng.choice(TOKENS)
    return bytes(data)


def search(target, more, seed=0):
    """Read one input after another while more() says so; count what became of them."""
    read, seeds = TARGETS[target]
    begin, rng, counts = seeds(), random.Random(seed), collections.Counter()
    for data in begin:
        read(data)
    while more():
        data = mutated(rng, rng.choice(begin))
        start = time.monotonic()
        try:
            read(data)
            counts["read"] += 1
        except (NpvggError, *REFUSALS):
            counts["refused"] += 1
        except BaseException:
            print(f"{target}: seed {seed}: {data!r}")
            raise
        if time.monotonic() - start > 1:
            print(f"{target}: slow: {data!r}")
            counts["slow"] += 1
    return counts


def main(target, seconds, seed=0):
    slow = 0
    for name in TARGETS if target == "all" else [target]:
        end = time.monotonic() + seconds
        counts = search(name, lambda end=end: time.monotonic() < end, seed)
        print(name, dict(counts), flush=True)
        slow += counts["slow"]
    return bool(slow)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in (*TARGETS, "all"):
        sys.exit(f"{__doc__}\nTARGET: {', '.join(TARGETS)}, all")
    sys.exit(main(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:])))
