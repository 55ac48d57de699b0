"""Which of the tensors in a PyTorch file are the weights, and what lies beside them.

A checkpoint of a training run is a dict of dicts: several sets of weights, optimizers, options,
single tensors. A set of weights is a dict that holds tensors; one whose names are paths of modules,
"stem.conv.weight", goes before one whose names are single words, "mean".

What is searched is what the pickle made, and a pickle of some bytes can make much: one list that a
thousand dicts share has to be looked through a thousand times. So the steps are counted, and ended.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from npvgg.errors import WeightsError
from npvgg.formats.safetensorsfile import MAX_TENSORS, check_text
from npvgg.formats.torch.pickled import MAX_OPCODES
from npvgg.formats.torch.records import DICT, FROZENSET, SET, Name, Outside, Record, is_name
from npvgg.formats.torch.tensor import SCALARS, STORAGES, plain_tensor
from npvgg.formats.untrusted import MAX_NAME, shown

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training programs put the weights; the first that is there is taken, as timm does."""

MAX_WORK = 2 * MAX_OPCODES
"""Most entries of dicts looked at; timm's repvgg_d2se with optimizer and average has 10,000."""

MAX_NESTING = 3
"""How deep sets of weights are looked for: "a.b.c" is a dict in a dict in a dict."""

MAPPINGS = {
    DICT, Name("__builtin__", "dict"),
    Name("collections", "OrderedDict"), Name("collections", "defaultdict"),
}  # fmt: skip

Pairs = list[tuple[Any, Any]]


class Choice(NamedTuple):
    """The set of tensors that is taken: its key and its records.

    others: the keys of other sets      ignored: what else there was, name → kind
    """

    key: str
    tensors: dict[str, Record]
    others: tuple[str, ...]
    ignored: dict[str, str]


class Work:
    """The entries of dicts that may still be looked at; a WeightsError ends the search."""

    def __init__(self, left: int = MAX_WORK) -> None:
        self.left = left

    def pairs(self, value: Any) -> Pairs | None:
        """Return the keys and values of a dict of Python's, None for anything else."""
        if not isinstance(value, Record) or not is_name(value.maker, MAPPINGS):
            return None
        initial: list[Any] = []
        if len(value.args) == 1 and isinstance(value.args[0], list):
            initial = value.args[0]  # as Python 2 wrote it
        self._spend(len(initial) + len(value.pairs))
        if initial and all(isinstance(p, list | tuple) and len(p) == 2 for p in initial):
            return [(key, inner) for key, inner in initial] + value.pairs
        return value.pairs

    def _spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise WeightsError(
                f"pickle: expected dicts of at most {MAX_WORK} entries together, got more: "
                "they repeat each other's"
            )


class Candidate(NamedTuple):
    """A dict: its entries, whether a tensor is among them, and whether under a path of modules."""

    entries: Pairs
    has_tensors: bool
    has_paths: bool

    @classmethod
    def of(cls, entries: Pairs) -> Candidate:
        """Look through the entries once."""
        names = [key for key, inner in entries if _is_tensor(inner)]
        paths = any(isinstance(name, str) and "." in name for name in names)
        return cls(entries, bool(names), paths)


def choose(value: Any, wrapper: str | None) -> Choice:
    """Return the set of tensors to take from what was saved.

    wrapper: its key; "a.b" reaches a dict in a dict; "" is the outermost; None the usual choice
    Raises WeightsError where there is none, or one cannot tell which.
    """
    work = Work()
    entries = work.pairs(value)
    if entries is None:
        raise WeightsError(f"expected a state dict, got {described(value)}")
    outer = Candidate.of(entries)
    candidates, holders = _candidates(entries, work)
    key = _key(wrapper, candidates, outer)
    others = tuple(name for name in candidates if name != key)
    tensors, ignored = _tensors((candidates[key] if key else outer).entries)
    if key:
        ignored = _beside(entries, key, holders, work) | ignored
    return Choice(key, tensors, others, ignored)


def _beside(entries: Pairs, chosen: str, holders: set[str], work: Work) -> dict[str, str]:
    """Return the kinds of what lies beside the chosen set, in each dict on the way to it."""
    beside: dict[str, str] = {}
    level = [("", entries)]
    for _ in range(MAX_NESTING):
        below: list[tuple[str, Pairs]] = []
        for prefix, pairs in level:
            for key, inner in pairs:
                named = isinstance(key, str) and len(key) <= MAX_NAME
                path = prefix + (key if named else shown(key))
                if not named or path not in holders:
                    beside[_word(path)] = described(inner)
                elif chosen.startswith(f"{path}."):
                    below.append((f"{path}.", work.pairs(inner) or []))
        level = below
    return beside


def _candidates(outer: Pairs, work: Work) -> tuple[dict[str, Candidate], set[str]]:
    """Return every dict that holds tensors, by its key, and these keys with those of the dicts
    around them.

    One that does is not searched further.
    """
    found: dict[str, Candidate] = {}
    holders: set[str] = set()
    seen: dict[int, Candidate] = {}  # a file may name one dict many times; it is looked at once
    level: list[tuple[tuple[str, ...], str, Pairs]] = [((), "", outer)]
    for _ in range(MAX_NESTING):
        below: list[tuple[tuple[str, ...], str, Pairs]] = []
        for around, prefix, entries in level:
            for key, inner in entries:
                if not isinstance(key, str) or len(key) > MAX_NAME or not isinstance(inner, Record):
                    continue
                path = prefix + key
                if id(inner) not in seen:
                    seen[id(inner)] = Candidate.of(work.pairs(inner) or [])
                    if not seen[id(inner)].has_tensors:
                        below.append(((*around, path), f"{path}.", seen[id(inner)].entries))
                if seen[id(inner)].has_tensors:
                    found[path] = seen[id(inner)]
                    holders.update(around, (path,))
        level = below
    return found, holders


