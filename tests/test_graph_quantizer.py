"""Promises of quantizing one graph: what is stored and computed how, what loads, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.errors import QuantizationError

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.quantization.graph_quantizer import GraphSettings, Mode

INPUTS = {
    "x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32),
    "ids": np.asarray([0, 5]),
}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Return a graph of a convolution, a look-up, a `Gemm` and a product with a transposed weight, prepared."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from hfcompress.quantization.onnx_graph import prepare

    random = np.random.default_rng(0)
    shapes = {"filters": (16, 3, 4, 4), "table": (40, 64), "w": (32, 64), "v": (16, 32), "bias": (32,)}
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["patches"], strides=[4, 4]),
        helper.make_node("Flatten", ["patches"], ["flat"]),
        helper.make_node("Gather", ["table", "ids"], ["found"], "look-up"),
        helper.make_node("Add", ["flat", "found"], ["sum"]),
        helper.make_node("Gemm", ["sum", "w", "bias"], ["hidden"], "gemm", transB=1),
        helper.make_node("Transpose", ["v"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "t"], ["y"], "product"),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:2], ends[2:], tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    path = tmp_path / "g.onnx"
    onnx.save(model, path)
    before = run(path)
    prepare(path)
    np.testing.assert_allclose(run(path), before, rtol=1e-5, atol=1e-5)
    return path


def run(path: Path) -> np.ndarray[Any, Any]:
    """Return what a graph gives."""
    import onnxruntime

    result: np.ndarray[Any, Any] = onnxruntime.InferenceSession(str(path)).run(None, INPUTS)[0]
    return result


def settings(graph: Path, mode: Mode) -> GraphSettings:
    """Return the settings that quantize all of a graph's weights."""
    from hfcompress.quantization.graph_quantizer import GraphSettings
    from hfcompress.quantization.node_choice import choose

    choice = choose({"g": graph}, ("MatMul", "Gemm", "Conv", "Gather"), (), products=False, logits_in_float=True)["g"]
    return GraphSettings(mode, "int8", "uint8", True, True, 32, choice.computed, choice.stored)  # noqa: FBT003


def quantized(graph: Path, chosen: GraphSettings, **limit: int) -> Path:
    """Return the quantized graph; the ranges of static mode are from the inputs."""
    from hfcompress.quantization.graph_quantizer import quantize_graph
    from hfcompress.quantization.onnx_graph import activations
    from hfcompress.quantization.ranges import Uncalibrated, calibrate

    ranges = None
    if chosen.mode == "static":
        wanted = Uncalibrated(graph, activations(graph, chosen.computed))
        ranges = calibrate({"g": wanted}, lambda: [("g", INPUTS)], "minmax", 99.0, graph.parent)["g"].tensors
    output = graph.with_name("g_quantized.onnx")
    quantize_graph(graph, chosen, ranges, output, **limit)
    return output


@pytest.mark.parametrize("mode", ["dynamic", "static", "weight_only"])
def test_all_weights_are_small_and_the_result_is_near(graph: Path, mode: Mode) -> None:
    """In every mode no weight stays in float, and the result differs by a few percent."""
    import onnx

    output = quantized(graph, settings(graph, mode))
    floats = [tensor for tensor in onnx.load(output).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(tensor.dims)) for tensor in floats) <= 64  # scales and the bias
    before = run(graph)
    assert np.abs(run(output) - before).max() < 0.05 * np.abs(before).max()


def test_four_bits(graph: Path) -> None:
    """Weights of 4 bits take half of the bytes, and their blocks have scales."""
    chosen = settings(graph, "weight_only")
    eight = quantized(graph, chosen).stat().st_size
    four = quantized(graph, replace(chosen, weights="int4"))
    assert four.stat().st_size < eight - 32 * 64 // 2
    before = run(graph)
    assert np.abs(run(four) - before).max() < 0.3 * np.abs(before).max()


