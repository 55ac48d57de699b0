"""Where an activation, an attention layer or a variant must be known: no place is forgotten.

CONTRIBUTING.md names these places, and this test holds it to them.
"""

from pathlib import Path

import pytest
import test_attention
import test_golden
import test_kit_bounds

from npvgg import from_timm
from npvgg.attention import LAYERS
from npvgg.export import layers
from npvgg.ops import ACTIVATIONS
from npvgg.testing.bounds import gates
from npvgg.variants import VARIANTS, canonical_name
from tests.oracles import naive

GUIDE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def with_goldens(key):
    """The values of a keyword that have goldens of PyTorch's."""
    return {c["keywords"][key] for c in test_golden.CASES.values() if key in c["keywords"]}


def the_same(keyword):
    """The layers that the page promises, by the names of the table."""
    names = [n for n, answer in from_timm.LAYERS[keyword].items() if answer.kind == "same"]
    return {{"hardswish": "hard_swish", "hardsigmoid": "hard_sigmoid"}.get(n, n) for n in names}


PLACES = {
    "Add an activation": (ACTIVATIONS, {
        "npvgg/export/layers.py `ACTIVATIONS`": layers.ACTIVATIONS,
        "tests/oracles/naive.py `ACTIVATIONS`": naive.ACTIVATIONS,
        "weights_tools/make_goldens.py `ACTS`": with_goldens("act_layer"),
        "npvgg/from_timm.py `LAYERS`": the_same("act_layer"),
    }),
    "Add an attention layer": (LAYERS, {
        "npvgg/export/layers.py `ATTENTION`": layers.ATTENTION,
        "npvgg/testing/bounds/gates.py `LAYERS`": gates.LAYERS,
        "tests/oracles/naive.py `ATTENTION`": naive.ATTENTION,
        "tests/test_attention.py `CASES`": {case[0] for case in test_attention.CASES.values()},
        "tests/test_kit_bounds.py `ATTENTION`": {case[0] for case in test_kit_bounds.ATTENTION},
        "weights_tools/make_goldens.py `ATTENTIONS`": with_goldens("attn_layer"),
        "npvgg/from_timm.py `LAYERS`": the_same("attn_layer"),
    }),
    "Add a variant": (VARIANTS, {
        "weights_tools/make_goldens.py `timm_cases`": {
            canonical_name(case["model"]) for case in test_golden.CASES.values()
        },
    }),
}  # fmt: skip


@pytest.mark.parametrize("title", PLACES)
def test_no_place_is_forgotten(title):
    table, places = PLACES[title]
    section = GUIDE.split(f"## {title}\n")[1].split("\n## ")[0]
    for place, known in places.items():
        assert set(known) == set(table), place
        path, name = place.split(" ")
        assert f"`{path}`" in section, place
        assert name in section, place
