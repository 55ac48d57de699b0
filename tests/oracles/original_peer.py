"""The published original (DingXiaoH/RepVGG), loaded from a checkout. Imports no npvgg.

The checkout is a folder with `repvgg.py`, `repvggplus.py` and `se_block.py`, named by the
environment variable NPVGG_ORIGINAL; nothing of it is kept here. Its three modules import each other
by their bare names, and print as they build: both are dealt with here.
"""

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import nn

VARIABLE = "NPVGG_ORIGINAL"
PLUS = "RepVGGplus-L2pse"


def published(folder=None):
    """The modules repvgg and repvggplus of a checkout; None where the variable names none."""
    folder = folder or os.environ.get(VARIABLE)
    if not folder:
        return None
    with patch.object(sys, "path", [str(Path(folder).resolve()), *sys.path]):
        return SimpleNamespace(
            repvgg=importlib.import_module("repvgg"),
            plus=importlib.import_module("repvggplus"),
        )


def network(original, name, *, scale=1, num_classes=1000):
    """A network without weights, by the original's name for it.

    scale: multiplies every width multiplier that the published table hands to the constructor
    """
    plus = name == PLUS
    module, table = (
        (original.plus, original.plus.repvggplus_func_dict)
        if plus
        else (original.repvgg, original.repvgg.func_dict)
    )
    cls = module.RepVGGplus if plus else module.RepVGG
    init = cls.__init__

    def scaled(self, num_blocks, num_classes=None, width_multiplier=None, **options):
        del num_classes  # 1000 in every row
        widths = [a * scale for a in width_multiplier]
        init(self, num_blocks, num_classes=classes, width_multiplier=widths, **options)

    classes = num_classes
    with (
        patch.object(cls, "__init__", scaled),
        torch.device("meta"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        return table[name]().eval()


def keywords(model):
    """What npvgg.create_model has to be told of a scaled network, read off its convolutions."""
    stem, *stages = _stages(model)
    widths = [stage[-1].rbr_dense.conv.out_channels for stage in stages]
    if hasattr(model, "stage3_first"):
        del widths[2]  # the first half of a stage that was cut in two
    return {
        "stem_chs": stem[0].rbr_dense.conv.out_channels,
        "widths": widths,
        "num_classes": model.linear.out_features,
    }


def deployed(original, model, inplace=False):
    """The network folded by the published `repvgg_model_convert`."""
    with patch.object(nn.Conv2d, "reset_parameters", lambda conv: None):  # saves seconds
        model = original.repvgg.repvgg_model_convert(model, do_copy=not inplace)
    if hasattr(model, "stage3_first"):
        model.switch_repvggplus_to_deploy()  # drops the auxiliary heads, too
    return model.eval()


def block_answers(model, x):
    """The output of every block, under timm's name for it; and pre_logits and logits.

    The blocks are called one after another, because the published forward of RepVGGplus needs its
    auxiliary heads, which its deploy form no longer has. Where the published forward runs, it must
    say the same.
    """
    x = x_in = torch.from_numpy(x).to(next(model.parameters()).dtype)
    said = {}
    stem, *stages = _stages(model)
    if hasattr(model, "stage3_first"):
        first, second = stages[2:4]
        stages[2:4] = [[*first, *second]]
    with torch.no_grad():
        for stage, blocks in enumerate([stem, *stages], start=-1):
            for index, block in enumerate(blocks):
                x = block(x)
                said["stem" if stage < 0 else f"stages.{stage}.{index}"] = x
        said["pre_logits"] = model.gap(x).flatten(1)
        said["logits"] = model.linear(said["pre_logits"])
        if not (hasattr(model, "stage3_first") and model.deploy):
            forward = model(x_in)
            forward = forward["main"] if isinstance(forward, dict) else forward
            assert torch.equal(forward, said["logits"])
    return {name: y.numpy() for name, y in said.items()}


def answers(model, x):
    """As timm_peer.answers: logits, pre_logits, and the last map of each resolution."""
    said = block_answers(model, x)
    maps = [name for name in said if name.startswith("st")]
    ends = [a for a, b in zip(maps, [*maps[1:], ""], strict=True) if a[:8] != b[:8]]
    return {
        "logits": said["logits"],
        "pre_logits": said["pre_logits"],
        **{f"intermediates.{i}": said[name] for i, name in enumerate(ends)},
    }


def _stages(model):
    """The stem and every stage, each as a list of its blocks."""
    names = [n for n, _ in model.named_children() if n.startswith("stage") and "aux" not in n]
    stages = [getattr(model, name) for name in names]
    stages = [getattr(stage, "blocks", stage) for stage in stages]
    return [list(s) if isinstance(s, nn.ModuleList) else [s] for s in stages]
