"""The ways in which a tower can shrink, and what their units are called."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["AXIS_UNITS", "Axis"]

Axis: TypeAlias = Literal["ffn", "heads", "layers", "width"]

AXIS_UNITS: dict[Axis, str] = {
    "layers": "blocks",
    "width": "channels of the residual stream",
    "heads": "attention heads",
    "ffn": "feed-forward units",
}
