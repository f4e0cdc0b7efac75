"""Zero-shot image classification: the class whose text embedding is nearest to the image's (Radford et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from hfcompress.contracts import Measurement, Task, TaskOptions
from hfcompress.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from hfcompress.contracts import Model, Progress, Rows

__all__ = ["ZeroShotImageClassification", "ZeroShotOptions", "ZeroShotPredictions"]


class ZeroShotOptions(TaskOptions):
    """What a recipe can say of `task: zero-shot-image-classification`."""

    templates: tuple[str, ...] = Field(
        ("a photo of a {label}.",), min_length=1, description="Sentences with `{label}`; their embeddings are averaged."
    )
    labels: tuple[str, ...] | None = Field(
        None, min_length=2, description="Class names in the order of the label numbers; the dataset's own by default."
    )

    @field_validator("templates")
    @classmethod
    def _templates_have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if "{label}" not in template:
                msg = f"the template {template!r} has no {{label}} to put the class name in"
                raise ValueError(msg)
        return templates


@dataclass(frozen=True)
class ZeroShotPredictions:
    """What a model makes of the rows.

    Attributes:
        images: Unit image embeddings, float32 of shape (rows, width).
        texts: Unit text embeddings, float32 of shape (classes x templates, width), all templates of a class together.
        classes: The predicted class of each row, shape (rows,).
    """

    images: np.ndarray[Any, Any]
    texts: np.ndarray[Any, Any]
    classes: np.ndarray[Any, Any]


class ZeroShotImageClassification(Task):
    """Top-1 accuracy of matching images to class names, and fidelity to the source's embeddings."""

    Options: ClassVar[type[ZeroShotOptions]] = ZeroShotOptions
    options: ZeroShotOptions
    columns: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    measures: ClassVar[tuple[str, ...]] = (
        "zero_shot_accuracy",
        "top1_agreement",
        "embedding_cosine_image",
        "embedding_cosine_text",
    )

    def predict(self, model: Model, rows: Rows, progress: Progress) -> ZeroShotPredictions:
        """Encode each image and each text once and assign every image to a class.

        Raises:
            DataError: The labels are not numbers of the class names.
            CheckpointError: The model is not a dual encoder.
        """
        from hfcompress.evaluation.embeddings import embed_images, embed_texts, normalised

        names = self._class_names(rows)
        templates = self.options.templates
        sentences = [template.replace("{label}", name) for name in names for template in templates]
        texts = embed_texts(model, sentences, rows, self.options.batch_size, progress)
        images = embed_images(model, rows, self.options.batch_size, progress)
        anchors = normalised(texts.reshape(len(names), len(templates), -1).mean(axis=1))
        return ZeroShotPredictions(images, texts, (images @ anchors.T).argmax(axis=1))

    def compare(self, source: ZeroShotPredictions, compressed: ZeroShotPredictions, rows: Rows) -> list[Measurement]:
        """Measure the accuracy of both, and how near the result's embeddings and decisions are to the source's."""
        import numpy as np

        from hfcompress.intervals import bootstrapped, proportion

        labels = np.asarray(rows.dataset["label"])
        n = len(labels)

        def measurement(name: str, label: str, unit: str, compressed: Any, source: Any = None) -> Measurement:  # noqa: ANN401
            return Measurement(
                name,
                label,
                unit,
                higher_is_better=True,
                compressed=compressed,
                source=source,
                n=len(sentences) if name == "embedding_cosine_text" else n,
                task="zero-shot-image-classification",
                dataset=rows.name,
                revision=rows.revision,
                split=rows.split,
            )

        sentences = source.texts
        right = [proportion(int((side.classes == labels).sum()), n) for side in (compressed, source)]
        agreement = proportion(int((compressed.classes == source.classes).sum()), n)
        cosines = [
            bootstrapped((one * other).sum(axis=1), np.mean)
            for one, other in ((compressed.images, source.images), (compressed.texts, source.texts))
        ]
        return [
            measurement("zero_shot_accuracy", "top-1 accuracy", "ratio", *right),
            measurement("top1_agreement", "top-1 agreement", "ratio", agreement),
            measurement("embedding_cosine_image", "image cosine", "cosine", cosines[0]),
            measurement("embedding_cosine_text", "text cosine", "cosine", cosines[1]),
        ]

    def _class_names(self, rows: Rows) -> tuple[str, ...]:
        feature = rows.dataset.features["label"]
        names = self.options.labels or tuple(getattr(feature, "names", None) or ())
        if not names:
            msg = f"the labels of {rows.name} have no names; give them with `labels: [...]` under the task"
            raise DataError(msg)
        labels = rows.dataset["label"]
        for row, label in enumerate(labels):
            if not isinstance(label, int) or not 0 <= label < len(names):
                msg = (
                    f"row {row} of {rows.name} has the label {label!r}, expected an integer from 0 to {len(names) - 1}"
                )
                raise DataError(msg)
        return names
