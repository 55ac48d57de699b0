"""Pages and drawings: their bytes, their mathematics, what they let in, and where their numbers
come from.
"""

import ast
import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
from browsing import check_page, chromium, opened  # noqa: F401 - a fixture

import npvgg
import npvgg.explain
from npvgg.cli.main import main
from npvgg.errors import ArgumentError
from npvgg.explain.course import PAGES
from npvgg.explain.course import course as build
from npvgg.pages import html, parts
from npvgg.pages.colours import colours, png
from npvgg.pages.draw import draw
from npvgg.pages.mathml import mathml, plain
from npvgg.pages.text import as_text

HEAT = parts.Heat({"w": np.array([[1.0, -0.5]])}, "A caption.", digits=1)


def test_every_kind_of_picture_is_well_formed_and_says_what_it_shows():
    pytest.importorskip("jinja2", reason="pages need Jinja2")
    x = np.arange(4.0)
    pictures = [
        HEAT,
        parts.Heat({"large": np.outer(x, np.ones(200))}, "Pixels."),
        parts.Chart(x, {"a": x + 1, "b": 10**x}, "step", "loss", "Lines.", log=True),
        parts.Bars({"one": 1.0, "<two>": -2.0}, "Bars & more."),
        parts.Photo(np.zeros((4, 6, 3), np.uint8), "A photo.", "It is black.", np.eye(2)),
    ]
    for picture in pictures:
        root = ElementTree.fromstring(draw(picture).markup(alone=True))
        said = root.find("{http://www.w3.org/2000/svg}desc").text
        assert said == parts.alternative(picture) != ""
        assert said in html.page(parts.Document("t", (picture,))).replace("&lt;", "<").replace(
            "&gt;", ">"
        ).replace("&amp;", "&")
        assert as_text(parts.Document("t", (picture,)))


def test_the_scale_is_signed_and_told_apart_without_red_and_green():
    blue, white, orange = colours(np.array([-1.0, 0.0, 1.0]), 1.0).astype(int)
    assert blue[2] > blue[0] + 50
    assert orange[0] > orange[2] + 50
    assert len({*white}) == 1
    assert colours(np.array([np.nan]), 1.0).tolist() == [[0, 0, 0]]


def test_a_png_of_ours_is_one(tmp_path, rng):
    from PIL import Image

    pixels = rng.integers(0, 256, (5, 7, 3), np.uint8)
    head, _, data = png(pixels).partition(",")
    (tmp_path / "a.png").write_bytes(base64.b64decode(data))
    assert head == "data:image/png;base64"
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("line", "text", "inside"),
    [
        ("t[k] = {γ[k] / √(var[k] + eps)}", "t[k] = γ[k] / √(var[k] + eps)",
         "<mfrac><mrow><msub><mi>γ</mi><mrow><mi>k</mi></mrow></msub></mrow><mrow><msqrt>"),
        ("w'[k] = w1'", "w'[k] = w1'",
         "<msubsup><mi>w</mi><mrow><mi>k</mi></mrow><mo>′</mo></msubsup><mo>=</mo>"
         "<msubsup><mi>w</mi><mn>1</mn><mo>′</mo></msubsup>"),
        ("y_train = conv_1x1.bn", "y_train = conv_1x1.bn",
         "<msub><mi>y</mi><mi>train</mi></msub><mo>=</mo><mi>conv_1x1.bn</mi>"),
        ("x: the image,  G g", "x: the image,  G g",
         '<mo>:</mo><mspace width="0.35em"/><mi>the</mi><mspace width="0.35em"/><mi>image</mi>'
         '<mo>,</mo><mspace width="2em"/><mi>G</mi><mi>g</mi>'),
        ("Σ{c,r} x[c]", "Σ_c,r x[c]", "<munder><mo>Σ</mo><mrow><mi>c</mi>"),
        ("y = Aᵀ [x]", "y = Aᵀ [x]", "<msup><mi>A</mi><mi>T</mi></msup><mrow><mo>[</mo>"),
        ("a < b", "a < b", "<mo>&lt;</mo>"),
    ],
)  # fmt: skip
def test_formulas(line, text, inside):
    assert plain(line) == text
    assert inside in mathml(line)
    ElementTree.fromstring(mathml(line))


# --- Pages ----------------------------------------------------------------------------------------


def test_what_strangers_wrote_is_escaped():
    pytest.importorskip("jinja2", reason="pages need Jinja2")
    evil = "<script>alert(1)</script>\"'&"
    document = parts.Document(evil, (parts.Paragraph(evil), parts.Heat({evil: np.eye(2)}, evil)))
    text = html.page(document)
    assert "<script>alert" not in text
    check_page(text)
    assert "<script>alert" not in html.fragment(document)


