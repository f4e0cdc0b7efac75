"""Promises of what a run is said to need."""

from __future__ import annotations

import psutil
from transformers import PretrainedConfig

from hfcompress.contracts import Forecast, Format
from hfcompress.needs import benchmark_bytes, memory_bytes, memory_warning, step_bytes


def _forecast(parameters: int, size_bytes: int, form: Format = "transformers") -> Forecast:
    return Forecast(PretrainedConfig(), form, parameters, size_bytes)


SOURCE = _forecast(100_000_000, 400_000_000)
SMALLER = _forecast(50_000_000, 200_000_000)
ONNX = _forecast(50_000_000, 50_000_000, "onnx")


def test_memory_holds_several_copies_of_the_weights() -> None:
    """A run holds the float32 weights several times, more of them where it exports, whatever type they have on disk."""
    pruned, exported = memory_bytes((SOURCE, SMALLER)), memory_bytes((SOURCE, ONNX))
    half = _forecast(100_000_000, 200_000_000)

    assert 3 * SOURCE.size_bytes < pruned < exported < 8 * SOURCE.size_bytes
    assert memory_bytes((half, ONNX)) == exported
    assert memory_bytes((SOURCE,)) < pruned


def test_warning_over_what_the_machine_has() -> None:
    """More than is available is told with both numbers, less is not."""
    assert memory_warning(1) is None
    warning = memory_warning(1000 * psutil.virtual_memory().total)
    assert warning is not None
    assert "are available: end other programs, or take a smaller model" in warning


def test_disk_holds_the_result_and_graphs_on_their_way() -> None:
    """A step in torch writes its result; one that exports writes float32 graphs before it."""
    assert step_bytes(SOURCE, SMALLER) == 200_000_000
    assert step_bytes(SOURCE, ONNX) == 50_000_000 + 2 * 400_000_000
    assert benchmark_bytes((SOURCE, SMALLER)) == 0
    assert benchmark_bytes((SOURCE, SMALLER, ONNX)) == 2 * 400_000_000
