"""Size and speed of quantized models, beside the float32 form of the same model in the same runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfcompress.runtimes import runtime_of

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Model

__all__ = ["Speed", "graph_bytes", "load"]

GRAPHS = ("*.onnx", "*.onnx_data", "*.onnx.data", "*.xml", "*.bin")


@dataclass(frozen=True)
class Speed:
    """How fast a model answers.

    Attributes:
        latency_ms: Median of its calls.
        ratio: How many times faster than another: the median over calls of the same number, which ran in the same turn.
        low: First quartile of these ratios.
        high: Third quartile.
    """

    latency_ms: float
    ratio: float
    low: float
    high: float

    @classmethod
    def against(cls, other: np.ndarray[Any, Any], own: np.ndarray[Any, Any]) -> Speed:
        """Return the speed of a model from milliseconds of each call, its own and those of another, shape (calls,)."""
        low, ratio, high = (float(value) for value in np.percentile(other / own, [25, 50, 75]))
        return cls(float(np.median(own)), ratio, low, high)

    def __str__(self) -> str:
        """Return the ratio with its quartiles, as the tables show it."""
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def load(folder: Path, runtime: str, threads: int) -> Model:
    """Load an artifact with the stock class of its runtime."""
    return runtime_of("openvino" if runtime == "openvino" else "onnx").load(folder, threads)


def graph_bytes(folder: Path) -> int:
    """Return the bytes of all graphs in a folder, their weights included."""
    return sum(file.stat().st_size for pattern in GRAPHS for file in folder.rglob(pattern))
