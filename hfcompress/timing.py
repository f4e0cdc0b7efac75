"""Speed of models, measured side by side on this machine."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from hfcompress.intervals import bootstrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfcompress.contracts import Model, Progress, Value

__all__ = ["alternate", "default_threads", "latency", "throughput", "throughput_calls"]

_CALLS_A_TURN = 5
_REST_S = 0.02


def alternate(
    models: Mapping[str, Model],
    inputs: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
    repeats: int,
    progress: Progress,
) -> dict[str, np.ndarray[Any, Any]]:
    """Time calls of several models in turns, so that whatever else the machine does falls on all of them.

    Before each turn a short rest lets the worker threads of the runtime that ran before go to sleep, and one call goes
    untimed.

    Args:
        models: Name → model.
        inputs: Name → arguments of the call; each model is given those of its own that it takes.
        repeats: Timed calls of each model.
        progress: Hears how many turns are done.

    Returns:
        Name → milliseconds of each timed call, shape (repeats,).
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    arguments = {
        name: {key: array for key, array in inputs[name].items() if key in model.inputs}
        for name, model in models.items()
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


def throughput(times: np.ndarray[Any, Any], rows: int) -> Value:
    """Return the rows that calls one after another take in a second, with the bootstrap interval.

    Args:
        times: Milliseconds of each call, shape (calls,).
        rows: Rows in each call.
    """
    return bootstrapped(times, lambda values, axis: np.asarray(1e3 * rows / np.mean(values, axis=axis)))


def throughput_calls(repeats: int, rows: int) -> int:
    """Return how often calls of several rows are timed: for as many rows as `repeats` calls of one row have.

    It is a turn's calls at least, and never more than `repeats`.
    """
    return min(repeats, max(_CALLS_A_TURN, -(-repeats // rows)))


def default_threads() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
