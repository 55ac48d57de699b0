"""A candidate against a pack: what is right passes, and what is wrong is named, whatever it is."""

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import npvgg
from npvgg import ArgumentError, ops
from npvgg.cli.main import main
from npvgg.engines.reference import forward_block
from npvgg.formats import checkpoint
from npvgg.testing import assert_matches, compare, conformance_pack, error_bound
from npvgg.testing.comparison.html import page
from npvgg.testing.packs.pack import Pack

quick = partial(compare, diagnosis=False)

PACKS = {level: conformance_pack("tiny", level=level) for level in ("block", "branch", "op")}
PACK = PACKS["branch"]


def tensors(pack=PACK):
    return {probe.name: pack.tensor(probe.name).copy() for probe in pack.probes}


def spoiled(name, pack=PACK, by=0.5):
    """Everything right, but for one tensor and what is computed from it."""
    theirs = tensors(pack)
    wrong = {name}
    for probe in pack.probes:
        if wrong & {probe.name, *probe.inputs}:
            wrong.add(probe.name)
            theirs[probe.name] = theirs[probe.name] + np.float32(by)
    return theirs


def statuses(report):
    return {row.name: row.status for row in report.rows}


# --- Right and wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", PACKS)
def test_the_truth_itself_is_right(level):
    report = quick(tensors(PACKS[level]), PACKS[level])
    assert report.ok
    assert report.first_wrong is None
    assert {row.measured.absolute for row in report.rows} == {0.0}
    assert report.verdict.startswith(f"right: each of {len(report.rows)} tensors")


@pytest.mark.parametrize("name", [probe.name for probe in PACK.probes[1:]])
def test_the_first_wrong_tensor_is_named(name):
    report = quick(spoiled(name), PACK)
    assert not report.ok
    assert report.first_wrong.name == name
    assert report.verdict.startswith(f"wrong from {name} on:")
    inputs = ", ".join(PACK.probe(name).inputs)
    assert f"what it is computed from is right ({inputs})" in str(report)


def test_just_inside_and_just_beyond_the_bound():
    name, theirs = "stages.1.0", tensors()
    truth, bound = PACK.tensor(name).astype(np.float64), PACK.bound(name).astype(np.float64)
    for factor, status in ((1.0, "ok"), (1.01, "wrong")):
        theirs[name] = truth + factor * bound
        report = quick(theirs, PACK)
        assert statuses(report)[name] == status
        row = next(row for row in report.rows if row.name == name)
        assert row.measured.share == pytest.approx(factor)


def test_numbers_that_differ_are_printed_with_digits_that_differ():
    theirs = tensors()
    flat = theirs["input"].ravel()
    up = np.nextafter(flat, np.float32(9))
    i = next(i for i, (a, b) in enumerate(zip(flat, up, strict=True)) if f"{a:.7g}" == f"{b:.7g}")
    said = f"it is {up[i]:.9g}, and should be {flat[i]:.9g} ±"
    assert f"{up[i]:.9g}" != f"{flat[i]:.9g}"
    flat[i] = up[i]
    assert said in str(quick(theirs, PACK))


def test_what_winograds_tiles_may_do_is_right_if_no_mistake_does_it(rng):
    theirs = tensors()
    for name in ("stages.0.0.conv_kxk.bn", "stages.0.0.sum"):
        sign = rng.choice([-1.0, 1.0], theirs[name].shape)
        theirs[name] = theirs[name] + sign * 1.2 * PACK.bound(name).astype(np.float64)
    report = compare(theirs, PACK)
    assert report.ok, str(report)
    assert "2 tensors are beyond the bound of plain sums, 1.20 times at most" in str(report)
    assert "--winograd 6" in str(report)
    short = quick(theirs, PACK)
    assert not short.ok
    assert "it may be right: 2 tensors are beyond the bound of plain sums" in str(short)
    wide = error_bound(PACK.network(), PACK.tensor("input"), level="branch", winograd=6)
    for name in ("stages.0.0.conv_kxk.bn", "stages.0.0.sum"):
        error = np.minimum(5 * PACK.bound(name), 0.9 * wide[name])
        theirs[name] = PACK.tensor(name) + rng.choice([-1.0, 1.0], error.shape) * error
    beyond = compare(theirs, PACK)
    assert not beyond.ok
    assert "if it computes by Winograd's algorithms, it may be right: 2 tensors are" in str(beyond)
    theirs["stages.0.0.sum"] = PACK.tensor("stages.0.0.sum") + 300 * PACK.bound("stages.0.0.sum")
    assert "Winograd" not in str(compare(theirs, PACK))


