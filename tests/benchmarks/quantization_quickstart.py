"""What int8 keeps of the quickstart checkpoint, and what it gains."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from datasets import Dataset, load_dataset
from optimum.intel import OVModelForZeroShotImageClassification
from optimum.onnxruntime import ORTModelForZeroShotImageClassification
from quantization_bars import Bar, at_most, not_below
from quantization_costs import Speed, graph_bytes, load
from quantization_ways import (
    REFUSALS,
    Maker,
    Material,
    Mode,
    Way,
    first_line,
    optimum_ways,
    ours,
    write_optimum_intel,
)
from retrieval import THREADS

from hfcompress.benchmark import alternate
from hfcompress.contracts import Model, Progress
from hfcompress.evaluation.embeddings import normalised
from hfcompress.inputs import image_inputs, load_processor, row_inputs, text_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Result", "calibration_rows", "one_pair", "quickstart", "quickstart_rows", "quickstart_table"]

logger = logging.getLogger("quantization")

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
TEMPLATE = "a photo of the digit {}."
BATCH_SIZE = 32
"""Test rows in one call where accuracy is measured; dynamic quantization takes one range for all of them."""
REPEATS = 200
STATIC_DROP, DYNAMIC_DROP = 0.005, 0.003

OURS = (ours("onnxruntime", "static"), ours("onnxruntime", "dynamic"), ours("openvino", "static"))
WEIGHT_ONLY = ours("openvino", "weight_only")
INTEL = Way("optimum-intel: static", "optimum-intel", "openvino", "static", write_optimum_intel)


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        label: The way, or the float32 form in a runtime.
        maker: Whose way it is; `float32` for the source.
        runtime: Where it runs.
        mode: The way's mode; `float32` for the source.
        error: Why there is no artifact; everything below is then `None`.
        top1: Accuracy on the test rows, in [0, 1]; of scores that tie at the top, the right one counts its share.
        drop: What the source has more of it.
        image_cosine: Mean cosine of the image embeddings with the source's, in [-1, 1].
        text_cosine: The same of the text embeddings.
        tied: Share of the scores that another class of the same image has too, in [0, 1].
        size_bytes: Bytes of the graphs on disk.
        speed: Latency of one pair, against float32 in the same runtime.
    """

    label: str
    maker: Maker | Literal["float32"]
    runtime: str
    mode: Mode | Literal["float32"]
    error: str | None = None
    top1: float | None = None
    drop: float | None = None
    image_cosine: float | None = None
    text_cosine: float | None = None
    tied: float | None = None
    size_bytes: int | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class Scores:
    """What a model says of the test rows.

    Attributes:
        logits: Scaled similarities as the graph gives them, shape (rows, classes).
        images: Unit embeddings, shape (rows, width).
        texts: Unit embeddings, shape (classes, width).
    """

    logits: np.ndarray[Any, Any]
    images: np.ndarray[Any, Any]
    texts: np.ndarray[Any, Any]


def quickstart(scratch: Path) -> tuple[list[Result], list[Bar]]:
    """Return the lines of the table, and what is asked of ours.

    Args:
        scratch: An empty folder.
    """
    material, rows = prepare(scratch), quickstart_rows("test")
    folders = {"float32: onnxruntime": material.onnx, "float32: openvino": material.openvino}
    models = {label: load(folder, label.removeprefix("float32: "), THREADS) for label, folder in folders.items()}
    results = [Result(label, "float32", label.removeprefix("float32: "), "float32") for label in models]
    for number, way in enumerate((*OURS, WEIGHT_ONLY, *optimum_ways(), INTEL)):
        folder = scratch / str(number)
        logger.info("%s", way.label)
        try:
            way.write(material, folder)
            models[way.label] = load(folder, way.runtime, THREADS)
        except REFUSALS as error:
            logger.warning("%s: %s", way.label, error)
            results.append(Result(way.label, way.maker, way.runtime, way.mode, error=first_line(error)))
            continue
        results.append(Result(way.label, way.maker, way.runtime, way.mode))
        folders[way.label] = folder
    source, labels = score(models["float32: onnxruntime"], rows), np.asarray(rows["label"])
    pair = one_pair(models["float32: onnxruntime"].processor, rows)
    times = alternate(models, pair, REPEATS, Progress())
    filled = [
        result
        if result.error is not None
        else replace(
            result,
            **kept(score(models[result.label], rows), source, labels),
            size_bytes=graph_bytes(folders[result.label]),
            speed=Speed.against(times[f"float32: {result.runtime}"], times[result.label]),
        )
        for result in results
    ]
    return filled, bars(filled)


