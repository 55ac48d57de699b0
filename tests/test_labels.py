"""Class names: the shipped list, a tag's own, and a user's file."""

import json

import pytest

from npvgg.errors import ArgumentError
from npvgg.images import labels
from npvgg.images.labels import Label


def test_imagenet_has_a_thousand_classes_in_the_order_of_their_synsets():
    shipped = labels.imagenet_1k()
    synsets = [label.synset for label in shipped]
    assert len(shipped) == 1000
    assert synsets == sorted(set(synsets))
    assert all(label.name for label in shipped)


@pytest.mark.parametrize(
    ("index", "synset", "word"),
    [(0, "n01440764", "tench"), (281, "n02123045", "tabby"), (999, "n15075141", "toilet tissue")],
)
def test_imagenet_indices_are_those_of_ilsvrc_2012(index, synset, word):
    label = labels.imagenet_1k()[index]
    assert label.synset == synset
    assert label.name.startswith(word)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat\ndog\n", [Label("cat"), Label("dog")]),
        ("\ufeffcat\r\n\r\ndog", [Label("cat"), Label("dog")]),
        ("1\tdog\n0\tcat\n", [Label("cat"), Label("dog")]),
        (
            "0\tn02121620\tcat\n1\tn02084071\tdog\n",
            [Label("cat", "n02121620"), Label("dog", "n02084071")],
        ),
        ("n02121620\n", [Label("n02121620", "n02121620")]),
        ('["cat", "dog"]', [Label("cat"), Label("dog")]),
        ('{"1": "dog", "0": "cat"}', [Label("cat"), Label("dog")]),
        ('{"0": ["n02121620", "cat"]}', [Label("cat", "n02121620")]),
        ("c\x1b[31mat\n", [Label("c [31mat")]),
        ("1,dog\n0,cat\n", [Label("cat"), Label("dog")]),
        ("1 dog\n0 cat\n", [Label("cat"), Label("dog")]),
        ("1: hot dog\n0: cat, tabby\n", [Label("cat, tabby"), Label("hot dog")]),
        ("0\n1\n2\n", [Label("0"), Label("1"), Label("2")]),
        ("7 up\ncola\n", [Label("7 up"), Label("cola")]),
        ("n02121620 cat, true cat\n", [Label("cat, true cat", "n02121620")]),
        ("0 n02121620 cat\n", [Label("cat", "n02121620")]),
        ('{"dog": 1, "cat": 0}', [Label("cat"), Label("dog")]),
        ('{"id2label": {"1": "dog", "0": "cat"}, "num_labels": 2}', [Label("cat"), Label("dog")]),
        ('{"label_names": ["cat", "dog"], "num_classes": 2}', [Label("cat"), Label("dog")]),
        ('{"class_to_idx": {"dog": 1, "cat": 0}}', [Label("cat"), Label("dog")]),
        ("{0: 'cat, \\'tabby\\'',\n 1: \"dog\"}", [Label("cat, 'tabby'"), Label("dog")]),
        ("{1: 'dog', 0: 'cat', }\n", [Label("cat"), Label("dog")]),
        ("cat\x1fa\x0bb\n", [Label("cat a b")]),
        ("٣ cat\n", [Label("٣ cat")]),
        ("boeing 747\nairbus 320\n", [Label("boeing 747"), Label("airbus 320")]),
        ("bird 2\ncat\n", [Label("bird 2"), Label("cat")]),
        ("bat (1)\nbat (2)\n", [Label("bat (1)"), Label("bat (2)")]),
        ("class 1\nclass 2\n", [Label("class 1"), Label("class 2")]),
        ("cat,0\ndog,1\n", [Label("cat"), Label("dog")]),
        ("1 cat\n2 dog\n", [Label("cat"), Label("dog")]),
        ("n02084071 1 dog\nn02121620 2 cat\n",
         [Label("dog", "n02084071"), Label("cat", "n02121620")]),
        ("n02121620 1 cat\nn02084071 0 dog\n",
         [Label("dog", "n02084071"), Label("cat", "n02121620")]),
        ("n02121620 1\nn02084071 0\n",
         [Label("n02084071", "n02084071"), Label("n02121620", "n02121620")]),
        ("cat\tn02121620\t1\ndog\tn02084071\t0\n",
         [Label("dog", "n02084071"), Label("cat", "n02121620")]),
        ("0\t1300\tcat\n1\t900\tdog\n", [Label("cat"), Label("dog")]),
        ("0\t7\n1\t3\n", [Label("7"), Label("3")]),
        ("dog 1 n02084071\ncat 0 n02121620\n",
         [Label("cat", "n02121620"), Label("dog", "n02084071")]),
        ("name,index,description\ndog,1,pet\ncat,0,pet\n", [Label("cat"), Label("dog")]),
        ("0,cat, tabby\n1,dog, hound\n", [Label("cat, tabby"), Label("dog, hound")]),
        ("synset,name\nn02121620,cat\n", [Label("cat", "n02121620")]),
        ("n02121620,cat, true cat\n", [Label("cat, true cat", "n02121620")]),
        ("cat,n02121620\n", [Label("cat", "n02121620")]),
        ('0,"tench, Tinca tinca"\n1,goldfish', [Label("tench, Tinca tinca"), Label("goldfish")]),
        ('"1","dog"\n"0","cat, ""tabby"""\n', [Label('cat, "tabby"'), Label("dog")]),
        ('"cat, tabby"\n"dog"\n', [Label("cat, tabby"), Label("dog")]),
        ('6" pipe\n"Old" geyser\n', [Label('6" pipe'), Label('"Old" geyser')]),
        ("names:\n  1: dog\n  0: cat\n", [Label("cat"), Label("dog")]),
        ("label\ncat\n", [Label("label"), Label("cat")]),
        ("labels = {1: 'dog', 0: 'caf\\xe9'}", [Label("café"), Label("dog")]),
        ("{u'dog': 1, u'cat': 0}", [Label("cat"), Label("dog")]),
        ("['cat', \"dog\"]", [Label("cat"), Label("dog")]),
        ('NAMES: list[str] = ["cat", "dog",]', [Label("cat"), Label("dog")]),
        ("[u'cat', u'd\\u00f6g']", [Label("cat"), Label("dög")]),
        ('{"dog": "1", "cat": "0"}', [Label("cat"), Label("dog")]),
        ('{"0": "7", "1": "3"}', [Label("7"), Label("3")]),
        ('{"7": 1, "3": 0}', [Label("3"), Label("7")]),
        ('{"names": ["cat", "dog"]}', [Label("cat"), Label("dog")]),
        ('{"classes": ["cat", "dog"]}', [Label("cat"), Label("dog")]),
        ('{"idx_to_class": {"1": "dog", "0": "cat"}}', [Label("cat"), Label("dog")]),
    ],
)  # fmt: skip
def test_lists_are_read_as_people_write_them(tmp_path, text, expected):
    file = tmp_path / "labels"
    file.write_bytes(text.encode())
    assert labels.load_labels(file) == expected


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "line",
    ["{name},{i}", "{name}\t{i}", "{name} {i}", "{name}: {i}", "{name} -> {i}", "{i}= {name}",
     "{i}. {name}", "{i}) {name}", "({i}) {name}", "[{i}] {name}", "{i} - {name}", "{i};{name}",
     "#{i} {name}", "{name} ({i})", "{name} [{i}]", "{name} #{i}"],
)  # fmt: skip
@pytest.mark.parametrize("titles", ["", "index,name\n", "id\tlabel\n", "# Class Index\n"])
def test_an_index_is_found_at_either_end_of_a_line(tmp_path, line, titles, first):
    rows = [
        line.format(i=i + first, name=name) for i, name in [(2, "bird"), (0, "cat"), (1, "dog")]
    ]
    (tmp_path / "labels").write_text(titles + "\n".join(rows))
    assert [label.name for label in labels.load_labels(tmp_path / "labels")] == [
        "cat",
        "dog",
        "bird",
    ]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read_with_its_mark_and_refused_without(tmp_path, encoding):
    file = tmp_path / "labels"
    file.write_bytes("\ufeffcat\r\nКошка".encode(encoding))
    assert labels.load_labels(file) == [Label("cat"), Label("Кошка")]
    file.write_bytes("cat\r\n".encode(encoding))
    with pytest.raises(ArgumentError, match=r"expected text, got a NUL at character [01]$"):
        labels.load_labels(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one class"),
        (b"\xff\xfea", "UTF-16"),
        (b"caf\xe9", "UTF-8"),
        (b"n02119789 1 kit_fox\nn02100735 2 English_setter\n", "numbered from 1"),
        (b"n02119789 kit_fox 1\nn02100735 English_setter 2\n", "numbered from 1"),
        (
            b"class 1\nclass 10\n" + b"".join(b"class %d\n" % i for i in range(2, 10)),
            "in doubt|no doubt",
        ),
        (b"background\n1 cat\n2 dog\n", "all but the first, 'background'"),
        (b"label,description\ncat,small\n", "index below the titles"),
        (b"2,dog\n1,\n0,cat\n", "a name beside each index, got '1,'"),
        (b"1\t\n0\tcat\n", "a name beside each index, got '1'"),
        (b"cat,1300\ndog,900\n", "0 is missing"),
        (b"0\t1\n1\t0\n", "two that differ"),
        (b"0,cat,1\n1,dog,0\n", "two that differ"),
        (b'{"0": "1", "1": "0"}', "two integers"),
        (b"labels = {0: 'cat', 1: open('x')}", "JSON"),
        (b"labels = ['cat' 'dog']", "JSON"),
        (b"0\tcat\n0\tdog\n", "0 twice"),
        (b"0\tcat\n2\tdog\n", "1 is missing"),
        (b'["cat"', "JSON"),
        (b"1 cat\n3 dog\n", "expected the indices 0 … 1, or 1 … 2, but 0 is missing"),
        (b"5,cat\n7,dog\n", "but 0 is missing"),
        (b"0\x1f\tcat\n0\tdog\n", "0 twice"),
        (b"{0: 'cat', 1: open('x')}", "JSON"),
        (b"{0: 'cat' 'dog'}", "JSON"),
        (b'{"cat": 0, "dog": true}', "names as text|index as key"),
        (b'{"' + b"9" * 5000 + b'": "cat"}', "an index as key"),
        (b'{"cat": ' + b"9" * 5000 + b"}", "19 digits"),
        (b"[" * 100_000, "a nesting of at most 32"),
        (b'["cat", 3]', "as text"),
        (b'{"a": "cat"}', "an index as key"),
    ],
)
def test_a_bad_list_is_one_clear_error(tmp_path, content, message):
    file = tmp_path / "labels"
    file.write_bytes(content)
    with pytest.raises(ArgumentError, match=message) as error:
        labels.load_labels(file)
    assert str(file) in str(error.value)