def test_alone_the_bound_is_the_local_one():
    theirs, name = tensors(), "logits"
    local = PACK.local_bound(name).astype(np.float64)
    chain = PACK.bound(name).astype(np.float64)
    assert (local < 0.9 * chain).all()
    theirs[name] = PACK.tensor(name) + (local + chain) / 2
    assert quick(theirs, PACK).ok
    report = quick(theirs, PACK, alone=True)
    assert report.first_wrong.name == name
    assert report.first_wrong.measured.bound == local[report.first_wrong.measured.where]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_wrong(bad):
    theirs = tensors()
    theirs["stages.0.0"][0, 2, 3, 1] = bad
    report = quick(theirs, PACK)
    assert report.first_wrong.name == "stages.0.0"
    assert report.first_wrong.measured.where == (0, 2, 3, 1)
    assert "1 of 648 elements is NaN or infinite" in str(report)


def test_a_shape_that_is_not_ours_is_wrong_and_not_an_error():
    theirs = tensors()
    theirs["stages.0.1"] = theirs["stages.0.1"][:, :, 1:]
    report = quick(theirs, PACK)
    assert report.first_wrong.name == "stages.0.1"
    assert report.first_wrong.status == "wrong shape"
    assert "its shape is [1, 8, 8, 9], ours is [1, 8, 9, 9]" in str(report)


@pytest.mark.parametrize("level", ["block", "branch"])
def test_a_right_port_in_another_order_is_right(level, rng):
    pack = PACKS[level]
    rows = [*tensors(pack).values()]
    orders = [range(len(rows) - 1, -1, -1), rng.permutation(len(rows)), [0, 1, 3, 2]]
    for order in orders:
        order = [*order, *range(len(order), len(rows))]
        theirs = {f"t{i}": rows[i] for i in order}
        report = quick(theirs, pack, complete=True)
        assert report.ok, str(report)
        assert report.match.names == {p.name: f"t{i}" for i, p in enumerate(pack.probes)}
        assert "note: their arrays are not in the order of execution; by its numbers" in str(report)


def test_what_is_wrong_stays_wrong_in_any_order():
    pack = PACKS["block"]
    rows = [*spoiled("stages.1.0", pack).values()]
    rows[2], rows[3] = rows[3], rows[2]
    report = quick({f"t{i}": a for i, a in enumerate(rows)}, pack)
    assert report.first_wrong.name == "stages.1.0"
    assert "stages.0.0 is 't3', stages.0.1 is 't2'; say which is which" in str(report)
    rows[2], rows[3] = rows[3], rows[2]
    for wrong in (rows, [rows[0], rows[1], rows[2], rows[2], *rows[4:]]):
        report = quick({f"t{i}": a for i, a in enumerate(wrong)}, pack)
        assert not report.ok
        assert "were taken to be in the order of execution" in str(report)
    assert quick({f"t{i}": a for i, a in enumerate(tensors(pack).values())}, pack).notes == ()


def test_missing_is_a_failure_only_if_completeness_is_asked_for():
    theirs = tensors()
    del theirs["stages.0.1"], theirs["pool"]
    report = quick(theirs, PACK)
    assert report.ok
    assert report.verdict.endswith("; 2 were not given")
    assert statuses(report)["pool"] == "missing"
    report = quick(theirs, PACK, complete=True)
    assert not report.ok
    assert report.first_wrong is None
    assert report.verdict.startswith("incomplete: 24 of 26")


