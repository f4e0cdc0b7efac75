"""What gates promise: a limit that cannot be checked never counts as held."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hfcompress.contracts import Measurement, Value
from hfcompress.errors import RunError, UsageError
from hfcompress.gates import check_gates
from hfcompress.report import GateResult


@dataclass(frozen=True)
class Limits:
    """Stands for a gate of a recipe."""

    max_drop: float | None = None
    min_ratio: float | None = None
    min_value: float | None = None
    max_value: float | None = None


def measured(compressed: float, source: float | None = None, *, higher: bool = True) -> Measurement:
    """Return a measurement named "score"."""
    before = None if source is None else Value(source)
    return Measurement("score", "score", "ratio", higher_is_better=higher, compressed=Value(compressed), source=before)


@pytest.mark.parametrize(
    ("row", "limits", "held"),
    [
        (measured(0.96, 0.97), Limits(max_drop=0.01), True),  # 0.97 - 0.96 is 0.010000000000000009
        (measured(0.95, 0.97), Limits(max_drop=0.01), False),
        (measured(0.99, 0.97), Limits(max_drop=0.0), True),
        (measured(0.20, 0.10, higher=False), Limits(max_drop=0.05), False),
        (measured(0.05, 0.10, higher=False), Limits(max_drop=0.05), True),
        (measured(100, 400, higher=False), Limits(min_ratio=4.0), True),
        (measured(101, 400, higher=False), Limits(min_ratio=4.0), False),
        (measured(30.0, 20.0), Limits(min_ratio=1.5), True),
        (measured(0.0, 0.9), Limits(min_ratio=0.1), False),
        (measured(0.9), Limits(min_value=0.9), True),
        (measured(0.89), Limits(min_value=0.9), False),
        (measured(0.3), Limits(max_value=0.2), False),
    ],
)
def test_held(row: Measurement, limits: Limits, held: bool) -> None:  # noqa: FBT001
    """A limit holds up to and including its value, whichever way is good."""
    assert [held] == [result.held for result in check_gates({"score": limits}, [row])]


def test_result() -> None:
    """A result tells the rule, the number that was compared, and both as a sentence."""
    sentence = "score went from 0.75 to 0.5, 0.25 worse; at most 0.01 is allowed."
    expected = (GateResult("score", "max_drop 0.01", held=False, got=0.25, detail=sentence),)
    assert expected == check_gates({"score": Limits(max_drop=0.01)}, [measured(0.5, 0.75)])


def test_why_it_was_not_measured() -> None:
    """A gate on what this run could not measure is an error that says why."""
    with pytest.raises(UsageError, match=r"^gates\.flops: this run could not measure it: no inputs; remove the gate$"):
        check_gates({"flops": Limits(min_ratio=1.0)}, [measured(1.0)], {"flops": "no inputs"}.get)


def test_every_limit() -> None:
    """Each limit of a gate gives a result of its own."""
    results = check_gates({"score": Limits(max_drop=0.5, min_value=0.9)}, [measured(0.8, 0.9)])
    assert [(result.rule, result.held) for result in results] == [("max_drop 0.5", True), ("min_value 0.9", False)]


def test_lifted() -> None:
    """A gate that is null asks for nothing, not even for the measurement."""
    assert check_gates({"latency_ms": None}, []) == ()


@pytest.mark.parametrize(
    ("gates", "rows", "message"),
    [
        ({"scor": Limits(min_value=0.1)}, [measured(1.0)], r"gates\.scor: this run does not measure it \(did you mean"),
        ({"score": Limits(min_value=0.1)}, [], "it measures nothing"),
        (
            {"score": Limits(max_drop=0.1)},
            [measured(1.0)],
            r"gates\.score\.max_drop: score has no value for the source",
        ),
        (
            {"score": Limits(min_ratio=0.1)},
            [measured(1.0)],
            r"gates\.score\.min_ratio: score has no value for the source",
        ),
        ({"score": Limits(min_ratio=2)}, [measured(0.0, 0.5, higher=False)], "have no ratio"),
        ({"score": Limits(min_value=0.1)}, [measured(1.0), measured(1.0)], "measured 2 times"),
        ({"score": Limits()}, [measured(1.0)], "sets no limit"),
    ],
)
def test_cannot_be_checked(gates: dict[str, Limits], rows: list[Measurement], message: str) -> None:
    """A gate that cannot be checked is an error that says what to write instead."""
    with pytest.raises(UsageError, match=message):
        check_gates(gates, rows)


def test_not_a_number() -> None:
    """A value that is no number stops the run; it does not pass by comparing false."""
    with pytest.raises(RunError, match="not a finite number"):
        check_gates({"score": Limits(max_drop=0.1)}, [measured(float("nan"), 0.5)])
