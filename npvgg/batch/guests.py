"""The packages that batch runs need and npvgg does not: imported here, late, with a clear error."""

from __future__ import annotations

from typing import Any

from npvgg.errors import ArgumentError


def arrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet. Raises ArgumentError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ArgumentError(_missing("pyarrow", "batch")) from None
    return pyarrow, pyarrow.parquet


def fsspec() -> Any:
    """Return fsspec with `fsspec.core`. Raises ArgumentError where it is not installed."""
    try:
        import fsspec.core
    except ImportError:
        raise ArgumentError(_missing("fsspec", "batch")) from None
    return fsspec


def distributed() -> Any:
    """Return dask.distributed. Raises ArgumentError where it is not installed."""
    try:
        import distributed
    except ImportError:
        raise ArgumentError(_missing("distributed", "dask")) from None
    return distributed


def ray() -> Any:
    """Return ray. Raises ArgumentError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise ArgumentError(_missing("ray", "ray")) from None
    return ray


def _missing(package: str, extra: str) -> str:
    return f"batch: expected {package} to be installed: pip install 'npvgg[{extra}]'"
