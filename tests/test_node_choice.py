"""Promises of the choice of nodes: which compute in low precision, which are stored in it, which stay in float."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.contracts import Checkpoint, StepContext
from hfcompress.errors import QuantizationError
from hfcompress.quantization.onnxruntime import OnnxRuntimeOptions, OnnxRuntimeQuantizer
from tests.families import FAMILIES, build
from tests.onnx_graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

OPERATORS = ("MatMul", "Gemm", "Conv", "Gather")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Return a graph: a product with a weight, one of activations, a look-up in a weight, and one in an activation."""
    nodes = [
        ("MatMul", ["x", "w"], "product"),
        ("Transpose", ["product"], "turned", {"perm": [0, 2, 1]}),
        ("MatMul", ["product", "turned"], "scores"),
        ("Gather", ["table", "ids"], "looked_up"),
        ("Gather", ["x", "ids"], "picked"),
    ]
    weights = {"w": np.eye(4), "table": np.ones((3, 4)), "ids": np.zeros((2, 2), np.int64)}
    return write_graph(tmp_path / "g.onnx", nodes, weights, 4, {"scores": 5, "looked_up": 4})


def test_every_node_has_its_kind(graph: Path) -> None:
    """Products with a weight compute, weights of look-ups are stored, products of activations stay in float."""
    from hfcompress.quantization.node_choice import NodeChoice, choose

    chosen = choose({"g": graph}, OPERATORS, (), products=False, logits_in_float=False)["g"]
    expected = NodeChoice(frozenset({"product"}), frozenset({"looked_up"}), frozenset(), frozenset({"scores"}))
    assert chosen == expected


def test_products_of_activations_on_request(graph: Path) -> None:
    """`products_of_activations` quantizes them too; a look-up in an activation never is."""
    from hfcompress.quantization.node_choice import choose

    chosen = choose({"g": graph}, OPERATORS, (), products=True, logits_in_float=False)["g"]
    assert (chosen.computed, chosen.products) == ({"product", "scores"}, frozenset())
    assert "picked" not in chosen.computed | chosen.stored | chosen.excluded


def test_pattern_in_one_of_several_graphs(graph: Path) -> None:
    """A pattern must match in some graph, not in each; what it matches stays in float there."""
    from hfcompress.quantization.node_choice import choose

    other = write_graph(graph.with_name("h.onnx"), [("MatMul", ["x", "w"], "only")], {"w": np.eye(4)}, 4, {"only": 4})
    chosen = choose({"g": graph, "h": other}, OPERATORS, ("looked_*",), products=False, logits_in_float=False)
    assert (chosen["g"].excluded, chosen["g"].stored) == ({"looked_up"}, frozenset())
    assert chosen["h"].computed == {"only"}


def test_nothing_left(graph: Path) -> None:
    """Patterns that leave nothing to quantize are an error."""
    from hfcompress.quantization.node_choice import choose

    with pytest.raises(QuantizationError, match=r"^nothing is left to quantize: no MatMul, Gemm, Conv, Gather node"):
        choose({"g": graph}, OPERATORS, ("*",), products=False, logits_in_float=False)


def test_what_is_too_sensitive(graph: Path) -> None:
    """Nodes that a budget leaves in float are in no other set."""
    from hfcompress.quantization.node_choice import choose

    chosen = choose({"g": graph}, OPERATORS, (), products=False, logits_in_float=False)["g"].without(
        frozenset({"product", "looked_up"})
    )
    assert (chosen.computed, chosen.stored) == (frozenset(), frozenset())
    assert chosen.too_sensitive == {"product", "looked_up"}


def test_logits_of_a_whisper(tmp_path: Path) -> None:
    """Both decoders keep the product of their logits in float, its weight in 8 bits, and the report says so."""
    import onnx

    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    build(FAMILIES["whisper"]).save_pretrained(source)
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeOptions(runtime="onnxruntime", mode="dynamic"))
    detail: Any = quantizer.apply(Checkpoint(source, "transformers"), out, StepContext())
    assert "logits_in_float" not in detail["graphs"]["encoder_model.onnx"]
    for name in ("decoder_model", "decoder_with_past_model"):
        assert detail["graphs"][f"{name}.onnx"]["logits_in_float"] == ["/proj_out/MatMul"]
        graph = onnx.load(out / "onnx" / f"{name}_quantized.onnx").graph
        producers = {output: node for node in graph.node for output in node.output}
        product = producers["logits"]
        assert (product.op_type, producers[product.input[1]].op_type) == ("MatMul", "Mul")
        assert producers[product.input[0]].op_type != "DequantizeLinear"
        matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) > 40]
        assert {tensor.data_type for tensor in matrices} <= {onnx.TensorProto.INT8}
