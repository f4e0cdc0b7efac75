"""What a run needs of the machine, read from its forecasts: bytes of memory, bytes on disk."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import psutil

from hfcompress.changes import format_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfcompress.contracts import Forecast

__all__ = ["benchmark_bytes", "memory_bytes", "memory_warning", "step_bytes"]

_FLOAT32 = 4
_PROCESS = 900_000_000
"""An interpreter with torch, transformers and a runtime, and the activations of a batch."""
_MEASURED_PROCESS = 600_000_000
"""The interpreter and the libraries of the process in which the benchmark measures the memory of one model."""
_IN_TORCH = 3.0
"""Copies of the float32 weights in a step that stays in torch: the model, its changed twin, what is written."""
_IN_EXPORT = 5.5
"""The same where a model is exported and quantized: the torch model, its graph as it is traced, serialized, read again
and rewritten, and the one with outputs for the ranges, which ONNX Runtime holds in its own form too."""
_IN_TORCH_BENCHMARK = 2.0
"""Copies of the source's float32 weights in a benchmark in torch: one here, and one in a process of its own."""
_IN_EXPORT_BENCHMARK = 5.0
"""The same beside an export: in torch, and twice in its runtime, which packs weights, here and there."""


def memory_bytes(forecasts: Sequence[Forecast]) -> int:
    """Return what a run is estimated to need of the memory at its peak, with a process in which memory is measured.

    Weights alone are counted, in float32: activations of large batches, and the statistics that pruning gathers for
    very wide layers, come on top.

    Args:
        forecasts: The source, and what each step makes of it.
    """
    peaks = [
        before.parameters * _FLOAT32 * (_IN_TORCH if after.format == "transformers" else _IN_EXPORT)
        for before, after in itertools.pairwise(forecasts)
    ]
    source = forecasts[0].parameters * _FLOAT32
    runs_as_published = forecasts[0].format == forecasts[-1].format
    copies = _IN_TORCH_BENCHMARK if runs_as_published else _IN_EXPORT_BENCHMARK
    benchmark = _MEASURED_PROCESS + copies * source + forecasts[-1].size_bytes
    return round(_PROCESS + max([benchmark, *peaks]))


def memory_warning(need: int) -> str | None:
    """Return what a user should know if a run needs more memory than the machine has to give, else `None`."""
    available = psutil.virtual_memory().available
    if need <= available:
        return None
    return (
        f"the run is estimated to need {format_value(need, 'bytes')} of memory, and {format_value(available, 'bytes')} "
        f"are available: end other programs, or take a smaller model or a larger machine"
    )


def step_bytes(before: Forecast, after: Forecast) -> int:
    """Return what a step is estimated to write beside its output: its result, and float32 graphs on their way there."""
    graphs = 0 if after.format in {"transformers", before.format} else 2 * _FLOAT32 * before.parameters
    return after.size_bytes + graphs


def benchmark_bytes(forecasts: Sequence[Forecast]) -> int:
    """Return what the benchmark is estimated to write: the float32 form of the source in the artifact's runtime."""
    return 0 if forecasts[0].format == forecasts[-1].format else 2 * _FLOAT32 * forecasts[0].parameters
