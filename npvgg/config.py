"""What a RepVGG is: its configuration, and the list of blocks that follows from it.

A RepVGG is a stem block followed by stages of blocks; every block is the same three-branch unit, so
a network is fully described by a few numbers per stage. `expand` spells them out, block by block,
and that list is all that the rest of the house reads.

Sources: Ding et al., RepVGG, arXiv:2101.03697 §3.4; timm `byobnet.py` (`ByoModelCfg`,
`create_byob_stages`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import ceil
from typing import Any, TypedDict, Unpack

from npvgg import attention, from_timm, ops
from npvgg.errors import ArgumentError, refuse_keyword

ACT_LAYERS = tuple(ops.ACTIVATIONS)
"""Every activation's name; the names are timm's. (`from_timm.LAYERS` says why others are not here.)
"""

ATTN_LAYERS = tuple(attention.LAYERS)
"""Every attention layer's name; the names are timm's."""

GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
"""How the last map becomes one vector; the empty name leaves it a map."""

MAX_BLOCKS = 1000
MAX_WIDTH_FACTOR = 1000
"""More than any network has; a file's metadata may name a configuration, and must not fill memory.
"""


@dataclass(frozen=True)
class RepVGGConfig:
    """The complete architecture of one network; every field can be given to `create_model` as a
    keyword.

    A configuration is checked when it is made, so whoever holds one can rely on it.

    depths:        blocks per stage
    widths:        output channels per stage
    strides:       stride of the first block of each stage (1 or 2)
    groups:        groups of the 3×3 and 1×1 convolutions in every second block of each stage
    stem_chs, stem_stride: output channels and stride of the stem block
    in_chans, num_classes: channels of the image; outputs of the classifier, 0 for none (embeddings)
    global_pool:   "avg", "max", "avgmax", "catavgmax", or "" for none
    output_stride: 8, 16 or 32; once the network's stride has reached it, strides become dilation
    act_layer:     one of `ACT_LAYERS`
    attn_layer:    one of `ATTN_LAYERS` in every block, or None
    attn_kwargs:   the attention layer's options, named as in timm
    bn_eps:        the eps of the batch norms of every block (not of an attention layer's own)
    attn_after_act: False: act(attn(conv(x))), RepVGG-D2se and timm; True: attn(act(conv(x))),
    RepVGGplus

    Raises ArgumentError for anything that is not a network.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...] = (2, 2, 2, 2)
    groups: int = 1
    stem_chs: int = 64
    stem_stride: int = 2
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "avg"
    output_stride: int = 32
    act_layer: str = "relu"
    attn_layer: str | None = None
    attn_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    attn_after_act: bool = False
    bn_eps: float = ops.BN_EPS

    def __post_init__(self) -> None:
        for name in ("depths", "widths", "strides"):
            object.__setattr__(self, name, _positive_integers(name, getattr(self, name)))
        if not len(self.depths) == len(self.widths) == len(self.strides):
            lengths = f"{len(self.depths)}, {len(self.widths)} and {len(self.strides)}"
            raise ArgumentError(
                f"depths, widths, strides: expected as many entries in each, got {lengths}"
            )
        if sum(self.depths) > MAX_BLOCKS:
            raise ArgumentError(
                f"depths: expected at most {MAX_BLOCKS} blocks, got {sum(self.depths)}"
            )
        for name in ("groups", "stem_chs", "stem_stride", "in_chans", "output_stride"):
            _integer(name, getattr(self, name), 1)
        _integer("num_classes", self.num_classes, 0)
        for name, values in (("strides", self.strides), ("stem_stride", (self.stem_stride,))):
            if not set(values) <= {1, 2}:
                raise ArgumentError(f"{name}: expected 1 or 2, got {getattr(self, name)!r}")
        _one_of("output_stride", self.output_stride, (8, 16, 32))
        for name in ("act_layer", "global_pool"):
            object.__setattr__(self, name, _spelled(getattr(self, name)))
        for name, known in (("act_layer", ACT_LAYERS), ("attn_layer", (None, *ATTN_LAYERS))):
            from_timm.refuse_layer(name, getattr(self, name))
            _one_of(name, getattr(self, name), known)
        _one_of("global_pool", self.global_pool, GLOBAL_POOLS)
        if not self.global_pool and self.num_classes:
            raise ArgumentError(
                f"global_pool: '' needs num_classes=0 (a classifier reads a pooled vector), "
                f"got num_classes={self.num_classes}"
            )
        if not isinstance(self.bn_eps, float) or not 0 < self.bn_eps <= 1:
            raise ArgumentError(
                f"bn_eps: expected a number above 0, at most 1, got {self.bn_eps!r}"
            )
        if not isinstance(self.attn_after_act, bool):
            raise ArgumentError(
                f"attn_after_act: expected True or False, got {self.attn_after_act!r}"
            )
        if not isinstance(self.attn_kwargs, Mapping):
            raise ArgumentError(
                f"attn_kwargs: expected a dict of options, got {self.attn_kwargs!r}"
            )
        if self.attn_kwargs and self.attn_layer is None:
            raise ArgumentError(
                f"attn_kwargs: expected an attn_layer with them, got {self.attn_kwargs!r} alone"
            )
        options = {
            key: _spelled(value) if key in ("act_layer", "gate_layer") else value
            for key, value in self.attn_kwargs.items()
        }
        object.__setattr__(self, "attn_kwargs", options)
        for block in expand(self):
            if block.in_chs % block.groups or block.out_chs % block.groups:
                raise ArgumentError(
                    f"groups: {block.groups} does not divide the {block.in_chs} → {block.out_chs} "
                    f"channels of {block.name}"
                )
            if block.attn_layer:
                attention.shapes(block.attn_layer, block.out_chs, block.attn_kwargs)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in JSON's types, but for the usual bn_eps; `weights.metadata` reads
        them.

        So the files of published networks have the bytes that they had before there was a choice.
        """
        usual = {"bn_eps"} if self.bn_eps == ops.BN_EPS else set()
        kept = {name: value for name, value in vars(self).items() if name not in usual}
        return {**kept, "attn_kwargs": dict(self.attn_kwargs)}

    @property
    def num_features(self) -> int:
        """Channels of the last feature map, and of the embedding before any concatenating pool."""
        return (self.stem_chs, *self.widths)[-1]

    @property
    def num_pooled_features(self) -> int:
        """Length of the pooled vector that the classifier reads."""
        return self.num_features * (2 if self.global_pool == "catavgmax" else 1)

    def with_changes(
        self, *, width_factor: float = 1.0, **changes: Unpack[ConfigFields]
    ) -> RepVGGConfig:
        """Return the configuration with some fields replaced; raise ArgumentError for an unknown
        field.

        width_factor scales the stem and every stage; stages round to a multiple of 8 as timm's
        `make_divisible` does.
        """
        known = {"width_factor", *(f.name for f in fields(self))}
        for name in changes:
            if name not in known:
                refuse_keyword(name, "a configuration", known)
        if (
            isinstance(width_factor, bool)
            or not isinstance(width_factor, int | float)
            or not 0 < width_factor <= MAX_WIDTH_FACTOR
        ):
            raise ArgumentError(
                f"width_factor: expected a number above 0, at most {MAX_WIDTH_FACTOR}, "
                f"got {width_factor!r}"
            )
        if changes.get("attn_layer", self.attn_layer) != self.attn_layer:
            changes.setdefault("attn_kwargs", {})
        config = replace(self, **dict[str, Any](changes))
        if width_factor == 1:
            return config
        return replace(
            config,
            stem_chs=round(config.stem_chs * width_factor),
            widths=tuple(
                attention.make_divisible(w * width_factor, 8, round_limit=0.9)
                for w in config.widths
            ),
        )


class ConfigFields(TypedDict, total=False):
    """The fields of `RepVGGConfig`, as the type of keywords that change some of them."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    groups: int
    stem_chs: int
    stem_stride: int
    in_chans: int
    num_classes: int
    global_pool: str
    output_stride: int
    act_layer: str
    attn_layer: str | None
    attn_kwargs: Mapping[str, Any]
    attn_after_act: bool
    bn_eps: float


