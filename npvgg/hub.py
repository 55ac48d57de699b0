"""A pretrained tag → a local file: shipped with the package, or already in the Hugging Face cache.

Nothing here touches the network. The cache is read in place, by its documented layout
(huggingface.co/docs/hub/local-cache): `models--<owner>--<name>/refs/<revision>` holds a commit,
`snapshots/<commit>/` the files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from npvgg.errors import WeightsError
from npvgg.pretrained import PRETRAINED

ASSETS = Path(__file__).parent / "assets"
WEIGHTS_FILE = "model.safetensors"


def locate(tag: str) -> Path:
    """Find the weights of a pretrained tag on this machine: bundled, else cached.

    Raises WeightsError that says how to get the file where it is not there.
    """
    cfg = PRETRAINED[tag]
    if "bundled" in cfg:
        return ASSETS / str(cfg["bundled"])
    repository = str(cfg["hf_hub_id"])
    cached = find_cached(repository)
    if cached is None:
        raise WeightsError(
            f"pretrained: {tag} is neither in the package nor in the Hugging Face cache "
            f"({cache_folder()}); fetch it with "
            f"`huggingface-cli download {repository} {WEIGHTS_FILE}`, or pass weights=<its path>"
        )
    return cached


def find_cached(repository: str, revision: str = "main") -> Path | None:
    """Find `model.safetensors` of a hub repository in the local cache, or None."""
    folder = cache_folder() / f"models--{repository.replace('/', '--')}"
    commit = revision
    reference = folder / "refs" / revision
    try:
        if reference.is_file():
            commit = reference.read_text(encoding="ascii").strip()
        if not re.fullmatch(r"[0-9A-Za-z._-]+", commit) or set(commit) == {"."}:
            return None  # a reference is a commit's name; anything else must not become a path
        path = folder / "snapshots" / commit / WEIGHTS_FILE
        return path if path.is_file() else None
    except (OSError, UnicodeDecodeError):
        return None


def cache_folder() -> Path:
    """Give the hub's cache folder by its client's rules: $HF_HUB_CACHE, $HF_HOME/hub,
    ~/.cache/huggingface/hub.
    """
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return _expanded(folder)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(os.environ.get("HF_HOME") or f"{base}/huggingface") / "hub"


def _expanded(folder: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(folder)))
