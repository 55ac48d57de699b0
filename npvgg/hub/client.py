"""Files of a hub repository brought into the Hugging Face cache, by the hub's own client.

The only module that reaches for the network, and only when it is asked for what is not there. The
client (huggingface_hub, the extra `[hub]`) knows tokens, mirrors and how to resume; what is added
here are an end to waiting, a limit on sizes that holds while bytes come, one commit for all files,
names in the cache that no server chooses, and one WeightsError for everything that can go wrong.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from npvgg.errors import WeightsError
from npvgg.formats.files import atomic_write, sha256, sync
from npvgg.formats.folder import CONFIG, PREFERRED, parts
from npvgg.formats.untrusted import MAX_BYTES, shown
from npvgg.hub.cache import cached_repository

_log = logging.getLogger("npvgg")

LOG_SECONDS = 10.0
"""Seconds between two messages on how far a download is."""

PATIENCE = 3
"""How many of the client's timeouts ($HF_HUB_DOWNLOAD_TIMEOUT, 10 s) may pass without a byte."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    return watch.over(lambda: work.bring_all(config), work.progress)


def _client(repository: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError:
        raise WeightsError(
            f"{repository}: not in the local cache, and there is no client to fetch it: "
            "`pip install huggingface_hub` (npvgg's extra [hub]), or fetch it by other means and "
            "pass its folder as weights="
        ) from None
    return huggingface_hub


class Progress:
    """How far a download is, and the word that it was given up; two threads look at it."""

    def __init__(self) -> None:
        self.most = 0
        self.abandoned = False
        self.partial: Path | None = None

    def abandon(self) -> None:
        """End the transfer at its next piece, and remove what has come of the file."""
        self.abandoned = True
        if self.partial is not None:
            self.partial.unlink(missing_ok=True)


def _host(url: str) -> str:
    return url.split("/", 3)[2] if url.count("/") > 1 else url


class _Partial:
    """A file that is being fetched: what is written counts, and never exceeds a limit.

    It has what the client asks of a file: write, seek, tell, truncate, flush.
    """

    def __init__(self, file: BinaryIO, limit: int, what: str, progress: Progress) -> None:
        self._file, self._limit, self._what, self._progress = file, limit, what, progress
        self._begin = progress.most
        self.seek, self.tell = file.seek, file.tell
        self.truncate, self.flush = file.truncate, file.flush

    def write(self, piece: bytes) -> int:
        """Write a piece. Raises WeightsError beyond the limit, and after the end of waiting."""
        if self._progress.abandoned:
            raise WeightsError(f"{self._what}: was given up")
        end = self.tell() + len(piece)
        if end > self._limit:
            raise WeightsError(f"{self._what}: expected at most {self._limit} bytes, got more")
        self._progress.most = max(self._progress.most, self._begin + end)
        return self._file.write(piece)


class _Fetch:
    """One repository; from the first file on, all are of the commit that the first was of.

    Nothing that the server says becomes a path: names are those that were asked for, a commit is
    forty hexadecimal digits, and an ETag is compared with the contents where it is a SHA-256.
    """

    def __init__(self, client: Any, repository: str, revision: str, cache: Path) -> None:
        self.client, self.errors = client, client.utils
        self.repository, self.revision = repository, revision
        self.folder = cached_repository(cache, repository)
        self.progress = Progress()

    def bring_all(self, config: bool) -> Path:
        """Bring config.json if asked for, the weights, and whatever an index joins."""
        if config:
            self.bring([CONFIG])
        weights = self.bring(PREFERRED)
        for part in parts(weights):
            self.bring([part])
        return weights.parent

    def bring(self, names: Sequence[str]) -> Path:
        """Return the first of some files that the repository has. Raises WeightsError."""
        for name in names:
            try:
                return self._bring(name)
            except self.errors.LocalEntryNotFoundError as error:
                raise WeightsError(self._reason(error)) from None
            except self.errors.EntryNotFoundError:
                self.progress.most += 1
            except WeightsError:
                raise
            except Exception as error:  # whatever the client and its transports raise
                raise WeightsError(self._reason(error)) from None
        missing = names[0] if len(names) == 1 else f"weights ({', '.join(names[:3])}, …)"
        raise WeightsError(f"{self.repository}: expected {missing} in the repository, got none")

    def _bring(self, name: str) -> Path:
        what = f"{self.repository}: {name}"
        url = self.client.hf_hub_url(self.repository, name, revision=self.revision)
        timeout = self.client.constants.HF_HUB_ETAG_TIMEOUT
        said = self.client.get_hf_file_metadata(url, timeout=timeout)  # fails fast
        commit = said.commit_hash
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise WeightsError(f"{what}: expected a commit from the server, got {shown(commit)}")
        size = MAX_BYTES if said.size is None else said.size
        if size > MAX_BYTES:
            raise WeightsError(f"{what}: expected at most {MAX_BYTES} bytes, got {size}")
        path = self.folder / "snapshots" / commit / name
        if not path.is_file():
            self._transfer(said, url, path, size, what)
        if self.revision != commit:
            reference = self.folder / "refs" / self.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(reference, commit.encode(), overwrite=True)
        self.revision = commit
        return path

    def _transfer(self, said: Any, url: str, path: Path, size: int, what: str) -> None:
        """Fetch one file under a name of ours, and move it to its place once it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        headers = self.errors.build_hf_headers()
        if _host(url) != _host(said.location):
            headers.pop("authorization", None)  # another host than the one that was logged in to
        partial = path.parent / f".{secrets.token_hex(8)}.incomplete"
        self.progress.partial = partial
        try:
            with open(partial, "xb") as file:
                self.client.file_download.http_get(
                    said.location, _Partial(file, size, what, self.progress),
                    headers=headers, expected_size=said.size, displayed_filename=path.name,
                )  # fmt: skip
                file.flush()
                sync(file.fileno())
            etag = str(said.etag)
            if _SHA256.fullmatch(etag) and sha256(partial) != etag:
                raise WeightsError(f"{what}: expected the contents with the SHA-256 {etag}")
            if self.progress.abandoned:
                raise WeightsError(f"{what}: was given up")
            os.replace(partial, path)
        finally:
            self.progress.partial = None
            partial.unlink(missing_ok=True)

    def _reason(self, error: Exception) -> str:
        """Return what went wrong, and what to do."""
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

    def over(self, work: Callable[[], Path], progress: Progress) -> Path:
        """Do the work for as long as bytes come. Raises WeightsError.

        A server that goes silent, or begins again and again, does not get further than it was. The
        thread then ends with its next piece or timeout, and what came in part is removed.
        """
        done: list[Path | WeightsError] = []

        def run() -> None:
            try:
                done.append(work())
            except (WeightsError, OSError) as error:
                done.append(WeightsError(str(error)))

        thread = threading.Thread(target=run, name="npvgg-fetch", daemon=True)
        thread.start()
        try:
            self._until_ended(thread, progress)
        finally:
            if thread.is_alive():
                progress.abandon()
        result = done[0] if done else WeightsError(f"{self.what}: cannot be fetched")
        if isinstance(result, WeightsError):
            raise WeightsError(str(result))
        return result

    def _until_ended(self, thread: threading.Thread, progress: Progress) -> None:
        most = 0
        grown = said = time.monotonic()
        while thread.is_alive():
            thread.join(0.1)
            now = time.monotonic()
            if progress.most > most:
                most, grown = progress.most, now
            if now - grown > self.patience:
                raise WeightsError(
                    f"{self.what}: cannot be fetched: nothing new came in {self.patience:g} s"
                )
            silent = self.quiet or os.isatty(2)  # on a terminal the client draws bars
            if now - said > LOG_SECONDS and not silent:
                _log.info(f"fetched {most / 1e6:.1f} MB so far")
                said = now
