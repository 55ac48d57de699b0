"""The mistakes, planted one by one in the port of `porter.py`, each where it shows.

A plant is a few hooks of the port, written for its own sake: the catalogue's functions have no part
in it. NumPy only.
"""

from dataclasses import dataclass, field

import numpy as np

from tests.oracles import porter
from tests.oracles.porter import conv, norm, relu, sigmoid

F = np.float32


@dataclass(frozen=True)
class Plant:
    """A mistake by its name in the catalogue, the block it is made in, and the hooks that make it.

    also: the other mistakes that make the same numbers there
    """

    mistake: str
    network: str
    block: str
    hooks: dict
    form: type = porter.Port
    also: set = field(default_factory=set)

    def __str__(self):
        return f"{self.mistake}-{self.network}-{self.block}-{self.form.__name__}"


PLANTS = []


def plant(mistake, *where, form=porter.Port, also=(), **hooks):
    """The mistake in these places, "network block"; stages.1.0 of the plain network by default."""
    for place in where or ("tiny stages.1.0",):
        PLANTS.append(Plant(mistake, *place.split(), hooks, form, set(also)))


DEEP = ("tiny stages.0.1", "tiny_g2 stages.1.1", "tiny_se stages.0.0", "tiny_dilated stages.2.1")
"""Blocks with all three branches: plain, grouped, with attention, dilated."""
EVERY = ("tiny stages.1.0", *DEEP[1:])
"""A strided one, a grouped one, one with attention, a dilated one."""
SOME = ("tiny stages.0.0", "tiny_g2 stages.1.1")
"""For the further variants of a mistake."""


# --- Batch norms ----------------------------------------------------------------------------------


def normed(change, only=None):
    """A batch norm whose four vectors are changed, in one branch or in all."""

    def hook(port, branch, y):
        numbers = port.numbers(branch)
        return norm(y, *(change(*numbers) if only in (None, branch) else numbers))

    return hook


def eps(value, only=None):
    def hook(port, branch, y):
        return norm(y, *port.numbers(branch), eps=value if only in (None, branch) else 1e-5)

    return hook


plant("batch-norm-eps", *EVERY, norm=eps(1e-3))
plant("batch-norm-eps", *SOME, norm=eps(1e-3, "conv_kxk"))
plant("batch-norm-eps", *SOME, norm=eps(1e-3, "identity"))
plant("batch-norm-eps", norm=eps(1e-2, "conv_1x1"))
plant("batch-norm-eps", norm=eps(0.05))


def by_variance(port, branch, y):
    gamma, beta, mean, var = (a[:, None, None] for a in port.numbers(branch))
    return (y - mean) / (var + F(1e-5)) * gamma + beta


plant("variance-for-standard-deviation", *EVERY, norm=by_variance)


def exchanged(gamma, beta, mean, var):
    return gamma, beta, var, mean


def quietly(hook):
    def quiet(*args):
        with np.errstate(all="ignore"):
            return hook(*args)

    return quiet


# Where NaN is everywhere, as behind gates or in all of three branches, it tells of nothing.
plant("mean-and-variance-exchanged", norm=quietly(normed(exchanged)))
plant("mean-and-variance-exchanged", EVERY[0], EVERY[1], EVERY[3],
      norm=quietly(normed(exchanged, "conv_1x1")))  # fmt: skip
plant("gamma-and-beta-exchanged", *EVERY, norm=normed(lambda g, b, m, v: (b, g, m, v)))
plant("gamma-and-beta-exchanged", norm=normed(lambda g, b, m, v: (b, g, m, v), "conv_kxk"))
plant("gamma-missing", *EVERY, norm=normed(lambda g, b, m, v: (g * 0 + 1, b, m, v)))
plant("beta-missing", *EVERY, norm=normed(lambda g, b, m, v: (g, b * 0, m, v)))
plant("beta-missing", *SOME, norm=normed(lambda g, b, m, v: (g, b * 0, m, v), "identity"))
plant("gamma-and-beta-missing", *EVERY, norm=normed(lambda g, b, m, v: (g * 0 + 1, b * 0, m, v)))
plant("mean-missing", *EVERY, norm=normed(lambda g, b, m, v: (g, b, m * 0, v)))
plant("mean-added", *EVERY, norm=normed(lambda g, b, m, v: (g, b, -m, v)))
plant("mean-unscaled", *EVERY, norm=lambda port, branch, y: norm(
    y, *port.numbers(branch)[:1], 0 * y[0, :, 0, 0], 0 * y[0, :, 0, 0], port.numbers(branch)[3]
) + (port.numbers(branch)[1] - port.numbers(branch)[2])[:, None, None])  # fmt: skip


