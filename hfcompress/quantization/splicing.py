"""Which nodes of a quantized graph do the work of one node of the float graph, and graphs that hold both.

A quantizer replaces a node by several (`QuantizeLinear`, `DequantizeLinear`, integer products, casts) that lead from
tensors of the float graph to a tensor of the float graph. They are found by walking back from the one to the others,
whatever the format. So the quantized form of a node, with the very scales and kernels of the artifact, can run inside
of the float graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["gate", "replacements", "switched"]


def replacements(floating: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return, by the name of each float node that quantization changed, the nodes that now make its output.

    The inputs of a list's nodes are tensors that the float graph makes or is given, initializers of either graph, and
    outputs of earlier nodes in the list.
    """
    made = {name for node in floating.graph.node for name in node.output} | {put.name for put in floating.graph.input}
    producers = {name: node for node in quantized.graph.node for name in node.output if name}
    found = {}
    for node in floating.graph.node:
        output = node.output[0]
        if len(node.output) != 1 or output not in producers or not node.name:
            continue
        cone = _cone(output, producers, made)
        if len(cone) > 1 or not _same(cone[0], node):
            found[node.name] = cone
    return found


def switched(
    floating: onnx.ModelProto, quantized: onnx.ModelProto, nodes: Mapping[str, list[onnx.NodeProto]]
) -> onnx.ModelProto:
    """Return the float graph with a Boolean input for each node that says which of its two forms runs.

    Args:
        floating: The float graph.
        quantized: The graph that the replacements come from.
        nodes: Replacements by the name of the float node; `gate` names the input of each.
    """
    model = _joined(floating, quantized)
    kept = list(model.graph.node)
    del model.graph.node[:]
    for node in kept:
        if node.name not in nodes:
            model.graph.node.append(node)
            continue
        flag, output = gate(node.name), node.output[0]
        branches = {
            "then_branch": _branch(nodes[node.name], output, f"quantized/{node.name}"),
            "else_branch": _branch([node], output, f"float/{node.name}"),
        }
        model.graph.node.append(helper.make_node("If", [flag], [output], node.name, **branches))
        model.graph.input.append(helper.make_tensor_value_info(flag, TensorProto.BOOL, []))
    return model


def gate(node: str) -> str:
    """Return the name of the Boolean input that says whether a node runs in its quantized form."""
    return f"gate/{node}"


def _cone(output: str, producers: Mapping[str, onnx.NodeProto], made: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes between a tensor and the float graph's tensors before it, each behind those that it reads.

    A quantizer leaves its nodes in any order; ONNX Runtime sorts those of a graph, and not those of a branch.
    """
    cone: dict[int, onnx.NodeProto] = {}
    waiting = [(producers[output], False)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            cone[id(node)] = node
        elif id(node) not in cone:
            waiting.append((node, True))
            waiting.extend((producers[name], False) for name in node.input if name in producers and name not in made)
    return list(cone.values())


def _same(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    return one.op_type == other.op_type and list(one.input) == list(other.input)


def _joined(floating: onnx.ModelProto, quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Return the float graph with the initializers of both and the operator sets that the quantized one asks for."""
    model = onnx.ModelProto()
    model.CopyFrom(floating)
    known = {tensor.name for tensor in floating.graph.initializer}
    model.graph.initializer.extend(tensor for tensor in quantized.graph.initializer if tensor.name not in known)
    domains = {item.domain: item for item in model.opset_import}
    for item in quantized.opset_import:
        if item.domain in domains:
            domains[item.domain].version = max(item.version, domains[item.domain].version)
        else:
            model.opset_import.append(item)
    model.ir_version = max(floating.ir_version, quantized.ir_version)
    return model


def _renamed(nodes: Iterable[onnx.NodeProto], prefix: str) -> list[onnx.NodeProto]:
    """Return copies of nodes whose outputs, and what reads them among the nodes, have names of their own."""
    nodes = list(nodes)
    own = {name for node in nodes for name in node.output}
    copies = []
    for node in nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = f"{prefix}/{node.name}"
        for names in (copied.input, copied.output):
            renamed = [f"{prefix}/{name}" if name in own else name for name in names]
            del names[:]
            names.extend(renamed)
        copies.append(copied)
    return copies


def _branch(nodes: Iterable[onnx.NodeProto], output: str, prefix: str) -> onnx.GraphProto:
    copies = _renamed(nodes, prefix)
    put = helper.make_tensor_value_info(f"{prefix}/{output}", TensorProto.FLOAT, None)
    return helper.make_graph(copies, prefix, [], [put])
