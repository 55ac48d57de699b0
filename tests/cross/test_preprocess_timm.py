"""Bit for bit against the timm that is installed (the goldens were made with 1.0.31)."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from npvgg.data import create_transform, resolve_data_config, resolve_model_data_config
from npvgg.errors import ArgumentError, ImageError
from npvgg.images.transform import resized_size

timm = pytest.importorskip("timm", reason="timm is not installed: nothing to compare with")
torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")

from timm.data import ImageDataset  # noqa: E402
from timm.data.loader import PrefetchLoader  # noqa: E402
from timm.data.transforms import ResizeKeepRatio  # noqa: E402
from torchvision.transforms import functional  # noqa: E402

pytestmark = pytest.mark.cross

INPUT_SIZES = [224, 225, 320, 32, 7, (192, 256), (256, 192), (3, 33, 50), (3, 96, 96)]
CROP_PCTS = [None, 0, 0.875, 0.9, 0.95, 1.0, 0.5, 1.25]
CROP_MODES = [None, "center", "squash", "border"]
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
STATISTICS = [
    {},
    {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)},
]
CASES_PER_MODE = 20  # × 4 crop modes × 6 interpolations = 480


def pick(rng, choices):
    return choices[rng.integers(len(choices))]


def random_case(rng, crop_mode, interpolation):
    """An image of 1…700 pixels a side, log-uniform, and the arguments of create_transform."""
    height, width = np.exp(rng.uniform(0, math.log(700), 2)).round().astype(int)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    config = {
        "input_size": pick(rng, INPUT_SIZES),
        "interpolation": interpolation,
        "crop_pct": pick(rng, CROP_PCTS),
        "crop_mode": crop_mode,
        **pick(rng, STATISTICS),
    }
    return image, config


def resized(image, transform):
    height, width = transform.input_size[1:]
    scale = math.floor(height / transform.crop_pct), math.floor(width / transform.crop_pct)
    return resized_size(*image.shape[:2], scale, transform.crop_mode)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_totensor_is_equal_to_the_last_bit(crop_mode, interpolation):
    rng = np.random.default_rng([CROP_MODES.index(crop_mode), INTERPOLATIONS.index(interpolation)])
    ran = 0
    while ran < CASES_PER_MODE:
        image, config = random_case(rng, crop_mode, interpolation)
        ours = create_transform(**config)
        theirs = timm.data.create_transform(**config, is_training=False)
        area = math.prod(resized(image, ours))
        if area > 2_000_000:  # a sliver: to enlarge it takes seconds
            continue
        ran += 1
        if area == 0:
            with pytest.raises(ValueError, match="must be > 0"):
                theirs(Image.fromarray(image))
            with pytest.raises(ImageError, match="expected at least 1 pixel a side"):
                ours(image)
            continue
        want = theirs(Image.fromarray(image)).numpy()
        got = ours(image)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32), str(config))


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_prefetcher_is_equal_to_the_last_bit(crop_mode):
    rng = np.random.default_rng(5)
    for statistics in STATISTICS:
        image = rng.integers(0, 256, (211, 307, 3), dtype=np.uint8)
        config = {"input_size": 160, "crop_mode": crop_mode, **statistics}
        pixels = timm.data.create_transform(**config, use_prefetcher=True)(Image.fromarray(image))
        batches = [(pixels[None], torch.zeros(1))]
        ((want, _),) = PrefetchLoader(batches, **statistics, device=torch.device("cpu"))

        got = create_transform(**config, normalize="prefetcher")(image)

        np.testing.assert_array_equal(got.view(np.uint32), want[0].numpy().view(np.uint32))
        assert (got != create_transform(**config)(image)).any()  # the two recipes do differ


@pytest.mark.parametrize("statistics", STATISTICS)
def test_every_8_bit_value_is_normalised_alike(statistics):
    image = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (16, 16, 3)).copy()
    config = {"input_size": 16, "crop_pct": 1.0, **statistics}
    want = timm.data.create_transform(**config)(Image.fromarray(image)).numpy()
    got = create_transform(**config)(image)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_grey_networks(crop_mode):
    image = Image.fromarray(np.random.default_rng(6).integers(0, 256, (71, 40), dtype=np.uint8))
    config = {"input_size": (1, 48, 64), "crop_mode": crop_mode, "mean": (0.45,), "std": (0.22,)}
    want = timm.data.create_transform(**config)(image).numpy()
    got = create_transform(**config)(image)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def test_geometry_is_equal_for_every_small_photo():
    for height, width in itertools.product(range(1, 41), repeat=2):
        photo = Image.new("L", (width, height))
        size = (height, width)
        for scale in (16, 36):
            want = functional._compute_resized_output_size((height, width), [scale])
            assert resized_size(*size, (scale, scale), "center") == tuple(want)
        for scale in ((16, 25), (25, 16)):
            want = ResizeKeepRatio.get_params(photo, scale, longest=0.0)
            assert resized_size(*size, scale, "center") == tuple(want)
        for scale in ((16, 16), (16, 25), (25, 16)):
            want = ResizeKeepRatio.get_params(photo, scale, longest=1.0)
            assert resized_size(*size, scale, "border") == tuple(want)


ODD_FILES = {
    "rgb.png": lambda rgb: rgb,
    "grey.png": lambda rgb: rgb.convert("L"),
    "palette.png": lambda rgb: rgb.quantize(17),
    "alpha.png": lambda rgb: Image.merge("RGBA", (*rgb.split(), rgb.getchannel(0))),
    "grey-alpha.png": lambda rgb: Image.merge("LA", (rgb.getchannel(1), rgb.getchannel(0))),
    "bilevel.png": lambda rgb: rgb.convert("1"),
    "deep.png": lambda rgb: Image.fromarray(np.asarray(rgb)[:, :, 0].astype(np.uint16) * 3),
    "photo.jpg": lambda rgb: rgb,
    "cmyk.jpg": lambda rgb: rgb.convert("CMYK"),
    "photo.bmp": lambda rgb: rgb,
    "photo.webp": lambda rgb: rgb,
}


@pytest.mark.filterwarnings("ignore::npvgg.data.ImageWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm's open files
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_files_read_as_by_the_dataset_of_timm(tmp_path):
    rgb = Image.fromarray(np.random.default_rng(7).integers(0, 256, (67, 91, 3), dtype=np.uint8))
    (tmp_path / "class").mkdir()
    for name, make in ODD_FILES.items():
        make(rgb).save(tmp_path / "class" / name)
    theirs = ImageDataset(
        str(tmp_path), transform=timm.data.create_transform(64), input_img_mode="RGB"
    )
    theirs.reader.samples.sort()
    ours = create_transform(64)
    names = theirs.filenames(absolute=True)
    got = {name: ours(name) for name in names}
    assert len(names) >= 9  # the kinds of file that timm looks for
    for index, name in enumerate(names):
        want = theirs[index][0].numpy()
        np.testing.assert_array_equal(got[name].view(np.uint32), want.view(np.uint32), name)


ARGS = {
    "input_size": [None, (3, 96, 128), (1, 64, 64)],
    "img_size": [None, 160],
    "in_chans": [None, 1],
    "interpolation": [None, "", "lanczos"],
    "mean": [None, (0.5,), (0.1, 0.2, 0.3)],
    "std": [None, (0.5,), (0.1, 0.2, 0.3)],
    "crop_pct": [None, 0.0, 0.9],
    "crop_mode": [None, "squash"],
}
CFGS = {
    "input_size": [None, (3, 256, 256)],
    "test_input_size": [None, (3, 320, 320)],
    "interpolation": [None, "bilinear"],
    "mean": [None, (0.5, 0.5, 0.5)],
    "std": [None, (0.5, 0.5, 0.5)],
    "crop_pct": [None, 0.95],
    "test_crop_pct": [None, 1.0],
    "crop_mode": [None, "border"],
}


def test_configs_resolve_alike():
    rng = np.random.default_rng(8)
    answers = {"same": 0, "both refuse": 0}
    for _ in range(1000):
        args = {key: pick(rng, values) for key, values in ARGS.items() if rng.random() < 0.5}
        cfg = {key: pick(rng, values) for key, values in CFGS.items() if rng.random() < 0.7}
        use_test_size = bool(rng.integers(2))
        try:
            want = timm.data.resolve_data_config(args, cfg, use_test_size=use_test_size)
        except AssertionError:
            with pytest.raises(ArgumentError, match="expected"):
                resolve_data_config(args, cfg, use_test_size=use_test_size)
            answers["both refuse"] += 1
        else:
            assert resolve_data_config(args, cfg, use_test_size=use_test_size) == want
            answers["same"] += 1
    assert min(answers.values()) > 50


@pytest.mark.parametrize("use_test_size", [False, True])
def test_configs_of_timms_own_models_resolve_alike(use_test_size):
    names = timm.list_models("repvgg*", pretrained=True)
    assert len(names) >= 11
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        want = timm.data.resolve_model_data_config(model, use_test_size=use_test_size)
        assert resolve_model_data_config(model, use_test_size=use_test_size) == want
