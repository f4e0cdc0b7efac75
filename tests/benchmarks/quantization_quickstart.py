"""What int8 keeps of the quickstart checkpoint, and what it gains."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, load_dataset
from quantization_bars import Bar, at_most
from quantization_fidelity import (
    DYNAMIC,
    OPENVINO,
    STATIC,
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

from hfcompress.evaluation.embeddings import normalised
from hfcompress.inputs import image_inputs, load_processor, row_inputs, text_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfcompress.contracts import Model

__all__ = ["calibration_inputs", "calibration_rows", "one_pair", "quickstart", "quickstart_rows", "quickstart_table"]

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
TEMPLATE = "a photo of the digit {}."
BATCH_SIZE = 32
"""Test rows in one call where accuracy is measured; dynamic quantization takes one range for all of them."""
DROPS = {STATIC.label: 0.005, DYNAMIC.label: 0.003, OPENVINO.label: 0.005}
"""Way → the drop of top-1 that is allowed."""


def quickstart(scratch: Path) -> tuple[list[Result], list[Bar]]:
    """Return the lines of the table, and what is asked of ours.

    Args:
        scratch: An empty folder.
    """
    checkpoint, rows = QUICKSTART / "clip-digits", quickstart_rows("test")
    processor, labels = load_processor(checkpoint), np.asarray(rows["label"])
    comparison = Comparison(
        export(checkpoint, scratch, *calibration_rows(processor)),
        one_pair(processor, rows),
        partial(score, rows=rows),
        lambda scores: expected_top1(scores.logits, labels),
    )
    results = compare(comparison, scratch)
    drops = [
        at_most(f"{row.label}, drop of top-1", row.drop, DROPS[row.label]) for row in results if row.label in DROPS
    ]
    return results, drops + accuracy_bars(results)


def calibration_rows(
    processor: Any,  # noqa: ANN401 - whichever class the model has
    count: int | None = None,
) -> tuple[Dataset, Dataset]:
    """Return calibration rows of the quickstart, and the inputs that a processor makes of them.

    Args:
        processor: The model's.
        count: How many rows; all by default.
    """
    rows = quickstart_rows("calibration").rename_column("caption", "text").remove_columns("label")
    rows = rows if count is None else rows.select(range(count))
    return rows, calibration_inputs(processor, rows)


def calibration_inputs(processor: Any, rows: Dataset) -> Dataset:  # noqa: ANN401 - as above
    """Return the inputs that a processor makes of rows with the columns `image` and `text`, row by row."""
    inputs = row_inputs(processor, {"input_ids", "attention_mask", "pixel_values"}, rows[:])
    return Dataset.from_dict({name: list(array) for name, array in inputs.items()}).with_format("numpy")


def quickstart_rows(split: str) -> Dataset:
    """Return the rows of a split of the quickstart's data."""
    return load_dataset("parquet", data_files=str(QUICKSTART / "data" / f"{split}.parquet"), split="train")


def one_pair(processor: Any, rows: Dataset) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ANN401 - as above
    """Return the inputs of a timed call: the first image, and one text."""
    texts = text_inputs(processor, [TEMPLATE.format(rows.features["label"].names[0])])
    return {**image_inputs(processor, rows[:1]["image"]), **texts}


def score(model: Model, rows: Dataset) -> Scores:
    """Compare every image with all class names."""
    texts = text_inputs(model.processor, [TEMPLATE.format(name) for name in rows.features["label"].names])
    outputs = []
    for start in range(0, len(rows), BATCH_SIZE):
        images = image_inputs(model.processor, rows[start : start + BATCH_SIZE]["image"])
        given = {**images, **texts}
        outputs.append(model({name: array for name, array in given.items() if name in model.inputs}))
    logits, embeddings = (
        np.concatenate([output[name] for output in outputs]) for name in ("logits_per_image", "image_embeds")
    )
    return Scores(finite(model, logits), normalised(embeddings), normalised(outputs[0]["text_embeds"]))


def quickstart_table(results: Sequence[Result]) -> str:
    """Return the lines as a Markdown table."""
    return fidelity_table(results, "quickstart", "top-1")
