"""From timm: every public call of timm 1.0.31 that a user of RepVGG can make, and its answer here.

A script changes its import, and what is torch's becomes NumPy's. The three usages of timm's model
cards, before and after, for `img`, a Pillow image:

Image classification, with timm:

    import timm, torch

    model = timm.create_model("repvgg_a2.rvgg_in1k", pretrained=True)
    model = model.eval()
    data_config = timm.data.resolve_model_data_config(model)
    transforms = timm.data.create_transform(**data_config, is_training=False)
    output = model(transforms(img).unsqueeze(0))
    top5_probabilities, top5_class_indices = torch.topk(output.softmax(dim=1) * 100, k=5)

and here (or, in one line, `model.classify(img)`):

    import npvgg

    model = npvgg.create_model("repvgg_a2.rvgg_in1k", pretrained=True)
    model = model.eval()
    data_config = npvgg.data.resolve_model_data_config(model)
    transforms = npvgg.data.create_transform(**data_config, is_training=False)
    output = model(transforms(img)[None])
    top5_probabilities, top5_class_indices = npvgg.topk(npvgg.softmax(output, dim=1) * 100, k=5)

Feature maps, with timm:

    import timm

    model = timm.create_model("repvgg_a2.rvgg_in1k", pretrained=True, features_only=True)
    model = model.eval()
    data_config = timm.data.resolve_model_data_config(model)
    transforms = timm.data.create_transform(**data_config, is_training=False)
    output = model(transforms(img).unsqueeze(0))
    shapes = [tuple(o.shape) for o in output]

and here:

    import npvgg

    model = npvgg.create_model("repvgg_a2.rvgg_in1k", pretrained=True, features_only=True)
    model = model.eval()
    data_config = npvgg.data.resolve_model_data_config(model)
    transforms = npvgg.data.create_transform(**data_config, is_training=False)
    output = model(transforms(img)[None])
    shapes = [tuple(o.shape) for o in output]

Embeddings, with timm:

    import timm

    model = timm.create_model("repvgg_a2.rvgg_in1k", pretrained=True, num_classes=0)
    model = model.eval()
    data_config = timm.data.resolve_model_data_config(model)
    transforms = timm.data.create_transform(**data_config, is_training=False)
    output = model(transforms(img).unsqueeze(0))
    unpooled = model.forward_features(transforms(img).unsqueeze(0))
    embedding = model.forward_head(unpooled, pre_logits=True)

and here:

    import npvgg

    model = npvgg.create_model("repvgg_a2.rvgg_in1k", pretrained=True, num_classes=0)
    model = model.eval()
    data_config = npvgg.data.resolve_model_data_config(model)
    transforms = npvgg.data.create_transform(**data_config, is_training=False)
    output = model(transforms(img)[None])
    unpooled = model.forward_features(transforms(img)[None])
    embedding = model.forward_head(unpooled, pre_logits=True)

What differs beyond the import: a batch of one is `x[None]`, softmax and topk are functions of
`npvgg`, and the model holds folded weights (`reparameterize=False` keeps the branches, as timm
does).

`CALLS` has a table for each of timm's functions, of its parameters, and for each of the objects
that they make, of their public names. An answer is one of three:

    same      works the same
    nothing   is accepted and changes nothing here, for the reason in the note
    refused   raises an error that says the note: what to do instead, or why it cannot be

The errors are written from here, and a test holds the tables against timm's own signatures, so the
page cannot promise what the code does not do.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from npvgg.errors import AbsentError, ArgumentError


class Answer(NamedTuple):
    """What becomes of one name: "same", "nothing" or "refused", and why."""

    kind: str
    note: str = ""


Table = Mapping[str, Answer]


def _table(
    *, same: str = "", nothing: dict[str, str] | None = None, refused: dict[str, str] | None = None
) -> Table:
    """Make a table from names, divided by spaces, and name(s) → note."""
    rows = {name: Answer("same") for name in same.split()}
    for kind, notes in (("nothing", nothing or {}), ("refused", refused or {})):
        for names, note in notes.items():
            rows |= {name: Answer(kind, note) for name in names.split()}
    return MappingProxyType(rows)


_MODULES = "there are no modules; model.network is the network as data"
_TENSORS = "model.state_dict() gives the weights, and npvgg.info(model) counts them"
_HOOKS = "there are no modules to hook; model.outputs(x, maps=True) gives every block's map"
_DEVICE = "the network runs on the CPU; `npvgg convert` writes ONNX for other devices"
_DTYPE = "a model keeps its type; give create_model dtype='float32' or 'float64'"
_TRAINING = "npvgg does not train"

_MODULE = {
    "apply": "there are no modules to apply it to; change arrays, and give them as weights=",
    "add_module register_module register_parameter register_buffer set_submodule": _MODULES,
    "children modules named_children named_modules get_submodule": _MODULES,
    "parameters named_parameters buffers named_buffers get_parameter get_buffer": _TENSORS,
    "bfloat16 double float half type": _DTYPE,
    "cuda ipu mtia xpu to_empty share_memory": _DEVICE,
    "compile": "Numba compiles the engines at the first call; `npvgg warmup` does it ahead",
    "register_forward_hook register_forward_pre_hook register_backward_hook "
    "register_full_backward_hook register_full_backward_pre_hook "
    "register_load_state_dict_post_hook register_load_state_dict_pre_hook "
    "register_state_dict_post_hook register_state_dict_pre_hook": _HOOKS,
    "get_extra_state set_extra_state": "there is no state but the weights; see state_dict()",
    "T_destination call_super_init dump_patches extra_repr": "it is for those who write modules",
    "zero_grad": f"{_TRAINING}: there are no gradients",
}
_MODULE_SAME = "eval forward load_state_dict state_dict training"
_MODULE_NOTHING = {
    "train": "train(False) is the state of every model; train(True) is refused: batch statistics, "
    "dropout and stochastic depth belong to training",
    "requires_grad_": "requires_grad_(False) is the state of every model; there are no gradients",
    "cpu": "the network runs on the CPU",
    "to": "to('cpu') is the state of every model; " + _DEVICE + "; " + _DTYPE,
}

LAYERS: Mapping[str, Table] = MappingProxyType({
    "act_layer": _table(
        same="celu elu gelu gelu_tanh hard_mish hard_sigmoid hard_swish hardsigmoid hardswish "
        "identity leaky_relu mish quick_gelu relu relu6 selu sigmoid silu swish tanh",
        refused={"prelu": "its slope is a weight, and activations have none here"},
    ),
    "attn_layer": _table(
        same="se ese eca ecam ceca cbam lcbam",
        refused={
            "gc gca": "its softmax over all pixels and its layer norm have no derived bounds here",
            "ge coord scoord ela strip": "it looks at parts of the map, and no engine has it",
            "sk splat lambda bottleneck halo nl bat":
                "it is made to stand for a convolution, not behind the branches of a RepVGG",
        },
    ),
    "norm_layer": _table(
        same="batchnorm batchnorm2d",
        refused={
            "groupnorm groupnorm1 layernorm layernorm2d layernormfp32 layernorm2dfp32 rmsnorm "
            "rmsnorm2d rmsnormfp32 rmsnorm2dfp32":
                "it computes its statistics from the image, so it does not fold",
            "evonormb0 evonormb1 evonormb2 evonorms0 evonorms0a evonorms1 evonorms1a evonorms2 "
            "evonorms2a frn frntlu": "it is no affine map, so it does not fold",
            "inplaceabn iabn": "it is a batch norm with an activation of its own in it",
        },
    ),
})  # fmt: skip
"""The layers that timm knows by name, for the keyword that takes them."""

CALLS: Mapping[str, Table] = MappingProxyType({
    "create_model": _table(
        same="model_name pretrained pretrained_cfg pretrained_cfg_overlay checkpoint_path "
        "cache_dir features_only out_indices num_classes in_chans global_pool output_stride dtype "
        "width_factor stem_chs act_layer attn_layer attn_kwargs",
        nothing={
            "scriptable exportable no_jit": "nothing is scripted or traced",
            "drop_rate drop_path_rate drop_block_rate drop_block_size":
                "dropout, stochastic depth and DropBlock are the identity outside of training",
            "zero_init_last": "it chooses the weights that a training begins with",
            "img_size fixed_input_size": "a RepVGG takes images of any size",
            "downsample self_attn_layer self_attn_kwargs": "a RepVGG block has no place for it",
            "stem_pool": "a stem that is a RepVGG block has no pooling",
        },
        refused={
            "blocks": "give depths=, widths=, strides= and groups=",
            "block_kwargs": "a block with other options is no RepVGG block",
            "stem_type": "expected 'rep': other stems have no branches to fold",
            "num_features": "expected 0: the convolution that it adds is not in a RepVGG",
            "head_type head_hidden_size":
                "expected 'classifier' and None: the other heads are not a RepVGG's",
            "norm_layer": "expected 'batchnorm', and its eps as bn_eps=: no other norm that "
                "timm builds into a RepVGG by name is an affine map per channel at inference, so "
                "none folds into a convolution",
            "aa_layer": "expected '': timm blurs behind the batch norm of each branch of a stride "
                "of 2, and its own folding loses both the blur and the stride",
            "pruned": "expected False: there are no pruned RepVGGs",
            "device": "expected 'cpu': " + _DEVICE,
            "feature_cls": "expected 'list', or leave it out: a FeatureNet gives a list of maps",
            "cfg model_cfg model_cls variant feature_cfg":
                "give the fields of npvgg.RepVGGConfig as keywords",
            "pretrained_strict": "weights are loaded whole or not at all",
            "pretrained_filter_fn pretrained_model_args kwargs_filter":
                "give weights=, a dict of arrays, changed as you like",
        },
    ),
    "list_models": _table(
        same="filter module pretrained exclude_filters name_matches_cfg include_tags"
    ),
    "list_pretrained": _table(same="filter exclude_filters"),
    "is_model": _table(same="model_name"),
    "get_pretrained_cfg": _table(same="model_name allow_unregistered"),
    "data.resolve_data_config": _table(
        same="args pretrained_cfg model use_test_size",
        nothing={"verbose": "the configuration is returned; print it"},
    ),
    "data.resolve_model_data_config": _table(
        same="model args pretrained_cfg use_test_size",
        nothing={"verbose": "the configuration is returned; print it"},
    ),
    "data.create_transform": _table(
        same="input_size interpolation mean std crop_pct crop_mode",
        nothing={
            "is_training": "False is what there is: " + _TRAINING,
            "no_aug train_crop_mode scale ratio hflip vflip color_jitter color_jitter_prob "
            "grayscale_prob gaussian_blur_prob auto_augment re_prob re_mode re_count re_num_splits":
                "augmentation belongs to training",
            "naflex patch_size max_seq_len patchify patchify_channels_last patchify_flatten":
                "accepted as timm's defaults; patches are for transformers",
            "separate tf_preprocessing use_prefetcher":
                "accepted as False; normalize='prefetcher' is the arithmetic of timm's loaders",
            "crop_border_pixels": "accepted as None",
            "normalize": "accepted as True; here it may also say in which order of roundings",
        },
    ),
    "model": _table(
        same=f"{_MODULE_SAME} default_cfg pretrained_cfg feature_info forward_features "
        "forward_head forward_intermediates get_classifier global_pool group_matcher "
        "head_hidden_size in_chans num_classes num_features prune_intermediate_layers "
        "reset_classifier drop_rate grad_checkpointing stage_ends",
        nothing={
            **_MODULE_NOTHING,
            "set_grad_checkpointing": "False is the state of every model; True is refused: it "
            "saves memory in the backward pass, and there is none",
        },
        refused={
            **_MODULE,
            "stem stages final_conv head": _MODULES,
            "pretrained_model_args": "model.config is what the model was made with",
        },
    ),
    "model.forward": _table(same="x"),
    "model.forward_features": _table(same="x"),
    "model.forward_head": _table(same="x pre_logits"),
    "model.forward_intermediates": _table(
        same="x indices stop_early intermediates_only",
        nothing={
            "norm": "no map of a RepVGG has a norm behind it",
            "output_fmt": "'NCHW' is what there is, in timm too",
            "exclude_final_conv": "a RepVGG has no final convolution",
        },
    ),
    "model.prune_intermediate_layers": _table(
        same="indices prune_head", nothing={"prune_norm": "there is no norm at the end"}
    ),
    "model.reset_classifier": _table(
        same="num_classes global_pool", nothing={"reset_other": "the head is the classifier alone"}
    ),
    "model.group_matcher": _table(same="coarse"),
    "model.set_grad_checkpointing": _table(nothing={"enable": "see set_grad_checkpointing"}),
    "model.load_state_dict": _table(
        same="state_dict",
        nothing={"assign": "arrays are always copied"},
        refused={"strict": "expected True: half a network would answer, and be wrong"},
    ),
    "features": _table(
        same=f"{_MODULE_SAME} default_cfg pretrained_cfg feature_info in_chans output_fmt "
        "grad_checkpointing",
        nothing={**_MODULE_NOTHING, "set_grad_checkpointing": "see the model's"},
        refused={
            **_MODULE,
            "stem stages_0 stages_1 stages_2 stages_3 final_conv": _MODULES,
            "clear items keys pop update values return_layers concat": _MODULES,
        },
    ),
    "FeatureInfo": _table(
        same="channels from_other get get_dicts info module_name out_indices reduction"
    ),
})  # fmt: skip
"""The function, or the object, → its parameters, or its public names → what becomes of each.

