"""The transform against timm's goldens, the geometry against cases worked out by hand."""

import hashlib
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from npvgg.data import (
    ImageWarning,
    create_transform,
    resolve_data_config,
    resolve_model_data_config,
)
from npvgg.errors import ArgumentError, ImageError
from npvgg.images.transform import crop_offset, resized_size

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "preprocess.json").read_text(encoding="utf-8"))["cases"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(height, width, channels=3):
    """The formula of weights_tools/make_preprocess_goldens.py."""
    y, x, c = np.mgrid[:height, :width, :channels].astype(np.int64)
    return ((y * y * 3 + x * 7 + x * y * (c + 1) + c * 85) % 256).astype(np.uint8)


def sha256(array):
    little = array.astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


def sentence(case):
    config = case["config"]
    size = "x".join(map(str, case["photo"])) + "-to-" + "x".join(map(str, config["input_size"]))
    rest = [str(v) for k, v in config.items() if k not in ("input_size", "mean", "std")]
    return "-".join([size, *rest])


# Goldens


PILLOW = int(PIL.__version__.partition(".")[0])


def vertical_first(size, resized):
    """Whether Pillow 13 does the vertical pass first: its height shrinks much more than its width.

    Source: Pillow 13.0, Resample.c; before, the horizontal pass always came first.
    """
    (height, width), (new_height, new_width) = size, resized
    return height - new_height > max(0, 2 * (width - new_width))


@pytest.mark.parametrize("case", CASES, ids=sentence)
def test_equals_timm_to_the_last_bit(case):
    pixels = photo(*case["photo"], case["config"]["input_size"][0])
    assert sha256(pixels) == case["photo_sha256"]
    transform = create_transform(**case["config"])
    resized = transform.plan(*case["photo"]).resized
    has_passes = transform.interpolation != "nearest"
    if PILLOW < 13 and has_passes and vertical_first(case["photo"], resized):
        pytest.skip(f"golden of Pillow 13, which resizes {case['photo']} vertically first")

    got = transform(pixels)

    assert (list(got.shape), got.dtype, got.flags.c_contiguous) == (case["shape"], np.float32, True)
    assert sha256(got) == case["sha256"]


def test_equals_timm_where_the_whole_tensor_is_stored():
    with np.load(GOLDEN / "preprocess.npz") as stored:
        tensors = dict(stored)
    assert len(tensors) == 4
    for name, want in tensors.items():
        case = CASES[int(name.removeprefix("case"))]
        got = create_transform(**case["config"])(photo(*case["photo"]))
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize(
    ("size", "resized"),
    [((94, 61), (45, 64)), ((94, 61), (45, 37)), ((94, 61), (45, 36)), ((30, 61), (45, 20)),
     ((201, 99), (64, 31)), ((199, 100), (64, 32))],
)  # fmt: skip
def test_the_goldens_of_tall_photos_depend_on_the_order_of_pillows_passes(size, resized):
    image, filter = Image.fromarray(photo(*size)), Image.Resampling.BICUBIC
    (height, width), (new_height, new_width) = size, resized
    vertical, horizontal = (
        image.resize(middle, filter).resize((new_width, new_height), filter).tobytes()
        for middle in ((width, new_height), (new_width, height))
    )
    first = vertical if PILLOW >= 13 and vertical_first(size, resized) else horizontal
    assert vertical != horizontal
    assert image.resize((new_width, new_height), filter).tobytes() == first


@pytest.mark.parametrize(
    "change",
    [{"crop_pct": 0.9}, {"crop_mode": "squash"}, {"interpolation": "bicubic"}, {"mean": 0.5},
     {"std": 0.5}, {"normalize": "prefetcher"}],
    ids=str,
)  # fmt: skip
def test_a_hash_notices_each_setting(change):
    config = {"input_size": 48}
    assert sha256(create_transform(**config)(photo(61, 94))) != sha256(
        create_transform(**config | change)(photo(61, 94))
    )


# Geometry, by hand


@pytest.mark.parametrize(
    ("side", "crop", "offset"),
    [(224, 224, 0), (256, 224, 16), (225, 224, 0), (227, 224, 2),  # 0.5 → 0, 1.5 → 2
     (257, 224, 16), (259, 224, 18),  # 16.5 → 16, 17.5 → 18
     (223, 224, 0), (222, 224, -1), (221, 224, -1), (1, 224, -111)],  # 1 px of 3 before, 2 after
)  # fmt: skip
def test_crop_offset(side, crop, offset):
    assert crop_offset(side, crop) == offset


@pytest.mark.parametrize(
    ("photo_size", "scale_size", "crop_mode", "want"),
    [
        ((480, 640), (256, 256), "center", (256, 341)),  # 341.33
        ((500, 375), (256, 256), "center", (341, 256)),
        ((300, 511), (256, 256), "center", (256, 436)),  # 436.05
        ((300, 512), (256, 256), "center", (256, 436)),  # 436.9: truncated, not rounded
        ((7, 7), (256, 256), "center", (256, 256)),
        ((1, 1), (256, 256), "center", (256, 256)),
        ((10, 10), (20, 30), "center", (30, 30)),  # ratio 1/3: both sides are covered
        ((5, 4), (10, 4), "center", (10, 8)),
        ((4, 5), (2, 3), "center", (2, 3)),  # ratio 5/3: 2.4 → 2
        ((480, 640), (256, 256), "squash", (256, 256)),
        ((480, 640), (256, 256), "border", (192, 256)),
        ((3, 2), (3, 3), "border", (3, 2)),
        ((4, 10), (5, 5), "border", (2, 5)),
        ((2, 4), (5, 5), "border", (2, 5)),  # 2.5 → 2, half to even
        ((6, 4), (5, 5), "border", (5, 3)),  # 3.33
        ((3, 6), (5, 5), "border", (2, 5)),  # 2.5 → 2
        ((7, 10), (5, 5), "border", (4, 5)),  # 3.5 → 4
    ],
)
def test_resized_size(photo_size, scale_size, crop_mode, want):
    assert resized_size(*photo_size, scale_size, crop_mode) == want


def naive(value, mean, std):
    """One pixel, one rounding after another."""
    f = np.float32
    return (f(value) / f(255) - f(mean)) / f(std)


def test_crop_without_a_resize():
    """9 / 1.0 = 9: a 9×10 photo keeps its size, and each output pixel can be pointed at."""
    pixels = photo(9, 10)
    got = create_transform((9, 9), crop_pct=1.0)(pixels)
    for c in range(3):
        for y in range(9):
            for x in range(9):  # margin 1: round(0.5) = 0 columns go on the left
                assert got[c, y, x] == naive(pixels[y, x, c], MEAN[c], STD[c])


@pytest.mark.parametrize(
    ("crop_mode", "fill"), [("center", (0, 0, 0)), ("border", (124, 116, 104))]
)
def test_padding_without_a_resize(crop_mode, fill):
    """floor(7 / 1.75) = 4: a 4×4 photo is padded to 7×7, 1 pixel before and 2 after."""
    pixels = photo(4, 4)
    got = create_transform(7, crop_pct=1.75, crop_mode=crop_mode)(pixels)
    for c in range(3):
        for y in range(7):
            for x in range(7):
                inside = 1 <= y < 5 and 1 <= x < 5
                value = pixels[y - 1, x - 1, c] if inside else fill[c]
                assert got[c, y, x] == naive(value, MEAN[c], STD[c])


def test_prefetcher_recipe_on_every_value():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.stack([values] * 3, axis=2)
    got = create_transform(16, crop_pct=1.0, normalize="prefetcher")(image)
    f = np.float32
    for c in range(3):
        want = [(f(v) - f(255 * MEAN[c])) / f(255 * STD[c]) for v in range(256)]
        np.testing.assert_array_equal(got[c].ravel(), np.array(want))


def test_plan_tells_what_happens():
    transform = create_transform(224)
    assert transform.plan(480, 640) == ((256, 341), 16, 58)  # 58.5 → 58
    assert transform.plan(1, 1) == ((256, 256), 16, 16)
    with pytest.raises(ArgumentError, match="height, width: expected at least 1"):
        transform.plan(0, 5)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    crop_pct=st.floats(0.25, 1.0), crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(["nearest", "bilinear", "lanczos"]),
)  # fmt: skip
def test_any_photo_gives_a_tensor_or_an_image_error(height, width, size, crop_mode, **config):
    transform = create_transform(size, crop_mode=crop_mode, **config)
    try:
        x = transform(photo(height, width))
    except ImageError:
        assert crop_mode == "border"  # a side of 0 pixels; nothing else can go wrong here
    else:
        assert x.shape == (3, *size)
        assert np.isfinite(x).all()