def beta_in_the_brackets(port, branch, y):
    gamma, beta, mean, var = (a[:, None, None] for a in port.numbers(branch))
    return (y - mean + beta) * (gamma / np.sqrt(var + F(1e-5)))


def kernel_unscaled(port, branch, y):
    gamma, beta, mean, var = (a[:, None, None] for a in port.numbers(branch))
    return y + beta - mean * gamma / np.sqrt(var + F(1e-5))


def scale_only(port, branch, y):
    gamma, _, _, var = (a[:, None, None] for a in port.numbers(branch))
    return y * (gamma / np.sqrt(var + F(1e-5)))


plant("beta-scaled", *EVERY, norm=beta_in_the_brackets)
plant("kernel-unscaled", *EVERY, norm=kernel_unscaled)
plant("bias-missing", *EVERY, norm=scale_only)
plant("bias-missing", *SOME, norm=lambda port, branch, y: (
    scale_only if branch == "conv_kxk" else porter.Port.norm)(port, branch, y))  # fmt: skip
plant("batch-norm-missing", *EVERY, norm=lambda port, branch, y: y)
plant("batch-norm-missing", *SOME, norm=lambda port, branch, y: (
    y if branch == "identity" else norm(y, *port.numbers(branch))))  # fmt: skip


def own_statistics(port, branch, y):
    gamma, beta, _, _ = port.numbers(branch)
    mean, var = y.mean(axis=(0, 2, 3)), y.var(axis=(0, 2, 3))
    return norm(y, gamma, beta, mean, var)


plant("batch-statistics", *EVERY, norm=own_statistics)
plant("batch-norms-exchanged", *EVERY, norm=lambda port, branch, y: norm(y, *port.numbers(
    {"conv_kxk": "conv_1x1", "conv_1x1": "conv_kxk"}.get(branch, branch))))  # fmt: skip
plant("batch-norm-used-twice", *DEEP, norm=lambda port, branch, y: norm(y, *port.numbers(
    {"identity": "conv_1x1"}.get(branch, branch))))  # fmt: skip


# --- Kernels --------------------------------------------------------------------------------------


def kernels(change, only=("conv_kxk",)):
    def hook(port, branch):
        w = port.w[f"{branch}.conv.weight"]
        return change(w) if branch in only else w

    return hook


def turned(w):
    out = np.empty_like(w)
    for i in range(3):
        for j in range(3):
            out[:, :, i, j] = w[:, :, 2 - i, 2 - j]
    return out


def mirrored_at_the_diagonal(w):
    out = np.empty_like(w)
    for i in range(3):
        for j in range(3):
            out[:, :, i, j] = w[:, :, j, i]
    return out


BOTH = ("conv_kxk", "conv_1x1")
plant("kernel-flipped", *EVERY, kernel=kernels(turned))
plant("kernel-flipped", "tiny_g2 stages.0.1", kernel=kernels(turned), form=porter.Folded)
plant("kernel-transposed", *EVERY, kernel=kernels(mirrored_at_the_diagonal))
plant("kernel-upside-down", *EVERY, kernel=kernels(lambda w: w[:, :, [2, 1, 0]]))
plant("kernel-mirrored", *EVERY, kernel=kernels(lambda w: w[:, :, :, [2, 1, 0]]))


def as_iohw(w):
    """The flat list of numbers, counted off as [c][k][r][s]."""
    K, C, R, S = w.shape
    flat, out = w.ravel(), np.empty_like(w)
    for k in range(K):
        for c in range(C):
            for r in range(R):
                for s in range(S):
                    out[k, c, r, s] = flat[((c * K + k) * R + r) * S + s]
    return out


def as_hwio(w):
    """The flat list of numbers, counted off as [r][s][c][k]."""
    K, C, R, S = w.shape
    flat, out = w.ravel(), np.empty_like(w)
    for k in range(K):
        for c in range(C):
            for r in range(R):
                for s in range(S):
                    out[k, c, r, s] = flat[((r * S + s) * C + c) * K + k]
    return out


def from_ohwi(w):
    """[k][r][s][c] in the file, counted off as [k][c][r][s]."""
    K, C, R, S = w.shape
    flat = [w[k, c, r, s] for k in range(K) for r in range(R) for s in range(S) for c in range(C)]
    return np.array(flat, F).reshape(w.shape)


