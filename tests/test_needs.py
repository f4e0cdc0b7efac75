"""Promises of what a run is said to need."""

from __future__ import annotations

import psutil
import pytest
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

    assert 3 * SOURCE.size_bytes < pruned < exported < 9 * SOURCE.size_bytes
    assert memory_bytes((half, ONNX)) == exported
    assert memory_bytes((SOURCE,)) < exported


@pytest.mark.parametrize(
    ("parameters", "pruned", "size_bytes", "measured"),
    [
        (25_346_881, 20_420_929, 21_800_000, 1_676_000_000),
        (44_967_809, 34_350_000, 36_000_000, 2_152_000_000),
        (101_904_385, 75_141_121, 78_000_000, 3_138_000_000),
        (151_277_313, 110_000_000, 114_000_000, 4_500_000_000),
    ],
)
def test_estimate_is_near_what_static_takes(parameters: int, pruned: int, size_bytes: int, measured: int) -> None:
    """What a CLIP, pruned and then quantized statically, took is estimated, and at most half as much again.

    Measured by `tests/benchmarks/pipeline.py`, with other widths for all but the last, which is ViT-B/32: the process
    and its children, at the peak. What pruning left, and the size, are rounded where no plan was read; they count
    little beside the source.
    """
    exported = _forecast(pruned, size_bytes, "onnx")
    found = memory_bytes((_forecast(parameters, 4 * parameters), _forecast(pruned, 4 * pruned), exported))
    assert measured <= found <= 1.5 * measured


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