# Slivers


@pytest.mark.parametrize(
    ("crop_mode", "height", "width", "resized"),
    [("center", 1, 10_000, "256×2560000"),
     ("center", 400_000, 1, "102400000×256"),
     ("squash", 400_000, 1, "256×256"),  # small at the end, but 256×400000 on Pillow's way there
     ("border", 1, 513, "0×256")],  # 0.499 px; here timm fails with Pillow's ValueError
)  # fmt: skip
def test_slivers_are_refused_before_memory_is_taken(crop_mode, height, width, resized):
    sliver = np.zeros((height, width), np.uint8)
    message = (
        rf"photo of {height}×{width} .* '{crop_mode}' resizes it to {resized}, expected at least"
    )
    with pytest.raises(ImageError, match=message):
        create_transform(224, crop_mode=crop_mode)(sliver)


def test_max_pixels_moves_the_limit():
    sliver = np.zeros((1, 64), np.uint8)  # to 8×512
    assert create_transform(7, max_pixels=8 * 512)(sliver).shape == (3, 7, 7)
    with pytest.raises(ImageError, match=r"resizes it to 8×512, expected .* at most 4095"):
        create_transform(7, max_pixels=4095)(sliver)


# Sources and warnings


def test_paths_bytes_images_and_arrays(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo(30, 40)).save(path)
    transform = create_transform(24)
    want = transform(photo(30, 40))
    for source in (path, str(path), path.read_bytes(), Image.open(path)):
        np.testing.assert_array_equal(transform(source), want)
        if isinstance(source, Image.Image):
            source.close()


