"""Size and speed of checkpoints, measured side by side on this machine."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from hfcompress.intervals import bootstrapped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hfcompress.contracts import Checkpoint, Format, Model, Progress, Value

__all__ = ["alternate", "default_threads", "latency", "parameters_of", "size_bytes"]

_WEIGHTS: dict[Format, tuple[str, ...]] = {
    "transformers": ("model.safetensors", "model-*-of-*.safetensors"),
    "onnx": ("**/*.onnx", "**/*.onnx_data"),
    "openvino": ("**/openvino*.xml", "**/openvino*.bin"),
}
_DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja")
_ABOUT = "report.json"
"""The one of these files that tells about a checkpoint and that nobody needs to run it."""

_VALUES = "._weight_qdata"
"""How torchao names the values of a quantized weight, between the module's name and nothing."""

_CALLS_A_TURN = 5
_REST_S = 0.02


def size_bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes of what is needed to load a checkpoint: weights in its format, configuration and processor.

    Whatever else lies in a folder, such as weights for another library, does not count.
    """
    patterns = (*_WEIGHTS[checkpoint.format], *_DESCRIPTION)
    files = {file for pattern in patterns for file in checkpoint.path.glob(pattern) if file.name != _ABOUT}
    return sum(file.stat().st_size for file in files)


def parameters_of(folder: Path) -> int:
    """Return the number of weights of a transformers checkpoint, from the headers of its safetensors files alone.

    The scales and zero points that torchao keeps beside the values of a quantized weight are no weights.
    """
    counts: dict[str, int] = {}
    for file in (file for pattern in _WEIGHTS["transformers"] for file in folder.glob(pattern)):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                part = tensors.get_slice(name)
                packed = name.endswith(_VALUES) and part.get_dtype() == "U8"  # ours: two values of 4 bits in a byte
                counts[name] = int(np.prod(part.get_shape())) * (2 if packed else 1)
    quantized = {name.removesuffix(_VALUES) for name in counts if name.endswith(_VALUES)}
    return sum(count for name, count in counts.items() if _quantized_weight(name) not in quantized or _VALUES in name)


def _quantized_weight(name: str) -> str:
    """Return the module of `module._weight_scale` and the like, the whole name where it has no such form."""
    return name.partition("._weight_")[0]


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
