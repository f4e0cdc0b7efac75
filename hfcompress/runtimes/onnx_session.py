"""Opening a graph in ONNX Runtime, whose exceptions have no common base but `Exception`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from hfcompress.errors import QuantizationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RUNTIME_ERRORS", "check_loads"]

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    RuntimeError,
    ValueError,
    *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
"""What ONNX Runtime raises when it cannot open or run a graph."""


def check_loads(graph: Path) -> None:
    """Open a graph in ONNX Runtime on the CPU and close it again.

    Raises:
        QuantizationError: ONNX Runtime cannot open it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        msg = f"ONNX Runtime {onnxruntime.__version__} cannot load {graph.name}: {error}"
        raise QuantizationError(msg) from error