def test_one_warning_a_call_names_photo_and_notes(tmp_path):
    path = tmp_path / "sticker.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(9, 9, 4)).save(path, exif=exif.tobytes())
    with pytest.warns(
        ImageWarning, match="sticker.png': EXIF orientation 6 ignored; alpha"
    ) as caught:
        create_transform(8)(path)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points at the caller


def test_apply_returns_the_notes_and_stays_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, notes = create_transform(8).apply(photo(9, 9, 4))
    assert x.shape == (3, 8, 8)
    assert notes == ("alpha dropped",)


def test_options_of_open_image_pass_through():
    transparent = np.zeros((8, 8, 4), np.uint8)
    white = create_transform(8, alpha="white")(transparent)
    np.testing.assert_array_equal(white, create_transform(8)(np.full((8, 8, 3), 255, np.uint8)))


def test_grey_networks_get_one_channel():
    got = create_transform((1, 8, 8), mean=(0.5,), std=(0.25,), crop_pct=1.0)(photo(8, 8))
    grey = np.asarray(Image.fromarray(photo(8, 8)).convert("L"))
    np.testing.assert_array_equal(got[0], (grey / np.float32(255) - np.float32(0.5)) * 4)


def test_grey_networks_average_the_statistics_of_rgb():
    transform = create_transform((1, 8, 8))
    assert transform.mean == ((0.485 + 0.456 + 0.406) / 3,)
    assert transform.std == pytest.approx((0.226,))


# Arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("is_training", True),
        *[("input_size", v) for v in (0, -1, 2.5, "224", None, (), (3,), (3, 0, 9), (1, 2, 3, 4))],
        ("input_size", (4, 8, 8)),
        *[("interpolation", v) for v in ("cubic", "random", "", None, 2)],
        *[("crop_pct", v) for v in ("", -0.5, float("nan"), float("inf"), 300.0, "0.9")],
        *[("crop_mode", v) for v in ("centre", 3)],
        *[("mean", v) for v in ((), (1, 2), (1, 2, 3, 4), "abc", None, [[1, 2, 3]])],
        *[("mean", v) for v in ((0, 0, float("nan")), (1e39, 0, 0))],
        *[("std", v) for v in ((0, 1, 1), (1, -1, 1), 1e-50, (1, 1, float("inf")))],
        *[("normalize", v) for v in ("none", False)],
        ("max_pixels", 0),
        ("on_16bit", "shift"),
    ],
    ids=str,
)
def test_arguments_are_checked(argument, value):
    with pytest.raises(ArgumentError, match=f"^{argument}: expected .*got "):
        create_transform(**{argument: value})


