"""The lessons: their numbers, held against what was computed in another way; their words."""

import json
import re
from dataclasses import replace
from importlib import import_module
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny

import npvgg
from npvgg import explain
from npvgg.cli import explain as cli
from npvgg.cli.main import main
from npvgg.config import expand
from npvgg.errors import ArgumentError
from npvgg.explain import subject
from tests.oracles import naive


@pytest.fixture(scope="module")
def nano():
    return npvgg.create_model(
        "repvgg_nano.cifar10", pretrained=True, reparameterize=False, engine="reference"
    )


@pytest.fixture
def told(capfd):
    """Run the command line, and give its output."""

    def told(*arguments, status=0):
        assert main(["explain", *arguments]) == status
        captured = capfd.readouterr()
        return captured.err if status else captured.out

    return told


# --- network --------------------------------------------------------------------------------------


def seen(config):
    """The receptive field of each block, found backwards: which inputs do two outputs need?"""
    specs = expand(config)
    for end in range(1, len(specs) + 1):
        low = high = 0
        for spec in reversed(specs[:end]):
            low, high = low * spec.stride - spec.dilation, high * spec.stride + spec.dilation
        yield high - low + 1


@pytest.mark.parametrize("name", ["plain", "output-stride-8", "identities-everywhere"])
def test_the_receptive_field_is_what_an_output_needs(name):
    config = tiny.config(name)
    lesson = explain.network(config, (config.in_chans, 40, 40))
    assert [row.receptive_field for row in lesson.blocks] == list(seen(config))


def test_the_network_that_ships_sees_73_pixels_and_halves_its_activations(nano):
    lesson = explain.network(nano)
    assert lesson.blocks[-1].receptive_field == 73
    assert (lesson.train.macs, lesson.deploy.macs) == (121_571_840, 109_414_912)
    assert (lesson.train.activations, lesson.deploy.activations) == (434_186, 217_098)
    assert sum(row.count for row in lesson.collapsed) == len(nano.network.blocks)


def test_network_as_csv_and_latex(told):
    rows = told("network", "--model", "repvgg_a0", "--csv").splitlines()
    assert len(rows) == 1 + 22 + 1
    assert rows[1] == "stem,48x112x112,3,1632,18063360,1204224,1344,16257024,602112"
    latex = told("network", "--model", "repvgg_a0", "--latex")
    assert r"stages.2.1--13 & 13 & 192$\times$14$\times$14 & 503" in latex
    rows = latex.partition(r"\midrule")[2].splitlines()
    assert {row.count(" & ") for row in rows if row.endswith(r"\\")} == {9}


# --- fold -----------------------------------------------------------------------------------------


def photo(rng):
    return rng.integers(0, 256, (40, 33, 3), np.uint8)


