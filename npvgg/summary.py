"""How big a network is: parameters, multiply-accumulates and activations, overall and per layer.

A multiply-accumulate (MAC) is one product of a convolution or the classifier; batch norms,
activations and sums are not counted. An activation is one output value of a convolution or the
classifier. These are the conventions of timm's model cards, in train form (where the 1×1 branch
counts, too).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from npvgg import attention
from npvgg.config import BlockSpec, RepVGGConfig, expand, output_size
from npvgg.errors import ArgumentError
from npvgg.model import RepVGG
from npvgg.weights.build import expected_shapes
from npvgg.weights.identity import identify

FORMS = ("train", "deploy")


@dataclass(frozen=True)
class Counts:
    """What one layer, or a whole network, has: `parameters`, `macs` and `activations` (numbers, per
    image).
    """

    parameters: int
    macs: int
    activations: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.activations + other.activations,
        )


@dataclass(frozen=True)
class Layer:
    """One block, or the classifier: its name, the shape it puts out, its counts in both forms."""

    name: str
    output_shape: tuple[int, ...]
    train: Counts
    deploy: Counts


class DecayRow(NamedTuple):
    """A layer, the number of its group, and by what its learning rate is multiplied."""

    name: str
    group: int
    scale: float


class LayerDecay(tuple[DecayRow, ...]):
    """The rows of `Info.layer_decay`; `str()` is a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [f"{row.name:16}{row.group:>5}{row.scale:>12.4g}" for row in self]
        return "\n".join([f"{'layer':16}{'group':>5}{'scale':>12}", *rows])


@dataclass(frozen=True)
class Info:
    """The size of a network at one input size; `str()` is a table."""

    name: str
    input_size: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @property
    def train(self) -> Counts:
        """The whole network in train form."""
        return sum((layer.train for layer in self.layers), Counts(0, 0, 0))

    @property
    def deploy(self) -> Counts:
        """The whole network in deploy form."""
        return sum((layer.deploy for layer in self.layers), Counts(0, 0, 0))

    def layer_decay(self, decay: float = 0.75) -> LayerDecay:
        """Return how fine-tuning with a rate that decays from layer to layer would scale each
        layer.

        With the groups 0 … G of timm's `group_matcher`, the stem first and the classifier last,
        group g learns at decay^(G − g) times the rate. Source: timm `param_groups_layer_decay`.
        """
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise ArgumentError(f"decay: expected a number above 0, at most 1, got {decay!r}")
        last = len(self.layers) - 1
        return LayerDecay(
            DecayRow(layer.name, group, decay ** (last - group))
            for group, layer in enumerate(self.layers)
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the table, where a notebook shows the value."""
        printer.text(str(self))

    def __str__(self) -> str:
        head = f"{'':16}{'':18}{'train form':^33}{'deploy form':^33}"
        units = f"{'layer':16}{'output':18}" + f"{'params':>11}{'MMACs':>11}{'acts (k)':>11}" * 2
        rows = [
            _row(layer.name, layer.output_shape, layer.train, layer.deploy) for layer in self.layers
        ]
        total = _row("total", (), self.train, self.deploy)
        size = "×".join(map(str, self.input_size))
        summary = "\n".join(f"{form:6} form: {_summary(getattr(self, form))}" for form in FORMS)
        return "\n".join([f"{self.name} at {size}", "", head, units, *rows, total, "", summary])


def info(model: RepVGG | RepVGGConfig | str, input_size: Sequence[int] | None = None) -> Info:
    """Count a network's parameters, MACs and activations, in train and in deploy form.

    model: a model, a configuration, or a name such as "repvgg_a2"
    input_size: (C, H, W) of the image; by default that of the network's data configuration

    Parameters are those that training learns: running statistics are not among them.
    Raises ArgumentError for an unknown name or an impossible size.
    """
    if isinstance(model, str):
        found = identify(model)
        name, config = found.architecture, found.config
        default = found.pretrained_cfg["input_size"]
    elif isinstance(model, RepVGGConfig):
        name, config, default = "RepVGG", model, (model.in_chans, 224, 224)
    elif isinstance(model, RepVGG):
        name, config, default = model.name, model.config, model.pretrained_cfg["input_size"]
    else:
        raise ArgumentError(
            f"model: expected a RepVGG, a RepVGGConfig or a name, got {type(model).__name__}"
        )
    c, h, w = _checked_size(input_size if input_size is not None else default)
    if input_size is not None and c != config.in_chans:
        raise ArgumentError(f"input_size: expected {config.in_chans} channels, got {c}")
    return Info(name, (config.in_chans, h, w), tuple(_layers(config, h, w)))


def _layers(config: RepVGGConfig, h: int, w: int) -> list[Layer]:
    parameters = {form: _parameters(config, form) for form in FORMS}
    layers = []
    for spec in expand(config):
        h, w = output_size(h, spec.stride), output_size(w, spec.stride)
        counts = [_block_counts(spec, form, h, w, parameters[form][spec.name]) for form in FORMS]
        layers.append(Layer(spec.name, (spec.out_chs, h, w), *counts))
    if config.num_classes:
        macs = config.num_classes * config.num_pooled_features
        counts = [Counts(parameters[form]["head.fc"], macs, config.num_classes) for form in FORMS]
        layers.append(Layer("head.fc", (config.num_classes,), *counts))
    return layers


def _block_counts(spec: BlockSpec, form: str, p: int, q: int, parameters: int) -> Counts:
    pixels = p * q
    kernel_taps = (9, 1) if form == "train" else (9,)
    macs = sum(taps * spec.in_chs // spec.groups * spec.out_chs * pixels for taps in kernel_taps)
    activations = len(kernel_taps) * spec.out_chs * pixels
    if spec.attn_layer:
        layer = attention.LAYERS[spec.attn_layer]
        for name, shape in layer.shapes(spec.out_chs, **spec.attn_kwargs).items():
            if len(shape) > 1:  # a convolution, not a bias nor a statistic
                places = layer.evaluated(name, spec.out_chs, pixels)
                macs += prod(shape) * places
                activations += shape[0] * places
    return Counts(parameters, macs, activations)


def _parameters(config: RepVGGConfig, form: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, shape in expected_shapes(config, form).items():
        if not name.endswith((".running_mean", ".running_var")):
            parts = name.split(".")
            layer = ".".join(parts[: {"stem": 1, "stages": 3, "head": 2}[parts[0]]])
            counts[layer] = counts.get(layer, 0) + prod(shape)
    return counts


def _checked_size(size: Sequence[int]) -> tuple[int, int, int]:
    valid = isinstance(size, tuple | list) and len(size) == 3
    if not valid or not all(type(side) is int and side > 0 for side in size):
        raise ArgumentError(f"input_size: expected three positive integers (C, H, W), got {size!r}")
    return size[0], size[1], size[2]


def _row(name: str, shape: tuple[int, ...], train: Counts, deploy: Counts) -> str:
    cells = "".join(
        f"{c.parameters:>11,}{c.macs / 1e6:>11,.1f}{c.activations / 1e3:>11,.1f}"
        for c in (train, deploy)
    )
    return f"{name:16}{'×'.join(map(str, shape)):18}{cells}"


def _summary(c: Counts) -> str:
    parameters, gmacs, activations = c.parameters / 1e6, c.macs / 1e9, c.activations / 1e6
    return f"{parameters:.1f} M parameters, {gmacs:.1f} GMACs, {activations:.1f} M activations"
