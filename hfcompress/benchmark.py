"""Size and speed of checkpoints, measured side by side on this machine."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from hfcompress.evaluation.intervals import bootstrapped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hfcompress.contracts import Model, Progress, Value

__all__ = ["ABOUT", "alternate", "default_threads", "latency", "parameters_of", "size_bytes"]

ABOUT = frozenset({"README.md", "report.json", "recipe.yaml", ".gitattributes"})
"""Files that tell about a checkpoint and that nobody needs to run it; `assets/` holds the card's pictures."""

_CALLS_A_TURN = 5
_REST_S = 0.02


def size_bytes(folder: Path) -> int:
    """Return the bytes of everything that is needed to load a folder: weights, configuration and processor."""
    return sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and file.name not in ABOUT and file.relative_to(folder).parts[0] != "assets"
    )


def parameters_of(folder: Path) -> int:
    """Return the number of weights in a folder's safetensors files, from their headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(int(np.prod(tensors.get_slice(name).get_shape())) for name in tensors.keys())  # noqa: SIM118
    return total


def alternate(
    models: Mapping[str, Model],
    inputs: Mapping[str, np.ndarray[Any, Any]],
    repeats: int,
    progress: Progress,
) -> dict[str, np.ndarray[Any, Any]]:
    """Time calls of several models in turns, so that whatever else the machine does falls on all of them.

    Before each turn a short rest lets the worker threads of the runtime that ran before go to sleep, and one call goes
    untimed.

    Args:
        models: Name → model.
        inputs: Arguments of the call; each model is given those it takes.
        repeats: Timed calls of each model.
        progress: Hears how many turns are done.

    Returns:
        Name → milliseconds of each timed call, shape (repeats,).
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    arguments = {
        name: {key: array for key, array in inputs.items() if key in model.inputs} for name, model in models.items()
    }
    turns = -(-repeats // _CALLS_A_TURN)
    for turn in progress.track(range(turns), turns, "timing turns"):
        for name, model in models.items():
            time.sleep(_REST_S)
            model(arguments[name])
            for _ in range(min(_CALLS_A_TURN, repeats - turn * _CALLS_A_TURN)):
                start = time.perf_counter()
                model(arguments[name])
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.asarray(values) for name, values in times.items()}


def latency(times: np.ndarray[Any, Any], percentile: float) -> Value:
    """Return a percentile of call times in milliseconds with its bootstrap interval.

    Args:
        times: Milliseconds of each call, shape (calls,).
        percentile: In [0, 100]; 50 is the median.
    """
    return bootstrapped(times, lambda values, axis: np.percentile(values, percentile, axis=axis))


def default_threads() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
