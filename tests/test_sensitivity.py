"""Promises of the costs of quantizing each node, and of the choice that an accuracy budget makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.contracts import Progress
from hfcompress.errors import QuantizationError
from tests.onnx_graphs import quantize_static, random_batches, write_graph

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from hfcompress.quantization.fidelity import Reference

pytestmark = pytest.mark.onnxruntime

RANDOM = np.random.default_rng(4)
WIDTH = 8
NODES: list[Any] = [
    ("MatMul", ["x", "u"], "fine"),
    ("Relu", ["fine"], "r"),
    ("MatMul", ["r", "v"], "coarse"),
    ("Relu", ["coarse"], "s"),
    ("MatMul", ["s", "w"], "y"),
]
WEIGHTS = {
    "u": RANDOM.normal(size=(WIDTH, WIDTH)),
    "v": RANDOM.normal(size=(WIDTH, WIDTH)) * np.where(np.arange(WIDTH) == 0, 200.0, 1.0),
    "w": RANDOM.normal(size=(WIDTH, WIDTH)) / np.where(np.arange(WIDTH) == 0, 200.0, 1.0)[:, None],
}
"""Between the second and the third product a channel is 200 times larger than the others."""


@pytest.fixture
def floating(tmp_path: Path) -> Path:
    """Return a graph of three products."""
    return write_graph(tmp_path / "float.onnx", NODES, WEIGHTS, WIDTH, {"y": WIDTH})


@pytest.fixture
def reference(floating: Path, tmp_path: Path) -> Reference:
    """Return its outputs on random rows."""
    from hfcompress.quantization.fidelity import Reference

    (tmp_path / "outputs").mkdir()
    return Reference(floating, random_batches(WIDTH), tmp_path / "outputs", "cosine")


def test_costs_are_those_of_one_node_alone(floating: Path, reference: Reference, tmp_path: Path) -> None:
    """The cost of a node is the loss of the graph in which only that node is quantized."""
    from hfcompress.quantization.sensitivity import costs, units

    names, batches = ["fine", "coarse", "y"], random_batches(WIDTH)
    quantized = quantize_static(floating, tmp_path / "quantized.onnx", batches)
    found = costs(floating, quantized, units(names, "node"), reference, tmp_path, Progress())
    for name in names:
        alone = quantize_static(floating, tmp_path / "alone.onnx", batches, [item for item in names if item != name])
        assert found[name] == pytest.approx(reference.loss_of(alone), rel=0.02, abs=1e-6)
    assert min(found["coarse"], found["y"]) > 10 * found["fine"]


def test_as_few_as_possible(floating: Path, reference: Reference, tmp_path: Path) -> None:
    """Each budget is met, with fewer nodes in float the wider it is, and one node fewer would not do."""
    from hfcompress.quantization.sensitivity import costs, fit, units

    batches = random_batches(WIDTH)

    def loss(names: Collection[str]) -> float:
        return reference.loss_of(quantize_static(floating, tmp_path / "part.onnx", batches, names))

    parts = units(["fine", "coarse", "y"], "node")
    everything = quantize_static(floating, tmp_path / "all.onnx", batches)
    cost = costs(floating, everything, parts, reference, tmp_path, Progress())
    order = sorted(cost, key=lambda name: -cost[name])
    losses = [loss(order[:count]) for count in range(3)]
    assert losses[0] > losses[1] > losses[2]
    for count, value in enumerate(losses):
        chosen = fit(parts, cost, value * 1.01, loss, "cosine")
        assert [unit.name for unit in chosen.in_float] == order[:count]
        assert (chosen.loss, chosen.loss_quantized) == (pytest.approx(value), pytest.approx(losses[0]))
    with pytest.raises(QuantizationError, match=rf"budget of {losses[2] / 10:g} \(cosine\) cannot be reached: .*fine"):
        fit(parts, cost, losses[2] / 10, loss, "cosine")


def test_none_is_in_float_without_need() -> None:
    """A part that costs much alone but is not what breaks the budget is quantized after all."""
    from hfcompress.quantization.sensitivity import fit, units

    def loss(names: Collection[str]) -> float:
        return 0.01 * (4 - len(names)) + (0.0 if "b" in names else 1.0)

    chosen = fit(units("abcd", "node"), {"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.0}, 0.035, loss, "cosine")
    assert ([unit.name for unit in chosen.in_float], chosen.loss, chosen.loss_quantized) == (["b"], 0.03, 1.04)


def test_units() -> None:
    """Nodes go alone where they are few or the recipe says so, else with their block."""
    from hfcompress.quantization.sensitivity import Unit, units

    names = [
        "/vision_model/encoder/layers.0/self_attn/q_proj/MatMul",
        "/vision_model/encoder/layers.0/mlp/fc1/MatMul",
        "/vision_model/encoder/layers.10/mlp/fc1/MatMul",
        "/text_model/encoder/layers.0/mlp/fc1/MatMul",
        "/transformer/h.3/attn/c_attn/Gemm",
        "/visual_projection/MatMul",
    ]
    blocks = units(names, "block")
    assert [unit.name for unit in blocks] == [
        "/vision_model/encoder/layers.0",
        "/vision_model/encoder/layers.10",
        "/text_model/encoder/layers.0",
        "/transformer/h.3",
        "/visual_projection/MatMul",
    ]
    assert blocks[0] == Unit("/vision_model/encoder/layers.0", tuple(names[:2]))
    assert units(names, "auto") == units(names, "node")
    many = [f"/layers.{number}/{part}" for number in range(30) for part in "abc"]
    assert len(units(many, "auto")) == 30


def test_a_loss_that_is_not_finite() -> None:
    """A choice whose outputs are not finite is over every budget, and the nodes that cause it stay in float."""
    from hfcompress.quantization.sensitivity import fit, units

    def loss(names: Collection[str]) -> float:
        return 0.01 if "b" in names else np.inf

    chosen = fit(units("abc", "node"), {"a": 0.1, "b": np.inf, "c": 0.0}, 0.5, loss, "cosine")
    assert ([unit.name for unit in chosen.in_float], chosen.loss, chosen.loss_quantized) == (["b"], 0.01, np.inf)
