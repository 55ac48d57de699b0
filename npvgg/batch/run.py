"""The folder of a run: planned once, whole or not at all; then opened by whoever works on it.

RUN/inputs.parquet        the photos: id, path, size, stamp, where they are; a row group a shard
RUN/run.json              what was asked for, and the identity
RUN/shards/00012.parquet  the rows of a shard; the file is there when the shard is done
RUN/errors.parquet        at the end: the rows that failed
RUN/summary.json          at the end: counts, rates, versions
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from npvgg.batch import guests
from npvgg.batch.sources import Entry
from npvgg.batch.spec import Spec, plain
from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats import jsontext
from npvgg.formats.files import atomic_write, new_folder, open_regular, sync

FORMAT = 1
INPUTS, PLAN, SHARDS, ERRORS, SUMMARY = (
    "inputs.parquet", "run.json", "shards", "errors.parquet", "summary.json",
)  # fmt: skip

MAX_SHARDS = 100_000
"""The number of a shard has five digits, and a folder is listed in a moment."""

MAX_PLAN = 16 * 2**20
"""Largest run.json, in bytes: it holds the arguments, of which a command line has 2 MiB."""

_SHARD = re.compile(r"([0-9]{5})\.parquet")

KINDS = {
    "photos": int, "shard_size": int, "inputs": str, "base": str, "sources": dict, "spec": dict,
    "options": dict, "identity": dict,
}  # fmt: skip
"""What a plan holds, beside its format."""

MAX_SHARD_SIZE = 100_000
"""The rows of a shard are held in memory: with 2560 numbers each, so many take 1 GB."""

MAX_BATCH_SIZE = 4096
"""Photos at once: of 224 × 224 pixels, their inputs alone take 2.5 GB."""


@dataclass(frozen=True)
class Run:
    """A run that has been planned; `Run.open` and `plan` give one.

    plan: what run.json holds
    """

    folder: Path
    plan: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """Open the run in a folder. Raises ArgumentError where there is none, or it is damaged."""
        path = Path(folder) / PLAN
        try:
            with open_regular(path) as file:
                plan = jsontext.parse_object(file.read(MAX_PLAN + 1), "", MAX_PLAN)
        except OSError as error:
            raise ArgumentError(f"run: {str(path)!r}: {error.strerror or error}") from None
        except WeightsError as error:
            raise ArgumentError(f"run: {str(path)!r}: {error}") from None
        if plan.get("format") != FORMAT:
            raise ArgumentError(f"run: {str(path)!r}: not the plan of a run by this npvgg")
        run = cls(Path(folder), plan)
        try:
            run.check_plan()
        except ArgumentError as error:
            raise ArgumentError(f"run: {str(path)!r}: {error}") from None
        return run

    def check_plan(self) -> None:
        """Raise ArgumentError where an entry of the plan is not what `plan` writes."""
        for name, kind in KINDS.items():
            if type(self.plan.get(name)) is not kind:
                raise ArgumentError(
                    f"{name}: expected {kind.__name__}, got {self.plan.get(name)!r:.50}"
                )
        if not 0 < self.plan["shard_size"] <= MAX_SHARD_SIZE:
            raise ArgumentError(
                f"shard_size: expected 1 … {MAX_SHARD_SIZE}, got {self.plan['shard_size']}"
            )
        _check_count(self.photos, self.plan["shard_size"])
        for name, kind in {"weights": str, "versions": dict}.items():
            if not isinstance(self.identity.get(name), kind):
                raise ArgumentError(f"identity.{name}: expected {kind.__name__}")
        options = self.plan["options"]
        size = options.get("batch_size")
        if size is not None and not (type(size) is int and 0 < size <= MAX_BATCH_SIZE):
            raise ArgumentError(
                f"options.batch_size: expected 1 … {MAX_BATCH_SIZE}, got {size!r:.50}"
            )
        if type(rate := options.get("max_failure_rate")) not in (int, float, type(None)):
            raise ArgumentError(f"options.max_failure_rate: expected a number, got {rate!r:.50}")
        _ = self.spec

    @cached_property
    def spec(self) -> Spec:
        """What becomes of a photo."""
        return Spec.of(self.plan["spec"])

    @property
    def photos(self) -> int:
        """How many photos there are."""
        return int(self.plan["photos"])

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.photos // int(self.plan["shard_size"]))

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the bits of the rows, beside the list of photos."""
        return dict(self.plan["identity"])

    def size(self, number: int) -> int:
        """Return how many photos a shard has."""
        size = int(self.plan["shard_size"])
        return min(size, self.photos - number * size)

    def shard(self, number: int) -> Path:
        """Return the path of a shard's file."""
        return self.folder / SHARDS / f"{number:05d}.parquet"

    def done(self) -> set[int]:
        """Return the numbers of the shards whose file is there."""
        try:
            names = os.listdir(self.folder / SHARDS)
        except OSError as error:
            raise ArgumentError(f"run: {str(self.folder / SHARDS)!r}: {error.strerror}") from None
        found = {int(match[1]) for name in names if (match := _SHARD.fullmatch(name))}
        return {number for number in found if number < self.shards}

    def check_inputs(self) -> None:
        """Raise ArgumentError where the list of photos is not the one that was planned."""
        path = self.folder / INPUTS
        try:
            found = file_digest(path)
        except OSError as error:
            raise ArgumentError(f"run: {str(path)!r}: {error.strerror}") from None
        if found != self.plan["inputs"]:
            raise ArgumentError(
                f"inputs: {str(path)!r} is not the list that the run was planned with"
            )

    def entries(self, number: int) -> list[tuple[int, Entry]]:
        """Read the photos of a shard, with their numbers."""
        pa, pq = guests.arrow()
        path = self.folder / INPUTS
        try:
            with open_regular(path) as file:
                inputs = pq.ParquetFile(file)
                groups, schema = inputs.num_row_groups, inputs.schema_arrow
                if groups != self.shards or not schema.equals(_schema()):
                    raise ArgumentError(f"inputs: {str(path)!r} is not the list of this run")
                group = inputs.read_row_group(number, use_threads=False)
                group.validate(full=True)
                table = group.to_pydict()
        except (OSError, pa.ArrowException, UnicodeError) as error:
            raise ArgumentError(f"inputs: {str(path)!r} cannot be read: {error}") from None
        ids, names = table.pop("id"), table.pop("raw")
        first = number * int(self.plan["shard_size"])
        if ids != list(range(first, first + self.size(number))) or None in table["path"]:
            raise ArgumentError(f"inputs: {str(path)!r} is not the list of this run")
        entries = [Entry(*row) for row in zip(*(table[f] for f in Entry._fields), strict=True)]
        return [
            (id, entry if name is None else entry._replace(path=os.fsdecode(name)))
            for id, entry, name in zip(ids, entries, names, strict=True)
        ]

    def failed(self, numbers: Iterable[int]) -> dict[int, int]:
        """Count the failed rows of shards that are done: number → count, where there are any."""
        found = {number: self._errors(number) for number in numbers}
        return {number: count for number, count in found.items() if count}

    def _errors(self, number: int) -> int:
        """Count the failed rows of a shard: those that have an error."""
        column = self.rows(number, ["error"]).column(0)
        return len(column) - int(column.null_count)

    def rows(self, number: int, columns: Sequence[str] | None = None) -> Any:
        """Read (some columns of) a shard, as a pyarrow Table. Raises ArgumentError."""
        pa, pq = guests.arrow()
        path = self.shard(number)
        try:
            with open_regular(path) as file:
                parquet = pq.ParquetFile(file)
                schema = parquet.schema_arrow
                for name in columns or schema.names:
                    if schema.names.count(name) != 1 or not _is_column(name, schema.field(name)):
                        raise ArgumentError(
                            f"run: {str(path)!r}: expected a column {name} of a run"
                        )
                if parquet.metadata.num_rows != self.size(number):
                    raise ArgumentError(
                        f"run: {str(path)!r}: expected {self.size(number)} rows, got "
                        f"{parquet.metadata.num_rows}"
                    )
                rows = parquet.read(columns, use_threads=False)
                rows.validate(full=True)  # texts are UTF-8, lists lie inside their numbers
                return rows
        except (OSError, pa.ArrowException, UnicodeError) as error:
            raise ArgumentError(
                f"run: {str(path)!r} cannot be read: {error}; the shard is computed again once the "
                "file is removed"
            ) from None

    def finish(self, rates: Mapping[str, float]) -> int:
        """Write errors.parquet and summary.json of a run whose shards are all done; return how many
        rows failed. Raises OSError, ArgumentError.

        rates: what was measured, for the summary
        """
        pa, pq = guests.arrow()
        kinds = [("id", pa.int64()), ("path", pa.string()), ("error", pa.string())]
        tables = [pa.schema(kinds).empty_table()]
        for number in self.failed(range(self.shards)):
            rows = self.rows(number, [name for name, _ in kinds])
            tables.append(rows.filter(rows["error"].is_valid()).replace_schema_metadata(None))
        errors = pa.concat_tables(tables)
        sink = pa.BufferOutputStream()
        pq.write_table(errors, sink, compression="zstd")
        failed = int(errors.num_rows)
        summary = {
            "photos": self.photos,
            "ok": self.photos - failed,
            "failed": failed,
            "failure_rate": failed / self.photos,
            "shards": self.shards,
            "rates": dict(rates),
            "weights": self.identity["weights"],
            "versions": self.identity["versions"],
        }
        atomic_write(self.folder / ERRORS, memoryview(sink.getvalue()), overwrite=True)
        atomic_write(self.folder / SUMMARY, _json(summary), overwrite=True)
        self._sweep()
        return failed

    def _sweep(self) -> None:
        """Remove what killed writers left behind; a shard that is there needs no more writing."""
        for path in (self.folder / SHARDS).glob(".*.tmp"):
            with suppress(OSError):
                path.unlink()


