"""A search for bytes that break a reader, without atheris:

    python tests/fuzz_blind.py TARGET SECONDS [SEED]

The valid inputs of `fuzz_targets.py` are mutated: their bytes, or the values of their JSON. Each
must give an answer or an error of npvgg's; anything else, and whatever takes over a second of the
processor's time (or what the target says), is reported with the bytes that show it.
TARGET may be "all".
"""

import collections
import contextlib
import json
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


VALUES = (
    None, True, False, 0, -1, 1, 2, 101, 4096, 2**31, 2**63, 10**19, 0.5, -0.5, 1e-320, 1e308, "",
    "x", "1", "se", "repvgg_b3", "stem", "../x", "/dev/zero", "\0", "\x1b[31m", "\u202e", "\ud800",
    "x" * 5000, [], {}, [[]], [0], [1, 2, 3], {"": 0}, [None] * 300,
)  # fmt: skip


def places(value, path=()):
    """Every place inside of a value of JSON, as the keys that lead there."""
    yield path
    items = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else items:
        yield from places(item, (*path, key))


def changed(rng, value):
    """A value of JSON with one place removed, given twice, exchanged or replaced."""
    path = rng.choice(list(places(value)))
    if not path:
        return rng.choice(VALUES)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    key, kind = path[-1], rng.random()
    if kind < 0.2:
        del inside[key]
    elif kind < 0.35 and isinstance(inside, list):
        inside.insert(key, inside[key])
    elif kind < 0.5 and isinstance(inside, dict):
        inside[rng.choice(("x", "", "shape", "\x1b[31m", str(rng.choice(VALUES))[:99]))] = inside[
            key
        ]
    elif kind < 0.6:
        inside[key] = inside[
            rng.choice(list(inside) if isinstance(inside, dict) else range(key + 1))
        ]
    else:
        inside[key] = rng.choice(VALUES)
    return value


def mutated(rng, data):
    """The data with some change: of their values, where they are JSON, or of their bytes."""
    if data[:1] in b"{[" and rng.random() < 0.5:
        with contextlib.suppress(ValueError, RecursionError, IndexError):
            value = json.loads(data)
            for _ in range(rng.choice((1, 1, 2, 3))):
                value = changed(rng, value)
            return json.dumps(value).encode()
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
    read, seeds, seconds, mutate = TARGETS[target]
    mutate = mutate or mutated
    begin, rng, counts = seeds(), random.Random(seed), collections.Counter()
    for data in begin:
        read(data)
    while more():
        data = mutate(rng, rng.choice(begin))
        start = time.process_time()
        try:
            read(data)
            counts["read"] += 1
        except (NpvggError, *REFUSALS):
            counts["refused"] += 1
        except BaseException:
            print(f"{target}: seed {seed}: {data!r}")
            raise
        if (took := time.process_time() - start) > seconds:
            print(f"{target}: slow ({took:.1f} s): {data!r}")
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
