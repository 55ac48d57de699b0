"""How the diagnosis behaves where little is given, nothing fits, or several mistakes fit."""

from pathlib import Path

import numpy as np
import pytest
from test_diagnosis import answers, first_wrong, pack

from npvgg import create_model
from npvgg.config import expand
from npvgg.errors import ArgumentError
from npvgg.testing.diagnosis import hypotheses
from npvgg.testing.diagnosis.diagnose import UNKNOWN, diagnose
from npvgg.testing.packs.conformance import conformance_pack
from npvgg.testing.packs.pack import Pack
from npvgg.testing.tiny import TINY
from npvgg.weights import build
from tests.oracles import plants, porter

CAT = Path(__file__).parent / "photos" / "chelsea.png"


def names(pack, tensor, theirs, **options):
    return {finding.mistake for finding in diagnose(pack, tensor, theirs, **options)}


# --- Nothing fits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["tiny", "tiny_g2", "tiny_se", "tiny_dilated"])
def test_no_mistake_is_made_up_for_garbage(network, rng):
    one = pack(network)
    theirs = answers(one)
    for probe in one.probes[::2]:
        scale = abs(one.tensor(probe.name)).max()
        noise = scale * rng.standard_normal(probe.shape).astype(np.float32)
        for garbage in (noise, np.abs(noise), one.tensor(probe.name) + noise / 1000):
            found = diagnose(one, probe.name, {**theirs, probe.name: garbage})
            assert [finding.mistake for finding in found] == [UNKNOWN]
            assert found[0].error > 0


def test_no_mistake_is_made_up_for_a_strange_shape():
    one = pack("tiny")
    assert names(one, "stages.0.0", {"stages.0.0": np.zeros((1, 8, 4, 4))}) == {UNKNOWN}
    assert names(one, "stages.0.0", {"stages.0.0": np.zeros(7)}) == {UNKNOWN}


def test_nothing_but_nan_is_no_known_mistake_of_a_right_layer():
    one = pack("tiny")
    nan = np.full(one.tensor("pool").shape, np.nan)
    assert names(one, "pool", {**answers(one), "pool": nan}) == {UNKNOWN}


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300, np.nan])
@pytest.mark.parametrize("tensor", ["stem", "pool", "logits"])
def test_a_number_out_of_all_bounds_is_survived(tensor, value):
    one = pack("tiny")
    theirs = answers(one)
    theirs[tensor] = theirs[tensor].astype(np.float64)
    theirs[tensor].flat[0] = value
    assert names(one, tensor, theirs) == {UNKNOWN}


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "every number is 0"), (np.nan, "no number is finite"), (-np.inf, "no number is finite")],
)
@pytest.mark.parametrize("tensor", ["stem", "stages.0.1", "stages.1.0", "pool", "logits"])
def test_numbers_that_say_nothing_are_not_explained(tensor, value, said):
    """Mean and variance exchanged make NaN, too, and a ReLU that compares makes zeros of NaN."""
    one = pack("tiny")
    garbage = np.full(one.tensor(tensor).shape, value)
    for theirs in ({}, answers(one)):
        (found,) = diagnose(one, tensor, {**theirs, tensor: garbage})
        assert found.mistake == UNKNOWN
        assert found.sentence.startswith(said)


@pytest.mark.parametrize("place", [("tiny_g2", "stages.1.1"), ("tiny_dilated", "stages.2.1")])
def test_nan_in_all_channels_tells_of_nothing(place):
    """Behind a ReLU that compares it is zeros, and looks as a buffer that was never written."""
    one = pack(place[0])
    negative = plants.normed(lambda gamma, beta, mean, var: (gamma, beta, var, -abs(mean)))
    theirs = answers(one, wrong=place[1], hooks={"norm": plants.quietly(negative)})
    assert not theirs[place[1]].any()
    (found,) = diagnose(one, place[1], theirs)
    assert found.sentence.startswith("every number is 0")


@pytest.mark.parametrize("tensor", ["stem", "stages.0.1", "stages.1.0"])
def test_whole_numbers_are_no_sign_of_a_short_type(tensor):
    one = pack("tiny")
    rounded = np.rint(one.tensor(tensor))
    assert names(one, tensor, {**answers(one), tensor: rounded}) == {UNKNOWN}


