"""Embeddings of a dual encoder: each text and each image or sound goes through the model once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hfcompress.errors import CheckpointError
from hfcompress.evaluation.preparation import Modality, Preparation
from hfcompress.inputs import text_inputs
from hfcompress.processes import assembled, own

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfcompress.contracts import Model, Progress, Rows

    Array = np.ndarray[Any, np.dtype[np.float32]]

__all__ = ["embed_media", "embed_texts", "normalised"]

_PLURAL = {"image": "images", "audio": "sounds"}


def embed_media(
    model: Model, rows: Rows, modality: Modality, batch_size: int, progress: Progress, workers: int = 0
) -> Array:
    """Return the unit embeddings of the column `image` or `audio`: float32 of shape (rows, width).

    Args:
        model: A dual encoder.
        rows: The rows.
        modality: The column.
        batch_size: Rows that go through the model at once.
        progress: Hears how many batches are done.
        workers: Processes that decode and process the rows beside the model; 0 for a thread.

    The graph of a dual encoder wants both inputs in every call; one short text goes along with each batch and its
    embedding is dropped.

    Raises:
        CheckpointError: The model gives no such embeddings.
    """
    companion = text_inputs(model.processor, ["-"])
    count = -(-len(rows) // batch_size)
    numbers = own(count)
    made = Preparation.of(model.processor, rows, modality, batch_size).batches(numbers, workers)
    batches = progress.track(made, len(numbers), f"batches of {batch_size} {_PLURAL[modality]}")
    vectors = [_call(model, {**inputs, **companion}, f"{modality}_embeds") for inputs in batches]
    return np.concatenate(assembled(vectors, count))


def embed_texts(
    model: Model, texts: Sequence[str], rows: Rows, modality: Modality, batch_size: int, progress: Progress
) -> Array:
    """Return the unit embeddings of texts: float32 of shape (texts, width); one image or sound of `rows` goes along.

    Raises:
        CheckpointError: The model gives no `text_embeds`.
    """
    companion = Preparation.of(model.processor, rows, modality, 1).batch(0)
    count = -(-len(texts) // batch_size)
    numbers = own(count)
    vectors = []
    for number in progress.track(numbers, len(numbers), f"batches of {batch_size} texts"):
        batch = texts[number * batch_size : (number + 1) * batch_size]
        vectors.append(_call(model, {**text_inputs(model.processor, batch), **companion}, "text_embeds"))
    return np.concatenate(assembled(vectors, count))


def normalised(vectors: Array) -> Array:
    """Scale each row to unit length."""
    lengths: Array = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def _call(model: Model, inputs: dict[str, np.ndarray[Any, Any]], output: str) -> Array:
    outputs = model({name: array for name, array in inputs.items() if name in model.inputs})
    if output not in outputs:
        given = ", ".join(outputs)
        msg = f"a {model.config.model_type!r} model gives {given} and no {output}, so it is not a dual encoder"
        raise CheckpointError(msg)
    vectors: Array = outputs[output]
    if not np.isfinite(vectors).all():
        msg = f"the model gives {output} that are not finite"
        raise CheckpointError(msg)
    return normalised(vectors.astype(np.float32))
