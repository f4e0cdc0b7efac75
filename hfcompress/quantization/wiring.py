"""Who makes and who reads each tensor of an ONNX graph, and its linear maps."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

__all__ = ["LinearMap", "Wiring", "linear_maps"]


_SHAPE_ONLY = {"Shape", "Size"}
"""They look at a tensor's shape and never at its values."""


@dataclass(frozen=True)
class LinearMap:
    """A product of an activation with a weight matrix, and the bias that is added to it.

    Attributes:
        node: Name of the `MatMul` or `Gemm`.
        activation: The tensor that it reads, channels last.
        weight: Name of the initializer with the weight.
        input_axis: Axis of the weight that runs over the input channels; the other one runs over the outputs.
        product: The tensor that the node makes.
        output: The tensor with the bias added: `product` where nothing is added, or where a `Gemm` does it.
        bias: Name of the initializer with the bias, of shape (outputs,), if there is one.
        inputs: Number of input channels.
        outputs: Number of output channels.
    """

    node: str
    activation: str
    weight: str
    input_axis: int
    product: str
    output: str
    bias: str | None
    inputs: int
    outputs: int


class Wiring:
    """An index over the main graph of a model. A change of the model makes it stale.

    Attributes:
        initializers: Each initializer by its name.
        producers: The node that makes a tensor, by the tensor's name.
        readers: The nodes that read a tensor's values, by its name, once for each input; a node with subgraphs reads
            all that these name.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            if node.op_type in _SHAPE_ONLY:
                continue
            for name in (*node.input, *_captured(node)):
                self.readers[name].append(node)
        self.outputs = {put.name for put in model.graph.output}

    def vector(self, name: str, size: int) -> bool:
        """Whether a name is that of a float initializer with `size` values along its last axis and 1 along others."""
        tensor = self.initializers.get(name)
        return (
            tensor is not None
            and tensor.data_type == onnx.TensorProto.FLOAT
            and len(tensor.dims) >= 1
            and list(tensor.dims) == [1] * (len(tensor.dims) - 1) + [size]
        )

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return the values of an initializer."""
        return numpy_helper.to_array(self.initializers[name])

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that reads a tensor where exactly one does and the graph does not give it out."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def linear_maps(model: onnx.ModelProto, wiring: Wiring) -> Iterator[LinearMap]:
    """Yield each product of an activation with a two-dimensional float weight, in the order of the graph.

    A weight may stand behind a `Transpose`. A `Gemm` counts where it computes X W + b: without a transposed activation
    and with both factors 1.
    """
    for node in model.graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or node.domain not in {"", "ai.onnx"}:
            continue
        found = _weight(node.input[1], wiring)
        if found is None or node.input[0] in wiring.initializers:
            continue
        weight, input_axis = found
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            continue
        if attributes.get("transB", 0):
            input_axis = 1 - input_axis
        dims = wiring.initializers[weight].dims
        outputs, product = int(dims[1 - input_axis]), node.output[0]
        if node.op_type == "Gemm":
            added = node.input[2] if len(node.input) > 2 and node.input[2] else None  # noqa: PLR2004 - A, B and C
            if added is not None and not wiring.vector(added, outputs):
                continue
            output, bias = product, added
        else:
            output, bias = _bias(product, outputs, wiring)
        yield LinearMap(
            node.name, node.input[0], weight, input_axis, product, output, bias, int(dims[input_axis]), outputs
        )


def _weight(name: str, wiring: Wiring) -> tuple[str, int] | None:
    """Return the initializer behind a weight and which of its axes is the first of the weight that is read."""
    axis = 0
    while name not in wiring.initializers:
        node = wiring.producers.get(name)
        if node is None or node.op_type not in {"Transpose", "Identity"}:
            return None
        if node.op_type == "Transpose":
            permutation = next((list(item.ints) for item in node.attribute if item.name == "perm"), [1, 0])
            if permutation == [1, 0]:
                axis = 1 - axis
        name = node.input[0]
    tensor = wiring.initializers[name]
    is_matrix = len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT  # noqa: PLR2004
    return (name, axis) if is_matrix else None


def _bias(product: str, outputs: int, wiring: Wiring) -> tuple[str, str | None]:
    """Return the tensor with the bias added to a product, and the bias."""
    reader = wiring.only_reader(product)
    if reader is not None and reader.op_type == "Add":
        added = next((name for name in reader.input if name != product), product)
        if wiring.vector(added, outputs):
            return reader.output[0], added
    return product, None


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every name that the subgraphs of a node read."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _captured(inner)
