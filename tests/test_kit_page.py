"""The page with pictures: self-contained, escaped, and its pixels say where the errors are."""

import base64
import io
import re
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from browsing import check_page
from PIL import Image

from npvgg.testing import compare, conformance_pack
from npvgg.testing.comparison import pictures
from npvgg.testing.comparison.html import page

pytest.importorskip("jinja2", reason="pages need Jinja2")

quick = partial(compare, diagnosis=False)

PACK = conformance_pack("tiny", level="branch")


def tensors():
    return {probe.name: PACK.tensor(probe.name).copy() for probe in PACK.probes}


def decoded(source):
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
    return np.asarray(Image.open(io.BytesIO(data)))


class Reader(HTMLParser):
    """Collects tags, text and pictures, and sees that every element is closed in order."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.images, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# --- The page -------------------------------------------------------------------------------------


def test_a_row_and_a_picture_for_each_tensor():
    reader = Reader(page(quick(tensors(), PACK)))
    for probe in PACK.probes:
        assert probe.name in reader.text
    assert len(reader.images) == len(PACK.probes) + 1  # and the legend
    assert "right: each of" in reader.text
    assert not [attrs for _, attrs in reader.tags if attrs.get("class") == "first"]


def test_the_page_needs_nothing_else():
    theirs = tensors()
    theirs["stem"][0, 0, 0, 0] += 1
    text = page(quick(theirs, PACK))
    assert all(image.startswith("data:image/png;base64,") for image in Reader(text).images)
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    check_page(text)


def test_the_first_wrong_tensor_is_shown_at_large():
    theirs = tensors()
    theirs["stages.0.1.sum"][0, 3, 0, :] += 1
    reader = Reader(page(quick(theirs, PACK)))
    assert "stages.0.1.sum is the first wrong tensor" in reader.text
    assert "only in channel 3 of 8; only along the edge of the maps: top row" in reader.text
    assert [attrs["class"] for tag, attrs in reader.tags if tag == "tr" and "class" in attrs].count(
        "first"
    ) == 1
    theirs_map, truth, errors, over_channels, every = map(decoded, reader.images[:5])
    assert theirs_map.shape == truth.shape == errors.shape == (9, 9, 3)
    np.testing.assert_array_equal(theirs_map[1:], truth[1:])
    for picture in (errors, over_channels):
        assert (picture[1:] == 255).all()  # no error at all is white
        assert (picture[0, :, 0] > picture[0, :, 2]).all()  # beyond the bound is red
    assert every.shape == (3 * 10, 3 * 10, 3)
    assert (every != 255).any(axis=2).nonzero()[0].tolist() == [10] * 9  # channel 3: second row


def test_a_wrong_vector_and_a_wrong_shape_have_a_page_too():
    for name, wrong in (("logits", np.ones((1, 5))), ("stem", np.ones((1, 2, 3, 4)))):
        reader = Reader(page(quick(tensors() | {name: wrong}, PACK)))
        assert f"{name} is the first wrong tensor" in reader.text
    assert "wrong shape, theirs is 1×2×3×4" in reader.text


def test_a_wrong_zero_behind_a_relu_does_not_outshine_the_rest():
    theirs, zero = tensors(), PACK.bound("stem") < 1e-40
    assert zero.any()
    theirs["stem"][zero] += 1e-7
    theirs["stem"][0, 0, 0, 0] += 3
    reader = Reader(page(quick(theirs, PACK)))
    over_channels = decoded(reader.images[3]).astype(int)
    wrong = zero.any(axis=(0, 1))
    wrong[0, 0] = True
    assert wrong.sum() > 10
    assert (over_channels[..., 0] > over_channels[..., 2])[wrong].all()
    light = over_channels.sum(axis=2)
    assert light[0, 0] < 0.6 * np.delete(light.ravel(), 0).min()


def test_what_is_nan_is_shown():
    theirs = tensors()
    theirs["stem"][0, 2] = np.nan
    reader = Reader(page(quick(theirs, PACK)))
    assert (decoded(reader.images[0]) == 0).all()  # theirs: black
    assert (decoded(reader.images[2]) == pictures.OUTSIDE[-1]).all()


def test_what_is_absurd_is_shown_and_no_warning():
    theirs = tensors()
    theirs["stem"] = np.where(theirs["stem"] > 0, 1.7e308, -1.7e308)
    theirs["pool"] = np.full((1, 12), -np.inf)
    assert "stem is the first wrong tensor" in Reader(page(quick(theirs, PACK))).text


def test_names_of_theirs_are_text():
    evil = "<script>alert(1)</script>"
    text = page(quick(tensors() | {evil: np.zeros(1)}, PACK))
    assert evil not in text
    assert "&lt;script&gt;" in text


# --- The pictures ---------------------------------------------------------------------------------


def test_inside_is_blue_beyond_is_red_and_none_is_white():
    share = np.array([0, 1e-9, 1e-3, 1, 1.001, 1e3, np.inf])
    colours = pictures.share_colours(share).astype(int)
    assert colours.shape == (7, 3)
    assert colours[0].tolist() == [255, 255, 255]
    blue, red = colours[:, 2] - colours[:, 0], colours[:, 0] - colours[:, 2]
    assert (blue[1:4] > 0).all()
    assert (red[4:] > 0).all()
    assert colours[3].tolist() == list(pictures.INSIDE[-1])
    assert colours[-1].tolist() == list(pictures.OUTSIDE[-1])
    light = colours.sum(axis=1)
    assert light[1] > light[2] > light[3]
    assert light[4] > light[5] > light[6]


def test_the_sign_of_a_value_is_its_colour():
    colours = pictures.value_colours(np.array([-9, -1, 0, 1, 9, np.nan]), 2.0).astype(int)
    assert colours[2].tolist() == [255, 255, 255]
    assert colours[0].tolist() == list(pictures.SIGNED[0])
    assert colours[4].tolist() == list(pictures.SIGNED[-1])
    assert colours[1, 2] > colours[1, 0]
    assert colours[3, 0] > colours[3, 2]
    assert colours[5].tolist() == [0, 0, 0]
    assert (pictures.value_colours(np.zeros(3), 0.0) == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 3), (112, 112), (7, 200)])
def test_no_wrong_pixel_is_lost_in_a_small_picture(shape, rng):
    share = np.zeros(shape)
    place = tuple(int(rng.integers(size)) for size in shape)
    share[place] = 7
    small = pictures.reduced(share)
    assert max(small.shape) <= 64
    assert small.max() == 7
    assert (small > 0).sum() == 1
    if max(shape) <= 64:
        np.testing.assert_array_equal(small, share)


def test_all_channels_are_tiles():
    share = np.zeros((2, 5, 4, 3))
    share[1, 3] = 1
    tiles = pictures.mosaic(share)
    assert tiles.shape == (2 * 5, 3 * 4)
    np.testing.assert_array_equal(
        np.argwhere(tiles), np.argwhere(np.ones((4, 3))) + np.array([5, 0])
    )
    assert max(pictures.mosaic(np.ones((1, 600, 112, 112))).shape) <= 512


def test_a_vector_is_folded_into_rows():
    share = np.arange(130.0)[None]
    folded = pictures.error_map(share)
    assert folded.shape == (3, 64)
    np.testing.assert_array_equal(folded.ravel()[:130], share[0])
    assert pictures.error_map(np.ones((1, 5))).shape == (1, 5)
