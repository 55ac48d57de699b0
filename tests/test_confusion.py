"""Planted mistakes: they show, are not mistaken for others, and honest arithmetic is right.

The whole matrix is made by `weights_tools/confusion.py`; these are samples, and what it stands on.
"""

import re
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from npvgg.errors import ArgumentError
from npvgg.testing import compare, conformance_pack
from npvgg.testing.diagnosis.diagnose import UNKNOWN, Wrong, diagnose
from npvgg.testing.diagnosis.hypotheses import Passage
from npvgg.testing.diagnosis.mistaken_endings import ending
from npvgg.testing.diagnosis.mistaken_images import image_of
from npvgg.testing.diagnosis.mistakes import BLOCK_MISTAKES, ENDING_MISTAKES, IMAGE_MISTAKES
from npvgg.testing.diagnosis.recipe import Replay, recipe
from npvgg.testing.packs import pack as pack_module
from npvgg.testing.tiny import TINY
from tests.oracles import plants, porter
from tests.test_diagnosis import answers, first_wrong, pack
from weights_tools import confusion

# --- No mistake can hide --------------------------------------------------------------------------

HIDDEN = {
    ("activation-doubled", "twice"),  # a ReLU of a ReLU
    ("eps-outside-the-root", "the identity branch"),  # sqrt(0.02 … 0.1) + 1e-5, behind gates
    ("attention-on-the-wrong-side", "between two activations"),  # where one stands before it anyway
    ("attention-activations", "the hidden activation is relu6"),  # none of them is above 6
    ("attention-applied-wrongly", "squeezes over the whole batch"),  # of one image
    ("order-of-the-output", "has its images in the reverse order"),
    ("order-of-the-output", "has the first image in the place of every other"),
    ("order-of-the-output", "has zeros in the place of every image but the first"),
}
"""Variants that make the numbers of the right one, or within rounding, in some tiny pack."""


@pytest.mark.parametrize("name", TINY)
def test_every_mistake_shows_in_the_logits(name):
    """Made in every block; of each mistake the first variants that it has in this network."""
    one = conformance_pack(name)
    network = one.network()
    right = tuple(map(recipe, network.blocks))
    passage = Passage(one.probe("logits"), right, ending(network.head), one.tensor("input"))
    tried = 0
    for mistake in BLOCK_MISTAKES:
        wrong: dict[str, list] = {}
        for index, block in enumerate(right):
            for detail, changed in islice(mistake.variants(block), 2):
                wrong.setdefault(detail, list(right))[index] = changed
        for detail, recipes in wrong.items():
            with np.errstate(all="ignore"):
                try:
                    y = replace(passage, recipes=tuple(recipes))(np.float32)
                except ArgumentError:
                    continue  # the maps do not fit any more
            tried += 1
            shows = not one.accepts("logits", y)
            assert shows or (mistake.name, detail) in HIDDEN, (mistake.name, detail)
    assert tried > 60


UNSEEN = {
    ("activation-doubled", "twice"): "a ReLU that is applied twice",
    ("activation-doubled", "to what the block reads as well"): "what a ReLU gave already",
    ("same-padding", "the 3×3 branch"): "TensorFlow's SAME where the side of the map is odd",
    ("attention-on-the-wrong-side", "between two activations"): "a ReLU more before the attention",
    ("attention-activations", "the hidden activation is relu6"): "a hidden ReLU6",
    ("order-of-the-image", "has its images in the reverse order"): "the order of the images",
    ("order-of-the-image", "has the first image in the place of every other"): "of which there is",
    ("order-of-the-image", "has zeros in the place of every image but the first"): "of which there",
    ("another-pool", "the mean"): "",  # the right one
    ("another-pool", "the mean over 7×7 pixels"): "a pool of 7×7 pixels",
    ("image-rounded", "rounded to float16"): "an image that is rounded to float16 or bfloat16",
    ("image-rounded", "rounded to bfloat16"): "an image that is rounded to float16 or bfloat16",
}
"""What no level of some tiny pack shows, or its logits alone do not, and how its README says so."""


