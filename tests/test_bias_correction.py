"""Promises of bias correction: the means of a quantized graph become those of the float graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.onnx_graphs import calibrated, quantize_static, random_batches, write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime

RANDOM = np.random.default_rng(3)
WIDTH = 8
COARSE = np.where(np.arange(WIDTH) == 0, 8.0, 1.0)
"""Columns of very different size, so that one scale for all rounds most of them coarsely."""
WEIGHTS = {
    "u": RANDOM.normal(size=(WIDTH, WIDTH)) * COARSE,
    "w": RANDOM.normal(size=(WIDTH, WIDTH)) * COARSE,
    "v": RANDOM.normal(size=(WIDTH, WIDTH)) * COARSE,
    "a": RANDOM.normal(size=WIDTH),
    "first": np.array([0]),
    "flat_to": np.array([-1, WIDTH]),
}
CHAIN: list[Any] = [
    ("Exp", ["x"], "e"),
    ("MatMul", ["e", "u"], "p"),
    ("Add", ["p", "a"], "h"),
    ("Relu", ["h"], "n"),
    ("MatMul", ["n", "w"], "q"),
    ("Relu", ["q"], "r"),
]
GRAPHS: dict[str, list[Any]] = {
    "with and without bias": [*CHAIN, ("MatMul", ["r", "v"], "y")],
    "one bias for two": [*CHAIN, ("MatMul", ["r", "v"], "s"), ("Add", ["s", "a"], "y")],
    "Gemm": [
        *CHAIN,
        ("Reshape", ["r", "flat_to"], "flat"),
        ("Gemm", ["flat", "v", "a"], "g"),
        ("Unsqueeze", ["g", "first"], "y"),
    ],
    "Gemm without bias": [
        *CHAIN,
        ("Reshape", ["r", "flat_to"], "flat"),
        ("Gemm", ["flat", "v"], "g"),
        ("Unsqueeze", ["g", "first"], "y"),
    ],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_means_are_those_of_the_float_graph(name: str, tmp_path: Path) -> None:
    """After correction the mean of every map's output is nearer to the float graph's by a factor of five."""
    import onnx

    from hfcompress.quantization.bias_correction import correct, corrections
    from hfcompress.quantization.probing import ChannelMeans

    read = {item for node in GRAPHS[name] for item in node[1]}
    weights = {key: value for key, value in WEIGHTS.items() if key in read}
    path, batches = (
        write_graph(tmp_path / "float.onnx", GRAPHS[name], weights, WIDTH, {"y": WIDTH}),
        random_batches(WIDTH),
    )
    floating = onnx.load(path)
    ranges = calibrated(path, batches)
    quantized = onnx.load(quantize_static(path, tmp_path / "quantized.onnx", batches, ranges=ranges))
    added = corrections(floating, quantized, batches, tmp_path)
    model, new = correct(floating, added)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "corrected.onnx")
    for tensor, place in new.items():
        ranges.data[tensor] = ranges[place]
    again = onnx.load(quantize_static(tmp_path / "corrected.onnx", tmp_path / "again.onnx", batches, ranges=ranges))

    def shift(graph: onnx.ModelProto) -> float:
        means = [ChannelMeans(item, {"y": WIDTH}, tmp_path).over(batches)["y"] for item in (graph, floating)]
        return float(np.abs(means[0] - means[1]).max())

    assert len(added) == 3
    assert all(place in {"p", "q", "s", "y"} for place in new.values())
    assert shift(quantized) > 0.01
    assert shift(again) < shift(quantized) / 5


def test_the_graph_grows_by_no_more_than_missing_biases(tmp_path: Path) -> None:
    """A map that has a bias gets no node more, and biases that nothing reads any more are gone."""
    import onnx

    from hfcompress.quantization.bias_correction import correct

    nodes = [*CHAIN, ("MatMul", ["r", "v"], "s"), ("Add", ["s", "a"], "y")]
    weights = {key: value for key, value in WEIGHTS.items() if key in "uwva"}
    floating = onnx.load(write_graph(tmp_path / "float.onnx", nodes, weights, WIDTH, {"y": WIDTH}))
    ones = np.ones(WIDTH, np.float32)
    model, new = correct(floating, {"p": ones, "s": ones})
    names = {item.name for item in model.graph.initializer}
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in floating.graph.node]
    assert (names, new) == ({"u", "w", "v", "p/corrected_bias", "s/corrected_bias"}, {})

    model, new = correct(floating, {"p": ones, "q": ones})
    assert len(model.graph.node) == len(floating.graph.node) + 1
    assert ({"a", "q/corrected_bias"} <= {item.name for item in model.graph.initializer}, new) == (
        True,
        {"q/without_bias": "q"},
    )
