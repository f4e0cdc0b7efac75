"""The size of quantized weights, predicted from a model's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import meta_model
from hfcompress.runtimes.onnx_export import PAST, route

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hfcompress.quantization.onnx_options import OnnxRuntimeOptions

__all__ = ["WeightBytes", "weight_bytes"]

_SCALE_BYTES = 4
_FLOAT_BYTES = 4
_NODE_BYTES = 5_100
"""What the nodes of a graph take for each weight that they quantize: measured in the graphs of two small CLIP."""
_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_HALVES = {"encoder": False, "vision_model": False, "decoder": True, "text_decoder": True}
"""Names under which models hold their two halves → whether it is the one that writes."""


@dataclass(frozen=True)
class WeightBytes:
    """What quantization makes of a model's weights.

    Attributes:
        weights: Number of weights that it reaches.
        size_bytes: Their size afterwards, in all files, scales included.
        other_bytes: Size of everything else in all files: what stays in float, and the nodes.
    """

    weights: int
    size_bytes: int
    other_bytes: int


def weight_bytes(config: PretrainedConfig, options: OnnxRuntimeOptions) -> WeightBytes:
    """Return how many weights the options reach, their bytes, and the bytes of everything else.

    The weights of a decoder stand in two files, one for the first token and one for those that follow; a table that is
    also the last product (tied embeddings) stands in a graph as both.
    """
    model = meta_model(config)
    way = route(config)
    twice = way.has_several_files and (way.export is not None or way.task.endswith(PAST))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    reached: dict[int, int] = {}
    size = nodes = 0
    seen: set[tuple[int, bool]] = set()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is None or (key := (id(weight), isinstance(module, torch.nn.Embedding))) in seen:
            continue
        if (one := _bytes(module, weight, options)) is not None:
            seen.add(key)
            reached[id(weight)] = weight.numel()
            files = 2 if twice and _writes(names[id(weight)]) else 1
            size += one * files
            nodes += _NODE_BYTES * files
    left = sum(
        parameter.numel() * (2 if twice and _writes(name) else 1)
        for name, parameter in model.named_parameters()
        if id(parameter) not in reached
    )
    return WeightBytes(sum(reached.values()), size, _FLOAT_BYTES * left + nodes)


def _writes(name: str) -> bool:
    """Whether a parameter is part of what writes: not of the encoder."""
    return next((_HALVES[part] for part in name.split(".") if part in _HALVES), True)


def _bytes(module: torch.nn.Module, weight: torch.Tensor, options: OnnxRuntimeOptions) -> int | None:
    """Return the bytes of a layer's quantized weight, `None` where it stays in float."""
    operators = set(options.operators)
    if isinstance(module, torch.nn.Linear) and operators & {"MatMul", "Gemm"}:
        return _product_bytes(weight, options)
    if (isinstance(module, torch.nn.Embedding) and "Gather" in operators) or (
        isinstance(module, _CONVOLUTIONS) and "Conv" in operators
    ):
        return weight.numel() + _SCALE_BYTES * (weight.shape[0] if options.per_channel else 1)
    return None


def _product_bytes(weight: torch.Tensor, options: OnnxRuntimeOptions) -> int:
    """Return the bytes of a linear layer's weight, shape (out, in)."""
    rows, columns = weight.shape
    if options.mode != "weight_only":
        return weight.numel() + (_SCALE_BYTES + 1) * (rows if options.per_channel else 1)
    bits = 4 if options.weights == "int4" else 8
    blocks = rows * -(-columns // options.block_size)
    return blocks * (options.block_size + 1) * bits // 8 + blocks * _SCALE_BYTES