def plan(
    folder: str | os.PathLike[str],
    entries: Iterable[Entry],
    *,
    spec: Spec,
    identity: Mapping[str, Any],
    sources: Mapping[str, Any],
    shard_size: int = 5000,
    options: Mapping[str, Any] | None = None,
) -> Run:
    """Make a run: list its photos, cut them into shards, write it down. All of it appears in one
    step; where another process was faster, its run is the one that counts.

    folder: a new or an empty one
    entries: as `sources.listed` gives them
    spec, identity: resolved, and the identity that it gives
    sources: what was asked for, so that asking for something else can be refused
    options: defaults for those who go on with the run

    Raises ArgumentError, OSError.
    """
    target = Path(os.path.realpath(folder))  # a link is followed, not replaced
    if (target / PLAN).exists():  # somebody was faster
        return Run.open(folder)
    if os.path.lexists(target) and not (target.is_dir() and not os.listdir(target)):
        raise ArgumentError(
            f"output: expected a new folder, an empty one or a run, got {os.fspath(folder)!r}"
        )
    if not 0 < shard_size <= MAX_SHARD_SIZE:
        raise ArgumentError(f"shard_size: expected 1 … {MAX_SHARD_SIZE}, got {shard_size}")
    try:
        os.makedirs(target.parent, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"output: {os.fspath(folder)!r}: {error.strerror}") from None
    try:
        with new_folder(target) as temporary:
            (temporary / SHARDS).mkdir()
            photos = _write_inputs(temporary / INPUTS, entries, shard_size)
            _check_count(photos, shard_size)
            written = {
                "format": FORMAT,
                "photos": photos,
                "shard_size": shard_size,
                "inputs": file_digest(temporary / INPUTS),
                "base": os.getcwd(),
                "sources": dict(sources),
                "spec": spec.as_dict(),
                "options": dict(options or {}),
                "identity": dict(identity),
            }
            atomic_write(temporary / PLAN, _json(written))
    except OSError:
        if not (target / PLAN).exists():  # or somebody was faster
            raise
    return Run.open(folder)


