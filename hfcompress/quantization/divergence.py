"""Where to cut a distribution of activations so that few levels tell the least lies about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import entropy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["least_divergence"]

_STEPS = 128
"""Cuts that are tried, at most."""
_SMOOTHING = 1e-4
"""Share of a value that a bin gets where nothing fell into it."""


def least_divergence(counts: NDArray[Any], levels: int) -> int:
    """Return how many bins to keep on each side of zero.

    The Kullback-Leibler divergence of the values, those outside of the cut moved to its ends, from what is left of
    them on `levels` levels is the smallest of all cuts that are tried (Migacz, "8-bit inference with TensorRT", GTC
    2017). ONNX Runtime's own search leaves out the bins that do not divide into the levels, and is no vector
    arithmetic.

    Args:
        counts: A histogram whose middle edge is zero, shape (bins,), an even number of at least `levels`.
        levels: Levels between the lowest and the highest value that is kept; an even number.
    """
    middle, fewest = len(counts) // 2, levels // 2
    candidates = np.unique(np.linspace(fewest, middle, _STEPS).astype(int))
    costs = [_divergence(counts, middle - kept, middle + kept, levels) for kept in candidates]
    return int(candidates[int(np.argmin(costs))])


def _divergence(counts: NDArray[Any], start: int, end: int, levels: int) -> float:
    """Return the divergence where the bins from `start` to before `end` are kept."""
    inside = counts[start:end].astype(np.float64)
    values = inside.copy()
    values[0] += counts[:start].sum()
    values[-1] += counts[end:].sum()
    begins = np.arange(levels) * len(inside) // levels
    taken = (values > 0).astype(np.float64)
    widths = np.diff(begins, append=len(inside))
    totals, shares = np.add.reduceat(inside, begins), np.add.reduceat(taken, begins)
    means = np.divide(totals, shares, out=np.zeros(levels), where=shares > 0)
    quantized = np.repeat(means, widths) * taken
    return float(entropy(values + _SMOOTHING, quantized + _SMOOTHING))
