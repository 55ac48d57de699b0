import pytest

from npvgg.errors import ArgumentError, WeightsError
from npvgg.formats.untrusted import MAX_BYTES, blaming, checked_numel, path_text, shown


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("stem.conv.weight", "'stem.conv.weight'"),
        ("naïve", "'naïve'"),
        ("a\nb\x1b[31m", r"'a\nb\x1b[31m'"),
        ("evil\u202etxt", r"'evil\u202etxt'"),  # right-to-left override
        ("\ud800", r"'\ud800'"),  # a lone surrogate cannot be printed
        (b"PK\x03", r"b'PK\x03'"),
        ([3, 64, 7], "[3, 64, 7]"),
        ([3, "x"], "a list"),
        ({"a": 1}, "a dict"),
        (None, "None"),
    ],
)
def test_shown_is_one_printable_line(text, want):
    assert shown(text) == want
    assert shown(text).isprintable()


def test_shown_spells_no_giant_integer():
    assert shown(10**5000) == "a int"  # repr would raise, or take quadratic time


@pytest.mark.parametrize("text", ["x" * 10**6, "\x00" * 10**6, "\U0010ffff" * 100, "'\"" * 500])
def test_shown_is_short(text):
    assert len(shown(text)) <= 82
    assert "…" in shown(text)


def test_numel_multiplies():
    assert checked_numel([2, 3, 4], 4, "x") == 24
    assert checked_numel([], 8, "x") == 1
    assert checked_numel([5, 0, 7], 4, "x") == 0
    assert checked_numel([MAX_BYTES], 1, "x") == MAX_BYTES


@pytest.mark.parametrize(
    "shape", [[-1], [1] * 9, [2**31, 2**31], [2**32, 2**32], [0, 2**62], [MAX_BYTES // 4 + 1]]
)
def test_numel_refuses_what_numpy_cannot_hold(shape):
    with pytest.raises(WeightsError, match="x: expected"):
        checked_numel(shape, 4, "x")


def test_blaming_names_the_file_once_for_each_kind_of_failure():
    with pytest.raises(WeightsError, match=r"^a/b\.bin: expected this$"), blaming("a/b.bin"):
        raise WeightsError("expected this")
    with pytest.raises(WeightsError, match=r"^a/b\.bin: No space left$"), blaming("a/b.bin"):
        raise OSError(28, "No space left")
    once = pytest.raises(WeightsError, match=r"^a/b\.bin: expected this$")
    with once, blaming("a/b.bin"), blaming("a/b.bin"):
        raise WeightsError("expected this")
    with pytest.raises(WeightsError, match=r"^expected this$"), blaming(None):
        raise WeightsError("expected this")
    with pytest.raises(KeyError), blaming("a/b.bin"):
        raise KeyError("a fault of ours stays what it is")


def test_a_path_that_is_none_is_an_argument_error():
    for path in (3, b"x", None):
        with pytest.raises(ArgumentError, match="path: expected"):
            path_text(path)
    assert path_text("a\nb") == r"'a\nb'"
