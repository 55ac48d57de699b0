"""Unit roundoffs, γ_n and units of the last place, against fractions and the numbers themselves."""

from fractions import Fraction

import numpy as np
import pytest
import tiny

import npvgg
from npvgg import WeightsError, ops, reparam, tools
from npvgg.formats import checkpoint
from npvgg.rounding import FLOAT16_SMALLEST_NORMAL, UNITS, check_finite, gamma, ulp
from npvgg.testing import assert_matches, conformance_pack


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_the_unit_is_half_of_the_distance_from_1_to_the_next_number(name):
    assert UNITS[name] == float(np.finfo(name).eps) / 2


def test_bfloat16_is_float32_without_its_lower_half():
    assert UNITS["bfloat16"] == UNITS["float32"] * 2**16


def test_the_smallest_normal_half():
    assert np.finfo(np.float16).smallest_normal == FLOAT16_SMALLEST_NORMAL


@pytest.mark.parametrize("n", [1, 2, 9 * 2560 + 3, 10**6])
def test_gamma_is_what_n_roundings_amount_to_at_most(n):
    u = Fraction(1, 2**24)
    assert gamma(n) == pytest.approx(float(n * u / (1 - n * u)), rel=1e-15)
    assert (1 + u) ** min(n, 3000) - 1 <= Fraction(gamma(min(n, 3000)))


def test_a_unit_of_the_last_place_is_the_distance_to_the_next_float32():
    for value in (1.0, 1.5, 2.0, 1e-40, 3e38):
        assert ulp(value) == float(np.nextafter(np.float32(value), np.float32(np.inf))) - float(
            np.float32(value)
        )
    assert np.isfinite(ulp(1e300))  # a float64 truth may be beyond float32


def test_what_overflows_is_named():
    check_finite(np.ones(3), "stem")
    for bad in (np.nan, np.inf):
        with pytest.raises(WeightsError, match="stem: the activations overflow float32"):
            check_finite(np.array([1, bad], np.float32), "stem")


def test_a_caller_s_seterr_changes_no_result_and_no_error(tmp_path):
    """An underflow to 0 is right, and np.seterr(all="raise") made it an error in mid-network."""
    arrays = {
        name: array * np.float32(1e-38) if name.endswith("conv.weight") else array
        for name, array in tiny.tensors("silu").items()
    }
    path = tmp_path / "a.safetensors"

    def run():
        checkpoint.save_safetensors(path, arrays, overwrite=True)
        options = {"engine": "reference", **tiny.keywords("silu")}
        model = npvgg.create_model("repvgg_a0", weights=path, **options)
        x = tiny.photos(model, np.random.default_rng(0)) * np.float32(1e-6)
        branches = npvgg.create_model("repvgg_a0", weights=path, reparameterize=False, **options)
        branches.save(path, dtype="bfloat16")
        done = tools.convert(path, tmp_path / "b.pth", form="deploy", fold_dtype="float32",
                             overwrite=True)  # fmt: skip
        answers = [model(x), branches(x), *model.forward_intermediates(x)[1]]
        tools.inspect(path)
        return [*answers, *done.tensors.values(), npvgg.softmax(np.array([[0.0, -800.0]]))]

    want = run()
    for setting in ("raise", "ignore"):
        with np.errstate(all=setting):
            got = run()
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_caller_s_seterr_changes_nothing_of_the_small_functions():
    small = np.array([[-1e-39, 1e-39]], np.float32)
    kernel = np.full((1, 1, 3, 3), 1e-20, np.float32)
    images = np.full((1, 1, 3, 3), 1e-30, np.float32)
    bn = reparam.BatchNorm(*(np.full(1, v, np.float32) for v in (1e-30, 1e-30, 1e-20, 1e-38)))
    photo = np.zeros((5, 4, 3), np.uint8)

    def run():
        yield from (ops.activation(name)(small) for name in ops.ACTIVATIONS)
        yield from (ops.activation("mish")(small * 1e38), ops.probabilities(small[:, :1]))
        yield ops.softmax(np.array([[3e38, -3e38]], np.float32) / 2)
        yield ops.conv2d(images, kernel, np.zeros(1, np.float32))
        yield ops.linear(images[0, 0, :1], kernel[0, 0, :1], np.zeros(1, np.float32))
        yield ops.global_pool(images, "avg")
        yield reparam.fuse_conv_bn(kernel, bn).weight
        yield npvgg.data.create_transform(4, mean=(1e-50,) * 3, std=(1e-38,) * 3)(photo)
        pack = conformance_pack("tiny")
        yield pack.bound("stem")
        assert_matches({p.name: pack.tensor(p.name) for p in pack.probes}, pack)

    want = list(run())
    for setting in ("raise", "warn"):
        with np.errstate(all=setting):
            got = list(run())
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
