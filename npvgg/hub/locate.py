"""A pretrained tag or a hub repository → files on this machine.

    bundled    in the package
    cached     in the Hugging Face cache, read in place by its documented layout: a folder
               `models--<owner>--<name>`, in which `refs/<revision>` holds a commit and
               `snapshots/<commit>/` the files
    neither    fetched by the hub's client, unless $HF_HUB_OFFLINE forbids it

What is there is never asked for on the network, not even whether it is the latest.

Source: huggingface.co/docs/hub/local-cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats.folder import CONFIG, parts, weights_in
from npvgg.hub.cache import cached_repository, offline
from npvgg.hub.pretrained import PRETRAINED

ASSETS = Path(__file__).parent.parent / "assets"

_REPOSITORY = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*/[0-9A-Za-z][0-9A-Za-z._-]*")
_REVISION = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]*(/[0-9A-Za-z_-][0-9A-Za-z._-]*)*")


def locate(tag: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Find the weights of a pretrained tag: bundled, else cached, else fetched.

    cache: the cache's folder, in place of `cache_folder()`
    Raises WeightsError that says how to get the file where it cannot be had.
    """
    cfg = PRETRAINED[tag]
    if "bundled" in cfg:
        return ASSETS / str(cfg["bundled"])
    return weights_in(obtain(str(cfg["hf_hub_id"]), config=False, cache=cache))


def split_revision(text: str) -> tuple[str, str]:
    """Split "owner/name@revision" into repository and revision, "main" if there is none.

    Raises ArgumentError.
    """
    repository, at, revision = text.partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise ArgumentError(f"name: expected hf-hub:owner/name[@revision], got {text!r}")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ArgumentError(f"name: expected a branch, tag or commit after @, got {revision!r}")
    return repository, revision or "main"


def obtain(
    repository: str,
    revision: str = "main",
    *,
    config: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the folder with a repository's weights, and its config.json if that is needed.

    From the cache, where all of it is there, else from the hub. Raises WeightsError.
    """
    place = cache_folder() if cache is None else Path(cache)
    if cached := find_cached(repository, revision, config=config, cache=place):
        return cached
    if offline():
        pinned = revision != "main"
        name = f"{repository}@{revision}" if pinned else repository
        command = f"hf download {repository}" + (f" --revision {revision}" if pinned else "")
        raise WeightsError(
            f"{name}: not in the Hugging Face cache ({place}), and HF_HUB_OFFLINE "
            f"(or TRANSFORMERS_OFFLINE) is set: unset it, or run `{command}` where there is a "
            "network, or pass weights=<a file or folder>"
        )
    from npvgg.hub.client import fetch  # what is cached needs no client

    return fetch(repository, revision, place, config=config)


def find_cached(
    repository: str, revision: str = "main", *, config: bool = False, cache: Path | None = None
) -> Path | None:
    """Find the folder of a cached commit that has all that is needed to load it, or None."""
    folder = cached_repository(cache or cache_folder(), repository)
    commit = revision
    reference = folder / "refs" / revision
    try:
        if reference.is_file():
            commit = reference.read_text(encoding="ascii").strip()
        if not re.fullmatch(r"[0-9A-Za-z._-]+", commit) or set(commit) == {"."}:
            return None  # a reference is a commit's name; anything else must not become a path
        snapshot = folder / "snapshots" / commit
        needed = [CONFIG] if config else []
        needed += parts(weights_in(snapshot))
        return snapshot if all((snapshot / name).is_file() for name in needed) else None
    except (OSError, UnicodeDecodeError, WeightsError):
        return None


def cache_folder() -> Path:
    """Return the hub's cache folder by its client's rules: $HF_HUB_CACHE, $HF_HOME/hub,
    ~/.cache/huggingface/hub.
    """
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return _expanded(folder)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(os.environ.get("HF_HOME") or f"{base}/huggingface") / "hub"


def _expanded(folder: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(folder)))