"model" is what `create_model` gives, "features" the same with `features_only=True`. Where a value
is named, any other is refused by that note.
"""


def refused(call: str, name: str) -> bool:
    """Return whether a table has a name as refused."""
    answer = CALLS[call].get(name)
    return answer is not None and answer.kind == "refused"


ONLY: Mapping[str, tuple[object, ...]] = MappingProxyType({
    "stem_type": ("rep",), "num_features": (0,), "head_type": ("classifier", ""),
    "head_hidden_size": (), "norm_layer": ("batchnorm", "batchnorm2d"), "aa_layer": ("",),
    "pruned": (False,), "device": ("cpu",), "feature_cls": ("list",),
})  # fmt: skip
"""Keywords of timm's `create_model` of which a RepVGG has these values; None is one of each."""


def changes_nothing(name: str, value: object) -> bool:
    """Return whether timm's `create_model` makes the same RepVGG with a keyword as without it."""
    answer = CALLS["create_model"].get(name)
    if value is None or (answer is not None and answer.kind == "nothing"):
        return True
    return name in ONLY and value in ONLY[name]


def refuse_value(name: str, value: object) -> None:
    """Raise ArgumentError for a value of timm's keywords that no RepVGG has, with the reason."""
    if name in ONLY and not changes_nothing(name, value):
        if name in LAYERS:
            refuse_layer(name, value)
        refuse("create_model", name)