def by_hand(tensors, block, k, c, group):
    """The folded window of channels c → k, in Python's own floats."""
    total, bias = [[0.0] * 3 for _ in range(3)], 0.0
    for branch in ("conv_kxk", "conv_1x1", "identity"):
        norm = f"{block}.{branch}" + (".bn" if branch != "identity" else "")
        if f"{norm}.weight" not in tensors:
            continue
        gamma, beta, mean, var = (
            float(tensors[f"{norm}.{name}"][k])
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        t = gamma / (var + 1e-5) ** 0.5
        bias += beta - mean * t
        if branch == "conv_kxk":
            kernel = tensors[f"{block}.conv_kxk.conv.weight"][k, c]
            for r in range(3):
                for s in range(3):
                    total[r][s] += float(kernel[r, s]) * t
        elif branch == "conv_1x1":
            total[1][1] += float(tensors[f"{block}.conv_1x1.conv.weight"][k, c, 0, 0]) * t
        elif c == k % group:
            total[1][1] += t
    return total, bias


@pytest.mark.parametrize(("name", "block"), [("plain", "stages.1.1"), ("groups", "stages.2.1")])
def test_the_example_of_a_fold_is_that_of_a_pocket_calculator(name, block, rng):
    model = tiny.model(name, reparameterize=False)
    lesson = explain.fold(model, block, channel=5, photo=photo(rng))
    example, tensors = lesson.example, tiny.tensors(name)
    group = tensors[f"{block}.conv_kxk.conv.weight"].shape[1]
    total, bias = by_hand(tensors, block, 5, example.input_channel, group)
    np.testing.assert_allclose(example.total, total, rtol=1e-12)
    np.testing.assert_allclose(example.total_bias, bias, rtol=1e-12)
    np.testing.assert_allclose(sum(example.scaled.values()), total, rtol=1e-12)


def test_the_fold_of_the_network_that_ships_shows_why_int8_fails(nano):
    numbers = explain.fold(nano, "stages.0.1").as_json()
    assert numbers["block"] == "stages.0.1"
    assert [row["name"] for row in numbers["branches"]] == ["3×3", "1×1", "identity"]
    assert abs(sum(row["energy_share"] for row in numbers["branches"]) - 1) < 1e-12
    assert 5.5 < numbers["branches"][0]["largest_over_std"] < 5.7
    assert 90 < numbers["folded"]["largest_over_std"] < 92
    assert 0.990 < numbers["folded"]["energy_share_centre"] < 0.992
    assert 0 < numbers["difference"] <= numbers["bound"] < 1e-3
    assert numbers["share_of_bound"] < 1


def test_a_wrong_fold_would_exceed_its_bound(nano, monkeypatch):
    right = explain.fold.__globals__["reparam"].reparameterize

    def wrong(*args, **options):
        fused = right(*args, **options)
        return type(fused)(fused.weight, fused.bias * np.float32(1.001))

    monkeypatch.setattr("npvgg.reparam.reparameterize", wrong)
    assert explain.fold(nano, "stages.0.1").share_of_bound > 1


def test_what_cannot_be_folded_is_refused_with_what_can_be_shown(nano, told):
    folded = tiny.model("plain")
    with pytest.raises(ArgumentError, match="folded already; of that, network, pixel, im2col"):
        explain.fold(folded)
    error = told("fold", "stages.9.9", status=2)
    assert "block: expected one of this network's, got 'stages.9.9'" in error
    assert "there are stages.3.0" in error
    assert "channel: expected 0 … 31, got 99" in told("fold", "--channel", "99", status=2)


# --- every lesson ---------------------------------------------------------------------------------


def test_a_lesson_prints_itself_and_gives_json(told, nano):
    text = told("fold", "stages.0.1")
    assert text == explain.fold(nano, "stages.0.1").as_text()
    assert "Both round" in text
    assert json.loads(told("fold", "stages.0.1", "--json")) == json.loads(
        json.dumps(explain.fold(nano, "stages.0.1").as_json())
    )


def test_the_promised_keys_are_in_the_json(told):
    """Programs read these; what else a lesson gives may change."""

    def read(*arguments):
        return json.loads(told(*arguments, "--json"), parse_constant=pytest.fail)

    costs = {"parameters", "macs", "activations"}
    for block in (blocks := read("network")["blocks"]):
        assert {"name", "out_shape", "receptive_field", "train", "deploy"} <= set(block)
        assert costs <= set(block["train"])
        assert costs <= set(block["deploy"])
    assert blocks
    fold = read("fold")
    assert {"block", "branches", "folded", "difference", "bound"} <= set(fold)
    for branch in fold["branches"]:
        assert {"name", "energy_share", "largest_over_std"} <= set(branch)
    assert {"energy_share_centre", "largest_over_std"} <= set(fold["folded"])
    assert {
        "m", "r", "points", "at", "g", "bt", "multiplications", "direct_multiplications",
        "error", "bound",
    } <= set(read("winograd", "--m", "2"))  # fmt: skip


# --- identities -----------------------------------------------------------------------------------


def test_the_six_identities_hold_in_integers_and_fail_without_their_condition():
    lesson = explain.identities()
    assert len(lesson.identities) == 6
    for one in lesson.identities:
        assert one.equal, one.name
        np.testing.assert_array_equal(one.apart, one.folded, err_msg=one.name)
        np.testing.assert_array_equal(one.apart, np.round(one.apart), err_msg=one.name)
        assert one.wrong_numbers == np.count_nonzero(one.wrong != one.apart) > 0, one.name


def test_branches_of_another_stride_cannot_be_added():
    table = explain.identities().strides
    assert [(row.branch, row.stride, row.shape) for row in table] == [
        ("3×3", 1, (5, 5)), ("3×3 average", 1, (5, 5)), ("3×3 average", 2, (3, 3)),
    ]  # fmt: skip
    assert [row.fits for row in table] == [True, True, False]


def test_only_the_ring_is_wrong_where_zeros_are_put_around_too_late():
    ring = explain.identities().ring
    border = np.ones((6, 6), bool)
    border[1:-1, 1:-1] = False
    np.testing.assert_array_equal(ring != 0, border)


# --- pixel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "groups", "output-stride-8"])
def test_one_number_is_that_of_the_loops(name, rng):
    model = tiny.model(name, reparameterize=False)
    taken = photo(rng)
    lesson = explain.pixel(model, taken, "stages.1.1", 5, (2, 3))
    assert (lesson.channel, lesson.at) == (5, (2, 3))
    net = model.network.reparameterized()
    block = subject.named(net, "stages.1.1")
    first, last = lesson.group
    x = subject.input_of(net, "stages.1.1", subject.image(model, taken)[0])
    want = naive.conv2d(
        x[:, first : last + 1, :12, :12], block.form.weight[5:6], block.form.bias[5:6],
        block.spec.stride, block.spec.dilation, block.spec.dilation,
    )[0][0][2][3]  # fmt: skip
    assert lesson.before == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert lesson.output == max(lesson.before, 0)
    assert lesson.output == pytest.approx(lesson.of_the_engine, rel=1e-4, abs=1e-4)
    shown = sum(window.sum for window in lesson.windows)
    assert shown + lesson.rest + lesson.bias == pytest.approx(lesson.before, rel=1e-12)
    for window in lesson.windows:
        by_hand = sum(
            float(window.patch[r, s]) * float(window.kernel[r, s])
            for r in range(3)
            for s in range(3)
        )
        assert window.sum == pytest.approx(by_hand, rel=1e-12)


def test_a_pixel_outside_is_refused(nano, told):
    assert "--at: expected row,column such as 3,5, got '3'" in told("pixel", "--at", "3", status=2)
    with pytest.raises(ArgumentError, match=r"at, row: expected 0 … 31, got 32"):
        explain.pixel(nano, at=(32, 0))
    attentive = tiny.model("se")
    with pytest.raises(
        ArgumentError, match=r"without attention.*network, im2col, winograd, photo and"
    ):
        explain.pixel(attentive)


# --- im2col ---------------------------------------------------------------------------------------


def test_columns_times_kernels_are_the_convolution(nano):
    lesson = explain.im2col(nano)
    np.testing.assert_array_equal(lesson.y, lesson.direct)
    x, columns = lesson.x, lesson.columns
    for c, r, s, p, q in np.ndindex(2, 3, 3, 4, 4):
        row, column = p + r - 1, q + s - 1
        inside = 0 <= row < 4 and 0 <= column < 4
        want = x[c, row, column] if inside else 0
        assert columns[9 * c + 3 * r + s, 4 * p + q] == want
    assert lesson.used.sum() == np.count_nonzero(np.ones_like(columns[:9])) - 44
    assert lesson.largest.column_bytes == 4 * 9 * 32 * 32 * 32


# --- winograd -------------------------------------------------------------------------------------


def test_the_matrices_of_the_usual_points_are_those_of_the_paper():
    """Lavin & Gray, arXiv:1509.09308, section 4.1, up to the scale of rows."""
    numbers = explain.winograd(points=["0", "1", "-1"]).as_json()
    assert (numbers["m"], numbers["r"], numbers["multiplications"]) == (2, 3, 16)
    assert numbers["direct_multiplications"] == 36
    assert numbers["points"] == ["0", "1", "-1"]
    assert numbers["at"] == [["1", "1", "1", "0"], ["0", "1", "-1", "1"]]
    assert numbers["g"] == [
        ["-1", "0", "0"], ["1/2", "1/2", "1/2"], ["1/2", "-1/2", "1/2"], ["0", "0", "1"],
    ]  # fmt: skip
    assert numbers["bt"] == [
        ["-1", "0", "1", "0"], ["0", "1", "1", "0"], ["0", "-1", "1", "0"], ["0", "-1", "0", "1"],
    ]  # fmt: skip
    assert 0 < numbers["error"] < numbers["bound"]


def test_the_errors_of_tiles_are_within_their_bounds_and_worse_points_are_worse():
    lesson = explain.winograd(m=4, points=[0, 1, 2, 3, 4])
    assert all(0 < row.share_of_bound < 0.05 for row in lesson.measured)
    ours = next(row for row in lesson.measured if row.m == 4 and row.points == "ours")
    assert lesson.error > 10 * ours.error
    assert lesson.proved == 6 * 3


def test_tiles_cover_a_map_and_throw_away_what_is_beyond(nano):
    last = explain.winograd(nano, m=4).tilings[-1]
    assert (last.side, last.tiles, last.computed, last.thrown_away) == ((7, 7), (2, 2), 64, 15)
    assert last.per_output == pytest.approx(4 * 36 / 49)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("0,1,1", r"expected 3 finite points for F\(2, 3\), each once"),
        ("0,inf,1", "expected finite numbers such as"),
        ("0,x,1", "got 'x'"),
        ("0,1", "m: expected 2 … 6"),
    ],
)
def test_points_that_make_no_filter_are_refused(points, said):
    with pytest.raises(ArgumentError, match=said):
        explain.winograd(points=points.split(","))


