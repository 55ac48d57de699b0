"""A stranger who has the README of a conformance pack, and json, struct and loops.

Written from that text alone: nothing of npvgg is imported, nor NumPy. Maps are nested lists. With
`rounded=exact` the arithmetic is float64; with `float32` every single operation is rounded to
float32, as in a plain C program.
"""

import json
import math
import struct
from pathlib import Path


def exact(x):
    return x


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def read_safetensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length].decode("utf-8"))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32"
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        numbers = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
        tensors[name] = nested(list(numbers), entry["shape"])
    return tensors


def nested(numbers, shape):
    for size in reversed(shape[1:]):
        numbers = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return numbers


def flat(x):
    return [value for item in x for value in flat(item)] if isinstance(x, list) else [x]


def each(function, *maps):
    if isinstance(maps[0], list):
        return [each(function, *items) for items in zip(*maps, strict=True)]
    return function(*maps)


class Network:
    """The steps of the manifest, run with the weights of the folder."""

    def __init__(self, folder, rounded=exact):
        self.folder, self.r = Path(folder), rounded
        self.manifest = json.loads((self.folder / "manifest.json").read_text("utf-8"))
        self.weights = read_safetensors(
            self.folder / f"weights.{self.manifest['form']}.safetensors"
        )
        self.steps = {step["name"]: step for step in self.manifest["steps"]}

    def run(self, given):
        """Every tensor of the network from some given ones: those that need no others first."""
        made = dict(given)
        for step in self.manifest["steps"]:
            if step["name"] not in made:
                made[step["name"]] = self.step(step, [made[name] for name in step["inputs"]])
        return made

    def alone(self, name, given):
        """One tensor from the given ones, and whatever lies between."""
        if name in given:
            return given[name]
        step = self.steps[name]
        return self.step(step, [self.alone(n, given) for n in step["inputs"]])

    def step(self, step, inputs):
        p = step["parameters"]
        if step["op"] == "conv":
            how = [p[key] for key in ("stride", "padding", "dilation", "groups")]
            bias = self.weights[p["bias"]] if "bias" in p else None
            return self.conv(inputs[0], self.weights[p["weight"]], bias, *how)
        if step["op"] == "batch_norm":
            keys = ("running_mean", "running_var", "weight", "bias")
            return self.batch_norm(inputs[0], *(self.weights[p[key]] for key in keys), p["eps"])
        if step["op"] == "sum":
            total = inputs[0]
            for other in inputs[1:]:
                total = each(lambda a, b: self.r(a + b), total, other)
            return total
        if step["op"] == "activation":
            assert p["function"] == "relu"
            return each(lambda v: max(v, 0.0), inputs[0])
        if step["op"] == "attention":
            assert p["layer"] == "se"
            return self.squeeze_excite(
                inputs[0], {k: self.weights[n] for k, n in p["weights"].items()}
            )
        if step["op"] == "pool":
            assert p["kind"] == "avg"
            return self.pool(inputs[0])
        assert step["op"] == "linear"
        return self.linear(inputs[0], self.weights[p["weight"]], self.weights[p["bias"]])

    def total(self, terms):
        """Add in order, rounding every sum."""
        s = 0.0
        for term in terms:
            s = self.r(s + term)
        return s

    def conv(self, x, weight, bias, stride, padding, dilation, groups):
        n_, h_, w_ = len(x), len(x[0][0]), len(x[0][0][0])
        k_, c_, r_, s_ = len(weight), len(weight[0]), len(weight[0][0]), len(weight[0][0][0])
        p_ = (h_ + 2 * padding - dilation * (r_ - 1) - 1) // stride + 1
        q_ = (w_ + 2 * padding - dilation * (s_ - 1) - 1) // stride + 1
        y = nested([0.0] * (n_ * k_ * p_ * q_), [n_, k_, p_, q_])
        for n in range(n_):
            for k in range(k_):
                g = k // (k_ // groups)
                for p in range(p_):
                    for q in range(q_):
                        terms = []
                        for c in range(c_):
                            for r in range(r_):
                                for s in range(s_):
                                    i = p * stride + r * dilation - padding
                                    j = q * stride + s * dilation - padding
                                    if 0 <= i < h_ and 0 <= j < w_:
                                        pixel = x[n][g * c_ + c][i][j]
                                        terms.append(self.r(pixel * weight[k][c][r][s]))
                        if bias is not None:
                            terms.append(bias[k])
                        y[n][k][p][q] = self.total(terms)
        return y

    def batch_norm(self, x, mean, var, gamma, beta, eps):
        r = self.r
        scale = [r(g / r(math.sqrt(r(v + r(eps))))) for g, v in zip(gamma, var, strict=True)]
        return [
            [
                each(lambda v, k=k: r(r(r(v - mean[k]) * scale[k]) + beta[k]), image[k])
                for k in range(len(image))
            ]
            for image in x
        ]

    def pool(self, x):
        return [
            [self.r(self.total(flat(plane)) / len(flat(plane))) for plane in image] for image in x
        ]

    def linear(self, x, weight, bias):
        return [
            [
                self.total([self.r(v * w) for v, w in zip(row, ws, strict=True)] + [b])
                for ws, b in zip(weight, bias, strict=True)
            ]
            for row in x
        ]

    def squeeze_excite(self, x, w):
        def matrix(name):
            return [[column[0][0] for column in row] for row in w[name]]

        hidden = self.linear(self.pool(x), matrix("fc1.weight"), w["fc1.bias"])
        hidden = each(lambda v: max(v, 0.0), hidden)
        s = self.linear(hidden, matrix("fc2.weight"), w["fc2.bias"])
        gates = each(lambda v: self.r(1 / self.r(1 + self.r(math.exp(-v)))), s)
        return [
            [each(lambda v, g=g: self.r(v * g), plane) for plane, g in zip(image, gs, strict=True)]
            for image, gs in zip(x, gates, strict=True)
        ]


def worst_share(mine, truth, bound):
    """The largest |mine − truth| / bound; above 1 is wrong."""
    values = zip(flat(mine), flat(truth), flat(bound), strict=True)
    return max(abs(m - t) / b for m, t, b in values)
