"""Files of a hub repository brought into the Hugging Face cache, by the hub's own client.

The only module that reaches for the network, and only when it is asked for what is not there. The
client (huggingface_hub, the extra `[hub]`) knows tokens, mirrors, resuming and the layout of the
cache; what is added here are an end to waiting, a limit on sizes, one commit for all files, and one
WeightsError for everything that can go wrong.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npvgg.errors import WeightsError
from npvgg.formats.folder import CONFIG, PREFERRED, parts
from npvgg.formats.untrusted import MAX_BYTES, shown

_log = logging.getLogger("npvgg")

LOG_SECONDS = 10.0
"""Seconds between two messages on how far a download is."""

PATIENCE = 3
"""How many of the client's timeouts ($HF_HUB_DOWNLOAD_TIMEOUT, 10 s) may pass without a byte."""

TRUE = ("1", "ON", "YES", "TRUE")


def cached_repository(cache: Path, repository: str) -> Path:
    """Return where the Hugging Face cache keeps a repository, owner/name."""
    return cache / f"models--{repository.replace('/', '--')}"


def offline() -> bool:
    """Whether the environment forbids the network, by the client's rules."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in TRUE


def fetch(repository: str, revision: str, cache: Path, *, config: bool) -> Path:
    """Bring the weights of a repository, and its config.json if asked for, into the cache.

    Returns the folder of the commit they are of. Raises WeightsError, always within `PATIENCE`
    timeouts of the last byte that came.
    """
    client = _client(repository)
    quiet = client.utils.are_progress_bars_disabled()  # $HF_HUB_DISABLE_PROGRESS_BARS
    if not quiet:
        _log.info(f"fetching {repository} from the Hugging Face hub")
    work = _Fetch(client, repository, revision, cache)
    watch = _Watch(repository, PATIENCE * float(client.constants.HF_HUB_DOWNLOAD_TIMEOUT), quiet)
    return watch.over(lambda: work.bring_all(config), work.measure)


def _client(repository: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError:
        raise WeightsError(
            f"{repository}: not in the local cache, and there is no client to fetch it: "
            "`pip install huggingface_hub` (npvgg's extra [hub]), or fetch it by other means and "
            "pass its folder as weights="
        ) from None
    return huggingface_hub


class _Fetch:
    """One repository; from the first file on, all are of the commit that the first was of."""

    def __init__(self, client: Any, repository: str, revision: str, cache: Path) -> None:
        self.client, self.errors = client, client.utils
        self.repository, self.revision, self.cache = repository, revision, cache
        self.folder = cached_repository(cache, repository)
        self.answers = 0

    def measure(self) -> int:
        """How far it is: bytes in the cache, and one for each answer."""
        return _bytes_below(self.folder) + self.answers

    def bring_all(self, config: bool) -> Path:
        """Bring config.json if asked for, the weights, and whatever an index joins."""
        if config:
            self.bring([CONFIG])
        weights = self.bring(PREFERRED)
        for part in parts(weights):
            self.bring([part])
        return weights.parent

    def bring(self, names: Sequence[str]) -> Path:
        """The first of some files that the repository has. Raises WeightsError."""
        for name in names:
            try:
                return self._bring(name)
            except self.errors.LocalEntryNotFoundError as error:
                raise WeightsError(self._reason(error)) from None
            except self.errors.EntryNotFoundError:
                self.answers += 1
            except WeightsError:
                raise
            except Exception as error:  # whatever the client and its transports raise
                raise WeightsError(self._reason(error)) from None
        missing = names[0] if len(names) == 1 else f"weights ({', '.join(names[:3])}, …)"
        raise WeightsError(f"{self.repository}: expected {missing} in the repository, got none")

    def _bring(self, name: str) -> Path:
        url = self.client.hf_hub_url(self.repository, name, revision=self.revision)
        timeout = self.client.constants.HF_HUB_ETAG_TIMEOUT
        size = self.client.get_hf_file_metadata(url, timeout=timeout).size  # fails fast
        if size is not None and size > MAX_BYTES:
            raise WeightsError(
                f"{self.repository}: {name}: expected at most {MAX_BYTES} bytes, got {size}"
            )
        path = Path(
            self.client.hf_hub_download(
                self.repository, name, revision=self.revision, cache_dir=str(self.cache)
            )
        )
        self.revision = path.parent.name
        return path

    def _reason(self, error: Exception) -> str:
        """What went wrong, and what to do."""
        who = self.repository
        if isinstance(error, self.errors.GatedRepoError):
            return f"{who}: gated: accept its terms on its page, then log in with `hf auth login`"
        if isinstance(error, self.errors.RepositoryNotFoundError):
            return f"{who}: no such repository, or a private one: log in with `hf auth login`"
        if isinstance(error, self.errors.RevisionNotFoundError):
            return f"{who}: expected a branch, tag or commit, got {shown(self.revision)}"
        words = shown(f"{type(error).__name__}: {error}".split("\n")[0], 300)[1:-1]
        return f"{who}: cannot be fetched: {words}"


# --- An end to waiting ----------------------------------------------------------------------------


@dataclass
class _Watch:
    """Waits for work in another thread, for as long as bytes come."""

    what: str
    patience: float
    quiet: bool

    def over(self, work: Callable[[], Path], measure: Callable[[], int]) -> Path:
        """Do the work for as long as what is measured grows. Raises WeightsError.

        A server that goes silent, one that begins again and again, a lock that is never let go: in
        none of them does the cache become larger than it was. The thread is then left behind (a
        daemon, which ends with the process).
        """
        done: list[Path | WeightsError] = []

        def run() -> None:
            try:
                done.append(work())
            except (WeightsError, OSError) as error:
                done.append(WeightsError(str(error)))

        thread = threading.Thread(target=run, name="npvgg-fetch", daemon=True)
        thread.start()
        self._until_ended(thread, measure)
        result = done[0] if done else WeightsError(f"{self.what}: cannot be fetched")
        if isinstance(result, WeightsError):
            raise WeightsError(str(result))
        return result

    def _until_ended(self, thread: threading.Thread, measure: Callable[[], int]) -> None:
        begin = largest = measure()
        grown = said = time.monotonic()
        while thread.is_alive():
            thread.join(0.1)
            size, now = measure(), time.monotonic()
            if size < begin:  # what an earlier try had left is gone
                begin, largest, grown = size, size, now
            if size > largest:
                largest, grown = size, now
            if now - grown > self.patience:
                raise WeightsError(
                    f"{self.what}: cannot be fetched: nothing new came in {self.patience:g} s"
                )
            if size - begin > 2 * MAX_BYTES:
                raise WeightsError(f"{self.what}: expected at most {MAX_BYTES} bytes, got more")
            silent = self.quiet or os.isatty(2)  # on a terminal the client draws bars
            if now - said > LOG_SECONDS and not silent:
                _log.info(f"fetched {(size - begin) / 1e6:.1f} MB so far")
                said = now


def _bytes_below(folder: Path) -> int:
    """The size of all files below a folder; links count for nothing, nor do files that vanish."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
