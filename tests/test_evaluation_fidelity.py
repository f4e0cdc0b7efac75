"""Promises of `evaluation.fidelity`: nearness to the source that needs no labels."""

from __future__ import annotations

import numpy as np
import pytest

from hfcompress.evaluation.fidelity import agreement, cosine, divergence, identical, neighbour_overlap
from tests.test_ranking import unit


def value(score: object) -> float:
    """Return what a score comes to."""
    return float(score.statistic(score.sums.sum(axis=0)))  # type: ignore[attr-defined]


def test_cosine_is_the_mean_over_rows() -> None:
    """The cosine is that of each pair of rows, and never more than one."""
    one, other = unit(30, 4), unit(30, 4, seed=1)
    assert value(cosine("image", one, other)) == pytest.approx(np.diag(one @ other.T).mean(), abs=1e-6)
    assert cosine("image", one, one).sums[:, 0].max() <= 1


def test_neighbours_are_looked_up_in_the_sources_index() -> None:
    """The overlap is that of the ten nearest vectors of the source, found by its own embedding and by the result's."""
    source, compressed = unit(40, 5), unit(40, 5) + 0.3 * unit(40, 5, seed=2)
    compressed /= np.linalg.norm(compressed, axis=1, keepdims=True)
    shared = []
    for row in range(40):
        others = [other for other in range(40) if other != row]
        mine, theirs = (
            set(sorted(others, key=lambda other, q=query: -float(q @ source[other]))[:10])
            for query in (compressed[row], source[row])
        )
        shared.append(len(mine & theirs) / 10)
    (found,) = neighbour_overlap("image", source, compressed)
    assert value(found) == pytest.approx(np.mean(shared))
    assert 0.3 < value(found) < 1


def test_texts_look_up_images() -> None:
    """Queries of another kind than the index may find every vector of it."""
    texts, images = unit(8, 5), unit(20, 5, seed=1)
    (same,) = neighbour_overlap("text", texts, texts, images)
    (other,) = neighbour_overlap("text", texts, -texts, images)
    assert (same.name, value(same), value(other)) == ("neighbour_overlap_at_10_text", 1.0, 0.0)


def test_one_row_has_no_neighbours() -> None:
    """Where nothing can be a neighbour, nothing is measured."""
    assert neighbour_overlap("image", unit(1, 4), unit(1, 4)) == []


def test_agreement_and_identical_texts_are_shares_of_rows() -> None:
    """Both count rows on which the two models do the same."""
    assert value(agreement(np.asarray([1, 2, 3, 4]), np.asarray([1, 2, 0, 4]))) == 0.75
    assert value(identical(["a", "b"], ["a", "B"])) == 0.5


def test_divergence_is_per_token_of_all_rows() -> None:
    """A long text weighs more than a short one."""
    nats, hits = divergence(np.asarray([0.5, 3.5]), np.asarray([2, 5]), np.asarray([2, 6]))
    assert (nats.name, value(nats), nats.higher_is_better) == ("output_kl_divergence", 0.5, False)
    assert (hits.name, value(hits), hits.higher_is_better) == ("top1_agreement", 7 / 8, True)