@pytest.mark.parametrize("crop_pct", [None, 0, 0.0])
def test_no_crop_pct_is_timms_default(crop_pct):
    assert create_transform(crop_pct=crop_pct) == create_transform(crop_pct=0.875)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("channels", "known: alpha, .*, std$"),
        ("crop_percent", r"did you mean crop_pct\?"),
        ("input_siz", r"did you mean input_size\?"),
        ("exif", "known: "),
    ],
)
def test_unknown_keywords_are_refused_with_the_nearest(name, hint):
    with pytest.raises(ArgumentError, match=f"^{name}: not a keyword of create_transform; {hint}"):
        create_transform(**{name: 3})


def test_the_transform_is_data():
    transform = create_transform(224, crop_mode="border", alpha="white")
    assert pickle.loads(pickle.dumps(transform)) == transform
    assert list(transform.steps) == ["open", "resize", "crop", "normalize"]
    assert transform.steps["resize"] == {"fit_in": (256, 256), "interpolation": "bilinear"}
    assert "    crop(size=(224, 224), fill=(124, 116, 104))\n" in repr(transform)
    assert create_transform((192, 256)).steps["resize"]["cover"] == (219, 292)
    assert create_transform(224).steps["resize"]["short_edge"] == 256


# Data configs


REPVGG = {
    "input_size": [3, 224, 224], "interpolation": "bilinear", "crop_pct": 0.875,
    "crop_mode": "center", "mean": list(MEAN), "std": list(STD), "test_input_size": [3, 320, 320],
    "test_crop_pct": 1.0, "num_classes": 1000,
}  # fmt: skip
RESOLVED = {
    "input_size": (3, 224, 224), "interpolation": "bilinear", "mean": MEAN, "std": STD,
    "crop_pct": 0.875, "crop_mode": "center",
}  # fmt: skip


def test_config_of_a_model():
    model = SimpleNamespace(pretrained_cfg=REPVGG)
    assert resolve_model_data_config(model) == RESOLVED
    assert resolve_model_data_config(model, use_test_size=True) == RESOLVED | {
        "input_size": (3, 320, 320), "crop_pct": 1.0,
    }  # fmt: skip
    assert create_transform(**resolve_model_data_config(model)).plan(1, 1).top == 16


def test_args_before_pretrained_cfg_before_the_models_own():
    model = SimpleNamespace(pretrained_cfg=REPVGG)
    got = resolve_model_data_config(
        model, args={"crop_pct": 0.9, "mean": [0.5]}, pretrained_cfg={"std": (0.1, 0.2, 0.3)}
    )
    assert got == {
        "input_size": (3, 224, 224), "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5),
        "std": (0.1, 0.2, 0.3), "crop_pct": 0.9, "crop_mode": "center",
    }  # fmt: skip


def test_defaults_are_timms():
    want = RESOLVED | {"interpolation": "bicubic"}
    assert resolve_model_data_config(SimpleNamespace(pretrained_cfg={})) == want
    assert resolve_data_config({"img_size": 160})["input_size"] == (3, 160, 160)
    assert resolve_data_config({"in_chans": 1})["input_size"] == (1, 224, 224)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolve_data_config(), "args, pretrained_cfg, model: expected at least one"),
        (
            lambda: resolve_model_data_config("repvgg_a0"),
            "model: expected an object with a mapping",
        ),
        (lambda: resolve_data_config({"mean": (1, 2)}), "mean: expected 1 or 3 numbers"),
        (lambda: resolve_data_config({"input_size": 224.0}), "input_size: expected S"),
        (lambda: resolve_data_config({"img_size": (2, 2)}), "input_size: expected S"),
    ],
    ids=["nothing", "name", "mean", "input_size", "img_size"],
)
def test_configs_are_checked(call, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        call()


def test_importing_the_module_leaves_pillow_out():
    code = "import sys, npvgg.data; assert 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
