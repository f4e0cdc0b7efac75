"""Promises of `evaluation.answer_scores`: the rules of the VQA and DocVQA challenges."""

from __future__ import annotations

import datasets
import pytest

from hfcompress.contracts import Rows
from hfcompress.errors import DataError
from hfcompress.evaluation.answer_scores import anls, answers_of, exact_answer, plain_answer, vqa_accuracy


def ten(*given: tuple[str, int]) -> list[str]:
    """Return ten answers, each as often as given."""
    answers = [answer for answer, times in given for _ in range(times)]
    return answers + ["other"] * (10 - len(answers))


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_leaves_each_person_out(agreeing: int, expected: float) -> None:
    """The values are those of the published rule: min(matches among nine / 3, 1), averaged over the ten left out."""
    assert vqa_accuracy(["red"], [ten(("red", agreeing))]).sums[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("The Red  Bus.", "red bus"),
        ("two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("black/white", "black white"),
        ("yes!", "yes"),
        ("t-shirt", "t shirt"),
        ("a\tcat\n", "cat"),
    ],
)
def test_plain_answers(given: str, plain: str) -> None:
    """Answers that people would call the same become the same."""
    assert plain_answer(given) == plain


def test_exact_answer_counts_any_of_a_rows() -> None:
    """An answer is right if one of the row's is it, up to tidying."""
    assert exact_answer(["The cat.", "dog"], [["dog", "cat"], ["cat"]]).sums[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "own", "expected"),
    [
        ("Invoice 42", ["invoice 42"], 1.0),
        ("invoice 43", ["invoice 42"], 0.9),
        ("12 May", ["13 May", "1 June"], 5 / 6),
        ("abcd", ["abxy"], 0.0),
        ("abcde", ["abcxy"], 0.6),
        ("", ["yes"], 0.0),
    ],
)
def test_anls(text: str, own: list[str], expected: float) -> None:
    """The nearest answer counts by its share of right characters, and nothing if half of them are wrong."""
    assert anls([text], [own]).sums[0, 0] == pytest.approx(expected)


def test_answers_may_be_mappings() -> None:
    """Answers are read as VQA datasets store them: a text, a list, or mappings with the key `answer`."""
    columns = {"answer": [[{"answer": "yes", "confidence": "maybe"}], [{"answer": "no", "confidence": "yes"}]]}
    assert answers_of(Rows(datasets.Dataset.from_dict(columns), "rows", "0", "all")) == [["yes"], ["no"]]
    assert answers_of(Rows(datasets.Dataset.from_dict({"answer": ["a", "b"]}), "r", "0", "all")) == [["a"], ["b"]]
    empty = Rows(datasets.Dataset.from_dict({"answer": [["a"], []]}), "rows", "0", "all")
    with pytest.raises(DataError, match=r"^row 1 of rows has the answer \[\], expected a text or a list of texts$"):
        answers_of(empty)
