"""Promises of `evaluation.ranking`: equal scores count in expectation, and neighbours are the nearest."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from hfcompress.evaluation.ranking import Places, neighbours, places


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random unit vectors."""
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def in_random_order(better: int, right: int, wrong: int, k: int) -> float:
    """Return how often a right answer is among the first k, over every order of the tied ones."""
    orders = set(permutations("r" * right + "w" * wrong))
    return float(np.mean(["r" in order[: max(k - better, 0)] for order in orders]))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("better", "right", "wrong"), [(0, 1, 0), (0, 1, 3), (0, 2, 3), (1, 2, 2), (4, 1, 1), (2, 3, 0)]
)
def test_ties_count_as_in_random_order(better: int, right: int, wrong: int, k: int) -> None:
    """The hit at k is the mean over all orders that equal scores could come in."""
    found = Places(*(np.asarray([number]) for number in (better, right, wrong, 0))).hits(k)
    assert found == pytest.approx([in_random_order(better, right, wrong, k)], abs=1e-9)


def test_places_without_ties_are_ranks() -> None:
    """Where no scores are equal, the place of the best right answer is its rank, in blocks of queries as in one."""
    queries, answers = unit(1500, 6, seed=3), unit(40, 6, seed=1)
    right = [np.asarray([row % 40, (row * 7 + 3) % 40]) for row in range(1500)]
    found = places(queries, answers, right)
    order = np.argsort(-(queries @ answers.T), axis=1)
    ranks = np.asarray([np.isin(row, own).argmax() for row, own in zip(order, right, strict=True)])
    for k in (1, 5, 10):
        assert found.hits(k).tolist() == (ranks < k).astype(float).tolist()
    assert found.first.tolist() == order[:, 0].tolist()


def test_coarse_scores_are_not_flattered() -> None:
    """Embeddings that all fall together find by chance, whatever order a sort would leave them in."""
    same = np.tile(unit(1, 6), (50, 1))
    found = places(same, same, [np.asarray([row]) for row in range(50)])
    assert found.hits(1) == pytest.approx(np.full(50, 1 / 50))
    assert found.hits(10) == pytest.approx(np.full(50, 10 / 50))


def test_neighbours_are_the_nearest() -> None:
    """The neighbours of a vector are those of a full sort, itself left out where it is in the index."""
    vectors = unit(60, 5)
    for without_self in (True, False):
        scores = vectors @ vectors.T
        if without_self:
            np.fill_diagonal(scores, -1)
        expected = np.argsort(-scores, axis=1)[:, :10]
        found = neighbours(vectors, vectors, 10, without_self=without_self)
        assert [set(row) for row in found.tolist()] == [set(row) for row in expected.tolist()]
