"""A port of RepVGG as a careful person writes it: float32, tap by tap, and a hook for every step.

The tests plant mistakes in it by overriding a hook. It imports NumPy only, and nothing of npvgg, so
the planted numbers owe nothing to the catalogue that has to name them.
"""

import numpy as np


def conv(x, w, *, stride=1, dilation=1, groups=1, pad=(0, 0)):
    """Multiply and add, term after term, in the dtype of x; pad: before, after."""
    w = np.asarray(w, x.dtype)
    k, c, r, s = w.shape
    z = np.pad(x, ((0, 0), (0, 0), pad, pad))
    P, Q = (
        (size - dilation * (t - 1) - 1) // stride + 1
        for size, t in zip(z.shape[2:], (r, s), strict=True)
    )
    y = np.zeros((len(x), k, P, Q), x.dtype)
    for g in range(groups):
        kernels = slice(g * k // groups, (g + 1) * k // groups)
        for channel in range(c):
            for i in range(r):
                for j in range(s):
                    rows = slice(i * dilation, i * dilation + (P - 1) * stride + 1, stride)
                    columns = slice(j * dilation, j * dilation + (Q - 1) * stride + 1, stride)
                    patch = z[:, g * c + channel, rows, columns]
                    taps = w[kernels, channel, i, j]
                    y[:, kernels] += patch[:, None] * taps[:, None, None]
    return y


def norm(y, gamma, beta, mean, var, eps=1e-5):
    """Batch norm by running statistics, channel by channel."""
    out = np.empty_like(y)
    for k in range(y.shape[1]):
        out[:, k] = (y[:, k] - mean[k]) / np.sqrt(var[k] + y.dtype.type(eps)) * gamma[k] + beta[k]
    return out


def relu(y):
    return np.where(y > 0, y, y.dtype.type(0))


def sigmoid(y):
    return 1 / (1 + np.exp(-y))


class Port:
    """One block; every method is a hook."""

    def __init__(self, tensors, place, taps, network):
        """network: the tensors of all blocks, which only a mistake reads"""
        self.w, self.place, self.taps, self.network = tensors, place, taps, network
        self.stride, self.dilation, self.groups = place.stride, place.dilation, place.groups

    def numbers(self, branch):
        """Gamma, beta, mean, var of a branch's batch norm."""
        name = "identity" if branch == "identity" else f"{branch}.bn"
        return [self.w[f"{name}.{p}"] for p in ("weight", "bias", "running_mean", "running_var")]

    def kernel(self, branch):
        return self.w[f"{branch}.conv.weight"]

    def read(self, x):
        return x

    def kxk(self, x):
        return conv(
            x, self.kernel("conv_kxk"), stride=self.stride, dilation=self.dilation,
            groups=self.groups, pad=(self.dilation, self.dilation),
        )  # fmt: skip

    def pointwise(self, x):
        return conv(x, self.kernel("conv_1x1"), stride=self.stride, groups=self.groups)

    def skip(self, x):
        return x

    def norm(self, branch, y):
        return norm(y, *self.numbers(branch))

    def join(self, branches):
        return sum(branches.values())

    def squeezed(self, y):
        return y.mean(axis=(2, 3))

    def gates(self, squeezed):
        """(N, K) → (N, K)"""
        w1, b1, w2, b2 = (
            self.w[f"attn.{n}"] for n in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
        )
        return self.gate(self.hidden(squeezed @ w1[:, :, 0, 0].T + b1) @ w2[:, :, 0, 0].T + b2)

    def hidden(self, y):
        return relu(y)

    def gate(self, y):
        return sigmoid(y)

    def attend(self, y):
        if "attn.fc1.weight" not in self.w:
            return y
        return y * self.gates(self.squeezed(y))[:, :, None, None]

    def act(self, y):
        return relu(y)

    def finish(self, x, branches):
        y = self.join(branches)
        self.taps["sum"] = y
        if self.place.attn_after_act:
            return self.attend(self.act(y))
        y = self.attend(y)
        self.taps["attn"] = y
        return self.act(y)

    def write(self, y):
        return y

    def __call__(self, x):
        x = self.read(x)
        branches = {}
        for branch, step in (
            ("conv_kxk", self.kxk), ("conv_1x1", self.pointwise), ("identity", self.skip)
        ):  # fmt: skip
            if branch == "identity" and "identity.weight" not in self.w:
                continue
            y = step(x)
            self.taps[f"{branch}.conv"] = y
            branches[branch] = self.norm(branch, y)
            self.taps["identity" if branch == "identity" else f"{branch}.bn"] = branches[branch]
        return self.write(self.finish(x, branches))


class Folded(Port):
    """One block as one convolution, folded in float64 and rounded once."""

    def folded(self):
        """(kernel, bias)"""
        kernel, bias = 0, 0
        for branch in ("conv_kxk", "conv_1x1", "identity"):
            if branch == "identity" and "identity.weight" not in self.w:
                continue
            gamma, beta, mean, var = (a.astype(np.float64) for a in self.numbers(branch))
            t = gamma / np.sqrt(var + 1e-5)
            kernel = kernel + self.as_3x3(branch) * t[:, None, None, None]
            bias = bias + beta - mean * t
        return kernel.astype(np.float32), bias.astype(np.float32)

    def as_3x3(self, branch):
        if branch == "conv_kxk":
            return self.kernel(branch).astype(np.float64)
        k, c = self.kernel("conv_kxk").shape[:2]
        wide = np.zeros((k, c, 3, 3))
        if branch == "conv_1x1":
            wide[:, :, 1, 1] = self.kernel(branch)[:, :, 0, 0]
        else:
            self.identity(wide, c)
        return wide

    def identity(self, wide, c):
        for k in range(len(wide)):
            wide[k, k % c, 1, 1] = 1

    def convolve(self, x, kernel, bias):
        y = conv(
            x, kernel, stride=self.stride, dilation=self.dilation, groups=self.groups,
            pad=(self.dilation, self.dilation),
        )  # fmt: skip
        return y + bias[:, None, None]

    def __call__(self, x):
        x = self.read(x)
        y = self.convolve(x, *self.folded())
        self.taps["reparam_conv"] = y
        return self.write(self.finish(x, {"all": y}))


def run(tensors, places, x, wrong="", hooks=None, form=Port):
    """Run the network, with the hooks in one block: name → tensor, at every level.

    tensors: timm's names; places: the blocks, each with name, stride, dilation, groups,
    attn_after_act; hooks: method name → function of a port and what the method takes

    A run whose maps do not fit any more stops there, and gives what it has.
    """
    answers = {"input": x}
    for place in places:
        own = {
            n.removeprefix(f"{place.name}."): a
            for n, a in tensors.items()
            if n.startswith(f"{place.name}.")
        }
        kind = type("Planted", (form,), hooks or {}) if place.name == wrong else form
        taps = {}
        try:
            x = kind(own, place, taps, tensors)(x)
        except (ValueError, IndexError):  # maps that do not fit
            return answers | {f"{place.name}.{n}": y for n, y in taps.items()}
        answers |= {f"{place.name}.{n}": y for n, y in taps.items()} | {place.name: x}
    weight, bias = tensors["head.fc.weight"], tensors["head.fc.bias"]
    if x.shape[1] == weight.shape[1]:
        answers["pool"] = x.mean(axis=(2, 3))
        answers["logits"] = answers["pool"] @ weight.T + bias
    return answers
