"""Named arrays → a network, all or nothing; and back.

A file may hold timm's or the original's names, train or deploy form, any floating-point type, with
or without a wrapper's prefix. Everything is brought to timm's names first, then every expected
tensor must be there with its shape, and nothing else: a network that is half loaded would answer,
and be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npvgg import attention
from npvgg.config import BlockSpec, RepVGGConfig, expand
from npvgg.errors import WeightsError
from npvgg.formats.checkpoint import check_values
from npvgg.formats.untrusted import shown
from npvgg.network import Block, Head, Network
from npvgg.ops import Array
from npvgg.reparam import BatchNorm, Branches, ConvBN, FusedConv
from npvgg.variants import VARIANTS
from npvgg.weights import keymap

Tensors = Mapping[str, NDArray[Any]]

_BN = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
_CLASSIFIER = {"head.fc.weight", "head.fc.bias"}
_SHOWN = 5  # names listed per kind of mistake; a file of another network misses hundreds
_NAMED = 3  # names that do not belong, in a sentence
_COMPARED = 1000  # names among which the nearest is looked for; no network of the table has as many


def expected_shapes(config: RepVGGConfig, form: str) -> dict[str, tuple[int, ...]]:
    """List every tensor of a network in timm's naming: name → shape, in order of execution."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in expand(config):
        shapes.update({f"{spec.name}.{name}": shape for name, shape in _block_shapes(spec, form)})
    if config.num_classes:
        shapes["head.fc.weight"] = (config.num_classes, config.num_pooled_features)
        shapes["head.fc.bias"] = (config.num_classes,)
    return shapes


