"""Ranks among scores, with equal scores counted in expectation, and nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

__all__ = ["Places", "neighbours", "places"]

_TIE = 1e-6
"""Similarities of unit vectors in float32 that differ by less are equal: that is what rounding changes."""
_AT_ONCE = 1024
"""Queries whose similarities are held in memory together."""


@dataclass(frozen=True)
class Places:
    """Where the right answers of each query stand; all of shape (queries,).

    Attributes:
        better: Wrong answers that score above the best right one.
        tied_right: Right answers that score as the best one does, itself among them.
        tied_wrong: Wrong answers that score the same.
        first: The answer with the highest score.
    """

    better: Array
    tied_right: Array
    tied_wrong: Array
    first: Array

    def hits(self, k: int) -> Array:
        """Return the probability that a right answer is among the first `k` if equal scores come in random order.

        That is one where all of the tie fits, and else 1 - C(wrong, m) / C(wrong + right, m) for the m places that the
        better ones leave to it.
        """
        left = np.clip(k - self.better, 0, None).astype(np.float64)
        right, wrong = self.tied_right.astype(np.float64), self.tied_wrong.astype(np.float64)
        drawn = np.minimum(left, wrong)
        without = gammaln(wrong + 1) - gammaln(wrong - drawn + 1)
        with_all = gammaln(wrong + right + 1) - gammaln(wrong + right - drawn + 1)
        none_right = np.exp(without - with_all)
        hits: Array = np.where(left > wrong, 1.0, np.where(left == 0, 0.0, 1.0 - none_right))
        return hits


def places(queries: Array, answers: Array, right: Sequence[Array]) -> Places:
    """Rank all answers for each query by cosine, some queries at a time.

    Args:
        queries: Unit vectors, float32 of shape (queries, width).
        answers: Unit vectors, float32 of shape (answers, width).
        right: For each query the indices of its right answers, at least one.
    """
    found: list[tuple[Array, ...]] = []
    for start in range(0, len(queries), _AT_ONCE):
        scores = queries[start : start + _AT_ONCE] @ answers.T
        is_right = np.zeros(scores.shape, dtype=bool)
        for row, indices in enumerate(right[start : start + _AT_ONCE]):
            is_right[row, indices] = True
        best = np.where(is_right, scores, -np.inf).max(axis=1, keepdims=True)
        above, tied = scores > best + _TIE, np.abs(scores - best) <= _TIE
        found.append(
            (
                (above & ~is_right).sum(axis=1),
                (tied & is_right).sum(axis=1),
                (tied & ~is_right).sum(axis=1),
                scores.argmax(axis=1),
            )
        )
    return Places(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def neighbours(queries: Array, index: Array, k: int, *, without_self: bool) -> Array:
    """Return the `k` nearest vectors of an index for each query, in no particular order.

    Args:
        queries: Unit vectors, float32 of shape (queries, width).
        index: Unit vectors, float32 of shape (vectors, width), more than `k` of them.
        k: How many.
        without_self: Whether query i is vector i of the index, and is not its own neighbour.

    Returns:
        Integers of shape (queries, k).
    """
    found = []
    for start in range(0, len(queries), _AT_ONCE):
        scores = queries[start : start + _AT_ONCE] @ index.T
        if without_self:
            rows = np.arange(len(scores))
            scores[rows, start + rows] = -np.inf
        found.append(np.argpartition(scores, -k, axis=1)[:, -k:])
    return np.concatenate(found)
