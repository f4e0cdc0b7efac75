"""Weights stored in 8 bits and computed with in float: of convolutions, look-up tables and the product of the logits.

An 8-bit convolution of ONNX Runtime is slower on the processors measured than a float one whose weights are expanded,
and a look-up computes nothing. So these operators get what an 8-bit weight saves, without what an 8-bit activation
costs; and as no product can saturate, their weights use the whole range on every processor. The product that makes
logits, the largest matrix of a small decoder, is stored so too, because 8-bit activations would make logits tie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["STORED_OPERATORS", "store_weights"]

STORED_OPERATORS = frozenset({"Conv", "Gather"})
"""Operators whose weights are always stored in 8 bits and computed with in float."""

_CHANNELS = {"Conv": "filters", "Gather": "rows", "MatMul": "columns"}

_HIGHEST = 127


def store_weights(model: onnx.ModelProto, nodes: Collection[str], *, per_channel: bool) -> None:
    """Store the weights of the named `Conv`, `Gather` and `MatMul` nodes in 8 bits, symmetric around 0.

    Args:
        model: A graph, changed in place.
        nodes: Names of the nodes.
        per_channel: One scale for each output channel of a convolution or product and each row of a table, instead of
            one for each weight.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    stored: set[str] = set()
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in nodes:
            kept.append(node)
            continue
        gather = node.op_type == "Gather"
        name = node.input[0 if gather else 1]
        by_channel = per_channel and not (gather and _axis(node))
        axis = len(weights[name].dims) - 1 if node.op_type == "MatMul" else 0
        prefix = f"{name}_{_CHANNELS[node.op_type]}{'' if by_channel else '_one_scale'}"
        new = prefix not in stored
        if new:
            stored.add(prefix)
            array, scale = _quantized(numpy_helper.to_array(weights[name]), axis if by_channel else None)
            scale = scale if gather and by_channel else scale.reshape(-1 if by_channel else ())
            graph.initializer.append(numpy_helper.from_array(array, f"{prefix}_quantized"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{prefix}_scale"))
        if gather:
            kept.extend(_looked_up(node, prefix, per_channel=by_channel))
        else:
            kept.extend(_multiplied(node, prefix, axis if by_channel else None, new=new))
    del graph.node[:]
    graph.node.extend(kept)
    ONNXModel(model).clean_initializers()


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _quantized(weight: np.ndarray[Any, Any], channels: int | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a weight in int8, and its scales, one for each channel, in a shape that multiplies it."""
    axes = tuple(axis for axis in range(weight.ndim) if axis != channels)
    largest = np.abs(weight).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest / _HIGHEST, 1.0).astype(np.float32)
    return np.clip(np.rint(weight / scale), -_HIGHEST, _HIGHEST).astype(np.int8), scale


def _multiplied(node: onnx.NodeProto, prefix: str, channels: int | None, *, new: bool) -> Iterator[onnx.NodeProto]:
    """Yield a convolution or a product, after the expansion of its weight."""
    if new:
        expansion = helper.make_node(
            "DequantizeLinear",
            [f"{prefix}_quantized", f"{prefix}_scale"],
            [f"{prefix}_expanded"],
            f"{prefix}_DequantizeLinear",
        )
        if channels is not None:
            expansion.attribute.append(helper.make_attribute("axis", channels))
        yield expansion
    node.input[1] = f"{prefix}_expanded"
    yield node


def _looked_up(node: onnx.NodeProto, prefix: str, *, per_channel: bool) -> Iterator[onnx.NodeProto]:
    """Yield a look-up in 8 bits, and the expansion of the rows that it found."""
    (result,) = node.output
    found, scale = f"{result}_quantized", f"{prefix}_scale"
    node.input[0], node.output[0] = f"{prefix}_quantized", found
    yield node
    if not per_channel:
        yield helper.make_node("DequantizeLinear", [found, scale], [result], f"{node.name}_DequantizeLinear")
        return
    wide, scales = f"{result}_wide", f"{result}_scales"
    yield helper.make_node("Cast", [found], [wide], f"{node.name}_Cast", to=TensorProto.FLOAT)
    yield helper.make_node("Gather", [scale, node.input[1]], [scales], f"{node.name}_Gather_scales", axis=0)
    yield helper.make_node("Mul", [wide, scales], [result], f"{node.name}_Mul_scales")