def test_products_keep_their_result_in_float(graph: Path) -> None:
    """In static mode nothing is quantized but what a product reads."""
    import onnx

    chosen = settings(graph, "static")
    nodes = onnx.load(quantized(graph, chosen)).graph.node
    reads = {name for node in onnx.load(graph).graph.node if node.name in chosen.computed for name in node.input[:1]}
    assert {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"} == reads


def test_large_graphs_have_their_weights_beside_them(graph: Path) -> None:
    """Above the limit the weights lie in `<name>.onnx_data`, and the pair loads."""
    output = quantized(graph, settings(graph, "dynamic"), limit_bytes=2000)
    data = output.with_name("g_quantized.onnx_data")
    assert data.stat().st_size > 1000
    assert np.isfinite(run(output)).all()


def test_an_activation_that_is_always_zero(graph: Path) -> None:
    """A range without width gives a graph that loads and gives finite numbers."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.name in {"filters", "table"}:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, graph)
    output = quantized(graph, settings(graph, "static"))
    before = run(graph)
    assert np.abs(run(output) - before).max() < 0.05 * np.abs(before).max()


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    """A file that cannot be read is named."""
    from hfcompress.quantization.onnx_graph import prepare

    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(QuantizationError, match=r"^broken\.onnx cannot be read as an ONNX graph: "):
        prepare(tmp_path / "broken.onnx")


def test_subgraphs_are_refused(tmp_path: Path) -> None:
    """A graph with subgraphs is refused with the reason."""
    import onnx
    from onnx import TensorProto, helper

    from hfcompress.quantization.onnx_graph import prepare

    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "branch", [], [end])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    begin = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
    ]
    onnx.save(helper.make_model(helper.make_graph([node], "g", begin, [end])), tmp_path / "g.onnx")
    with pytest.raises(QuantizationError, match=r"^g\.onnx has subgraphs \(If\), whose nodes ONNX Runtime does not"):
        prepare(tmp_path / "g.onnx")


def test_a_pattern_that_matches_nothing(graph: Path) -> None:
    """A pattern of `exclude` that matches no node is an error that names near ones."""
    from hfcompress.quantization.node_choice import choose

    with pytest.raises(QuantizationError, match=r"^exclude: 'produkt' matches none of the 4 nodes .+ as product"):
        choose({"g": graph}, ("MatMul", "Gemm", "Conv", "Gather"), ("produkt",), products=False, logits_in_float=True)


def test_excluded_nodes_stay_in_float(graph: Path) -> None:
    """What `exclude` names is left alone, and is told apart."""
    from hfcompress.quantization.node_choice import choose

    choice = choose(
        {"g": graph}, ("MatMul", "Gemm", "Conv", "Gather"), ("prod*",), products=False, logits_in_float=True
    )["g"]
    assert choice.excluded == {"product"}
    assert len(choice.computed) == 1


@pytest.mark.parametrize(("weight", "node"), [("table", "look-up"), ("w_Transposed", "gemm_MatMul")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(weight: str, node: str, value: float, graph: Path) -> None:
    """A weight that is not finite is named, stored or computed with, unless nothing quantizes it."""
    import onnx
    from onnx import numpy_helper

    from hfcompress.quantization.onnx_graph import check_weights

    model = onnx.load(graph)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    array = numpy_helper.to_array(tensor).copy()
    array[0, :3] = value
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    onnx.save(model, graph)
    nodes = {"look-up", "gemm_MatMul", "product"}
    with pytest.raises(
        QuantizationError, match=rf"^3 values of the weight {weight}, which {node} of g\.onnx reads, are"
    ):
        check_weights(graph, nodes)
    check_weights(graph, nodes - {node})


@pytest.mark.parametrize(
    ("operators", "expected"),
    [(("Gemm",), {"gemm_MatMul"}), (("MatMul",), {"product"}), (("MatMul", "Gemm"), {"gemm_MatMul", "product"})],
    ids=["Gemm", "MatMul", "both"],
)
def test_operators_mean_what_the_export_has(operators: tuple[str, ...], expected: set[str], graph: Path) -> None:
    """A `Gemm` of the export is one to the recipe, though it is quantized as a `MatMul`."""
    from hfcompress.quantization.node_choice import choose

    assert choose({"g": graph}, operators, (), products=False, logits_in_float=True)["g"].computed == expected


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_logits_are_computed_in_float(mode: Mode, per_channel: bool, graph: Path) -> None:  # noqa: FBT001 - a case
    """The product that makes logits reads its activation in float, and its weight is stored in 8 bits all the same."""
    import onnx

    from hfcompress.quantization.node_choice import choose

    model = onnx.load(graph)
    model.graph.output[0].name = "logits"
    last = next(node for node in model.graph.node if node.name == "product")
    last.output[0] = "plain"
    model.graph.node.append(onnx.helper.make_node("Identity", ["plain"], ["logits"], "last"))
    onnx.save(model, graph)
    chosen = replace(settings(graph, mode), per_channel=per_channel)
    output = quantized(graph, chosen)
    nodes = {node.name: node for node in onnx.load(output).graph.node}
    types = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in onnx.load(output).graph.initializer}
    expansion = next(node for node in nodes.values() if nodes["product"].input[1] in node.output)
    before = run(graph)

    assert (chosen.computed, "product" in chosen.stored) == ({"gemm_MatMul"}, True)
    assert (expansion.op_type, types[expansion.input[0]]) == ("DequantizeLinear", (onnx.TensorProto.INT8, [32, 16]))
    assert types[expansion.input[1]] == (onnx.TensorProto.FLOAT, [16] if per_channel else [])
    assert not any(dims == [32, 16] and kind == onnx.TensorProto.FLOAT for kind, dims in types.values())
    assert np.abs(run(output) - before).max() < 0.05 * np.abs(before).max()
    anyway = choose({"g": graph}, ("MatMul", "Gemm"), (), products=True, logits_in_float=False)["g"]
    assert (anyway.computed, anyway.stored) == ({"gemm_MatMul", "product"}, frozenset())
