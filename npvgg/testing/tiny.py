"""Networks so small that a unit test in any language runs them: a few kB for each tensor.

Each has one of the things that ports get wrong. Their default image has an even side, so that a
stride of 2 with TensorFlow's SAME padding, which shifts by a pixel there, is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from npvgg.config import RepVGGConfig

_BASE = RepVGGConfig((2, 2), (8, 12), (1, 2), stem_chs=8, num_classes=5)

TINY: Mapping[str, RepVGGConfig] = MappingProxyType({
    "tiny": _BASE,
    "tiny_g2": _BASE.with_changes(groups=2),
    "tiny_se": _BASE.with_changes(
        attn_layer="se", attn_kwargs={"rd_ratio": 0.25, "rd_divisor": 1}
    ),
    "tiny_plus": _BASE.with_changes(
        attn_layer="se", attn_kwargs={"rd_ratio": 0.25, "rd_divisor": 1}, attn_after_act=True
    ),
    "tiny_dilated": RepVGGConfig(
        (1, 1, 3), (8, 8, 12), (2, 2, 2), stem_chs=8, num_classes=5, output_stride=8
    ),
})  # fmt: skip
"""Plain; grouped; squeeze-excite before the activation (D2se), after it (RepVGGplus); dilated."""

TINY_SEEDS: Mapping[str, int] = MappingProxyType({
    "tiny": 338, "tiny_g2": 338, "tiny_se": 2844, "tiny_plus": 2844, "tiny_dilated": 634
})  # fmt: skip
"""Seeds of their weights and noise, such that nothing is dead: found by trying 0, 1, 2 … until in
every block each channel had a positive number, some number was above 6, and of the hidden units of
squeeze-excite at least one was positive and one negative.
"""

TINY_SIZE = 18
"""Height and width of their images: 18 → 9 → 5, even and odd."""
