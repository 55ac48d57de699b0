"""The network that people hold in their hands: called with images, saved to a file.

`create_model` (create.py) makes one.

The interface is that of timm's model cards, with NumPy arrays in place of torch tensors. Batch
norms always use their running statistics; what a torch module has and this one lacks is refused
with what to do instead (`npvgg.from_timm`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, overload

import numpy as np

from npvgg import from_timm
from npvgg.config import RepVGGConfig, feature_info
from npvgg.data import create_transform, resolve_model_data_config
from npvgg.engines import prepare
from npvgg.errors import AbsentError, ArgumentError, WeightsError
from npvgg.features import FeatureInfo, Selection, take_indices
from npvgg.formats import checkpoint
from npvgg.formats.checkpoint import Checkpoint
from npvgg.images.opening import Source
from npvgg.network import Head, Network
from npvgg.ops import Array, as_array, linear
from npvgg.prediction import Class, best, check_classes
from npvgg.rounding import whatever_seterr_says
from npvgg.weights import build, keymap, metadata
from npvgg.weights.adapt import RANDOM_CLASSIFIER

_log = logging.getLogger("npvgg")


class _Evaluating:
    """What a torch module in evaluation answers; names that it lacks are refused with a reason."""

    _table = "model"
    training = False
    grad_checkpointing = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The floating-point type of weights, inputs and outputs."""
        raise AbsentError("dtype")

    def eval(self) -> Self:
        """Return the model as it is: it always evaluates."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Return the model as it is for False. Raises ArgumentError for True."""
        if mode:
            from_timm.refuse("model", "train")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Return the model as it is for False. Raises ArgumentError for True."""
        if requires_grad:
            from_timm.refuse("model", "requires_grad_")
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Do nothing for False. Raises ArgumentError for True.

        Checkpointing recomputes maps in the backward pass in place of keeping them; a forward pass
        alone is the same with and without it.
        """
        if enable:
            from_timm.refuse("model", "set_grad_checkpointing")

    def cpu(self) -> Self:
        """Return the model as it is: it runs on the CPU."""
        return self

    def to(self, *places: Any, **named: Any) -> Self:
        """Return the model as it is for "cpu" and for its own dtype. Raises ArgumentError."""
        for place in (*places, named.get("device"), named.get("dtype")):
            said = str(getattr(place, "__name__", place)).removeprefix("torch.")
            if said not in ("None", "cpu", "True", "False", str(self.dtype)):
                from_timm.refuse("model", "to")
        return self

    if not TYPE_CHECKING:  # a type checker names what is missing itself

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AbsentError(name)
            from_timm.absent(self._table, type(self).__name__, name)


@dataclass(frozen=True, eq=False)
class Classifier:
    """The linear classifier of a model; without weights, of a model without one, the identity.

    weight: (num_classes, in_features)   bias: (num_classes,)
    """

    weight: Array | None
    bias: Array | None

    @property
    def in_features(self) -> int:
        """Length of the pooled vector that it reads; 0 without weights."""
        return 0 if self.weight is None else int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Number of classes; 0 without weights."""
        return 0 if self.weight is None else int(self.weight.shape[0])

    @whatever_seterr_says
    def __call__(self, x: Array) -> Array:
        """Classify pooled vectors: x (N, in_features) → (N, out_features)."""
        return x if self.weight is None or self.bias is None else linear(x, self.weight, self.bias)


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` returns, as torch does; both are empty, or it has raised."""

    missing_keys: list[str]
    unexpected_keys: list[str]


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