# --- photo ----------------------------------------------------------------------------------------


def test_the_cells_and_the_bias_are_the_logit(nano):
    numbers = explain.photo(nano).as_json()
    cells = [value for row in numbers["class_map"] for value in row]
    assert sum(cells) + numbers["bias"] == pytest.approx(numbers["logit"], abs=5e-6)
    assert numbers["topk"][0]["name"] == "cat"
    assert numbers["class"] == numbers["topk"][0]["index"] == 3
    assert np.shape(numbers["class_map"]) == (4, 4)
    assert [block["name"] for block in numbers["blocks"]][:2] == ["stem", "stages.0.0"]
    assert numbers["blocks"][-1]["shape"] == [256, 4, 4]
    assert len(numbers["blocks"][0]["strongest"]) == 6


def test_few_images_need_no_compiled_engine_and_many_get_it(monkeypatch):
    module, taken = import_module("npvgg.explain.lessons.photo"), []
    real = module.prepare

    def prepare(net, engine):
        taken.append(engine)
        return real(net, "reference")

    monkeypatch.setattr(module, "prepare", prepare)
    model = tiny.model("plain")
    model.pretrained_cfg["input_size"] = (3, 12, 10)
    for much in (30e9, 0):
        monkeypatch.setattr(module, "MUCH", much)
        assert explain.photo(model).occlusion.shape == (8, 8)
    assert taken == ["reference", "auto"]


