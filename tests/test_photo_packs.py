"""A pack that was made of a photo knows it, and names whatever else was made of that photo.

The wrong inputs are made by loops of our own where Pillow cannot make them.
"""

from functools import cache
from math import floor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npvgg.data import create_transform
from npvgg.errors import WeightsError
from npvgg.testing import Pack, compare, conformance_pack
from npvgg.testing.diagnosis.diagnose import UNKNOWN, diagnose
from npvgg.testing.diagnosis.photo import photo_of
from tests.oracles import porter
from tests.test_diagnosis import answers

CAT = Path(__file__).parent / "photos" / "chelsea.png"


@pytest.fixture(scope="module", autouse=True)
def _photo(tmp_path_factory):
    """A smaller cat, 75 × 112 pixels: a hundred and fifty resizes take no time."""
    global PHOTO
    PHOTO = tmp_path_factory.mktemp("photo") / "cat.png"
    Image.open(CAT).convert("RGB").resize((112, 75)).save(PHOTO)


@cache
def pack():
    """The photo in 24 × 24 pixels: bilinear, with antialiasing, a short side of 27."""
    return conformance_pack("tiny", image=PHOTO, size=24)


def how(**changes):
    return {**pack().manifest["input"]["transform"], **changes}


def made(**changes):
    return create_transform(**how(**changes))(PHOTO)[None]


def normalised(pixels):
    """(H, W, 3) of 0 … 255 → (1, 3, H, W)"""
    mean, std = (np.array(how()[key]) for key in ("mean", "std"))
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)


def bilinear(pixels, height, width):
    """OpenCV's and torch's: the four pixels around the place, without antialiasing."""
    H, W = pixels.shape[:2]
    out = np.empty((height, width, 3))
    for i in range(height):
        for j in range(width):
            y, x = (i + 0.5) * H / height - 0.5, (j + 0.5) * W / width - 0.5
            r, c = floor(y), floor(x)
            a, b = y - r, x - c
            rows = [min(max(n, 0), H - 1) for n in (r, r + 1)]
            columns = [min(max(n, 0), W - 1) for n in (c, c + 1)]
            top, bottom = (
                (1 - b) * pixels[row, columns[0]] + b * pixels[row, columns[1]] for row in rows
            )
            out[i, j] = (1 - a) * top + a * bottom
    return out


def by_hand():
    pixels = np.asarray(Image.open(PHOTO), np.float64)
    plan = create_transform(**how()).plan(*pixels.shape[:2])
    small = np.rint(bilinear(pixels, *plan.resized))
    return small[plan.top : plan.top + 24, plan.left : plan.left + 24]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"interpolation": "bicubic"}, "resized by the filter bicubic, not bilinear"),
        ({"interpolation": "nearest"}, "resized by the filter nearest, not bilinear"),
        ({"interpolation": "lanczos"}, "resized by the filter lanczos, not bilinear"),
        ({"interpolation": "box"}, "resized by the filter box, not bilinear"),
        ({"crop_pct": 1.0}, "resized to 24×35 before the crop (crop_pct 1)"),
        ({"crop_mode": "squash", "crop_pct": 1.0}, "squashed to 24×24 (crop_pct 1)"),
        ({"crop_mode": "border"}, "resized by its long side, with a border"),
        (
            {"crop_pct": 0.9, "interpolation": "bicubic"},
            "resized by the filter bicubic, not bilinear, and resized to 26×38 before the crop",
        ),
    ],
)
def test_another_filter_size_or_crop_is_named(changes, said):
    (found,) = diagnose(pack(), "input", {"input": made(**changes)})
    assert found.mistake == "photo-fitted-otherwise"
    assert found.sentence.startswith(f"the photo is {said}")
    assert "antialiasing" in found.advice