def test_behind_a_tensor_that_is_not_given_the_report_says_so():
    theirs = spoiled("stages.1.0.sum")
    del theirs["stages.1.0.conv_1x1.bn"]
    report = quick(theirs, PACK)
    assert "not given: stages.1.0.conv_1x1.bn; the mistake may be there already" in str(report)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({}, "at least one array"),
        ({"input": PACK.tensor("input")}, "only tensor of ours that was found is the input"),
        ({"nothing": np.zeros(3)}, "none of its arrays"),
        ({"stem": np.array(["text"])}, "'stem': expected real numbers"),
        ({"stem": np.array([None, 1.0])}, "'stem': expected real numbers, got object"),
        (lambda x: None, "what it returned: expected real numbers, got NoneType"),
        ({"stem": [[1.0], [1.0, 2.0]]}, "'stem': expected an array"),
        (lambda x: {}, "only tensor of ours that was found is the input"),
        (42, "expected a dict of arrays, a path, a callable or a model, got int"),
    ],
)
def test_nothing_to_compare_is_an_error_and_never_a_success(candidate, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        quick(candidate, PACK)


# --- What a candidate can be ----------------------------------------------------------------------


def forward(pack, x):
    """The network by hand, in float32, every block kept."""
    network, said = pack.network("deploy").astype(np.float32), {}
    for block in network.blocks:
        x = ops.relu(ops.conv2d(x, block.form.weight, block.form.bias, stride=block.spec.stride,
                                padding=1))  # fmt: skip
        said[block.spec.name] = x
    return said | {"logits": ops.linear(x.mean((2, 3)), network.head.weight, network.head.bias)}


@pytest.mark.parametrize(
    ("give", "count"),
    [
        (lambda said: said, 7),
        (lambda said: said["logits"], 2),
        (lambda said: [*list(said.values())[:-1], said["stages.1.1"].mean((2, 3)), said["logits"]],
         8),
    ],
    ids=["dict", "logits", "row"],
)  # fmt: skip
def test_a_callable(give, count):
    pack = PACKS["block"]
    report = assert_matches(lambda x: give(forward(pack, x)), pack)
    assert sum(row.status == "ok" for row in report.rows) == count


def test_what_was_given_and_what_was_not_recognised_is_counted():
    pack = PACKS["block"]
    alone = quick(lambda x: forward(pack, x)["logits"], pack)
    assert alone.verdict.startswith("right: the one tensor given is within")
    assert alone.verdict.endswith("; 6 were not given")
    few = quick(lambda x: {k: v for k, v in forward(pack, x).items() if k[:4] != "stag"}, pack)
    assert few.verdict.startswith("right: each of the 2 tensors given is")
    theirs = {n.replace("stages.", "level"): a + 1 for n, a in tensors(pack).items()}
    theirs |= {n: a for n, a in tensors(pack).items() if n in ("stem", "pool", "logits")}
    report = quick(theirs, pack)
    assert report.verdict.endswith("; 4 were not found, and 4 arrays of theirs were not recognised")
    assert "4 arrays of theirs match none of ours: 'level0.0', 'level0.1'," in str(report)


def test_a_callable_may_spoil_its_input():
    pack = PACKS["block"]

    def careless(x):
        said = forward(pack, x)
        x[:] = 7
        return said

    assert quick(careless, pack).ok


def test_a_callable_with_channels_last():
    pack = PACKS["block"]

    def channels_last(x):
        assert x.shape == (1, 18, 18, 3)
        said = forward(pack, np.moveaxis(x, -1, 1))
        return {n: np.moveaxis(a, 1, -1) for n, a in said.items()}

    assert_matches(channels_last, pack, layout="NHWC")


@pytest.mark.parametrize("engine", ["reference", "im2col", "winograd"])
@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("tiny", ["tiny", "tiny_g2", "tiny_se", "tiny_plus", "tiny_dilated"])
def test_our_own_models(tiny, form, engine, tmp_path):
    pack = conformance_pack(tiny)
    pack.write(tmp_path / "pack")
    model = npvgg.create_model(
        weights=tmp_path / "pack" / f"weights.{form}.safetensors", reparameterize=False,
        engine=engine,
    )  # fmt: skip
    assert model.form == form
    report = assert_matches(model, tmp_path / "pack", complete=True)
    assert max(row.measured.share for row in report.rows) < 0.5


def test_a_model_and_an_input_are_a_reference_too(rng):
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, engine="winograd")
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert quick(model, model, x=x, complete=True).ok
    wrong = quick(lambda x: model(x[:, ::-1]), model, x=x)
    assert wrong.first_wrong.name == "logits"
    for reference, options in ((model, {}), (PACK, {"x": x}), (7, {})):
        with pytest.raises(ArgumentError, match="expected"):
            quick(model, reference, **options)


