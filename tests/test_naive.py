"""The oracle is judged by cases worked out by hand, by impulses, and by published constants."""

import ast
from fractions import Fraction
from pathlib import Path

import pytest

from tests.oracles import naive

KERNEL = [[1, 2, 4], [8, 16, 32], [64, 128, 256]]


def impulse(h, w, height=3, width=3):
    return [[[[int((i, j) == (h, w)) for j in range(width)] for i in range(height)]]]


def test_the_oracle_imports_nothing_that_it_judges():
    tree = ast.parse(Path(naive.__file__).read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported == {"math", "decimal", "fractions"}


def test_a_centred_impulse_shows_the_kernel_backwards():
    assert naive.conv2d(impulse(1, 1), [[KERNEL]], padding=1) == [
        [[[256, 128, 64], [32, 16, 8], [4, 2, 1]]]
    ]


def test_an_impulse_in_the_corner_loses_what_lies_outside():
    assert naive.conv2d(impulse(0, 0), [[KERNEL]], padding=1) == [
        [[[16, 8, 0], [2, 1, 0], [0, 0, 0]]]
    ]


def test_stride_dilation_and_bias_by_hand():
    x = [[[[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]]]]
    assert naive.conv2d(x, [[[[1]]]], [100], stride=2) == [[[[101, 103, 105], [111, 113, 115]]]]
    # taps two apart around the centre: only those on the map count
    assert naive.conv2d(x, [[KERNEL]], padding=2, dilation=2)[0][0][1] == [
        16 * 6 + 32 * 8, 16 * 7 + 32 * 9, 8 * 6 + 16 * 8 + 32 * 10, 8 * 7 + 16 * 9, 8 * 8 + 16 * 10,
    ]  # fmt: skip


def test_a_group_reads_its_own_channels_only():
    x = [[[[1]], [[10]], [[100]], [[1000]]]]
    weight = [[[[a]], [[b]]] for a, b in [(1, 2), (3, 4), (5, 6), (7, 8)]]
    assert naive.conv2d(x, weight, groups=2) == [[[[21]], [[43]], [[6500]], [[8700]]]]


def test_batch_norm_by_hand():
    half = Fraction(1, 2)
    x = [[[[5]], [[7]]]]
    got = naive.batch_norm(x, [2, 3], [1, -1], [1, 2], [Fraction(15, 4), 0], Fraction(1, 4))
    assert got == [[[[1 + 2 * 4 * half]], [[-1 + 3 * 5 * 2]]]]
    assert naive.root(2) == 2**0.5
    assert naive.root(Fraction(9, 4)) == Fraction(3, 2)


def test_pooling_and_the_classifier_by_hand():
    x = [[[[1, 2], [3, 10]], [[0, 0], [0, -4]]]]
    assert naive.global_pool(x, "avg") == [[4, -1]]
    assert naive.global_pool(x, "max") == [[10, 0]]
    assert naive.global_pool(x, "avgmax") == [[7, -0.5]]
    assert naive.global_pool(x, "catavgmax") == [[4, -1, 10, 0]]
    assert naive.linear([[4, -1]], [[1, 2], [3, 4], [0, 0]], [10, 20, 30]) == [[12, 28, 30]]


@pytest.mark.parametrize(
    ("name", "x", "value"),
    [
        ("relu", -2.0, 0), ("relu", 3.0, 3), ("relu6", 7.0, 6), ("leaky_relu", -100.0, -1),
        ("sigmoid", 0.0, 0.5), ("silu", 2.0, 1.7615941559557649), ("gelu", 1.0, 0.8413447460685429),
        ("gelu_tanh", 1.0, 0.8411919906082768), ("quick_gelu", 1.0, 0.8457957659328212),
        ("mish", 1.0, 0.8650983882673103), ("elu", -1.0, -0.6321205588285577),
        ("celu", -1.0, -0.6321205588285577), ("selu", 1.0, 1.0507009873554805),
        ("selu", -1e3, -1.7580993408473766), ("tanh", 0.5, 0.46211715726000973),
        ("hard_sigmoid", 0.0, 0.5), ("hard_sigmoid", 4.0, 1), ("hard_swish", -3.0, 0),
        ("hard_swish", 1.5, 1.125), ("hard_mish", -1.0, -0.5), ("hard_mish", 1.0, 1),
        ("identity", -7.0, -7),
    ],
)  # fmt: skip
def test_activations_have_their_published_values(name, x, value):
    assert naive.ACTIVATIONS[name](x) == pytest.approx(value, rel=1e-14)


def test_attention_by_hand():
    x = [[[[1.0, 3.0]], [[5.0, 5.0]], [[0.0, 2.0]]]]  # means 2, 5, 1
    one = {"fc.weight": [[[[0]], [[0]], [[0]]]] * 3, "fc.bias": [-3, 0, 3]}  # gates 0, 1/2, 1
    assert naive.ese(x, one) == [[[[0, 0]], [[2.5, 2.5]], [[0, 2]]]]
    kernel = {"conv.weight": [[[1, 0, 0]]]}  # channel k is gated by the mean of channel k - 1
    assert naive.eca(x, kernel, gate_layer="identity") == [[[[0, 0]], [[10, 10]], [[0, 10]]]]
    assert naive.ceca(x, kernel, gate_layer="identity") == [[[[1, 3]], [[10, 10]], [[0, 10]]]]
    bottleneck = {
        "fc1.weight": [[[[1]], [[-1]], [[0]]], [[[1]], [[0]], [[0]]]],  # (2 - 5, 2) -> (0, 2)
        "fc2.weight": [[[[9]], [[1]]], [[[9]], [[0]]], [[[9]], [[-1]]]],
        "fc2.bias": [0, 1, 0],
    }
    assert naive.se(x, bottleneck, gate_layer="identity") == [[[[2, 6]], [[5, 5]], [[0, -4]]]]
