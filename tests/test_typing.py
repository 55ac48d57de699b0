"""The signatures, as an editor and a type checker see them."""

import dataclasses
import inspect
from importlib.util import find_spec
from typing import get_type_hints

import pytest

import npvgg
import npvgg.batch
import npvgg.explain
import npvgg.testing
from npvgg.config import ConfigFields, ConfigKeywords
from npvgg.create import GatheredKeywords, ModelKeywords
from npvgg.data import TransformKeywords
from npvgg.from_timm import CALLS
from npvgg.images.opening import Opening, OpeningKeywords, open_image
from npvgg.testing import assert_matches, compare, conformance_pack
from npvgg.testing.comparison.compare import CompareKeywords


def fields(dataclass):
    return {f.name for f in dataclasses.fields(dataclass)}


def keywords(function):
    return {
        name
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }


def test_the_types_of_keywords_say_what_the_functions_take():
    assert get_type_hints(ConfigFields) == get_type_hints(npvgg.RepVGGConfig)
    assert keywords(npvgg.RepVGGConfig.with_changes) | get_type_hints(ConfigFields).keys() == (
        get_type_hints(ConfigKeywords).keys()
    )
    own = keywords(npvgg.create_model) - {"features_only"}
    assert own | GatheredKeywords.__annotations__.keys() == ModelKeywords.__annotations__.keys()
    opening = OpeningKeywords.__annotations__.keys()
    assert opening == fields(Opening) - {"channels"} == keywords(open_image) - {"channels"}
    assert set(TransformKeywords.__annotations__) - set(opening) == {
        name
        for name, answer in CALLS["data.create_transform"].items()
        if answer.kind == "nothing" and name not in ("is_training", "normalize")
    }
    assert CompareKeywords.__annotations__.keys() == keywords(compare)


FRONTS = [npvgg, npvgg.testing, npvgg.explain, npvgg.batch]
PUBLIC = [
    npvgg.create_model, npvgg.RepVGGConfig.with_changes, npvgg.data.create_transform,
    assert_matches, conformance_pack,
]  # fmt: skip


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_no_keyword_hides_behind_any(function):
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            assert p.annotation.startswith("Unpack["), p


@pytest.mark.parametrize("package", FRONTS, ids=lambda package: package.__name__)
def test_no_public_name_hides_a_module(package):
    for name in package.__all__:
        spec = find_spec(f"{package.__name__}.{name}")
        assert spec is None or inspect.ismodule(getattr(package, name)), name


RIGHT = """
import numpy as np
import npvgg
import npvgg.batch
import npvgg.explain
from npvgg.testing import assert_matches, conformance_pack

model = npvgg.create_model("repvgg_a0", num_classes=3, pretrained=False, act_layer="silu")
logits = model(np.zeros((1, 3, 32, 32), np.float32))
net = npvgg.create_model("repvgg_a0", features_only=True, out_indices=[0, 1])
channels: list[int] = net.feature_info.channels()
config = npvgg.RepVGGConfig((1, 1), (8, 8), (2, 2)).with_changes(width_factor=0.5, groups=2)
transform = npvgg.data.create_transform(224, exif_transpose=True)
assert_matches({"logits": logits}, conformance_pack("tiny", num_classes=5), level="block")
"""
WRONG = """
npvgg.create_model("repvgg_a0", num_clases=3)
npvgg.create_model("repvgg_a0", features_only=True, num_clases=3)
npvgg.create_model("repvgg_a0", num_classes="3")
config.with_changes(num_clases=3)
npvgg.data.create_transform(224, exif_transposed=True)
conformance_pack("tiny", num_clases=3)
assert_matches({}, "pack", levell="op")
"""


def test_a_misspelt_keyword_is_a_type_error(tmp_path):
    api = pytest.importorskip("mypy.api", reason="mypy is not installed: nothing checks types")
    script = tmp_path / "script.py"
    script.write_text(RIGHT + WRONG.lstrip("\n"), encoding="utf-8")
    said, errors, _ = api.run(["--strict", "--follow-imports=silent", str(script)])
    first = RIGHT.count("\n") + 1
    lines = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    assert lines == set(range(first, first + WRONG.strip().count("\n") + 1)), said + errors
