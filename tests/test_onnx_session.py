"""Promises of opening graphs in ONNX Runtime: what cannot be opened is an error of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hfcompress.errors import QuantizationError
from tests.onnx_graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime


def test_graph_that_loads(tmp_path: Path) -> None:
    """A good graph passes, whose weights lie beside it too."""
    import onnx

    from hfcompress.runtimes.onnx_session import session

    weights = {"w": np.ones((64, 64))}
    graph = write_graph(tmp_path / "g.onnx", [("MatMul", ["x", "w"], "y")], weights, 64, {"y": 64})
    assert session(graph).get_inputs()[0].name == "x"
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location="g.onnx_data")
    session(graph)
    (tmp_path / "g.onnx_data").unlink()
    with pytest.raises(QuantizationError, match=r"^ONNX Runtime \S+ cannot load g\.onnx: "):
        session(graph)


@pytest.mark.parametrize("content", [b"no graph", b""])
def test_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    """The error names the version of the runtime and the file."""
    from hfcompress.runtimes.onnx_session import session

    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(QuantizationError, match=r"^ONNX Runtime \S+ cannot load g\.onnx: "):
        session(tmp_path / "g.onnx")


def test_errors_of_a_run_are_known(tmp_path: Path) -> None:
    """What a session raises for inputs of a wrong shape is among the errors that are caught."""
    from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS
    from tests.onnx_graphs import run

    graph = write_graph(tmp_path / "g.onnx", [("MatMul", ["x", "w"], "y")], {"w": np.ones((4, 4))}, 4, {"y": 4})
    with pytest.raises(RUNTIME_ERRORS, match="Expected: 4"):
        run(graph, {"x": np.ones((1, 1, 3), np.float32)})