def test_our_own_model_is_run_once_and_as_it_is(monkeypatch, rng):
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, engine="reference")
    pack = Pack.of(model, rng.standard_normal((1, 3, 8, 8)).astype(np.float32))
    runs, outputs = [], npvgg.RepVGG.outputs
    monkeypatch.setattr(
        npvgg.RepVGG, "outputs", lambda *args, **how: runs.append(how) or outputs(*args, **how)
    )
    monkeypatch.setattr(npvgg.RepVGG, "network", None)
    assert quick(model, pack, complete=True).ok
    assert runs == [{"maps": True}]


def test_assert_matches_raises_what_test_frameworks_show():
    with pytest.raises(AssertionError, match="◀── first wrong") as caught:
        assert_matches(spoiled("stem"), PACK)
    assert str(caught.value).strip() == str(compare(spoiled("stem"), PACK)).strip()


def test_pytest_shows_the_callers_line():
    with pytest.raises(AssertionError) as caught:
        assert_matches(spoiled("stem"), PACK, diagnosis=False)
    hidden = [entry.name for entry in caught.traceback if entry.ishidden(caught)]
    assert hidden == ["assert_matches"]


# --- The report -----------------------------------------------------------------------------------


def test_the_text_has_a_line_for_each_tensor_and_the_eye_stops_once():
    text = str(quick(spoiled("stages.0.1.sum"), PACK))
    lines = text.splitlines()
    for probe in PACK.probes:
        assert sum(line[2:].split(" ")[0] == probe.name for line in lines) == 1
    (marked,) = [line for line in lines if "◀──" in line]
    assert marked.startswith("✗ stages.0.1.sum ")
    assert PACK.probe("stages.0.1.sum").equation in text
    assert not any(line.startswith("✗") for line in lines[: lines.index(marked)])
    coloured = "".join(quick(spoiled("stages.0.1.sum"), PACK).as_text(colour=True))
    assert coloured.count("\x1b[1;31m") == 1
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text


def test_without_names_the_report_says_which_of_theirs_is_which():
    pack = PACKS["block"]
    theirs = {f"t{i}<": a for i, a in enumerate(spoiled("stages.1.0", pack).values())}
    for report in (quick(theirs, pack), quick(dict([*theirs.items(), ("z", np.ones(1))]), pack)):
        assert report.match.how in ("order", "shape")
        lines = str(report).splitlines()
        at = lines[3].index("theirs")
        for row in report.rows:
            line = next(line for line in lines if line[2:].split(" ")[0] == row.name)
            assert line[at:].split(" ")[0] == row.theirs
            name = row.theirs.replace("<", "&lt;")
            assert f'{row.name}</code></th><td class="words">{name}</td>' in page(report)
    named = quick(tensors(pack), pack)
    assert "theirs" not in str(named)
    assert "theirs</th>" not in page(named)


