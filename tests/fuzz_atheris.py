"""A search for files that break a reader, guided by what they reach in its code, with atheris:

    pip install atheris
    python tests/fuzz_atheris.py TARGET [FOLDER …] [-max_total_time=600] [-rss_limit_mb=2048] …

TARGET is one of those of `fuzz_targets.py`; what follows are the options of libFuzzer and folders
with files to begin from, the first of which also receives what is found. Without a folder it begins
from small valid files. Each input must give an answer or an error of ours, within a second (or what
the target says) of the processor's time and with little memory; libFuzzer stops at the first that
does not, and writes it to a file, which

    python tests/fuzz_atheris.py TARGET FILE

runs again. `fuzz_blind.py` needs no atheris.
"""

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["npvgg"]):
    from fuzz_targets import REFUSALS, TARGETS

    from npvgg.errors import NpvggError


def main(target, *options):
    read, seeds, seconds, _ = TARGETS[target]

    def once(data):
        start = time.process_time()
        with suppress(NpvggError, *REFUSALS):
            read(data)
        took = time.process_time() - start
        assert took <= seconds, f"slow: {took:.1f} s of the processor's time"

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            with suppress(AssertionError):  # the first time imports and makes what is kept
                once(seed)
            Path(folder, str(number)).write_bytes(seed)
        begin = [option for option in options if not option.startswith("-")] or [folder]
        flags = [option for option in options if option.startswith("-")]
        atheris.Setup([sys.argv[0], "-timeout=60", *flags, *begin], once)
        atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTARGET: {', '.join(TARGETS)}")
    main(*sys.argv[1:])
