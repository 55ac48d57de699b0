"""The oracle: what every operation of a RepVGG means, in loops, straight from its definition.

Nothing of npvgg is imported here, nor NumPy: maps are nested lists of Python numbers, and Python
does the arithmetic. Integers, fractions and decimals are exact as far as they go; floats are
float64, and a sum of floats is rounded once (`math.fsum`). Slow on purpose and clever nowhere, so
that it can be trusted by reading it. `test_naive.py` holds the cases worked out by hand.

Letters: N n image, C c input channel, K k output channel, H W h w input row and column, P Q p q
output row and column, R S r s kernel row and column.
"""

import math
from decimal import Decimal
from fractions import Fraction

EPS = 1e-5


def lists(array):
    """Nested lists of Python numbers; a float32 is a float64 without loss."""
    return array.tolist() if hasattr(array, "tolist") else array


def total(terms):
    """The sum; of floats, the float64 nearest to the exact sum."""
    terms = list(terms)
    return math.fsum(terms) if any(isinstance(t, float) for t in terms) else sum(terms)


def root(value):
    """The square root: exact where the number and its root are fractions."""
    if isinstance(value, Decimal):
        return value.sqrt()
    if isinstance(value, float):
        return math.sqrt(value)
    top, bottom = (math.isqrt(part) for part in Fraction(value).as_integer_ratio())
    return Fraction(top, bottom) if Fraction(top, bottom) ** 2 == value else math.sqrt(value)


def each(function, x, *others):
    """Apply a function to the numbers of maps (N, K, P, Q)."""
    if isinstance(x, list):
        return [each(function, *items) for items in zip(x, *others, strict=True)]
    return function(x, *others)


def add(*maps):
    """The sum of maps."""
    return each(lambda *values: total(values), *maps)