@pytest.mark.parametrize("name", TINY)
def test_every_mistake_shows_at_every_level(name):
    """In the output of a block that has it, which is a tensor of every level; in pool and logits.

    In every block, and of each mistake the first variants; and every mistake of the image and of
    the ending.
    """
    one = conformance_pack(name)
    network, x = one.network(), one.tensor("input")
    shown, unseen = set(), set()

    def note(key, tensor, y):
        (unseen if one.accepts(tensor, y) else shown).add(key)

    source = "input"
    for block in network.blocks:
        right, replay = recipe(block), Replay({"x": one.tensor(source)}, np.float32)
        source = block.spec.name
        for mistake in BLOCK_MISTAKES:
            for detail, wrong in islice(mistake.variants(right), 2):
                with np.errstate(all="ignore"), suppress(ArgumentError):
                    note((mistake.name, detail), source, replay(wrong, ""))
    recipes = tuple(map(recipe, network.blocks))
    passage = Passage(one.probe("logits"), recipes, ending(network.head), x)
    for mistake in IMAGE_MISTAKES:
        for detail, wrong in mistake.variants(image_of(one)):
            first = replace(recipes[0], before=wrong)
            with np.errstate(all="ignore"), suppress(ArgumentError):
                y = replace(passage, recipes=(first, *recipes[1:]))(np.float32)
                note((mistake.name, detail), "logits", y)
            if mistake.name != "order-of-the-image":  # what is seen in the image itself
                assert not one.accepts("input", wrong(x).astype(np.float32)), detail
    for mistake in ENDING_MISTAKES:
        for detail, wrong in mistake.variants(ending(network.head)):
            note((mistake.name, detail), "logits", wrong("logits", {"x": one.tensor(source)}))
    assert unseen <= UNSEEN.keys()
    assert len(shown) > 150


def test_the_readme_of_a_pack_lists_what_it_cannot_show():
    text = (Path(pack_module.__file__).parent / "conformance.md").read_text("utf-8")
    for words in UNSEEN.values():
        assert words in " ".join(text.split()), words


# --- Nothing is called what it is not -------------------------------------------------------------


@pytest.mark.parametrize("name", [*confusion.FOREIGN][::4])
def test_a_mistake_that_is_not_in_the_catalogue_is_unknown_and_has_its_place(name):
    one = pack("tiny")
    theirs = answers(one, wrong="stages.1.0", hooks=confusion.FOREIGN[name])
    assert first_wrong(one, theirs) == "stages.1.0"
    assert {found.mistake for found in diagnose(one, "stages.1.0", theirs)} == {UNKNOWN}


def test_of_few_numbers_no_coincidence_is_named():
    """Maps in float16, of which five logits are given."""
    one = pack("tiny")
    kind = type("Planted", (porter.Port,), {"write": lambda port, y: plants.half(y)})
    tensors = confusion.tensors("tiny")
    theirs = porter.run(tensors, confusion.expand(one.config), one.tensor("input"), form=kind)
    (found,) = diagnose(one, "logits", {"logits": theirs["logits"] * np.float32(1.0003)})
    assert found.mistake == UNKNOWN


def test_the_chance_of_a_coincidence_is_the_cap_of_a_sphere(rng):
    """The share of random directions within the angle arcsin ρ of one is below ½ρⁿ⁻¹."""
    truth = np.zeros((1, 5))
    wrong = Wrong(np.ones((1, 5)), truth)
    e = np.ones(5) / 5**0.5
    others = rng.standard_normal((200_000, 5))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    for ratio in (0.5, 0.7):
        near = float((others @ e > (1 - ratio**2) ** 0.5).mean())
        assert 0.05 * wrong.chance(ratio * wrong.rms, 1) < near < wrong.chance(ratio * wrong.rms, 1)
    assert wrong.chance(wrong.rms * 1e-3, 400) == pytest.approx(400 * 0.5 * 1e-12)
    assert wrong.chance(wrong.rms * 1e-3, 400, fitted=4) == 1.0


@pytest.mark.parametrize("network", ["tiny", "tiny_dilated"])
def test_two_mistakes_at_once_are_both_named(network):
    """A kernel that is flipped, and an eps besides: the larger first."""
    one = pack(network)
    block = {"tiny": "stages.0.1", "tiny_dilated": "stages.2.1"}[network]
    hooks = {"kernel": plants.kernels(plants.turned), "norm": plants.eps(2e-5)}
    theirs = answers(one, wrong=block, hooks=hooks)
    (found,) = diagnose(one, block, theirs)
    assert found.mistake == "kernel-flipped + batch-norm-eps"
    assert "and besides, the batch norm's eps is 2e-05 in every branch" in found.sentence