plant("input-and-output-channels-exchanged", *EVERY, kernel=kernels(as_iohw, BOTH))
plant("input-and-output-channels-exchanged", *SOME, kernel=kernels(as_iohw))
plant("input-and-output-channels-exchanged", "tiny stages.0.0", also={"kernel-layout"},
      kernel=kernels(as_iohw, ("conv_1x1",)))  # fmt: skip
plant("kernel-layout", *EVERY, kernel=kernels(as_hwio, BOTH))
plant("kernel-layout", *SOME, kernel=kernels(as_hwio))
plant("kernel-layout", *SOME, kernel=kernels(from_ohwi))
plant("channels-reversed", *EVERY, kernel=kernels(lambda w: w[:, ::-1]))
plant("channels-reversed", kernel=kernels(lambda w: w[:, ::-1], BOTH),
      also={"order-of-the-input"})  # fmt: skip


def first_group_only(port, x):
    w = port.kernel("conv_kxk")
    return conv(x[:, : w.shape[1]], w, stride=port.stride, pad=(1, 1))


def first_group_only_1x1(port, x):
    w = port.kernel("conv_1x1")
    return conv(x[:, : w.shape[1]], w, stride=port.stride)


plant("groups-ignored", "tiny_g2 stages.0.1", "tiny_g2 stages.1.1",
      kxk=first_group_only, pointwise=first_group_only_1x1)  # fmt: skip
plant("groups-ignored", "tiny_g2 stages.1.1", kxk=first_group_only)


