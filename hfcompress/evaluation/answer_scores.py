"""Scores of short answers: agreement with ten people, and nearness in characters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from rapidfuzz.distance import Levenshtein

from hfcompress.errors import DataError
from hfcompress.evaluation.scores import Score, mean_of, proportion_of
from hfcompress.evaluation.text_scores import tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfcompress.contracts import Rows

__all__ = ["ANSWERS", "anls", "answers_of", "exact_answer", "plain_answer", "vqa_accuracy"]

ANSWERS = 10
"""Answers to a question for which VQA accuracy is defined."""
_AGREEING = 3
_ANLS_THRESHOLD = 0.5

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_CONTRACTED = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't "
    "shouldn't wasn't weren't won't wouldn't could've might've must've should've would've i've they've we've you've "
    "he'd i'm it'd it'll let's o'clock she'd somebody's someone's something's that'd that's there'd there's they'd "
    "they'll they're y'all you'd you'll you're what's where's who'd who'll who's when's why's how's he's she's"
)
_APOSTROPHES = {word.replace("'", ""): word for word in _CONTRACTED.split()}
_MARKS = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`,?!]")
_FULL_STOP = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")


def answers_of(rows: Rows) -> list[list[str]]:
    """Return the answers of each row.

    Raises:
        DataError: A row has none.
    """
    found = []
    for row, value in enumerate(rows.dataset["answer"]):
        given = value if isinstance(value, list) else [value]
        own = [one["answer"] if isinstance(one, dict) else one for one in given]
        if not own or not all(isinstance(text, str) for text in own):
            msg = f"row {row} of {rows.name} has the answer {value!r}, expected a text or a list of texts"
            raise DataError(msg)
        found.append(own)
    return found


def plain_answer(text: str) -> str:
    """Return an answer as VQA accuracy compares it (Antol et al. 2015).

    Lower case, without articles, with digits for number words up to ten, apostrophes in contractions, no full stops
    outside of numbers, and other marks gone at the edge of a word, blank inside of one.
    """
    text = _THOUSANDS.sub("", tidy(text).lower())
    text = re.sub(rf"(?<=\s){_MARKS.pattern}|{_MARKS.pattern}(?=\s)|^{_MARKS.pattern}|{_MARKS.pattern}$", "", text)
    text = _FULL_STOP.sub("", _MARKS.sub(" ", text))
    words = (_DIGITS.get(word, word) for word in text.split() if word not in _ARTICLES)
    return " ".join(_APOSTROPHES.get(word, word) for word in words)


def vqa_accuracy(texts: Sequence[str], answers: Sequence[Sequence[str]]) -> Score:
    """Return the VQA accuracy (Antol et al. 2015): an answer counts in full if at least three of nine people gave it.

    Each of the ten people is left out in turn and the results are averaged.

    Args:
        texts: The model's answer to each question.
        answers: Ten answers to each question.
    """
    scores = []
    for text, own in zip(texts, answers, strict=True):
        same = np.asarray([plain_answer(text) == plain_answer(answer) for answer in own], dtype=np.float64)
        scores.append(np.minimum((same.sum() - same) / _AGREEING, 1.0).mean())
    return mean_of("vqa_accuracy", "VQA accuracy", "ratio", np.asarray(scores))


def exact_answer(texts: Sequence[str], answers: Sequence[Sequence[str]]) -> Score:
    """Return the share of answers that equal one of the row's, after the same tidying as for VQA accuracy."""
    hits = [plain_answer(text) in map(plain_answer, own) for text, own in zip(texts, answers, strict=True)]
    return proportion_of("exact_match", "exact match", np.asarray(hits, dtype=np.float64))


def anls(texts: Sequence[str], answers: Sequence[Sequence[str]]) -> Score:
    """Return the average normalised Levenshtein similarity (Biten et al. 2019), 0 to 1.

    Of a row's answers the nearest counts, in lower case; an answer that is wrong in half of its characters counts 0.
    """
    scores = []
    for text, own in zip(texts, answers, strict=True):
        distances = [Levenshtein.normalized_distance(tidy(text).lower(), tidy(one).lower()) for one in own]
        nearest = min(distances)
        scores.append(1 - nearest if nearest < _ANLS_THRESHOLD else 0.0)
    return mean_of("anls", "ANLS", "ratio", np.asarray(scores))
