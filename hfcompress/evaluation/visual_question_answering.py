"""The task `visual-question-answering`: short answers to questions about images and documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from hfcompress.evaluation.text_generation import FIDELITY, GenerationOptions, GenerationTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from hfcompress.contracts import Model, Progress, Rows
    from hfcompress.evaluation.generation import Generated
    from hfcompress.evaluation.scores import Score

__all__ = ["VisualQuestionAnswering", "VisualQuestionOptions"]


class VisualQuestionOptions(GenerationOptions):
    """What a recipe can say of `task: visual-question-answering`."""

    prompt: str = Field("{question}", description="What the model is asked; the question takes the place of its name.")
    max_new_tokens: int = Field(16, ge=1, description="Most tokens that the model writes for a row; greedily.")

    @field_validator("prompt")
    @classmethod
    def _prompt_has_a_place(cls, prompt: str) -> str:
        if "{question}" not in prompt:
            msg = f"the prompt {prompt!r} has no {{question}} to put the question in"
            raise ValueError(msg)
        return prompt


class VisualQuestionAnswering(GenerationTask):
    """VQA accuracy where every row has ten answers, exact match and ANLS, and fidelity to the source's answers.

    The column `answer` holds an answer or a list of them, as texts or as mappings with the key `answer`.
    """

    Options: ClassVar[type[GenerationOptions]] = VisualQuestionOptions
    options: VisualQuestionOptions
    name: ClassVar[str] = "visual-question-answering"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "question", "answer"})
    measures: ClassVar[tuple[str, ...]] = ("vqa_accuracy", "exact_match", "anls", *FIDELITY)

    def predict(self, model: Model, rows: Rows, progress: Progress) -> Generated:
        """Answer each question; say if there can be no VQA accuracy."""
        from hfcompress.evaluation.answer_scores import ANSWERS, answers_of

        if any(len(own) != ANSWERS for own in answers_of(rows)):
            progress.note(f"no VQA accuracy of {rows.name}: it is defined for {ANSWERS} answers to each question")
        return super().predict(model, rows, progress)

    def groups(self, model: Model, batch: Mapping[str, list[Any]]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield images with the questions that are asked about them."""
        from hfcompress.evaluation.prompts import prompted_groups

        questions = [self.options.prompt.replace("{question}", str(question)) for question in batch["question"]]
        return prompted_groups(model, batch["image"], questions)

    def scores(self, predictions: Generated, rows: Rows) -> list[Score]:
        """Return the scores of the answers.

        Raises:
            DataError: A row has no answer.
        """
        from hfcompress.evaluation.answer_scores import ANSWERS, anls, answers_of, exact_answer, vqa_accuracy

        answers, texts = answers_of(rows), predictions.texts
        agreed = [vqa_accuracy(texts, answers)] if all(len(own) == ANSWERS for own in answers) else []
        return [*agreed, exact_answer(texts, answers), anls(texts, answers)]
