"""Promises of the choice of nodes: which compute in low precision, which are stored in it, which stay in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hfcompress.errors import QuantizationError
from tests.onnx_graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime

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

    chosen = choose({"g": graph}, OPERATORS, (), products=False)["g"]
    expected = NodeChoice(frozenset({"product"}), frozenset({"looked_up"}), frozenset(), frozenset({"scores"}))
    assert chosen == expected


def test_products_of_activations_on_request(graph: Path) -> None:
    """`products_of_activations` quantizes them too; a look-up in an activation never is."""
    from hfcompress.quantization.node_choice import choose

    chosen = choose({"g": graph}, OPERATORS, (), products=True)["g"]
    assert (chosen.computed, chosen.products) == ({"product", "scores"}, frozenset())
    assert "picked" not in chosen.computed | chosen.stored | chosen.excluded


def test_pattern_in_one_of_several_graphs(graph: Path) -> None:
    """A pattern must match in some graph, not in each; what it matches stays in float there."""
    from hfcompress.quantization.node_choice import choose

    other = write_graph(graph.with_name("h.onnx"), [("MatMul", ["x", "w"], "only")], {"w": np.eye(4)}, 4, {"only": 4})
    chosen = choose({"g": graph, "h": other}, OPERATORS, ("looked_*",), products=False)
    assert (chosen["g"].excluded, chosen["g"].stored) == ({"looked_up"}, frozenset())
    assert chosen["h"].computed == {"only"}


def test_nothing_left(graph: Path) -> None:
    """Patterns that leave nothing to quantize are an error."""
    from hfcompress.quantization.node_choice import choose

    with pytest.raises(QuantizationError, match=r"^nothing is left to quantize: no MatMul, Gemm, Conv, Gather node"):
        choose({"g": graph}, OPERATORS, ("*",), products=False)


def test_what_is_too_sensitive(graph: Path) -> None:
    """Nodes that a budget leaves in float are in no other set."""
    from hfcompress.quantization.node_choice import choose

    chosen = choose({"g": graph}, OPERATORS, (), products=False)["g"].without(frozenset({"product", "looked_up"}))
    assert (chosen.computed, chosen.stored) == (frozenset(), frozenset())
    assert chosen.too_sensitive == {"product", "looked_up"}
