"""Promises of the predicted size of quantized weights."""

from __future__ import annotations

import pytest
import torch

from hfcompress.anatomy import meta_model
from hfcompress.quantization.onnx_options import OnnxRuntimeOptions
from hfcompress.quantization.weight_bytes import WeightBytes, weight_bytes
from tests.families import FAMILIES

CONFIG = FAMILIES["clip"].config()
SHAPES = {
    kind: [module.weight.shape for module in meta_model(CONFIG).modules() if isinstance(module, kind)]
    for kind in (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv2d)
}


@pytest.mark.parametrize(
    ("operator", "kind", "scales_of_a_channel"),
    [("Gather", torch.nn.Embedding, 4), ("Conv", torch.nn.Conv2d, 4), ("MatMul", torch.nn.Linear, 5)],
)
@pytest.mark.parametrize("per_channel", [True, False])
def test_eight_bits(
    operator: str,
    kind: type[torch.nn.Module],
    scales_of_a_channel: int,
    per_channel: bool,  # noqa: FBT001 - a case of the table
) -> None:
    """A byte for each weight, and a scale for each channel or for all; products have a zero point with it."""
    options = OnnxRuntimeOptions(runtime="onnxruntime", mode="dynamic", operators=(operator,), per_channel=per_channel)
    count = sum(shape.numel() for shape in SHAPES[kind])
    scales = sum(shape[0] if per_channel else 1 for shape in SHAPES[kind])
    assert weight_bytes(CONFIG, options) == WeightBytes(count, count + scales_of_a_channel * scales)


@pytest.mark.parametrize(("weights", "bits"), [("int4", 4), ("int8", 8)])
def test_blocks(weights: str, bits: int) -> None:
    """The last block of a row is filled up; each has a scale of 4 bytes and a zero point of its own width."""
    options = OnnxRuntimeOptions(
        runtime="onnxruntime", mode="weight_only", weights=weights, operators=("MatMul",), block_size=32
    )
    blocks = [shape[0] * -(-shape[1] // 32) for shape in SHAPES[torch.nn.Linear]]
    expected = sum(count * 33 * bits // 8 + 4 * count for count in blocks)
    assert weight_bytes(CONFIG, options).size_bytes == expected
