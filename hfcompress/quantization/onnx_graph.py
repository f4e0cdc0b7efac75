"""What the quantizer needs to know of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Operators", "survey"]


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
    """Sort the nodes of the given operator types by whether one of their inputs is a weight."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in {"Transpose", "Identity"} and set(node.input) <= constants:
            constants.update(node.output)
    wanted = set(operators)
    weighted: list[str] = []
    unweighted: list[str] = []
    for node in graph.node:
        if node.op_type in wanted:
            read = node.input[:1] if node.op_type == "Gather" else node.input[:2]
            (weighted if constants & set(read) else unweighted).append(node.name)
    return Operators(tuple(weighted), tuple(unweighted))
