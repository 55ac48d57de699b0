"""Networks so small that the oracle runs them in milliseconds, one for each turn of the road."""

import numpy as np

from npvgg import RepVGGConfig, create_model
from npvgg.weights.build import random_tensors
from tests.oracles import naive

BASE = {"depths": (1, 2, 3, 1), "widths": (4, 8, 8, 12), "stem_chs": 4, "num_classes": 5}
NETWORKS = {
    "plain": {},
    "groups": {"groups": 2},
    "identities-everywhere": {
        "in_chans": 4, "widths": (4, 4, 8, 8), "stem_stride": 1, "strides": (1, 2, 1, 1),
    },
    "output-stride-16": {"output_stride": 16},
    "output-stride-8": {"output_stride": 8, "groups": 2},
    "grey": {"in_chans": 1},
    "silu": {"act_layer": "silu"},
    "gelu": {"act_layer": "gelu"},
    "se": {"attn_layer": "se", "attn_kwargs": {"rd_divisor": 1, "rd_ratio": 0.25}},
    "se-after-the-activation": {
        "attn_layer": "se", "attn_kwargs": {"rd_channels": 2}, "attn_after_act": True,
    },
    "ese-hard-swish": {"attn_layer": "ese", "act_layer": "hard_swish"},
    "eca": {"attn_layer": "eca"},
    "cbam": {"attn_layer": "cbam", "attn_kwargs": {"spatial_kernel_size": 3}},
    "pool-max": {"global_pool": "max"},
    "pool-catavgmax": {"global_pool": "catavgmax"},
    "embedding": {"num_classes": 0},
    "no-pool": {"num_classes": 0, "global_pool": ""},
}  # fmt: skip


def keywords(name="plain", **changes):
    """The keywords that `create_model` takes for a tiny network."""
    return BASE | NETWORKS[name] | changes


def config(name="plain", **changes):
    return RepVGGConfig(**keywords(name, **changes))


def tensors(name="plain", seed=0, **changes):
    """Train-form float32 weights under timm's names."""
    return random_tensors(config(name, **changes), seed)


def images(rng, n=2, channels=3, height=13, width=10, dtype=np.float64):
    return rng.standard_normal((n, channels, height, width)).astype(dtype)


def model(name="plain", *, changes=None, engine="reference", **options):
    """A tiny model with the weights of seed 0; `changes` go into configuration and weights.

    The reference engine runs it: tests look into its steps, or plant faults there.
    """
    changes = changes or {}
    given = {**keywords(name, **changes), "weights": tensors(name, **changes), "engine": engine}
    return create_model("repvgg_a0", **given, **options)


def photos(model, rng, n=2, dtype=np.float32):
    """Images that a model takes."""
    return images(rng, n, model.config.in_chans, dtype=dtype)


def oracle(tensors, x, name="plain"):
    """What the loops say: block or head → map, vector or logits, in float64, in train form."""
    fields = config(name)
    maps, pooled, logits = naive.repvgg(
        x, tensors,
        **{key: getattr(fields, key) for key in (
            "depths", "strides", "stem_stride", "groups", "output_stride", "attn_kwargs",
            "attn_after_act",
        )},
        act=fields.act_layer, attn=fields.attn_layer, pool=fields.global_pool,
    )  # fmt: skip
    blocks = [f"stages.{s}.{b}" for s, depth in enumerate(fields.depths) for b in range(depth)]
    answers = dict(zip(["stem", *blocks], maps, strict=True)) | {"pooled": pooled, "logits": logits}
    return {place: np.array(values, np.float64) for place, values in answers.items()}


def answers(model, x):
    """What the model says, under the same names."""
    outputs = model.outputs(x, maps=True)
    return outputs.maps | {"pooled": outputs.pooled, "logits": outputs.logits}


def first_wrong(got, want):
    """The first place, in order of execution, where twelve digits do not agree; "" for none."""
    assert list(got) == list(want)
    for place, truth in want.items():
        if got[place].shape != truth.shape:
            return place
        if not abs(got[place] - truth).max() <= 1e-12 * abs(truth).max():
            return place
    return ""