def test_the_class_that_is_asked_for_is_shown(nano, told):
    numbers = json.loads(told("photo", "--class", "8", "--json"))
    assert (numbers["class"], numbers["class_name"]) == (8, "ship")
    assert "class: expected 0 … 9, got 10" in told("photo", "--class", "10", status=2)


@pytest.mark.parametrize(
    ("name", "said"),
    [("pool-max", "class map is untrue.*network, pixel, im2col"),
     ("pool-catavgmax", "class map is untrue"),
     ("embedding", "expected a classifier.*can be shown")],
)  # fmt: skip
def test_a_class_map_that_would_be_untrue_is_refused(name, said):
    with pytest.raises(ArgumentError, match=said):
        explain.photo(tiny.model(name))


# --- quantize -------------------------------------------------------------------------------------


def test_folding_leaves_eight_bits_little_around_the_centre(nano):
    lesson = explain.quantize(nano, "stages.0.1")
    rows = {(row.of, row.per): row for row in lesson.kernels}
    assert rows["folded", "tensor"].error_off_centre > 50 * rows["3×3", "tensor"].error_off_centre
    assert rows["folded", "channel"].error_off_centre < rows["folded", "tensor"].error_off_centre
    assert all(abs(sum(shares) - 1) < 1e-12 for shares in lesson.histogram.values())
    branches, folded, _ = lesson.runs
    assert folded.error > 2 * branches.error


