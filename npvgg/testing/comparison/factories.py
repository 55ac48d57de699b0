"""A torch network by a name on the command line, with the pack's weights in it if asked.

    module:factory               factory() is called
    module:factory:argument      factory("argument") is called: timm:create_model:repvgg_a0

The module is looked for in the current folder first, as `python -m` does. It is the user's own
code, named by the user: it is run, and nothing else is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from itertools import permutations
from typing import Any

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import shown
from npvgg.ops import Array
from npvgg.testing.packs.pack import Pack
from npvgg.weights import keymap
from npvgg.weights.build import flatten


def build(text: str) -> Any:
    """Return the torch module that a factory makes. Raises ArgumentError where there is none."""
    name, _, rest = text.partition(":")
    factory, _, argument = rest.partition(":")
    if not (name and factory):
        raise ArgumentError(
            f"torch: expected module:factory or module:factory:argument, got {text}"
        )
    sys.path.insert(0, "")
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of a report
            function = getattr(import_module(name), factory)
            module = function(argument) if argument else function()
    except Exception as error:
        raise ArgumentError(f"torch: {text}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if not hasattr(module, "register_forward_hook"):
        raise ArgumentError(f"torch: {text}: expected a torch module, got {type(module).__name__}")
    return module


def give_weights(module: Any, pack: Pack, names: Mapping[str, str] | None = None) -> str:
    """Load the pack's weights into a torch module, all of them. → how, in words

    names: the module's names → ours; without it they are timm's or the original's, or else the
        module's tensors are taken in their order, if that agrees with ours in every shape: blocks
        in order of execution, in each the branches in any order, the same in all
    The form, train or deploy, is the one whose tensors the module has.

    Raises ArgumentError where it is no such network.
    """
    import torch

    state = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if not keymap.is_training_only(keymap.strip_prefix(name))
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    how, form, ours = _weights_of(shapes, pack, names)
    for name, array in ours.items():
        if shapes[name] != array.shape:
            raise ArgumentError(f"torch: {name}: expected {array.shape}, got {shapes[name]}")
    loaded = {
        name: torch.from_numpy(array.astype(np.float32)).to(state[name].dtype)
        for name, array in ours.items()
    }
    module.load_state_dict(loaded, strict=False)  # counters of batches stay as they are
    return f"in {form} form{how}"


def _weights_of(
    shapes: Mapping[str, tuple[int, ...]], pack: Pack, names: Mapping[str, str] | None
) -> tuple[str, str, dict[str, Array]]:
    """How they were matched, the form, and their name → our array."""
    half = keymap.first_half(pack.config.depths)
    spelled = names or {name: keymap.to_timm(keymap.strip_prefix(name), half) for name in shapes}
    form = keymap.form(spelled.values())
    arrays = flatten(pack.network(form))
    if spelled.keys() == shapes.keys() and sorted(spelled.values()) == sorted(arrays):
        return "", form, {name: arrays[our] for name, our in spelled.items()}
    if not names:
        for each in ("train", "deploy"):
            for order in permutations(("conv_kxk", "conv_1x1", "identity")):
                row = _in_order(pack, each, order)
                if list(shapes.values()) == [array.shape for array in row]:
                    pairs = dict(zip(shapes, row, strict=True))
                    return ", in the order of its tensors, by their shapes", each, pairs
    odd = sorted(arrays.keys() ^ {*spelled.values()}) or sorted(shapes.keys() ^ spelled.keys())
    raise ArgumentError(
        f"torch: expected the tensors of {pack.manifest['model']} in {form} form, "
        f"{len(odd)} names are only in one: {', '.join(map(shown, odd[:3]))}, …; neither do order "
        "and shapes agree: say which is which (--weights-map)"
    )


def _in_order(pack: Pack, form: str, order: Sequence[str]) -> list[Array]:
    """Our arrays block by block, in each the branches in this order; none where it has no form."""
    try:
        arrays = flatten(pack.network(form))
    except ArgumentError:
        return []
    blocks: dict[str, dict[str, list[Array]]] = {}
    for name, array in arrays.items():
        block, branch = _place(name)
        blocks.setdefault(block, {branch: [] for branch in order}).setdefault(branch, []).append(
            array
        )
    return [array for block in blocks.values() for branch in block.values() for array in branch]


def _place(name: str) -> tuple[str, str]:
    """Return the block and the branch of a tensor: "stages.0.1.conv_1x1.bn.bias" → these two."""
    parts = name.split(".")
    depth = 3 if parts[0] == "stages" else 1
    return ".".join(parts[:depth]), parts[depth]
