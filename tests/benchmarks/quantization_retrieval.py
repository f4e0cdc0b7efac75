"""What int8 keeps of the retrieval checkpoint: its R@1 is not saturated, as the quickstart's top-1 is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from quantization_fidelity import (
    Comparison,
    Result,
    Scores,
    accuracy_bars,
    compare,
    expected_top1,
    export,
    fidelity_table,
    finite,
)
from quantization_quickstart import calibration_inputs
from retrieval import make_retrieval_checkpoint

from hfcompress.evaluation.embeddings import normalised
from hfcompress.inputs import image_inputs, load_processor, text_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from datasets import Dataset
    from quantization_bars import Bar

    from hfcompress.contracts import Model

__all__ = ["retrieval", "retrieval_table"]

BATCH_SIZE = 100
"""Images, and texts, in one call where R@1 is measured."""


def retrieval(scratch: Path, cache: Path) -> tuple[list[Result], list[Bar]]:
    """Return the lines of the table, and what is asked of ours.

    Args:
        scratch: An empty folder.
        cache: Where the trained checkpoint and its rows are, or are to be, under `retrieval`.
    """
    made = make_retrieval_checkpoint(cache / "retrieval")
    processor = load_processor(made.folder)
    inputs = calibration_inputs(processor, made.calibration)
    first = made.test[:1]
    comparison = Comparison(
        export(made.folder, scratch, made.calibration, inputs),
        {**image_inputs(processor, first["image"]), **text_inputs(processor, first["text"])},
        partial(score, rows=made.test),
        recall,
    )
    results = compare(comparison, scratch)
    return results, accuracy_bars(results)


def score(model: Model, rows: Dataset) -> Scores:
    """Compare every image with every text, block by block, so that the graph itself makes all scores."""
    blocks = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    images = [image_inputs(model.processor, block["image"]) for block in blocks]
    texts = [text_inputs(model.processor, block["text"]) for block in blocks]
    outputs = [
        [model({name: array for name, array in {**seen, **read}.items() if name in model.inputs}) for read in texts]
        for seen in images
    ]
    logits = np.block([[output["logits_per_image"] for output in line] for line in outputs])
    return Scores(
        finite(model, logits),
        normalised(np.concatenate([line[0]["image_embeds"] for line in outputs])),
        normalised(np.concatenate([output["text_embeds"] for output in outputs[0]])),
    )


def recall(scores: Scores) -> float:
    """Return R@1, the mean of image to text and text to image; row i of one belongs to row i of the other alone."""
    own = np.arange(len(scores.logits))
    return (expected_top1(scores.logits, own) + expected_top1(scores.logits.T, own)) / 2


def retrieval_table(results: Sequence[Result]) -> str:
    """Return the lines as a Markdown table."""
    return fidelity_table(results, "retrieval", "R@1")