class RepVGG(_Evaluating):
    """A RepVGG ready to run, in train or in deploy form; make one with `create_model`.

    `copy.copy(model)` shares its weights, packed ones too; after `reset_classifier(0)` it does so
    still, and so does a `FeatureNet` of it. What is done to one in place, the others don't see.

    Its methods may be called from several threads at once, but for those that change it in place:
    `reset_classifier`, `load_state_dict` and `prune_intermediate_layers`. Inputs are (N, C, H, W)
    arrays of any floating-point type, of any height and width from one pixel up, N = 0 included;
    they are converted to the model's dtype, and never written to. A NaN makes its own image's
    answer NaN. Raises ArgumentError for anything else, and for values that overflow the dtype.

    origin: the file that the weights came from, without its tensors; None for no file
    caveats: what of its weights nobody has trained, ("random weights",) say; () for nothing
    """

    drop_rate = 0.0

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
        caveats: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.pretrained_cfg = pretrained_cfg
        self.origin = origin
        self.caveats = caveats
        self.feature_info = FeatureInfo(feature_info(config))
        self._options: dict[str, Any] = {"engine": engine, "threads": threads}
        self._looked = False
        self._hold(network, config)

    def _hold(self, network: Network, config: RepVGGConfig) -> None:
        """Take a network in place of the one that is held; runs that have begun keep theirs."""
        engine = prepare(network, **self._options)
        self.config = config
        self._form = network.form
        self._dtype = network.dtype
        self._names = [block.spec.name for block in network.blocks]
        self._engine = engine

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier, 0 for none."""
        return self.config.num_classes

    @property
    def num_features(self) -> int:
        """Channels of the last map, and length of the embedding."""
        return self.config.num_features

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.config.in_chans

    @property
    def global_pool(self) -> str:
        """How the last map becomes one vector: "avg", "max", "avgmax", "catavgmax", or ""."""
        return self.config.global_pool

    @property
    def head_hidden_size(self) -> int:
        """Length of the pooled vector that the classifier reads."""
        return self.config.num_pooled_features

    @property
    def stage_ends(self) -> list[int]:
        """The stage that each map of `feature_info` ends, 0 for the stem."""
        return [entry["stage"] for entry in self.feature_info]

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg`, by timm's older name."""
        return self.pretrained_cfg

    @property
    def form(self) -> str:
        """Return "train" (three branches) or "deploy" (one convolution per block)."""
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
        said = "".join(f"{caveat}, " for caveat in self.caveats)
        return (
            f"<RepVGG {self.name}: {said}{self.form} form, {classes}, {self.dtype}, "
            f"engine {self.engine}, made for {self.config.in_chans}×{h}×{w}>"
        )

    @whatever_seterr_says
    def __call__(self, x: Array) -> Array:
        """Classify a batch: x (N, C, H, W) → logits (N, num_classes).

        Without a classifier (num_classes=0) the result is the embedding, (N, num_features); without
        pooling as well (global_pool="") it is the last map.
        """
        return self._engine.logits(self._checked(x))

    @whatever_seterr_says
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

    @whatever_seterr_says
    def classify(self, photo: Source, k: int = 5) -> tuple[Class, ...]:
        """Classify one photo: its k most probable classes, the best first, by index and name.

        photo: a path, the bytes of a file, a uint8 array (H, W, 3) or a Pillow image; it is
        prepared as the model's data configuration says. `npvgg.predict` takes many

        Raises ImageError for a photo that cannot be read, ArgumentError without a classifier.
        """
        check_classes(self, k)
        transform = create_transform(**resolve_model_data_config(self))
        return best(self(transform(photo)[None])[0], self.pretrained_cfg, k)

    @whatever_seterr_says
    def forward_features(self, x: Array) -> Array:
        """Return the last map, unpooled: x (N, C, H, W) → (N, num_features, P, Q)."""
        return self._engine.maps(self._checked(x), [len(self._names) - 1])[0]

    @whatever_seterr_says
    def forward_head(self, x: Array, pre_logits: bool = False) -> Array:
        """Pool the last map and classify it: (N, num_features, P, Q) → (N, num_classes).

        pre_logits: stop at the pooled vector, (N, num_features)
        """
        pooled, logits = self._engine.head(self._checked(x, channels=self.num_features))
        return pooled if pre_logits else logits

    def forward(self, x: Array) -> Array:
        """Classify a batch, as calling the model does: x (N, C, H, W) → logits (N, num_classes)."""
        return self(x)

    @overload
    def forward_intermediates(
        self,
        x: Array,
        indices: Selection = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: Literal[False] = False,
        exclude_final_conv: bool = False,
    ) -> tuple[Array, list[Array]]: ...
    @overload
    def forward_intermediates(
        self,
        x: Array,
        indices: Selection = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        *,
        intermediates_only: Literal[True],
        exclude_final_conv: bool = False,
    ) -> list[Array]: ...
    @whatever_seterr_says
    def forward_intermediates(
        self,
        x: Array,
        indices: Selection = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        exclude_final_conv: bool = False,
    ) -> tuple[Array, list[Array]] | list[Array]:
        """Return the last map and the maps of `feature_info`, in the order of execution.

        indices: all by default; an integer n for the last n; a sequence for those entries of
        `feature_info` (negative from the end), each given once and in network order, however they
        are listed
        stop_early: run no further than the last map asked for; that one is then the last map
        intermediates_only: give the list alone
        norm, exclude_final_conv: nothing, for a RepVGG has neither a norm nor a convolution behind
        its maps; output_fmt: "NCHW"

        Source: timm `ByobNet.forward_intermediates`.
        """
        if output_fmt != "NCHW":
            raise ArgumentError(f"output_fmt: expected 'NCHW', got {output_fmt!r}")
        end = len(self._names) - 1
        asked = [
            self.feature_info[i]["block"] for i in take_indices(len(self.feature_info), indices)
        ]
        taps = [block for block in asked if block <= end]  # fewer, of a model that was pruned
        last = max(taps, default=end) if stop_early or intermediates_only else end
        maps = self._engine.maps(self._checked(x), sorted({*taps, last}))
        intermediates = maps if last in taps else maps[:-1]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop, in place, the blocks behind the last of some maps; return the maps' indices.

        indices: as of `forward_intermediates`
        prune_head: drop pooling and classifier; where blocks are dropped they go in any case
        prune_norm: nothing, for there is no norm

        Source: timm `ByobNet.prune_intermediate_layers`.
        """
        kept = take_indices(len(self.feature_info), indices)
        stages = self.stage_ends[max(kept)]
        ends = {
            name: getattr(self.config, name)[:stages] for name in ("depths", "widths", "strides")
        }
        network, blocks = self.network, 1 + sum(ends["depths"])
        changes: dict[str, Any] = ends
        if prune_head or blocks < len(network.blocks):
            changes |= {"num_classes": 0, "global_pool": ""}
            network = replace(network, head=Head("", None, None))
        network = replace(network, blocks=network.blocks[:blocks])
        self._hold(network, self.config.with_changes(**changes))
        return kept

    def get_classifier(self) -> Classifier:
        """Return the classifier; its arrays can't be written to."""
        head = self.network.head
        return Classifier(head.weight, head.bias)

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None, reset_other: bool = False
    ) -> None:
        """Put, in place, a random classifier of another size in place of the present one.

        num_classes: 0 for none; then the model gives embeddings
        global_pool: another pooling, as of `RepVGGConfig`; None for the present one
        reset_other: nothing, for the head has no other layer

        Weights and bias are uniform within ±1/√features, as torch's are, from seed 0.
        Source: timm `ByobNet.reset_classifier`. Raises ArgumentError.
        """
        pool = self.config.global_pool if global_pool is None else global_pool
        config = self.config.with_changes(num_classes=num_classes, global_pool=pool)
        weight = bias = None
        if num_classes:
            features = config.num_pooled_features
            weight, bias = (
                np.random.default_rng(0).uniform(-1, 1, size).astype(self.dtype) / features**0.5
                for size in ((num_classes, features), (num_classes,))
            )
        self._engine = self._engine.with_head(Head(pool, weight, bias))
        self.config = config
        self.caveats = tuple(c for c in self.caveats if c != RANDOM_CLASSIFIER)
        if num_classes and "random weights" not in self.caveats:
            self.caveats += (RANDOM_CLASSIFIER,)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return into which groups of layers timm divides the parameters, by their names.

        Fine-tuning with a learning rate that decays from layer to layer counts these groups;
        `npvgg.info(model).layer_decay()` shows what follows. coarse: a stage is one group.

        Source: timm `ByobNet.group_matcher`.
        """
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^final_conv", (99999,))]}

    @whatever_seterr_says
    def load_state_dict(
        self, state_dict: Mapping[str, Array], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Take, in place, other weights for the same network, all or none.

        state_dict: name → array, in timm's naming or the original's, in train form or in the
            model's; a model in deploy form folds what is in train form
        strict: must be True: half a network would answer, and be wrong
        assign: nothing; arrays are always copied

        Raises WeightsError that lists what is missing, unexpected or misshapen.
        """
        if strict is not True:
            from_timm.refuse("model.load_state_dict", "strict")
        network = build.build_network(state_dict, self.config, self.dtype)
        if self.form == "deploy":
            network = network.reparameterized()
        elif network.form == "deploy":
            raise WeightsError(
                "weights: expected train form, which the model is in, got deploy form"
            )
        self._hold(network, self.config)
        self.origin, self.caveats = None, ()
        return IncompatibleKeys([], [])

    def state_dict(self) -> dict[str, Array]:
        """Copy the weights, under timm's names and in the model's form."""
        return {name: array.copy() for name, array in build.flatten(self.network).items()}

    @whatever_seterr_says
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
        images, channels = channels is None, channels or self.config.in_chans
        try:
            x = as_array("x", x)
        except ArgumentError:
            raise
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
        if images and not self._looked and len(x):
            self._look(x)
        try:
            with np.errstate(over="raise"):
                return np.ascontiguousarray(x, dtype=self.dtype)
        except FloatingPointError:
            raise ArgumentError(f"x: a {x.dtype} value overflows {self.dtype}") from None

    def _look(self, x: Array) -> None:
        """Warn once, through the log, of images that look as if nobody had normalised them.

        A normalised photo has negative numbers; once a batch has some, nobody looks again.
        """
        lowest, highest = float(x.min()), float(x.max())
        self._looked = not (lowest == highest >= 0)  # a constant tells nothing
        mean, std = (
            np.asarray(self.pretrained_cfg.get(key, n)) for key, n in (("mean", 0), ("std", 1))
        )
        if not 0 <= lowest < highest or (-mean / std).min() > -0.5:
            return
        for bound, scale in ((1.0, "0 … 1"), (255.0, "0 … 255")):
            if bound / 2 < highest <= bound:
                _log.warning(
                    "the images look like %s, not normalised: "
                    "npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(model)) "
                    "prepares photos as the network needs them", scale,
                )  # fmt: skip


