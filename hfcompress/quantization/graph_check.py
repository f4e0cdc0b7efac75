"""Whether a graph was quantized as it was asked to be: ONNX Runtime's quantizers pass over nodes without an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfcompress.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx

__all__ = ["check_quantized", "check_types"]

_PRODUCTS = frozenset({"MatMul", "Gemm"})


def check_types(graph: onnx.GraphProto, types: Mapping[str, onnx.ValueInfoProto], computed: Collection[str]) -> None:
    """Check that the type of everything that the named nodes read is known.

    Args:
        graph: A float32 graph.
        types: Name of a tensor → what ONNX's inference says of it.
        computed: Names of the nodes to be quantized.

    Raises:
        QuantizationError: ONNX's inference did not find a type; the text names the first such node.
    """
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.name not in computed:
            continue
        for name in node.input:
            if name and name not in weights and not _is_typed(types.get(name)):
                msg = (
                    f"the type of {name}, which node {node.name} ({node.op_type}) reads, cannot be inferred, so ONNX "
                    "Runtime would leave the node in float; name the node in `exclude`, or look at the export for an "
                    "operator that ONNX does not know"
                )
                raise QuantizationError(msg)


def _is_typed(info: onnx.ValueInfoProto | None) -> bool:
    return info is not None and info.type.HasField("tensor_type") and info.type.tensor_type.elem_type != 0


def check_quantized(graph: onnx.GraphProto, computed: Mapping[str, str]) -> None:
    """Check that the nodes that were to compute in low precision do so.

    Args:
        graph: The quantized graph.
        computed: Name → operator type of the nodes that were to be quantized.

    Raises:
        QuantizationError: Some still read floats alone; the text names them.
    """
    expanded = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    left = []
    for node in graph.node:
        if computed.get(node.name) != node.op_type:
            continue  # not asked for, or replaced by a node of another type
        small = [name in expanded for name in node.input]
        if not (all(small[:2]) if node.op_type in _PRODUCTS else any(small)):
            left.append(f"{node.name} ({node.op_type})")
    if left:
        msg = (
            f"ONNX Runtime's quantizer left {len(left)} of {len(computed)} nodes in float: {', '.join(left[:5])}"
            f"{', ...' if len(left) > 5 else ''}; take their type out of `operators`, or name them in `exclude`"  # noqa: PLR2004
        )
        raise QuantizationError(msg)
