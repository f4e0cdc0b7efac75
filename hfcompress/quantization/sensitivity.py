"""What it costs to quantize each node alone, and as few nodes left in float as an accuracy budget needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from hfcompress.errors import QuantizationError
from hfcompress.quantization.splicing import gate, replacements, switched
from hfcompress.runtimes.onnx_files import remove_graph, save_graph
from hfcompress.runtimes.onnx_session import session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from hfcompress.contracts import Progress
    from hfcompress.quantization.correction_options import By, Metric
    from hfcompress.quantization.fidelity import Reference

__all__ = ["Fitted", "Unit", "costs", "fit", "units"]

_MANY = 64
"""More nodes than this are measured block by block where the recipe does not say which."""
_NOT_FLOAT = {
    "Shape",
    "Size",
    "Cast",
    "ArgMax",
    "ArgMin",
    "NonZero",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
}
"""Operators that make something else than floats of what they read, and so tell little of how exact it is."""
_BLOCK = re.compile(r"^(.*?/\w*?(?:layers?|blocks?|stages?|h|resblocks)\.\d+)(?:/|$)")


@dataclass(frozen=True)
class Unit:
    """Nodes that are quantized or left in float together.

    Attributes:
        name: The node's name, or the prefix that the names of a block's nodes share.
        nodes: Names of its nodes, those of `MatMul`, `Gemm`, `Conv` and `Gather` that hold weights.
    """

    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Fitted:
    """A choice that stays inside the budget.

    Attributes:
        in_float: Units left in float, the costliest first.
        loss: Loss of the graph with these units in float.
        loss_quantized: Loss with no unit in float.
    """

    in_float: tuple[Unit, ...]
    loss: float
    loss_quantized: float


def units(nodes: Sequence[str], by: By) -> tuple[Unit, ...]:
    """Return what is measured: each node, or the nodes of each block together and those outside of blocks alone.

    Args:
        nodes: Names of the nodes that are quantized, in the order of the graph.
        by: `auto` takes nodes where they are few, else blocks.
    """
    if by == "node" or (by == "auto" and len(nodes) <= _MANY):
        return tuple(Unit(name, (name,)) for name in nodes)
    blocks: dict[str, list[str]] = {}
    for name in nodes:
        found = _BLOCK.match(name)
        blocks.setdefault(found[1] if found else name, []).append(name)
    return tuple(Unit(name, tuple(members)) for name, members in blocks.items())


def costs(
    floating: Path,
    quantized: Path,
    measured: Sequence[Unit],
    reference: Reference,
    scratch: Path,
    progress: Progress,
) -> dict[str, float]:
    """Return the loss of quantizing each unit alone, by the unit's name.

    One graph holds both forms of every node, and switches say which of the two runs: nothing is calibrated, quantized
    or loaded again, and the rows pass once for each unit.

    Args:
        floating: The float graph.
        quantized: The same graph with all units quantized.
        measured: The units.
        reference: The float graph's outputs on the rows.
        scratch: A folder for a temporary graph.
        progress: Hears how many units are done.
    """
    first, second = onnx.load(floating), onnx.load(quantized)
    changed = replacements(first, second)
    owners = _owners(first, changed, {name: unit.name for unit in measured for name in unit.nodes})
    forms = {name: changed[name] for name in owners}
    file = scratch / "switched.onnx"
    save_graph(switched(first, second, forms), file)
    running = session(file)
    found = {}
    for unit in progress.track(measured, len(measured), "sensitivity"):
        flags = {gate(name): np.array(owner == unit.name) for name, owner in owners.items()}
        found[unit.name] = reference.loss(running.run, flags)
    del running  # it may have the file open
    remove_graph(file)
    return found


def fit(
    measured: Sequence[Unit],
    cost: Mapping[str, float],
    budget: float,
    loss: Callable[[Collection[str]], float],
    metric: Metric,
) -> Fitted:
    """Leave as few units in float as keep the loss of the real quantized graph within a budget.

    The costliest units are left in float first, and how many of them is found by bisection. Then each of them, from the
    cheapest, is quantized after all where the budget still holds, so none is in float without need.

    Args:
        measured: The units.
        cost: What quantizing each alone costs.
        budget: The most that the loss may be.
        loss: Takes the names of nodes to leave in float, quantizes the rest and returns the loss of the whole.
        metric: What the loss is measured in.

    Raises:
        QuantizationError: The budget does not even hold with one unit quantized, the one that costs least.
    """
    order = sorted(measured, key=lambda unit: -cost[unit.name])

    def tried(chosen: Sequence[Unit]) -> float:
        return loss([name for unit in chosen for name in unit.nodes])

    everything = tried(())
    if everything <= budget:
        return Fitted((), everything, everything)
    fails, holds = 0, len(order) - 1
    least = tried(order[:holds])
    if least > budget:
        msg = (
            f"the budget of {budget:g} ({metric}) cannot be reached: quantizing {order[-1].name} alone, which costs "
            f"least, loses {least:.3g}, and quantizing everything {everything:.3g}; allow more with "
            f"`sensitivity: {{max_drop: ...}}`, or keep the model in float"
        )
        raise QuantizationError(msg)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        now = tried(order[:middle])
        if now <= budget:
            holds, least = middle, now
        else:
            fails = middle
    chosen = order[:holds]
    for unit in reversed(order[: holds - 1]):  # without the last one the budget does not hold, as bisection found
        fewer = [other for other in chosen if other is not unit]
        now = tried(fewer)
        if now <= budget:
            chosen, least = fewer, now
    return Fitted(tuple(chosen), least, everything)


def _owners(floating: onnx.ModelProto, changed: Iterable[str], listed: Mapping[str, str]) -> dict[str, str]:
    """Return the unit that each changed node belongs to, by the node's name.

    Where outputs are quantized too, a node that reads one changes without being quantized itself: it belongs to the
    unit that made what it reads.
    """
    changed = set(changed)
    producers = {name: node for node in floating.graph.node for name in node.output}
    owners = {}
    for node in floating.graph.node:
        if node.name in listed:
            owners[node.name] = listed[node.name]
        elif node.name in changed and node.op_type not in _NOT_FLOAT:
            above = (producers[name].name for name in node.input if name in producers)
            owner = next((listed[name] for name in above if name in listed), None)
            if owner is not None:
                owners[node.name] = owner
    return {name: owner for name, owner in owners.items() if name in changed}
