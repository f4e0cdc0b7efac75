"""Promises of `hfcompress.intervals`."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_array

from hfcompress.contracts import Value
from hfcompress.intervals import bootstrapped, joined, paired_proportions, proportion, resampled


def quotient(sums: np.ndarray) -> np.ndarray:
    """Return the first sum over the second."""
    return sums[..., 0] / sums[..., 1]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (534, 540), (540, 540)])
def test_proportion_has_wilsons_interval(successes: int, trials: int) -> None:
    """The interval is the one that scipy gives under Wilson's name."""
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    found = proportion(successes, trials)
    assert (found.value, found.low, found.high) == pytest.approx((successes / trials, expected.low, expected.high))


def test_proportion_of_expected_outcomes() -> None:
    """Half a success lies between none and one, and so do its bounds."""
    none, half, one = (proportion(successes, 10) for successes in (0, 0.5, 1))
    assert none.value < half.value < one.value
    assert none.high < half.high < one.high  # type: ignore[operator]


def test_paired_interval_covers_the_true_difference() -> None:
    """Of all samples of 30 rows, weighed by their probability, some 95 % have an interval that holds the truth."""
    n, both, only_after, only_before = 30, 0.80, 0.03, 0.12
    truth, covered = only_after - only_before, 0.0
    for won, lost in product(range(n + 1), repeat=2):
        for kept in range(n + 1 - won - lost):
            probability = stats.multinomial.pmf(
                [kept, won, lost, n - kept - won - lost],
                n,
                [both, only_after, only_before, 1 - both - only_after - only_before],
            )
            if probability > 1e-7:
                after = np.repeat([1.0, 1.0, 0.0, 0.0], [kept, won, lost, n - kept - won - lost])
                before = np.repeat([1.0, 0.0, 1.0, 0.0], [kept, won, lost, n - kept - won - lost])
                found = paired_proportions(after, before)
                covered += probability * (found.low <= truth <= found.high)
    assert 0.94 <= covered <= 0.985


def test_paired_interval_is_narrower_than_that_of_two_samples() -> None:
    """Failing on the same rows narrows the interval; which model is which only turns it around."""
    before = np.repeat([1.0, 0.0], [80, 20])
    after = before.copy()
    after[:3] = 0
    found, turned = paired_proportions(after, before), paired_proportions(before, after)
    apart = paired_proportions(np.random.default_rng(0).permutation(after), before)
    assert found.value == pytest.approx(-0.03)
    assert found.high - found.low < 0.8 * (apart.high - apart.low)  # type: ignore[operator]
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))  # type: ignore[operator]


def test_difference_of_independent_samples() -> None:
    """Two intervals join to the one that Newcombe gives for 56 of 70 and 48 of 80: 0.2 (0.0524 to 0.3339)."""
    found = joined(proportion(56, 70), proportion(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_no_changed_row_is_no_proof_of_equality() -> None:
    """Twenty rows on which nothing changed leave room for a difference, and 2,000 leave less."""
    few, many = (paired_proportions(np.ones(n), np.ones(n)) for n in (20, 2000))
    assert few.value == many.value == 0
    assert few.low < -0.1 < many.low < 0 < many.high < 0.1 < few.high  # type: ignore[operator]


def test_resampling_is_a_paired_bootstrap() -> None:
    """Values, difference and intervals are those of scipy's paired bootstrap of the same quotients."""
    random = np.random.default_rng(0)
    words = random.integers(1, 20, 300)
    before, after = random.binomial(words, 0.1), random.binomial(words, 0.12)
    models = [np.stack([errors, words], axis=1) for errors in (after, before)]
    values, difference = resampled(models, quotient)
    expected = stats.bootstrap(
        (after, before, words),
        lambda a, b, w, axis: (a.sum(axis) - b.sum(axis)) / w.sum(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=1,
    ).confidence_interval

    assert [value.value for value in values] == pytest.approx([after.sum() / words.sum(), before.sum() / words.sum()])
    assert difference.value == pytest.approx((after.sum() - before.sum()) / words.sum())
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=0.002)
    unpaired = values[0].high - values[1].low, values[0].low - values[1].high  # type: ignore[operator]
    assert unpaired[1] < difference.low < difference.high < unpaired[0]  # type: ignore[operator]
    assert resampled(models, quotient) == (values, difference)


def test_sparse_sums_are_sums() -> None:
    """Sums that are mostly zero can be kept sparse."""
    sums = np.random.default_rng(0).integers(0, 2, (40, 2)) + np.asarray([0, 1])
    assert resampled([csr_array(sums)], quotient) == resampled([sums], quotient)


def test_one_row_has_no_interval() -> None:
    """Nothing can be said of the spread of one row."""
    assert resampled([np.asarray([[1, 2]])], quotient) == ([Value(0.5)], Value(0.0))


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
