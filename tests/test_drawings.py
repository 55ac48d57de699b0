"""Every kind of drawing, byte for byte. After a change that is meant, make the files anew, and look
at them and at their difference:

    python tests/test_drawings.py

What a PNG inside holds is compared as pixels: its bytes are zlib's, which differ between versions.
"""

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

from npvgg.pages import parts
from npvgg.pages.draw import draw, drawings

FOLDER = Path(__file__).parent / "golden" / "drawings"
X = np.arange(1.0, 4.0)
PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14
PICTURES = {
    "heat-written": parts.Heat(
        {"w": np.array([[1.0, -0.5], [0.0, np.nan]]), "b": np.array([[0.25]])}, "Numbers.", digits=1
    ),
    "heat-coloured": parts.Heat({"<w>": np.eye(2)}, "Cells & colours.", scale=2.0, digits=-1),
    "heat-pixels": parts.Heat(
        {"large": np.add.outer(np.arange(21.0), -np.arange(20.0))}, "Pixels.", "They slope."
    ),
    "chart": parts.Chart(X, {"a": X, "b": -X}, "step", "gain", "Lines.", "One up, one down."),
    "chart-log": parts.Chart(
        X, {"a": 10.0**X, "b": np.array([1.0, 0.0, np.inf])}, "step", "loss", "Powers.", log=True
    ),
    "bars": parts.Bars({"one": 1.5, "two": -3.0, "none": 0.0}, "Bars.", unit=" px"),
    "photo": parts.Photo(PIXELS, "A photo.", "It brightens."),
    "photo-overlaid": parts.Photo(
        PIXELS, "A map on it.", "Blue and orange.", np.array([[1.0, -2.0]])
    ),
}


def spelled(markup):
    """A drawing, an element a line; of a PNG, its size and the digest of its pixels."""

    def pixels(found):
        from PIL import Image

        with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
            digest = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
            return f"{image.width}×{image.height} pixels {digest[:16]}"

    return re.sub('data:image/png;base64,([^"]+)', pixels, markup).replace("><", ">\n<") + "\n"


@pytest.mark.parametrize("name", PICTURES)
def test_a_drawing_is_the_same_byte_for_byte(name):
    assert spelled(draw(PICTURES[name]).markup(alone=True)) == (FOLDER / f"{name}.svg").read_text(
        "utf-8"
    )


def test_every_drawing_is_of_some_picture_and_every_kind_is_drawn():
    assert {path.stem for path in FOLDER.iterdir()} == PICTURES.keys()
    assert {type(picture) for picture in PICTURES.values()} == {*parts.Picture.__args__}


def test_a_page_has_the_drawing_of_the_slides_on_no_ground_of_its_own():
    shown = draw(PICTURES["bars"]).markup()
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    alone = drawings(parts.Document("t", (PICTURES["bars"],)))["01-bars.svg"]
    assert re.sub(' xmlns="[^"]+" color="#[0-9a-f]+"', "", alone.replace(ground, "")) == shown


@pytest.mark.parametrize("log", [False, True])
def test_a_chart_of_nothing_that_has_a_place_is_empty(log):
    chart = parts.Chart(
        X, {"a": np.full(3, np.nan), "b": np.full(3, -np.inf)}, "x", "y", "c", log=log
    )
    assert '<polyline points="" ' in draw(chart).markup()


@pytest.mark.parametrize("name", PICTURES)
def test_what_a_page_reads_out_lies_where_it_is_drawn(name):
    drawing = draw(PICTURES[name])
    drawn = [
        tuple(map(float, frame))
        for frame in re.findall(
            '<(?:rect|image) x="([^"]+)" y="([^"]+)" width="([^"]+)" height="([^"]+)"',
            drawing.markup(),
        )
    ]
    for grid in drawing.grids:
        columns = len(grid.cells[0])
        if grid.numbered:
            place = (grid.x, grid.y, grid.width, grid.height)
            assert np.abs(np.array(drawn) - place).max(1).min() <= 0.005, place
        else:  # a column's middle is its place on the axis
            middles = grid.x + (np.arange(columns) + 0.5) * grid.width / columns
            line = re.search('<polyline points="([^"]+)" fill="none" stroke="#', drawing.markup())
            points = [float(point.partition(",")[0]) for point in line[1].split()]
            np.testing.assert_allclose(middles, points, atol=0.01)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, picture in PICTURES.items():
        markup = spelled(draw(picture).markup(alone=True))
        (FOLDER / f"{name}.svg").write_text(markup, "utf-8")
