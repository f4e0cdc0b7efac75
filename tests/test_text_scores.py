"""Promises of `evaluation.text_scores`: the numbers that the libraries give for the whole corpus."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import datasets
import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from hfcompress.contracts import Rows
from hfcompress.errors import DataError
from hfcompress.evaluation.text_scores import bleu, chrf, cider, exact_match, references_of, rouge_l

if TYPE_CHECKING:
    from hfcompress.evaluation.scores import Score

TEXTS = [
    "a man rides a brown horse on the beach",
    "two dogs play with a red ball in the grass",
    "a plate of food",
    "A woman is reading a book.",
]
REFERENCES = [
    ["a man is riding a horse along the beach", "a person rides a brown horse on the sand"],
    ["two dogs are playing with a ball in the grass"],
    ["a white plate topped with food and a fork", "a plate of food on a table", "a plate  of food "],
    ["a woman is reading a book.", "a woman reads on a bench"],
]


def value(score: Score) -> float:
    """Return what a score comes to over all rows."""
    return float(score.statistic(score.sums.sum(axis=0)))


def padded() -> list[list[str | None]]:
    """Return the references as sacrebleu takes them: one list for each place."""
    return [[own[place] if place < len(own) else None for own in REFERENCES] for place in range(3)]


def test_bleu_and_chrf_are_sacrebleus() -> None:
    """The corpus scores are those of the library's own functions, although resampling needs them row by row."""
    assert value(bleu(TEXTS, REFERENCES)) == pytest.approx(sacrebleu.corpus_bleu(TEXTS, padded()).score)
    assert value(chrf(TEXTS, REFERENCES)) == pytest.approx(sacrebleu.corpus_chrf(TEXTS, padded()).score)
    assert value(bleu(TEXTS[::3], REFERENCES[::3])) != value(bleu(TEXTS, REFERENCES))


def test_corpus_of_other_rows_is_made_of_their_counts() -> None:
    """A statistic of several sums at once gives what the library says of each such corpus."""
    score = bleu(TEXTS, REFERENCES)
    drawn = np.asarray([[2, 1, 0, 1], [0, 1, 3, 0]])
    expected = []
    for counts in drawn:
        chosen = np.repeat(np.arange(4), counts)
        streams = [[stream[row] for row in chosen] for stream in padded()]
        expected.append(sacrebleu.corpus_bleu([TEXTS[row] for row in chosen], streams).score)
    assert score.statistic(drawn @ score.sums) == pytest.approx(expected)


def test_rouge_is_the_best_references() -> None:
    """ROUGE-L is the mean over rows of the library's F-score for the nearest reference."""
    scorer = RougeScorer(["rougeL"])
    expected = [
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in own)
        for text, own in zip(TEXTS, REFERENCES, strict=True)
    ]
    assert value(rouge_l(TEXTS, REFERENCES)) == pytest.approx(np.mean(expected))


def test_exact_match_overlooks_white_space_alone() -> None:
    """One text equals a reference; another differs in a capital letter."""
    assert value(exact_match(TEXTS, REFERENCES)) == 1 / 4


def test_cider_is_that_of_its_formula_on_vectors() -> None:
    """CIDEr-D equals its formula computed with dense tf-idf vectors over the whole vocabulary."""
    words = [[text.lower().replace(".", "").split() for text in texts] for texts in (TEXTS, *REFERENCES)]
    candidates, references = words[0], words[1:]
    expected = np.zeros(4)
    for n in (1, 2, 3, 4):
        grams = lambda tokens, n=n: [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]  # noqa: E731
        vocabulary = sorted({g for texts in words for tokens in texts for g in grams(tokens)})
        index = {gram: place for place, gram in enumerate(vocabulary)}
        frequency = np.asarray([sum(any(g in grams(t) for t in own) for own in references) for g in vocabulary])
        idf = math.log(4) - np.log(np.maximum(frequency, 1))

        def vector(tokens: list[str], index: dict = index, idf: np.ndarray = idf, grams: object = grams) -> np.ndarray:
            counts = np.zeros(len(index))
            for gram in grams(tokens):  # type: ignore[operator]
                counts[index[gram]] += 1
            return counts * idf

        for row, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
            mine = vector(candidate)
            for other in own:
                theirs = vector(other)
                norms = np.linalg.norm(mine) * np.linalg.norm(theirs)
                alike = np.minimum(mine, theirs) @ theirs / norms if norms else 0
                gauss = math.exp(-((len(candidate) - len(other)) ** 2) / 72)
                expected[row] += 10 * alike * gauss / 4 / len(own)
    assert cider(TEXTS, REFERENCES).sums[:, 0] == pytest.approx(expected)
    assert value(cider([own[0] for own in REFERENCES], [own[:1] for own in REFERENCES])) == pytest.approx(10)


def test_references_are_texts_or_lists() -> None:
    """One reference is a list of one; none is an error."""
    rows = Rows(datasets.Dataset.from_dict({"text": ["a", "b"], "list": [["a", "b"], []]}), "rows", "0", "all")
    assert references_of(rows, "text") == [["a"], ["b"]]
    with pytest.raises(DataError, match=r"^row 1 of rows has the list \[\], expected a text or a list of texts$"):
        references_of(rows, "list")
