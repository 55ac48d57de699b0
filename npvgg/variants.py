"""Every named network as one table row.

Sources: Ding et al., RepVGG, arXiv:2101.03697, tables 2 and 3; DingXiaoH/RepVGG `repvgg.py`
(`func_dict`) and `repvggplus.py`; timm `byobnet.py` (`_rep_vgg_bcfg`), which has no g2 rows and no
RepVGGplus.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from npvgg.config import RepVGGConfig
from npvgg.errors import ArgumentError

_A = (2, 4, 14, 1)
_B = (4, 6, 16, 1)
_D = (8, 14, 24, 1)

# The stem is min(64, int(64·a)) wide: 48 for A0 and 64 for all others, so A2 starts at 64, not 96.
# repvgg_nano is npvgg's own, for 32×32 images: its weights ship in the package.
# SE squeezes to a 16th before the activation in D2se, to a quarter after it in RepVGGplus ("pse").
VARIANTS: Mapping[str, RepVGGConfig] = MappingProxyType({
    "repvgg_nano": RepVGGConfig(
        (2, 4, 6, 1), (32, 64, 128, 256), (1, 2, 2, 2), stem_chs=32, stem_stride=1, num_classes=10
    ),
    "repvgg_a0": RepVGGConfig(_A, (48, 96, 192, 1280), stem_chs=48),
    "repvgg_a1": RepVGGConfig(_A, (64, 128, 256, 1280)),
    "repvgg_a2": RepVGGConfig(_A, (96, 192, 384, 1408)),
    "repvgg_b0": RepVGGConfig(_B, (64, 128, 256, 1280)),
    "repvgg_b1": RepVGGConfig(_B, (128, 256, 512, 2048)),
    "repvgg_b1g2": RepVGGConfig(_B, (128, 256, 512, 2048), groups=2),
    "repvgg_b1g4": RepVGGConfig(_B, (128, 256, 512, 2048), groups=4),
    "repvgg_b2": RepVGGConfig(_B, (160, 320, 640, 2560)),
    "repvgg_b2g2": RepVGGConfig(_B, (160, 320, 640, 2560), groups=2),
    "repvgg_b2g4": RepVGGConfig(_B, (160, 320, 640, 2560), groups=4),
    "repvgg_b3": RepVGGConfig(_B, (192, 384, 768, 2560)),
    "repvgg_b3g2": RepVGGConfig(_B, (192, 384, 768, 2560), groups=2),
    "repvgg_b3g4": RepVGGConfig(_B, (192, 384, 768, 2560), groups=4),
    "repvgg_d2se": RepVGGConfig(
        _D, (160, 320, 640, 2560),
        attn_layer="se", attn_kwargs={"rd_ratio": 1 / 16, "rd_divisor": 1},
    ),
    "repvggplus_l2pse": RepVGGConfig(
        _D, (160, 320, 640, 2560),
        attn_layer="se", attn_kwargs={"rd_ratio": 1 / 4, "rd_divisor": 1}, attn_after_act=True,
    ),
})  # fmt: skip
"""Every named network, by timm's spelling (the original's is accepted too: `canonical_name`)."""


def spelled(name: str) -> str:
    """Spell a name, or the beginning of one, as the table does, known or not."""
    return name.strip().lower().replace("-", "_")


def canonical_name(name: str) -> str:
    """Turn any accepted spelling into the table's: "RepVGG-A2" and "repvgg_a2" are the same
    network.

    Raises ArgumentError, with the nearest names, for a network that is not in the table.
    """
    if not isinstance(name, str):
        raise ArgumentError(
            f"name: expected the name of a network (str), got {type(name).__name__}"
        )
    canonical = spelled(name)
    if canonical not in VARIANTS:
        near = get_close_matches(canonical, VARIANTS, n=3)
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(VARIANTS)}"
        raise ArgumentError(f"name: expected a known network, got {name!r}; {hint}")
    return canonical