def test_eight_bits_are_255_levels_and_at_most_half_a_step_away(rng):
    from npvgg.explain.lessons.quantize import eight_bits

    w = rng.standard_normal((6, 5, 3, 3))
    for per, step in (("tensor", np.abs(w).max() / 127), ("channel", None)):
        step = np.abs(w).max((1, 2, 3), keepdims=True) / 127 if step is None else step
        got = eight_bits(w, per)
        levels = got / step
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
        assert np.abs(levels).max() == pytest.approx(127)
        assert (np.abs(got - w) <= step / 2 * (1 + 1e-9)).all()


# --- mistakes -------------------------------------------------------------------------------------


def test_a_mistake_changes_what_it_is_about(nano):
    lesson = explain.mistakes(nano, "branch-missing", "stages.0.1")
    identity = next(made for made in lesson.mistakes if "identity" in made.says)
    assert identity.says == "the identity branch is missing"
    assert identity.error > 0.1
    assert identity.error_map.shape == (32, 32)
    one = explain.mistakes(nano, "identity-in-the-wrong-place", "stages.0.1").mistakes[0]
    assert one.tensor == "stages.0.1.identity"
    assert one.equation.startswith("y[n,k,p,q] = (x[n,k,p,q] − mean[k])")


def test_each_mistake_gets_its_own_logits_out_of_a_batch(monkeypatch):
    model = tiny.model("plain", reparameterize=False)
    together = explain.mistakes(model).mistakes
    monkeypatch.setattr(import_module("npvgg.explain.lessons.mistakes"), "BATCH", 1)
    alone = explain.mistakes(model).mistakes
    assert [made.name for made in together] == [made.name for made in alone]
    np.testing.assert_allclose(
        [made.logits for made in together], [made.logits for made in alone], rtol=1e-3, atol=1e-6
    )
    assert len({round(made.logits, 4) for made in alone}) > len(alone) / 2  # they do differ


def test_an_unknown_mistake_is_refused(nano):
    with pytest.raises(ArgumentError, match="got 'bias-mising'; there are bias-missing"):
        explain.mistakes(nano, "bias-mising")


# --- training -------------------------------------------------------------------------------------


def test_a_sum_of_branches_only_rescales_the_step_and_a_product_does_not():
    plain, total, constants, product, norm = explain.training().ways
    assert total.rate == pytest.approx(2 * plain.rate)
    assert constants.rate == pytest.approx(5 * plain.rate)  # 2² + 1²
    assert max(total.apart, constants.apart) < 1e-12
    assert min(product.apart, norm.apart) > 0.1


def test_descents_side_by_side_are_those_one_by_one():
    toy = import_module("npvgg.explain.lessons.training")
    rates = np.array([0.01, 0.1, 0.73])
    together, _ = toy._plain(rates[:, None])
    for i, rate in enumerate(rates):
        np.testing.assert_allclose(together[:, i], toy._plain(rate)[0], rtol=1e-13)


def test_the_gradients_of_the_toy_are_those_of_differences():
    toy = import_module("npvgg.explain.lessons.training")
    g_of = lambda w: toy.COVARIANCE @ (w - toy.TARGET)  # noqa: E731
    loss = lambda w: 0.5 * (w - toy.TARGET) @ toy.COVARIANCE @ (w - toy.TARGET)  # noqa: E731
    v, gamma = np.array([0.7, -0.4]), np.array([1.3])
    back = toy._normed_gradient((v, gamma), g_of(toy._normed((v, gamma))))
    h = 1e-6
    for i in range(2):
        e = h * np.eye(2)[i]
        ends = (loss(toy._normed((v + s * e, gamma))) for s in (1, -1))
        assert back[0][i] == pytest.approx(-np.subtract(*reversed([*ends])) / (2 * h), rel=1e-6)
    ends = [loss(toy._normed((v, gamma + s * h))) for s in (1, -1)]
    assert back[1][0] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)
    assert back[0] @ v == pytest.approx(0, abs=1e-12)


# --- questions ------------------------------------------------------------------------------------


def test_ten_questions_are_answered_by_numbers(nano):
    lesson = explain.questions(nano)
    text = lesson.as_text()
    assert [f"{n}. {q}" in text for n, q in enumerate(lesson.questions, 1)] == [True] * 10
    assert lesson.difference < 1e-5 < lesson.statistics
    assert lesson.unfolded_apart < 1e-12


# --- any network ----------------------------------------------------------------------------------

