"""Promises of the names of an export's files: transformers.js finds each, and what it does not find is not promised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import hfcompress
from hfcompress.graph_names import graph_file, runs_in_transformers_js

if TYPE_CHECKING:
    from pathlib import Path

FOUND = [
    ["onnx/model.onnx"],
    ["onnx/model_fp16.onnx"],
    ["onnx/model_quantized.onnx"],
    ["onnx/model_q4.onnx"],
    ["onnx/text_model_q4.onnx", "onnx/vision_model_q4.onnx"],
    ["onnx/text_model_quantized.onnx", "onnx/audio_model_quantized.onnx"],
]
NOT_FOUND = [
    ["model.onnx"],
    ["onnx/model_optimized.onnx"],
    ["onnx/text_model.onnx"],
    ["onnx/text_model.onnx", "onnx/vision_model_q4.onnx"],
    ["onnx/encoder_model.onnx", "onnx/decoder_model.onnx"],
    ["openvino_model.xml"],
]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("float16", "vision_model_fp16.onnx"), ("int8", "vision_model_quantized.onnx"), ("int4", "vision_model_q4.onnx")],
)
def test_suffix_tells_the_weights(weights: str, expected: str) -> None:
    """Each type of weights has the suffix that transformers.js's `dtype` of it looks for."""
    assert graph_file("vision_model", weights) == expected  # type: ignore[arg-type] # cases of the table


@pytest.mark.parametrize("files", FOUND, ids=" ".join)
def test_what_transformers_js_finds(files: list[str]) -> None:
    """A whole model, or both of its towers, in weights of one type, under `onnx/`."""
    assert runs_in_transformers_js([*files, "config.json"])


@pytest.mark.parametrize("files", NOT_FOUND, ids=" ".join)
def test_what_transformers_js_does_not_find(files: list[str]) -> None:
    """Another folder or suffix, half a model, towers of different types, decoders in two files."""
    assert not runs_in_transformers_js(files)


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("layout", "weights", "files"),
    [
        ("combined", "int4", ["model_q4.onnx"]),
        ("towers", "int4", ["text_model_q4.onnx", "vision_model_q4.onnx"]),
        ("combined", "int8", ["model_quantized.onnx"]),
    ],
)
def test_quantized_files_have_the_names(
    clip: Path, tmp_path: Path, layout: str, weights: str, files: list[str]
) -> None:
    """Quantized files are named for their weights, and hfcompress loads them under that name."""
    options = {"mode": "weight_only", "weights": weights, "layout": layout}
    hfcompress.quantize(clip, runtime="onnxruntime", output=tmp_path / "out", **options)
    written = sorted(file.name for file in (tmp_path / "out" / "onnx").glob("*.onnx"))

    assert written == files
    assert runs_in_transformers_js(f"onnx/{name}" for name in written)
    assert hfcompress.load(tmp_path / "out") is not None
