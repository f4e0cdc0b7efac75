"""What the quantizer needs to know of an OpenVINO graph, and what became of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from openvino import Core

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openvino import Model, Node, Output

__all__ = ["Precisions", "broken_range", "precisions", "products", "read_graph", "weighted"]

_WEIGHTED = {"MatMul": (0, 1), "Convolution": (1,), "GroupConvolution": (1,), "Gather": (0,)}
"""Operators that hold a model's weights → the inputs that can be one."""

_PRODUCTS = {"MatMul", "ScaledDotProductAttention"}
_PASSING = {"Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize", "Transpose"}
"""What stands between a stored weight and the operator that it belongs to."""

_BITS = {"i4": 4, "u4": 4, "i8": 8, "u8": 8}


@dataclass(frozen=True)
class Precisions:
    """How many operators with weights have them in which type, and how many activations are rounded to 8 bits.

    Attributes:
        int4: Operators whose weight is stored in 4 bits.
        int8: Operators whose weight is stored in 8 bits.
        floating: Operators whose weight is stored in floating point.
        activations: Places where activations are rounded.
    """

    int4: int
    int8: int
    floating: int
    activations: int


def read_graph(path: Path) -> Model:
    """Read an `.xml` file and the `.bin` beside it."""
    return Core().read_model(str(path))


def products(graph: Model) -> list[str]:
    """Return the names of the operators that multiply two activations: attention, and the similarity at the end.

    They hold no bytes, and a similarity of 8 bits ties in every ranking.
    """
    return [
        node.get_friendly_name()
        for node in graph.get_ordered_ops()
        if node.get_type_name() in _PRODUCTS and _weight(node) is None
    ]


def weighted(graph: Model) -> list[str]:
    """Return the names of the operators that apply a weight."""
    return [node.get_friendly_name() for node, _ in _weights(graph)]


def precisions(graph: Model) -> Precisions:
    """Count in which types a graph holds its weights."""
    bits = [_BITS.get(weight.get_element_type().get_type_name(), 32) for _, weight in _weights(graph)]
    return Precisions(bits.count(4), bits.count(8), bits.count(32), len(list(_rounded(graph))))


def broken_range(graph: Model) -> str | None:
    """Return the name of an activation whose range is not finite, or `None`."""
    for node in _rounded(graph):
        for place in range(1, 5):
            bound = node.input_value(place).get_node()
            if bound.get_type_name() == "Constant" and not np.isfinite(bound.get_data()).all():
                name: str = node.input_value(0).get_node().get_friendly_name()
                return name
    return None


def _rounded(graph: Model) -> Iterator[Node]:
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and _constant(node.input_value(0)) is None:
            yield node


def _weights(graph: Model) -> Iterator[tuple[Node, Node]]:
    for node in graph.get_ordered_ops():
        if (weight := _weight(node)) is not None:
            yield node, weight


def _weight(node: Node) -> Node | None:
    """Return the stored weight of an operator: a constant of two axes or more that it multiplies by or picks from."""
    for place in _WEIGHTED.get(node.get_type_name(), ()):
        constant = _constant(node.input_value(place))
        if constant is not None and len(constant.get_output_shape(0)) > 1:
            kind = constant.get_element_type().get_type_name()
            if kind in _BITS or constant.get_element_type().is_real():
                return constant
    return None


def _constant(value: Output) -> Node | None:
    """Return the constant that a value is, but for a change of type, scale or shape."""
    node = value.get_node()
    if node.get_type_name() == "Constant":
        return node
    if node.get_type_name() not in _PASSING:
        return None
    # all of them: a scale may stand first, and what it scales be an activation
    behind = [_constant(put) for put in node.input_values()]
    return None if None in behind else behind[0]