def test_the_dict_is_json_and_has_everything():
    theirs = spoiled("stages.1.0")
    theirs["pool"][:] = np.nan
    theirs["mine"] = np.zeros(1)
    report = quick(theirs, PACK)
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert (data["ok"], data["first_wrong"]) == (False, "stages.1.0")
    assert [t["name"] for t in data["tensors"]] == [probe.name for probe in PACK.probes]
    assert data["unused"] == ["mine"]
    by_name = {t["name"]: t for t in data["tensors"]}
    assert by_name["pool"]["absolute"] is None
    assert by_name["pool"]["not_finite"] == 12
    assert by_name["stages.1.0"]["absolute"] == pytest.approx(0.5)
    assert by_name["stem"] | {"status": "ok", "share": 0.0, "wrong": 0} == by_name["stem"]


# --- The diagnosis --------------------------------------------------------------------------------


def forgetful(pack, x):
    """The network in train form, but for the identity branch of one block."""
    network, said = pack.network("train").astype(np.float32), {}
    for block in network.blocks:
        form = block.form
        if block.spec.name == "stages.0.1":
            block = replace(block, form=replace(form, identity=None))
        x = forward_block(block, x)
        said[block.spec.name] = x
    return said


def test_the_mistake_is_said_in_text_json_and_on_the_page():
    pack = PACKS["block"]
    report = compare(lambda x: forgetful(pack, x), pack)
    sentence = "the identity branch is missing"
    assert report.first_wrong.name == "stages.0.1"
    assert report.mistakes[0].sentence == sentence
    assert f"  │ → {sentence}\n" in str(report)
    assert max(map(len, str(report).splitlines())) <= 110
    assert report.as_dict()["mistakes"][0]["sentence"] == sentence
    json.dumps(report.as_dict(), allow_nan=False)
    assert f"→ {sentence}" in page(report)


def test_without_a_diagnosis_nothing_is_guessed():
    pack = PACKS["block"]
    report = compare(lambda x: forgetful(pack, x), pack, diagnosis=False)
    assert report.mistakes == ()
    assert "→" not in str(report)
    assert compare(tensors(pack), pack).mistakes == ()


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit") / "pack"
    PACK.write(folder)
    return folder


@pytest.fixture
def run(capfd):
    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return status, *capfd.readouterr()

    return run


def test_right_is_0_and_wrong_is_1(run, folder, tmp_path):
    np.savez(tmp_path / "right.npz", **tensors())
    np.savez(tmp_path / "wrong.npz", **spoiled("stages.0.1"))
    status, out, err = run("compare", folder, tmp_path / "right.npz")
    assert (status, err) == (0, "")
    assert out == str(quick(tensors(), PACK)).replace("26 arrays", str(tmp_path / "right.npz"))
    status, out, _ = run("compare", folder, tmp_path / "wrong.npz", "--json")
    assert status == 1
    assert json.loads(out)["first_wrong"] == "stages.0.1"


def test_the_command_diagnoses_unless_told_not_to(run, folder, tmp_path):
    theirs = tensors()
    theirs["stem"] = theirs["stem.sum"]  # the ReLU is missing, and the network goes on without it
    theirs["logits"] = theirs["logits"] + 1
    np.savez(tmp_path / "a.npz", **theirs)
    assert "→" in run("compare", folder, tmp_path / "a.npz")[1]
    assert "→" not in run("compare", folder, tmp_path / "a.npz", "--no-diagnosis")[1]


