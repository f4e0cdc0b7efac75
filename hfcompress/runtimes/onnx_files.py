"""Files of ONNX graphs, which the weights leave where one file would become too large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import load_external_data_for_model

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EXTERNAL_DATA_BYTES", "remove_graph", "save_graph", "weights_bytes"]

EXTERNAL_DATA_BYTES = 2**31 - 2**26
"""Protocol buffers hold less than 2 GiB, of which 64 MiB are left to the nodes; more weights lie beside the graph."""

_SMALL_BYTES = 1024
"""Weights of fewer bytes stay in the graph: shapes and axes, which ONNX's own inference reads there."""


def weights_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of a graph's weights.

    A model cannot be asked for its own size: to tell it, protocol buffers serialize it, and fail beyond 2 GiB.
    """
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def save_graph(model: onnx.ModelProto, path: Path, limit_bytes: int = EXTERNAL_DATA_BYTES) -> bool:
    """Write a graph, with its weights in `<file name>_data` beside it if they exceed `limit_bytes`.

    What lay there before is replaced. The model is left as it was.

    Returns:
        Whether the weights lie beside it.
    """
    remove_graph(path)  # onnx writes behind the weights that are there
    data = _data(path)
    if weights_bytes(model) <= limit_bytes:
        onnx.save(model, path)
        return False
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=_SMALL_BYTES)
    load_external_data_for_model(model, str(path.parent))  # saving took the weights out of the model
    return True


def remove_graph(path: Path) -> None:
    """Remove a graph, and its weights where they lie beside it; what is not there stays so."""
    path.unlink(missing_ok=True)
    _data(path).unlink(missing_ok=True)


def _data(path: Path) -> Path:
    return path.with_name(f"{path.name}_data")