def test_what_is_mostly_one_mistake_is_said_to_be_that():
    one = pack("tiny")
    hooks = {
        "kernel": plants.kernels(plants.turned),
        "write": lambda port, y: y * (1 + np.float32(1e-3) * np.sin(np.arange(y.size))).reshape(
            y.shape).astype(np.float32),
    }  # fmt: skip
    theirs = answers(one, wrong="stages.0.1", hooks=hooks)
    (found,) = diagnose(one, "stages.0.1", theirs)
    assert found.mistake == "kernel-flipped"
    assert found.sentence.startswith("mostly this: ")
    assert found.sentence.endswith("something smaller remains")


@pytest.mark.parametrize(
    "numbers",
    [
        lambda y: np.round(y * 16) / 16,  # fixed point
        lambda y: plants.int8(y),
        lambda y: np.ldexp(np.round(np.frexp(y)[0] * 8) / 8, np.frexp(y)[1]),  # float8, 4 bits
    ],
    ids=["even-grid", "int8", "float8"],
)
def test_a_short_type_is_not_read_off_numbers_on_a_grid(numbers):
    one = pack("tiny")
    theirs = {**answers(one), "stages.0.1": numbers(one.tensor("stages.0.1")).astype(np.float32)}
    found = {finding.mistake for finding in diagnose(one, "stages.0.1", theirs)}
    assert "short-type" not in found
    image = {"input": numbers(one.tensor("input")).astype(np.float32)}
    assert "short-type" not in {finding.mistake for finding in diagnose(one, "input", image)}


@pytest.mark.parametrize("name", ["subnormal numbers flushed", "fast reciprocal roots",
                                  "zeros of the other sign", "Winograd F(6)"])  # fmt: skip
def test_honest_arithmetic_is_called_right(name):
    one = pack("tiny", "op")
    spelled = confusion.operations(one.network().astype(np.float32))
    maths = confusion.HONEST[name]
    with np.errstate(under="ignore"):
        theirs = {o.name: y for o, y in confusion.run(spelled, one.tensor("input"), maths)}
    report = compare(theirs, one)
    assert report.ok, str(report)


# --- The script -----------------------------------------------------------------------------------


def test_the_script_tells_named_from_mistaken():
    plant = next(p for p in plants.PLANTS if p.mistake == "kernel-flipped")
    rows = [confusion.outcome(plant, level) for level in ("block", "logits")]
    assert [row.kind for row in rows] == ["named", "named"]
    for level in ("block", "logits"):
        assert "| kernel-flipped | 1 of 1 | – | – | – | – |" in confusion.table(rows, level)
    row = confusion.outcome(replace(plant, mistake="mean-missing"), "block")
    assert row.kind == "another"
    line = "| mean-missing | kernel-flipped | block | tiny | 1 |"
    assert line in confusion.off_the_diagonal([row], "another")
    right = replace(plant, hooks={})
    assert confusion.outcome(right, "block").kind == "hidden"


def test_the_script_says_why_a_mistake_is_unknown():
    twice = next(p for p in plants.PLANTS if p.mistake == "batch-norm-used-twice")
    row = confusion.outcome(twice, "logits")
    assert row.kind == "unknown"
    assert row.why == "no variant of the catalogue is made in the same way in every block"


def test_the_readme_says_what_the_matrix_says():
    """And the matrix has nothing off its diagonal that makes other numbers."""
    root = Path(__file__).parents[1]
    text = (root / "weights_tools" / "confusion.md").read_text("utf-8")
    counts = re.search(
        r"([\d,]+) planted mistakes of (\d+) kinds show: ([\d,]+) are named alone .*?, ([\d,]+) "
        r"together with others .*?, ([\d,]+) are “unknown”, 0 are called another", text,
    )  # fmt: skip
    seen, _, alone, together, unknown = (int(n.replace(",", "")) for n in counts.groups())
    assert seen == alone + together + unknown
    foreign = int(re.search(r"levels block, branch and op: (\d+) show, 0 are given", text)[1])
    honest = int(re.search(r"(\d+) runs, 0 called wrong", text)[1])
    unnamed = text.partition("## Unknown, and why")[2].partition("\n## ")[0]
    assert ", logits)" in unnamed
    assert ", block)" not in unnamed
    readme = " ".join((root / "README.md").read_text("utf-8").split())
    assert f"of {seen:,} that show" in readme
    assert f"{unknown} are “unknown”, and {together} are named together with others" in readme
    assert f"{foreign} mistakes that are in no catalogue end in “unknown”" in readme
    assert f"of {honest} runs of honest arithmetic" in readme
