"""Pages, read as a parser reads them and as a browser shows them."""

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest


class Page(HTMLParser):
    """What a page has: its policy, styles, scripts, links, and everything with an address."""

    def __init__(self, text):
        super().__init__()
        self.policy, self.texts, self.addresses, self.inside = "", [], [], None
        self.handlers, self.headings, self.ids, self.languages = [], [], [], []
        self.unnamed = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        runs = tag == "style" or (tag == "script" and "type" not in attributes)  # else it is data
        self.inside = tag if runs else None
        self.addresses += [v for k, v in attributes.items() if k in ("src", "href")]
        self.handlers += [k for k in attributes if k.startswith("on") or k == "style"]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.languages += [attributes.get("lang")] if tag == "html" else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        named = attributes.get("aria-label") or (tag == "th" and attributes.get("scope"))
        if (tag in ("canvas", "math", "nav", "th") or "role" in attributes) and not named:
            self.unnamed.append((tag, attributes))

    def handle_data(self, data):
        if self.inside:
            self.texts.append(data)
            self.inside = None


def check_page(text, neighbours=()):
    page = Page(text)
    assert page.policy.startswith("default-src 'none'")
    for own in page.texts:
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page.policy
    assert page.handlers == []
    assert page.languages == ["en"]
    assert sorted(page.ids) == sorted({*page.ids})
    assert page.headings.index(1) == 0
    assert page.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(page.headings)), page.headings
    assert [tag for tag, attributes in page.unnamed if attributes.get("role") != "img"] == []
    drawn = re.findall('<svg[^>]*role="img"[^>]*><title>[^<]+<', text)
    assert len(drawn) == text.count("<svg ")
    for address in page.addresses:
        assert address.startswith(("data:", "#")) or address in neighbours, address


@pytest.fixture(scope="module")
def chromium():
    """Debian's chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


def opened(browser, path):
    """A page in the browser, and everything that it said, or asked for, besides itself."""
    said = []
    tab = browser.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url))
    tab.goto(f"file://{path}")
    said.remove(f"file://{path}")
    return tab, said