def _block_shapes(spec: BlockSpec, form: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    k, c_group = spec.out_chs, spec.in_chs // spec.groups
    if form == "deploy":
        yield "reparam_conv.weight", (k, c_group, 3, 3)
        yield "reparam_conv.bias", (k,)
    else:
        if spec.identity:
            yield from ((f"identity.{name}", (k,)) for name in _BN)
        for branch, size in (("conv_kxk", 3), ("conv_1x1", 1)):
            yield f"{branch}.conv.weight", (k, c_group, size, size)
            yield from ((f"{branch}.bn.{name}", (k,)) for name in _BN)
    if spec.attn_layer:
        for name, shape in attention.shapes(spec.attn_layer, k, spec.attn_kwargs).items():
            yield f"attn.{name}", shape


# --- Reading --------------------------------------------------------------------------------------


def normalize_names(
    tensors: Tensors, config: RepVGGConfig | None = None
) -> dict[str, NDArray[Any]]:
    """Bring names to timm's spelling: prefixes and training-only tensors dropped, the original's
    translated.

    Raises WeightsError where two tensors end up with one name.
    """
    if not isinstance(tensors, Mapping):
        raise WeightsError(
            f"weights: expected a path or a dict of name → array, got {type(tensors).__name__}"
        )
    stripped = {name: keymap.strip_prefix(str(name)) for name in tensors}
    stripped = {
        name: short for name, short in stripped.items() if not keymap.is_training_only(short)
    }
    first_half = 0
    if keymap.naming(stripped.values()) == "original":
        depths = config.depths if config else VARIANTS["repvggplus_l2pse"].depths
        first_half = keymap.first_half(depths)
    renamed: dict[str, NDArray[Any]] = {}
    for name, short in stripped.items():
        ours = keymap.to_timm(short, first_half)
        if ours in renamed:
            raise WeightsError(
                f"weights: two tensors claim the place of {ours!r}, one of them {name!r}"
            )
        renamed[ours] = _as_array(name, tensors[name])
    return renamed


def _as_array(name: str, tensor: object) -> NDArray[Any]:
    try:
        return np.asarray(tensor)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged, or a framework's refusal
        raise WeightsError(f"weights: {shown(name)}: expected an array, got {error}") from None


class Ends(NamedTuple):
    """How many classes and image channels some tensors have; None where they do not tell."""

    classes: int | None
    channels: int | None

    def fit(self, config: RepVGGConfig) -> RepVGGConfig:
        """Return the configuration with these ends."""
        classes = config.num_classes if self.classes is None else self.classes
        if not config.global_pool:  # a map cannot be classified
            classes = 0
        return replace(config, num_classes=classes, in_chans=self.channels or config.in_chans)


def ends(tensors: Tensors) -> Ends:
    """Read the numbers of classes and of image channels off the first and the last tensors.

    No classifier at all is 0 classes. Tensors of something else tell nothing.
    """
    try:
        return _ends({name: tensor.shape for name, tensor in normalize_names(tensors).items()})
    except WeightsError:
        return Ends(None, None)


def _ends(shapes: Mapping[str, tuple[int, ...]]) -> Ends:
    head = shapes.get("head.fc.weight")
    classes = head[0] if head is not None and len(head) == 2 else None
    if not _CLASSIFIER & shapes.keys():
        classes = 0
    stem = shapes.get("stem.reparam_conv.weight", shapes.get("stem.conv_kxk.conv.weight", ()))
    return Ends(classes, stem[1] if len(stem) == 4 and stem[1] else None)


def infer_config(tensors: Tensors) -> tuple[str, RepVGGConfig]:
    """Find the named network whose tensors these are, from names and shapes alone.

    The numbers of classes and of image channels are taken from the tensors.
    Raises WeightsError where no network of the table fits.
    """
    named = normalize_names(tensors)
    found = _largest_inside(named)
    if found is not None and not found.beside:
        return found.variant, found.config
    text = f"weights: these {len(named)} tensors match no network of the table"
    raise WeightsError(text + (_whereabouts(tensors) or _advice(named, found)))


class _Inside(NamedTuple):
    """A whole network of the table among some tensors, and the names of the others."""

    variant: str
    config: RepVGGConfig
    beside: list[str]


def _largest_inside(named: Tensors) -> _Inside | None:
    """Find the network of the table whose tensors are all there; of several the one with most, for
    A1's are among B0's.
    """
    form = keymap.form(named)
    shapes = {name: tensor.shape for name, tensor in named.items()}
    found, most = None, 0
    for variant, row in VARIANTS.items() if None not in (ends := _ends(shapes)) else ():
        expected = expected_shapes(config := ends.fit(row), form)
        if len(expected) > most and expected.items() <= shapes.items():
            most = len(expected)
            found = _Inside(variant, config, [name for name in shapes if name not in expected])
    return found


def _whereabouts(tensors: Tensors) -> str:
    """Return below which prefixes there are whole networks, and what is left; "" without any."""
    places = {}
    for prefix in filter(None, keymap.prefixes(tensors)):
        below = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        with suppress(WeightsError):
            found = _largest_inside(normalize_names(below))
            if found is not None and not found.beside:
                places[prefix] = found.variant
    if not places:
        return ""
    quoted = [f"{name} below {shown(prefix)}" for prefix, name in places.items()]
    left = [name for name in tensors if not name.startswith(tuple(places))]
    first = shown(next(iter(places)))
    return (
        f", but hold {', '.join(quoted)}: pass prefix={first} (--prefix) to take "
        f"{'it' if len(places) == 1 else 'that one'} alone{_counted('; left over', left)}"
    )


def _advice(named: Tensors, found: _Inside | None) -> str:
    """Return what to do where no prefix helps."""
    foreign = [name for name in named if not _like_ours(name)]
    if found is not None and foreign == found.beside:
        return f", but hold {found.variant}{_counted(' beside', foreign)}: save it without those"
    return (
        "; give the name of the network (and the keywords it was made with) to create_model"
        + _counted("; not a RepVGG's are", foreign)
    )


def _like_ours(name: str) -> bool:
    """Return whether a name is one that a RepVGG could have."""
    return keymap.prefixes([name]) == [""]


def _counted(what: str, names: list[str]) -> str:
    """Return the first of the names and how many there are; "" for none."""
    more = f" … ({len(names)} in all)" if len(names) > _NAMED else ""
    listed = ", ".join(shown(name) for name in names[:_NAMED])
    return f"{what} {listed}{more}" if names else ""


def build_network(tensors: Tensors, config: RepVGGConfig, dtype: Any = np.float32) -> Network:
    """Assemble a network from named arrays in either naming and either form.

    A classifier in the file is dropped by name when num_classes is 0; nothing else is ever ignored.
    Every array is copied to `dtype`, and the copy can't be written to. Raises WeightsError that
    lists missing, unexpected and misshapen tensors with the nearest name, or the first value that
    is not finite or a negative variance.
    """
    named = normalize_names(tensors, config)
    if config.num_classes == 0:
        named = {name: tensor for name, tensor in named.items() if name not in _CLASSIFIER}
    form = keymap.form(named)
    _check_names_and_shapes(named, config, form, keymap.prefixes(tensors))
    _check_types(named)
    check_values(named)
    arrays = {
        name: _converted(name, named[name], np.dtype(dtype))
        for name in expected_shapes(config, form)
    }
    blocks = tuple(_block(arrays, spec, form) for spec in expand(config))
    head = Head(config.global_pool, arrays.get("head.fc.weight"), arrays.get("head.fc.bias"))
    return Network(blocks, head, np.dtype(dtype))


def _other_network(named: Tensors, config: RepVGGConfig) -> str:
    """Return what the tensors are of instead, ready to be appended; "" if they fit no network
    either.
    """
    try:
        name, other = infer_config(named)
    except WeightsError:
        return ""
    size = attrgetter("depths", "widths", "groups")
    return "" if size(other) == size(config) else f", but of {name}"


def _check_names_and_shapes(
    named: Tensors, config: RepVGGConfig, form: str, prefixes: list[str]
) -> None:
    expected = expected_shapes(config, form)
    missing = [name for name in expected if name not in named]
    unexpected = [name for name in named if name not in expected]
    misshapen = [n for n, shape in expected.items() if n in named and named[n].shape != shape]
    if not (missing or unexpected or misshapen):
        return
    if not missing and {*unexpected, *misshapen} <= _CLASSIFIER:
        _check_class_count(named, config)
    lines = [f"weights: not a {form}-form file of this network{_other_network(named, config)}"]
    lines += _listed(
        "missing", [_with_nearest(name, unexpected) for name in missing[:_SHOWN]], len(missing)
    )
    lines += _listed(
        "unexpected",
        [_with_nearest(name, missing) for name in unexpected[:_SHOWN]],
        len(unexpected),
    )
    lines += _listed(
        "misshapen",
        [f"{n}: expected {expected[n]}, got {named[n].shape}" for n in misshapen[:_SHOWN]],
        len(misshapen),
    )
    if unexpected and not missing and not any(map(_like_ours, unexpected)):
        before = ", ".join(f"prefix={shown(prefix)}" for prefix in prefixes if prefix)
        takes = f"{before} (--prefix) takes what is below it alone"
        lines.append(f"  {takes if before else 'save it without those'}")
    raise WeightsError("\n".join(lines))


def _check_class_count(named: Tensors, config: RepVGGConfig) -> None:
    weight = named.get("head.fc.weight")
    if weight is not None and weight.ndim == 2 and weight.shape[0] != config.num_classes:
        raise WeightsError(
            f"weights: the file has {weight.shape[0]} classes, the network {config.num_classes}; "
            f"pass num_classes={weight.shape[0]} (or leave it out) for the file's classifier, "
            "or num_classes=0 for embeddings"
        )


def _listed(kind: str, entries: list[str], count: int) -> list[str]:
    if not count:
        return []
    more = [f"    … and {count - len(entries)} more"] if count > len(entries) else []
    return [f"  {count} {kind}:"] + [f"    {entry}" for entry in entries] + more


def _with_nearest(name: str, candidates: list[str]) -> str:
    near = get_close_matches(name, candidates[:_COMPARED], n=1)
    printable = name[:120].encode("unicode_escape").decode("ascii")
    return f"{printable} (nearest: {near[0][:120]!r})" if near else printable


def _check_types(named: Tensors) -> None:
    for name, tensor in named.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            raise WeightsError(
                f"weights: {name}: expected floating-point values, got {tensor.dtype}"
            )


def _converted(name: str, tensor: NDArray[Any], dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # what overflows is reported below, by name
        array = np.array(tensor, dtype=dtype, order="C", copy=True)
    if not np.isfinite(array).all():
        raise WeightsError(f"weights: {name}: a {tensor.dtype} value overflows {dtype}")
    array.flags.writeable = False  # engines pack weights once: a later change would be half seen
    return array


def _block(arrays: Mapping[str, Array], spec: BlockSpec, form: str) -> Block:
    own = {
        name.removeprefix(f"{spec.name}."): array
        for name, array in arrays.items()
        if name.startswith(f"{spec.name}.")
    }
    attn = {name.removeprefix("attn."): a for name, a in own.items() if name.startswith("attn.")}
    if form == "deploy":
        return Block(spec, FusedConv(own["reparam_conv.weight"], own["reparam_conv.bias"]), attn)
    branches = Branches(
        ConvBN(own["conv_kxk.conv.weight"], _batch_norm(own, "conv_kxk.bn.", spec.bn_eps)),
        ConvBN(own["conv_1x1.conv.weight"], _batch_norm(own, "conv_1x1.bn.", spec.bn_eps)),
        _batch_norm(own, "identity.", spec.bn_eps) if spec.identity else None,
    )
    return Block(spec, branches, attn)


def _batch_norm(own: Mapping[str, Array], prefix: str, eps: float) -> BatchNorm:
    gamma, beta, mean, var = (own[prefix + name] for name in _BN)
    return BatchNorm(gamma, beta, mean, var, eps)


# --- Writing --------------------------------------------------------------------------------------


def flatten(network: Network) -> dict[str, Array]:
    """List a network's arrays under timm's names, in the order of `expected_shapes`."""
    arrays: dict[str, Array] = {}
    for block in network.blocks:
        prefix, form = block.spec.name, block.form
        if isinstance(form, FusedConv):
            arrays |= {
                f"{prefix}.reparam_conv.weight": form.weight,
                f"{prefix}.reparam_conv.bias": form.bias,
            }
        else:
            if form.identity is not None:
                arrays |= _named_batch_norm(f"{prefix}.identity", form.identity)
            for branch in ("conv_kxk", "conv_1x1"):
                conv: ConvBN = getattr(form, branch)
                arrays[f"{prefix}.{branch}.conv.weight"] = conv.weight
                arrays |= _named_batch_norm(f"{prefix}.{branch}.bn", conv.bn)
        arrays |= {f"{prefix}.attn.{name}": array for name, array in block.attention.items()}
    if network.head.weight is not None and network.head.bias is not None:
        arrays |= {"head.fc.weight": network.head.weight, "head.fc.bias": network.head.bias}
    return arrays


def _named_batch_norm(prefix: str, bn: BatchNorm) -> dict[str, Array]:
    return {f"{prefix}.{theirs}": getattr(bn, ours) for theirs, ours in _BN.items()}


# --- Making ---------------------------------------------------------------------------------------


def random_tensors(config: RepVGGConfig, seed: int) -> dict[str, Array]:
    """Draw train-form weights for trying and testing: nothing is learnt, everything is away from 0
    and 1.

    Kernels are normal with variance 1 / fan-in; BN statistics are uniform (gamma in 0.25 … 0.75,
    mean and beta within ±0.1, var in 0.5 … 1.5), so that a wrong fold cannot hide, and maps neither
    vanish nor explode. The same seed gives the same float32 weights for one version of NumPy.
    """
    rng = np.random.default_rng(seed)
    low_high = {
        "weight": (0.25, 0.75),
        "bias": (-0.1, 0.1),
        "running_mean": (-0.1, 0.1),
        "running_var": (0.5, 1.5),
    }
    tensors: dict[str, Array] = {}
    for name, shape in expected_shapes(config, "train").items():
        kind = name.rsplit(".", 1)[1]
        if len(shape) > 1:
            fan_in = int(np.prod(shape[1:]))
            tensors[name] = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        else:
            tensors[name] = rng.uniform(*low_high[kind], shape).astype(np.float32)
    return tensors
