"""The certificate: is the folded network the trained one?

Per block of a train-form file, on real activations (each block is given what the one before puts
out in float32):

    y_train  = branches(x)      y_deploy = folded(x)      y = branches(x) in float64, the truth

    |y_deploy − y|  ≤  γ_{n+3} · (Σ |x|·|w| + |b|)        n = 9·C/G,  γ_m = m·u / (1 − m·u)

The bound is a theorem (Higham, Accuracy and Stability of Numerical Algorithms, §3.1) for any order
of summation; the 3 are the fold's one rounding, the product and the bias. A share above 1 of the
bound is not rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from npvgg.config import RepVGGConfig
from npvgg.engines.reference import ReferenceNetwork, forward_block
from npvgg.errors import ArgumentError
from npvgg.formats.checkpoint import Checkpoint
from npvgg.formats.untrusted import blaming
from npvgg.network import Network
from npvgg.ops import Array, conv2d, topk
from npvgg.rounding import check_finite, gamma, ulp
from npvgg.weights import build, keymap
from npvgg.weights.identity import identify


@dataclass(frozen=True)
class Subject:
    """A weights file and the network it holds, in train or deploy form, in float64."""

    file: Checkpoint
    name: str
    config: RepVGGConfig
    network: Network

    def described(self) -> dict[str, Any]:
        """Return what the file is, in a row."""
        short = [keymap.strip_prefix(name) for name in self.file.tensors]
        return {
            "path": str(self.file.path), "format": self.file.format, "wrapper": self.file.key,
            "naming": keymap.naming(short), "form": self.network.form, "network": self.name,
            "classes": self.config.num_classes,
            "dtypes": sorted(set(self.file.stored.values())),
        }  # fmt: skip


def subject(file: Checkpoint, model: str | None = None) -> Subject:
    """Return what a file holds. Raises WeightsError where that is no RepVGG."""
    with blaming(file.path):
        found = identify(model, file.tensors, file)
        network = build.build_network(file.tensors, found.config, np.float64)
    return Subject(file, found.name, found.config, network)


def probes(config: RepVGGConfig, size: int, seed: int = 0) -> dict[str, Array]:
    """Two images, (1, C, size, size) float32: noise, and a smooth pattern as photos are smooth.

    The pattern's spectrum falls with the frequency f as 1/f; both have mean 0 and variance 1.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((1, config.in_chans, size, size))
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    f[0, 0] = np.inf
    pattern = np.fft.irfft2(np.fft.rfft2(noise) / f, s=(size, size))
    pattern /= max(pattern.std(), 1e-30)  # a single pixel has only a mean, which is taken out
    return {"noise": noise.astype(np.float32), "pattern": pattern.astype(np.float32)}


def certify(one: Subject, images: Mapping[str, Array]) -> dict[str, Any]:
    """Return the certificate of a train-form file's fold. Raises ArgumentError for deploy form."""
    if one.network.form != "train":
        raise ArgumentError(
            f"{one.file.path}: expected train-form weights, whose fold can be proved; these are "
            "folded already: give the file they were folded from as well"
        )
    train = build.build_network(one.file.tensors, one.config, np.float32)
    truth = build.build_network(build.flatten(train), one.config, np.float64)
    deploy = train.reparameterized()
    runs: list[dict[str, Any]] = []
    for name, x in images.items():
        rows = list(_block_rows(truth, train, deploy, x))
        logits = [ReferenceNetwork(n).logits(x.astype(n.dtype)) for n in (truth, train, deploy)]
        runs.append({"image": name, "blocks": rows, "logits": logits_row(*logits)})
    worst = max(row["share_of_bound"] for run in runs for row in run["blocks"])
    return {
        "verdict": "proved" if worst <= 1 else "failed",
        "says": "the folded network is the trained one: what differs is float32 rounding"
        if worst <= 1
        else "the folded network differs from the trained one by more than rounding can",
        "worst_share_of_bound": worst, "file": one.described(), "runs": runs,
    }  # fmt: skip


def _block_rows(
    truth: Network, train: Network, deploy: Network, x: Array
) -> Iterator[dict[str, Any]]:
    for exact, branches, folded in zip(truth.blocks, train.blocks, deploy.blocks, strict=True):
        spec = folded.spec
        how = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}
        y = exact.form(x.astype(np.float64), **how)
        with np.errstate(over="ignore", invalid="ignore"):
            y_train, y_deploy = branches.form(x, **how), folded.form(x, **how)
        check_finite(y_train, spec.name)
        check_finite(y_deploy, spec.name)
        exact_fold = exact.fused
        terms = conv2d(
            np.abs(x).astype(np.float64), np.abs(exact_fold.weight), np.abs(exact_fold.bias),
            stride=spec.stride, padding=spec.dilation, dilation=spec.dilation, groups=spec.groups,
        )  # fmt: skip
        bound = gamma(exact_fold.weight[0].size + 3) * terms
        error = np.abs(y_deploy - y)
        share = np.divide(error, bound, out=np.zeros_like(error), where=error > 0)
        yield {
            "name": spec.name,
            **difference(y_train, y_deploy, y),
            "train_error": float(np.abs(y_train - y).max()),
            "deploy_error": float(error.max()),
            "share_of_bound": float(share.max()),
        }
        x = forward_block(folded, x)


def difference(a: Array, b: Array, truth: Array) -> dict[str, float]:
    """Largest difference: absolute, relative to the largest value, and in float32 units of that."""
    scale = float(np.abs(truth).max())
    largest = float(np.abs(a.astype(np.float64) - b).max())
    return {
        "scale": scale,
        "absolute": largest,
        "relative": largest / scale if scale else 0.0,
        "ulp": largest / ulp(scale),
    }


def logits_row(truth: Array, train: Array, deploy: Array) -> dict[str, Any]:
    """How far two answers are from each other and from the truth, and whether they rank alike."""
    k = min(5, truth.shape[1]) if truth.ndim == 2 else 0
    orders = [topk(y, k, axis=1)[1].tolist() if k else [] for y in (truth, train, deploy)]
    return {
        **difference(train, deploy, truth),
        "train_error": float(np.abs(train - truth).max()),
        "deploy_error": float(np.abs(deploy - truth).max()),
        "top_k": k,
        "same_top_k": orders[0] == orders[1] == orders[2],
    }
