"""The task `automatic-speech-recognition`: what a model writes for spoken words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hfcompress.evaluation.text_generation import FIDELITY, GenerationOptions, GenerationTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from hfcompress.contracts import Model, Rows
    from hfcompress.evaluation.generation import Generated
    from hfcompress.evaluation.scores import Score

__all__ = ["SpeechOptions", "SpeechRecognition"]


class SpeechOptions(GenerationOptions):
    """What a recipe can say of `task: automatic-speech-recognition`."""

    max_new_tokens: int = Field(128, ge=1, description="Most tokens that the model writes for a row; greedily.")
    batch_size: int = Field(8, ge=1, description="Rows that go through the model at once.")
    language: str | None = Field(
        None, description="Language that a multilingual Whisper is told it hears; it finds out by itself by default."
    )
    normalizer: Literal["english", "basic", "none"] = Field(
        "english", description="What makes transcripts comparable: Whisper's for English, its basic one, or nothing."
    )


class SpeechRecognition(GenerationTask):
    """Word and character error rate of transcripts, and fidelity to the source's transcripts."""

    Options: ClassVar[type[GenerationOptions]] = SpeechOptions
    options: SpeechOptions
    name: ClassVar[str] = "automatic-speech-recognition"
    columns: ClassVar[frozenset[str]] = frozenset({"audio", "text"})
    measures: ClassVar[tuple[str, ...]] = ("word_error_rate", "character_error_rate", *FIDELITY)

    @property
    def generate_options(self) -> dict[str, Any]:
        """The language, for models that can be told one."""
        language = self.options.language
        told = {} if language is None else {"language": language, "task": "transcribe"}
        return {**super().generate_options, **told}

    def groups(self, model: Model, batch: Mapping[str, list[Any]]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield what the feature extractor makes of the sounds.

        Raises:
            DataError: A sound is longer than the model hears at once.
        """
        import torch

        from hfcompress.evaluation.generation import rows_at_once
        from hfcompress.evaluation.transcripts import whole_sounds
        from hfcompress.inputs import audio_inputs

        sounds = whole_sounds(model.processor, batch["audio"])
        for places in rows_at_once(model, len(sounds)):
            arrays = audio_inputs(model.processor, [sounds[place] for place in places])
            yield places, {name: torch.from_numpy(array) for name, array in arrays.items()}

    def scores(self, predictions: Generated, rows: Rows) -> list[Score]:
        """Return the error rates over all words and characters of the rows.

        Raises:
            DataError: A row has no transcript, or none has a word.
        """
        from hfcompress.evaluation.transcripts import error_rates

        return error_rates(predictions.texts, rows, self.options.normalizer)
