"""What became of a quantity between source and result, and measured numbers as a person reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfcompress.contracts import Measurement

__all__ = [
    "Change",
    "change",
    "describe_change",
    "format_difference",
    "format_value",
    "is_within_noise",
]


@dataclass(frozen=True)
class Change:
    """What became of one quantity, seen from the source.

    Attributes:
        name: The measurement.
        ratio: How many times better the result is: source / compressed where lower is better, compressed / source
            where higher is; below 1 it is worse. `None` where there is no source or a value is not positive.
        difference: compressed - source; `None` where there is no source.
    """

    name: str
    ratio: float | None
    difference: float | None


def change(measurement: Measurement) -> Change:
    """Return what became of the quantity between source and result."""
    if measurement.source is None:
        return Change(measurement.name, None, None)
    source, result = measurement.source.value, measurement.compressed.value
    better, worse = (result, source) if measurement.higher_is_better else (source, result)
    ratio = better / worse if better >= 0 and worse > 0 else None
    return Change(measurement.name, ratio, result - source)


def is_within_noise(measurement: Measurement) -> bool:
    """Whether the 95 % interval of the difference over the same rows holds 0; not where there is no interval."""
    difference = measurement.difference
    if difference is None or difference.low is None or difference.high is None:
        return False
    return difference.low <= 0 <= difference.high


def format_value(value: float, unit: str) -> str:
    """Return a measured number as a person reads it: "97.2 %", "4.10 MB", "12.3 ms", "3.86 M", "0.9991", "27.3".

    Nothing is rounded to a perfect score: 0.9997 of 1 is "99.97 %".
    """
    if unit == "ratio":
        return f"{_imperfect(100 * value, 100.0, 1)}\u00a0%"
    if unit == "cosine":
        return _imperfect(value, 1.0, 4)
    if unit in {"bytes", "count"}:
        symbols = ("B", "kB", "MB", "GB", "TB") if unit == "bytes" else ("", "k", "M", "G", "T")
        exponent = math.floor(math.log10(max(abs(float(f"{value:.3g}")), 1.0)))
        power = min(exponent // 3, len(symbols) - 1)
        number = f"{value:.0f}" if power == 0 and float(value).is_integer() else _significant(value / 1000**power)
        return f"{number}\u00a0{symbols[power]}".strip()
    if unit == "score":
        return _significant(value)
    return f"{_significant(value)}\u00a0{unit}"


def describe_change(measurement: Measurement) -> str:
    """Return what became of a quantity in words, empty where it has no source.

    Sizes and times are told as factors ("3.9x smaller", "1.2x slower", "no faster"), scores as differences in their
    own unit ("-0.37 points").
    """
    changed, unit = change(measurement), measurement.unit
    if changed.difference is None:
        return ""
    better, worse = {
        "bytes": ("smaller", "larger"),
        "ms": ("faster", "slower"),
        "rows/s": ("more", "less"),
        "count": ("more", "fewer") if measurement.higher_is_better else ("fewer", "more"),
    }.get(unit, ("", ""))
    if better and changed.ratio:
        factor = max(changed.ratio, 1 / changed.ratio)
        if factor < 1.005:  # noqa: PLR2004 - half of the last digit that is shown
            return f"no {better}"
        digits = 2 if factor < 1.1 else 1 if factor < 10 else 0  # noqa: PLR2004 - two significant digits, three near 1
        return f"{factor:.{digits}f}\u00d7 {better if changed.ratio > 1 else worse}"
    if changed.difference == 0:
        return "no change"
    return format_difference(changed.difference, unit) + ("\u00a0points" if unit == "ratio" else "")


def format_difference(difference: float, unit: str) -> str:
    """Return a difference of two scores with its sign: "+1.20", "\u22120.37" (points, where the scores are ratios)."""
    sign = "+" if difference > 0 else "\u2212" if difference < 0 else ""
    size = abs(difference)
    if unit == "ratio":
        return f"{sign}{_imperfect(100 * size, 0.0, 2)}"
    return f"{sign}{_imperfect(size, 0.0, 4 if unit == 'cosine' else 2)}"


def _imperfect(value: float, perfect: float, digits: int) -> str:
    """Return `value` with so many digits, or more where those would round it to `perfect`."""
    while digits < 12 and float(f"{value:.{digits}f}") == perfect != value:  # noqa: PLR2004 - the precision of a float
        digits += 1
    return f"{value:.{digits}f}"


def _significant(value: float) -> str:
    """Return `value` with three significant digits and no exponent."""
    rounded = float(f"{value:.3g}")
    digits = 2 if rounded == 0 else max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{digits}f}"