def test_an_array_without_numbers_is_called_what_it_is():
    one = pack("tiny")
    (found,) = diagnose(one, "logits", {"logits": np.zeros((0, 5))})
    assert found.sentence == "it has no numbers: its shape is (0, 5)"


@pytest.mark.parametrize("tensor", ["input", "stem", "logits"])
def test_an_array_in_float16_is_said_to_be_that(tensor):
    one = pack("tiny")
    theirs = {n: y.astype(np.float16) for n, y in answers(one).items()}
    (found,) = diagnose(one, tensor, theirs)
    assert found.sentence == "the array is in float16, and right but for that rounding"
    assert names(one, tensor, {tensor: (theirs[tensor] * np.float16(1.5))}) != {found.mistake}


def test_a_tensor_must_be_there():
    one = pack("tiny")
    with pytest.raises(ArgumentError, match="name"):
        diagnose(one, "stages.9", {"stages.9": np.zeros(1)})
    with pytest.raises(ArgumentError, match="theirs: expected 'stem'"):
        diagnose(one, "stem", {"input": one.tensor("input")})


def test_mistakes_that_were_not_tried_are_not_said_not_to_fit(monkeypatch):
    one = pack("tiny")
    theirs = {"logits": everywhere(one, {"norm": plants.eps(1e-3)})["logits"]}
    monkeypatch.setattr(hypotheses, "MAX_WORK", 1e4)
    (found,) = diagnose(one, "logits", theirs)
    assert found.mistake == UNKNOWN
    assert "in all 5 blocks from stem to stages.1.1 were not tried" in found.sentence
    assert "give the outputs of blocks in between" in found.advice


@pytest.mark.parametrize(
    ("level", "tensor", "given", "advice"),
    [
        ("block", "stages.0.1", True, "--level branch, or op`"),
        ("branch", "stages.0.1.sum", True, "--level op`"),
        ("branch", "stages.0.1.sum", False, "computed from, too: stages.0.1.conv_kxk.bn, stages.0"),
        ("op", "stages.0.1.conv_kxk.bn", True, "compute one wrong number by hand"),
        ("block", "logits", True, "compute one wrong number by hand"),
        ("op", "input", True, "take the pack's own tensor"),
        ("op", "stages.0.1", False, "mend the shape first"),
    ],
)
def test_the_advice_can_be_followed(level, tensor, given, advice, rng):
    one = pack("tiny", level)
    garbage = rng.standard_normal(one.probe(tensor).shape)[:, : None if advice[:4] != "mend" else 3]
    (found,) = diagnose(one, tensor, {**(answers(one) if given else {}), tensor: garbage})
    assert found.mistake == UNKNOWN
    assert advice in found.advice


def test_the_advice_on_a_photo_is_to_see_how_it_was_made(rng):
    one = conformance_pack("tiny", image=CAT)
    garbage = rng.standard_normal(one.probe("input").shape)
    assert 'see "input" in' in diagnose(one, "input", {"input": garbage})[0].advice


# --- Several fit ----------------------------------------------------------------------------------


def test_mistakes_that_make_the_same_numbers_are_all_named(rng):
    """On a map of one row only the kernel's middle row is seen."""
    model = create_model(
        "repvgg_a0", **{**vars(TINY["tiny"]), "strides": (1, 1), "stem_stride": 1},
        engine="reference", reparameterize=False,
    )  # fmt: skip
    one = Pack.of(model, rng.standard_normal((1, 3, 1, 12)).astype(np.float32), form="train")
    hooks = {"kernel": plants.kernels(plants.turned)}
    theirs = answers(one, wrong="stages.0.1", hooks=hooks)
    assert names(one, "stages.0.1", theirs) == {"kernel-flipped", "kernel-mirrored"}
    theirs = answers(one, wrong="stages.0.1", hooks={"kxk": lambda port, x: porter.conv(
        x[..., ::-1], port.kernel("conv_kxk"), pad=(1, 1))[..., ::-1]})  # fmt: skip
    assert names(one, "stages.0.1", theirs) == {"kernel-flipped", "kernel-mirrored"}


