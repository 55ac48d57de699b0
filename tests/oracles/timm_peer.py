"""The same network in timm, made from the keywords of `npvgg.create_model`. Imports no npvgg.

timm spells depths, widths, strides and groups as one `blocks` tuple; the other keywords are its
own. Networks are made without memory (on the meta device) and then given their tensors, all of
them and no others.
"""

import re
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import timm
import torch
from timm.layers import BatchNormAct2d
from timm.models import byobnet
from timm.utils.model import reparameterize_model

OWN = {
    "repvgg_nano": {
        "depths": (2, 4, 6, 1),
        "widths": (32, 64, 128, 256),
        "strides": (1, 2, 2, 2),
        "stem_chs": 32,
        "stem_stride": 1,
        "num_classes": 10,
    },
}
"""The networks of npvgg's own, in timm's terms: a repvgg_a0 with every keyword given."""


def network(name, *, features=False, **keywords):
    """A timm network without weights; the keywords are those of npvgg.RepVGGConfig."""
    if name in OWN:
        name, keywords = "repvgg_a0", {**OWN[name], **keywords}
    stem_stride = keywords.pop("stem_stride", 2)
    if "bn_eps" in keywords:
        keywords["norm_layer"] = partial(BatchNormAct2d, eps=keywords.pop("bn_eps"))
    shape = {key: keywords.pop(key, None) for key in ("depths", "widths", "strides", "groups")}
    if any(value is not None for value in shape.values()):
        keywords["blocks"] = _blocks(byobnet.model_cfgs[name].blocks, **shape)
    if features:
        keywords["features_only"] = True
    stem = _stem_of_stride_1() if stem_stride == 1 else nullcontext()
    with stem, torch.device("meta"):
        return timm.create_model(name, **keywords).eval()


def _blocks(rows, depths, widths, strides, groups):
    depths = depths or [row.d for row in rows]
    widths = widths or [row.c for row in rows]
    strides = strides or [2] * len(depths)
    size = rows[0].gs  # one rule for all stages
    if groups is not None:

        def size(channels, index):
            return channels // groups if index % 2 else 0

    return tuple(
        byobnet.ByoBlockCfg("rep", d=d, c=c, s=s, gs=size)
        for d, c, s in zip(depths, widths, strides, strict=True)
    )


def _stem_of_stride_1():
    """Put timm's own block there with stride 1: it has no keyword for the stem's stride."""
    create_byob_stem = byobnet.create_byob_stem

    def create(in_chs, out_chs, *, layers, stem_type, pool_type, device=None, dtype=None):
        _, info = create_byob_stem(in_chs, out_chs, stem_type, pool_type, layers=layers)
        stem = byobnet.RepVggBlock(in_chs, out_chs, stride=1, layers=layers)
        return stem, [{**info[0], "reduction": 1}]

    return patch.object(byobnet, "create_byob_stem", create)


def shapes(model):
    """Every tensor that a network's state dict has: name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def load(model, tensors, dtype):
    """Give a network its weights, strictly, in a floating-point type."""
    converted = {name: torch.from_numpy(a) for name, a in tensors.items()}
    converted = {n: t.to(dtype) if t.is_floating_point() else t for n, t in converted.items()}
    model.load_state_dict(converted, strict=True, assign=True)
    return model.eval()


def deployed(model, inplace=False):
    """The network folded by timm, in its own type."""
    with patch.object(torch.nn.Conv2d, "reset_parameters", lambda conv: None):  # saves seconds
        return reparameterize_model(model, inplace=inplace).eval()


@torch.no_grad()
def answers(model, x):
    """What a network says to a batch: logits, pre_logits, and the maps of forward_intermediates."""
    x = torch.from_numpy(x).to(_dtype(model))
    last, maps = model.forward_intermediates(x)
    said = {
        "logits": model(x),
        "pre_logits": model.forward_head(last, pre_logits=True),
        **{f"intermediates.{i}": y for i, y in enumerate(maps)},
    }
    return {name: y.numpy() for name, y in said.items()}


@torch.no_grad()
def block_answers(model, x):
    """The output of every block, under its name; and the logits."""
    said = {}
    hooks = [
        module.register_forward_hook(lambda *args, name=name: said.update({name: args[2].clone()}))
        for name, module in model.named_modules()
        if isinstance(module, byobnet.RepVggBlock)
    ]
    said["logits"] = model(torch.from_numpy(x).to(_dtype(model)))
    for hook in hooks:
        hook.remove()
    return {name: y.numpy() for name, y in said.items()}


def feature_network(tensors, dtype, name, out_indices, **keywords):
    """The features_only network, with the tensors that it keeps of the whole network's."""
    model = network(name, features=True, out_indices=out_indices, **keywords)
    flat = {re.sub(r"^stages\.", "stages_", key): a for key, a in tensors.items()}
    return load(model, {key: flat[key] for key in model.state_dict()}, dtype)


@torch.no_grad()
def feature_answers(model, x):
    """The maps that a features_only network gives, in its order."""
    maps = model(torch.from_numpy(x).to(_dtype(model)))
    return {f"features.{i}": y.numpy() for i, y in enumerate(maps)}


def feature_info(model):
    """What timm says about the maps: channels, reductions, module names."""
    info = model.feature_info
    info = info.get_dicts() if hasattr(info, "get_dicts") else info
    return [{key: entry[key] for key in ("num_chs", "reduction", "module")} for entry in info]


def parameters(model):
    """The number of parameters, as every model card counts them."""
    return sum(p.numel() for p in model.parameters())


def _dtype(model):
    return next(model.parameters()).dtype
