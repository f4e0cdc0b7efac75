"""Promises of the choice of nodes in the export of a real decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hfcompress.contracts import Checkpoint, StepContext
from hfcompress.quantization.onnxruntime import OnnxRuntimeOptions, OnnxRuntimeQuantizer
from tests.families import FAMILIES, build

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from pathlib import Path


def test_logits_of_a_whisper(tmp_path: Path) -> None:
    """Both decoders keep the product of their logits in float, its weight in 8 bits, and the report says so."""
    import onnx

    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    build(FAMILIES["whisper"]).save_pretrained(source)
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeOptions(runtime="onnxruntime", mode="dynamic"))
    detail: Any = quantizer.apply(Checkpoint(source, "transformers"), out, StepContext())
    assert "logits_in_float" not in detail["graphs"]["encoder_model.onnx"]
    for name in ("decoder_model", "decoder_with_past_model"):
        assert detail["graphs"][f"{name}.onnx"]["logits_in_float"] == ["/proj_out/MatMul"]
        graph = onnx.load(out / "onnx" / f"{name}_quantized.onnx").graph
        producers = {output: node for node in graph.node for output in node.output}
        product = producers["logits"]
        assert (product.op_type, producers[product.input[1]].op_type) == ("MatMul", "Mul")
        assert producers[product.input[0]].op_type != "DequantizeLinear"
        matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) > 40]
        assert {tensor.data_type for tensor in matrices} <= {onnx.TensorProto.INT8}
