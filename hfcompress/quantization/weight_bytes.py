"""The size of quantized weights, predicted from a model's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import meta_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfcompress.quantization.onnx_options import OnnxRuntimeOptions

__all__ = ["WeightBytes", "weight_bytes"]

_SCALE_BYTES = 4


@dataclass(frozen=True)
class WeightBytes:
    """What quantization makes of the weights it reaches.

    Attributes:
        weights: Number of weights that it reaches.
        size_bytes: Their size afterwards, scales included.
    """

    weights: int
    size_bytes: int


def weight_bytes(config: PretrainedConfig, options: OnnxRuntimeOptions) -> WeightBytes:
    """Return how many weights the options reach, and their bytes."""
    operators = set(options.operators)
    weights = size = 0
    seen: set[int] = set()
    for module in meta_model(config).modules():
        weight = getattr(module, "weight", None)
        if weight is None or id(weight) in seen:
            continue
        if isinstance(module, torch.nn.Linear) and operators & {"MatMul", "Gemm"}:
            size += _product_bytes(weight, options)
        elif (isinstance(module, torch.nn.Embedding) and "Gather" in operators) or (
            isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)) and "Conv" in operators
        ):
            size += weight.numel() + _SCALE_BYTES * (weight.shape[0] if options.per_channel else 1)
        else:
            continue
        seen.add(id(weight))
        weights += weight.numel()
    return WeightBytes(weights, size)


def _product_bytes(weight: torch.Tensor, options: OnnxRuntimeOptions) -> int:
    """Return the bytes of a linear layer's weight, shape (out, in)."""
    rows, columns = weight.shape
    if options.mode != "weight_only":
        return weight.numel() + (_SCALE_BYTES + 1) * (rows if options.per_channel else 1)
    bits = 4 if options.weights == "int4" else 8
    blocks = rows * -(-columns // options.block_size)
    return blocks * (options.block_size + 1) * bits // 8 + blocks * _SCALE_BYTES
