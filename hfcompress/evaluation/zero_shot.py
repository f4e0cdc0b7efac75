"""Zero-shot classification: the class whose text embedding is nearest to the row's (Radford et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from hfcompress.errors import DataError
from hfcompress.evaluation.embedding_options import EmbeddingOptions
from hfcompress.evaluation.scores import ScoredTask

if TYPE_CHECKING:
    import numpy as np

    from hfcompress.contracts import Model, Progress, Rows
    from hfcompress.evaluation.ranking import Places
    from hfcompress.evaluation.scores import Score

__all__ = ["ZeroShotOptions", "ZeroShotPredictions", "ZeroShotTask"]


class ZeroShotOptions(EmbeddingOptions):
    """What a recipe can say of a zero-shot classification; a task adds its `templates`."""

    templates: tuple[str, ...] = Field(
        min_length=1, description="Sentences with `{label}`; the embeddings of a class are averaged over them."
    )
    labels: tuple[str, ...] | None = Field(
        None,
        min_length=2,
        description="Class names in the order of the label numbers; by default the dataset's own, with spaces for "
        "underscores.",
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
        media: Unit embeddings of the images or sounds, float32 of shape (rows, width).
        texts: Unit text embeddings, float32 of shape (classes x templates, width), all templates of a class together.
        places: Where the right class of each row stands.
        classes: Number of classes.
    """

    media: np.ndarray[Any, Any]
    texts: np.ndarray[Any, Any]
    places: Places
    classes: int


class ZeroShotTask(ScoredTask):
    """Accuracy of matching images or sounds to class names, and fidelity to the source's embeddings."""

    Options: ClassVar[type[ZeroShotOptions]] = ZeroShotOptions
    options: ZeroShotOptions
    modality: ClassVar[Literal["image", "audio"]]
    """What is classified: the column, and the embeddings."""

    def predict(self, model: Model, rows: Rows, progress: Progress) -> ZeroShotPredictions:
        """Encode each row and each text once and rank the classes for every row.

        Raises:
            DataError: The labels are not numbers of the class names.
            CheckpointError: The model is no dual encoder of this modality.
        """
        import numpy as np

        from hfcompress.evaluation.embeddings import embed_media, embed_texts, normalised
        from hfcompress.evaluation.ranking import places

        names, labels = self._classes(rows)
        templates, size = self.options.templates, self.options.batch_size
        sentences = [template.replace("{label}", name) for name in names for template in templates]
        texts = embed_texts(model, sentences, rows, self.modality, size, progress)
        media = embed_media(model, rows, self.modality, size, progress, self.options.workers)
        anchors = normalised(texts.reshape(len(names), len(templates), -1).mean(axis=1))
        right = [np.asarray([label]) for label in labels]
        return ZeroShotPredictions(media, texts, places(media, anchors, right), len(names))

    def scores(self, predictions: ZeroShotPredictions, rows: Rows) -> list[Score]:
        """Return top-1 and top-5 accuracy, and the mean and the worst recall of the classes that have rows."""
        import numpy as np

        from hfcompress.evaluation.scores import proportion_of

        top1, top5 = (predictions.places.hits(k) for k in (1, 5))
        labels = np.asarray(rows.dataset["label"])
        return [
            proportion_of("zero_shot_accuracy", "top-1 accuracy", top1),
            proportion_of("zero_shot_top5_accuracy", "top-5 accuracy", top5),
            *_class_recalls(top1, labels, predictions.classes),
        ]

    def fidelity(self, source: ZeroShotPredictions, compressed: ZeroShotPredictions) -> list[Score]:
        """Return how near the result's embeddings, decisions and neighbours are to the source's."""
        from hfcompress.evaluation.fidelity import agreement, cosine, neighbour_overlap

        return [
            agreement(source.places.first, compressed.places.first),
            cosine(self.modality, source.media, compressed.media),
            cosine("text", source.texts, compressed.texts),
            *neighbour_overlap(self.modality, source.media, compressed.media),
        ]

    def _classes(self, rows: Rows) -> tuple[tuple[str, ...], list[int]]:
        """Return the names of the classes, and the class of each row."""
        feature = rows.dataset.features["label"]
        own = tuple(name.replace("_", " ") for name in getattr(feature, "names", None) or ())  # as people write them
        names = self.options.labels or own
        if not names:
            msg = f"the labels of {rows.name} have no names; give them with `labels: [...]` under the task"
            raise DataError(msg)
        labels = list(rows.dataset["label"])
        for row, label in enumerate(labels):
            if not isinstance(label, int) or not 0 <= label < len(names):
                msg = (
                    f"row {row} of {rows.name} has the label {label!r}, expected an integer from 0 to {len(names) - 1}"
                )
                raise DataError(msg)
        return names, labels


def _class_recalls(hits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> list[Score]:
    """Return the mean and the least recall over the classes that have rows."""
    import numpy as np
    from scipy.sparse import csr_array

    from hfcompress.evaluation.scores import Score
    from hfcompress.intervals import proportion

    n = len(labels)
    column = np.concatenate([labels, labels + classes])
    values = np.concatenate([hits, np.ones(n)])
    sums = csr_array((values, (np.tile(np.arange(n), 2), column)), shape=(n, 2 * classes))

    def recalls(totals: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        right, all_rows = totals[..., :classes], totals[..., classes:]
        shares: np.ndarray[Any, Any] = np.divide(right, all_rows, out=np.full_like(right, np.nan), where=all_rows > 0)
        return shares

    of_each = recalls(np.asarray(sums.sum(axis=0)).ravel())
    worst = int(np.nanargmin(of_each))
    rows_of_worst = int((labels == worst).sum())
    return [
        Score(
            "mean_per_class_recall", "mean per-class recall", "ratio", sums, lambda t: np.nanmean(recalls(t), axis=-1)
        ),
        Score(
            "worst_class_recall",
            "worst-class recall",
            "ratio",
            sums,
            lambda t: np.nanmin(recalls(t), axis=-1),
            interval=proportion(float(hits[labels == worst].sum()), rows_of_worst),
        ),
    ]
