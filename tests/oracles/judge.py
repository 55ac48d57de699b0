"""The rules by which npvgg is judged against PyTorch. They see numbers only, and import no npvgg.

With y the truth (PyTorch in float64), for every tensor:

    float32    max |npvgg − y| ≤ 4 · max(e, u · max |y|)     e = max |PyTorch's float32 − y|
    float64    max |npvgg − y| ≤ 1e-12 · max |y|

u = 2⁻²⁴ is half an ulp, relatively: the error that a float32 result has even where everything
before it was exact, so PyTorch's error counts as at least that when it happens to be smaller.
"""

import numpy as np

U = 2.0**-24

FACTORS = {"winograd": 6}
"""Times PyTorch's own error; 4 for a direct convolution. Winograd's transforms add roundings."""


def float32_bound(error, scale, engine="reference"):
    """How far a float32 tensor may be off, by PyTorch's own error and the largest magnitude."""
    return FACTORS.get(engine, 4) * max(error, U * scale)


def float64_bound(scale):
    """How far a float64 tensor may be off."""
    return 1e-12 * scale


def errors(got, want):
    """The largest |got − want| of each tensor, in float64."""
    return {name: float(np.max(abs(got[name].astype(np.float64) - want[name]))) for name in want}


def assert_float32(got, theirs, truth, engine="reference"):
    """Every tensor of npvgg's is there, is float32, and as near the truth as PyTorch's allows."""
    assert_same_kind(got, truth, np.float32)
    own = errors(theirs, truth)
    for name, error in errors(got, truth).items():
        bound = float32_bound(own[name], abs(truth[name]).max(), engine)
        assert error <= bound, f"{name}: off by {error:.3g}, PyTorch by {own[name]:.3g}"


def assert_float64(got, truth):
    """Every tensor of npvgg's is there, is float64, and agrees to twelve digits."""
    assert_same_kind(got, truth, np.float64)
    for name, error in errors(got, truth).items():
        scale = abs(truth[name]).max()
        assert error <= float64_bound(scale), f"{name}: off by {error:.3g} of {scale:.3g}"


def assert_same_kind(got, truth, dtype):
    """The same tensors, of the same shapes, in the type that was asked for."""
    assert got.keys() == truth.keys()
    assert {n: y.shape for n, y in got.items()} == {n: y.shape for n, y in truth.items()}
    assert {y.dtype for y in got.values()} == {np.dtype(dtype)}
