"""A report as one HTML page that needs nothing beside itself: the card, with its pictures inside."""

from __future__ import annotations

import base64
import tempfile
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from hfcompress.card import render_body, title_of
from hfcompress.plots import draw_pictures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markdown_it.token import Token

    from hfcompress.report import Report

__all__ = ["render_page"]


def render_page(report: Report) -> str:
    """Return the page's HTML: tables, pictures, code and recipe of the card, drawn anew from the report alone.

    It loads nothing from anywhere: the pictures are data in it, and of a picture that the author's own text shows from
    elsewhere the alternative text is left.

    Raises:
        RunError: The report names a class to load with that is no dotted Python name.
    """
    with tempfile.TemporaryDirectory(prefix="hfcompress-page-") as name:
        pictures = draw_pictures(report, Path(name))
        data = {picture.path: _as_data(Path(name, picture.path)) for picture in pictures}
    # raw HTML stays text, so that nothing in the page can act
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    blocks = markdown.parse(render_body(report, pictures))
    for block in blocks:
        if block.children is not None:
            block.children = _embedded(block.children, data)
    body = markdown.renderer.render(blocks, markdown.options, {})
    style = files("hfcompress").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title_of(report))}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{_scrolling(body)}</main>\n</body>\n</html>\n"
    )


def _as_data(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _embedded(tokens: Sequence[Token], data: Mapping[str, str]) -> list[Token]:
    """Return the inline tokens with our own pictures inside, and words in place of all others."""
    kept: list[Token] = []
    for token in tokens:
        if token.type == "image":
            found = data.get(str(token.attrs["src"]))
            if found is None:
                kept += token.children or []
                continue
            token.attrs["src"] = found
        kept.append(token)
    return kept


def _scrolling(html: str) -> str:
    """Let wide tables scroll by themselves on a narrow screen."""
    return html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