def _key(wrapper: str | None, candidates: dict[str, Candidate], outer: Candidate) -> str:
    listed = ", ".join(shown(key) for key in list(candidates)[:10])
    if wrapper:
        if wrapper not in candidates:
            raise WeightsError(f"expected weights under {shown(wrapper)}, found {listed or 'none'}")
        return wrapper
    paths = [key for key, candidate in candidates.items() if candidate.has_paths]
    if wrapper is None and not outer.has_paths:
        if usual := next((key for key in WRAPPERS if key in candidates), ""):
            return usual
        if len(paths) == 1:
            return paths[0]
        if not outer.has_tensors and len(candidates) == 1:
            return next(iter(candidates))
    if outer.has_tensors and (wrapper == "" or outer.has_paths or not paths):
        return ""
    if candidates:
        raise WeightsError(
            f"several sets of weights: {listed}; choose one by its name (wrapper=, --wrapper)"
        )
    things = ", ".join(f"{_word(key)}: {described(inner)}" for key, inner in outer.entries[:5])
    raise WeightsError(f"expected tensors, got none: {{{things}}}")


def _tensors(entries: Pairs) -> tuple[dict[str, Record], dict[str, str]]:
    """Return the tensors of a dict by name, and the kinds of what else is there."""
    tensors: dict[str, Record] = {}
    ignored: dict[str, str] = {}
    for name, inner in entries:
        record = plain_tensor(inner)
        if record is None:
            if _is_tensor(inner):
                raise WeightsError(
                    f"tensor {_word(name)}: expected a plain dense tensor, got {_maker(inner)}"
                )
            ignored[_word(name)] = described(inner)
            continue
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or name in tensors:
            raise WeightsError(
                f"expected unique names of 1 to {MAX_NAME} characters, got {shown(name)}"
            )
        check_text(name, "state dict")
        tensors[name] = record
    if len(tensors) > MAX_TENSORS:
        raise WeightsError(f"expected at most {MAX_TENSORS} tensors, got {len(tensors)}")
    return tensors, ignored


# --- What a record is -----------------------------------------------------------------------------


def _is_tensor(value: Any) -> bool:
    """Return whether PyTorch would make it a tensor, plain or not (sparse, quantized, a
    subclass).
    """
    return isinstance(value, Record) and _maker(value).name.startswith("_rebuild")


def _maker(record: Record) -> Name:
    """Return the class or function of a record, seen through the helpers that pickle uses."""
    maker: Any = record.maker
    if isinstance(maker, Name) and maker.module in ("copyreg", "copy_reg") and record.args:
        maker = record.args[0]
    if isinstance(maker, Outside) and isinstance(maker.id, tuple) and len(maker.id) > 1:
        maker = maker.id[1]  # early PyTorch put the source of a module's class outside
    return maker if isinstance(maker, Name) else Name("", "unknown")


def described(value: Any) -> str:
    """Say what a value is, in a few words that are safe to print."""
    if plain_tensor(value) is not None:
        return "a single tensor"
    if isinstance(value, Record) and is_name(value.maker, MAPPINGS):
        return "a dict"
    if isinstance(value, Record):
        if value.pairs:
            return (
                f"a dict of a class of its own ({shown(str(_maker(value)))}): open it where it was "
                "made and torch.save a plain dict() of it"
            )
        if is_name(value.maker, (SET, FROZENSET)):
            return "a set"
        if _maker(value).module.partition(".")[0] == "numpy":
            return "a NumPy array: save tensors, or safetensors"
        return (
            f"a whole object ({shown(str(_maker(value)))}), which only its own code can rebuild: "
            "open it where it was made and torch.save its state_dict()"
        )
    kind = type(value).__name__
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _word(key: Any) -> str:
    return key if isinstance(key, str) and len(key) <= 200 and key.isprintable() else shown(key)


_CONTAINERS = {
    "builtins": "dict set frozenset list tuple int float complex str bytes bytearray slice object",
    "__builtin__": "dict set frozenset list tuple int long float complex object",
    "collections": "OrderedDict defaultdict Counter deque",
    "torch": " ".join(("Size", "device", "dtype", "Tensor", *STORAGES, *SCALARS)),
    "torch.cuda": " ".join(STORAGES),
    "torch.storage": "UntypedStorage TypedStorage",
    "torch._tensor": "_rebuild_from_type_v2",
    "torch.nn.parameter": "Parameter Buffer UninitializedParameter",
    "torch.serialization": "_get_layout",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "_codecs": "encode",
    "argparse": "Namespace",
    "pathlib": "Path PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "datetime": "datetime date time timedelta timezone",
}
HARMLESS = {Name(module, name) for module, names in _CONTAINERS.items() for name in names.split()}
"""Classes and functions that hold data and do nothing else; most are those of every checkpoint."""


def harmless(name: Name) -> bool:
    """Return whether a name is one that PyTorch itself writes, or a container of Python's or
    NumPy's.

    Everything else is code of somebody's that torch.load(weights_only=False) would import and call.
    """
    return name in HARMLESS or (name.module == "torch._utils" and name.name.startswith("_rebuild"))
