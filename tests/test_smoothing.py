"""Promises of SmoothQuant on ONNX graphs: nothing changes in float, and outliers no longer cost accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.errors import QuantizationError
from tests.onnx_graphs import quantize_static, random_batches, run, write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime

WIDTH = 8
OUTLIERS = np.where(np.arange(WIDTH) == 3, 60.0, 1.0)
RANDOM = np.random.default_rng(1)


def weight(*shape: int) -> np.ndarray[Any, Any]:
    """Return random weights."""
    return RANDOM.normal(size=shape) * 0.3


NORM = {"gamma": OUTLIERS, "beta": OUTLIERS * 0.1, "w": weight(8, 6), "v": weight(8, 4), "b": weight(6), "c": weight(4)}
READERS = [("MatMul", ["n", "w"], "y"), ("MatMul", ["n", "v"], "z")]
DECOMPOSED = [
    ("ReduceMean", ["x", "axes"], "mean"),
    ("Sub", ["x", "mean"], "centred"),
    ("Mul", ["centred", "centred"], "squared"),
    ("ReduceMean", ["squared", "axes"], "variance"),
    ("Add", ["variance", "epsilon"], "safe"),
    ("Sqrt", ["safe"], "deviation"),
    ("Div", ["centred", "deviation"], "unit"),
    ("Mul", ["unit", "gamma"], "scaled"),
]
CONSTANTS = {"axes": np.array([-1]), "epsilon": np.array(1e-5)}
LAYER_NORM = ("LayerNormalization", ["x", "gamma", "beta"], "n", {"axis": -1})
FIRST = [("MatMul", ["x", "u"], "p"), ("Add", ["p", "a"], "h")]
MLP = {"u": weight(8, 8) * OUTLIERS, "a": weight(8) * OUTLIERS, "w": weight(8, 6), "v": weight(8, 4)}
HEADS = {"to_heads": np.array([0, 0, 2, 4]), "to_width": np.array([0, 0, 8])}
ATTENTION = [
    *FIRST,
    ("Reshape", ["h", "to_heads"], "h4"),
    ("Transpose", ["h4"], "values", {"perm": [0, 2, 1, 3]}),
    ("Reshape", ["x", "to_heads"], "x4"),
    ("Transpose", ["x4"], "queries", {"perm": [0, 2, 1, 3]}),
    ("Transpose", ["x4"], "keys", {"perm": [0, 2, 3, 1]}),
    ("MatMul", ["queries", "keys"], "scores"),
    ("Softmax", ["scores"], "probabilities"),
    ("MatMul", ["probabilities", "values"], "weighed"),
    ("Transpose", ["weighed"], "back", {"perm": [0, 2, 1, 3]}),
    ("Reshape", ["back", "to_width"], "n"),
    *READERS,
]
SMOOTHABLE: dict[str, tuple[list[Any], dict[str, np.ndarray[Any, Any]]]] = {
    "layer normalization": ([LAYER_NORM, *READERS], NORM),
    "decomposed": ([*DECOMPOSED, ("Add", ["scaled", "beta"], "n"), *READERS], {**NORM, **CONSTANTS}),
    "without shift": ([*DECOMPOSED[:-1], ("Mul", ["gamma", "unit"], "n"), *READERS], {**NORM, **CONSTANTS}),
    "shape read": (
        [LAYER_NORM, *READERS, ("Shape", ["n"], "shape"), ("ConstantOfShape", ["shape"], "other")],
        NORM,
    ),
    "shared scale": (
        [LAYER_NORM, *READERS, ("LayerNormalization", ["x", "gamma", "beta"], "other", {"axis": -1})],
        NORM,
    ),
    "weight behind a transposition": (
        [LAYER_NORM, READERS[0], ("Transpose", ["vt"], "v", {"perm": [1, 0]}), READERS[1]],
        {**{key: value for key, value in NORM.items() if key != "v"}, "vt": NORM["v"].T},
    ),
    "Gemm": (
        [
            ("Flatten", ["x"], "flat", {"axis": 2}),
            ("LayerNormalization", ["flat", "gamma", "beta"], "n", {"axis": -1}),
            ("Gemm", ["n", "w", "b"], "y2"),
            ("Gemm", ["n", "vt", "c"], "z2", {"transB": 1}),
            ("Unsqueeze", ["y2", "first"], "y"),
            ("Unsqueeze", ["z2", "first"], "z"),
        ],
        {**NORM, "vt": NORM["v"].T, "first": np.array([0])},
    ),
    "one weight, two readers": ([LAYER_NORM, READERS[0], ("MatMul", ["n", "w"], "z")], NORM),
    "linear before": ([*FIRST, ("Relu", ["h"], "n"), *READERS], MLP),
    "gated": ([*FIRST, ("Sigmoid", ["x"], "gate"), ("Mul", ["gate", "h"], "n"), *READERS], MLP),
    "attention": (ATTENTION, {**MLP, **HEADS}),
}
LEFT: dict[str, tuple[list[Any], dict[str, np.ndarray[Any, Any]]]] = {
    "read by another node": ([LAYER_NORM, *READERS, ("Neg", ["n"], "other")], NORM),
    "GELU": ([*FIRST, ("Erf", ["h"], "e"), ("Mul", ["h", "e"], "n"), *READERS], MLP),
    "weight of another activation": ([LAYER_NORM, READERS[0], ("MatMul", ["x", "w"], "z")], NORM),
    "input": ([("MatMul", ["x", "w"], "y"), ("MatMul", ["x", "v"], "z")], MLP),
    "channels that move": (
        [
            *FIRST,
            ("Reshape", ["h", "to_heads"], "h4"),
            ("Transpose", ["h4"], "mixed", {"perm": [0, 1, 3, 2]}),
            ("Reshape", ["mixed", "to_width"], "n"),
            *READERS,
        ],
        {**MLP, **HEADS},
    ),
}


def written(folder: Path, nodes: list[Any], weights: dict[str, np.ndarray[Any, Any]]) -> Path:
    """Write a graph with the outputs `y` and `z`, and `other` where it has one."""
    named = [node for node in nodes if node[2] == "other"]
    read = {name for node in nodes for name in node[1]}
    z_width = 6 if ("MatMul", ["n", "w"], "z") in nodes or ("MatMul", ["x", "w"], "z") in nodes else 4
    ends = {"y": 6, "z": z_width, **({"other": WIDTH} if named else {})}
    used = {name: value for name, value in weights.items() if name in read}
    return write_graph(folder / "float.onnx", nodes, used, WIDTH, ends)


@pytest.mark.parametrize("name", SMOOTHABLE)
def test_nothing_changes_in_float(name: str, tmp_path: Path) -> None:
    """The smoothed graph computes what the float graph does, and its activation has no outlier any more."""
    import onnx

    from hfcompress.quantization.probing import channel_maxima
    from hfcompress.quantization.smoothing import Smoother

    path, batches = written(tmp_path, *SMOOTHABLE[name]), random_batches(WIDTH)
    quantized = {"y", "z", "y2", "z2"}
    found = Smoother(path, quantized, batches, tmp_path).smooth(0.5, tmp_path / "smoothed.onnx")
    before, after = (
        channel_maxima(onnx.load(file), {"n": WIDTH}, batches, tmp_path)["n"]
        for file in (path, tmp_path / "smoothed.onnx")
    )

    assert found.activations == 1
    assert after.max() / np.median(after) < before.max() / np.median(before) / 3
    for batch in batches():
        for one, other in zip(run(path, batch), run(tmp_path / "smoothed.onnx", batch), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())
    kinds = [[node.op_type for node in onnx.load(file).graph.node] for file in (path, tmp_path / "smoothed.onnx")]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("name", LEFT)
def test_what_nothing_can_divide_is_left(name: str, tmp_path: Path) -> None:
    """Where another node reads the activation, or nothing before it can divide it, the graph stays as it is."""
    import onnx

    from hfcompress.quantization.smoothing import Smoother

    path = written(tmp_path, *LEFT[name])
    found = Smoother(path, {"y", "z"}, random_batches(WIDTH), tmp_path).smooth(0.5, tmp_path / "smoothed.onnx")
    assert (found.activations, found.left > 0) == (0, True)
    assert onnx.load(tmp_path / "smoothed.onnx") == onnx.load(path)


def test_a_reader_that_stays_in_float(tmp_path: Path) -> None:
    """An activation that a quantized and a float map read is left: the float one must not change."""
    from hfcompress.quantization.smoothing import Smoother

    path = written(tmp_path, *SMOOTHABLE["layer normalization"])
    found = Smoother(path, {"y"}, random_batches(WIDTH), tmp_path).smooth(0.5, tmp_path / "smoothed.onnx")
    assert (found.activations, found.left) == (0, 1)


def test_outliers_cost_less(tmp_path: Path) -> None:
    """With an outlier channel, the smoothed graph in 8 bits loses less than a tenth of what the other one does."""
    from hfcompress.quantization.fidelity import Reference
    from hfcompress.quantization.smoothing import Smoother

    nodes, weights = SMOOTHABLE["layer normalization"]
    balanced = {name: weights[name] / OUTLIERS[:, None] for name in ("w", "v")}
    path, batches = written(tmp_path, nodes, {**weights, **balanced}), random_batches(WIDTH)
    (tmp_path / "outputs").mkdir()
    reference = Reference(path, batches, tmp_path / "outputs", "sqnr")
    Smoother(path, {"y", "z"}, batches, tmp_path).smooth(0.5, tmp_path / "smoothed.onnx")
    plain = reference.loss_of(quantize_static(path, tmp_path / "a.onnx", batches))
    smooth = reference.loss_of(quantize_static(tmp_path / "smoothed.onnx", tmp_path / "b.onnx", batches))
    assert 0 < smooth < plain / 10


@pytest.mark.parametrize("zeros", [[2], list(range(WIDTH))], ids=["one channel", "all"])
def test_constant_zero(zeros: list[int], tmp_path: Path) -> None:
    """A channel that is 0 on every row is not scaled, and nothing becomes infinite."""
    import onnx
    from onnx import numpy_helper

    from hfcompress.quantization.smoothing import Smoother

    dead = np.ones(WIDTH)
    dead[zeros] = 0
    nodes, weights = SMOOTHABLE["layer normalization"]
    path = written(tmp_path, nodes, {**weights, "gamma": OUTLIERS * dead, "beta": OUTLIERS * dead})
    Smoother(path, {"y", "z"}, random_batches(WIDTH), tmp_path).smooth(0.5, tmp_path / "smoothed.onnx")
    made = {item.name: numpy_helper.to_array(item) for item in onnx.load(tmp_path / "smoothed.onnx").graph.initializer}
    np.testing.assert_array_equal(made["w"][zeros], weights["w"].astype(np.float32)[zeros])
    assert all(np.isfinite(value).all() for value in made.values())


def test_not_finite(tmp_path: Path) -> None:
    """An activation that is not finite is an error that names it."""
    from hfcompress.quantization.smoothing import Smoother

    nodes, weights = SMOOTHABLE["layer normalization"]
    path = written(tmp_path, nodes, {**weights, "beta": np.full(WIDTH, np.inf)})
    with pytest.raises(QuantizationError, match=r"^the activation n is not finite on the calibration rows"):
        Smoother(path, {"y", "z"}, random_batches(WIDTH), tmp_path)
