"""The six identities by which branches of many kinds fold into one convolution, in integers.

Each is shown by an exact example, and its condition by a counterexample. Source: Ding et al.,
Diverse Branch Block, arXiv:2103.13425, section 3.2, transforms I to VI.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from npvgg.explain.lesson import UNLISTED, Lesson
from npvgg.ops import Array, conv2d, relu
from npvgg.pages.parts import (
    Document,
    Exercise,
    Formula,
    Heading,
    Heat,
    Paragraph,
    Part,
    Source,
    Table,
)


@dataclass(frozen=True)
class Identity:
    """One of them: two ways to the same map, and a third that breaks the condition.

    apart, folded: (K, P, Q), branches and one convolution; equal: in every number
    wrong: what becomes of it where the condition is broken; error: wrong − right
    """

    name: str
    equation: str
    says: str
    condition: str
    apart: Array
    folded: Array
    equal: bool
    wrong: Array
    error: Array
    wrong_numbers: int
    function: Callable[..., Array] = field(metadata=UNLISTED)


@dataclass(frozen=True)
class Stride:
    """The map of one branch over 5×5 pixels, and whether it can be added to the first."""

    branch: str
    stride: int
    shape: tuple[int, ...]
    fits: bool


@dataclass(frozen=True, eq=False, repr=False)
class IdentitiesLesson(Lesson):
    """The six identities, their conditions, and two more counterexamples.

    ring: (6, 6) the error of folding 1×1 + bias, then 3×3, with zeros around: only the border
    resnet, folded_resnet: what ReLU before the sum gives, and what a fold would
    """

    identities: tuple[Identity, ...]
    ring: Array
    ring_wrong: int
    ring_inside: int
    resnet: Array
    folded_resnet: Array
    strides: tuple[Stride, ...]

    def document(self) -> Document:
        """One after the other."""
        parts: list[Part] = []
        for number, one in enumerate(self.identities, 1):
            parts += [
                Heading(f"{number}. {one.name}"),
                Formula(one.equation),
                Paragraph(one.says),
                Heat(
                    {"branches": one.apart[0], "folded": one.folded[0]},
                    "Branches and fold agree in every number." if one.equal else "They differ.",
                    digits=0,
                ),
                Heat(
                    {"the condition broken": one.wrong[0], "the error": one.error[0]},
                    f"Condition: {one.condition} Broken, {one.wrong_numbers} of {one.error.size} "
                    "numbers are wrong.",
                    digits=0,
                ),
                Source(one.function.__name__, inspect.getsource(one.function)),
            ]
        return Document(
            "Six identities, and where they end",
            (
                Paragraph(
                    "Whatever is linear can be folded: a branch may be any of these six, or a "
                    "chain of them, and still become one kernel and one bias. All examples are in "
                    "integers, so that the same means the same."
                ),
                *parts,
                Heading("The ring: zeros put around too late"),
                Paragraph(
                    self.says(
                        "A 1×1 convolution with a bias (or a batch norm), and a 3×3 behind it that "
                        "is padded with zeros: the fold would have it read bias, not zero, outside "
                        "the map. {ring_wrong} numbers are wrong, all at the border; inside, "
                        "{ring_inside} are. The remedy is to pad with the bias."
                    )
                ),
                Heat(
                    {"error": self.ring},
                    "Folded − right, on a map of {}×{}.".format(*self.ring.shape),
                    digits=0,
                ),
                Heading("Why a ResNet does not fold"),
                Formula("ReLU(x ∗ w) + x ≠ ReLU(x ∗ w + x)"),
                Paragraph(
                    "A residual block has its ReLU before the sum, at least inside its branch; "
                    "RepVGG has it after the sum. A ReLU is not linear: cut off is gone."
                ),
                Table(
                    ("x", *(str(v) for v in self.resnet[0])),
                    (
                        ("ReLU(−x) + x", *(str(v) for v in self.resnet[1])),
                        ("ReLU(−x + x)", *(str(v) for v in self.folded_resnet)),
                    ),
                    "With w = −1 the branch and its input cancel only where nothing was cut off.",
                ),
                Heading("Why strides must agree"),
                Table(
                    ("branch", "stride", "its map", "can be added to the first"),
                    tuple(
                        (
                            s.branch,
                            str(s.stride),
                            "×".join(map(str, s.shape)),
                            "yes" if s.fits else "no",
                        )
                        for s in self.strides
                    ),
                    "Branches are added number by number. Pooling with stride 1 keeps the map; one "
                    "that shrinks it has no number for every place, and no kernel of the other "
                    "branch's stride makes it.",
                ),
                Exercise(
                    "An average pooling branch with stride 2 beside a 3×3 convolution with stride "
                    "1: can it be folded?",
                    "No. Branches are added number by number, so they need the same stride, and "
                    "the same padding; pooling with stride 1 is a convolution like any other.",
                ),
            ),
        )


def identities() -> IdentitiesLesson:
    """Show the six identities in integers, each with its condition."""
    rng = np.random.default_rng(4)

    def integers(*shape: int) -> Array:
        return rng.integers(-3, 4, shape).astype(np.float64)

    x = integers(1, 2, 5, 5)
    w, w1 = integers(2, 2, 3, 3), integers(3, 2, 1, 1)
    w3, v = integers(2, 3, 3, 3), integers(2, 2, 3, 3)
    t, shift = np.array([2.0, -3.0]), np.array([1.0, 4.0])
    plain, other = conv2d(x, w, padding=1), conv2d(x, v, padding=1)
    sequence = conv2d(conv2d(x, w1), w3, padding=1)
    small = integers(2, 2, 1, 1)
    nines = 36 * x[:, :1]
    pooled = _pooled(nines)
    found = (
        _identity(
            "A batch norm folds into the convolution before it",
            "γ · {((x ∗ w) − mean) / σ} + β = x ∗ (t·w) + (β − t·mean)",
            "At inference a batch norm multiplies and adds constants, channel by channel.",
            "its statistics are constants, as at inference. Taken from the batch, they change "
            "with every image.",
            t[:, None, None] * plain + shift[:, None, None],
            conv2d(x, fold_norm(w, t), shift, padding=1),
            np.round(t[:, None, None] * (plain - plain.mean((2, 3), keepdims=True)))
            + shift[:, None, None],
            fold_norm,
        ),
        _identity(
            "Branches that are added fold into the sum of their kernels",
            "x ∗ w + x ∗ v = x ∗ (w + v)",
            "Convolution is linear in its kernel.",
            "nothing between the branches and their sum. Here a ReLU is.",
            plain + other,
            conv2d(x, add_kernels(w, v), padding=1),
            relu(plain) + relu(other),
            add_kernels,
        ),
        _identity(
            "A 1×1 convolution, then a K×K, folds into one K×K",
            "(x ∗ w1) ∗ w3 = x ∗ w,     w[k,c] = Σ{m} w3[k,m] · w1[m,c]",
            "The 1×1 mixes channels; so can the kernel behind it.",
            "nothing but a linear 1×1 before it. Here a ReLU lies between.",
            sequence,
            conv2d(x, fold_sequence(w1, w3), padding=1),
            conv2d(relu(conv2d(x, w1)), w3, padding=1),
            fold_sequence,
        ),
        _identity(
            "Branches that are put side by side fold into kernels put side by side",
            "concat(x ∗ w, x ∗ v) = x ∗ concat(w, v)",
            "Output channels do not know of each other.",
            "both have the same stride and padding. Here the second lacks its padding, and its "
            "map is put into the corner.",
            np.concatenate([other, plain], axis=1),
            conv2d(x, concatenate_kernels(v, w), padding=1),
            np.concatenate([_cornered(conv2d(x, v)), plain], axis=1),
            concatenate_kernels,
        ),
        _identity(
            "Average pooling is a convolution",
            "mean over 3×3 = x ∗ w,     w[k,k,r,s] = {1 / 9}",
            "Every window's mean is a sum of products with one ninth. (Stride 1: pooling does not "
            "shrink the map by itself.)",
            "zeros around are counted as numbers. Libraries that leave them out divide by fewer "
            "at the border.",
            pooled,
            conv2d(nines, pooling_kernel(1), padding=1),
            9 * pooled / _counts(5),
            pooling_kernel,
        ),
        _identity(
            "A smaller kernel is a larger one with zeros around it",
            "x ∗ w1 = x ∗ pad(w1)",
            "The centres must lie on the same pixel.",
            "the larger kernel's padding is larger by as much. Here the small one sits in the "
            "corner of the large one.",
            conv2d(x, small),
            conv2d(x, pad_kernel(small), padding=1),
            conv2d(x, np.roll(pad_kernel(small), (-1, -1), (2, 3)), padding=1),
            pad_kernel,
        ),
    )  # fmt: skip
    x6 = rng.integers(-3, 4, (1, 1, 6, 6)).astype(np.float64)
    one, three, bias = (
        np.full((1, 1, 1, 1), 2.0),
        np.arange(1.0, 10.0).reshape(1, 1, 3, 3),
        np.array([5.0]),
    )
    right = conv2d(conv2d(x6, one, bias), three, padding=1)
    total = np.array([float(three.sum()) * bias[0]])
    ring = (conv2d(x6, fold_sequence(one, three), total, padding=1) - right)[0, 0]
    line = np.arange(-3, 4)
    return IdentitiesLesson(
        identities=found,
        ring=ring,
        ring_wrong=int((ring != 0).sum()),
        ring_inside=int((ring[1:-1, 1:-1] != 0).sum()),
        resnet=np.stack([line, np.maximum(-line, 0) + line]),
        folded_resnet=np.maximum(-line + line, 0),
        strides=_strides(x),
    )


def _strides(x: Array) -> tuple[Stride, ...]:
    """Return the maps of a convolution and of an average, with both strides."""
    kernel, mean = np.ones((1, 1, 3, 3)), pooling_kernel(1)
    ways = (("3×3", kernel, 1), ("3×3 average", mean, 1), ("3×3 average", mean, 2))
    shapes = [conv2d(x[:, :1], w, stride=s, padding=1).shape[2:] for _, w, s in ways]
    return tuple(
        Stride(name, stride, shape, shape == shapes[0])
        for (name, _, stride), shape in zip(ways, shapes, strict=True)
    )


def fold_norm(w: Array, t: Array) -> Array:
    """Scale each kernel: w (K, C, R, S), t (K,)."""
    return w * t[:, None, None, None]


def add_kernels(w: Array, v: Array) -> Array:
    """Add kernels of one shape."""
    return w + v


def fold_sequence(w1: Array, w3: Array) -> Array:
    """Fold w1 (M, C, 1, 1), then w3 (K, M, R, S), into (K, C, R, S)."""
    folded: Array = np.einsum("kmrs,mc->kcrs", w3, w1[:, :, 0, 0])
    return folded


def concatenate_kernels(w: Array, v: Array) -> Array:
    """Put kernels one behind the other."""
    return np.concatenate([w, v])


def pooling_kernel(channels: int) -> Array:
    """Each channel's mean over 3×3: (C, C, 3, 3)."""
    kernel: Array = np.eye(channels)[:, :, None, None] * np.full((3, 3), 1 / 9)
    return kernel


def pad_kernel(w1: Array) -> Array:
    """Put zeros around a 1×1 kernel."""
    return np.pad(w1, ((0, 0), (0, 0), (1, 1), (1, 1)))


def _identity(
    name: str, equation: str, says: str, condition: str,
    apart: Array, folded: Array, wrong: Array, function: Callable[..., Array],
) -> Identity:  # fmt: skip
    apart, folded, wrong = (np.round(a[0], 9) for a in (apart, folded, wrong))
    error = wrong - apart
    return Identity(
        name, equation, says, condition, apart, folded, bool(np.array_equal(apart, folded)),
        wrong, error, int((error != 0).sum()), function,
    )  # fmt: skip


def _pooled(x: Array) -> Array:
    """Return the means over 3×3, zeros around the map."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    mean: Array = windows.mean((4, 5))
    return mean


def _counts(size: int) -> Array:
    """How many pixels of the map each window holds."""
    sides = np.full(size, 3)
    sides[[0, -1]] = 2
    return np.outer(sides, sides)


def _cornered(y: Array) -> Array:
    return np.pad(y, ((0, 0), (0, 0), (0, 2), (0, 2)))
