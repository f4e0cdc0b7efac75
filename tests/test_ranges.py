"""Promises of calibration: the ranges are those of all rows, whatever the batches, and flat tensors get theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.errors import QuantizationError

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hfcompress.quantization.ranges import GraphRanges, Method

ROWS = (
    np.random.default_rng(0).standard_normal((96, 8)).astype(np.float32)
    * np.linspace(0.01, 5, 96, dtype=np.float32)[:, None]
)
METHODS = ("minmax", "percentile", "entropy")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a graph whose activations are the input, its square root (not finite below 0) and one that is always 0."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "product"),
        helper.make_node("Mul", ["product", "nothing"], ["zero"], "zero"),
        helper.make_node("Sqrt", ["x"], ["root"], "root"),
        helper.make_node("Add", ["zero", "root"], ["y"], "sum"),
    ]
    weights = [
        numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"),
        numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 8]) for name in ("x", "y")]
    path = tmp_path_factory.mktemp("graph") / "g.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights), opset_imports=opset), path)
    return path


def ranges(graph: Path, method: Method, size: int, *tensors: str, percentile: float = 99.0) -> GraphRanges:
    """Return the ranges of a graph's tensors from rows in batches of `size`."""
    from hfcompress.quantization.ranges import Uncalibrated, calibrate

    def feeds() -> Iterator[tuple[str, dict[str, Any]]]:
        for start in range(0, len(ROWS), size):
            yield "g", {"x": ROWS[start : start + size]}

    return calibrate({"g": Uncalibrated(graph, frozenset(tensors))}, feeds, method, percentile, graph.parent)["g"]


@pytest.mark.parametrize("method", METHODS)
def test_ranges_do_not_depend_on_the_batches(graph: Path, method: Method) -> None:
    """Rows that grow from batch to batch give the ranges that they give at once, to the last bit."""
    streamed = ranges(graph, method, 4, "x", "product").tensors
    at_once = ranges(graph, method, 96, "x", "product").tensors
    assert set(streamed) == {"x", "product"}
    for name in streamed:
        assert streamed[name].range_value == at_once[name].range_value


def test_minmax_is_the_extremes(graph: Path) -> None:
    """The range of `minmax` holds the smallest and the largest value of all rows."""
    lowest, highest = ranges(graph, "minmax", 16, "x").tensors["x"].range_value
    assert (lowest, highest) == (np.float32(ROWS.min()), np.float32(ROWS.max()))


def test_percentile_cuts_the_same_share_at_both_ends(graph: Path) -> None:
    """The range of `percentile` leaves half of the rest below it and half above, to what a bin holds."""
    lowest, highest = ranges(graph, "percentile", 16, "x", percentile=90.0).tensors["x"].range_value
    assert float((lowest > ROWS).mean()) == pytest.approx(0.05, abs=0.01)
    assert float((highest < ROWS).mean()) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_constant_tensors_keep_their_exact_range(graph: Path, method: Method) -> None:
    """A tensor without spread, in which no histogram can be cut, is named and keeps its exact range.

    That is so where all tensors are of that kind, too, and no temporary graph is left.
    """
    found = ranges(graph, method, 16, "x", "zero")
    assert found.exact == ("zero",)
    assert found.tensors["zero"].range_value == (0.0, 0.0)
    assert ranges(graph, method, 16, "zero").exact == ("zero",)
    assert [file.name for file in graph.parent.iterdir()] == ["g.onnx"]


def test_only_what_is_asked_for_has_a_range(graph: Path) -> None:
    """A tensor that nobody quantizes is not looked at, not even where it is not finite."""
    assert set(ranges(graph, "minmax", 16, "x").tensors) == {"x"}


@pytest.mark.parametrize("method", METHODS)
def test_not_finite(graph: Path, method: Method) -> None:
    """An activation that is not a number is named."""
    with pytest.raises(QuantizationError, match=r"^the activation root of g is not finite on the calibration rows"):
        ranges(graph, method, 16, "x", "root")


def test_no_rows_for_a_graph(graph: Path) -> None:
    """A graph that no row reaches is an error and not an empty range."""
    from hfcompress.quantization.ranges import Uncalibrated, calibrate

    with pytest.raises(QuantizationError, match=r"^the calibration rows gave no inputs for g, so its activations"):
        calibrate({"g": Uncalibrated(graph, frozenset({"x"}))}, list, "minmax", 99.0, graph.parent)
