"""Promises of `evaluation.transcripts`: error rates are jiwer's, and no sound is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import datasets
import jiwer
import pytest
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from hfcompress.contracts import Rows
from hfcompress.errors import DataError
from hfcompress.evaluation.transcripts import error_rates, normaliser, whole_sounds
from hfcompress.inputs import load_processor
from tests.checkpoints import RATE, save_checkpoint, sounds
from tests.test_text_scores import value

if TYPE_CHECKING:
    from pathlib import Path

SPOKEN = ["Mr. Smith didn't pay twenty dollars.", "The colour is red!", "umm, yes", "no"]
HEARD = ["mister smith did not pay $20", "the color is read", "yes", "no no no"]


def rows(texts: list[str]) -> Rows:
    """Return transcripts."""
    return Rows(datasets.Dataset.from_dict({"text": texts}), "speech", "0", "all")


@pytest.mark.parametrize(
    ("kind", "normalise"), [("english", EnglishTextNormalizer({})), ("basic", BasicTextNormalizer()), ("none", str)]
)
def test_error_rates_are_jiwers(kind: str, normalise: object) -> None:
    """Word and character error rate are what jiwer says of the whole corpus, normalised."""
    references, texts = ([" ".join(normalise(text).split()) for text in own] for own in (SPOKEN, HEARD))  # type: ignore[operator]
    words, letters = error_rates(HEARD, rows(SPOKEN), kind)  # type: ignore[arg-type]
    assert value(words) == pytest.approx(jiwer.wer(references, texts))
    assert value(letters) == pytest.approx(jiwer.cer(references, texts))
    assert (words.higher_is_better, letters.higher_is_better) == (False, False)


def test_what_is_written_into_silence_is_an_error() -> None:
    """Words for a row without any count as errors, and its row stays in the corpus."""
    words, _ = error_rates(["uh and then", "yes"], rows(["Hmm", "yes"]), "english")
    assert words.sums.tolist() == [[2, 0], [0, 1]]


def test_transcripts_without_words() -> None:
    """An error rate of nothing is none."""
    with pytest.raises(DataError, match=r"^the transcripts of speech hold no words, so there is no error rate$"):
        error_rates(["a", "b"], rows(["", "Hmm"]), "english")
    with pytest.raises(DataError, match=r"^row 1 of speech has the text None, expected a transcript$"):
        error_rates(["a", "b"], rows(["a", None]), "english")  # type: ignore[list-item]


def test_normaliser_of_nothing_keeps_words() -> None:
    """`none` changes white space alone."""
    assert normaliser("none")("  It's  £5. ") == "It's £5."


def test_long_sounds_are_refused(tmp_path: Path) -> None:
    """A sound that the feature extractor would cut is an error that says both lengths; shorter ones come decoded."""
    processor = load_processor(save_checkpoint("whisper", tmp_path / "whisper").path)
    (decoded,) = whole_sounds(processor, sounds(1))
    assert (len(decoded["array"]), decoded["sampling_rate"]) == (RATE // 2, RATE)
    with pytest.raises(DataError, match=r"^row 0 of this batch lasts 1.5 s, and the model hears 1 s at once; cut long"):
        whole_sounds(processor, sounds(2, seconds=1.5))
