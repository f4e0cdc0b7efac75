"""Promises of `hfcompress.intervals`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from hfcompress.contracts import Value
from hfcompress.intervals import bootstrapped, proportion


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (534, 540), (540, 540)])
def test_proportion_has_wilsons_interval(successes: int, trials: int) -> None:
    """The interval is that of Wilson's formula (1927), written out."""
    z, p = norm.ppf(0.975), successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    found = proportion(successes, trials)

    assert (found.value, found.low, found.high) == pytest.approx((p, centre - half, centre + half), abs=1e-9)


def test_bootstrap_covers_the_mean() -> None:
    """The interval of a mean is near that of the normal approximation, and the same for the same samples."""
    samples = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = bootstrapped(samples, np.mean)
    half = 1.96 * samples.std(ddof=1) / 20

    assert found.value == pytest.approx(samples.mean())
    assert (found.low, found.high) == pytest.approx((samples.mean() - half, samples.mean() + half), abs=0.06)
    assert found == bootstrapped(samples, np.mean)


def test_equal_samples_have_no_spread() -> None:
    """A statistic of equal samples is known exactly."""
    assert bootstrapped(np.ones(5), np.mean) == Value(1.0, 1.0, 1.0)
