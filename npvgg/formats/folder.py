"""A folder of a repository, and which of its files are the weights.

timm and transformers save a model as a folder, config.json beside the weights; the hub's cache and
`git clone` give such folders as well. Several files may hold the same weights: the first of a fixed
list is taken, safetensors before the rest. What is not on the list is taken only where there is no
choice.

Source: timm 1.0.31 `models/_hub.py` `load_state_dict_from_path`; transformers adds the indices.
"""

from __future__ import annotations

from pathlib import Path

from npvgg.errors import WeightsError
from npvgg.formats.sharded import MAX_INDEX, parse
from npvgg.formats.untrusted import shown

CONFIG = "config.json"

PREFERRED = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pth", "model.pth",
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth",
)  # fmt: skip
"""Where weights usually are, in the order in which they are looked for."""

SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".bin")
INDEX_SUFFIX = ".index.json"


def weights_in(folder: Path) -> Path:
    """Return the file of a folder that holds the weights, or the index of several.

    Raises WeightsError where there is none, or one cannot tell which; OSError.
    """
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    if (folder / "data.pkl").is_file():
        raise WeightsError(
            "expected a file of weights, got the parts of a .pth that was unpacked: pack it again, "
            f"`zip -0 -r weights.pth {shown(folder.name)[1:-1]}` in the folder above"
        )
    for suffix in SUFFIXES:
        found = sorted(path for path in folder.glob(f"[!.]*{suffix}") if path.is_file())
        if len(found) > 1:
            names = ", ".join(shown(path.name) for path in found[:5])
            raise WeightsError(f"expected one file of weights, got {names}: name one of them")
        if found:
            return found[0]
    raise WeightsError(
        f"expected a file of weights ({PREFERRED[0]}, {PREFERRED[2]}, …) in this folder, got none"
    )


def parts(weights: Path) -> list[str]:
    """Return the names of the files that an index beside them joins; none for a file of weights.

    Raises WeightsError, OSError.
    """
    if not weights.name.endswith(INDEX_SUFFIX):
        return []
    with open(weights, "rb") as file:
        return sorted(set(parse(file.read(MAX_INDEX + 1)).values()))
