"""The task `image-text-retrieval`: the captions of an image and the image of a caption, among all rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from hfcompress.errors import DataError
from hfcompress.evaluation.embedding_options import EmbeddingOptions
from hfcompress.evaluation.scores import ScoredTask

if TYPE_CHECKING:
    import numpy as np

    from hfcompress.contracts import Model, Progress, Rows
    from hfcompress.evaluation.ranking import Places
    from hfcompress.evaluation.scores import Score

__all__ = ["ImageTextRetrieval", "RetrievalOptions", "RetrievalPredictions"]

_RANKS = (1, 5, 10)
_COMPARED = (
    "top1_agreement",
    "embedding_cosine_image",
    "embedding_cosine_text",
    "neighbour_overlap_at_10_image",
    "neighbour_overlap_at_10_text",
)


class RetrievalOptions(EmbeddingOptions):
    """What a recipe can say of `task: image-text-retrieval`."""


@dataclass(frozen=True)
class RetrievalPredictions:
    """What a model makes of the rows.

    Attributes:
        images: Unit embeddings of the images, float32 of shape (rows, width).
        texts: Unit embeddings of the captions, float32 of shape (captions, width), all captions of a row together.
        row_of: The row of each caption, shape (captions,).
        of_images: Where the captions of each image stand among all captions.
        of_texts: Where the image of each caption stands among all images.
    """

    images: np.ndarray[Any, Any]
    texts: np.ndarray[Any, Any]
    row_of: np.ndarray[Any, Any]
    of_images: Places
    of_texts: Places


class ImageTextRetrieval(ScoredTask):
    """Recall at 1, 5 and 10 in both directions, and fidelity to the source's embeddings.

    An image finds its captions if any of them is among the first k. Equal scores count as if they came in random order.
    """

    Options: ClassVar[type[RetrievalOptions]] = RetrievalOptions
    options: RetrievalOptions
    name: ClassVar[str] = "image-text-retrieval"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    measures: ClassVar[tuple[str, ...]] = (
        *(f"image_to_text_recall_at_{k}" for k in _RANKS),
        *(f"text_to_image_recall_at_{k}" for k in _RANKS),
        *_COMPARED,
    )
    compared: ClassVar[tuple[str, ...]] = _COMPARED

    def predict(self, model: Model, rows: Rows, progress: Progress) -> RetrievalPredictions:
        """Encode each image and each caption once, and rank them by cosine.

        Raises:
            DataError: A row has no caption.
            CheckpointError: The model is no dual encoder of images and texts.
        """
        import numpy as np

        from hfcompress.evaluation.embeddings import embed_media, embed_texts
        from hfcompress.evaluation.ranking import places

        captions, row_of = _captions(rows)
        size = self.options.batch_size
        texts = embed_texts(model, captions, rows, "image", size, progress)
        images = embed_media(model, rows, "image", size, progress, self.options.workers)
        ends = np.searchsorted(row_of, np.arange(len(rows) + 1))
        own = [np.arange(start, end) for start, end in pairwise(ends)]
        return RetrievalPredictions(
            images, texts, row_of, places(images, texts, own), places(texts, images, list(row_of[:, None]))
        )

    def scores(self, predictions: RetrievalPredictions, rows: Rows) -> list[Score]:
        """Return the recalls; rows of several captions are resampled whole, because captions of one image are alike."""
        from dataclasses import replace

        import numpy as np

        from hfcompress.evaluation.scores import proportion_of, quotient_of

        def found_images(k: int) -> Score:
            name, label, hits = f"text_to_image_recall_at_{k}", f"text to image R@{k}", predictions.of_texts.hits(k)
            if len(hits) == len(rows):
                return proportion_of(name, label, hits)
            of_rows, captions = np.bincount(predictions.row_of, hits), np.bincount(predictions.row_of)
            return replace(quotient_of(name, label, "ratio", of_rows, captions), n=len(hits))

        return [
            *(
                proportion_of(f"image_to_text_recall_at_{k}", f"image to text R@{k}", predictions.of_images.hits(k))
                for k in _RANKS
            ),
            *(found_images(k) for k in _RANKS),
        ]

    def fidelity(self, source: RetrievalPredictions, compressed: RetrievalPredictions) -> list[Score]:
        """Return how near the result's embeddings and what they find are to the source's; texts search the images."""
        from hfcompress.evaluation.fidelity import agreement, cosine, neighbour_overlap

        return [
            agreement(source.of_texts.first, compressed.of_texts.first),
            cosine("image", source.images, compressed.images),
            cosine("text", source.texts, compressed.texts),
            *neighbour_overlap("image", source.images, compressed.images),
            *neighbour_overlap("text", source.texts, compressed.texts, source.images),
        ]


def _captions(rows: Rows) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Return all captions and the row of each."""
    import numpy as np

    captions: list[str] = []
    row_of: list[int] = []
    for row, value in enumerate(rows.dataset["text"]):
        own = [value] if isinstance(value, str) else value
        if not isinstance(own, list) or not own or not all(isinstance(caption, str) for caption in own):
            msg = f"row {row} of {rows.name} has the text {value!r}, expected a caption or a list of captions"
            raise DataError(msg)
        captions += own
        row_of += [row] * len(own)
    return captions, np.asarray(row_of)
