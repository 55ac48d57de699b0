"""Each attention layer is judged by the oracle, over its options; its weights by timm's shapes."""

import numpy as np
import pytest

from npvgg import attention
from npvgg.errors import ArgumentError
from tests.oracles import naive

# id: layer, channels, options, the shapes timm 1.0.31 gives its weights
CASES = {
    "se": ("se", 32, {}, {"fc1.weight": (8, 32, 1, 1), "fc1.bias": (8,),
                          "fc2.weight": (32, 8, 1, 1), "fc2.bias": (32,)}),
    "se-rd_ratio": ("se", 48, {"rd_ratio": 1 / 4, "rd_divisor": 1},
                    {"fc1.weight": (12, 48, 1, 1), "fc1.bias": (12,),
                     "fc2.weight": (48, 12, 1, 1), "fc2.bias": (48,)}),
    "se-d2se": ("se", 40, {"rd_ratio": 1 / 16, "rd_divisor": 1},  # 2.5 rounds up
                {"fc1.weight": (3, 40, 1, 1), "fc1.bias": (3,),
                 "fc2.weight": (40, 3, 1, 1), "fc2.bias": (40,)}),
    "se-every-option": ("se", 4, {"rd_channels": 3, "add_maxpool": True, "bias": False,
                                  "act_layer": "silu", "gate_layer": "hard_sigmoid"},
                        {"fc1.weight": (3, 4, 1, 1), "fc2.weight": (4, 3, 1, 1)}),
    "ese": ("ese", 5, {}, {"fc.weight": (5, 5, 1, 1), "fc.bias": (5,)}),
    "ese-maxpool": ("ese", 5, {"add_maxpool": True, "gate_layer": "sigmoid"},
                    {"fc.weight": (5, 5, 1, 1), "fc.bias": (5,)}),
    "eca-4": ("eca", 4, {}, {"conv.weight": (1, 1, 3)}),
    "eca-64": ("eca", 64, {}, {"conv.weight": (1, 1, 3)}),
    "eca-128": ("eca", 128, {}, {"conv.weight": (1, 1, 5)}),  # (7 + 1) / 2 = 4, made odd
    "eca-gamma": ("eca", 128, {"gamma": 1, "beta": 0, "gate_layer": "hard_sigmoid"},
                  {"conv.weight": (1, 1, 7)}),
    "eca-mlp": ("eca", 24, {"use_mlp": True, "rd_channels": 3, "act_layer": "silu"},
                {"conv.weight": (3, 1, 1), "conv.bias": (3,),
                 "conv2.weight": (1, 3, 3), "conv2.bias": (1,)}),
    "ecam-128": ("ecam", 128, {}, {"conv.weight": (16, 1, 1), "conv.bias": (16,),
                                   "conv2.weight": (1, 16, 5), "conv2.bias": (1,)}),
    "ecam-20": ("ecam", 20, {"gate_layer": "hard_sigmoid"},  # 2.5 rounds to 8
                {"conv.weight": (8, 1, 1), "conv.bias": (8,),
                 "conv2.weight": (1, 8, 3), "conv2.bias": (1,)}),
    "ecam-without": ("ecam", 8, {"use_mlp": False}, {"conv.weight": (1, 1, 3)}),
    "ceca-128": ("ceca", 128, {}, {"conv.weight": (1, 1, 5)}),
    "cbam": ("cbam", 32, {}, {"channel.fc1.weight": (2, 32, 1, 1),
                              "channel.fc2.weight": (32, 2, 1, 1),
                              "spatial.conv.conv.weight": (1, 2, 7, 7)}),
    "cbam-every-option": ("cbam", 6, {"rd_channels": 2, "spatial_kernel_size": 3,
                                      "mlp_bias": True, "gate_layer": "hard_sigmoid"},
                          {"channel.fc1.weight": (2, 6, 1, 1), "channel.fc1.bias": (2,),
                           "channel.fc2.weight": (6, 2, 1, 1), "channel.fc2.bias": (6,),
                           "spatial.conv.conv.weight": (1, 2, 3, 3)}),
    "lcbam": ("lcbam", 32, {}, {"channel.fc1.weight": (2, 32, 1, 1),
                                "channel.fc2.weight": (32, 2, 1, 1),
                                "spatial.conv.conv.weight": (1, 1, 7, 7)}),
    "lcbam-gate-is-ignored": ("lcbam", 16, {"gate_layer": "hard_sigmoid"},
                              {"channel.fc1.weight": (1, 16, 1, 1),
                               "channel.fc2.weight": (16, 1, 1, 1),
                               "spatial.conv.conv.weight": (1, 1, 7, 7)}),
}  # fmt: skip
SPATIAL_BN = {
    f"spatial.conv.bn.{part}": (1,) for part in ("weight", "bias", "running_mean", "running_var")
}


