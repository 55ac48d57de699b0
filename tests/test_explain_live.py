"""The live page and its JavaScript, which is a port like anybody's: held against npvgg's own packs,
in Node, and used as people use it, in a browser.
"""

import base64
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import tiny
from browsing import check_page, chromium, opened  # noqa: F401 - a fixture
from PIL import Image

import npvgg
from npvgg.cli.main import main
from npvgg.errors import ArgumentError
from npvgg.explain.course import PAGES, course
from npvgg.explain.live import live
from npvgg.testing import compare, conformance_pack

BROWSER = files("npvgg.explain.browser")
PHOTO = Path(__file__).parent / "photos" / "chelsea.png"
node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


@pytest.fixture(scope="module")
def nano():
    return npvgg.create_model(
        "repvgg_nano.cifar10", pretrained=True, reparameterize=False, engine="reference"
    )


@pytest.fixture(scope="module")
def page(nano):
    pytest.importorskip("jinja2", reason="pages need Jinja2")
    return live(nano)


def run(script, *arguments):
    """What a script prints in Node; it finds the network under `repvgg`."""
    head = f"const repvgg = require({json.dumps(str(BROWSER / 'repvgg.js'))});"
    done = subprocess.run(
        ["node", "-e", head + script, *map(str, arguments)],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def ported(pack, tmp_path):
    """Write the pack, run port.js on it: the folder of its tensors."""
    pack.write(tmp_path / "pack")
    port = str(BROWSER / "port.js")
    subprocess.run(["node", port, tmp_path / "pack", tmp_path / "mine"], check=True, timeout=60)
    return tmp_path / "mine"


@node
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("tiny", {"level": "op"}),
        ("tiny_g2", {"level": "op"}),
        ("tiny_g2", {"form": "deploy", "level": "op"}),
        ("tiny", {"level": "op", "bn_eps": 1e-2}),
        ("repvgg_nano.cifar10", {"level": "branch", "size": 32, "image": PHOTO}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_every_tensor_of_the_port_is_right(model, options, tmp_path):
    pack = conformance_pack(model, **options)
    report = compare(ported(pack, tmp_path), pack, complete=True)
    assert report.ok, str(report)
    assert len(report.rows) == len(pack.probes) > 10


@node
def test_a_mistake_in_the_port_would_be_seen(tmp_path):
    text = (BROWSER / "repvgg.js").read_text("utf-8")
    (tmp_path / "repvgg.js").write_text(text.replace("t = gamma[k] /", "t = 1 /"), "utf-8")
    shutil.copy(BROWSER / "port.js", tmp_path)
    pack = conformance_pack("tiny")
    pack.write(tmp_path / "pack")
    subprocess.run(["node", "port.js", "pack", "mine"], cwd=tmp_path, check=True, timeout=60)
    report = compare(tmp_path / "mine", pack)
    assert not report.ok
    assert report.first_wrong.name == "stem"


@node
@pytest.mark.parametrize("size", [(451, 300), (33, 47), (32, 32), (20, 31)], ids=str)
def test_a_photo_becomes_the_same_bits_as_with_pillow(size, nano, rng, tmp_path):
    photo = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    how = npvgg.data.resolve_model_data_config(nano)
    want = npvgg.data.create_transform(**how)(Image.fromarray(photo))
    photo.tofile(tmp_path / "pixels")
    settings = {"size": 32} | {key: how[key] for key in ("crop_pct", "mean", "std")}
    script = """
    const [pixels, shape, settings] = process.argv.slice(1);
    const bytes = new Uint8Array(require("fs").readFileSync(pixels));
    const { x } = repvgg.preprocess(bytes, JSON.parse(shape), JSON.parse(settings));
    process.stdout.write(Buffer.from(x.data.buffer));
    """
    arguments = (json.dumps(photo.shape[:2]), json.dumps(settings))
    got = np.frombuffer(run(script, tmp_path / "pixels", *arguments), np.float32)
    np.testing.assert_array_equal(got.reshape(3, 32, 32), want)


@node
def test_the_page_folds_its_own_weights_and_finds_the_class(nano, page, tmp_path):
    encoded = re.search(r'id="weights">([^<]+)<', page)[1]
    (tmp_path / "weights").write_bytes(base64.b64decode(encoded))
    x = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(nano))(PHOTO)
    x.tofile(tmp_path / "x")
    script = """
    const fs = require("fs"), [weights, image] = process.argv.slice(1);
    const { tensors, metadata } = repvgg.readSafetensors(new Uint8Array(fs.readFileSync(weights)));
    const blocks = repvgg.blocksOf(JSON.parse(metadata["npvgg.config"]))
      .map((block) => repvgg.asDeployed(block, repvgg.fold(block, tensors)));
    const data = new Float32Array(new Uint8Array(fs.readFileSync(image)).buffer);
    const last = blocks[blocks.length - 1];
    process.stdout.write(JSON.stringify({
      logits: [...repvgg.forward({ shape: [3, 32, 32], data }, blocks, tensors)],
      kernel: [...last.weight.data], bias: [...last.bias],
    }));
    """
    got = json.loads(run(script, tmp_path / "weights", tmp_path / "x"))
    folded = nano.network.reparameterized().blocks[-1].form
    np.testing.assert_array_equal(np.float32(got["kernel"]), folded.weight.ravel())
    np.testing.assert_array_equal(np.float32(got["bias"]), folded.bias)
    np.testing.assert_allclose(got["logits"], nano(x[None])[0], rtol=0, atol=1e-5)


def test_the_page_is_one_file_that_lets_nothing_else_in(page):
    assert len(page) < 6e6
    check_page(page)


@pytest.mark.parametrize(
    "name", ["se", "eca", "pool-max", "pool-catavgmax", "output-stride-8", "silu", "grey"]
)
def test_of_a_network_that_the_page_does_not_know_it_says_what_can_be_shown(name, monkeypatch):
    model = tiny.model(name, reparameterize=False)
    with pytest.raises(ArgumentError, match=r"JavaScript knows|photos in colour") as refused:
        live(model)
    instead = re.search("; (.*) can be shown$", str(refused.value))[1]
    if instead == "the lessons and the course":
        quick = [entry for entry in PAGES if entry[0] not in ("mistakes", "questions")]
        monkeypatch.setattr("npvgg.explain.course.PAGES", quick)
        assert len(list(course(model))) == len(quick) + 3
    else:
        for lesson in instead.replace(" and ", ", ").split(", "):
            assert getattr(npvgg.explain, lesson)(model).as_text()


def test_the_command_writes_it_once(tmp_path, capfd):
    pytest.importorskip("jinja2", reason="pages need Jinja2")
    target = str(tmp_path / "live.html")
    assert main(["explain", "live", "--output", target]) == 0
    assert main(["explain", "live", "--output", target]) == 2
    assert "exists; --force replaces it" in capfd.readouterr().err


# --- In a browser ---------------------------------------------------------------------------------


def drop(tab, content):
    """Drop a file on the page, as a person does."""
    tab.evaluate(
        """(data) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          transfer.items.add(new File([bytes], "photo.png"));
          document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        base64.b64encode(content).decode(),
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Playwright's event loop
def test_the_live_page_in_a_browser(chromium, page, nano, tmp_path, capfd):  # noqa: F811
    (tmp_path / "live.html").write_text(page, "utf-8")
    tab, said = opened(chromium, tmp_path / "live.html")
    expect = pytest.importorskip("playwright.sync_api").expect

    def cells(row):
        return row.locator("th, td")

    def shows(text):  # not wait_for_function, whose eval the page's policy forbids
        expect(tab.locator("#answer")).to_have_text(text, timeout=30_000)

    tab.set_input_files("#file", PHOTO)
    x = npvgg.data.create_transform(**npvgg.data.resolve_model_data_config(nano))(PHOTO)[None]
    probability = npvgg.softmax(nano(x))[0]
    answer = f"cat, {100 * probability[3]:.2f} %"
    shows(answer)
    assert main(["explain", "photo", str(PHOTO), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["topk"]
    rows = [row.all_text_contents() for row in map(cells, tab.locator("#classes tr").all())]
    assert [name for name, *_ in rows] == [entry["name"] for entry in told]
    for (_, percent, logit, _), entry in zip(rows, told, strict=True):  # to the digits shown
        assert float(percent[:-2]) == pytest.approx(100 * entry["probability"], abs=0.0051)
        assert float(logit) == pytest.approx(entry["logit"], abs=0.000051)
    tab.select_option("#blocks", label="stages.0.1")
    tab.locator("#maps button").nth(5).click()
    tab.locator("#channel").focus()
    for key in ("ArrowLeft", "ArrowUp"):
        tab.keyboard.press(key)
    words = tab.text_content("#sum")
    _, channel, row, column = re.match(
        r"(\S+), channel (\d+), row (\d+), column (\d+):", words
    ).groups()
    lesson = npvgg.explain.pixel(nano, PHOTO, "stages.0.1", int(channel), (int(row), int(column)))
    assert channel == "5"
    shown = float(re.search(r"ReLU makes it (\S+)\.$", words)[1])
    assert shown == pytest.approx(lesson.output, rel=1e-4, abs=1e-5)
    drop(tab, b"no photo")
    shows("this file is no photo that the browser opens")
    drop(tab, PHOTO.read_bytes())
    shows(answer)
    tab.uncheck("#branches input[value=identity]")
    assert tab.text_content("#answer") != answer
    tab.check("#branches input[value=identity]")
    assert tab.text_content("#answer") == answer
    assert said == []
