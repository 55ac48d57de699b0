"""The layout of the Hugging Face cache, and whether the network may be asked.

Source: huggingface.co/docs/hub/local-cache, which documents the layout for others to read.
"""

from __future__ import annotations

import os
from pathlib import Path

TRUE = ("1", "ON", "YES", "TRUE")


def cached_repository(cache: Path, repository: str) -> Path:
    """Return where the Hugging Face cache keeps a repository, owner/name."""
    return cache / f"models--{repository.replace('/', '--')}"


def offline() -> bool:
    """Whether the environment forbids the network, by the client's rules."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in TRUE