REFUSED = {
    "se": {"pixel"}, "se-after-the-activation": {"pixel"}, "ese-hard-swish": {"pixel"},
    "eca": {"pixel"}, "cbam": {"pixel"},
    "pool-max": {"photo"}, "pool-catavgmax": {"photo"},
    "embedding": {"photo", "quantize", "mistakes", "questions"},
    "no-pool": {"photo", "quantize", "mistakes", "questions"},
    "identities-everywhere": {"pixel", "photo", "quantize", "mistakes", "questions"},
}  # fmt: skip
"""Attention; pooling; no classes; four channels, which are no photo: what cannot be shown of it."""


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_every_network_is_shown_or_refused_by_one_clear_error(name):
    refused = REFUSED.get(name, set())
    for reparameterize, more in ((False, set()), (True, {"fold", "quantize", "questions"})):
        model = tiny.model(name, reparameterize=reparameterize)
        model.pretrained_cfg["input_size"] = (model.config.in_chans, 12, 10)
        check_offers(model, refused | more)


def check_offers(model, refused):
    """Each lesson is shown or refused; a refusal offers those that are shown, and no other."""
    lessons = ("network", "fold", "pixel", "im2col", "photo", "quantize", "mistakes", "questions")
    for lesson in lessons:
        if lesson in refused:
            with pytest.raises(ArgumentError, match="can be shown") as caught:
                getattr(explain, lesson)(model)
            offered = re.search("(network, .*?) can be shown", str(caught.value))[1]
            shown = set(re.split(", | and ", offered))
            assert shown == {*lessons, "winograd"} - refused
        else:
            shown = getattr(explain, lesson)(model)
            assert shown.as_text()
            json.dumps(shown.as_json(), allow_nan=False)


# --- in Python and from the shell -----------------------------------------------------------------


@pytest.mark.parametrize("lesson", list(cli.LESSONS))
def test_every_lesson_comes_from_the_shell_in_every_form(lesson, told, tmp_path):
    pytest.importorskip("jinja2", reason="pages need Jinja2")
    page, folder = tmp_path / "page.html", tmp_path / "drawings"
    arguments = (lesson, *(["branch-missing"] if lesson == "mistakes" else []))  # not all: time
    forms = ("--json", "--html", str(page), "--svg", str(folder))
    assert json.loads(told(*arguments, *forms))
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert list(folder.iterdir())
    for drawing in folder.iterdir():
        ElementTree.parse(drawing)  # well-formed
    assert "exists; --force replaces it" in told(*arguments, *forms, status=2)


@pytest.mark.parametrize("option", ["--csv", "--latex"])
def test_what_is_no_table_is_refused_as_one(option, told):
    for lesson in set(cli.LESSONS) - {"network"}:
        said = f"{option}: expected the lesson network, which is a table, got {lesson}; --json"
        assert said in told(lesson, option, status=2)
    with pytest.raises(SystemExit):
        main(["explain", "network", option, "--json"])


