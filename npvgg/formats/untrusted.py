"""What a reader of foreign bytes needs before it believes a name, a size, a shape.

Text from a file is shown quoted, escaped and cut; sizes are multiplied with a limit; and every
complaint about a file leaves as one `WeightsError` that begins with the file's name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath

from npvgg.errors import ArgumentError, WeightsError

MAX_BYTES = 4 * 2**30
"""Largest file or tensor read, in bytes: eight times the size of timm's repvgg_d2se."""

MAX_DIMS = 8
"""Most dimensions of a tensor; the field uses four."""

MAX_NAME = 1000
"""Longest name of a tensor, in characters: work on names may grow with the square of it."""


def shown(value: object, limit: int = 80) -> str:
    """Return what a stranger wrote, safe to print: quoted, on one line, about `limit` characters at
    most.

    Control characters, line ends, lone surrogates and the invisible or direction-changing
    characters of Unicode appear as escapes (`repr` escapes all that `str.isprintable` denies).
    Only texts, numbers and short rows of numbers are spelled out, of the rest the type is named:
    the `repr` of a structure can be deep, and that of an integer quadratic.
    """
    if isinstance(value, str | bytes):
        quoted = repr(value[:limit])
        cut = len(value) > limit or len(quoted) > limit + 3
        return quoted[:limit] + "…" + quoted[-1] if cut else quoted
    if isinstance(value, list | tuple) and len(value) <= MAX_DIMS + 1 and all(map(_short, value)):
        return repr(value)
    return repr(value) if _short(value) else f"a {type(value).__name__}"


def printable(text: str) -> str:
    """Return a text with escapes in place of what `str.isprintable` denies: control characters,
    line ends and their like.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _short(value: object) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value is None or isinstance(value, float)


def path_text(path: str | PathLike[str]) -> str:
    """Return a path as messages show it: plain where it is printable, quoted and escaped
    where not.
    """
    text = fspath(path) if isinstance(path, str | PathLike) else None
    if not isinstance(text, str):
        raise ArgumentError(f"path: expected str or os.PathLike of str, got {type(path).__name__}")
    return text if text.isprintable() else shown(text, limit=1000)


@contextmanager
def blaming(path: str | PathLike[str] | None) -> Iterator[None]:
    """Whatever goes wrong inside leaves as a `WeightsError` that begins with the path, once; None
    for what came from no file.
    """
    if path is None:
        yield
        return
    name = path_text(path)
    try:
        yield
    except WeightsError as error:
        said = str(error).startswith(f"{name}: ")
        raise WeightsError(str(error) if said else f"{name}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{name}: {error.strerror or error}") from error


def checked_numel(shape: Sequence[int], itemsize: int, what: str) -> int:
    """Return the number of elements of a shape from a file, which must be one that NumPy can hold.

        numel = Π shape        itemsize · Π max(size, 1) ≤ MAX_BYTES

    Zeros do not excuse the other sizes: NumPy itself refuses `[0, 2**62]`.
    Raises WeightsError, which names `what`.
    """
    if len(shape) > MAX_DIMS:
        raise WeightsError(f"{what}: expected at most {MAX_DIMS} dimensions, got {len(shape)}")
    span = itemsize
    for size in shape:
        if size < 0:
            raise WeightsError(f"{what}: expected sizes of 0 or more, got {shown(list(shape))}")
        span *= max(size, 1)
        if span > MAX_BYTES:
            raise WeightsError(
                f"{what}: expected at most {MAX_BYTES} bytes, got the shape {shown(list(shape))}"
            )
    return 0 if 0 in shape else span // itemsize
