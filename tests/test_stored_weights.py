"""Promises of weights that are stored in 8 bits: their bytes, their error, and no second copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.onnx_graphs import run, write_graph

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import onnx

pytestmark = pytest.mark.onnxruntime

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(6, 4)) * np.array([1e-3, 1e-2, 0.1, 1.0, 10.0, 0.0])[:, None]
FILTERS = RANDOM.normal(size=(3, 5, 2)) * np.array([0.01, 1.0, 100.0])[:, None, None]
IDS = np.arange(6).reshape(2, 3)
BATCH = {"x": RANDOM.normal(size=(4, 5, 7)).astype(np.float32)}


def stored(graph: Path, nodes: Collection[str], *, per_channel: bool) -> onnx.ModelProto:
    """Store the weights of nodes and write the graph again."""
    import onnx

    from hfcompress.quantization.stored_weights import store_weights

    model = onnx.load(graph)
    store_weights(model, nodes, per_channel=per_channel)
    onnx.save(model, graph)
    return model


def initializers(model: onnx.ModelProto) -> dict[str, np.dtype[np.generic]]:
    """Return the type of each weight, without scales and indices."""
    import onnx

    return {
        tensor.name: onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        for tensor in model.graph.initializer
        if len(tensor.dims) > 1 and tensor.dims[-1] > 1 and tensor.data_type != onnx.TensorProto.INT64
    }


@pytest.mark.parametrize("per_channel", [True, False])
def test_look_up(tmp_path: Path, per_channel: bool) -> None:  # noqa: FBT001 - a case of the table
    """Each row is off by half a step of its own scale at most, or of the table's; a row of zeros stays so."""
    weights = {"table": TABLE, "ids": IDS}
    graph = write_graph(tmp_path / "g.onnx", [("Gather", ["table", "ids"], "y")], weights, 7, {"y": 4})
    model = stored(graph, {"y"}, per_channel=per_channel)
    (found,) = run(graph, BATCH)
    largest = np.abs(TABLE).max(axis=1, keepdims=True) if per_channel else np.abs(TABLE).max()

    assert [*initializers(model).values()] == [np.int8]
    assert (np.abs(found.reshape(6, 4) - TABLE) <= 0.501 * largest / 127 + 1e-7).all()
    assert not found.reshape(6, 4)[5].any()


@pytest.mark.parametrize("per_channel", [True, False])
def test_convolution(tmp_path: Path, per_channel: bool) -> None:  # noqa: FBT001 - a case of the table
    """A convolution computes in float with filters that are off by half a step."""
    graph = write_graph(tmp_path / "g.onnx", [("Conv", ["x", "filters"], "y")], {"filters": FILTERS}, 7, {"y": 6})
    (expected,) = run(graph, BATCH)
    model = stored(graph, {"y"}, per_channel=per_channel)
    (found,) = run(graph, BATCH)
    largest = np.abs(FILTERS).max(axis=(1, 2)) if per_channel else np.full(3, np.abs(FILTERS).max())
    most = 0.501 * largest / 127 * np.abs(BATCH["x"]).max() * FILTERS[0].size

    assert [*initializers(model).values()] == [np.int8]
    assert (np.abs(found - expected).max(axis=(0, 2)) <= most).all()


def test_shared_table_is_stored_once(tmp_path: Path) -> None:
    """Two look-ups in one table read one copy of it, and a node that is not named keeps its float weight."""
    nodes = [("Gather", ["table", "ids"], name) for name in ("a", "b", "c")]
    graph = write_graph(tmp_path / "g.onnx", nodes, {"table": TABLE, "ids": IDS}, 7, {"a": 4, "b": 4, "c": 4})
    model = stored(graph, {"a", "b"}, per_channel=True)
    first, second, third = run(graph, BATCH)

    assert sorted(map(str, initializers(model).values())) == ["float32", "int8"]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(third.reshape(6, 4), TABLE.astype(np.float32))
