"""Opening a graph in ONNX Runtime, whose exceptions have no common base but `Exception`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from hfcompress.errors import QuantizationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RUNTIME_ERRORS", "session"]

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    RuntimeError,
    ValueError,
    *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
"""What ONNX Runtime raises when it cannot open or run a graph."""


def session(graph: Path) -> onnxruntime.InferenceSession:
    """Return a session of ONNX Runtime on the CPU.

    Raises:
        QuantizationError: ONNX Runtime cannot load the graph.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions; its warnings tell of its own optimizations
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        msg = f"ONNX Runtime {onnxruntime.__version__} cannot load {graph.name}: {error}"
        raise QuantizationError(msg) from error
