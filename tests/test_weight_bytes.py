"""Promises of the forecast: the bytes of the quantized graphs are near what was predicted from shapes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transformers import WhisperConfig

import hfcompress
from hfcompress.anatomy import load_config
from hfcompress.contracts import Forecast
from hfcompress.quantization.onnx_options import OnnxRuntimeOptions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]


def graph_bytes(folder: Path) -> int:
    """Return the bytes of all graphs of an artifact."""
    return sum(file.stat().st_size for file in (folder / "onnx").iterdir())


def test_forecast_of_one_file(clip: Path, recipe: Any, quickstart_folder: Path, tmp_path: Path) -> None:  # noqa: ANN401
    """The predicted size of a static dual encoder is within a tenth of what quantization then gives."""
    import datasets

    step = {"use": "quantize", "runtime": "onnxruntime", "mode": "static", "calibration": "rows"}
    data = {**recipe()["data"], "rows": {**recipe()["data"]["test"], "split": "calibration[:8]"}}
    forecast = hfcompress.plan(recipe(data=data, steps=[step])).forecasts[-1]
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="calibration[:8]")
    rows = rows.rename_column("caption", "text").remove_columns("label")
    hfcompress.quantize(clip, output=tmp_path / "out", runtime="onnxruntime", mode="static", calibration=rows)
    assert forecast.size_bytes == pytest.approx(graph_bytes(tmp_path / "out"), rel=0.1)


def test_forecast_of_several_files(tmp_path: Path) -> None:
    """The weights of a decoder, which stand in two files, and its tied embeddings are predicted as they come."""
    from transformers import WhisperForConditionalGeneration

    from hfcompress.quantization.onnxruntime import OnnxRuntimeQuantizer
    from tests.checkpoints import save_checkpoint

    source = save_checkpoint("whisper", tmp_path / "source")
    sizes = {"d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 2000}
    widths = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in WIDTHS.items()}
    config = WhisperConfig(**{**load_config(source.path).to_dict(), **sizes, **widths})
    WhisperForConditionalGeneration(config).save_pretrained(source.path)
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeOptions(runtime="onnxruntime", mode="dynamic"))
    forecast = quantizer.forecast(Forecast(config, "transformers", 1, 4))
    hfcompress.quantize(source.path, output=tmp_path / "out", runtime="onnxruntime", mode="dynamic")
    assert forecast.size_bytes == pytest.approx(graph_bytes(tmp_path / "out"), rel=0.2)


WIDTHS = {"attention_heads": 4, "ffn_dim": 512}
