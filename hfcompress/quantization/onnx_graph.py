"""What the quantizer needs to know of an ONNX graph, and the form in which it reads one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel

from hfcompress.errors import QuantizationError
from hfcompress.runtimes.onnx_files import EXTERNAL_DATA_BYTES, save_graph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

__all__ = [
    "FLOAT_OUTPUT",
    "Operators",
    "activations",
    "check_weights",
    "is_logits",
    "load_graph",
    "logit_products",
    "prepare",
    "survey",
]

_SUBGRAPHS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_WAS_GEMM = "made from a Gemm"
"""What the documentation of a product says that `prepare` made, so that a recipe can tell it from others."""
_FORMS = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that give what they read first, in another form."""
_SCALES = frozenset({"Add", "Mul", "Div"})
"""Operators that shift or scale an activation where the other thing that they read is a constant."""
_PRODUCTS = ("MatMul", "Gemm", "Conv")

FLOAT_OUTPUT = frozenset({"MatMul", "Gemm"})
"""Operators whose result is not quantized, because what follows it (a bias, a residual) is added in float."""


@dataclass(frozen=True)
class Operators:
    """The nodes of a graph whose operator can be quantized.

    Attributes:
        weighted: Names of those that apply a weight to an activation.
        unweighted: Names of those that multiply two activations: attention scores, and the similarity of a dual
            encoder. They hold no bytes, and a similarity of 8 bits ties in every ranking.
    """

    weighted: tuple[str, ...]
    unweighted: tuple[str, ...]


def survey(path: Path, operators: Iterable[str]) -> Operators:
    """Sort the nodes of the given operator types by whether one of their inputs is a weight.

    Operators that are neither products nor look-ups ("Add", "Softmax") have no such distinction and count as weighted.
    A product that was a `Gemm` before `prepare` is one here.
    """
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in {"Transpose", "Identity"} and set(node.input) <= constants:
            constants.update(node.output)
    wanted = set(operators)
    weighted: list[str] = []
    unweighted: list[str] = []
    for node in graph.node:
        if ("Gemm" if node.doc_string == _WAS_GEMM else node.op_type) in wanted:
            read = node.input[:1] if node.op_type == "Gather" else node.input[:2]
            free = node.op_type not in _PRODUCTS and node.op_type != "Gather"
            (weighted if free or constants & set(read) else unweighted).append(node.name)
    return Operators(tuple(weighted), tuple(unweighted))


def activations(path: Path, nodes: Collection[str]) -> frozenset[str]:
    """Return the tensors that static quantization gives a range: what the named nodes read, and what they give.

    A product's own result stays in float.
    """
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found: set[str] = set()
    for node in graph.node:
        if node.name in nodes:
            found.update(name for name in node.input if name and name not in weights)
            found.update(() if node.op_type in FLOAT_OUTPUT else node.output)
    return frozenset(found)


def is_logits(output: str) -> bool:
    """Whether an output of a graph, by its name, holds logits."""
    return output.startswith("logits")


def load_graph(path: Path) -> onnx.ModelProto:
    """Return a graph with all its weights.

    Raises:
        QuantizationError: The file is no ONNX graph, or its weights are not beside it.
    """
    try:
        return onnx.load(path)
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError, DecodeError) as error:
        msg = f"{path.name} cannot be read as an ONNX graph: {error}"
        raise QuantizationError(msg) from error


def logit_products(path: Path) -> frozenset[str]:
    """Return the names of the products with a weight whose result, with a bias or in another shape, is a logit output.

    Args:
        path: A graph in the form that `prepare` gives.
    """
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    for put in graph.output:
        name = put.name if is_logits(put.name) else None
        while name in producers:
            node = producers[name]
            read = [other for other in node.input if other and other not in constants]
            if node.op_type == "MatMul" and node.input[1] in constants:
                found.add(node.name)
            passes = node.op_type in _FORMS or (node.op_type in _SCALES and len(read) == 1)
            name = read[0] if passes and read else None
    return frozenset(found)


def check_weights(path: Path, nodes: Collection[str]) -> None:
    """Check that the weights which the named nodes read are finite.

    Quantized, a weight that is not a number becomes 0 and one beyond the type spoils its whole channel. Only what is
    quantized is looked at, for a mask is infinite on purpose.

    Raises:
        QuantizationError: One is not; the text names it and the node.
    """
    graph = load_graph(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        for name in node.input if node.name in nodes else ():
            if name in weights:
                broken = int((~np.isfinite(numpy_helper.to_array(weights[name]))).sum())
                if broken:
                    msg = (
                        f"{broken:,} values of the weight {name}, which {node.name} of {path.name} reads, are not "
                        f"finite, so they cannot be quantized; look for broken weights in the model"
                    )
                    raise QuantizationError(msg)


def prepare(path: Path, limit_bytes: int = EXTERNAL_DATA_BYTES) -> None:
    """Rewrite a float32 graph in place, in the form that quantization reads.

    Every node gets a name, transposed and copied weights become weights, and `Gemm` becomes `MatMul` and `Add`: one
    kind of product to quantize. What the graph computes stays the same.

    Raises:
        QuantizationError: The file cannot be read, or the graph has subgraphs, whose nodes are out of reach.
    """
    model = load_graph(path)
    nested = sorted({node.op_type for node in model.graph.node} & _SUBGRAPHS)
    if nested:
        msg = (
            f"{path.name} has subgraphs ({', '.join(nested)}), whose nodes ONNX Runtime does not quantize; "
            "export the model without them (optimum: no_post_process)"
        )
        raise QuantizationError(msg)
    _name_nodes(model.graph)
    _fold_copies(model.graph)
    wrapped = ONNXModel(model)
    names = {node.name for node in model.graph.node}
    wrapped.replace_gemm_with_matmul()
    for node in wrapped.model.graph.node:
        if node.op_type == "MatMul" and node.name not in names:
            node.doc_string = _WAS_GEMM
    wrapped.clean_initializers()
    save_graph(wrapped.model, path, limit_bytes)


def _name_nodes(graph: onnx.GraphProto) -> None:
    seen = {node.name for node in graph.node}
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = next(
                name for name in (f"{node.op_type}_{index}{'_' * more}" for more in range(99)) if name not in seen
            )
            seen.add(node.name)
        taken.add(node.name)


def _fold_copies(graph: onnx.GraphProto) -> None:
    """Replace a `Transpose` or `Identity` of a weight by its result."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type not in {"Transpose", "Identity"} or node.input[0] not in weights:
            kept.append(node)
            continue
        array = numpy_helper.to_array(weights[node.input[0]])
        if node.op_type == "Transpose":
            axes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
            array = np.ascontiguousarray(np.transpose(array, axes))
        weights[node.output[0]] = numpy_helper.from_array(array, node.output[0])
        graph.initializer.append(weights[node.output[0]])
    del graph.node[:]
    graph.node.extend(kept)
