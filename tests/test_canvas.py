"""What all pictures promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from hfcompress.canvas import INK, RESULT, SOURCE, blank, save, shown, write_title

if TYPE_CHECKING:
    from pathlib import Path


def test_shown() -> None:
    """Text from outside becomes one line of limited length."""
    assert shown("a\n\tb\x1b[0m" + "c" * 100, 10) == "a b [0mccc"[:9] + "\u2026"


def test_ground(tmp_path: Path) -> None:
    """A picture brings a white ground that no page shines through, and its folder."""
    figure = blank(1.0)
    write_title(figure, "Title")
    save(figure, tmp_path / "assets" / "a.png")
    with Image.open(tmp_path / "assets" / "a.png") as image:
        assert (image.size, image.convert("RGBA").getpixel((1, 1))) == ((1200, 150), (255, 255, 255, 255))


def test_contrast() -> None:
    """Every colour that carries a number reads on white (WCAG 2.2: 3 to 1 for graphics, 4.5 to 1 for ink)."""

    def contrast(colour: str) -> float:
        shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)

    assert contrast(INK) > 4.5
    assert min(contrast(SOURCE), contrast(RESULT)) > 3