def test_a_mapping_missing_tensors_and_the_local_bound(run, folder, tmp_path):
    checkpoint.save_safetensors(tmp_path / "a.safetensors", {"mine": PACK.tensor("stem")})
    (tmp_path / "map.json").write_text('{"mine": "stem"}')
    arguments = ["compare", folder, tmp_path / "a.safetensors", "--map", tmp_path / "map.json"]
    assert run(*arguments)[0] == 0
    assert run(*arguments, "--alone", "--layout", "NCHW")[0] == 0
    status, out, _ = run(*arguments, "--all")
    assert status == 1
    assert "incomplete: 1 of 26" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments THEIRS --onnx --torch is required"),
        (["a.npz", "--onnx", "b.onnx"], "not allowed"),
        (["absent.npz"], "absent.npz: No such file"),
        (["--onnx", "absent.onnx"], "absent.onnx"),
        (["--torch", "nothing"], "module:factory"),
        (["--torch", "no_such_module:make"], "ModuleNotFoundError"),
        (["--torch", "json:nothing"], "AttributeError"),
        (["--torch", "json:dumps:text"], "expected a torch module, got str"),
        (["--match", "magic"], "invalid choice"),
    ],
)
def test_what_goes_wrong_is_2(run, folder, arguments, message):
    status, out, err = run("compare", folder, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_without_onnxruntime_the_error_says_what_to_install(run, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "a.onnx").write_bytes(b"")
    status, _, err = run("compare", folder, "--onnx", tmp_path / "a.onnx")
    assert status == 2
    assert "pip install onnx onnxruntime" in err


def test_a_folder_that_is_no_pack(run, tmp_path):
    assert run("compare", tmp_path, tmp_path)[0] == 2


def test_a_map_that_is_none(run, folder, tmp_path):
    np.savez(tmp_path / "a.npz", **tensors())
    for text in ('{"stem": 1}', "[]", '{"a": "stem"}'):
        (tmp_path / "map.json").write_text(text)
        arguments = ["compare", folder, tmp_path / "a.npz", "--map", tmp_path / "map.json"]
        assert run(*arguments)[0] == 2


def test_the_page_is_written_once(run, folder, tmp_path):
    np.savez(tmp_path / "a.npz", **spoiled("stem"))
    arguments = ["compare", folder, tmp_path / "a.npz", "--html", tmp_path / "page.html"]
    assert run(*arguments)[0] == 1
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    status, _, err = run(*arguments)
    assert status == 2
    assert "--force replaces it" in err
    assert run(*arguments, "--force")[0] == 1


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_run(
    run, folder, tmp_path, monkeypatch
):
    np.savez(tmp_path / "a.npz", **spoiled("stem"))
    (tmp_path / "there.html").write_text("mine")
    monkeypatch.setattr("npvgg.cli.crosscheck.hold_against", None)
    for path, why in (
        ("there.html", "exists; --force replaces it"),
        ("no/page.html", "cannot be written: there is no folder"),
        (".", "is a folder"),
    ):
        status, out, err = run("compare", folder, tmp_path / "a.npz", "--html", tmp_path / path)
        assert (status, out) == (2, "")
        assert why in err
    assert (tmp_path / "there.html").read_text() == "mine"


def test_a_report_outlives_its_page(run, folder, tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **spoiled("stem"))

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("npvgg.cli.crosscheck.atomic_write", full)
    arguments = ["compare", folder, tmp_path / "a.npz", "--html", tmp_path / "page.html"]
    status, out, err = run(*arguments)
    assert status == 2
    assert "wrong from stem on" in out
    assert "--html: " in err
    assert "No space left" in err


def test_a_pack_read_back_judges_alike(folder):
    theirs = spoiled("stages.1.1")
    read, made = quick(theirs, Pack.read(folder)), quick(theirs, PACK)
    assert read.as_dict() == made.as_dict()


def test_weights_are_no_tensors_of_a_run(run, folder):
    status, out, err = run("compare", folder, Path(folder) / "weights.train.safetensors")
    assert (status, out) == (2, "")
    assert "expected tensors of a run, got weights" in err


def test_what_is_no_onnx_file_is_not_run(run, folder):
    status, _, err = run("compare", folder, "--onnx", Path(folder) / "weights.deploy.safetensors")
    assert status == 2
    assert "--onnx: expected a file in .onnx" in err


def test_a_pack_options_and_files_are_looked_at_first(run, folder, tmp_path):
    for arguments, said in (
        ((tmp_path, "a.npz"), "PACK: expected a folder by `npvgg conformance`"),
        ((folder, "a.npz", "--load-weights"), "--load-weights: expected --torch with it"),
        ((folder, "a.npz", "--map", "m", "--match", "name"), "--map: expected it in place of"),
        ((folder, "--onnx", "a.ONNX"), "a.ONNX: No such file"),
    ):
        status, _, err = run("compare", *arguments)
        assert status == 2
        assert said in err
