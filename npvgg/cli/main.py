"""The command line: how a run begins, and how it ends (what can be asked: `commands`).

Results go to standard output, all else to standard error. Exit status: 0 done; 1 a photo could not
be read, a file is suspicious, two files differ, or a tensor is wrong; 2 the run was aborted (a
wrong argument, weights that do not fit, a full disk, a reader that left); 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from npvgg.cli import commands, lacks_memory, output, progress
from npvgg.cli.decoding import warnings_as_notes
from npvgg.cli.progress import log
from npvgg.errors import NpvggError

ABORTED, INTERRUPTED = 2, 130

NO_THREAD = "can't start new thread"
"""What Python says where the system gives it none."""

MANY = {"paths", "sources", "image"}
"""Arguments that may be given any number of times, none at all among them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not a notebook's, nor a closed one
            stream.reconfigure(errors="backslashreplace")  # odd file names
    with progress.shown(), warnings_as_notes():
        return _run(argv)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = commands.parser()
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
        nothing = isinstance(value, list) and ((name not in MANY and not value) or [] in value)
        if nothing or (value == "" and name != "pattern"):  # of `--weights=--` argparse makes []
            got = "--" if nothing else ""
            parser.error(f"argument --{name.replace('_', '-')}: expected some text, got {got!r}")
    return args


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parsed(argv)
        if getattr(args, "quiet", False):
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the hub's client reads it, and ours
            progress.silence()
        status: int = args.run(args)
        output.flush()
    except BrokenPipeError:  # the reader had enough, as `head` does
        output.abandon()
        return ABORTED
    except (MemoryError, ImportError) as error:
        if not lacks_memory(error):
            raise
        reason = f": {error}" if isinstance(error, ImportError) else ""
        log.error(f"error: out of memory{reason}")
        return ABORTED
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        log.error("error: no thread can be started: no memory, or a limit of processes (ulimit -u)")
        return ABORTED
    except (NpvggError, OSError) as error:
        log.error(f"error: {error}")
        return ABORTED
    except KeyboardInterrupt:
        log.error("interrupted")
        return INTERRUPTED
    return status
