"""Colours of pages and drawings: what differs in meaning differs to every eye, and text is legible.

Sight without one kind of cone is simulated by the matrices of Machado, Oliveira & Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", 2009 (severity 1), on linear
sRGB. Distances are CIE 1976 ΔE*ab under D65, of which about 2.3 are just noticeable (Mahy, Van
Eycken & Oosterlinck, 1994); contrasts are those of WCAG 2.2, 1.4.3 and 1.4.11.
"""

import re
from itertools import combinations, pairwise

import numpy as np
import pytest

from npvgg.pages import html
from npvgg.pages.colours import LINES, SIGNED, colours, on

SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
APART = 20
"""Meanings that stand beside each other differ by so many ΔE, far more than is noticeable."""


def linear(colour):
    """#rrggbb or three bytes → linear sRGB, 0 … 1."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    v = np.asarray(colour, float) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def lab(colour, sight="all cones"):
    """A colour as it is seen, in CIELAB."""
    t = XYZ @ np.clip(SIGHT[sight] @ linear(colour), 0, 1) / XYZ.sum(1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(a, b, sight):
    return float(np.linalg.norm(lab(a, sight) - lab(b, sight)))


def contrast(a, b):
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def schemes():
    """The named colours of the style, on a light screen, a dark one, and on paper."""
    found = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", rules))
        for rules in re.findall(r":root \{([^}]*)\}", html.STYLE)
    ]
    return dict(zip(("light", "dark", "print"), found, strict=True))


def test_the_measures_are_those_that_were_published():
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.01)
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    grey = [lab("#808080", sight) for sight in SIGHT]  # is seen as grey by all
    np.testing.assert_allclose(grey, [grey[0]] * 4, atol=0.1)
    assert (
        apart("#d55e00", "#b8860b", "deuteranopia")
        < 4
        < 30
        < apart("#d55e00", "#b8860b", "all cones")
    )


@pytest.mark.parametrize("sight", SIGHT)
def test_meanings_stay_apart_in_every_sight(sight):
    for scheme in schemes().values():
        lines = [scheme["ink"] if line == "currentColor" else line for line in LINES]
        for a, b in combinations(lines, 2):
            assert apart(a, b, sight) > APART, (a, b)
    for a, b in pairwise(SIGNED):
        assert apart(a, b, sight) > APART, (a, b)
    for height in (0.25, 0.5, 0.75, 1.0):
        below, above = colours(np.array([-height, height]), 1.0)
        assert apart(below, above, sight) > APART, height


def test_equal_distances_from_zero_are_equally_light():
    for height in np.linspace(0, 1, 21):
        below, above = (lab(colour)[0] for colour in colours(np.array([-height, height]), 1.0))
        assert below == pytest.approx(above, abs=1.5), height
    light = [lab(colour)[0] for colour in colours(np.linspace(0, 1, 21), 1.0)]
    assert np.all(np.diff(light) < 0)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_lines_are_legible(scheme):
    named = schemes()[scheme]
    for ground in (named["ground"], named["box"]):
        for text in ("ink", "quiet", "link"):
            assert contrast(named[text], ground) >= 4.5, (text, ground)
        for line in LINES:
            assert contrast(named["ink"] if line == "currentColor" else line, ground) >= 3, line


def test_numbers_on_their_colours_are_legible():
    for colour in colours(np.linspace(-1, 1, 401), 1.0):
        assert contrast(on(colour), colour) >= 4.5, colour
