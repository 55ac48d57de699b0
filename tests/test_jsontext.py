"""JSON of a stranger: what is read, and what is refused in one sentence that names the text."""

import json
import math

import pytest

from npvgg.errors import WeightsError
from npvgg.formats import jsontext
from npvgg.formats.jsontext import MAX_DEPTH, parse, parse_object

REFUSED = {
    "a list": (b"[1]", r"a JSON object, got \[1\]"),
    "nothing": (b"", "expected JSON"),
    "half": (b"{", "expected JSON"),
    "a key twice": (b'{"a": 1, "b": 2, "a": 1}', "unique names, got 'a' twice"),
    "a key twice, inside": (b'{"b": [{"a": 1, "a": 1}]}', "unique names, got 'a' twice"),
    "NaN": (b'{"a": NaN}', "numbers, got NaN"),
    "Infinity": (b'{"a": -Infinity}', "numbers, got -Infinity"),
    "more than a float64": (b'{"a": -1e999}', "numbers within float64, got '-1e999'"),
    "a long integer": (b'{"a": ' + b"1" * 20 + b"}", "19 digits"),
    "a very long integer": (b'{"a": -' + b"1" * 10**5 + b"}", "19 digits"),
    "Latin-1": (b'{"a": "\xe9"}', "expected JSON in UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "expected JSON in UTF-8"),
    "a nest": (
        b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        "a nesting of at most 32, got 33",
    ),
    "an open nest": (b'{"a": ' + b"[" * 900_000, "of at most 32, got 900001"),
    "too much": (b" " * 1_000_001, "at most 1000000 bytes, got 1000001"),
    "an escape": (b'{"\x1b[31m": ', r"expected JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_json_does_not_have_is_refused_with_its_name(case):
    data, match = REFUSED[case]
    with pytest.raises(WeightsError, match=rf"^card: .*{match}") as caught:
        parse_object(data, "card", 1_000_000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_what_json_has_is_read():
    want = {"a": [1, -(10**18), 0.5, 1e300], "b": {"c": None, 'é\\"]': "}[\n"}}
    for text in (json.dumps(want), json.dumps(want, ensure_ascii=False)):
        for data in (text, text.encode(), b"\xef\xbb\xbf" + text.encode()):
            assert parse_object(data, "card", 200) == want
    assert parse(b"[1]", "card", 10) == [1]


def test_brackets_in_texts_are_no_nest():
    for text in ("[" * 100, '\\"' + "[" * 100, "\\\\", '"' * 99 + "{" * 99):
        want = [{text: [text]}]
        assert parse(json.dumps(want).encode(), "card", 10_000) == want


def test_the_deepest_nest_that_is_read():
    nest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse(nest, "card", 100)) == nest


def test_numbers_as_floats_or_naturals_alone():
    got = parse(b"[1, -2, 1e999, NaN, " + b"9" * 400 + b"]", "card", 1000, numbers="real")
    assert [type(number) for number in got] == [float] * 5
    assert got[:3] == [1.0, -2.0, math.inf]
    assert math.isnan(got[3])
    for text, match in (("-1", "of 0 or more"), ("-0", "of 0 or more"), ("1.0", "integers only"),
                        ("NaN", "integers only"), ("1e0", "integers only")):  # fmt: skip
        with pytest.raises(WeightsError, match=match):
            parse(text, "card", 10, numbers="natural")
    assert parse("[0, 7]", "card", 10, numbers="natural") == [0, 7]


def test_a_text_is_measured_before_it_is_parsed(monkeypatch):
    """Counted, not timed: the parser never sees what is too long or too deep."""
    monkeypatch.setattr(jsontext.json, "loads", lambda *_, **__: pytest.fail("was parsed"))
    for data in (b"[" * 10**6, b" " * 10**7, '"' + "[" * 99):
        with pytest.raises(WeightsError, match="at most"):
            parse(data, "card", 2 * 10**6)
