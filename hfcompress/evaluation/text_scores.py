"""Scores of texts against references, by sacrebleu, rouge-score and, for CIDEr-D, its formula."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from hfcompress.errors import DataError
from hfcompress.evaluation.scores import Score, mean_of, proportion_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfcompress.contracts import Rows

    Array = np.ndarray[Any, Any]

__all__ = ["bleu", "chrf", "cider", "exact_match", "references_of", "rouge_l", "tidy"]

_LONGEST_NGRAM = 4
_LENGTH_SPREAD = 6.0
"""Standard deviation, in words, of the Gaussian penalty on a difference in length."""
_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def references_of(rows: Rows, column: str) -> list[list[str]]:
    """Return the texts of a column, which may hold one or a list of them, as a list for each row.

    Raises:
        DataError: A row has none.
    """
    found = []
    for row, value in enumerate(rows.dataset[column]):
        own = [value] if isinstance(value, str) else value
        if not isinstance(own, list) or not own or not all(isinstance(text, str) for text in own):
            msg = f"row {row} of {rows.name} has the {column} {value!r}, expected a text or a list of texts"
            raise DataError(msg)
        found.append(own)
    return found


def tidy(text: str) -> str:
    """Return a text without white space around it and with single blanks inside."""
    return " ".join(text.split())


def exact_match(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """Return the share of texts that equal a reference, up to white space."""
    hits = [tidy(text) in map(tidy, own) for text, own in zip(texts, references, strict=True)]
    return proportion_of("exact_match", "exact match", np.asarray(hits, dtype=np.float64))


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """Return corpus BLEU, 0 to 100 (Papineni et al. 2002), with sacrebleu's tokens and smoothing (Post 2018)."""
    return _corpus_score("bleu", "BLEU", BLEU(), texts, references)


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """Return corpus chrF, 0 to 100 (Popovic 2015), as sacrebleu computes it."""
    return _corpus_score("chrf", "chrF", CHRF(), texts, references)


def _corpus_score(
    name: str, label: str, metric: BLEU | CHRF, texts: Sequence[str], references: Sequence[Sequence[str]]
) -> Score:
    """Return a score of sacrebleu as a function of each row's n-gram counts, which it sums over the corpus itself."""
    most = max(len(own) for own in references)
    streams = [[own[index] if index < len(own) else None for own in references] for index in range(most)]
    counts = np.asarray(metric._extract_corpus_statistics(list(texts), streams), dtype=np.float64)  # type: ignore[arg-type] # noqa: SLF001

    def statistic(sums: Array) -> Array:
        totals = sums.reshape(-1, sums.shape[-1])
        scores = [metric._compute_score_from_stats([int(count) for count in row]).score for row in totals]  # noqa: SLF001
        return np.asarray(scores).reshape(sums.shape[:-1])

    return Score(name, label, "score", counts, statistic)


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """Return the mean F-score of the longest common subsequence, of the best reference (Lin 2004), without stemming."""
    scorer = RougeScorer(["rougeL"])
    scores = [
        scorer.score_multi(list(own), text)["rougeL"].fmeasure for text, own in zip(texts, references, strict=True)
    ]
    return mean_of("rouge_l", "ROUGE-L", "ratio", np.asarray(scores))


def cider(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """Return CIDEr-D, 0 to 10 (Vedantam et al. 2015, eq. 4 with its Gaussian and clipping).

    The mean over n = 1 to 4 of 10 times the cosine between the tf-idf vectors of n-grams, where the text's weights are
    clipped at the reference's, times a Gaussian of the difference in length; averaged over a row's references. Words
    are runs of letters and digits in lower case; the captions that publications report are tokenised by Stanford's
    PTBTokenizer, which needs Java, so their numbers differ by what that cuts otherwise. The document frequencies are
    those of the references of all rows, as published; they stay what they are when rows are resampled.
    """
    cooked = [[_ngrams(reference) for reference in own] for own in references]
    frequency = Counter(ngram for own in cooked for ngram in set().union(*own))
    log_rows = math.log(max(len(references), 1))

    def weights(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {ngram: count * (log_rows - math.log(max(frequency[ngram], 1))) for ngram, count in counts.items()}

    scores = []
    for text, own in zip(texts, cooked, strict=True):
        candidate = _ngrams(text)
        vector = weights(candidate)
        scores.append(np.mean([_similarity(candidate, vector, other, weights(other)) for other in own]))
    return mean_of("cider", "CIDEr-D", "score", np.asarray(scores))


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = _WORDS.findall(text.lower())
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _LONGEST_NGRAM + 1) for start in range(len(words) - n + 1)
    )


def _similarity(
    one: Counter[tuple[str, ...]],
    one_weights: dict[tuple[str, ...], float],
    other: Counter[tuple[str, ...]],
    other_weights: dict[tuple[str, ...], float],
) -> float:
    lengths = [sum(count for ngram, count in counts.items() if len(ngram) == 1) for counts in (one, other)]
    penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * _LENGTH_SPREAD**2))
    total = 0.0
    for n in range(1, _LONGEST_NGRAM + 1):
        product = sum(
            min(weight, other_weights[ngram]) * other_weights[ngram]
            for ngram, weight in one_weights.items()
            if len(ngram) == n and ngram in other_weights
        )
        norms = math.prod(
            math.sqrt(sum(weight**2 for ngram, weight in weights.items() if len(ngram) == n))
            for weights in (one_weights, other_weights)
        )
        total += product / norms if norms > 0 else 0.0
    return 10 * penalty * total / _LONGEST_NGRAM
