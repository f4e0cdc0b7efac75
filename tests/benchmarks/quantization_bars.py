"""What is asked of our int8, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Bar", "at_most", "not_below", "verdicts"]


@dataclass(frozen=True)
class Bar:
    """Something that is asked of ours.

    Attributes:
        text: What is asked.
        is_met: Whether it holds; `None` where there is nothing to compare.
        detail: The figures.
    """

    text: str
    is_met: bool | None
    detail: str


def at_most(text: str, value: float | None, limit: float) -> Bar:
    """Return whether a value is at most a limit; it cannot be told of a value that is missing."""
    if value is None:
        return Bar(text, None, "ours gave no artifact")
    return Bar(text, value <= limit, f"{value:.4f}, at most {limit:.4f}")


def not_below(text: str, value: float | None, others: Mapping[str, float]) -> Bar:
    """Return whether a value is at least that of each of some others.

    Args:
        text: What is asked.
        value: Ours; `None` where there is none.
        others: Whose → theirs.
    """
    if value is None:
        return Bar(text, None, "ours gave no artifact")
    if not others:
        return Bar(text, None, "none of the others gave an artifact")
    best = max(others, key=others.__getitem__)
    return Bar(text, value >= others[best], f"{value:.4f}; {best}: {others[best]:.4f}")


def verdicts(bars: Sequence[Bar]) -> str:
    """Return one line for each thing that is asked."""
    words = {True: "met", False: "NOT met", None: "cannot be told"}
    return "\n".join(f"- {words[bar.is_met]}: {bar.text} ({bar.detail})" for bar in bars)
