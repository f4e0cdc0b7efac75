"""Promises of `hfcompress.peak_memory`: a process for each model, counted from its start; no number is asserted."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hfcompress.contracts import Checkpoint
from hfcompress.costs import Contender
from hfcompress.errors import RunError
from hfcompress.peak_memory import MemoryUse, _ending, peak_memory

if TYPE_CHECKING:
    from pathlib import Path

LARGE = 1 << 30
ROWS = 256


def measured(clip: Path, rows: int) -> MemoryUse:
    """Return the memory of the quickstart's model and one kind of call."""
    checkpoint = Checkpoint(clip, "transformers")
    return peak_memory(checkpoint, [Contender(checkpoint, clip).inputs(rows)], threads=1)


def test_only_the_model_and_its_calls_count(clip: Path) -> None:
    """What the caller holds, or ever held, is no part of the measure; the inputs of larger calls are.

    On Linux the peak of a process passes to those that it starts by `ru_maxrss`, which must not be what is read.
    """
    ballast = np.ones(LARGE, np.uint8)
    few = measured(clip, 1)
    assert ballast.nbytes == LARGE
    assert 0 < few.before_bytes < few.peak_bytes < LARGE
    assert few.model_bytes == few.peak_bytes - few.before_bytes > (clip / "model.safetensors").stat().st_size

    many = measured(clip, ROWS)
    assert many.model_bytes - few.model_bytes > ROWS * 3 * 32 * 32 * 4


def test_a_process_that_fails(clip: Path, tmp_path: Path) -> None:
    """A model that does not load is an error with the folder, the last words of the process and the way out."""
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    expected = (
        rf"the peak memory of {tmp_path} \(transformers\) ended with exit code 1: hfcompress\.errors\.CheckpointError: "
        r"the weights in .+ cannot be loaded: .+; to go without this measure, say `benchmark: \{memory: false\}`"
    )
    with pytest.raises(RunError, match=expected):
        peak_memory(Checkpoint(tmp_path, "transformers"), [], threads=1)


def test_a_process_that_is_killed() -> None:
    """A signal is told by its name, and what sends SIGKILL as a rule."""
    assert _ending(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert _ending(-signal.SIGKILL) == "was killed by SIGKILL, as by a system that runs out of memory"
