"""Size and speed of int8 at the shapes of CLIP ViT-B/32 and Whisper-tiny, with random weights."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime
import torch
from datasets import Dataset
from optimum.onnxruntime import ORTModelForSpeechSeq2Seq, ORTModelForZeroShotImageClassification
from pipeline import make_model
from quantization_bars import Bar, not_below
from quantization_costs import Speed, graph_bytes, load
from quantization_quickstart import calibration_rows, one_pair, quickstart_rows
from quantization_ways import REFUSALS, Maker, Material, Mode, first_line, optimum_ways, ours
from retrieval import THREADS
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from hfcompress.contracts import Model, Progress
from hfcompress.inputs import audio_inputs, load_processor, text_inputs
from hfcompress.timing import alternate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

__all__ = ["SHAPES", "ShapeResult", "shapes", "shapes_table"]

logger = logging.getLogger("quantization")

ROWS = 8
"""Calibration rows; what they are does not matter to size and speed."""
REPEATS = 30
NEW_TOKENS = 16
"""Tokens of a timed answer of Whisper."""
WITHIN = 1.01
"""How many times the smallest artifact ours may be as large."""

OURS = (ours("onnxruntime", "static"), ours("onnxruntime", "dynamic"))


@dataclass(frozen=True)
class ShapeResult:
    """One line of the table.

    Attributes:
        model: What was quantized.
        label: The way.
        maker: Whose way it is; `float32` for the source.
        mode: The way's mode; `float32` for the source.
        error: Why there is no artifact; everything below is then `None`.
        size_bytes: Bytes of the graphs on disk.
        speed: Latency of a call, against float32.
        against_optimum: The same against the fastest default of optimum in the same mode; of ours alone.
    """

    model: str
    label: str
    maker: Maker | Literal["float32"]
    mode: Mode | Literal["float32"]
    error: str | None = None
    size_bytes: int | None = None
    speed: Speed | None = None
    against_optimum: Speed | None = None


@dataclass(frozen=True)
class Shape:
    """A model of random weights.

    Attributes:
        name: What the table calls it.
        material: What every way starts from.
        load: Loads an artifact so that it can be timed.
        inputs: Arguments of a timed call.
    """

    name: str
    material: Material
    load: Callable[[Path], Model]
    inputs: Mapping[str, np.ndarray[Any, Any]]


def shapes(scratch: Path, wanted: Collection[str]) -> tuple[list[ShapeResult], list[Bar]]:
    """Return the lines of the table, and what is asked of ours.

    Args:
        scratch: An empty folder.
        wanted: Names of `SHAPES`.
    """
    results: list[ShapeResult] = []
    asked: list[Bar] = []
    for make in (SHAPES[name] for name in SHAPES if name in wanted):
        folder = scratch / make.__name__
        folder.mkdir()
        shape = make(folder)
        rows = results_of(shape, folder)
        for row in rows:
            logger.info("%s", row)
        results += rows
        asked += [bar for way in OURS for bar in bars(shape.name, way.mode, rows)]
    return results, asked


def results_of(shape: Shape, scratch: Path) -> list[ShapeResult]:
    """Quantize one model in all ways, and time what came out in turns."""
    folders = {"float32": shape.material.onnx}
    models = {"float32": shape.load(shape.material.onnx)}
    results = [ShapeResult(shape.name, "float32", "float32", "float32")]
    for number, way in enumerate((*OURS, *optimum_ways(("minmax",)))):
        folder = scratch / str(number)
        logger.info("%s, %s", shape.name, way.label)
        try:
            way.write(shape.material, folder)
            models[way.label] = shape.load(folder)
        except REFUSALS as error:
            logger.warning("%s, %s: %s", shape.name, way.label, error)
            results.append(ShapeResult(shape.name, way.label, way.maker, way.mode, error=first_line(error)))
            continue
        folders[way.label] = folder
        results.append(ShapeResult(shape.name, way.label, way.maker, way.mode))
    times = alternate(models, dict.fromkeys(models, shape.inputs), REPEATS, Progress())
    filled = [
        row
        if row.error is not None
        else replace(
            row,
            size_bytes=graph_bytes(folders[row.label]),
            speed=Speed.against(times["float32"], times[row.label]),
        )
        for row in results
    ]
    return [
        row
        if row.speed is None or row.maker != "ours" or (rival := fastest(filled, row.mode)) is None
        else replace(row, against_optimum=Speed.against(times[rival.label], times[row.label]))
        for row in filled
    ]


def fastest(results: Sequence[ShapeResult], mode: str) -> ShapeResult | None:
    """Return the fastest default of optimum in a mode, if there is one."""
    rivals = [row for row in results if row.maker == "optimum" and row.mode == mode and row.speed is not None]
    return min(rivals, key=lambda row: row.speed.latency_ms) if rivals else None


def bars(model: str, mode: Mode, results: Sequence[ShapeResult]) -> list[Bar]:
    """Return what is asked of ours in one mode."""
    own = next(row for row in results if row.maker == "ours" and row.mode == mode)
    rival = fastest(results, mode)
    speed = None if own.against_optimum is None else own.against_optimum.ratio
    sizes = {row.label: row.size_bytes for row in results if row.size_bytes is not None}
    smallest = min(sizes, key=sizes.__getitem__)
    size = None if own.size_bytes is None else WITHIN * sizes[smallest] / own.size_bytes
    return [
        not_below(
            f"{model}, {own.label}: times as fast as optimum's best {mode} default",
            speed,
            {} if rival is None else {rival.label: 1.0},
        ),
        not_below(f"{model}, {own.label}: {WITHIN} times the smallest artifact, over ours", size, {smallest: 1.0}),
    ]


# --- CLIP ------------------------------------------------------------------------------------------------------------


def clip(scratch: Path) -> Shape:
    """Make a CLIP ViT-B/32."""
    checkpoint, onnx = scratch / "checkpoint", scratch / "onnx"
    make_model(checkpoint)
    processor = load_processor(checkpoint)
    ORTModelForZeroShotImageClassification.from_pretrained(checkpoint, export=True).save_pretrained(onnx)
    processor.save_pretrained(onnx)
    rows, inputs = calibration_rows(processor, ROWS)
    material = Material(checkpoint, onnx, None, rows, {"model.onnx": inputs})
    pair = one_pair(processor, quickstart_rows("test"))
    return Shape("CLIP ViT-B/32", material, partial(load, runtime="onnxruntime", threads=THREADS), pair)


# --- Whisper ---------------------------------------------------------------------------------------------------------


class _Transcriber(Model):
    """A Whisper in ONNX Runtime that answers with a fixed number of tokens."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.stock = ORTModelForSpeechSeq2Seq.from_pretrained(folder, session_options=options)
        self.config = self.stock.config
        self.inputs = frozenset({"input_features"})

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        features = torch.from_numpy(inputs["input_features"])
        tokens = self.stock.generate(features, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)
        return {"sequences": tokens.numpy()}