def strided_groups(port, x):
    """Group g reads the channels g, g + G, g + 2G …"""
    w, G = port.kernel("conv_kxk"), port.groups
    K = len(w)
    ys = [conv(x[:, g::G], w[g * K // G : (g + 1) * K // G], pad=(1, 1)) for g in range(G)]
    return np.concatenate(ys, axis=1)


def dealt_groups(port, x):
    """And output channel k is of the group k mod G."""
    w, G = port.kernel("conv_kxk"), port.groups
    y = np.zeros((len(x), len(w), *x.shape[2:]), F)
    for k in range(len(w)):
        y[:, k : k + 1] = conv(x[:, k % G :: G], w[k : k + 1], pad=(1, 1))
    return y


plant("groups-interleaved", "tiny_g2 stages.0.1", "tiny_g2 stages.1.1", kxk=strided_groups)
plant("groups-interleaved", "tiny_g2 stages.0.1", "tiny_g2 stages.1.1", kxk=dealt_groups)


def in_two_groups(branch):
    def hook(port, x):
        w = port.kernel(branch)
        K, C = w.shape[:2]
        pad, halves = (1, 1) if branch == "conv_kxk" else (0, 0), []
        for g in range(2):
            own = w[g * K // 2 : (g + 1) * K // 2, g * C // 2 : (g + 1) * C // 2]
            part = x[:, g * C // 2 : (g + 1) * C // 2]
            halves.append(conv(part, own, stride=port.stride, pad=pad))
        return np.concatenate(halves, axis=1)

    return hook


plant("grouped-at-the-wrong-parity", "tiny_g2 stages.0.0", "tiny_g2 stages.1.0",
      kxk=in_two_groups("conv_kxk"), pointwise=in_two_groups("conv_1x1"))  # fmt: skip


def identity_at(columns):
    def hook(port, wide, c):
        for k in range(len(wide)):
            column = columns(k, c, port.groups)
            if column < c:
                wide[k, column, 1, 1] = 1

    return hook


GROUPED = ("tiny_g2 stages.0.1", "tiny_g2 stages.1.1")
plant("identity-in-the-wrong-place", *GROUPED, form=porter.Folded,
      identity=identity_at(lambda k, c, G: k))  # fmt: skip
plant("identity-in-the-wrong-place", *GROUPED, form=porter.Folded,
      identity=identity_at(lambda k, c, G: k // G))  # fmt: skip
plant("identity-in-the-wrong-place", *GROUPED, form=porter.Folded,
      identity=identity_at(lambda k, c, G: k % G))  # fmt: skip


def corner(port, branch):
    """The 1×1 kernel at [0, 0], as zeros appended to the right and below leave it."""
    if branch != "conv_1x1":
        return porter.Folded.as_3x3(port, branch)
    return np.pad(port.kernel(branch).astype(np.float64), ((0, 0), (0, 0), (0, 2), (0, 2)))


def everywhere(port, branch):
    wide = porter.Folded.as_3x3(port, branch)
    return wide if branch == "conv_kxk" else np.repeat(
        np.repeat(wide[:, :, 1:2, 1:2], 3, axis=2), 3, axis=3)  # fmt: skip


plant("pointwise-off-centre", *EVERY, form=porter.Folded, as_3x3=corner)
plant("pointwise-off-centre", *SOME, form=porter.Folded, identity=lambda port, wide, c: [
    wide.__setitem__((k, k % c, 0, 1), 1) for k in range(len(wide))])  # fmt: skip
plant("pointwise-at-every-tap", *EVERY, form=porter.Folded, as_3x3=everywhere)


# --- Windows --------------------------------------------------------------------------------------


def padded_by(before, behind, **how):
    def hook(port, x, kernel=None, bias=None):
        d = how.get("dilation", port.dilation)
        w = port.kernel("conv_kxk") if kernel is None else kernel
        y = conv(x, w, stride=how.get("stride", port.stride), dilation=d, groups=port.groups,
                 pad=(before(port.dilation), behind(port.dilation)))  # fmt: skip
        return y if bias is None else y + bias[:, None, None]

    return hook


def nothing(d):
    return 0


def twice(d):
    return 2 * d


plant("padding-missing", "tiny stages.0.0", "tiny stages.0.1", "tiny_g2 stages.1.1",
      "tiny_se stages.0.1", form=porter.Folded, convolve=padded_by(nothing, nothing))  # fmt: skip
plant("uneven-padding", *DEEP, kxk=padded_by(nothing, twice))
plant("uneven-padding", *EVERY, kxk=padded_by(twice, nothing))
plant("uneven-padding", *SOME, form=porter.Folded, convolve=padded_by(nothing, twice))
plant("same-padding", "tiny stem", kxk=lambda port, x: conv(
    x, port.kernel("conv_kxk"), stride=2, pad=(0, 1)))  # fmt: skip
plant("same-padding", "tiny_dilated stem", "tiny_se stem", form=porter.Folded,
      convolve=lambda port, x, kernel, bias: conv(x, kernel, stride=2, pad=(0, 1))
      + bias[:, None, None])  # fmt: skip


def mirror_padding(port, x):
    d = port.dilation
    rows, columns = (
        [*range(d, 0, -1), *range(n), *range(n - 2, n - 2 - d, -1)] for n in x.shape[2:]
    )
    return conv(x[:, :, rows][:, :, :, columns], port.kernel("conv_kxk"), stride=port.stride,
                dilation=d, groups=port.groups)  # fmt: skip


plant("padding-of-another-kind", *EVERY, kxk=mirror_padding)
DILATED = ("tiny_dilated stages.2.1", "tiny_dilated stages.2.2")
plant("padding-not-dilated", *DILATED, form=porter.Folded,
      convolve=padded_by(lambda d: 1, lambda d: 1))  # fmt: skip
plant("dilation-ignored", *DILATED, kxk=padded_by(lambda d: 1, lambda d: 1, dilation=1))
plant("dilation-ignored", *DILATED, form=porter.Folded,
      convolve=padded_by(lambda d: 1, lambda d: 1, dilation=1))  # fmt: skip
plant("dilation-of-another-block", "tiny_dilated stages.2.0", "tiny stages.0.1",
      kxk=padded_by(twice, twice, dilation=2))  # fmt: skip


def at_stride_one(port, branch, x):
    pad = (1, 1) if branch == "conv_kxk" else (0, 0)
    return conv(x, port.kernel(branch), groups=port.groups, pad=pad)


def kept_top_left(port, x):
    y = at_stride_one(port, "conv_1x1", x)
    return y[:, :, : (y.shape[2] + 1) // 2, : (y.shape[3] + 1) // 2]


def averaged_first(port, x):
    quarter = (
        x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
    ) / 4
    return conv(quarter, port.kernel("conv_1x1"), groups=port.groups)


STRIDED = ("tiny stem", "tiny_g2 stem", "tiny_se stem")
plant("stride-ignored", "tiny stem", "tiny stages.1.0", "tiny_se stages.1.0",
      kxk=lambda port, x: at_stride_one(port, "conv_kxk", x),
      pointwise=lambda port, x: at_stride_one(port, "conv_1x1", x))  # fmt: skip
plant("stride-elsewhere", *STRIDED, "tiny stages.1.0", "tiny_dilated stages.0.0",
      pointwise=kept_top_left)  # fmt: skip
plant("stride-elsewhere", *STRIDED, pointwise=averaged_first)
plant("pointwise-off-centre", *STRIDED, pointwise=lambda port, x: conv(
    x[:, :, 1::2, 1::2], port.kernel("conv_1x1"), groups=port.groups))  # fmt: skip


# --- Blocks ---------------------------------------------------------------------------------------


def missing(*names):
    return lambda port, branches: sum(y for n, y in branches.items() if n not in names)


plant("branch-missing", *EVERY, join=missing("conv_1x1"))
plant("branch-missing", *EVERY, join=missing("conv_kxk"))
plant("branch-missing", *DEEP, join=missing("identity"))
plant("branch-missing", *SOME, join=missing("conv_1x1", "identity"))
plant("branch-twice", *EVERY, join=lambda port, branches: sum(branches.values())
      + branches["conv_1x1"])  # fmt: skip
plant("skip-connection", *DEEP, __call__=lambda port, x: porter.Port.__call__(port, x) + x)
plant("branches-not-added", *EVERY, join=lambda port, branches: sum(branches.values())
      / F(len(branches)))  # fmt: skip


def identity_last(port, x, branches):
    skip = branches.pop("identity")
    return porter.Port.finish(port, x, branches) + skip


plant("identity-after-the-activation", *DEEP, finish=identity_last)
plant("bias-missing", *SOME, form=porter.Folded, convolve=lambda port, x, kernel, bias:
      conv(x, kernel, groups=port.groups, pad=(1, 1)))  # fmt: skip
plant("activation-before-the-sum", *EVERY, join=lambda port, branches: sum(
    np.maximum(y, 0) for y in branches.values()))  # fmt: skip
plant("activation-before-the-sum", *SOME, join=lambda port, branches: sum(
    y if n == "identity" else np.maximum(y, 0) for n, y in branches.items()))  # fmt: skip
plant("activation-missing", *EVERY, act=lambda port, y: y)
plant("activation-doubled", "tiny stem", read=lambda port, x: relu(x))
plant("attention-on-the-wrong-side", "tiny_se stages.1.1", "tiny_se stages.0.1",
      attend=lambda port, y: porter.Port.attend(port, relu(y)))  # fmt: skip
plant("another-activation", *EVERY, act=lambda port, y: np.where(y > 0, y, y * F(0.01)))
plant("another-activation", *SOME, act=lambda port, y: y * sigmoid(y))

SE = ("tiny_se stem", "tiny_se stages.0.0", "tiny_se stages.1.0", "tiny_se stages.1.1")
plant("attention-on-the-wrong-side", *SE,
      finish=lambda port, x, branches: port.attend(relu(port.join(branches))))  # fmt: skip
plant("attention-on-the-wrong-side", "tiny_plus stages.0.0", "tiny_plus stages.1.0",
      finish=lambda port, x, branches: relu(port.attend(port.join(branches))))  # fmt: skip
plant("attention-missing", *SE, "tiny_plus stages.1.0", attend=lambda port, y: y)
plant("attention-activations", *SE, hidden=lambda port, y: y)
plant("attention-activations", *SE[:2], hidden=lambda port, y: y * sigmoid(y))
plant("attention-activations", *SE, "tiny_plus stages.0.1",
      gate=lambda port, y: np.minimum(np.maximum(y + 3, 0), 6) / 6)  # fmt: skip
plant("attention-activations", *SE[2:], gate=lambda port, y: y)


def without_bias(*names):
    def hook(port, squeezed):
        port.w = {n: a * 0 if n in names else a for n, a in port.w.items()}
        return porter.Port.gates(port, squeezed)

    return hook


plant("attention-weights", *SE, gates=without_bias("attn.fc2.bias"))
plant("attention-weights", *SE, gates=without_bias("attn.fc1.bias", "attn.fc2.bias"))
plant("attention-applied-wrongly", *SE, squeezed=lambda port, y: y.max(axis=(2, 3)))
plant("attention-applied-wrongly", *SE[1:], squeezed=lambda port, y: y.sum(axis=(2, 3)))
plant("attention-applied-wrongly", *SE, attend=lambda port, y: y + porter.Port.attend(port, y))
plant("attention-applied-wrongly", *SE, attend=lambda port, y: y
      + port.gates(port.squeezed(y))[:, :, None, None])  # fmt: skip


# --- Numbers and order ----------------------------------------------------------------------------


def half(a):
    return a.astype(np.float16).astype(F)


def upper_half(a):
    """bfloat16, ties to even, by hand."""
    out = np.empty(a.shape, F)
    for index, value in np.ndenumerate(a):
        bits = int(np.array(value, F).view(np.uint32))
        low, high = bits & 0xFFFF, bits >> 16
        high += low > 0x8000 or (low == 0x8000 and high & 1)
        out[index] = np.array(high << 16, np.uint32).view(F)
    return out


def cut_13_bits(a):
    """TensorFloat-32: 10 bits of mantissa, ties to even, by Python's integers."""
    out = np.empty(a.shape, F)
    for index, value in np.ndenumerate(a):
        bits = int(np.array(value, F).view(np.uint32))
        low, high = bits & 0x1FFF, bits >> 13
        high += low > 0x1000 or (low == 0x1000 and high & 1)
        out[index] = np.array(high << 13, np.uint32).view(F)
    return out


def short_weights(short, **more):
    return {
        "kernel": lambda port, branch: short(port.w[f"{branch}.conv.weight"]),
        "numbers": lambda port, branch: [short(a) for a in porter.Port.numbers(port, branch)],
        **more,
    }


plant("weights-rounded", *EVERY, **short_weights(half))
plant("weights-rounded", *SOME, **short_weights(upper_half))
plant("weights-rounded", *SOME, kernel=lambda port, b: half(port.w[f"{b}.conv.weight"]))
plant("weights-rounded", *SOME, form=porter.Folded, folded=lambda port: tuple(
    half(a) for a in porter.Folded.folded(port)))  # fmt: skip


def eight_bits(w):
    out = np.empty_like(w)
    for k in range(len(w)):
        step = abs(w[k]).max() / 127
        out[k] = np.round(w[k] / step) * step
    return out


plant("weights-quantised", *EVERY, kernel=lambda port, b: eight_bits(port.w[f"{b}.conv.weight"]))
plant("weights-quantised", *SOME, form=porter.Folded, folded=lambda port: (
    eight_bits(porter.Folded.folded(port)[0]), porter.Folded.folded(port)[1]))  # fmt: skip


def short_factors(short):
    def kxk(port, x):
        d, w = port.dilation, short(port.kernel("conv_kxk"))
        how = {"stride": port.stride, "groups": port.groups}
        return conv(short(x), w, dilation=d, pad=(d, d), **how)

    def pointwise(port, x):
        return conv(
            short(x), short(port.kernel("conv_1x1")), stride=port.stride, groups=port.groups
        )

    return {"kxk": kxk, "pointwise": pointwise}


plant("factors-rounded", *SOME, **short_factors(half))
plant("factors-rounded", *SOME, **short_factors(upper_half))
plant("factors-rounded", *EVERY, **short_factors(cut_13_bits))
plant("factors-rounded", *SOME, form=porter.Folded, convolve=lambda port, x, kernel, bias:
      porter.Folded.convolve(port, cut_13_bits(x), cut_13_bits(kernel), bias))  # fmt: skip
plant("tensor-rounded", *EVERY, write=lambda port, y: half(y))
plant("tensor-rounded", *SOME, write=lambda port, y: upper_half(y))
plant("results-rounded", *EVERY, **short_weights(
    half, kxk=lambda port, x: half(porter.Port.kxk(port, x)),
    pointwise=lambda port, x: half(porter.Port.pointwise(port, x)),
    norm=lambda port, branch, y: half(porter.Port.norm(port, branch, y)),
    join=lambda port, branches: half(sum(branches.values())),
    attend=lambda port, y: half(porter.Port.attend(port, y)),
    read=lambda port, x: half(x)))  # fmt: skip


def channels_last_bytes(port, y):
    n, k, p, q = y.shape
    flat = [y[i, c, r, s] for i in range(n) for r in range(p) for s in range(q) for c in range(k)]
    return np.array(flat, F).reshape(y.shape)


def read_as_channels_last(port, x):
    _, c, h, w = x.shape
    flat, out = x.ravel(), np.empty_like(x)
    for (i, j, r, s), _ in np.ndenumerate(x):
        out[i, j, r, s] = flat[((i * h + r) * w + s) * c + j]
    return out


plant("order-of-the-output", *EVERY, write=channels_last_bytes)
plant("order-of-the-output", *SOME, write=lambda port, y: np.moveaxis(y, 1, -1))
plant("order-of-the-output", *SOME, write=lambda port, y: y.swapaxes(2, 3))
plant("order-of-the-output", *SOME, write=lambda port, y: y[:, ::-1])
plant("order-of-the-input", *EVERY, read=read_as_channels_last)
plant("order-of-the-input", *SOME, read=lambda port, x: x.swapaxes(2, 3))


# --- What real ports and users did besides --------------------------------------------------------


def swapped_affine(port, branch, y):
    gamma, beta = port.numbers({"conv_kxk": "conv_1x1"}.get(branch, branch))[:2]
    return norm(y, gamma, beta, *port.numbers(branch)[2:])


plant("affine-of-another-branch", *EVERY, norm=swapped_affine)


def with_power(power):
    def hook(port, branch, y):
        gamma, beta, mean, var = (a[:, None, None] for a in port.numbers(branch))
        return (y - mean) * (gamma * (var + F(1e-5)) ** F(power)) + beta

    return hook


plant("standard-deviation-misused", *EVERY, norm=with_power(-0.25))
plant("standard-deviation-misused", *SOME, norm=with_power(0.5))


def unbiased_statistics(port, branch, y):
    gamma, beta, _, _ = port.numbers(branch)
    return norm(y, gamma, beta, y.mean(axis=(0, 2, 3)), y.var(axis=(0, 2, 3), ddof=1))


def moving_statistics(port, branch, y):
    gamma, beta, mean, var = port.numbers(branch)
    mean = F(0.9) * mean + F(0.1) * y.mean(axis=(0, 2, 3))
    return norm(y, gamma, beta, mean, F(0.9) * var + F(0.1) * y.var(axis=(0, 2, 3), ddof=1))


plant("statistics-corrected", *EVERY, norm=unbiased_statistics)
plant("statistics-corrected", *SOME, norm=moving_statistics)


def reversed_groups(port, x):
    w, G = port.kernel("conv_kxk"), port.groups
    parts = np.split(x, G, axis=1)[::-1]
    return conv(np.concatenate(parts, axis=1), w, groups=G, pad=(1, 1))


def shuffled_channels(port, x):
    y, G = porter.Port.kxk(port, x), port.groups
    return np.stack([y[:, k % G * (y.shape[1] // G) + k // G] for k in range(y.shape[1])], axis=1)


plant("groups-in-another-order", "tiny_g2 stages.0.1", "tiny_g2 stages.1.1", kxk=reversed_groups)
plant("groups-in-another-order", "tiny_g2 stages.0.1", "tiny_g2 stages.1.1", kxk=shuffled_channels)


def without_last(axis, count):
    def hook(port, y):
        y = y.copy()
        np.moveaxis(y, axis, 0)[-count:] = 0
        return y

    return hook


plant("remainder-left-out", *EVERY, write=without_last(1, 1))
plant("remainder-left-out", "tiny stages.1.0", "tiny_g2 stages.1.1", write=without_last(1, 4))
plant("remainder-left-out", *SOME, write=without_last(2, 1))
plant("remainder-left-out", *SOME, write=without_last(3, 1))
plant("remainder-left-out", *EVERY, kxk=lambda port, x: conv(
    x[:, :-1], port.kernel("conv_kxk")[:, :-1], stride=port.stride, dilation=port.dilation,
    pad=(port.dilation, port.dilation)) if port.groups == 1 else porter.Port.kxk(
    port, x * (np.arange(x.shape[1]) % (x.shape[1] // port.groups)
               < x.shape[1] // port.groups - 1)[:, None, None]))  # fmt: skip


def padded_with(values):
    def hook(port, x):
        d = port.dilation
        v = np.array(values, F).reshape(-1, 1, 1)
        wide = np.broadcast_to(v, (len(x), x.shape[1], x.shape[2] + 2 * d, x.shape[3] + 2 * d))
        wide = wide.astype(F)
        wide[:, :, d:-d, d:-d] = x
        return conv(wide, port.kernel("conv_kxk"), stride=port.stride, dilation=d,
                    groups=port.groups)  # fmt: skip

    return hook


BLACK = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
plant("padding-with-a-constant", "tiny stem", "tiny_se stem", kxk=padded_with(BLACK))
plant("padding-with-a-constant", *EVERY, kxk=padded_with([1.0]))
plant("same-padding-and-eps", "tiny stem", "tiny_se stem", norm=eps(1e-3),
      kxk=lambda port, x: conv(x, port.kernel("conv_kxk"), stride=2, pad=(0, 1)))  # fmt: skip


def cornered_with_eps(port):
    kernel, bias = 0, 0
    for branch in ("conv_kxk", "conv_1x1", "identity"):
        if branch == "identity" and "identity.weight" not in port.w:
            continue
        gamma, beta, mean, var = (a.astype(np.float64) for a in port.numbers(branch))
        t = gamma / np.sqrt(var + 1e-3)
        kernel = kernel + corner(port, branch) * t[:, None, None, None]
        bias = bias + beta - mean * t
    return kernel.astype(F), bias.astype(F)


plant("pointwise-in-the-corner-and-eps", *EVERY, form=porter.Folded, folded=cornered_with_eps)


def shortcut(port, x, branches):
    small = x[:, :, ::2, ::2]
    lacking = branches["conv_kxk"].shape[1] - small.shape[1]
    branches["shortcut"] = np.pad(small, ((0, 0), (0, lacking), (0, 0), (0, 0)))
    return porter.Port.finish(port, x, branches)


plant("identity-at-a-change-of-size", "tiny stages.1.0", "tiny_g2 stages.1.0", "tiny stem",
      finish=shortcut)  # fmt: skip
plant("block-repeated", *DEEP, __call__=lambda port, x: porter.Port.__call__(
    port, porter.Port.__call__(port, x)))  # fmt: skip
plant("block-repeated", *DEEP, also={"another-tensor"}, __call__=lambda port, x: x)
plant("gate-of-another-framework", *SE, gate=lambda port, y: np.clip(F(0.2) * y + F(0.5), 0, 1))


def autocast(short):
    def kxk(port, x):
        return short(porter.Port.kxk(Shortened(port, short), short(x)))

    def pointwise(port, x):
        return short(porter.Port.pointwise(Shortened(port, short), short(x)))

    return {"kxk": kxk, "pointwise": pointwise}


class Shortened:
    """A port whose kernels are short."""

    def __init__(self, port, short):
        self.port, self.short = port, short

    def kernel(self, branch):
        return self.short(self.port.kernel(branch))

    def __getattr__(self, name):
        return getattr(self.port, name)


plant("convolutions-rounded", *SOME, **autocast(half))
plant("convolutions-rounded", *SOME, **autocast(upper_half))


def folded_short(port):
    kernel, bias = None, None
    for branch in ("conv_kxk", "conv_1x1", "identity"):
        if branch == "identity" and "identity.weight" not in port.w:
            continue
        gamma, beta, mean, var = (a.astype(np.float16) for a in port.numbers(branch))
        t = gamma / np.sqrt(var + np.float16(1e-5))
        w = porter.Folded.as_3x3(port, branch).astype(np.float16) * t[:, None, None, None]
        b = beta - mean * t
        kernel, bias = (w, b) if kernel is None else (kernel + w, bias + b)
    return kernel.astype(F), bias.astype(F)


plant("fold-rounded", *SOME, "tiny_dilated stages.2.1", form=porter.Folded, folded=folded_short)


def int8(y, axes=None):
    step = abs(y).max(axis=axes, keepdims=True) / F(127)
    return np.round(y / np.where(step > 0, step, 1)) * step


plant("maps-quantised", *EVERY, write=lambda port, y: int8(y))
plant("maps-quantised", *SOME, write=lambda port, y: int8(y, (0, 2, 3)))
plant("maps-quantised", *SOME, kxk=lambda port, x: porter.Port.kxk(port, int8(x)),
      pointwise=lambda port, x: porter.Port.pointwise(port, int8(x)))  # fmt: skip

STRAY = np.array([0.013, -0.02, 0.031, 0.007, -0.011, 0.017, 0.023, -0.03, 0.02, 0.01, -0.04, 0.03])
plant("number-per-channel-added", "tiny stages.0.1", "tiny stages.1.0", "tiny_g2 stages.1.1",
      kxk=lambda port, x: porter.Port.kxk(port, x)
      + STRAY[: len(port.kernel("conv_kxk")), None, None].astype(F))  # fmt: skip
plant("branch-scaled", "tiny stages.0.1", "tiny stages.1.0", "tiny_g2 stages.1.1",
      join=lambda port, branches: branches["conv_1x1"] * F(0.37) + sum(
          y for n, y in branches.items() if n != "conv_1x1"))  # fmt: skip


def norms_of(other):
    """The batch norms of another block, in the branches that it has."""

    def numbers(port, branch):
        name = f"{other}.{branch}" if branch == "identity" else f"{other}.{branch}.bn"
        if f"{name}.weight" not in port.network:
            return porter.Port.numbers(port, branch)
        parts = ("weight", "bias", "running_mean", "running_var")
        return [port.network[f"{name}.{part}"] for part in parts]

    return numbers


def kernels_of(other):
    return lambda port, branch: port.network[f"{other}.{branch}.conv.weight"]


plant("batch-norms-of-another-block", "tiny stages.0.1", "tiny_g2 stages.0.1",
      numbers=norms_of("stages.0.0"))  # fmt: skip
plant("batch-norms-of-another-block", "tiny_dilated stages.2.1", numbers=norms_of("stages.2.2"))
plant("weights-of-another-block", "tiny stages.0.1", "tiny_se stages.0.1",
      numbers=norms_of("stages.0.0"), kernel=kernels_of("stages.0.0"))  # fmt: skip
plant("weights-of-another-block", "tiny_dilated stages.2.1",
      numbers=norms_of("stages.2.2"), kernel=kernels_of("stages.2.2"))  # fmt: skip
