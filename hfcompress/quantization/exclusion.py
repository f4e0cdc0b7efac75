"""What `exclude` leaves in float, whichever the runtime."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from hfcompress.errors import QuantizationError
from hfcompress.registry import did_you_mean, near_names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["excluded"]


def excluded(patterns: Iterable[str], names: Collection[str], noun: str) -> frozenset[str]:
    """Return the names that one of the patterns matches.

    Args:
        patterns: Names in which `*` stands for anything (`fnmatch`).
        names: All that would be quantized.
        noun: What they are, for the error: "linear layers".

    Raises:
        QuantizationError: A pattern matches none of them.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            msg = (
                f"exclude: {pattern!r} matches none of the {len(names)} {noun}{did_you_mean(pattern, names)}; "
                f"expected a pattern of names such as {', '.join(near_names(pattern, names))}"
            )
            raise QuantizationError(msg)
        found |= matched
    return frozenset(found)
