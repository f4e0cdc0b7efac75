"""Batches of images or sounds, decoded and processed once, ahead of the model that runs on the ones before.

A thread beside the model does it, since decoding and resizing leave the interpreter's lock; or worker processes, where
a recipe asks for them. They are joblib's, which begin from nothing, beside whatever threads a runtime has, without
running the caller's own program again, and which end by themselves.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from hfcompress.errors import RunError
from hfcompress.inputs import audio_inputs, image_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from hfcompress.contracts import Rows

__all__ = ["Modality", "Preparation"]

T = TypeVar("T")
Modality: TypeAlias = Literal["image", "audio"]
Inputs: TypeAlias = "dict[str, np.ndarray[Any, Any]]"


@dataclass(frozen=True)
class Preparation:
    """What makes a model's inputs of a column of rows.

    Attributes:
        rows: The rows.
        modality: The column.
        batch_size: Rows in a batch.
        image_processor: The model's, where the column holds images.
        feature_extractor: The model's, where it holds sounds.
    """

    rows: Rows
    modality: Modality
    batch_size: int
    image_processor: Any = None
    feature_extractor: Any = None

    @classmethod
    def of(
        cls,
        processor: Any,  # noqa: ANN401 - whichever class the model has
        rows: Rows,
        modality: Modality,
        batch_size: int,
    ) -> Preparation:
        """Take of a processor what a worker needs; a tokenizer would be sent with every batch."""
        if modality == "image":
            return cls(rows, modality, batch_size, image_processor=processor.image_processor)
        return cls(rows, modality, batch_size, feature_extractor=processor.feature_extractor)

    def batch(self, number: int) -> Inputs:
        """Decode and process one batch.

        Raises:
            DataError: A row holds no image, or no sound.
        """
        (batch,) = self.rows.batches(self.batch_size, [number])
        make = image_inputs if self.modality == "image" else audio_inputs
        return make(self, batch[self.modality])

    def batches(self, numbers: Sequence[int], workers: int) -> Iterator[Inputs]:
        """Yield batches in the order of their numbers, some of them made ahead.

        Args:
            numbers: Which batches.
            workers: Processes that make them; 0 for a thread.

        Raises:
            DataError: A row holds no image, or no sound.
            RunError: The system has ended a worker.
        """
        if not workers:
            yield from _ahead(map(self.batch, numbers))
            return
        pool = joblib.Parallel(n_jobs=workers, batch_size=1, pre_dispatch="2 * n_jobs", return_as="generator")
        made = pool(joblib.delayed(self.batch)(number) for number in numbers)
        try:
            for inputs in made:  # noqa: UP028 - `yield from` would close it with a warning
                yield inputs
        except GeneratorExit:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of batches that nobody wants any more
                made.close()
            raise
        except TerminatedWorkerError as error:
            msg = (
                f"a worker process that prepared {self.rows.name} was ended from outside, most likely because memory "
                f"ran out; ask for fewer with `workers` under the task, or for smaller batches with `batch_size`"
            )
            raise RunError(msg) from error


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, the next of which is made in a thread while the model runs on the one before."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = worker.submit(next, items, None)
            yield item
