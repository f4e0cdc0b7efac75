"""Fidelity: how near the result is to the source on the same rows, with no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hfcompress.evaluation.ranking import neighbours
from hfcompress.evaluation.scores import Score, mean_of, proportion_of, quotient_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

__all__ = ["agreement", "cosine", "divergence", "identical", "neighbour_overlap"]

_NEIGHBOURS = 10


def cosine(modality: str, source: Array, compressed: Array) -> Score:
    """Return the mean cosine between the embeddings of both models: unit vectors of shape (rows, width)."""
    cosines = (source.astype(np.float64) * compressed).sum(axis=1)
    return mean_of(
        f"embedding_cosine_{modality}",
        f"{modality} cosine",
        "cosine",
        np.clip(cosines, -1, 1),  # unit to float32's rounding alone
    )


def agreement(source: Array, compressed: Array) -> Score:
    """Return how often both models put the same answer first; both of shape (rows,)."""
    return proportion_of("top1_agreement", "top-1 agreement", source == compressed)


def neighbour_overlap(modality: str, source: Array, compressed: Array, index: Array | None = None) -> list[Score]:
    """Return which share of a query's ten nearest vectors of the source's index the result's query finds too.

    It answers whether an index that the source made can stay: its vectors are the source's for both. An index of ten
    or fewer other vectors has fewer neighbours to find.

    Args:
        modality: What the queries are ("image").
        source: The source's unit embeddings of the queries, shape (queries, width).
        compressed: The result's.
        index: The source's unit embeddings that are searched; by default the queries themselves, each without itself.

    Returns:
        The one score, or none where a query has no neighbours because the index holds nothing else.
    """
    searched = source if index is None else index
    k = min(_NEIGHBOURS, len(searched) - 1)
    if k < 1:
        return []
    mine, other = (neighbours(queries, searched, k, without_self=index is None) for queries in (compressed, source))
    shared = [len(np.intersect1d(one, two, assume_unique=True)) for one, two in zip(mine, other, strict=True)]
    label = f"{modality} neighbours of {k}"
    return [mean_of(f"neighbour_overlap_at_10_{modality}", label, "ratio", np.asarray(shared) / k)]


def identical(source: Sequence[str], compressed: Sequence[str]) -> Score:
    """Return the share of rows for which both models write the same text."""
    same = np.asarray([one == other for one, other in zip(source, compressed, strict=True)])
    return proportion_of("identical_generations", "identical texts", same)


def divergence(nats: Array, hits: Array, tokens: Array) -> list[Score]:
    """Return how the result's next tokens differ from the source's while it is made to write the source's own text.

    Args:
        nats: Sum over a row's tokens of the Kullback-Leibler divergence from the source's distribution to the
            result's, shape (rows,).
        hits: Number of a row's tokens that the result finds most probable too, shape (rows,).
        tokens: Number of a row's tokens, shape (rows,).
    """
    label = "KL divergence per token"
    return [
        quotient_of("output_kl_divergence", label, "nats", nats, tokens, higher_is_better=False),
        quotient_of("top1_agreement", "next-token agreement", "ratio", hits, tokens),
    ]