def test_the_sentence_has_every_variant_that_fits():
    """At one pixel, what a 3×3 kernel does to the neighbours is not seen."""
    one = pack("tiny")
    theirs = answers(one, wrong="stages.0.0", hooks={"norm": plants.eps(1e-3)})
    (found,) = diagnose(one, "stages.0.0", theirs)
    assert found.sentence == "the batch norm's eps is 0.001 in every branch; it is 1e-05"
    assert "1e-5" in found.advice
    assert 0 < found.error < 1e-5


def test_what_is_given_and_right_was_not_made_wrongly():
    """The last step is missing: nothing before the sum, which is right, may be named."""
    one = pack("tiny", "op")
    theirs = answers(one, wrong="stages.1.1", hooks={"act": lambda port, y: y})
    assert first_wrong(one, theirs) == "stages.1.1"
    assert names(one, "stages.1.1", theirs) == {"activation-missing", "another-tensor"}
    del theirs["stages.1.0"]  # then the mistake might be made in every block
    found = diagnose(one, "stages.1.1", theirs)
    assert {f.mistake for f in found} == {"activation-missing", "another-tensor"}


@pytest.mark.parametrize("with_output", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_an_identity_that_is_given_is_missing_or_late(late, with_output):
    one = pack("tiny", "op")

    def finish(port, x, branches):
        identity = branches.pop("identity")
        y = porter.Port.finish(port, x, branches)
        return y + identity if late else y

    theirs = answers(one, wrong="stages.0.1", hooks={"finish": finish})
    assert first_wrong(one, theirs) == "stages.0.1.sum"
    if not with_output:
        del theirs["stages.0.1"]
    want = "branch-missing" if with_output and not late else "identity-after-the-activation"
    assert names(one, "stages.0.1.sum", theirs) == {want}


def test_no_eps_is_not_said_to_be_one_that_looks_the_same():
    one = pack("tiny")
    theirs = answers(one, wrong="stages.0.1", hooks={"norm": plants.eps(0)})
    (found,) = diagnose(one, "stages.0.1", theirs)
    assert found.sentence == "the batch norm's eps is missing in every branch; it is 1e-05"


def test_dilations_that_a_small_map_cannot_tell_apart_are_named_as_a_class():
    """On 3×3 pixels a dilation of 3 leaves the kernel's centre alone, and so does every other."""
    one = pack("tiny", size=12)
    assert one.tensor("stages.1.1").shape[2:] == (3, 3)
    for dilation in (3, 4, 7):
        hooks = {"kxk": lambda port, x, d=dilation: porter.conv(
            x, port.kernel("conv_kxk"), dilation=d, pad=(d, d))}  # fmt: skip
        theirs = answers(one, wrong="stages.1.1", hooks=hooks)
        (found,) = diagnose(one, "stages.1.1", theirs)
        assert found.sentence.startswith("the dilation is 3 or more, not 1, in the 3×3 branch")
    hooks = {"kxk": lambda port, x: porter.conv(x, port.kernel("conv_kxk"), dilation=2, pad=(2, 2))}
    theirs = answers(one, wrong="stages.1.1", hooks=hooks)
    (found,) = diagnose(one, "stages.1.1", theirs)
    assert found.sentence.startswith("the dilation is 2, not 1, in the 3×3 branch")


def test_another_tensor_under_this_name_is_recognised():
    one = pack("tiny", "branch")
    theirs = answers(one)
    theirs["stages.0.1"] = theirs["stages.0.0"]
    found = diagnose(one, "stages.0.1", theirs)
    assert "another-tensor" in {f.mistake for f in found}
    assert any("stages.0.0" in f.sentence for f in found)


def test_the_weights_of_another_block_are_recognised():
    one = pack("tiny")
    other = build.flatten(one.network("train"))["stages.0.0.conv_kxk.conv.weight"]
    tensors = {
        n.removeprefix("stages.0.0."): a.astype(np.float32)
        for n, a in build.flatten(one.network("train")).items()
        if n.startswith("stages.0.0.")
    }
    hooks = {"__call__": lambda port, x: porter.Port(tensors, port.place, port.taps, {})(x)}
    theirs = answers(one, wrong="stages.0.1", hooks=hooks)
    assert other.shape == (8, 8, 3, 3)
    assert names(one, "stages.0.1", theirs) == {"weights-of-another-block"}


# --- Small variances show what becomes of eps -----------------------------------------------------


def with_small_variances():
    one = pack("tiny")
    tensors = {n: a.astype(np.float32) for n, a in build.flatten(one.network("train")).items()}
    for name in tensors:
        if name.endswith("running_var") and name.startswith("stages.0"):
            tensors[name] = tensors[name] * np.float32(2e-5)
        if name.endswith("conv.weight") and name.startswith("stages.0"):
            tensors[name] = tensors[name] * np.float32(5e-3)
    model = create_model(
        "repvgg_a0", **vars(one.config), weights=tensors, engine="reference", reparameterize=False
    )
    return Pack.of(model, one.tensor("input"), form="train")


def eps_outside(port, branch, y):
    gamma, beta, mean, var = (a[:, None, None] for a in port.numbers(branch))
    return (y - mean) / (np.sqrt(var) + np.float32(1e-5)) * gamma + beta


@pytest.mark.parametrize(("mistake", "norm"), [
    ("batch-norm-eps", plants.eps(0)),
    ("batch-norm-eps", plants.eps(1e-6)),
    ("batch-norm-eps", plants.eps(1e-3)),
    ("eps-outside-the-root", eps_outside),
])  # fmt: skip
def test_what_becomes_of_a_small_eps_is_seen_where_variances_are_small(mistake, norm):
    one = with_small_variances()
    theirs = answers(one, wrong="stages.0.1", hooks={"norm": norm})
    assert first_wrong(one, theirs) == "stages.0.1"
    assert names(one, "stages.0.1", theirs) == {mistake}


# --- Other packs, other noise ---------------------------------------------------------------------


@pytest.mark.parametrize("plant", plants.PLANTS[::9], ids=str)
def test_a_mistake_is_named_through_more_noise_than_float32_makes(plant, rng):
    one = pack(plant.network)
    theirs = answers(one, wrong=plant.block, hooks=plant.hooks, form=plant.form)
    for name, y in theirs.items():
        theirs[name] = y * (1 + rng.uniform(-3e-7, 3e-7, y.shape).astype(np.float32))
    assert plant.mistake in names(one, plant.block, theirs)


@pytest.mark.parametrize(
    "plant", [p for p in plants.PLANTS if p.form is porter.Folded][::3], ids=str
)
def test_a_mistake_is_named_on_a_pack_in_deploy_form(plant):
    one = pack(plant.network, "branch", "deploy")
    theirs = answers(one, wrong=plant.block, hooks=plant.hooks, form=plant.form)
    wrong = first_wrong(one, theirs)
    assert wrong.startswith(plant.block)
    assert plant.mistake in names(one, wrong, theirs)


@pytest.mark.parametrize(("mistake", "hooks"), [
    ("bias-missing", {"convolve": lambda port, x, w, b: porter.conv(x, w, pad=(1, 1))}),
    ("kernel-layout", {"convolve": lambda port, x, w, b: porter.Folded.convolve(
        port, x, plants.as_hwio(w), b)}),
    ("uneven-padding", {"convolve": lambda port, x, w, b: porter.conv(x, w, pad=(2, 0))
        + b[:, None, None]}),
    ("activation-missing", {"act": lambda port, y: y}),
])  # fmt: skip
def test_a_mistake_is_named_where_only_folded_weights_are_known(mistake, hooks):
    train = pack("tiny")
    model = create_model(
        "repvgg_a0", **vars(train.config), engine="reference",
        weights={n: a.astype(np.float32) for n, a in build.flatten(
            train.network("train").reparameterized()).items()},
    )  # fmt: skip
    one = Pack.of(model, train.tensor("input"))
    with pytest.raises(ArgumentError):
        one.network("train")
    theirs = answers(train, wrong="stages.0.1", hooks=hooks, form=porter.Folded)
    assert mistake in names(one, "stages.0.1", theirs)


@pytest.mark.parametrize(("mistake", "hooks"), [
    ("order-of-the-output", {"write": lambda port, y: y[::-1]}),
    ("order-of-the-output", {"write": lambda port, y: y * np.array([1, 0, 0], np.float32)[
        :, None, None, None]}),
    ("batch-statistics", {"norm": plants.own_statistics}),
    ("batch-statistics", {"norm": lambda port, branch, y: np.concatenate([
        plants.own_statistics(port, branch, image[None]) for image in y])}),
    ("attention-applied-wrongly", {"squeezed": lambda port, y: y.mean(axis=(0, 2, 3))[None]}),
])  # fmt: skip
def test_a_mistake_about_the_batch_is_named(mistake, hooks, rng):
    small = pack("tiny_se")
    model = create_model(
        "repvgg_a0", **vars(small.config), engine="reference", reparameterize=False,
        weights={n: a.astype(np.float32) for n, a in build.flatten(
            small.network("train")).items()},
    )  # fmt: skip
    one = Pack.of(model, rng.standard_normal((3, 3, 14, 14)).astype(np.float32), form="train")
    theirs = answers(one, wrong="stages.0.1", hooks=hooks)
    assert names(one, "stages.0.1", theirs) == {mistake}


def test_sums_in_float16_are_recognised():
    one = pack("tiny", "op")
    theirs = answers(one, wrong="stages.0.1", hooks={"kxk": lambda port, x: porter.conv(
        x.astype(np.float16), port.kernel("conv_kxk"), pad=(1, 1)).astype(np.float32)})  # fmt: skip
    assert first_wrong(one, theirs) == "stages.0.1.conv_kxk.conv"
    assert names(one, "stages.0.1.conv_kxk.conv", theirs) == {"short-type"}


def test_a_tensor_computed_alone_is_held_against_the_pack_itself():
    """Its own earlier tensors do not count, right or wrong."""
    one = pack("tiny", "op")
    alone = porter.Port(
        {n.removeprefix("stages.0.1."): a.astype(np.float32) for n, a in build.flatten(
            one.network("train")).items() if n.startswith("stages.0.1.")},
        expand(one.config)[2], {}, {},
    )  # fmt: skip
    y = alone.kxk(one.tensor("stages.0.0"))
    target = "stages.0.1.conv_kxk.conv"
    assert diagnose(one, target, {target: y}, alone=True) == []
    y = porter.conv(one.tensor("stages.0.0"), plants.turned(alone.kernel("conv_kxk")), pad=(1, 1))
    theirs = {"stages.0.0": np.zeros_like(y), target: y}
    assert names(one, target, theirs, alone=True) == {"kernel-flipped"}


# --- Little is given ------------------------------------------------------------------------------


def everywhere(pack, hooks, form=porter.Port):
    """The port with the hooks in every block."""
    tensors = {n: a.astype(np.float32) for n, a in build.flatten(pack.network("train")).items()}
    planted = type("Planted", (form,), hooks)
    return porter.run(tensors, expand(pack.config), pack.tensor("input"), form=planted)


SYSTEMATIC = [
    ("batch-norm-eps", {"norm": plants.eps(1e-3)}),
    ("kernel-flipped", {"kernel": plants.kernels(plants.turned)}),
    ("kernel-layout", {"kernel": plants.kernels(plants.as_hwio)}),
    ("branch-missing", {"join": plants.missing("identity")}),
    ("batch-statistics", {"norm": plants.own_statistics}),
    ("activation-before-the-sum", {
        "join": lambda port, ys: sum(np.maximum(y, 0) for y in ys.values())}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mistake", "hooks", "target"),
    [(*SYSTEMATIC[0], "stages.1.0"), *((*one, "logits") for one in SYSTEMATIC)],
)
def test_a_mistake_made_everywhere_is_named_from_one_tensor(mistake, hooks, target):
    one = pack("tiny")
    theirs = {target: everywhere(one, hooks)[target]}
    found = diagnose(one, target, theirs)
    assert {f.mistake for f in found} == {mistake}
    assert f"in every block up to {target if '.' in target else 'stages.1.1'}" in found[0].sentence


def test_a_wrong_image_is_named_from_the_logits():
    one = pack("tiny")
    read = {"read": lambda port, x: x[:, [2, 1, 0]].copy()}
    theirs = {"logits": answers(one, wrong="stem", hooks=read)["logits"]}
    assert "rgb-bgr" in names(one, "logits", theirs)


def test_a_missing_input_of_the_block_costs_no_diagnosis():
    one = pack("tiny", "op")
    theirs = answers(one, wrong="stages.0.1", hooks={"norm": plants.eps(1e-3, "conv_kxk")})
    few = {n: y for n, y in theirs.items() if n in ("stages.0.0", "stages.0.1.sum")}
    assert names(one, "stages.0.1.sum", few) == {"batch-norm-eps"}
