"""95 % intervals, by scipy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from hfcompress.contracts import Value

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bootstrapped", "proportion"]

_RESAMPLES = 1000


def proportion(successes: int, trials: int) -> Value:
    """Return a proportion with its Wilson score interval (Wilson 1927)."""
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return Value(successes / trials, float(interval.low), float(interval.high))


def bootstrapped(samples: np.ndarray[Any, Any], statistic: Callable[..., np.ndarray[Any, Any]], seed: int = 0) -> Value:
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
