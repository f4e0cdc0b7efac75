"""95 % intervals of measured values, and of the difference between two models on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from hfcompress.contracts import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Array = np.ndarray[Any, Any]

__all__ = ["bootstrapped", "joined", "paired_proportions", "proportion", "resampled"]

_RESAMPLES = 1000
_AT_ONCE = 50
"""Resamples whose row counts are held in memory together."""
_Z = float(stats.norm.ppf(0.975))


def proportion(successes: float, trials: int) -> Value:
    """Return a proportion with its Wilson score interval (Wilson 1927).

    Args:
        successes: In [0, trials]. It may be the sum of expected outcomes in [0, 1], as where ties are counted in
            expectation; those vary less than outcomes that are 0 or 1, so the interval is then wider than it has to be.
        trials: At least 1.
    """
    share, spread = successes / trials, _Z**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # at the ends the interval closes there, which rounding would miss by a last digit
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return Value(share, low, high)


def paired_proportions(compressed: Array, source: Array) -> Value:
    """Return the difference of two proportions over the same rows with its interval (Newcombe 1998, method 10).

    It joins the two Wilson intervals by the correlation of the outcomes, so, unlike a bootstrap, it does not call a
    difference exact only because no row of a small sample changed.

    Args:
        compressed: The result's outcome of each row, in [0, 1], shape (n,).
        source: The source's, in the same order.
    """
    n = len(source)
    after, before = proportion(float(compressed.sum()), n), proportion(float(source.sum()), n)
    covariance = float((compressed * source).mean()) - after.value * before.value
    spread = np.sqrt(after.value * (1 - after.value) * before.value * (1 - before.value))
    if covariance > 0:
        covariance = max(covariance - 1 / (2 * n), 0.0)
    return joined(after, before, covariance / spread if spread > 0 else 0.0)


def joined(after: Value, before: Value, correlation: float = 0.0) -> Value:
    """Return the difference of two values with an interval made of theirs (Newcombe 1998, "square and add").

    Args:
        after: The result's value with its interval.
        before: The source's.
        correlation: Of the two, in [-1, 1]; without any the interval is that of independent samples, and too wide
            rather than too narrow for values that go together.
    """

    def added(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0)))

    difference = after.value - before.value
    low = added(after.value - (after.low or 0.0), (before.high or 0.0) - before.value)
    high = added((after.high or 0.0) - after.value, before.value - (before.low or 0.0))
    return Value(difference, difference - low, difference + high)


def resampled(models: Sequence[Any], statistic: Callable[[Array], Array], seed: int = 0) -> tuple[list[Value], Value]:
    """Return a statistic of each model and its difference, first less last, with percentile bootstrap intervals.

    Rows are drawn with replacement, the same ones for every model (a paired bootstrap, Efron 1979), and a statistic is
    a function of sums over rows: an error rate is made anew from the errors and words of the rows drawn.

    Args:
        models: For each model what its rows add to the sums, dense or sparse, shape (n, sums).
        statistic: From sums of shape (..., sums) to values of shape (...).
        seed: Seeds the drawing.

    Returns:
        A value for each model, and the difference. One row alone has no interval.
    """
    points = [float(statistic(np.asarray(rows.sum(axis=0)).ravel())) for rows in models]
    n = models[0].shape[0]
    if n == 1:
        return [Value(point) for point in points], Value(points[0] - points[-1])
    random = np.random.default_rng(seed)
    drawn: list[list[Array]] = [[] for _ in models]
    for start in range(0, _RESAMPLES, _AT_ONCE):
        counts = np.stack(
            [
                np.bincount(random.integers(0, n, n), minlength=n)
                for _ in range(start, min(start + _AT_ONCE, _RESAMPLES))
            ]
        ).astype(np.float64)
        for values, rows in zip(drawn, models, strict=True):
            values.append(statistic(np.asarray(counts @ rows)))
    samples = [np.concatenate(values) for values in drawn]
    of_each = [_between(point, each) for point, each in zip(points, samples, strict=True)]
    return of_each, _between(points[0] - points[-1], samples[0] - samples[-1])


def _between(point: float, samples: Array) -> Value:
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return Value(point, float(low), float(high))


def bootstrapped(samples: Array, statistic: Callable[..., Array], seed: int = 0) -> Value:
    """Return a statistic of the samples with its percentile bootstrap interval (Efron 1979).

    Args:
        samples: Shape (n,), n at least 1.
        statistic: A reduction that takes `axis`, such as `numpy.mean`.
        seed: Seeds the resampling.
    """
    value = float(statistic(samples, axis=-1))
    if samples.min() == samples.max():
        return Value(value, value, value)
    interval = stats.bootstrap(
        (samples,), statistic, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Value(value, float(interval.low), float(interval.high))
