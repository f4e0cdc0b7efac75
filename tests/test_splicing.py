"""Promises of how the quantized form of a node is found and runs beside its float form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.onnx_graphs import quantize_static, random_batches, run, write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime

RANDOM = np.random.default_rng(2)
NODES: list[Any] = [
    ("MatMul", ["x", "u"], "p"),
    ("Add", ["p", "a"], "h"),
    ("Relu", ["h"], "n"),
    ("MatMul", ["n", "w"], "y"),
]
WEIGHTS = {"u": RANDOM.normal(size=(8, 8)), "a": RANDOM.normal(size=8), "w": RANDOM.normal(size=(8, 6))}


def test_replacements(tmp_path: Path) -> None:
    """The nodes that do the work of a float node lead from tensors of the float graph to its output."""
    import onnx

    from hfcompress.quantization.splicing import replacements

    path = write_graph(tmp_path / "float.onnx", NODES, WEIGHTS, 8, {"y": 6})
    quantized = quantize_static(path, tmp_path / "quantized.onnx", random_batches(8))
    found = replacements(onnx.load(path), onnx.load(quantized))

    assert {name: sorted(node.op_type for node in nodes) for name, nodes in found.items()} == {
        "p": ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"],
        "y": ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"],
    }


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_switches(dynamic: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    """Off, all switches give the float graph, on, the quantized one; in between each node is what it was set to."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    from hfcompress.quantization.splicing import gate, replacements, switched
    from hfcompress.runtimes.onnx_session import session

    path, batches = write_graph(tmp_path / "float.onnx", NODES, WEIGHTS, 8, {"y": 6}), random_batches(8)
    variants = {}
    for name, floating in {"both": [], "y": ["p"], "p": ["y"]}.items():
        variants[name] = tmp_path / f"{name}.onnx"
        if dynamic:
            quantize_dynamic(path, variants[name], ["MatMul"], nodes_to_exclude=floating)
        else:
            quantize_static(path, variants[name], batches, floating)
    first, second = onnx.load(path), onnx.load(variants["both"])
    onnx.save(switched(first, second, replacements(first, second)), tmp_path / "switched.onnx")
    running = session(tmp_path / "switched.onnx")

    batch = next(batches())
    for on, file in {(): path, ("p",): variants["p"], ("y",): variants["y"], ("p", "y"): variants["both"]}.items():
        flags = {gate(name): np.array(name in on) for name in ("p", "y")}
        (made,) = running.run(None, batch | flags)
        (expected,) = run(file, batch)
        np.testing.assert_allclose(made, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(run(variants["both"], batch)[0] - run(path, batch)[0]).max() > 1e-3