def test_a_resize_without_antialiasing_is_named_though_it_rounds_otherwise():
    said = "the photo is resized by bilinear interpolation without antialiasing"
    pixels = by_hand()
    for wrong in (pixels, np.clip(pixels + np.indices(pixels.shape).sum(0) % 2, 0, 255)):
        (found,) = diagnose(pack(), "input", {"input": normalised(wrong)})
        assert (found.mistake, found.sentence) == ("photo-fitted-otherwise", said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[:, ::-1], "its channels are in the order BGR"),
        (lambda x: normalised(by_hand()[..., ::-1]), "its channels were exchanged before"),
        (lambda x: by_hand().transpose(2, 0, 1)[None], "normalisation is missing: the pixels are"),
        (
            lambda x: by_hand()[..., ::-1].transpose(2, 0, 1)[None] / 255,
            "it is BGR, and normalisation is missing",
        ),
    ],
)
def test_what_opencv_does_besides_is_named(change, said):
    (found,) = diagnose(pack(), "input", {"input": change(normalised(by_hand()))})
    assert found.mistake == "photo-fitted-and-normalised-otherwise"
    assert f"without antialiasing; {said}" in found.sentence


def test_a_photo_that_is_cut_to_a_square_first_is_named():
    image = Image.open(PHOTO).crop((18, 0, 93, 75))
    x = normalised(np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR), np.float64))
    (found,) = diagnose(pack(), "input", {"input": x})
    assert "cropped to its central square first, and then resized" in found.sentence


@pytest.mark.parametrize("kept", ["stem", "logits"])
def test_it_is_seen_behind_the_first_block_and_in_the_logits(kept):
    x = made(interpolation="bicubic")
    port = {"read": lambda self, _: x} if kept == "stem" else {}
    theirs = answers(pack(), wrong="stem", hooks=port)
    if kept == "logits":
        theirs = answers(pack(), wrong="stem", hooks={"read": lambda self, _: x})
    (found,) = diagnose(pack(), kept, {kept: theirs[kept]})
    assert found.mistake == "photo-fitted-otherwise"


def test_what_is_none_of_these_is_unknown(rng):
    x = made() + 0.05 * rng.standard_normal((1, 3, 24, 24)).astype(np.float32)
    assert [f.mistake for f in diagnose(pack(), "input", {"input": x})] == [UNKNOWN]
    blurred = porter.conv(x.reshape(3, 1, 24, 24), np.full((1, 1, 3, 3), 1 / 9), pad=(1, 1))
    theirs = {"input": blurred.reshape(1, 3, 24, 24)}
    assert [f.mistake for f in diagnose(pack(), "input", theirs)] == [UNKNOWN]


# --- The photo in the pack ------------------------------------------------------------------------


def test_the_pack_holds_the_photo_byte_for_byte(tmp_path):
    pack().write(tmp_path / "pack")
    assert (tmp_path / "pack" / "photo.png").read_bytes() == PHOTO.read_bytes()
    again = Pack.read(tmp_path / "pack")
    assert again.photo == PHOTO.read_bytes()
    assert "photo.png" in again.manifest["files"]
    report = compare({"input": made(interpolation="bicubic"), "stem": again.tensor("stem")}, again)
    assert [found.mistake for found in report.mistakes] == ["photo-fitted-otherwise"]
    (tmp_path / "pack" / "photo.png").write_bytes(b"another")
    with pytest.raises(WeightsError, match=r"photo\.png: expected the file that manifest"):
        Pack.read(tmp_path / "pack")


@pytest.mark.parametrize(
    "change",
    [
        {"photo": b"no photo"},
        {"photo": None},
        {"transform": {"input_size": [3, 24, 24], "mean": "x"}},
        {"transform": {"input_size": [3, 9, 9]}},
        {"transform": {"odd": 1}},
        {"transform": [1]},
    ],
    ids=str,
)
def test_a_stranger_s_photo_or_transform_that_is_none_is_not_used(change):
    one = pack()
    manifest = {**one.manifest, "input": {**one.manifest["input"], **change}}
    photo = change.get("photo", one.photo)
    odd = Pack(manifest, one.probes, one._tensors, one._local, one._chain, one._weights, photo)
    assert photo_of(odd) is None
    x = made(interpolation="bicubic")
    assert [f.mistake for f in diagnose(odd, "input", {"input": x})] == [UNKNOWN]