class FeatureNet(_Evaluating):
    """A RepVGG that gives its maps and has no head; `create_model(…, features_only=True)` makes
    one, and so does FeatureNet(model, out_indices), which shares the model's weights.
    """

    _table = "features"
    output_fmt = "NCHW"

    def __init__(self, model: RepVGG, out_indices: Selection) -> None:
        if model.num_classes:
            model = copy(model)
            model.reset_classifier(0)
        self.model = model
        self.feature_info = model.feature_info.from_other(out_indices)
        self.out_indices = self.feature_info.out_indices
        self.pretrained_cfg = model.pretrained_cfg

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.model.in_chans

    @property
    def dtype(self) -> np.dtype[Any]:
        """The floating-point type of weights, inputs and outputs."""
        return self.model.dtype

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg`, by timm's older name."""
        return self.pretrained_cfg

    def state_dict(self) -> dict[str, Array]:
        """Copy the weights, under the whole network's names."""
        return self.model.state_dict()

    def load_state_dict(
        self, state_dict: Mapping[str, Array], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Take other weights, as `RepVGG.load_state_dict` does."""
        return self.model.load_state_dict(state_dict, strict, assign)

    def forward(self, x: Array) -> list[Array]:
        """Return the maps, as calling it does: x (N, C, H, W) → [(N, K, P, Q), …]."""
        return self(x)

    def __repr__(self) -> str:
        return f"<FeatureNet {self.out_indices} of {self.model!r}>"

    def __call__(self, x: Array) -> list[Array]:
        """Return the maps, the largest first: x (N, C, H, W) → [(N, K, P, Q), …]."""
        return self.model.forward_intermediates(x, self.out_indices, intermediates_only=True)