def refuse_layer(keyword: str, name: object) -> None:
    """Raise ArgumentError, with the reason, for a layer of timm's that is not here."""
    answer = LAYERS[keyword].get(name) if isinstance(name, str) else None
    if answer is not None and answer.kind == "refused":
        raise ArgumentError(f"{keyword}: {name!r} is refused: {answer.note}")


def refuse(call: str, name: str) -> NoReturn:
    """Raise ArgumentError for a parameter, or a value of it, with the note of its table."""
    raise ArgumentError(f"{name}: {CALLS[call][name].note}")


def absent(call: str, owner: str, name: str) -> NoReturn:
    """Raise AbsentError for a public name that an object lacks, with the note of its table."""
    answer = CALLS[call].get(name)
    hint = f": {answer.note}" if answer is not None and answer.note else ""
    raise AbsentError(f"{owner} has no {name!r}{hint}")


def _page() -> str:
    """Write the tables as Markdown."""
    lines = []
    for call, table in {**CALLS, **LAYERS}.items():
        lines += [f"\n### timm's `{call}`\n", "| name | here | |", "|---|---|---|"]
        lines += [f"| `{name}` | {kind} | {note} |" for name, (kind, note) in table.items()]
    return "\n".join(lines)


__doc__ = (__doc__ or "") + _page()  # python -OO leaves none
