"""Promises of the search for a cut: rare large values are cut off, and what fits the levels is not."""

from __future__ import annotations

import numpy as np

from hfcompress.quantization.divergence import least_divergence


def histogram(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Return a histogram of 2048 bins around zero."""
    largest = np.abs(values).max()
    return np.histogram(values, bins=2048, range=(-largest, largest))[0]


def test_rare_large_values_are_cut_off() -> None:
    """One value far outside of a bell does not spread the levels over nothing."""
    bell = np.random.default_rng(0).standard_normal(100_000)
    kept = least_divergence(histogram(np.append(bell, 40.0)), 256) / 1024 * 40
    assert 3 < kept < 10


def test_values_that_fill_the_range_are_kept() -> None:
    """Of values that lie evenly in their range hardly any is cut off."""
    even = np.linspace(-1, 1, 100_000)
    assert least_divergence(histogram(even), 256) > 1000


def test_as_many_levels_as_bins() -> None:
    """Where every bin has its own level there is nothing to search."""
    assert least_divergence(np.ones(256), 256) == 128