def test_a_missing_list_is_one_clear_error(tmp_path):
    with pytest.raises(ArgumentError, match=r"cannot be read: No such file"):
        labels.load_labels(tmp_path / "absent")


def test_a_tags_own_names_go_before_imagenets():
    cfg = {"num_classes": 2, "label_names": ["cat", "n02084071"],
           "label_descriptions": {"n02084071": "dog"}}  # fmt: skip
    assert labels.labels_for(cfg) == [Label("cat"), Label("dog", "n02084071")]
    assert labels.labels_for({"num_classes": 1000}) == labels.imagenet_1k()
    assert labels.labels_for({"num_classes": 7}) is None
    with pytest.raises(ArgumentError, match="expected 3 names, got 2"):
        labels.labels_for({**cfg, "num_classes": 3})


def test_a_json_list_survives_a_round_trip(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps([[label.synset, label.name] for label in labels.imagenet_1k()]))
    assert tuple(labels.load_labels(file)) == labels.imagenet_1k()


@pytest.mark.parametrize(
    "text",
    ["a\n" * 4, "0 a\n1 b\n2 c\n3 d", '["a", "b", "c", "d"]', "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}"],
)
def test_a_list_has_a_limit_of_classes(tmp_path, monkeypatch, text):
    (tmp_path / "list").write_text(text)
    assert len(labels.load_labels(tmp_path / "list")) == 4
    monkeypatch.setattr(labels, "MAX_CLASSES", 3)
    monkeypatch.setattr(labels, "_in_order", lambda entries: pytest.fail("all were read"))
    with pytest.raises(
        ArgumentError, match=r"^labels: .*list: expected at most 3 classes, got more$"
    ):
        labels.load_labels(tmp_path / "list")


def test_a_name_in_quotes_takes_no_memory_to_match(tmp_path):
    """Without a place to come back to for each of its characters: 30 million took 5 GB."""
    name = "x" * 10**5
    (tmp_path / "list").write_text(f"{{0: '{name}', 1: '{chr(92)}'{name}'}}")
    assert [len(label.name) for label in labels.load_labels(tmp_path / "list")] == [
        10**5,
        10**5 + 1,
    ]
    assert labels._ITEM.pattern.count(")*+") == labels._ITEM.pattern.count(")*") == 4
    (tmp_path / "list").write_text("{0: '" + chr(92) * 10**5 + "}")
    with pytest.raises(ArgumentError, match="expected JSON"):
        labels.load_labels(tmp_path / "list")
