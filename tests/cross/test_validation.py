"""The script behind weights_tools/validation.md: what it says is measured, and it can fail."""

import importlib

import pytest

for package in ("torch", "timm"):
    pytest.importorskip(package, reason=f"{package} is not installed: nothing to validate against")

pytestmark = pytest.mark.cross
ONE = "groups-4"


@pytest.fixture
def validate(monkeypatch, tmp_path):
    """Validate one small network: (exit status, report)."""
    monkeypatch.delenv("NPVGG_ORIGINAL", raising=False)
    script = importlib.import_module("weights_tools.validate_against_torch")

    def validate():
        status = script.main(["--only", ONE, "--output", str(tmp_path / "report.md")])
        return status, (tmp_path / "report.md").read_text(encoding="utf-8")

    validate.script = script
    return validate


def only_installed(monkeypatch, script, *packages):
    for module in (script, importlib.import_module("weights_tools.validation_report")):
        monkeypatch.setattr(module, "find_spec", lambda package: package in packages)


def section(report, title):
    return report.partition(f"\n## {title}\n")[2].partition("\n## ")[0].strip()


def test_a_network_is_held_against_timm_by_everybody(validate):
    status, report = validate()
    assert status == 0, section(report, "Failures")
    assert section(report, "Failures") == "- none"
    assert f"this is a selection: {ONE}" in section(report, "Left out")
    runners = {
        line.split(" | ")[0].strip("| ") for line in section(report, "Everybody").split("\n")
    }
    assert {"PyTorch", "reference, float64", "reference", "im2col", "winograd"} <= runners
    layers = [line.split(" | ")[:2] for line in section(report, "Layer types").split("\n")[2:]]
    train = {"conv_bn", "batch_norm", "sum", "activation", "pool", "linear"}
    assert {layer for form, layer in layers if form == "| train"} == train
    assert {layer for form, layer in layers if form == "| deploy"} == {
        "conv", "activation", "pool", "linear"
    }  # fmt: skip


def test_a_wrong_tensor_and_an_engine_that_fails_are_failures(validate, monkeypatch):
    script, ours = validate.script, validate.script.Case.ours
    right = script.layer_by_layer

    def wrong(model, x, level):
        steps = right(model, x, level=level)
        if model.form == "train" and model.dtype == "float32":
            name = "stages.1.1.conv_1x1.bn"
            steps[name] = steps[name]._replace(array=steps[name].array * 1.0001)
        return steps

    def failing(case, form, engine="reference", dtype="float32"):
        if engine == "im2col" and form == "deploy":
            raise MemoryError("no room")
        return ours(case, form, engine, dtype)

    monkeypatch.setattr(script, "layer_by_layer", wrong)
    monkeypatch.setattr(script.Case, "ours", failing)
    only_installed(monkeypatch, script)
    status, report = validate()
    assert status == 1
    first, second = section(report, "Failures").split("\n")
    assert first.startswith(f"- {ONE}, train, reference: stages.1.1.conv_1x1.bn is wrong, ")
    assert second == f"- {ONE}, deploy, im2col: MemoryError: no room"
    for rival in ("ONNX Runtime", "OpenVINO", "ncnn"):
        assert f"{rival}: the package" in section(report, "Left out")


@pytest.mark.parametrize(("times", "status"), [(0.9, 0), (1.5, 1)])
def test_winograds_algorithms_have_a_bound_of_their_own(validate, monkeypatch, times, status):
    script = validate.script

    def beyond(path, blocks, x):
        model = next(script.cases(None, ONE)).ours("deploy")
        pack = script.Pack.of(model, x, winograd=script.LARGEST)
        maps = {probe.name: pack.tensor(probe.name) for probe in pack.probes}
        maps["stages.0.1"] = maps["stages.0.1"] + times * pack.bound("stages.0.1")
        return maps

    monkeypatch.setattr(script.runtime_peer, "by_ncnn", beyond)
    monkeypatch.setattr(script, "write_ncnn", lambda model, path: None)
    only_installed(monkeypatch, script, "ncnn")
    found, report = validate()
    assert found == status
    lists = [section(report, title) for title in ("Right by Winograd's bound only", "Failures")]
    assert lists[1 - status] == "- none"
    how = "wrong" if status else "beyond"
    assert lists[status].startswith(f"- {ONE}, deploy, ncnn: stages.0.1 is {how}, ")


def test_no_network_is_an_error(validate, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        validate.script.main(["--only", "nothing", "--output", str(tmp_path / "report.md")])
    assert stopped.value.code == 2
    assert not (tmp_path / "report.md").exists()