# --- Layers ---------------------------------------------------------------------------------------


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Compute  y[n,k,p,q] = b[k] + Σ_{c,r,s} x[n, g·C/G + c, h, w] · weight[k,c,r,s], zero outside,
    with g = k // (K/G), h = p·stride + r·dilation − padding, w likewise.
    """
    x, weight, bias = lists(x), lists(weight), lists(bias)
    H, W, K = len(x[0][0]), len(x[0][0][0]), len(weight)
    c_group, R, S = len(weight[0]), len(weight[0][0]), len(weight[0][0][0])
    P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1
    Q = (W + 2 * padding - dilation * (S - 1) - 1) // stride + 1

    def pixel(n, k, p, q):
        terms = [bias[k]] if bias is not None else []
        first = k // (K // groups) * c_group
        for c in range(c_group):
            for r in range(R):
                h = p * stride + r * dilation - padding
                for s in range(S):
                    w = q * stride + s * dilation - padding
                    if 0 <= h < H and 0 <= w < W:
                        terms.append(x[n][first + c][h][w] * weight[k][c][r][s])
        return total(terms)

    return [
        [[[pixel(n, k, p, q) for q in range(Q)] for p in range(P)] for k in range(K)]
        for n in range(len(x))
    ]


def batch_norm(x, gamma, beta, mean, var, eps=EPS):
    """Compute  y[n,k] = gamma[k] · (x[n,k] − mean[k]) / √(var[k] + eps) + beta[k]."""
    gamma, beta, mean, var = map(lists, (gamma, beta, mean, var))
    return [
        [
            each(
                lambda v, k=k: gamma[k] * (v - mean[k]) / root(var[k] + eps) + beta[k],
                plane,
            )
            for k, plane in enumerate(image)
        ]
        for image in lists(x)
    ]


def linear(x, weight, bias):
    """Compute  y[n,k] = b[k] + Σ_c x[n,c] · weight[k,c]."""
    return [
        [
            total([b, *(v * w for v, w in zip(row, ws, strict=True))])
            for ws, b in zip(lists(weight), lists(bias), strict=True)
        ]
        for row in lists(x)
    ]


def pixels(plane):
    return [value for row in plane for value in row]


def mean(values):
    return total(values) / len(values)


def global_pool(x, kind):
    """One number per channel: mean, maximum, half their sum, or both one after the other."""
    means = [[mean(pixels(plane)) for plane in image] for image in lists(x)]
    maxima = [[max(pixels(plane)) for plane in image] for image in lists(x)]
    return {
        "avg": means,
        "max": maxima,
        "avgmax": each(lambda a, b: (a + b) / 2, means, maxima),
        "catavgmax": [a + b for a, b in zip(means, maxima, strict=True)],
        "": lists(x),
    }[kind]


# --- Activations ----------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def clip(x, low, high):
    return min(max(x, low), high)


# Self-normalizing networks, arXiv:1706.02515, eq. 14: the two constants in closed form.
_TAIL = math.erfc(0.5**0.5) * math.e**0.5
SELU_ALPHA = -((2 / math.pi) ** 0.5) / (_TAIL - 1)
SELU_SCALE = (
    (1 - _TAIL)
    * (2 * math.pi) ** 0.5
    * (
        2 * math.erfc(2**0.5) * math.e**2
        + math.pi * _TAIL**2
        - 2 * (2 + math.pi) * _TAIL
        + math.pi
        + 2
    )
    ** -0.5
)

ACTIVATIONS = {
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: clip(x, 0, 6),
    "leaky_relu": lambda x: x if x > 0 else x / 100,
    "silu": lambda x: x * sigmoid(x),
    "swish": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * math.erfc(-x / 2**0.5) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "celu": lambda x: max(x, 0) + min(0, math.expm1(x)),
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * math.expm1(x)),
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "hard_sigmoid": lambda x: clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * clip(x + 3, 0, 6) / 6,
    "hard_mish": lambda x: x / 2 * clip(x + 2, 0, 2),
    "identity": lambda x: x,
}


# --- Attention ------------------------------------------------------------------------------------
# Weights come under timm's names. A gate is one number per channel, or per pixel.


def scaled(x, gates):
    """Compute  x[n,k,p,q] · gates[n][k]."""
    return [
        [each(lambda v, g=g: v * g, plane) for plane, g in zip(image, gs, strict=True)]
        for image, gs in zip(x, gates, strict=True)
    ]


def pointwise(vectors, weights, name):
    """A 1×1 convolution of a 1×1 map, with or without a bias."""
    matrix = [[c[0][0] for c in row] for row in lists(weights[f"{name}.weight"])]
    return linear(vectors, matrix, weights.get(f"{name}.bias", [0] * len(matrix)))


def se(x, weights, act_layer="relu", gate_layer="sigmoid", add_maxpool=False, **_):
    """X · gate(fc2(act(fc1(mean x)))), arXiv:1709.01507 §3."""
    x = lists(x)
    hidden = pointwise(global_pool(x, "avgmax" if add_maxpool else "avg"), weights, "fc1")
    gates = pointwise(each(ACTIVATIONS[act_layer], hidden), weights, "fc2")
    return scaled(x, each(ACTIVATIONS[gate_layer], gates))


def ese(x, weights, gate_layer="hard_sigmoid", add_maxpool=False, **_):
    """X · gate(fc(mean x)), arXiv:1911.06667 §3.3."""
    x = lists(x)
    gates = pointwise(global_pool(x, "avgmax" if add_maxpool else "avg"), weights, "fc")
    return scaled(x, each(ACTIVATIONS[gate_layer], gates))


def eca(x, weights, gate_layer="sigmoid", circular=False, act_layer=None, **_):
    """X · gate(Σ_j kernel[j] · mean[k + j − L // 2]), arXiv:1910.03151; zero beyond the ends.

    With a second kernel (timm's use_mlp), it reads act(w[h] · mean + b[h]) of every h instead.
    """
    x, gates = lists(x), []
    kernels, bias = lists(weights["conv.weight"])[0], 0
    if "conv2.weight" in weights:
        first = [(w, b) for ((w,),), b in zip(*(lists(weights[f"conv.{n}"]) for n in
                 ("weight", "bias")), strict=True)]  # fmt: skip
        act = ACTIVATIONS[act_layer or "relu"]
        kernels, (bias,) = lists(weights["conv2.weight"])[0], lists(weights["conv2.bias"])
    for means in global_pool(x, "avg"):
        K, rows = len(means), [means]
        if "conv2.weight" in weights:
            rows = [[act(w * m + b) for m in means] for w, b in first]
        gates.append([])
        for k in range(K):
            terms = [bias]
            for row, kernel in zip(rows, kernels, strict=True):
                places = [(k + j - len(kernel) // 2, w) for j, w in enumerate(kernel)]
                inside = [(i % K, w) for i, w in places if circular or 0 <= i < K]
                terms += [row[i] * w for i, w in inside]
            gates[-1].append(total(terms))
    return scaled(x, each(ACTIVATIONS[gate_layer], gates))


def ceca(x, weights, **options):
    """Eca with the channels on a circle."""
    return eca(x, weights, circular=True, **options)


def cbam(x, weights, gate_layer="sigmoid", light=False, **_):
    """Channels, then pixels, arXiv:1807.06521 §3; `light`: half sums in place of mean and max."""
    x, gate = lists(x), ACTIVATIONS[gate_layer]

    def bottleneck(vectors):
        hidden = each(ACTIVATIONS["relu"], pointwise(vectors, weights, "channel.fc1"))
        return pointwise(hidden, weights, "channel.fc2")

    if light:
        channel = bottleneck(global_pool(x, "avgmax"))
    else:
        channel = add(bottleneck(global_pool(x, "avg")), bottleneck(global_pool(x, "max")))
    x = scaled(x, each(gate, channel))

    summaries = []
    for image in x:
        means = each(lambda *values: mean(values), *image)
        maxima = each(lambda *values: max(values), *image)
        half = each(lambda a, b: (a + b) / 2, means, maxima)
        summaries.append([half] if light else [means, maxima])
    kernel = lists(weights["spatial.conv.conv.weight"])
    y = conv2d(summaries, kernel, padding=len(kernel[0][0]) // 2)
    y = each(gate, batch_norm(y, *statistics(weights, "spatial.conv.bn")))
    return [
        [each(lambda v, g: v * g, plane, gates) for plane in image]
        for image, (gates,) in zip(x, y, strict=True)
    ]


def lcbam(x, weights, gate_layer="sigmoid", **_):
    """Light CBAM. timm builds it with sigmoid gates whatever gate_layer says."""
    return cbam(x, weights, light=True)


ATTENTION = {
    "se": se,
    "ese": ese,
    "eca": eca,
    "ecam": eca,
    "ceca": ceca,
    "cbam": cbam,
    "lcbam": lcbam,
}


# --- The network ----------------------------------------------------------------------------------


def statistics(tensors, name):
    """(gamma, beta, mean, var) of the batch norm of this name."""
    return [tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]


def branches(x, tensors, stride=1, dilation=1, groups=1, eps=EPS):
    """BN(x ∗ w3) + BN(x ∗ w1) + BN(x), the last where the block has an identity branch."""
    w3, w1 = tensors["conv_kxk.conv.weight"], tensors["conv_1x1.conv.weight"]
    parts = [
        batch_norm(
            conv2d(x, w3, None, stride, dilation, dilation, groups),
            *statistics(tensors, "conv_kxk.bn"),
            eps,
        ),
        batch_norm(
            conv2d(x, w1, None, stride, 0, 1, groups), *statistics(tensors, "conv_1x1.bn"), eps
        ),
    ]
    if "identity.weight" in tensors:
        parts.append(batch_norm(x, *statistics(tensors, "identity"), eps))
    return add(*parts)


def repvgg(
    x, tensors, *, depths, strides, stem_stride=2, groups=1, output_stride=32, act="relu",
    attn=None, attn_kwargs=None, attn_after_act=False, pool="avg",
):  # fmt: skip
    """A whole network in train form: (the output of every block, the pooled vectors, the logits).

    tensors: timm's names. The logits are the pooled vectors where there is no classifier.
    """

    def block(x, name, stride, dilation, groups):
        own = {
            k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")
        }
        attend = {k.removeprefix("attn."): v for k, v in own.items() if k.startswith("attn.")}
        steps = [lambda y: each(ACTIVATIONS[act], y)]
        if attn:
            steps.insert(
                len(steps) if attn_after_act else 0,
                lambda y: ATTENTION[attn](y, attend, **(attn_kwargs or {})),
            )
        y = branches(x, own, stride, dilation, groups)
        for step in steps:
            y = step(y)
        return y

    maps = [block(lists(x), "stem", stem_stride, 1, 1)]
    reached, dilation = stem_stride, 1
    for stage, (depth, stride) in enumerate(zip(depths, strides, strict=True)):
        if reached >= output_stride:  # no smaller: look further instead
            dilation, stride = dilation * stride, 1
        reached *= stride
        for index in range(depth):
            first = 1 if dilation in (1, 2) else 2  # timm `create_byob_stages`: half of it
            maps.append(
                block(
                    maps[-1],
                    f"stages.{stage}.{index}",
                    1 if index else stride,
                    dilation if index else first,
                    groups if index % 2 else 1,
                )
            )
    pooled = global_pool(maps[-1], pool)
    if "head.fc.weight" not in tensors:
        return maps, pooled, pooled
    return maps, pooled, linear(pooled, tensors["head.fc.weight"], tensors["head.fc.bias"])
