"""What a quantized dual encoder keeps of its float32 source, and what it gains: every way, measured alike."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from optimum.intel import OVModelForZeroShotImageClassification
from optimum.onnxruntime import ORTModelForZeroShotImageClassification
from quantization_bars import Bar, not_below
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

from hfcompress.contracts import Model, Progress
from hfcompress.inputs import load_processor
from hfcompress.timing import alternate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset

__all__ = [
    "DYNAMIC",
    "OPENVINO",
    "STATIC",
    "Comparison",
    "Result",
    "Scores",
    "accuracy_bars",
    "compare",
    "expected_top1",
    "export",
    "fidelity_table",
    "finite",
]

logger = logging.getLogger("quantization")

REPEATS = 200

STATIC, DYNAMIC = ours("onnxruntime", "static"), ours("onnxruntime", "dynamic")
OPENVINO = ours("openvino", "static")
OTHERS = (
    ours("onnxruntime", "static", calibration_method="percentile"),
    ours("onnxruntime", "static", calibration_method="entropy"),
    ours("openvino", "weight_only"),
)
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
        accuracy: The comparison's metric on the test rows, in [0, 1].
        drop: What the source has more of it.
        image_cosine: Mean cosine of the image embeddings with the source's, in [-1, 1].
        text_cosine: The same of the text embeddings.
        tied: Share of the scores that another text has too for the same image, in [0, 1].
        size_bytes: Bytes of the graphs on disk.
        speed: Latency of one pair, against float32 in the same runtime.
    """

    label: str
    maker: Maker | Literal["float32"]
    runtime: str
    mode: Mode | Literal["float32"]
    error: str | None = None
    accuracy: float | None = None
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
        logits: Scaled similarities as the graph gives them, shape (images, texts).
        images: Unit embeddings, shape (images, width).
        texts: Unit embeddings, shape (texts, width).
    """

    logits: np.ndarray[Any, Any]
    images: np.ndarray[Any, Any]
    texts: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """A checkpoint and how its artifacts are judged.

    Attributes:
        material: What every way starts from.
        pair: Inputs of a timed call: one image and one text.
        score: Lets a model see the test rows.
        accuracy: The metric, in [0, 1], from the scores; of scores that tie at the top, the right one counts its share.
    """

    material: Material
    pair: Mapping[str, np.ndarray[Any, Any]]
    score: Callable[[Model], Scores]
    accuracy: Callable[[Scores], float]


def export(checkpoint: Path, scratch: Path, rows: Dataset, inputs: Dataset) -> Material:
    """Export a checkpoint to both runtimes as users of optimum would.

    Args:
        checkpoint: A dual encoder.
        scratch: Folder for the exports.
        rows: Calibration rows.
        inputs: What the processor makes of them.
    """
    onnx, openvino = scratch / "onnx", scratch / "openvino"
    ORTModelForZeroShotImageClassification.from_pretrained(checkpoint, export=True).save_pretrained(onnx)
    OVModelForZeroShotImageClassification.from_pretrained(checkpoint, export=True).save_pretrained(openvino)
    for folder in (onnx, openvino):
        load_processor(checkpoint).save_pretrained(folder)
    return Material(checkpoint, onnx, openvino, rows, {"model.onnx": inputs})


def compare(comparison: Comparison, scratch: Path) -> list[Result]:
    """Quantize a checkpoint in all ways, judge what came out, and time it in turns.

    Args:
        comparison: The checkpoint, and how it is judged.
        scratch: Folder for the artifacts.
    """
    material = comparison.material
    folders = {"float32: onnxruntime": material.onnx, "float32: openvino": material.openvino}
    models = {label: load(folder, label.removeprefix("float32: "), THREADS) for label, folder in folders.items()}
    results = [Result(label, "float32", label.removeprefix("float32: "), "float32") for label in models]
    for number, way in enumerate((STATIC, DYNAMIC, OPENVINO, *OTHERS, *optimum_ways(), INTEL)):
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
    source = comparison.score(models["float32: onnxruntime"])
    times = alternate(models, dict.fromkeys(models, comparison.pair), REPEATS, Progress())
    return [
        result
        if result.error is not None
        else replace(
            result,
            **kept(comparison.score(models[result.label]), source, comparison.accuracy),
            size_bytes=graph_bytes(folders[result.label]),
            speed=Speed.against(times[f"float32: {result.runtime}"], times[result.label]),
        )
        for result in results
    ]


def finite(model: Model, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the logits.

    Raises:
        RuntimeError: Some are not finite.
    """
    if not np.isfinite(logits).all():
        msg = f"{type(model.stock).__name__} gives scores that are not finite"
        raise RuntimeError(msg)
    return logits


def kept(scores: Scores, source: Scores, accuracy: Callable[[Scores], float]) -> dict[str, float]:
    """Return the fields of `Result` that tell what is left of the source."""
    left = accuracy(scores)
    return {
        "accuracy": left,
        "drop": accuracy(source) - left,
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
    """Return the share of scores that another entry of the same row has too, in [0, 1]."""
    counts = [np.unique(row, return_counts=True)[1] for row in logits]
    return sum(int(count[count > 1].sum()) for count in counts) / logits.size


def accuracy_bars(results: Sequence[Result]) -> list[Bar]:
    """Return that our static ways are to be at least as accurate as the static defaults of others."""
    rows = {row.label: row for row in results}

    def bar(own: Way, maker: str, others: str) -> Bar:
        found = {
            row.label: row.accuracy
            for row in results
            if row.maker == maker and row.mode == "static" and row.accuracy is not None
        }
        return not_below(f"{own.label}, as accurate as {others}", rows[own.label].accuracy, found)

    return [
        bar(STATIC, "optimum", "the best static default of optimum"),
        bar(STATIC, "optimum-intel", "the static default of optimum-intel"),
        bar(OPENVINO, "optimum-intel", "the static default of optimum-intel"),
    ]


def fidelity_table(results: Sequence[Result], title: str, metric: str) -> str:
    """Return the lines as a Markdown table; behind a ratio of times stand its quartiles.

    Args:
        results: The lines.
        title: What the first column is called.
        metric: What the accuracy is called.
    """
    columns = (title, metric, "drop", "image cosine", "text cosine", "tied", "bytes", "ms", "float32 / it")
    lines = [f"| {' | '.join(columns)} |", "| --- |" + " --- |" * (len(columns) - 1)]
    for row in results:
        if row.speed is None:
            lines.append(f"| {row.label} | {row.error} |" + " |" * (len(columns) - 2))
            continue
        lines.append(
            f"| {row.label} | {row.accuracy:.4f} | {row.drop:.4f} | {row.image_cosine:.5f} | {row.text_cosine:.5f} "
            f"| {row.tied:.1%} | {row.size_bytes:,} | {row.speed.latency_ms:.2f} | {row.speed} |"
        )
    return "\n".join(lines)
