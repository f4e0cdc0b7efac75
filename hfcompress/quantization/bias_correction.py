"""Bias correction: the mean error that quantization adds to a linear map is taken off its bias (Nagel et al. 2019).

The error of a map holds what the quantized maps before it did to its input, so it is measured in the quantized graph,
with the maps before it corrected already: maps at the same depth together, depth after depth. The corrections enter
that graph as inputs, so all depths share one session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hfcompress.quantization.probing import ChannelMeans
from hfcompress.quantization.splicing import replacements
from hfcompress.quantization.wiring import LinearMap, Wiring, linear_maps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from hfcompress.quantization.probing import Batches

    Array: TypeAlias = np.ndarray[Any, Any]

__all__ = ["correct", "corrections"]


def corrections(
    floating: onnx.ModelProto, quantized: onnx.ModelProto, batches: Batches, scratch: Path
) -> dict[str, Array]:
    """Return what to add to the output of each quantized linear map so that its mean is that of the float graph.

    Args:
        floating: The float graph.
        quantized: The same graph, quantized.
        batches: Calibration rows; they pass through the quantized graph once for each depth at which it has maps.
        scratch: A folder for temporary graphs.

    Returns:
        By the node's name, shape (outputs,), float32.
    """
    changed = replacements(floating, quantized)
    maps = {item.node: item for item in linear_maps(floating, Wiring(floating)) if item.node in changed}
    widths = {item.product: item.outputs for item in maps.values()}
    wanted = ChannelMeans(floating, widths, scratch).over(batches)
    running = ChannelMeans(_adjustable(quantized, maps.values()), widths, scratch)
    found = {name: np.zeros(item.outputs, np.float32) for name, item in maps.items()}
    for level in _levels(floating, maps):
        means = running.over(batches, {_input(name): value for name, value in found.items()})
        for name in level:
            product = maps[name].product
            found[name] = (wanted[product] - means[product]).astype(np.float32)
    return found


def correct(floating: onnx.ModelProto, added: Mapping[str, Array]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the float graph with corrections in the biases of its linear maps; a map without a bias gets one.

    Args:
        floating: The float graph; it is left as it was.
        added: What `corrections` gave.

    Returns:
        The graph, to be quantized again, and for each tensor that is new in it the one whose place and range it has.
    """
    model = onnx.ModelProto()
    model.CopyFrom(floating)
    wiring = Wiring(model)
    maps = [item for item in linear_maps(model, wiring) if item.node in added]
    made: dict[str, str] = {}
    adders: dict[int, onnx.NodeProto] = {}
    for item in maps:
        name = f"{item.node}/corrected_bias"
        value = added[item.node] + (0 if item.bias is None else wiring.array(item.bias).reshape(-1))
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        node = wiring.producers[item.output]
        if item.bias is not None:
            node.input[list(node.input).index(item.bias)] = name
        elif node.op_type == "Gemm":
            del node.input[2:]
            node.input.append(name)
        else:
            before = f"{item.product}/without_bias"
            made[before] = item.product
            node.output[0] = before
            adders[id(node)] = helper.make_node("Add", [before, name], [item.product], f"{item.node}/bias")
    if adders:
        _insert(model, adders)
    _drop_unread(model, {item.bias for item in maps if item.bias is not None})
    return model, made


def _adjustable(quantized: onnx.ModelProto, maps: Iterable[LinearMap]) -> onnx.ModelProto:
    """Return the quantized graph with an input for each map that is added to its product."""
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    producers = {name: node for node in model.graph.node for name in node.output}
    adders = {}
    for item in maps:
        node, before = producers[item.product], f"{item.product}/as_quantized"
        node.output[list(node.output).index(item.product)] = before
        adders[id(node)] = helper.make_node("Add", [before, _input(item.node)], [item.product])
        put = helper.make_tensor_value_info(_input(item.node), TensorProto.FLOAT, [item.outputs])
        model.graph.input.append(put)
    _insert(model, adders)
    return model


def _insert(model: onnx.ModelProto, after: Mapping[int, onnx.NodeProto]) -> None:
    """Put nodes behind those whose `id` is given."""
    nodes = [item for node in model.graph.node for item in (node, after.get(id(node))) if item is not None]
    copies = []
    for node in nodes:  # deleting the list empties the nodes in it
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copies.append(copied)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _drop_unread(model: onnx.ModelProto, names: set[str]) -> None:
    """Remove those of the named initializers that nothing reads any more."""
    read = Wiring(model).readers
    for place in reversed(range(len(model.graph.initializer))):
        name = model.graph.initializer[place].name
        if name in names and not read.get(name):
            del model.graph.initializer[place]


def _levels(floating: onnx.ModelProto, maps: Mapping[str, LinearMap]) -> list[list[str]]:
    """Return the maps by their depth, the most maps on any way from the graph's inputs, shallow ones first."""
    depths: dict[str, int] = {}
    levels: dict[int, list[str]] = {}
    for node in floating.graph.node:
        depth = max((depths.get(name, 0) for name in node.input), default=0)
        if node.name in maps:
            depth += 1
            levels.setdefault(depth, []).append(node.name)
        depths.update(dict.fromkeys(node.output, depth))
    return [levels[depth] for depth in sorted(levels)]


def _input(node: str) -> str:
    return f"correction/{node}"