def prepare(scratch: Path) -> Material:
    """Export the checkpoint as users of optimum would, and prepare the calibration rows."""
    checkpoint = QUICKSTART / "clip-digits"
    processor = load_processor(checkpoint)
    rows, inputs = calibration_rows(processor)
    onnx, openvino = scratch / "onnx", scratch / "openvino"
    ORTModelForZeroShotImageClassification.from_pretrained(checkpoint, export=True).save_pretrained(onnx)
    OVModelForZeroShotImageClassification.from_pretrained(checkpoint, export=True).save_pretrained(openvino)
    for folder in (onnx, openvino):
        processor.save_pretrained(folder)
    return Material(checkpoint, onnx, openvino, rows, {"model.onnx": inputs})


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
    inputs = row_inputs(processor, {"input_ids", "attention_mask", "pixel_values"}, rows[:])
    return rows, Dataset.from_dict({name: list(array) for name, array in inputs.items()}).with_format("numpy")


def quickstart_rows(split: str) -> Dataset:
    """Return the rows of a split of the quickstart's data."""
    return load_dataset("parquet", data_files=str(QUICKSTART / "data" / f"{split}.parquet"), split="train")


def one_pair(processor: Any, rows: Dataset) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ANN401 - as above
    """Return the inputs of a timed call: the first image, and one text."""
    texts = text_inputs(processor, [TEMPLATE.format(rows.features["label"].names[0])])
    return {**image_inputs(processor, rows[:1]["image"]), **texts}


def score(model: Model, rows: Dataset) -> Scores:
    """Compare every image with all class names.

    Raises:
        RuntimeError: The model gives something that is not finite.
    """
    texts = text_inputs(model.processor, [TEMPLATE.format(name) for name in rows.features["label"].names])
    outputs = []
    for start in range(0, len(rows), BATCH_SIZE):
        images = image_inputs(model.processor, rows[start : start + BATCH_SIZE]["image"])
        given = {**images, **texts}
        outputs.append(model({name: array for name, array in given.items() if name in model.inputs}))
    logits, embeddings = (
        np.concatenate([output[name] for output in outputs]) for name in ("logits_per_image", "image_embeds")
    )
    if not np.isfinite(logits).all():
        msg = f"{type(model.stock).__name__} gives scores that are not finite"
        raise RuntimeError(msg)
    return Scores(logits, normalised(embeddings), normalised(outputs[0]["text_embeds"]))


def kept(scores: Scores, source: Scores, labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return the fields of `Result` that tell what is left of the source."""
    top1 = expected_top1(scores.logits, labels)
    return {
        "top1": top1,
        "drop": expected_top1(source.logits, labels) - top1,
        "image_cosine": float((scores.images * source.images).sum(axis=1).mean()),
        "text_cosine": float((scores.texts * source.texts).sum(axis=1).mean()),
        "tied": share_of_ties(scores.logits),
    }


def expected_top1(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Return the accuracy to expect where one of the classes with the highest score is drawn at random.

    Args:
        logits: Shape (rows, classes).
        labels: Shape (rows,).
    """
    is_best = logits == logits.max(axis=1, keepdims=True)
    return float((is_best[np.arange(len(labels)), labels] / is_best.sum(axis=1)).mean())


def share_of_ties(logits: np.ndarray[Any, Any]) -> float:
    """Return the share of scores that another class of the same row has too, in [0, 1]."""
    equals = (logits[:, :, None] == logits[:, None, :]).sum(axis=2)
    return float((equals > 1).mean())


def bars(results: Sequence[Result]) -> list[Bar]:
    """Return what is asked of ours on this checkpoint."""
    static, dynamic, openvino = (next(row for row in results if row.label == way.label) for way in OURS)

    def accuracies(maker: str) -> dict[str, float]:
        return {
            row.label: row.top1
            for row in results
            if row.maker == maker and row.mode == "static" and row.top1 is not None
        }

    return [
        at_most(f"{static.label}, drop of top-1", static.drop, STATIC_DROP),
        at_most(f"{dynamic.label}, drop of top-1", dynamic.drop, DYNAMIC_DROP),
        not_below(
            f"{static.label}, as accurate as the best static default of optimum", static.top1, accuracies("optimum")
        ),
        not_below(
            f"{static.label}, as accurate as the static default of optimum-intel",
            static.top1,
            accuracies("optimum-intel"),
        ),
        at_most(f"{openvino.label}, drop of top-1", openvino.drop, STATIC_DROP),
        not_below(
            f"{openvino.label}, as accurate as the static default of optimum-intel",
            openvino.top1,
            accuracies("optimum-intel"),
        ),
    ]


def quickstart_table(results: Sequence[Result]) -> str:
    """Return the lines as a Markdown table; behind a ratio of times stand its quartiles."""
    columns = ("quickstart", "top-1", "drop", "image cosine", "text cosine", "tied", "bytes", "ms", "float32 / it")
    lines = [f"| {' | '.join(columns)} |", "| --- |" + " --- |" * (len(columns) - 1)]
    for row in results:
        if row.speed is None:
            lines.append(f"| {row.label} | {row.error} |" + " |" * (len(columns) - 2))
            continue
        lines.append(
            f"| {row.label} | {row.top1:.4f} | {row.drop:.4f} | {row.image_cosine:.5f} | {row.text_cosine:.5f} "
            f"| {row.tied:.1%} | {row.size_bytes:,} | {row.speed.latency_ms:.2f} | {row.speed} |"
        )
    return "\n".join(lines)