def layer_and_weights(case, rng, dtype=np.float64):
    layer, channels, options, _ = CASES[case]
    shapes = attention.shapes(layer, channels, options)
    return layer, options, {n: rng.uniform(0.1, 1.5, s).astype(dtype) for n, s in shapes.items()}


@pytest.mark.parametrize("case", CASES)
def test_weights_have_timm_s_names_and_shapes(case):
    layer, channels, options, want = CASES[case]
    extra = SPATIAL_BN if "cbam" in layer else {}
    assert attention.shapes(layer, channels, options) == want | extra


@pytest.mark.parametrize("case", CASES)
def test_attention_is_its_definition(case, rng):
    layer, options, weights = layer_and_weights(case, rng)
    x = rng.standard_normal((2, CASES[case][1], 3, 4))
    want = np.array(naive.ATTENTION[layer](x, weights, **options))
    got = attention.attend(x, layer, weights, options)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14 * np.abs(want).max())


@pytest.mark.parametrize("case", CASES)
def test_attention_keeps_float32_the_batch_apart_and_its_input_whole(case, rng):
    layer, options, weights = layer_and_weights(case, rng, np.float32)
    x = rng.standard_normal((3, CASES[case][1], 3, 4)).astype(np.float32)
    before = x.copy()
    got = attention.attend(x, layer, weights, options)
    assert got.dtype == np.float32
    alone = [attention.attend(image[None], layer, weights, options)[0] for image in x]
    np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(x, before)
    assert attention.attend(x[:0], layer, weights, options).shape == (0, *x.shape[1:])


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("se", {"rd_ration": 0.5}, "attn_kwargs: expected options of 'se' .*rd_ratio"),
        ("se", {"gate_layer": "sigmoyd"}, "activation: .*'sigmoyd'"),
        ("se", {"act_layer": ["relu"]}, "attn_kwargs"),
        ("se", {"rd_divisor": 0}, "attn_kwargs: .*'rd_divisor': 0"),
        ("se", {"rd_ratio": "half"}, "attn_kwargs: .*'half'"),
        ("se", {"rd_ratio": float("nan")}, "attn_kwargs: .*nan"),
        ("se", {"rd_ratio": float("inf")}, "attn_kwargs: .*inf"),
        ("se", {"rd_channels": "8"}, "attn_kwargs: .*'8'"),
        ("se", {"rd_channels": -8}, "attn_kwargs: .*-8"),
        ("se", {"rd_channels": 1.5}, "attn_kwargs: .*1.5"),
        ("se", {"layer": "se"}, "attn_kwargs: expected options of 'se'"),
        ("eca", {"layer": "se", "channels": 3}, "attn_kwargs: expected options of 'eca'"),
        ("cbam", {"options": {}}, "attn_kwargs: expected options of 'cbam'"),
        ("eca", {"gamma": 0}, "attn_kwargs: .*'gamma': 0"),
        ("eca", {"kernel": 5}, "attn_kwargs: expected options of 'eca'"),
        ("cbam", {"spatial_kernel_size": 4}, "spatial_kernel_size must be odd, got 4"),
        ("cbam", {"spatial_kernel_size": -1}, "attn_kwargs: .*-1"),
        ("cbam", {"spatial_kernel_size": 3.0}, "attn_kwargs: .*3.0"),
    ],
)
def test_wrong_options_are_named(layer, options, message):
    with pytest.raises(ArgumentError, match=message):
        attention.shapes(layer, 32, options)
