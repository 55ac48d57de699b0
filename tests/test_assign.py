"""Of several ways to match, the one in which more is right is taken; and what is wrong stays so."""

from functools import partial

import numpy as np
import pytest

from npvgg.errors import ArgumentError
from npvgg.testing import compare, conformance_pack
from npvgg.testing.comparison.assign import assign
from npvgg.testing.comparison.compare import _with_activation
from npvgg.testing.comparison.runners import Run

quick = partial(compare, diagnosis=False)

PACK = conformance_pack("tiny")
OP = conformance_pack("tiny", level="op")


def tensors(pack=PACK):
    return {probe.name: pack.tensor(probe.name) for probe in pack.probes}


PAPER = {
    "stages.0.0": "stem", "stages.1.0": "stages.0.0", "stages.1.1": "stages.0.1",
    "stages.2.0": "stages.1.0", "stages.2.1": "stages.1.1", "pool": "pool", "logits": "logits",
}  # fmt: skip
"""The paper's five stages, of which the first is our stem."""


def test_names_that_are_ours_by_accident_give_way_to_shapes():
    report = quick({their: PACK.tensor(our) for their, our in PAPER.items()}, PACK)
    assert report.ok, str(report)
    assert report.match.names == {our: their for their, our in PAPER.items()}
    assert "note: their names are ours, and their arrays are not: matched by shape" in str(report)


def test_a_mistake_in_a_port_with_such_names_is_found_in_its_place():
    theirs = {their: PACK.tensor(our) for their, our in PAPER.items()}
    for name in ("stages.2.0", "stages.2.1", "pool", "logits"):
        theirs[name] = theirs[name] * np.float32(1.01)
    assert quick(theirs, PACK).first_wrong.name == "stages.1.0"


def test_names_hold_where_nothing_speaks_against_them():
    """One array under a wrong name is wrong, though it is another tensor's."""
    theirs = tensors() | {"stages.0.1": PACK.tensor("stages.0.0")}
    assert quick(theirs, PACK).first_wrong.name == "stages.0.1"
    assert quick({"stages.0.1": PACK.tensor("stages.0.0")}, PACK).first_wrong.name == "stages.0.1"


def test_maps_are_matched_by_shape_where_only_the_ends_have_known_names():
    renamed = {f"map{i}" if "st" in n else n: a for i, (n, a) in enumerate(tensors().items())}
    report = quick(renamed, PACK, complete=True)
    assert report.ok, str(report)
    assert report.match.how == "name"
    renamed["map3"] = renamed["map3"] + 1
    assert quick(renamed, PACK).first_wrong.name == "stages.0.1"


def test_what_has_no_known_name_is_taken_only_where_it_is_right_if_others_have():
    theirs = tensors()
    theirs["mine"] = theirs.pop("stages.0.0")
    theirs["debug"] = theirs.pop("stages.1.0") + 1
    report = quick(theirs, PACK)
    assert report.ok, str(report)
    assert report.match.names["stages.0.0"] == "mine"
    assert report.match.unused == ("debug",)


@pytest.mark.parametrize(
    "row",
    [
        {"conv2": "stages.0.0", "conv1": "stem"},
        {"b": "stages.0.1", "a": "stem", "c": "stages.0.0"},
        {"z": "logits", "y": "stages.1.1", "x": "stages.0.1"},
    ],
)
def test_a_few_arrays_in_any_order(row):
    report = quick({their: PACK.tensor(our) for their, our in row.items()}, PACK)
    assert report.ok, str(report)
    assert {n for n in report.match.names if n != "input"} == set(row.values())


def test_an_activation_outside_of_a_module_is_no_mistake():
    theirs = tensors() | {"stages.0.0": OP.tensor("stages.0.0.sum")}
    run = Run(theirs, watched=True)
    found, _ = assign(theirs, PACK, watched=True)
    done, notes = _with_activation(run, found, PACK, False)
    assert PACK.accepts("stages.0.0", done.arrays["stages.0.0"])
    assert notes == [
        "the activation stands outside of the module, and was done by npvgg: stages.0.0"
    ]
    for change in ({"logits": theirs["logits"] + 1}, {"stages.0.0": theirs["stages.0.0"] + 1}):
        wrong = theirs | change
        found, _ = assign(wrong, PACK, watched=True)
        done, notes = _with_activation(Run(wrong, watched=True), found, PACK, False)
        assert notes == []
        assert not PACK.accepts("stages.0.0", done.arrays["stages.0.0"])


def test_maps_before_the_activation_are_no_mistake_where_the_logits_are_right():
    """Of arrays that are handed over, too; and the activation is missing where they are wrong."""
    theirs = tensors() | {n: OP.tensor(f"{n}.sum") for n in ("stem", "stages.0.0")}
    report = compare(theirs, PACK)
    assert report.ok, str(report)
    assert report.notes == (
        "these maps are not the ones that the network goes on with, but those before the "
        "activation, which was done by npvgg (the logits are right): stem, stages.0.0",
    )
    assert quick(theirs, PACK, alone=True).first_wrong.name == "stem"
    wrong = compare({**theirs, "logits": theirs["logits"] + 1}, PACK)
    assert wrong.first_wrong.name == "stem"
    assert "activation-missing" in {found.mistake for found in wrong.mistakes}
    odd = quick({**theirs, "stages.0.0": theirs["stages.0.0"] + 1}, PACK)
    assert "the logits are right: the network does not go on with this tensor" in str(odd)


def test_another_call_of_a_module_is_taken_where_the_first_is_wrong():
    theirs = {**tensors(), "stages.0.0": OP.tensor("stages.0.0.sum")}
    theirs["relu (call 2)"] = PACK.tensor("stages.0.0")
    found, _ = assign(theirs, PACK, watched=True)
    assert found.names["stages.0.0"] == "relu (call 2)"


def test_many_arrays_are_looked_through_without_comparing_every_pair(monkeypatch, rng):
    """Arrays with names of their own; each of ours is held against those alone that could be it."""
    noise = {f"t{i}": rng.standard_normal((1, 5)).astype(np.float32) for i in range(3000)}
    asked = []
    accepts = type(PACK).accepts

    def counted(pack, name, got, **how):
        asked.append(name)
        return accepts(pack, name, got, **how)

    monkeypatch.setattr(type(PACK), "accepts", counted)
    theirs = {"stem": PACK.tensor("stem"), "stages.0.0": PACK.tensor("stages.0.0"), **noise}
    assert quick({**theirs, "mine": PACK.tensor("logits")}, PACK).ok
    assert len(asked) < 100


def test_too_many_nameless_arrays_are_refused():
    theirs = {f"t{i}": np.zeros((1, 5), np.float32) for i in range(40_000)}
    with pytest.raises(ArgumentError, match="40,000 arrays are too many to be matched by shape"):
        quick(theirs, PACK)