class ConfigKeywords(ConfigFields, total=False):
    """What makes a configuration from a named one: its fields, and timm's `width_factor`."""

    width_factor: float


@dataclass(frozen=True)
class BlockSpec:
    """One block of an expanded configuration: act(attn(conv3×3 + conv1×1 + identity)).

    name: timm's module path, "stem" or "stages.0.1" and so on. The 3×3 kernel is padded by its
    dilation, the 1×1 kernel not at all, so the three branches see the same centre pixel.
    """

    name: str
    in_chs: int
    out_chs: int
    stride: int
    dilation: int
    groups: int
    identity: bool
    act_layer: str
    attn_layer: str | None
    attn_kwargs: Mapping[str, Any] = field(hash=False)
    attn_after_act: bool
    bn_eps: float = ops.BN_EPS


def expand(config: RepVGGConfig) -> tuple[BlockSpec, ...]:
    """Spell out the blocks of a configuration in the order of execution, the stem first.

    Groups: every second block of a stage, counted from 0 inside the stage, is grouped (timm). The
    original counts over the whole network from 1 after the stem and groups 2, 4 … 26; the two agree
    because every stage but the last has an even number of blocks in every published network.

    Dilation: a stage that would stride past `output_stride` keeps its size and multiplies the
    dilation by its stride instead. Its first block takes dilation 1 where the stage's is 1 or 2,
    and 2 where it is more; where that is not the stage's, the block has no identity branch (timm
    `create_byob_stages`, `RepVggBlock.use_ident`).
    """
    common = {
        name: getattr(config, name)
        for name in ("act_layer", "attn_layer", "attn_kwargs", "attn_after_act", "bn_eps")
    }
    in_chs, out_chs = config.in_chans, config.stem_chs
    identity = in_chs == out_chs and config.stem_stride == 1
    blocks = [BlockSpec("stem", in_chs, out_chs, config.stem_stride, 1, 1, identity, **common)]
    net_stride, dilation, in_chs = config.stem_stride, 1, out_chs
    for stage, (depth, out_chs, stage_stride) in enumerate(
        zip(config.depths, config.widths, config.strides, strict=True)
    ):
        stride = stage_stride
        if net_stride >= config.output_stride and stride > 1:
            dilation, stride = dilation * stride, 1
        net_stride *= stride
        first_dilation = 1 if dilation in (1, 2) else 2
        for index in range(depth):
            first = index == 0
            block_stride = stride if first else 1
            block_dilation = first_dilation if first else dilation
            blocks.append(
                BlockSpec(
                    name=f"stages.{stage}.{index}",
                    in_chs=in_chs,
                    out_chs=out_chs,
                    stride=block_stride,
                    dilation=block_dilation,
                    groups=config.groups if index % 2 else 1,
                    identity=in_chs == out_chs and block_stride == 1 and block_dilation == dilation,
                    **common,
                )
            )
            in_chs = out_chs
    return tuple(blocks)