def _check_count(photos: int, shard_size: int) -> None:
    if photos < 1:
        raise ArgumentError("source: expected at least one photo, found none")
    if photos > MAX_SHARDS * shard_size:
        raise ArgumentError(
            f"shard_size: expected at least {-(-photos // MAX_SHARDS)} for {photos} photos, got "
            f"{shard_size}"
        )


def described(
    arguments: Sequence[str], files_from: str | None, column: str | None
) -> dict[str, Any]:
    """Say what was asked for, whatever the folder it was asked from: the `sources` of `plan`.

    Raises ArgumentError where the list of files cannot be read.
    """
    sources: dict[str, Any] = {
        "arguments": [a if "://" in a else os.path.abspath(a) for a in arguments],
        "column": column,
        "files_from": None,
    }
    if files_from is not None:
        try:
            sources["files_from"] = file_digest(Path(files_from))
        except OSError as error:
            reason = error.strerror or error
            raise ArgumentError(f"files_from: {files_from!r}: {reason}") from None
    return plain(sources)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _write_inputs(path: Path, entries: Iterable[Entry], shard_size: int) -> int:
    """Write the list, a row group for each shard, as it comes; return how many there are."""
    pa, pq = guests.arrow()
    schema = _schema()
    count = 0
    remaining = iter(entries)
    # by an open file: pyarrow takes some paths for URLs, and knows no names that are not UTF-8
    with open(path, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := list(islice(remaining, shard_size)):
            columns = dict(zip(Entry._fields, map(list, zip(*some, strict=True)), strict=True))
            columns["id"] = list(range(count, count + len(some)))
            columns["raw"] = [None if _is_text(p) else os.fsencode(p) for p in columns["path"]]
            columns["path"] = [_shown(p) for p in columns["path"]]
            table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
            writer.write_table(table, row_group_size=shard_size)
            count += len(some)
            _check_count(count, shard_size)
    with open(path, "rb") as written:
        sync(written.fileno())
    return count


def _schema() -> Any:
    """Return the columns of the list of photos."""
    pa, _ = guests.arrow()
    return pa.schema([
        ("id", pa.int64()), ("path", pa.string()), ("size", pa.int64()), ("stamp", pa.string()),
        ("container", pa.string()), ("offset", pa.int64()), ("column", pa.string()),
        ("raw", pa.binary()),  # a path that is no UTF-8, which `path` shows with escapes
    ])  # fmt: skip


COLUMNS = {
    "id": ("int64",), "path": ("string",), "status": ("string",), "error": ("string",),
    "width": ("int32",), "height": ("int32",), "notes": ("list<element: string>",),
    "top_index": ("list<element: int32>",), "top_label": ("list<element: string>",),
    "top_prob": ("list<element: float>",),
    "embedding": ("list<element: float>", "list<element: halffloat>"),
}  # fmt: skip
"""The columns of a shard, and the types that each may have."""


def _is_column(name: str, field: Any) -> bool:
    return str(field.type).replace("item: ", "element: ") in COLUMNS.get(name, ())


def _is_text(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= c <= "\udfff" for c in path)


def _shown(path: str) -> str:
    return path if _is_text(path) else path.encode(errors="backslashreplace").decode()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()  # all in ASCII: names may be no UTF-8


def numbers(run: Run, part: tuple[int, int] = (1, 1)) -> Iterator[int]:
    """Return the numbers of the shards of part I of N: every N-th, from the I-th on, from 1."""
    first, step = part
    return iter(range(first - 1, run.shards, step))
