"""Statistics of the tensors of an ONNX graph over rows, reduced inside of the graph: nothing large leaves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hfcompress.runtimes.onnx_files import save_graph
from hfcompress.runtimes.onnx_session import session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    Array: TypeAlias = np.ndarray[Any, Any]

__all__ = ["Batches", "ChannelMeans", "channel_maxima", "opset"]

Batches: TypeAlias = "Callable[[], Iterable[Mapping[str, Array]]]"
"""Gives all batches of a graph's inputs, from the first, each time that it is called."""

_AXES_AS_INPUT = {"ReduceMax": 18, "ReduceSum": 13}
"""The opset from which a reduction takes its axes as an input."""


def opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    return next(int(item.version) for item in model.opset_import if item.domain in {"", "ai.onnx"})


def channel_maxima(
    model: onnx.ModelProto, widths: Mapping[str, int], batches: Batches, scratch: Path
) -> dict[str, Array]:
    """Return the greatest magnitude of each channel of some tensors over all rows and positions.

    Args:
        model: The graph; it is left as it was.
        widths: Number of channels of each tensor, its last axis, by the tensor's name.
        batches: The rows.
        scratch: A folder for a temporary graph.

    Returns:
        By the tensor's name, shape (channels,).
    """
    running = _Reduction(model, widths, "ReduceMax", scratch)
    found: dict[str, Array] = {}
    for batch in batches():
        for name, value, _ in running.over(batch):
            found[name] = np.maximum(found[name], value) if name in found else value
    return found


class ChannelMeans:
    """Takes the mean of each channel of some tensors, as `channel_maxima` takes the greatest magnitude.

    Args:
        model: The graph; it is left as it was.
        widths: Number of channels of each tensor, its last axis, by the tensor's name.
        scratch: A folder for a temporary graph.
    """

    def __init__(self, model: onnx.ModelProto, widths: Mapping[str, int], scratch: Path) -> None:
        self._running = _Reduction(model, widths, "ReduceSum", scratch)

    def over(self, batches: Batches, given: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Return the means over all rows and positions, by the tensor's name, shape (channels,).

        Args:
            batches: The rows.
            given: Inputs that are the same for all batches.
        """
        sums: dict[str, Array] = {}
        counts: dict[str, int] = {}
        for batch in batches():
            for name, value, count in self._running.over({**batch, **(given or {})}):
                sums[name] = sums.get(name, 0.0) + value.astype(np.float64)
                counts[name] = counts.get(name, 0) + count
        return {name: value / max(counts[name], 1) for name, value in sums.items()}


class _Reduction:
    """A session that gives, for each tensor, what an operator makes of each channel and over how many values."""

    def __init__(
        self,
        model: onnx.ModelProto,
        widths: Mapping[str, int],
        operator: Literal["ReduceMax", "ReduceSum"],
        scratch: Path,
    ) -> None:
        probed = onnx.ModelProto()
        probed.CopyFrom(model)
        del probed.graph.output[:]
        for place, (name, width) in enumerate(widths.items()):
            _add_reduction(probed, name, width, f"probe/{place}", operator)
        self._names = list(widths)
        self._wanted = [f"probe/{place}/{what}" for place in range(len(widths)) for what in ("value", "shape")]
        self._session = None
        if widths:
            save_graph(probed, scratch / "probed.onnx")
            self._session = session(scratch / "probed.onnx")

    def over(self, batch: Mapping[str, Array]) -> Iterable[tuple[str, Array, int]]:
        if self._session is None:
            return
        made = self._session.run(self._wanted, dict(batch))
        for place, name in enumerate(self._names):
            yield name, made[2 * place], int(made[2 * place + 1][0])


def _add_reduction(model: onnx.ModelProto, tensor: str, width: int, prefix: str, operator: str) -> None:
    """Add nodes that reduce all axes of a tensor but its last."""
    graph = model.graph
    source = f"{prefix}/rows"
    graph.initializer.append(numpy_helper.from_array(np.array([-1, width], np.int64), f"{prefix}/to"))
    graph.node.append(helper.make_node("Reshape", [tensor, f"{prefix}/to"], [source]))
    graph.node.append(helper.make_node("Shape", [source], [f"{prefix}/shape"]))
    if operator == "ReduceMax":
        graph.node.append(helper.make_node("Abs", [source], [f"{prefix}/abs"]))
        source = f"{prefix}/abs"
    if opset(model) >= _AXES_AS_INPUT[operator]:
        graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), f"{prefix}/axes"))
        node = helper.make_node(operator, [source, f"{prefix}/axes"], [f"{prefix}/value"], keepdims=0)
    else:
        node = helper.make_node(operator, [source], [f"{prefix}/value"], axes=[0], keepdims=0)
    graph.node.append(node)
    graph.output.append(helper.make_tensor_value_info(f"{prefix}/value", TensorProto.FLOAT, [width]))
    graph.output.append(helper.make_tensor_value_info(f"{prefix}/shape", TensorProto.INT64, [2]))