def test_a_photo_that_cannot_be_read_is_one_error(told, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    for path, why in ((bad, "not an image that can be read"), (tmp_path / "none", "No such file")):
        for arguments in (("photo", path), ("fold", "--photo", path), ("pixel", path)):
            error = told(*map(str, arguments), status=2)
            assert error.count("\n") == 1
            assert f"{str(path)!r}: {why}" in error


def test_no_factor_is_claimed_for_an_identity_that_a_block_has_not(nano):
    lesson = explain.questions(nano)
    assert "what the identity adds there" in " ".join(lesson.as_text().split())
    factor = {k: v for k, v in lesson.fold.example.factor.items() if k != "identity"}
    without = replace(lesson.fold, example=replace(lesson.fold.example, factor=factor))
    text = " ".join(replace(lesson, fold=without).as_text().split())
    assert f"{lesson.block} has no identity branch" in text
    assert "what the identity adds there" not in text


# --- what is said follows the numbers -------------------------------------------------------------


def planted(change):
    """A tiny model in train form, its weights changed: change(name, array) in place."""
    tensors = {name: np.array(array) for name, array in tiny.tensors().items()}
    for name, array in tensors.items():
        change(name, array)
    options = {"weights": tensors, "reparameterize": False, "engine": "reference"}
    model = npvgg.create_model("repvgg_a0", **tiny.keywords(), **options)
    model.pretrained_cfg["input_size"] = (3, 12, 10)
    return model


def words(lesson):
    return " ".join(lesson.as_text().split())


def only_3x3(name, array):
    """Leave nothing of the other branches."""
    if "conv_1x1.conv" in name or name.endswith("identity.weight"):
        array[...] = 0


def corner(name, array):
    """Set every output channel's largest weight of the stem at a corner, one above all."""
    if name == "stem.conv_kxk.conv.weight":
        array[:, 0, 0, 0] = 100
        array[0, 0, 0, 0] = 1e6


def no_3x3(name, array):
    if name.endswith("conv_kxk.bn.weight"):
        array[...] = 0


def test_where_the_fold_adds_nothing_no_question_says_that_it_does(nano):
    usual, turned = words(explain.questions(nano)), words(explain.questions(planted(only_3x3)))
    for said, otherwise in (
        ("the fold makes it coarser", "the fold makes it no coarser"),
        ("Moved a half of the 1×1", "Here no half of the 1×1 can be moved"),
        ("They overlap in the centre tap", "Here they do not overlap"),
    ):
        assert said in usual
        assert otherwise not in usual
        assert otherwise in turned
        assert said not in turned


def test_a_factor_of_zero_moves_no_weight():
    lesson = explain.questions(planted(no_3x3))
    assert (lesson.moved, lesson.unfolded_apart) == (0, pytest.approx(0, abs=1e-12))
    assert "Here no half of the 1×1 can be moved" in words(lesson)


def test_a_block_without_an_identity_is_shown_none():
    model = planted(corner)
    lesson = explain.questions(model)
    assert (lesson.block, lesson.identity_grid) == ("stem", None)
    assert "stem has no identity branch to show it on" in words(lesson)
    assert "identity" not in lesson.norms
    assert "The identity" not in words(explain.fold(model, "stem"))
    assert "The identity branch is a diagonal" in words(explain.fold(model))
    assert explain.quantize(model, "stem").centred == 0
    assert explain.quantize(planted(only_3x3), "stem").centred < 1


def test_int8_that_loses_nothing_by_the_fold_is_said_to(nano):
    lesson = explain.questions(nano)
    said = "this network loses nothing by the fold"
    assert said not in words(lesson)
    assert said in words(replace(lesson, runs=(lesson.runs[1], lesson.runs[0], lesson.runs[2])))


def test_a_logit_that_no_square_changes_falls_nowhere(nano):
    def no_classifier(name, array):
        if name == "head.fc.weight":
            array[...] = 0

    said = "it does nowhere"
    assert said in words(explain.photo(planted(no_classifier)))
    assert said not in words(explain.photo(nano))


def test_mistakes_that_are_all_seen_are_not_said_to_be_missed():
    lesson = explain.mistakes(planted(lambda name, array: None))
    assert lesson.unseen
    assert "misses them" in words(lesson)
    assert "misses them" not in words(replace(lesson, unseen=0))


def test_a_block_of_zeros_is_shown():
    def no_weights(name, array):
        if name.startswith("stages.0.0") and array.ndim == 4:
            array[...] = 0

    model = planted(no_weights)
    for lesson in (explain.fold(model, "stages.0.0"), explain.quantize(model, "stages.0.0")):
        assert words(lesson)
        assert "NaN" not in json.dumps(lesson.as_json())
    assert explain.fold(model, "stages.0.0").folded.norm == 0


def test_a_network_that_overflows_can_still_be_shown():
    """Its numbers stand in the sentences as they are, inf and nan, and in JSON as null."""
    with np.errstate(all="ignore"):
        loud = {n: t * np.float32(1e30) if t.ndim == 4 else t for n, t in tiny.tensors().items()}
        model = npvgg.create_model(
            "repvgg_a0", weights=loud, reparameterize=False, engine="reference", **tiny.keywords()
        )
        for make in (explain.fold, explain.pixel, explain.photo, explain.questions,
                     explain.quantize):  # fmt: skip
            lesson = make(model)
            text = lesson.as_text() + lesson.as_html()
            assert "nan" in text or "inf" in text
            json.dumps(lesson.as_json(), allow_nan=False)
