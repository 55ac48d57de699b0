"""The names of tensors: DingXiaoH's spelling ↔ timm's. Pure string functions.

    timm                      DingXiaoH/RepVGG              RepVGGplus
    stem.                     stage0.                       stage0.
    stages.{s}.{b}.           stage{s+1}.{b}.               stage{s+1}.blocks.{b}.
    stages.2.{b}.             stage3.{b}.                   stage3_first. / stage3_second.blocks.…
    conv_kxk.conv. / .bn.     rbr_dense.conv. / .bn.        as left
    conv_1x1.conv. / .bn.     rbr_1x1.conv. / .bn.          as left
    identity.                 rbr_identity.                 as left
    reparam_conv.             rbr_reparam.                  as left
    attn.fc1. / attn.fc2.     se.down. / se.up.             post_se.down. / post_se.up.
    head.fc.                  linear.                       linear.

npvgg speaks timm's names inside. The third stage of RepVGGplus is cut in the middle, so translating
its names takes the number of blocks in the first half.

Sources: timm `byobnet.py`; DingXiaoH/RepVGG `repvgg.py`, `repvggplus.py`, `se_block.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from npvgg.errors import WeightsError
from npvgg.formats.untrusted import shown

_PARTS = {
    "rbr_dense.conv.": "conv_kxk.conv.",
    "rbr_dense.bn.": "conv_kxk.bn.",
    "rbr_1x1.conv.": "conv_1x1.conv.",
    "rbr_1x1.bn.": "conv_1x1.bn.",
    "rbr_identity.": "identity.",
    "rbr_reparam.": "reparam_conv.",
    "se.down.": "attn.fc1.",
    "se.up.": "attn.fc2.",
    "post_se.down.": "attn.fc1.",
    "post_se.up.": "attn.fc2.",
}
_PLACE = re.compile(
    r"stage(0|[1-9]\d?)(_first|_second)?\.(?:(?:blocks\.)?(0|[1-9]\d{0,2})\.)?(.*)", re.DOTALL
)
MAX_PREFIXES = 8
"""Most places in which networks are looked for in one file."""

_AUXILIARY = re.compile(r"stage(1|2|3_first)_aux\.[03]\.")

PREFIXES = ("model.", "encoder.")
"""What Lightning and libraries for segmentation put before every name."""

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch's DistributedDataParallel, compile, FullyShardedDataParallel and checkpoint_wrapper
put in a path wherever a module is wrapped; no layer of a RepVGG is called so."""

_COUNTERS = {"num_batches_tracked", "total_ops", "total_params"}
_FEATURES = re.compile(r"stages_(\d)\.")
_START = re.compile(r"(?<![^.])(?:stem|stages[._]\d|stage0|head\.fc)\.")


def naming(names: Iterable[str]) -> str:
    """Return whose spelling a file uses, "timm" or "original", from its names.

    Raises WeightsError where they are neither's; it names the prefix before a RepVGG's names.
    """
    names = list(names)
    if any(name.startswith(("stem.", "stages.", "stages_", "head.fc.")) for name in names):
        return "timm"
    if any(name.startswith(("stage0.", "linear.")) for name in names):
        return "original"
    sample = ", ".join(shown(name, 60) for name in names[:3]) or "no tensors at all"
    raise WeightsError(
        "weights: expected the tensor names of a RepVGG (timm: 'stem.conv_kxk.conv.weight'; "
        f"original: 'stage0.rbr_dense.conv.weight'), got {sample}{_prefix_hint(names)}"
    )


def prefixes(names: Iterable[str]) -> list[str]:
    """List what stands before a RepVGG's names, "student.", "teacher."; "" where nothing does.

    At most `MAX_PREFIXES`, in the order in which they come.
    """
    found: dict[str, None] = {}
    for name in names:
        if match := _START.search(name[:200]):
            found[name[: match.start()]] = None
            if len(found) == MAX_PREFIXES:
                break
    return list(found)


def _prefix_hint(names: Sequence[str]) -> str:
    """Say how the prefix that stands before some of the names is taken off, if there is one."""
    quoted = [shown(before, 200) for before in prefixes(names) if before]
    if not quoted:
        return ""
    others = f"; or {', '.join(quoted[1:])}" if quoted[1:] else ""
    return f"; to take what is below {quoted[0]}, pass prefix={quoted[0]} (--prefix){others}"


def form(names: Iterable[str]) -> str:
    """Return the form, "train" or "deploy", from timm's or the original's names."""
    return (
        "deploy" if any(".reparam_conv." in n or ".rbr_reparam." in n for n in names) else "train"
    )


def first_half(depths: Sequence[int]) -> int:
    """Blocks before the place where RepVGGplus cuts its third stage in two."""
    return depths[2] // 2 if len(depths) > 2 else 0


def strip_prefix(name: str) -> str:
    """Drop the wrappers from a path, and the prefixes from its front."""
    if not WRAPPERS.isdisjoint(parts := name.split(".")):
        name = ".".join([*(part for part in parts[:-1] if part not in WRAPPERS), parts[-1]])
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def is_training_only(name: str) -> bool:
    """Return the tensors that inference never reads: counters (of batches, of the models that
    torch's AveragedModel has seen, of the operations that thop has counted), and the auxiliary
    heads of RepVGGplus.

    By name, so that any other unknown tensor stays an error.
    """
    path, _, last = name.rpartition(".")
    counter = last in _COUNTERS if path else last in ("n_averaged", "total_ops", "total_params")
    return counter or bool(_AUXILIARY.match(name))


def to_timm(name: str, first_half: int = 0) -> str:
    """Translate the original's name to timm's; a name that is not the original's comes back
    unchanged.

    first_half: the number of blocks in `stage3_first` (RepVGGplus only)
    """
    if name.startswith("linear."):
        return "head.fc." + name.removeprefix("linear.")
    if name.startswith("stages_"):  # as timm's features_only=True spells it
        return _FEATURES.sub(r"stages.\1.", name, count=1)
    place = _PLACE.fullmatch(name)
    if place is None:
        return name
    stage, half, block, part = place.groups()
    for theirs, ours in _PARTS.items():
        if part.startswith(theirs):
            part = ours + part.removeprefix(theirs)
            break
    if stage == "0":
        return f"stem.{part}" if block is None else name
    if block is None:
        return name
    index = int(block) + (first_half if half == "_second" else 0)
    return f"stages.{int(stage) - 1}.{index}.{part}"


def to_original(name: str, *, plus_first_half: int | None = None) -> str:
    """Translate timm's name to the original's; `plus_first_half` chooses the RepVGGplus spelling.

    The inverse of `to_timm` on every name that has a counterpart; others come back unchanged.
    """
    if name.startswith("head.fc."):
        return "linear." + name.removeprefix("head.fc.")
    place = re.fullmatch(r"(?:stem|stages\.(\d+)\.(\d+))\.(.*)", name, re.DOTALL)
    if place is None:
        return name
    stage, block, part = place.groups()
    skip = "se." if plus_first_half is not None else "post_se."
    for theirs, ours in _PARTS.items():
        if part.startswith(ours) and not theirs.startswith(skip):
            part = theirs + part.removeprefix(ours)
            break
    if stage is None:
        return f"stage0.{part}"
    if plus_first_half is None:
        return f"stage{int(stage) + 1}.{block}.{part}"
    if stage != "2":
        return f"stage{int(stage) + 1}.blocks.{block}.{part}"
    index = int(block)
    if index < plus_first_half:
        return f"stage3_first.blocks.{index}.{part}"
    return f"stage3_second.blocks.{index - plus_first_half}.{part}"
