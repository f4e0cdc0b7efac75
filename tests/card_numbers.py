"""Every number that a card shows, looked for in its report: in its own unit and to the digits that are shown."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["numbers_without_source"]

_SCALES = {
    "%": 100,
    "points": 100,
    "kB": 1e-3,
    "MB": 1e-6,
    "GB": 1e-9,
    "k": 1e-3,
    "M": 1e-6,
    "G": 1e-9,
}
"""Unit → by what a number of the report is multiplied to be shown in it; any other unit shows it as it is."""
_OURS = ("95 % intervals", "95 % interval", "8-bit", "4 bits")
"""Numbers that the card's own words hold: they belong to how things are measured, not to what was."""
_NUMBER = re.compile(
    r"(?<![\w.])([+\u2212-]?)(\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?)"
    r"(?:[ \u00a0]?(%|points|rows/s|[kMG]?B|[kMG]|\u00d7)(?!\w))?"
)


@dataclass(frozen=True)
class _Known:
    """What the report holds: all of its numbers, those of intervals, those of `changes`, and its sentences."""

    all: tuple[float, ...]
    bounds: tuple[float, ...]
    ratios: tuple[float, ...]
    words: frozenset[str]


def numbers_without_source(card: str, report: str) -> list[str]:
    """Return the numbers of a card that its report does not hold.

    Looked at are the front matter, the headline, tables and text; not code, names in inline code, and addresses.

    Args:
        card: Text of the `README.md`.
        report: Text of the `report.json`.
    """
    known = _known(json.loads(report))
    _, front, body = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    missing = [str(number) for number, _ in _leaves(yaml.safe_load(front)) if number not in known.all]
    text = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(`+).+?\1|\]\([^)]*\)|!\[[^\]]*\]|^\d+\. ", " ", text, flags=re.MULTILINE)
    text = re.sub(r"&#\d+;", " ", text)
    for words in _OURS:
        text = text.replace(words, "")
    for inside, shown in _shown(text):
        if not _is_known(shown, known, in_interval=inside):
            missing.append(shown[0])
    return missing


def _shown(text: str) -> Iterator[tuple[bool, re.Match[str]]]:
    """Yield each number of a text, and whether it stands in an interval."""
    intervals = [found.span() for found in re.finditer(r"\[[^\[\]]*\]", text)]
    for found in _NUMBER.finditer(text):
        yield any(start < found.start() < end for start, end in intervals), found


def _is_known(found: re.Match[str], known: _Known, *, in_interval: bool) -> bool:
    sign, digits, unit = found[1], found[2], found[3] or ""
    if not unit and digits in known.words:
        return True
    value = float(digits.replace(",", "")) * (-1 if sign in {"\u2212", "-"} else 1)
    mantissa, _, exponent = digits.replace(",", "").partition("e")
    tolerance = 0.501 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    if unit == "rows/s" or in_interval:  # three significant digits and no exponent
        tolerance = max(tolerance, 0.501 * 10.0 ** (len(mantissa.partition(".")[0]) - 3))
    if unit == "\u00d7":
        candidates = [*known.ratios, *(1 / ratio for ratio in known.ratios if ratio)]
    elif in_interval:
        candidates = [scale * bound for bound in known.bounds for scale in (1, 100)]
    else:
        candidates = [_SCALES.get(unit, 1) * number for number in known.all]
    return any(abs(candidate - value) <= tolerance for candidate in candidates)


def _known(report: dict[str, Any]) -> _Known:
    report["recipe"].pop("text")  # the card shows it as a block of code
    leaves = list(_leaves(report))
    texts = [text for text in _texts(report) if not re.fullmatch("[0-9a-f]{40,64}", text)]
    return _Known(
        all=tuple(number for number, _ in leaves),
        bounds=tuple(number for number, key in leaves if key in {"low", "high"}),
        ratios=tuple(change["ratio"] for change in report["changes"] if change["ratio"] is not None),
        words=frozenset(word for text in texts for word in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)),
    )


def _leaves(value: Any, key: str = "") -> Iterator[tuple[float, str]]:  # noqa: ANN401 - any JSON
    """Yield each number below a value, with the key that it stands under."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value), key


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
