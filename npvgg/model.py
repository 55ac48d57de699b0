"""The network that people hold in their hands: called with images, saved to a file.

`create_model` (create.py) makes one.

The interface is that of timm's model cards, with NumPy arrays in place of torch tensors. There is
no train/eval switch: batch norms always use their running statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import PurePath
from typing import Any, Literal, TypeGuard, overload

import numpy as np

from npvgg.config import RepVGGConfig, feature_info
from npvgg.engines import prepare
from npvgg.errors import ArgumentError
from npvgg.formats import checkpoint
from npvgg.formats.checkpoint import Checkpoint
from npvgg.network import Network
from npvgg.ops import Array
from npvgg.weights import build, keymap, metadata


class FeatureInfo(list[dict[str, Any]]):
    """What is known of each tapped map: a list of dicts, and three short ways to read a column."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [entry["num_chs"] for entry in self]

    def reduction(self) -> list[int]:
        """Input pixels per map pixel, along a side."""
        return [entry["reduction"] for entry in self]

    def module_name(self) -> list[str]:
        """timm's path of the module that each map comes from."""
        return [entry["module"] for entry in self]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one run of a model gives.

    maps: name of a block → its map, (N, K, P, Q); in the order of execution
    pooled: (N, features), what `forward_head(…, pre_logits=True)` gives; without pooling the last
        map
    logits: (N, num_classes); without a classifier what `pooled` is
    """

    maps: dict[str, Array]
    pooled: Array
    logits: Array


class RepVGG:
    """A RepVGG ready to run, in train or in deploy form; make one with `create_model`.

    Its methods may be called from several threads at once. Inputs are (N, C, H, W) arrays of any
    floating-point type, of any height and width from one pixel up, N = 0 included; they are
    converted to the model's dtype, and never written to. A NaN makes its own image's answer NaN.
    Raises ArgumentError for anything else, and for values that overflow the dtype.

    origin: the file that the weights came from, without its tensors; None for no file
    """

    def __init__(
        self,
        name: str,
        config: RepVGGConfig,
        network: Network,
        pretrained_cfg: dict[str, Any],
        *,
        engine: str = "auto",
        threads: int | None = None,
        origin: Checkpoint | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self._form = network.form
        self._dtype = network.dtype
        self.pretrained_cfg = pretrained_cfg
        self.origin = origin
        self.feature_info = FeatureInfo(feature_info(config))
        self._names = [block.spec.name for block in network.blocks]
        self._engine = prepare(network, engine, threads=threads)

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier, 0 for none."""
        return self.config.num_classes

    @property
    def num_features(self) -> int:
        """Channels of the last map, and length of the embedding."""
        return self.config.num_features

    @property
    def form(self) -> str:
        """Tell "train" (three branches) from "deploy" (one convolution per block)."""
        return self._form

    @property
    def dtype(self) -> np.dtype[Any]:
        """The floating-point type of weights, inputs and outputs."""
        return self._dtype

    @property
    def network(self) -> Network:
        """The weights as data, in the model's form.

        A fast engine keeps them in an order of its own, and puts them back at every call of this.
        """
        return self._engine.network

    @property
    def engine(self) -> str:
        """The name of the engine that runs it."""
        return self._engine.name

    def __repr__(self) -> str:
        _, h, w = self.pretrained_cfg["input_size"]
        classes = f"{self.num_classes} class{'es' * (self.num_classes != 1)}"
        return (
            f"<RepVGG {self.name}: {self.form} form, {classes}, {self.dtype}, "
            f"engine {self.engine}, made for {self.config.in_chans}×{h}×{w}>"
        )

    def __call__(self, x: Array) -> Array:
        """Classify a batch: x (N, C, H, W) → logits (N, num_classes).

        Without a classifier (num_classes=0) the result is the embedding, (N, num_features); without
        pooling as well (global_pool="") it is the last map.
        """
        return self._engine.logits(self._checked(x))

    def outputs(self, x: Array, maps: bool | Sequence[str] = False) -> Outputs:
        """Return blocks' maps, the pooled vector and the logits of one run: x (N, C, H, W).

        maps: True for the map of every block, False for none, or the names of some blocks
            ("stem", "stages.0.0" …, `network.blocks[i].spec.name`)
        They are the same bits as `forward_intermediates`, `forward_head` and a call give.

        Raises ArgumentError for a name that no block has.
        """
        taps = self._taps(maps)
        found, pooled, logits = self._engine.outputs(self._checked(x), taps)
        named = zip([self._names[i] for i in taps], found, strict=True)
        return Outputs(dict(named), pooled, logits)

    def _taps(self, maps: bool | Sequence[str]) -> list[int]:
        if isinstance(maps, bool):
            return list(range(len(self._names))) if maps else []
        known = isinstance(maps, Sequence) and not isinstance(maps, str)
        if not known or not all(name in self._names for name in maps):
            raise ArgumentError(
                f"maps: expected True, False or a list of blocks out of "
                f"{', '.join(self._names)}, got {maps!r}"
            )
        return sorted({self._names.index(name) for name in maps})

    def forward_features(self, x: Array) -> Array:
        """Give the last map, unpooled: x (N, C, H, W) → (N, num_features, P, Q)."""
        return self._engine.maps(self._checked(x), [len(self._names) - 1])[0]

    def forward_head(self, x: Array, pre_logits: bool = False) -> Array:
        """Pool the last map and classify it: (N, num_features, P, Q) → (N, num_classes).

        pre_logits: stop at the pooled vector, (N, num_features)
        """
        pooled, logits = self._engine.head(self._checked(x, channels=self.num_features))
        return pooled if pre_logits else logits

    @overload
    def forward_intermediates(
        self,
        x: Array,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: Literal[False] = False,
    ) -> tuple[Array, list[Array]]: ...
    @overload
    def forward_intermediates(
        self,
        x: Array,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: Literal[True],
    ) -> list[Array]: ...
    def forward_intermediates(
        self,
        x: Array,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> tuple[Array, list[Array]] | list[Array]:
        """Give the last map and the maps of `feature_info`, in the order of execution.

        indices: all by default; an integer n for the last n; a sequence for those entries of
        `feature_info` (negative from the end), each given once and in network order, however they
        are listed
        stop_early: run no further than the last map asked for; that one is then the last map
        intermediates_only: give the list alone

        Source: timm `ByobNet.forward_intermediates`.
        """
        taps = [
            self.feature_info[i]["block"] for i in take_indices(len(self.feature_info), indices)
        ]
        last = max(taps) if stop_early or intermediates_only else len(self._names) - 1
        maps = self._engine.maps(self._checked(x), sorted({*taps, last}))
        intermediates = maps if last in taps else maps[:-1]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def state_dict(self) -> dict[str, Array]:
        """Copy the weights, under timm's names and in the model's form."""
        return {name: array.copy() for name, array in build.flatten(self.network).items()}

    def save(
        self,
        path: str | PathLike[str],
        form: str | None = None,
        *,
        dtype: str | None = None,
        overwrite: bool = True,
    ) -> None:
        """Write the weights as safetensors in timm's naming, all or nothing.

        form: "train" or "deploy"; the model's own by default. Deploy form cannot be unfolded.
        dtype: "float32", "float16", "bfloat16" or "float64" on disk; the model's own by default
        The file's metadata states network, configuration, form and data configuration, so that
        `create_model(weights=path)` needs nothing else.

        Raises ArgumentError for an impossible form or a dtype that the weights overflow,
        WeightsError where the file cannot be written.
        """
        if PurePath(path).suffix.lower() != ".safetensors":
            raise ArgumentError(
                f"path: expected a name in .safetensors, got {fspath(path)!r} "
                "(npvgg.tools.convert writes .pth, npvgg.export.export_onnx .onnx)"
            )
        if dtype not in (None, *checkpoint.CASTS):
            known = ", ".join(checkpoint.CASTS)
            raise ArgumentError(f"dtype: expected one of {known}, got {dtype!r}")
        if form not in (None, "train", "deploy"):
            raise ArgumentError(f"form: expected 'train' or 'deploy', got {form!r}")
        network = self.network
        if form == "deploy":
            network = network.reparameterized()
        elif form == "train" and network.form == "deploy":
            raise ArgumentError(
                "form: a folded network cannot be unfolded; make the model from train-form weights "
                "with reparameterize=False, then save form='train'"
            )
        tensors = build.flatten(network)
        for name, tensor in tensors.items():
            if dtype and not checkpoint.holds(dtype, name, tensor):
                raise ArgumentError(f"dtype: {dtype} cannot hold the values of {name}")
        described = metadata.describe(
            self.name,
            self.config,
            network.form,
            pretrained_cfg=self.pretrained_cfg,
            fold=self._fold() if network.form == "deploy" else None,
        )
        checkpoint.save_safetensors(
            path, tensors, described | metadata.origin(), dtype=dtype, overwrite=overwrite
        )

    def _fold(self) -> str | None:
        """In which dtype the deploy form was folded, by us or as the file says; None: unknown."""
        if self.form == "train":
            return "float64"
        if self.origin is None:
            return None
        held = keymap.form(map(keymap.strip_prefix, self.origin.stored))
        return "float64" if held == "train" else self.origin.metadata.get("npvgg.fold")

    def _checked(self, x: Array, channels: int | None = None) -> Array:
        channels = channels or self.config.in_chans
        try:
            x = np.asarray(x)
        except ValueError as error:  # lists of unequal length
            raise ArgumentError(f"x: expected (N, {channels}, H, W), got {error}") from None
        if x.ndim != 4 or x.shape[1] != channels or not np.issubdtype(x.dtype, np.floating):
            last = x.ndim == 4 and x.shape[3] == channels
            raise ArgumentError(
                f"x: expected (N, {channels}, H, W) of a floating-point type, got {x.shape} "
                f"{x.dtype}" + ("; channels come first: x.transpose(0, 3, 1, 2)" if last else "")
            )
        if 0 in x.shape[2:]:
            raise ArgumentError(f"x: expected at least one pixel, got shape {x.shape}")
        try:
            with np.errstate(over="raise"):
                return np.ascontiguousarray(x, dtype=self.dtype)
        except FloatingPointError:
            raise ArgumentError(f"x: a {x.dtype} value overflows {self.dtype}") from None


class FeatureNet:
    """A RepVGG that gives its maps and has no head; `create_model(…, features_only=True)` makes
    one.
    """

    def __init__(self, model: RepVGG, out_indices: int | Sequence[int] | None) -> None:
        indices = sorted(set(take_indices(len(model.feature_info), out_indices)))
        self.model = model
        self.out_indices = tuple(indices)
        self.feature_info = FeatureInfo(model.feature_info[i] for i in indices)
        self.pretrained_cfg = model.pretrained_cfg

    def __repr__(self) -> str:
        return f"<FeatureNet {self.out_indices} of {self.model!r}>"

    def __call__(self, x: Array) -> list[Array]:
        """Give the maps, the largest first: x (N, C, H, W) → [(N, K, P, Q), …]."""
        return self.model.forward_intermediates(x, self.out_indices, intermediates_only=True)


def take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Turn "all", "the last n" or a selection into absolute indices below `count`.

    Source: timm `models/_features.py` `feature_take_indices`.
    Raises ArgumentError where one is out of range.
    """
    if indices is None:
        return list(range(count))
    if _is_integer(indices):
        if not 1 <= indices <= count:
            raise ArgumentError(f"indices: expected the last 1 … {count} maps, got {indices}")
        return list(range(count - indices, count))
    taken = list(indices) if isinstance(indices, Sequence | np.ndarray) else []
    if not taken or not all(_is_integer(i) and -count <= i < count for i in taken):
        raise ArgumentError(
            f"indices: expected integers in {-count} … {count - 1}, got {indices!r}"
        )
    return [int(i) % count for i in taken]


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
