"""What all pictures have in common: ground, colours, letters, and how they are kept.

Each picture brings its own white ground, so it reads on light and dark pages alike. The colours are those of Okabe
and Ito (2008), which readers with any kind of colour vision can tell apart; shape or position tells the same again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

__all__ = [
    "GRID",
    "INK",
    "PUBLISHED",
    "RESULT",
    "SOURCE",
    "STYLE",
    "Picture",
    "blank",
    "save",
    "shown",
    "tidy",
    "write_number",
    "write_title",
]

SOURCE, PUBLISHED, RESULT, INK, GRID = "#0072B2", "#7F7F7F", "#D55E00", "#1A1A1A", "#D9D9D9"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "text.parse_math": False,
}
WIDTH_INCHES = 8.0
DPI = 150


@dataclass(frozen=True)
class Picture:
    """A picture beside the card.

    Attributes:
        path: Where it lies, relative to the card.
        alt: What it shows, in words, for readers who do not see it.
    """

    path: str
    alt: str


def shown(text: str, limit: int = 60) -> str:
    """Return text from outside as one line of printable characters, cut to `limit` of them."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"


def blank(height_inches: float) -> Figure:
    """Return an empty picture."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout=layout, facecolor="white")


def write_number(axis: Axes, text: str, at: tuple[float, float], colour: str) -> None:
    """Write a number right of a point."""
    axis.annotate(text, at, xytext=(8, 0), textcoords="offset points", va="center", color=colour, fontsize=9.5)


def tidy(axis: Axes) -> None:
    """Take away what tells nothing."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(length=0)
    axis.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def save(figure: Figure, path: Path) -> None:
    """Write a picture, the same bytes for the same picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def write_title(figure: Figure, text: str) -> None:
    """Write the title of a picture that has several panels."""
    figure.suptitle(text, x=0.012, ha="left", fontweight="bold", fontsize=11)
