"""Scores: quantities that are functions of sums over rows, and the measurements that they become."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from hfcompress.contracts import Measurement, Task, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from hfcompress.contracts import Rows

    Array = np.ndarray[Any, Any]

__all__ = ["Score", "ScoredTask", "mean_of", "proportion_of", "quotient", "quotient_of"]


@dataclass(frozen=True)
class Score:
    """One quantity of one model over the rows.

    Attributes:
        name: Name of the measurement ("word_error_rate").
        label: What a table shows.
        unit: "ratio", "cosine", "nats" or "score".
        sums: What each row adds to the sums that the quantity is made of, dense or sparse, shape (rows, sums).
        statistic: From sums of shape (..., sums) to values of shape (...).
        higher_is_better: Which way is good.
        is_proportion: Whether it is the mean of outcomes in [0, 1], so that Wilson's interval holds.
        n: What is counted, where that is not rows ("captions").
        interval: The value with its interval, where resampling rows would not give it: that of an extreme, which
            resampling finds to be more extreme.
    """

    name: str
    label: str
    unit: str
    sums: Any
    statistic: Callable[[Array], Array]
    higher_is_better: bool = True
    is_proportion: bool = False
    n: int | None = None
    interval: Value | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.sums.shape[0])


def quotient(sums: Array) -> Array:
    """Return the first sum divided by the second."""
    result: Array = sums[..., 0] / sums[..., 1]
    return result


def proportion_of(name: str, label: str, outcomes: Array) -> Score:
    """Return the share of rows that succeed; `outcomes` are in [0, 1], shape (rows,)."""
    return replace(mean_of(name, label, "ratio", outcomes), is_proportion=True)


def mean_of(name: str, label: str, unit: str, values: Array, *, higher_is_better: bool = True) -> Score:
    """Return the mean of a value over the rows, shape (rows,)."""
    import numpy as np

    return quotient_of(name, label, unit, values, np.ones(len(values)), higher_is_better=higher_is_better)


def quotient_of(
    name: str, label: str, unit: str, parts: Array, wholes: Array, *, higher_is_better: bool = True
) -> Score:
    """Return the sum of `parts` over the rows divided by that of `wholes`, both of shape (rows,)."""
    import numpy as np

    sums = np.stack([np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)], axis=1)
    return Score(name, label, unit, sums, quotient, higher_is_better)


class ScoredTask(Task):
    """A task whose measurements are scores: of each model alone, and of how near the result is to the source."""

    name: ClassVar[str]
    """The task's name in the registry."""

    @abstractmethod
    def scores(self, predictions: Any, rows: Rows) -> list[Score]:  # noqa: ANN401 - the task's own dataclass
        """Return what is measured of one model alone."""

    @abstractmethod
    def fidelity(self, source: Any, compressed: Any) -> list[Score]:  # noqa: ANN401
        """Return what is measured of the result in comparison with the source, without labels."""

    def compare(self, source: Any, compressed: Any, rows: Rows) -> list[Measurement]:  # noqa: ANN401
        """Measure both models on the same rows, with the paired interval of their difference, and the fidelity."""
        pairs = zip(self.scores(compressed, rows), self.scores(source, rows), strict=True)
        return [
            *(self._measurement(after, before, rows) for after, before in pairs),
            *(self._measurement(score, None, rows) for score in self.fidelity(source, compressed)),
        ]

    def measure(self, predictions: Any, rows: Rows) -> list[Measurement]:  # noqa: ANN401
        """Measure one model alone."""
        return [self._measurement(score, None, rows) for score in self.scores(predictions, rows)]

    def _measurement(self, after: Score, before: Score | None, rows: Rows) -> Measurement:
        value, source, difference = _values(after, before)
        return Measurement(
            after.name,
            after.label,
            after.unit,
            after.higher_is_better,
            compressed=value,
            source=source,
            difference=difference,
            n=after.rows if after.n is None else after.n,
            task=self.name,
            dataset=rows.name,
            revision=rows.revision,
            split=rows.split,
        )


def _values(after: Score, before: Score | None) -> tuple[Value, Value | None, Value | None]:
    """Return the value of the result, that of the source, and their difference."""
    from hfcompress.intervals import joined, paired_proportions, proportion, resampled

    both = [after] if before is None else [after, before]
    if after.is_proportion:
        outcomes = [score.sums[:, 0] for score in both]
        values = [proportion(float(each.sum()), len(each)) for each in outcomes]
        difference = paired_proportions(outcomes[0], outcomes[-1])
    elif intervals := [score.interval for score in both if score.interval is not None]:
        values, difference = intervals, joined(intervals[0], intervals[-1])
    else:
        values, difference = resampled([score.sums for score in both], after.statistic)
    return (values[0], None, None) if before is None else (values[0], values[1], difference)
