"""The task `image-to-text`: what a model writes about an image, against what people wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from hfcompress.evaluation.text_generation import FIDELITY, GenerationOptions, GenerationTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from hfcompress.contracts import Model, Rows
    from hfcompress.evaluation.generation import Generated
    from hfcompress.evaluation.scores import Score

__all__ = ["ImageToText", "ImageToTextOptions"]


class ImageToTextOptions(GenerationOptions):
    """What a recipe can say of `task: image-to-text`."""

    prompt: str | None = Field(
        None, description="What the model is asked, or how its text begins; a model with a chat template needs it."
    )


class ImageToText(GenerationTask):
    """Exact match, BLEU, chrF, ROUGE-L and CIDEr-D of captions or readings, and fidelity to the source's texts."""

    Options: ClassVar[type[GenerationOptions]] = ImageToTextOptions
    options: ImageToTextOptions
    name: ClassVar[str] = "image-to-text"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    measures: ClassVar[tuple[str, ...]] = ("exact_match", "bleu", "chrf", "rouge_l", "cider", *FIDELITY)

    def groups(self, model: Model, batch: Mapping[str, list[Any]]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield images with the prompt, where there is one."""
        from hfcompress.evaluation.prompts import prompted_groups

        prompt, images = self.options.prompt, batch["image"]
        return prompted_groups(model, images, None if prompt is None else [prompt] * len(images))

    def scores(self, predictions: Generated, rows: Rows) -> list[Score]:
        """Return the scores of the texts against one reference or several of each row.

        Raises:
            DataError: A row has no reference.
        """
        from hfcompress.evaluation.text_scores import bleu, chrf, cider, exact_match, references_of, rouge_l

        references, texts = references_of(rows, "text"), predictions.texts
        return [score(texts, references) for score in (exact_match, bleu, chrf, rouge_l, cider)]
