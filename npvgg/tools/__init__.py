"""Whole files: convert one into another, say what one is, verify that two are the same network.

    convert(source, target, form="deploy")      another form, naming, dtype or container
    inspect(path)                               what is this file, and what looks wrong in it
    verify(path)                                is this file's fold right?      (`certificate`)
    verify(path, other)                         are these two one network?      (`sameness`)

These are the commands `npvgg convert`, `inspect` and `verify` as functions; `npvgg.info` is here as
well (`summary`). The folder may import all that makes a model, not `testing`, `export` and the
command line. What must not be broken: a file's network is what `weights.identity` says; every
verdict follows from a bound that is derived, none is tuned; what is written says where it is from.
"""

from npvgg.tools.conversion import Converted, convert
from npvgg.tools.inspection import inspect
from npvgg.tools.verification import verify

__all__ = ["Converted", "convert", "inspect", "verify"]
