"""Sounds that a speech model hears as a whole, and error rates of transcripts by jiwer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import jiwer
import numpy as np
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from hfcompress.audio import waveform
from hfcompress.errors import DataError
from hfcompress.evaluation.scores import Score, quotient_of
from hfcompress.evaluation.text_scores import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hfcompress.contracts import Rows

__all__ = ["error_rates", "normaliser", "whole_sounds"]


def whole_sounds(processor: Any, sounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return decoded sounds at the rate that a model hears, none of which its feature extractor would cut.

    Raises:
        DataError: A row holds no sound, or one that is longer than the model hears at once.
    """
    extractor = processor.feature_extractor
    rate, most = extractor.sampling_rate, getattr(extractor, "n_samples", None)
    decoded = [waveform(sound, rate) for sound in sounds]
    for row, samples in enumerate(decoded):
        if most is not None and len(samples) > most:
            msg = (
                f"row {row} of this batch lasts {len(samples) / rate:.1f} s, and the model hears {most / rate:g} s at "
                f"once; cut long recordings in the dataset"
            )
            raise DataError(msg)
    return [{"array": samples, "sampling_rate": rate} for samples in decoded]


def normaliser(kind: Literal["english", "basic", "none"]) -> Callable[[str], str]:
    """Return what makes two transcripts comparable: one of Whisper's two (Radford et al. 2022, appendix C), or nothing.

    The English one is without its table of British and American spellings, which comes with a model and not with
    transformers; references and transcripts are treated alike.
    """
    if kind == "none":
        return tidy
    normalise = EnglishTextNormalizer({}) if kind == "english" else BasicTextNormalizer()
    return lambda text: tidy(normalise(text))


def error_rates(texts: Sequence[str], rows: Rows, kind: Literal["english", "basic", "none"]) -> list[Score]:
    """Return word and character error rate: all errors over all words or characters of the references.

    Raises:
        DataError: A row has no transcript, or nothing is left of any.
    """
    normalise = normaliser(kind)
    references = []
    for row, reference in enumerate(rows.dataset["text"]):
        if not isinstance(reference, str):
            msg = f"row {row} of {rows.name} has the text {reference!r}, expected a transcript"
            raise DataError(msg)
        references.append(normalise(reference))
    if not any(references):
        msg = f"the transcripts of {rows.name} hold no words, so there is no error rate"
        raise DataError(msg)
    pairs = list(zip(references, map(normalise, texts), strict=True))
    words = np.asarray([_counts(one, other, jiwer.process_words, one.split(), other.split()) for one, other in pairs])
    letters = np.asarray([_counts(one, other, jiwer.process_characters, one, other) for one, other in pairs])
    return [
        quotient_of(name, label, "ratio", counts[:, 0], counts[:, 1], higher_is_better=False)
        for name, label, counts in (
            ("word_error_rate", "word error rate", words),
            ("character_error_rate", "character error rate", letters),
        )
    ]


def _counts(
    reference: str,
    text: str,
    process: Callable[[str, str], jiwer.WordOutput | jiwer.CharacterOutput],
    reference_units: Sequence[str],
    units: Sequence[str],
) -> tuple[int, int]:
    """Return the errors of a transcript and the number of words or characters of its reference."""
    if not reference:  # jiwer takes none; all that is written is inserted
        return len(units), 0
    found = process(reference, text)
    return found.substitutions + found.deletions + found.insertions, len(reference_units)