def feature_info(config: RepVGGConfig) -> list[dict[str, Any]]:
    """List the maps that are worth tapping: the last one of each resolution, as timm lists them.

    Each entry has num_chs, reduction (input pixels per map pixel), module (timm's path of the block
    or stage), stage (0 for the stem) and block (index into `expand(config)`).
    """
    info: list[dict[str, Any]] = []
    last = {
        "num_chs": config.stem_chs,
        "reduction": config.stem_stride,
        "module": "stem",
        "stage": 0,
        "block": 0,
    }
    block, reduction = 0, config.stem_stride
    for stage, (depth, width, stride) in enumerate(
        zip(config.depths, config.widths, config.strides, strict=True)
    ):
        if stride != 1:
            info.append(last)
        if reduction < config.output_stride:
            reduction *= stride
        block += depth
        last = {
            "num_chs": width,
            "reduction": reduction,
            "module": f"stages.{stage}",
            "stage": stage + 1,
            "block": block,
        }
    info.append({**last, "module": "final_conv"})  # timm's name for the end: an identity here
    return info


# --- Rules and checks -----------------------------------------------------------------------------


_SPELLINGS = {
    "hardswish": "hard_swish", "hardsigmoid": "hard_sigmoid", "fast": "avg", "fastavg": "avg",
    "fastmax": "max", "fastavgmax": "avgmax", "fastcatavgmax": "catavgmax",
}  # fmt: skip
"""timm's other words for the same activations, and the same poolings."""


def _spelled(value: Any) -> Any:
    return _SPELLINGS.get(value, value) if isinstance(value, str) else value


def output_size(size: int, stride: int) -> int:
    """Size of a side after a 3×3 convolution padded by its dilation: ⌈size / stride⌉."""
    return ceil(size / stride)


def _integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{name}: expected an integer of at least {least}, got {value!r}")


def _positive_integers(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise ArgumentError(f"{name}: expected a tuple of integers, got {values!r}")
    for value in values:
        _integer(name, value, 1)
    return tuple(values)


def _one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ArgumentError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
