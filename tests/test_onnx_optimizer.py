"""Promises of the types that a fused graph gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hfcompress.errors import QuantizationError
from tests.onnx_graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime


def test_every_tensor_has_its_type(tmp_path: Path) -> None:
    """What lies between the inputs and the outputs has a type and a shape, and the weights are there."""
    from hfcompress.quantization.onnx_optimizer import with_types

    nodes = [("MatMul", ["x", "w"], "h"), ("Relu", ["h"], "y")]
    path = write_graph(tmp_path / "g.onnx", nodes, {"w": np.ones((40, 20))}, 40, {"y": 20})
    graph = with_types(path).graph
    shapes = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.value_info}
    assert shapes["h"] == [0, 0, 20]
    assert len(graph.initializer[0].raw_data) == 40 * 20 * 4
    assert [file.name for file in tmp_path.iterdir()] == ["g.onnx"]


def test_a_type_that_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that nobody knows is an error, and nothing is left in the working folder or beside the graph."""
    import onnx

    from hfcompress.quantization.onnx_optimizer import with_types

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write_graph(tmp_path / "there" / "g.onnx", [("Relu", ["x"], "h"), ("Relu", ["h"], "y")], {}, 4, {"y": 4})
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    model.graph.node[0].domain = "no.such.domain"
    model.opset_import.append(onnx.helper.make_opsetid("no.such.domain", 1))
    onnx.save(model, path)
    with pytest.raises(
        QuantizationError, match=r"^ONNX Runtime cannot tell the types of the tensors of g\.onnx, fused: "
    ):
        with_types(path)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["g.onnx"]
