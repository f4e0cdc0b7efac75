"""What the words and numbers for a change promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hfcompress.changes import Change, change, describe_change, format_difference, format_value, is_within_noise
from hfcompress.contracts import Measurement, Value
from tests.test_report import ACCURACY, SIZE


def test_change() -> None:
    """A ratio above 1 is better, whichever way is good; fidelity, which has no source, has no change."""
    fidelity = Measurement("cosine", "cosine", "cosine", higher_is_better=True, compressed=Value(0.9))
    assert [
        Change("zero_shot_accuracy", 0.96875 / 0.984375, -0.015625),
        Change("size_bytes", 4.0, -300),
        Change("cosine", None, None),
    ] == [change(row) for row in (ACCURACY, SIZE, fidelity)]


@pytest.mark.parametrize(
    ("unit", "higher", "source", "compressed", "words"),
    [
        ("bytes", False, 390, 100, "3.9\u00d7 smaller"),
        ("bytes", False, 100, 390, "3.9\u00d7 larger"),
        ("ms", False, 12, 10, "1.2\u00d7 faster"),
        ("ms", False, 10, 10.5, "1.05\u00d7 slower"),
        ("ms", False, 10, 10.01, "no faster"),
        ("bytes", False, 1200, 100, "12\u00d7 smaller"),
        ("count", False, 200, 100, "2.0\u00d7 fewer"),
        ("rows/s", True, 100, 250, "2.5\u00d7 more"),
        ("rows/s", True, 250, 100, "2.5\u00d7 less"),
        ("ratio", True, 0.9722, 0.9685, "\u22120.37\u00a0points"),
        ("ratio", True, 0.5, 0.50001, "+0.001\u00a0points"),
        ("ratio", True, 0.5, 0.5, "no change"),
        ("cosine", True, 1.0, 0.99, "\u22120.0100"),
        ("dB", True, 1.0, 2.0, "+1.00"),
    ],
)
def test_described_change(unit: str, higher: bool, source: float, compressed: float, words: str) -> None:  # noqa: FBT001
    """What got worse is said to be worse, and a difference is never rounded away."""
    row = Measurement("x", "x", unit, higher_is_better=higher, compressed=Value(compressed), source=Value(source))
    assert words == describe_change(row)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9722, "ratio", "97.2\u00a0%"),
        (0.99968, "ratio", "99.97\u00a0%"),
        (1, "ratio", "100.0\u00a0%"),
        (0.99999, "cosine", "0.99999"),
        (4103224, "bytes", "4.10\u00a0MB"),
        (999, "bytes", "999\u00a0B"),
        (999999, "bytes", "1.00\u00a0MB"),
        (151277313, "count", "151\u00a0M"),
        (12.345, "ms", "12.3\u00a0ms"),
        (1234.5, "rows/s", "1230\u00a0rows/s"),
        (9.999, "ms", "10.0\u00a0ms"),
        (0, "ms", "0.00\u00a0ms"),
    ],
)
def test_formatted(value: float, unit: str, text: str) -> None:
    """Numbers read as people write them, and nothing is rounded to a perfect score."""
    assert text == format_value(value, unit)


@pytest.mark.parametrize(
    ("difference", "noise"),
    [
        (None, False),
        (Value(-0.0156), False),
        (Value(-0.0156, -0.02, -0.001), False),
        (Value(-0.0156, -0.03, 0.001), True),
        (Value(0.0, 0.0, 0.0), True),
    ],
)
def test_noise(difference: Value | None, noise: bool) -> None:  # noqa: FBT001 - a case of the table
    """A change is within noise where the interval of the difference holds 0, and never without an interval."""
    assert is_within_noise(replace(ACCURACY, difference=difference)) is noise


@pytest.mark.parametrize(
    ("difference", "unit", "text"),
    [
        (0.0004, "ratio", "+0.04"),
        (-0.0037, "ratio", "\u22120.37"),
        (0.0, "score", "0.00"),
        (-1e-5, "cosine", "\u22120.00001"),
    ],
)
def test_formatted_difference(difference: float, unit: str, text: str) -> None:
    """A difference has its sign, a difference of ratios is in points, and none is rounded away."""
    assert text == format_difference(difference, unit)
