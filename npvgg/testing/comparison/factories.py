"""A torch network by a name on the command line, with the pack's weights in it if asked.

    module:factory               factory() is called
    module:factory:argument      factory("argument") is called: timm:create_model:repvgg_a0

The module is looked for in the current folder first, as `python -m` does. It is the user's own
code, named by the user: it is run, and nothing else is.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from npvgg.errors import ArgumentError
from npvgg.formats.untrusted import shown
from npvgg.testing.packs.pack import Pack
from npvgg.weights import keymap
from npvgg.weights.build import flatten


def build(text: str) -> Any:
    """The torch module that a factory makes. Raises ArgumentError where there is none."""
    name, _, rest = text.partition(":")
    factory, _, argument = rest.partition(":")
    if not (name and factory):
        raise ArgumentError(
            f"torch: expected module:factory or module:factory:argument, got {text}"
        )
    sys.path.insert(0, "")
    try:
        function = getattr(import_module(name), factory)
        module = function(argument) if argument else function()
    except Exception as error:
        raise ArgumentError(f"torch: {text}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if not hasattr(module, "register_forward_hook"):
        raise ArgumentError(f"torch: {text}: expected a torch module, got {type(module).__name__}")
    return module


def give_weights(module: Any, pack: Pack) -> str:
    """Load the pack's weights into a torch module, in timm's or the original's names, all of them.

    The form, train or deploy, is the one whose names the module has. → that form
    Raises ArgumentError where it is no such network.
    """
    import torch

    half = keymap.first_half(pack.config.depths)
    names = {
        keymap.to_timm(keymap.strip_prefix(name), half): name
        for name in module.state_dict()
        if not keymap.is_training_only(keymap.strip_prefix(name))
    }
    form = keymap.form(names)
    arrays = flatten(pack.network(form))
    if odd := sorted(arrays.keys() ^ names.keys()):
        raise ArgumentError(
            f"torch: expected the tensors of {pack.manifest['model']} in {form} form, "
            f"{len(odd)} names are only in one: {', '.join(map(shown, odd[:3]))}, …"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, array in arrays.items():
        if shapes[names[name]] != array.shape:
            raise ArgumentError(
                f"torch: {names[name]}: expected {array.shape}, got {shapes[names[name]]}"
            )
    state = {names[name]: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    module.load_state_dict(state, strict=False)  # counters of batches stay as they are
    return form
