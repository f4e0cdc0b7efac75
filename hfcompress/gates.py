"""Gates: what must hold of the measurements before anything is pushed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from hfcompress.changes import change
from hfcompress.errors import RunError, UsageError
from hfcompress.registry import did_you_mean
from hfcompress.report import GateResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hfcompress.contracts import Measurement

__all__ = ["Gate", "check_gates"]

RULES = ("max_drop", "min_ratio", "min_value", "max_value")


class Gate(Protocol):
    """The limits of one measurement; `None` where the recipe sets no such limit."""

    @property
    def max_drop(self) -> float | None:
        """By how much the result may be worse than the source, in the measurement's own unit."""

    @property
    def min_ratio(self) -> float | None:
        """How many times better than the source the result must be (4.0: at most a quarter of the size)."""

    @property
    def min_value(self) -> float | None:
        """The least that the result may reach."""

    @property
    def max_value(self) -> float | None:
        """The most that the result may reach."""


def check_gates(
    gates: Mapping[str, Gate | None],
    measurements: Sequence[Measurement],
    why_missing: Callable[[str], str | None] = lambda _: None,
) -> tuple[GateResult, ...]:
    """Check every limit of every gate against what was measured.

    A value exactly at its limit holds; the rounding of floating-point numbers is not held against it.

    Args:
        gates: Measurement name → its limits; `None` where the recipe lifts a default gate.
        measurements: What the run measured.
        why_missing: Says of a measurement why the run does not give it, `None` where that is not known.

    Returns:
        One result a limit, in the order of the gates.

    Raises:
        UsageError: A gate names a measurement that the run does not give once, sets no limit, or compares with a
            source where there is none. A gate that cannot be checked never counts as held.
        RunError: The value of a gated measurement is not a finite number.
    """
    results: list[GateResult] = []
    for name, gate in gates.items():
        if gate is None:
            continue
        limits = {rule: limit for rule in RULES if (limit := getattr(gate, rule, None)) is not None}
        if not limits:
            msg = f"gates.{name}: it sets no limit; give one of {', '.join(RULES)}, or `{name}: null` for no gate"
            raise UsageError(msg)
        measurement = _the_one(name, measurements, why_missing(name))
        results += [_checked(measurement, rule, limit) for rule, limit in limits.items()]
    return tuple(results)


def _the_one(name: str, measurements: Sequence[Measurement], why_missing: str | None) -> Measurement:
    """Return the only measurement of that name, with finite values."""
    named = [row for row in measurements if row.name == name]
    if not named:
        if why_missing is not None:
            msg = f"gates.{name}: this run could not measure it: {why_missing}; remove the gate"
            raise UsageError(msg)
        known = [row.name for row in measurements]
        msg = (
            f"gates.{name}: this run does not measure it{did_you_mean(name, known)}; "
            f"it measures {', '.join(known) or 'nothing'}"
        )
        raise UsageError(msg)
    if len(named) > 1:
        datasets = " and ".join(str(row.dataset) for row in named)
        msg = f"gates.{name}: it is measured {len(named)} times, on {datasets}; a gate needs one value"
        raise UsageError(msg)
    (only,) = named
    for what, value in (("source", only.source), ("result", only.compressed)):
        if value is not None and not math.isfinite(value.value):
            msg = f"gates.{name}: the {what}'s value is {value.value}, not a finite number"
            raise RunError(msg)
    return only


def _checked(measurement: Measurement, rule: str, limit: float) -> GateResult:
    """Check one limit of one measurement."""
    name, after, source = measurement.name, measurement.compressed.value, measurement.source
    if rule == "min_value":
        got, held = after, _at_most(limit, after)
        detail = f"{name} is {_number(after)}; at least {limit:g} is asked."
    elif rule == "max_value":
        got, held = after, _at_most(after, limit)
        detail = f"{name} is {_number(after)}; at most {limit:g} is asked."
    elif source is None:
        msg = f"gates.{name}.{rule}: {name} has no value for the source alone; use min_value or max_value"
        raise UsageError(msg)
    elif rule == "max_drop":
        got = source.value - after if measurement.higher_is_better else after - source.value
        held = _at_most(got, limit)
        verdict = "no worse" if got <= 0 else f"{got:.4g} worse"
        detail = (
            f"{name} went from {_number(source.value)} to {_number(after)}, {verdict}; at most {limit:g} is allowed."
        )
    else:
        ratio = change(measurement).ratio
        if ratio is None:
            msg = f"gates.{name}.{rule}: {source.value:g} and {after:g} have no ratio; use max_drop or max_value"
            raise UsageError(msg)
        got, held = ratio, _at_most(limit, ratio)
        detail = (
            f"{name} went from {_number(source.value)} to {_number(after)}, a ratio of {ratio:.4g}; "
            f"at least {limit:g} is asked."
        )
    return GateResult(name, f"{rule} {limit:g}", held, got, detail)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"


def _at_most(value: float, limit: float) -> bool:
    """Whether value ≤ limit, up to the rounding of the arithmetic that led to them."""
    return value <= limit or math.isclose(value, limit, rel_tol=1e-9, abs_tol=1e-12)
