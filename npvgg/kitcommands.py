"""The commands of the cross-check kit: conformance."""

from __future__ import annotations

import argparse
from pathlib import Path

from npvgg import progress
from npvgg.commands import OK
from npvgg.kit.conformance import conformance_pack


def conformance(args: argparse.Namespace) -> int:
    """Write a conformance pack."""
    pack = conformance_pack(
        args.model if args.model or args.weights else "tiny",
        weights=args.weights,
        seed=args.seed,
        image=args.input,
        level=args.level,
        size=args.size,
        form=args.form,
        winograd=args.winograd,
    )
    pack.write(args.out, overwrite=args.force)
    numbers = sum(pack.tensor(probe.name).size for probe in pack.probes)
    megabytes = sum(file.stat().st_size for file in Path(args.out).iterdir()) / 1e6
    progress.say(
        f"{args.out}: {pack.manifest['model']} in {pack.manifest['form']} form, "
        f"{len(pack.probes)} tensors of level {pack.manifest['level']}, {numbers:,} numbers, "
        f"{megabytes:.1f} MB; its README.md says how to use it",
        quiet=args.quiet,
    )
    return OK
