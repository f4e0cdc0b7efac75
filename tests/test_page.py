"""What the page of a report promises: all that the card says, on one file that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

from PIL import Image

from hfcompress.page import render_page
from hfcompress.report import CardRecord, Report
from tests.test_card import HOSTILE, SECTIONS, report


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data


def test_page_has_what_the_card_has() -> None:
    """Title, sections, tables, every picture as data, and the recipe to the letter."""
    found = report()
    page = Page(render_page(found))
    names = [tag for tag, _ in page.tags]
    sources = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]

    assert names.count("table") == 3
    assert all(section in page.text for section in [*SECTIONS, "clip-small", found.recipe.text])
    assert "top-1 accuracy 97.2\u00a0% → 96.9\u00a0% (n = 540)" in page.text
    assert len(sources) >= 2
    for source in sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.width == 1200


def test_page_needs_nothing_beside_itself() -> None:
    """Nothing is loaded from elsewhere, nor run, whatever the report and its author say."""
    text = "![far](https://e.vil/i.png) <script>alert(1)</script>\n\n<iframe src=x></iframe>"
    for found in (report(HOSTILE), report(card=CardRecord(text))):
        page = Page(render_page(found))
        assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in page.tags}
        assert all(str(attributes["src"]).startswith("data:") for _, attributes in page.tags if "src" in attributes)
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert "<style>" in render_page(found)
    assert "far <script>alert(1)</script>" in page.text


def test_same_from_file() -> None:
    """Equal reports give equal pages, and a report from a file gives the same one."""
    found = report()
    assert render_page(found) == render_page(Report.from_json(found.to_json()))
