"""Promises of the index over a graph and of how linear maps are found in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.onnx_graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime


def test_linear_maps(tmp_path: Path) -> None:
    """A product with a weight is found with its bias and axes: plain, transposed, as `Gemm`; all others are not."""
    import onnx

    from hfcompress.quantization.wiring import Wiring, linear_maps

    nodes = [
        ("MatMul", ["x", "w"], "plain"),
        ("Add", ["b", "plain"], "plain_out"),
        ("Transpose", ["v"], "vt", {"perm": [1, 0]}),
        ("MatMul", ["x", "vt"], "transposed"),
        ("Flatten", ["x"], "flat", {"axis": 2}),
        ("Gemm", ["flat", "v", "b"], "gemm", {"transB": 1}),
        ("Gemm", ["flat", "w"], "halved", {"alpha": 0.5}),
        ("MatMul", ["transposed", "square"], "two_readers"),
        ("Add", ["two_readers", "c"], "one"),
        ("Add", ["two_readers", "c"], "other"),
        ("MatMul", ["plain_out", "x_t"], "of_activations"),
        ("Transpose", ["x"], "x_t", {"perm": [0, 2, 1]}),
    ]
    nodes = [*nodes[:-2], nodes[-1], nodes[-2]]
    weights = {
        "w": np.ones((3, 5)),
        "b": np.ones(5),
        "v": np.ones((5, 3)),
        "square": np.ones((5, 5)),
        "c": np.ones(5),
    }
    ends = {"one": 5, "other": 5}
    nodes = [node for node in nodes if node[2] != "of_activations"]
    model = onnx.load(write_graph(tmp_path / "g.onnx", nodes, weights, 3, ends))
    found = {item.node: item for item in linear_maps(model, Wiring(model))}

    assert list(found) == ["plain", "transposed", "gemm", "two_readers"]
    assert [(item.weight, item.input_axis, item.bias, item.output) for item in found.values()] == [
        ("w", 0, "b", "plain_out"),
        ("v", 1, None, "transposed"),
        ("v", 1, "b", "gemm"),
        ("square", 0, None, "two_readers"),
    ]
    assert {(item.inputs, item.outputs) for item in found.values()} == {(3, 5), (5, 5)}


def test_a_product_of_activations_is_no_linear_map(tmp_path: Path) -> None:
    """Attention scores have no weight, so they are none."""
    import onnx

    from hfcompress.quantization.wiring import Wiring, linear_maps

    nodes = [("Transpose", ["x"], "xt", {"perm": [0, 2, 1]}), ("MatMul", ["x", "xt"], "scores")]
    model = onnx.load(write_graph(tmp_path / "g.onnx", nodes, {}, 3, {"scores": 5}))
    assert list(linear_maps(model, Wiring(model))) == []


def test_subgraphs_read_too() -> None:
    """A tensor that only a branch reads has a reader."""
    import onnx
    from onnx import TensorProto, helper

    from hfcompress.quantization.wiring import Wiring

    put = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Neg", ["hidden"], ["y"])], "branch", [], [put])
    nodes = [
        helper.make_node("Abs", ["x"], ["hidden"]),
        helper.make_node("If", ["flag"], ["z"], "choice", then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "graph", [], [])
    wiring = Wiring(helper.make_model(graph))
    assert [node.name for node in wiring.readers["hidden"]] == ["choice", "choice"]
    assert wiring.only_reader("hidden") is None
    assert isinstance(wiring.producers["hidden"], onnx.NodeProto)
