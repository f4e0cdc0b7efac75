"""Promises of the record of what rounding did to weights."""

import numpy as np

from hfcompress.rounding import Rounding, rounded


def test_figures_are_exact() -> None:
    """All weights count, those that changed count again, and the largest difference has the name of its tensor."""
    before = np.array([0.5, 2048.75, 1.0], np.float32)
    tensors = [("same", before[:1], before[:1]), ("empty", before[:0], before[:0]), ("w", before, np.rint(before) - 1)]
    assert rounded(tensors) == Rounding(4, 3, 1.5, "w")


def test_nothing_rounded() -> None:
    """Where nothing changed, no tensor is named."""
    assert rounded([("w", np.ones(2), np.ones(2))]) == Rounding(2, 0, 0.0, "none")
