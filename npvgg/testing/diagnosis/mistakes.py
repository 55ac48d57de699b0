"""The catalogue of the mistakes that people make when they port RepVGG.

Three tables, by what is changed: the image, a block, the ending. Each entry is one small function
in one of the `mistaken_…` modules, with a sentence that says what was done, and advice how to mend
it. `diagnose` tries them all.
"""

from __future__ import annotations

from npvgg.testing.diagnosis.mistake import Mistake
from npvgg.testing.diagnosis.mistaken_blocks import BLOCKS
from npvgg.testing.diagnosis.mistaken_endings import ENDINGS, Ending
from npvgg.testing.diagnosis.mistaken_images import IMAGES, Image
from npvgg.testing.diagnosis.mistaken_kernels import KERNELS
from npvgg.testing.diagnosis.mistaken_norms import NORMS
from npvgg.testing.diagnosis.mistaken_numbers import NUMBERS
from npvgg.testing.diagnosis.mistaken_windows import WINDOWS
from npvgg.testing.diagnosis.recipe import Recipe

IMAGE_MISTAKES: tuple[Mistake[Image], ...] = tuple(IMAGES)
BLOCK_MISTAKES: tuple[Mistake[Recipe], ...] = (*NORMS, *KERNELS, *WINDOWS, *BLOCKS, *NUMBERS)
ENDING_MISTAKES: tuple[Mistake[Ending], ...] = tuple(ENDINGS)


def names() -> list[str]:
    """Return the names of all mistakes, sorted."""
    return sorted(
        [m.name for m in IMAGE_MISTAKES]
        + [m.name for m in BLOCK_MISTAKES]
        + [m.name for m in ENDING_MISTAKES]
    )
