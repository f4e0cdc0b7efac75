"""Promises of the fusion of nodes: fewer of them, the same outputs, and a type for each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hfcompress.anatomy import load_config
from hfcompress.contracts import Checkpoint
from hfcompress.errors import QuantizationError
from tests.families import FAMILIES
from tests.onnx_graphs import run, write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]


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


def test_fused_graph_is_the_same(clip: Path, tmp_path: Path) -> None:
    """Nodes are fused in place, weights stay in products of their own, and the outputs are those of before."""
    import onnx

    from hfcompress.quantization.onnx_optimizer import optimize
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    OnnxRuntime().export(Checkpoint(clip, "transformers"), tmp_path / "out", "towers")
    graph = tmp_path / "out" / "onnx" / "vision_model.onnx"
    config = load_config(clip)
    side, channels = config.vision_config.image_size, config.vision_config.num_channels
    batch = {"pixel_values": np.random.default_rng(0).normal(size=(2, channels, side, side)).astype(np.float32)}
    before, expected = [node.op_type for node in onnx.load(graph).graph.node], run(graph, batch)
    optimize([graph], config, "O2")
    after, found = [node.op_type for node in onnx.load(graph).graph.node], run(graph, batch)

    assert len(after) < len(before)
    assert after.count("MatMul") + after.count("Gemm") == before.count("MatMul") + before.count("Gemm")
    assert not {"Attention", "EmbedLayerNormalization"} & set(after)
    for value, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-4)
    assert sorted(file.name for file in graph.parent.iterdir()) == ["text_model.onnx", "vision_model.onnx"]


def test_unknown_architecture_changes_nothing(tmp_path: Path) -> None:
    """An architecture that optimum does not know is refused before any graph is read."""
    from hfcompress.quantization.onnx_optimizer import optimize

    graph = write_graph(tmp_path / "g.onnx", [("MatMul", ["x", "w"], "y")], {"w": np.eye(4)}, 4, {"y": 4})
    content = graph.read_bytes()
    with pytest.raises(QuantizationError, match=r"^optimize: optimum's ORTOptimizer does not know 'siglip' models; it"):
        optimize([graph], FAMILIES["siglip"].config(), "O1")
    assert graph.read_bytes() == content
