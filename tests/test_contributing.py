"""CONTRIBUTING.md names places that exist, and what has to be added where is not forgotten."""

import re
from pathlib import Path

import pytest

from bench.contenders import CONTENDERS
from npvgg.engines import ENGINES
from weights_tools.validation_report import OWN

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PLACES = re.findall(r"`([\w./]+\.(?:py|md|txt))`(?:\s+`(\w+)`)?", TEXT)


@pytest.mark.parametrize(("file", "name"), sorted(set(PLACES)), ids=":".join)
def test_every_place_exists(file, name):
    source = (ROOT / file).read_text("utf-8")
    assert re.search(rf"\b{name}\b", source)


def test_places_are_found():
    assert len(PLACES) > 20


def test_every_engine_is_measured_and_validated():
    assert {f"npvgg {engine}" for engine in ENGINES} == {c for c in CONTENDERS if "npvgg" in c}
    assert {said.split(",")[0] for said in OWN} == set(ENGINES)