def test_without_jinja2_a_page_is_refused_and_a_notebook_gets_text(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    html._environment.cache_clear()
    try:
        with pytest.raises(ArgumentError, match=r"expected Jinja2.*text, JSON and SVG do without"):
            html.page(parts.Document("t"))
        assert npvgg.explain.training()._repr_html_() is None
    finally:
        html._environment.cache_clear()


# --- The course -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught():
    """The network of that course."""
    model = tiny.model("plain", reparameterize=False)
    model.pretrained_cfg["input_size"] = (3, 32, 32)
    return model


@pytest.fixture(scope="module")
def course(taught, tmp_path_factory):
    """The course of a tiny network; .ci/run builds that of the network that ships."""
    pytest.importorskip("jinja2", reason="pages need Jinja2")
    folder = tmp_path_factory.mktemp("course")
    commands = {"classify": "usage: npvgg classify"}
    for name, text in build(taught, commands=commands, reference="api/index.html"):
        (folder / name).write_text(text, "utf-8")
    return folder


def test_the_course_is_whole_and_leads_nowhere_else(course):
    names = {path.name for path in course.iterdir()}
    assert {"index.html", "fold.html", "mistakes.html", "house.html"} <= names
    for path in course.iterdir():
        text = path.read_text("utf-8")
        check_page(text, {*names, "#main", "api/index.html"})
        assert 'aria-current="page"' in text
    assert "tiled_convolution" in (course / "winograd-exercise.html").read_text("utf-8")
    house = (course / "house.html").read_text("utf-8")
    for module in ("reparam", "engines/", "explain/", "npvgg classify"):
        assert module in house


def test_the_command_writes_the_course_once(tmp_path, capfd, monkeypatch):
    pytest.importorskip("jinja2", reason="pages need Jinja2")
    monkeypatch.setattr("npvgg.explain.course.PAGES", PAGES[:1])
    folder = str(tmp_path / "site")
    assert main(["explain", "course", "--output", folder]) == 0
    assert "npvgg compare" in (tmp_path / "site" / "house.html").read_text("utf-8")
    assert main(["explain", "course", "--output", folder]) == 2
    assert "exists; --force replaces it" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Playwright's event loop
def test_the_pages_in_a_browser(course, chromium):  # noqa: F811
    for path in sorted(course.iterdir()):
        tab, said = opened(chromium, path)
        if path.name == "fold.html":
            steps = tab.locator(".step")
            assert [steps.nth(i).is_visible() for i in range(3)] == [True, False, False]
            tab.get_by_role("button", name="Next").click()
            assert [steps.nth(i).is_visible() for i in range(3)] == [False, True, False]
            assert "step 2 of 3" in tab.text_content(".stepper")
            titles = tab.locator(".step:not([hidden]) svg rect title").all_text_contents()
            assert "row 0, column 0: " in titles[0]
        for width, media in ((1100, "screen"), (390, "screen"), (718, "print")):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.emulate_media(media=media)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, (path.name, media)
        assert said == [], path.name
        tab.close()


def reading(tab, grid):
    """What stands below the picture that a grid lies on: title, row, column, number."""
    text = grid.locator("xpath=ancestor::figure").locator(".reading").text_content()
    title, row, column, number = re.fullmatch(
        r"(.*), row (\d+), column (\d+): (\S+)", text
    ).groups()
    return title, int(row), int(column), number


def point_at(tab, grid, row, column, shape):
    """Move the pointer to the centre of a cell."""
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    x, y = (column + 0.5) / shape[1] * box["width"], (row + 0.5) / shape[0] * box["height"]
    tab.mouse.move(box["x"] + x, box["y"] + y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Playwright's event loop
def test_what_a_picture_says_is_the_lessons_number(course, taught, chromium):  # noqa: F811
    tab, said = opened(chromium, course / "fold.html")
    stored = npvgg.explain.fold(taught).as_json()["example"]["stored"]["3×3"]
    grid = tab.get_by_role("application", name="3×3: 3 × 3 numbers").first
    tab.get_by_role("button", name="Next").focus()
    tab.keyboard.press("Tab")  # one stop of the keyboard, whatever the number of cells
    assert grid.evaluate("(element) => element === document.activeElement")
    way = "Right Right Right Down Left Left Down Right Right Up Home Up Up End PageDown"
    seen = {reading(tab, grid)}
    for key in way.split():
        tab.keyboard.press(key if key in ("Home", "End", "PageDown") else f"Arrow{key}")
        seen.add(reading(tab, grid))
    assert seen == {("3×3", r, c, f"{stored[r][c]:.6g}") for r in range(3) for c in range(3)}
    tab.keyboard.press("Tab")
    assert reading(tab, tab.locator(".grid:focus"))[0] == "1×1"
    tab.goto(f"file://{course / 'photo.html'}")
    lesson = npvgg.explain.photo(taught)
    maps = {"What each cell of the last map adds": (lesson.class_name, lesson.class_map)}
    for block in (b for b in lesson.blocks if b.name in lesson.resolutions):
        maps[f"{block.name}: "] = (f"channel {block.strongest[0]}", block.maps[0])
    for caption, (title, values) in maps.items():
        rows, columns = values.shape
        figure = tab.locator("figure", has_text=caption)
        grid = figure.get_by_role("application", name=f"{title}: {rows} × {columns} numbers")
        for row, column in {(0, 0), (rows // 2, columns // 3), (rows - 1, columns - 1)}:
            point_at(tab, grid, row, column, values.shape)
            said_there = (title, row, column, f"{values[row, column]:.6g}")
            assert reading(tab, grid) == said_there
    tab.mouse.move(0, 0)
    assert tab.locator(".grid span:visible").count() == 0
    tab.goto(f"file://{course / 'training.html'}")
    ways = npvgg.explain.training().as_json()["ways"]
    tab.locator(".grid").first.focus()
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    losses = "; ".join(f"{way['name']} {way['loss'][3]:.6g}" for way in ways)
    assert tab.locator(".reading").first.text_content() == f"loss, step 3: {losses}"
    assert [line for line in said if not line.startswith("file:")] == []
    tab.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Playwright's event loop
def test_without_a_script_everything_can_be_read(course, chromium):  # noqa: F811
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"file://{course / 'fold.html'}")
    assert [step.is_visible() for step in tab.locator(".step").all()] == [True] * 3
    assert tab.locator(".grid, .stepper, .reading").count() == 0
    assert tab.locator("rect > title").first.text_content().startswith("row 0, column 0: ")
    context.close()


PROSE = Path(npvgg.explain.__file__).parent
GIVEN = (
    r"[13K]×[13K]|nine products|the nine|takes nine|one ninth|"  # the kernels of any RepVGG
    r"stride [12]|w = −1|2a \+ b|"  # set by an exercise, or by a toy
    r"points 0, 1, 2, 3, 4 for m = 4|powers of 4|"
    r"--m 4 --points 0,1,2,3,4|"  # a command to be tried
    r"1 where the two|0 elsewhere|each 1 in|is 0|"  # what an identity is; the name of a bin
    r"eight bits|ten questions|six identities|of these six"  # counted by a test below
)
"""Numbers of the prose that no network could change."""
WORDS = "four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|hundred|thousand|million|ninth"


def prose(source):
    """Every text of a module that is written to be read: no docstring, key, error or formula."""
    tree = ast.parse(source)
    other = set()
    for node in ast.walk(tree):
        documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if documents or isinstance(node, ast.Raise):
            other |= {id(child) for child in ast.walk(node)}
        elif isinstance(node, ast.FormattedValue) and node.format_spec:
            other |= {id(child) for child in ast.walk(node.format_spec)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Formula":
            other |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in other else None
        if isinstance(text, str) and len(text.split()) > 1:
            yield text


def bare_numbers(text):
    """Numbers that stand in a text, in digits or in words, rather than being filled in."""
    filled = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", "", text)  # [i + 1] is an index
    without = re.sub(GIVEN, "", filled, flags=re.IGNORECASE)
    return re.findall(rf"(?<![\w.])\d+(?:[.,]\d+)*|\b(?:{WORDS})\b", without, re.IGNORECASE)


@pytest.mark.parametrize("path", sorted(PROSE.rglob("*.py")), ids=lambda path: path.stem)
def test_numbers_in_the_prose_are_computed(path):
    found = {}
    for text in prose(path.read_text("utf-8")):
        cited = "arXiv" in text or text.startswith(("def ", "import "))
        if not cited and (numbers := bare_numbers(text)):
            found[text] = numbers
    assert found == {}


@pytest.mark.parametrize(
    "typed",
    [
        'Paragraph("The largest weight is 91.2 standard deviations.")',
        'self.says("{photo} is a cat, which is 3 of the classes")',
        'Exercise("How many?", "There are 14 of them.")',
        'Heat(maps, "On a map of 6×6.")',
        'Heat(maps, f"The first eight channels of {block}.")',
        'Table(("block", "its input, 12 kB"), rows)',
        'Step("add all 3", ())',
        'parts.append(Paragraph("after 5 steps"))',
    ],
)
def test_a_number_that_was_typed_would_be_found(typed):
    assert [numbers for text in prose(typed) if (numbers := bare_numbers(text))], typed


def test_a_number_that_is_filled_in_or_given_is_none():
    filled = 'says("The largest weight is {folded[largest]:.1f} standard deviations of 3×3.")'
    assert [bare_numbers(text) for text in prose(filled)] == [[]]
    assert [bare_numbers(text) for text in prose('f"of {a:.2f}, d[i + 1] of int8"')] == [[]]


def test_what_is_counted_in_words_is_so_many(taught):
    assert len(npvgg.explain.questions(taught).questions) == 10
    assert len(npvgg.explain.identities().identities) == 6
    assert np.iinfo(np.int8).bits == 8