def whisper(scratch: Path) -> Shape:
    """Make a Whisper-tiny, and calibration rows of noise."""
    checkpoint, onnx = scratch / "checkpoint", scratch / "onnx"
    config = WhisperConfig(suppress_tokens=None, begin_suppress_tokens=None)
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(checkpoint)
    processor = WhisperProcessor(WhisperFeatureExtractor(), letters(scratch / "letters"))
    processor.save_pretrained(checkpoint)
    ORTModelForSpeechSeq2Seq.from_pretrained(checkpoint, export=True).save_pretrained(onnx)
    processor.save_pretrained(onnx)
    noise = np.random.default_rng(0).normal(size=(ROWS, 16_000)).astype(np.float32)
    sounds = [{"array": wave.tolist(), "sampling_rate": 16_000} for wave in noise]
    texts = ["what was said"] * ROWS
    features = audio_inputs(processor, sounds)["input_features"]
    tokens = text_inputs(processor, texts)["input_ids"]
    rows = Dataset.from_dict({"audio": sounds, "text": texts})
    material = Material(checkpoint, onnx, None, rows, graph_inputs(onnx, features, tokens))
    return Shape("Whisper-tiny", material, _Transcriber, {"input_features": features[:1]})


def letters(folder: Path) -> WhisperTokenizer:
    """Return a tokenizer of single letters."""
    folder.mkdir()
    tokens = ["<|endoftext|>", *(chr(code) for code in range(33, 127)), "Ġ"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return WhisperTokenizer(str(vocabulary), str(merges))


def graph_inputs(folder: Path, features: np.ndarray[Any, Any], tokens: np.ndarray[Any, Any]) -> dict[str, Dataset]:
    """Return what each graph of a Whisper is given, row by row, when the one before it has run.

    Args:
        folder: The float32 graphs.
        features: Shape (rows, mel bins, frames).
        tokens: Shape (rows, tokens).
    """
    names = ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx")
    sessions = {name: onnxruntime.InferenceSession(folder / name) for name in names}
    found: dict[str, list[dict[str, np.ndarray[Any, Any]]]] = {name: [] for name in names}
    for row in range(len(features)):
        given = {"input_features": features[row : row + 1], "input_ids": tokens[row : row + 1]}
        for name, session in sessions.items():
            wanted = {put.name for put in session.get_inputs()}
            found[name].append({key: array[0] for key, array in given.items() if key in wanted})
            outputs = session.run(None, {key: array for key, array in given.items() if key in wanted})
            made = dict(zip((put.name for put in session.get_outputs()), outputs, strict=True))
            if "last_hidden_state" in made:
                given["encoder_hidden_states"] = made["last_hidden_state"]
            given |= {key.replace("present", "past_key_values"): array for key, array in made.items()}
            if "logits" in made:
                given["input_ids"] = tokens[row : row + 1, -1:]
    return {name: Dataset.from_list(rows).with_format("numpy") for name, rows in found.items()}


SHAPES: dict[str, Callable[[Path], Shape]] = {"clip": clip, "whisper": whisper}


# --- the table -------------------------------------------------------------------------------------------------------


def shapes_table(results: Sequence[ShapeResult]) -> str:
    """Return the lines as a Markdown table; behind a ratio of times stand its quartiles."""
    columns = ("random weights", "way", "bytes", "ms", "float32 / it", "fastest optimum of the mode / it")
    lines = [f"| {' | '.join(columns)} |", "| --- |" + " --- |" * (len(columns) - 1)]
    for row in results:
        if row.speed is None:
            lines.append(f"| {row.model} | {row.label} | {row.error} |" + " |" * (len(columns) - 3))
            continue
        against = "" if row.against_optimum is None else str(row.against_optimum)
        lines.append(
            f"| {row.model} | {row.label} | {row.size_bytes:,} | {row.speed.latency_ms:.2f} | {row.speed} | {against} |"
        )
    return "\n".join(lines)
