"""Promises of the look at a quantized graph: what ONNX Runtime's quantizers pass over is an error that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hfcompress.errors import QuantizationError

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from hfcompress.quantization.graph_quantizer import GraphSettings, Mode

ROWS = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def save(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Save a graph of some nodes from `x` to `y`, with the weight `w`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 8]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    shape = numpy_helper.from_array(np.asarray([-1, 8]), "shape")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, shape]), opset_imports=opsets, ir_version=9
    )
    onnx.save(model, path)
    return path


def settings(mode: Mode, *computed: str) -> GraphSettings:
    """Return the settings that quantize the named nodes."""
    from hfcompress.quantization.graph_quantizer import GraphSettings

    return GraphSettings(mode, "int8", "uint8", True, True, 32, frozenset(computed), frozenset())  # noqa: FBT003


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_type_that_cannot_be_inferred(mode: Mode, tmp_path: Path) -> None:
    """A product behind an operator that ONNX does not know is not left in float in silence."""
    from onnx import helper

    from hfcompress.quantization.graph_quantizer import quantize_graph
    from hfcompress.quantization.ranges import Uncalibrated, calibrate

    graph = save(
        tmp_path / "g.onnx",
        helper.make_node("Gelu", ["x"], ["hidden"], "gelu", domain="com.microsoft"),
        helper.make_node("MatMul", ["hidden", "w"], ["y"], "product"),
    )
    wanted = Uncalibrated(graph, frozenset({"x"}))
    ranges = calibrate({"g": wanted}, lambda: [("g", {"x": ROWS})], "minmax", 99.0, tmp_path)["g"].tensors
    out = tmp_path / "out.onnx"
    with pytest.raises(
        QuantizationError, match=r"^the type of hidden, which node product \(MatMul\) reads, cannot be inferred, so"
    ):
        quantize_graph(graph, settings(mode, "product"), ranges, out)
    assert not out.exists()


def test_a_node_that_the_quantizer_passes_over(tmp_path: Path) -> None:
    """A reshape of floats, which ONNX Runtime quantizes only between quantized nodes, is named if asked for."""
    from onnx import helper

    from hfcompress.quantization.graph_quantizer import quantize_graph
    from hfcompress.quantization.ranges import Uncalibrated, calibrate

    graph = save(
        tmp_path / "g.onnx",
        helper.make_node("Reshape", ["x", "shape"], ["flat"], "reshape"),
        helper.make_node("MatMul", ["flat", "w"], ["y"], "product"),
    )
    wanted = Uncalibrated(graph, frozenset({"x", "flat"}))
    ranges = calibrate({"g": wanted}, lambda: [("g", {"x": ROWS})], "minmax", 99.0, tmp_path)["g"].tensors
    out = tmp_path / "out.onnx"
    with pytest.raises(
        QuantizationError, match=r"left 1 of 2 nodes in float: reshape \(Reshape\); take their type out of `operators`"
    ):
        quantize_graph(graph, settings("static", "product", "reshape"), ranges, out)
    assert not out.exists()


def test_a_result_that_does_not_load(tmp_path: Path) -> None:
    """A graph with an operator that ONNX Runtime does not have is refused, and no file is left."""
    from onnx import helper

    from hfcompress.quantization.graph_quantizer import quantize_graph

    graph = save(tmp_path / "g.onnx", helper.make_node("NoSuchOperator", ["x"], ["y"], "n", domain="com.microsoft"))
    out = tmp_path / "out.onnx"
    with pytest.raises(QuantizationError, match=r"^ONNX Runtime \S+ cannot load out\.onnx: .*NoSuchOperator"):
        quantize_graph(graph, settings("dynamic"), None, out)
    assert not out.exists()
