"""Promises of the writer of ONNX graphs."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import hfcompress
from hfcompress.errors import CheckpointError
from tests.onnx_graphs import run, write_graph

pytestmark = pytest.mark.onnxruntime

BATCH = {"x": np.ones((1, 2, 40), np.float32)}
MODULES = [
    file
    for part in ("runtimes", "quantization")
    for file in sorted((Path(hfcompress.__file__).parent / part).glob("*.py"))
]


def write(path: Path) -> Path:
    """Write a graph of two products, whose weights have 40 * 40 * 4 bytes each."""
    weights = {name: np.full((40, 40), value) for name, value in (("v", 0.5), ("w", 2.0))}
    return write_graph(path, [("MatMul", ["x", "v"], "h"), ("MatMul", ["h", "w"], "y")], weights, 40, {"y": 40})


@pytest.mark.parametrize(("limit_bytes", "beside"), [(12_800, False), (12_799, True)])
def test_all_weights_count_together(limit_bytes: int, beside: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a case
    """Weights lie beside the graph where their sum exceeds the limit, and the model is left as it was either way."""
    import onnx
    from onnx import numpy_helper
    from onnx.external_data_helper import uses_external_data

    from hfcompress.runtimes.onnx_files import save_graph, weights_bytes

    model = onnx.load(write(tmp_path / "first.onnx"))
    saved = tmp_path / "saved.onnx"
    found = [save_graph(model, saved, limit_bytes) for _ in range(2)]

    assert found == [beside, beside]
    assert weights_bytes(model) == 12_800
    assert not any(uses_external_data(tensor) for tensor in model.graph.initializer)
    values = {tensor.name: np.unique(numpy_helper.to_array(tensor)).tolist() for tensor in model.graph.initializer}
    assert values == {"v": [0.5], "w": [2.0]}
    assert (tmp_path / "saved.onnx_data").exists() == beside
    assert saved.stat().st_size < 12_800 or not beside
    np.testing.assert_array_equal(run(saved, BATCH)[0], run(tmp_path / "first.onnx", BATCH)[0])


def test_a_second_graph_of_a_name_replaces_the_first(tmp_path: Path) -> None:
    """Weights of an earlier graph neither stay before those of a later one nor outlive it."""
    import onnx

    from hfcompress.runtimes.onnx_files import remove_graph, save_graph

    model = onnx.load(write(tmp_path / "first.onnx"))
    saved, data = tmp_path / "saved.onnx", tmp_path / "saved.onnx_data"
    save_graph(model, saved, 0)
    size_bytes = data.stat().st_size
    save_graph(model, saved, 0)
    assert data.stat().st_size == size_bytes
    save_graph(model, saved)
    assert not data.exists()
    save_graph(model, saved, 0)
    remove_graph(saved)
    assert [file.name for file in tmp_path.iterdir()] == ["first.onnx"]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.name)
def test_no_model_is_asked_for_its_size(file: Path) -> None:
    """`ByteSize` serializes the model and fails beyond 2 GiB, so nothing calls it."""
    names = {
        node.attr for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    assert "ByteSize" not in names


def _everywhere() -> bytes:
    """Return a model with weights outside in each place that the format has for a tensor, each at its own location."""
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

    def tensor(location: str) -> TensorProto:
        held = TensorProto(name=location, data_location=TensorProto.EXTERNAL, raw_data=b"x" * 300)
        held.external_data.add(key="location", value=location)
        held.external_data.add(key="offset", value="7")
        return held

    inner = GraphProto(initializer=[tensor("subgraph")])
    attributes = [
        AttributeProto(name="t", t=tensor("attribute")),
        AttributeProto(name="ts", tensors=[tensor("first"), tensor("second")]),
        AttributeProto(name="g", g=GraphProto(node=[NodeProto(attribute=[AttributeProto(name="g", g=inner)])])),
    ]
    graph = GraphProto(node=[NodeProto(attribute=attributes)], initializer=[tensor("initializer")])
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("values"))
    sparse.indices.CopyFrom(tensor("indices"))
    model = ModelProto(graph=graph)
    model.functions.add().node.add(attribute=[AttributeProto(name="f", t=tensor("function"))])
    model.training_info.add().initialization.initializer.append(tensor("training"))
    content: bytes = model.SerializeToString()
    return content


PLACES = ["attribute", "first", "function", "indices", "initializer", "second", "subgraph", "training", "values"]


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_a_tensor_is_looked_at(place: str, tmp_path: Path) -> None:
    """Weights outside, or gone, are found wherever in a graph they are named, and told from the others by location."""
    from hfcompress.runtimes.onnx_files import check_external_data

    content = _everywhere()
    (tmp_path / "model.onnx").write_bytes(content)
    for name in PLACES:
        (tmp_path / name).write_bytes(b"")
    check_external_data(tmp_path)
    (tmp_path / place).unlink()
    with pytest.raises(CheckpointError, match=f"model.onnx: its weights are in '{place}', and there is no such file"):
        check_external_data(tmp_path)
    value = bytes([18, len(place)])  # its second field, bytes of which there are so many
    outside = f"../{place}"[: len(place)]  # as long as before, so that no count around it changes
    spoiled = content.replace(value + place.encode(), value + outside.encode())
    (tmp_path / "model.onnx").write_bytes(spoiled)
    with pytest.raises(CheckpointError, match=f"model.onnx: got weights in '{outside}'"):
        check_external_data(tmp_path)


@pytest.mark.parametrize("content", [b"\xff" * 20, b"\x3a\xff\x01", b"\x3a", b"\x3b\x3c", b"\x3a\x05hello"])
def test_what_is_no_graph(content: bytes, tmp_path: Path) -> None:
    """A file that is no message of protocol buffers is refused by name."""
    from hfcompress.runtimes.onnx_files import check_external_data

    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.onnx is not an ONNX graph: .*fetch the checkpoint again"):
        check_external_data(tmp_path)


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("*/_ORT_MEM_ADDR_/*", "got weights in .*, expected a file beside the graph"),
        ("w" * 300, "its weights are in 'w+', and there is no such file"),
    ],
)
def test_location_that_is_no_file(location: str, match: str, tmp_path: Path) -> None:
    """What ONNX Runtime takes for an address in memory is refused, a file of that name or not; so is no name at all."""
    from onnx import GraphProto, ModelProto, TensorProto

    from hfcompress.runtimes.onnx_files import check_external_data

    held = TensorProto(name="w", data_location=TensorProto.EXTERNAL)
    held.external_data.add(key="location", value=location)
    (tmp_path / "model.onnx").write_bytes(ModelProto(graph=GraphProto(initializer=[held])).SerializeToString())
    (tmp_path / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (tmp_path / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(b"")
    with pytest.raises(CheckpointError, match=match):
        check_external_data(tmp_path)
