"""Quantizes one graph with error correction and within an accuracy budget: smooth, measure, choose, correct."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import onnx
from onnxruntime.quantization import TensorsData

from hfcompress.errors import QuantizationError
from hfcompress.quantization.bias_correction import correct, corrections
from hfcompress.quantization.fidelity import Reference
from hfcompress.quantization.sensitivity import costs, fit, units
from hfcompress.quantization.smoothing import Smoother
from hfcompress.runtimes.onnx_files import remove_graph, save_graph

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from hfcompress.contracts import Json, Progress
    from hfcompress.quantization.correction_options import CorrectionOptions, SensitivityOptions
    from hfcompress.quantization.probing import Batches
    from hfcompress.quantization.ranges import GraphRanges

__all__ = ["Corrected", "Corrector", "GraphQuantizer"]

_STRENGTHS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""The alphas that `smooth: auto` tries."""


class GraphQuantizer(Protocol):
    """Quantizes a float graph, whichever way the recipe says."""

    def ranges(self, graph: Path) -> GraphRanges | None:
        """Return the ranges of a graph's activations on the calibration rows; `None` where they are not needed."""

    def quantize(self, graph: Path, output: Path, ranges: GraphRanges | None, floating: Collection[str]) -> bool:
        """Write the quantized graph without the nodes named in `floating`; return whether weights lie beside it."""


@dataclass(frozen=True)
class Corrected:
    """A graph that was quantized with corrections.

    Attributes:
        ranges: The ranges that it has, where it has any.
        in_float: Names of the nodes that the budget left in float.
        external: Whether the weights lie in a file beside it.
        detail: What was corrected, and what that brought.
    """

    ranges: GraphRanges | None
    in_float: frozenset[str]
    external: bool
    detail: dict[str, Json]


@dataclass(frozen=True)
class _Draft:
    """A float graph that is to be quantized, and its ranges."""

    graph: Path
    ranges: GraphRanges | None


class Corrector:
    """Quantizes one graph as well as the options ask.

    Args:
        graph: The float graph.
        nodes: Names of the nodes that are to be quantized, in the order of the graph.
        options: What to correct, and the budget.
        quantizer: Does the quantization.
        batches: Calibration rows.
        scratch: An empty folder for temporary graphs, on a disk with room for a few of them.
        progress: Hears what is found.
    """

    def __init__(
        self,
        graph: Path,
        nodes: Sequence[str],
        options: CorrectionOptions,
        quantizer: GraphQuantizer,
        batches: Batches,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self._graph, self._nodes, self._options, self._quantizer = graph, nodes, options, quantizer
        self._batches, self._scratch, self._progress = batches, scratch, progress
        (scratch / "reference").mkdir()
        metric = options.sensitivity.metric if options.sensitivity is not None else "cosine"
        self._reference = Reference(graph, batches, scratch / "reference", metric)

    def run(self, output: Path) -> Corrected:
        """Write the quantized graph.

        Raises:
            QuantizationError: The budget cannot be reached, an activation is not finite, or the graph's outputs have
                not what the metric compares.
            ProofError: Smoothing would change what the graph computes.
        """
        detail: dict[str, Json] = {}
        in_float: frozenset[str] = frozenset()
        if self._options.smooth is None:
            draft = _Draft(self._graph, self._quantizer.ranges(self._graph))
        else:
            draft = self._smoothed(self._options.smooth, detail)
        if self._options.sensitivity is not None:
            in_float = self._in_float(draft, self._options.sensitivity, detail)
        if self._options.bias_correction:
            draft = self._corrected(draft, in_float, detail)
        external = self._quantizer.quantize(draft.graph, output, draft.ranges, in_float)
        value = self._reference.loss_of(output)
        if not math.isfinite(value):
            msg = (
                f"{self._graph.name} gives outputs that are not finite on the calibration rows once it is quantized; "
                f"leave nodes in float with `sensitivity` or `exclude`, or use `mode: weight_only`"
            )
            raise QuantizationError(msg)
        loss: dict[str, Json] = {"metric": self._reference.metric, "value": value}
        return Corrected(draft.ranges, in_float, external, {**detail, "loss": loss})

    def _smoothed(self, smooth: float | Literal["auto"], detail: dict[str, Json]) -> _Draft:
        """Return the graph smoothed with the given alpha, or with the best of several, which may be none."""
        smoother = Smoother(self._graph, self._nodes, self._batches, self._scratch)
        if smooth != "auto":
            file = self._scratch / "smooth.onnx"
            done = smoother.smooth(smooth, file)
            detail["smooth"] = {"alpha": smooth, "activations": done.activations, "left": done.left}
            return _Draft(file, self._quantizer.ranges(file))
        best = _Draft(self._graph, self._quantizer.ranges(self._graph))
        least = self._loss(best)
        losses: dict[str, Json] = {"none": _told(least)}
        found: dict[str, Json] = {"alpha": None}
        for strength in self._progress.track(_STRENGTHS, len(_STRENGTHS), "smooth"):
            file = self._scratch / f"smooth_{strength}.onnx"
            done = smoother.smooth(strength, file)
            found |= {"activations": done.activations, "left": done.left}
            if done.activations == 0:
                self._forget(file)
                break
            draft = _Draft(file, self._quantizer.ranges(file))
            loss = self._loss(draft)
            loser = best if loss < least else draft
            losses[f"{strength:g}"] = _told(loss)
            if loss < least:
                best, least, found["alpha"] = draft, loss, strength
            self._forget(loser.graph)
        detail["smooth"] = {**found, "losses": losses}
        self._progress.note(f"smooth: alpha {found['alpha']}" if found["alpha"] else "smooth: no alpha helps")
        return best

    def _in_float(self, draft: _Draft, budget: SensitivityOptions, detail: dict[str, Json]) -> frozenset[str]:
        """Return the nodes that the budget leaves in float."""
        everything = self._scratch / "everything.onnx"
        self._quantizer.quantize(draft.graph, everything, draft.ranges, ())
        parts = units(self._nodes, budget.by)
        cost = costs(draft.graph, everything, parts, self._reference, self._scratch, self._progress)
        self._forget(everything)

        def loss(floating: Collection[str]) -> float:
            return self._loss(
                self._corrected(draft, floating, {}) if self._options.bias_correction else draft, floating
            )

        chosen = fit(parts, cost, budget.max_drop, loss, self._reference.metric)
        ranked = sorted(parts, key=lambda unit: -cost[unit.name])
        detail["sensitivity"] = {
            "metric": self._reference.metric,
            "max_drop": budget.max_drop,
            "loss": {"before": _told(chosen.loss_quantized), "after": _told(chosen.loss)},
            "in_float": [{"name": unit.name, "cost": _told(cost[unit.name])} for unit in chosen.in_float],
            "costs": [{"name": unit.name, "cost": _told(cost[unit.name])} for unit in ranked],
        }
        self._progress.note(
            f"sensitivity: {len(chosen.in_float)} of {len(parts)} stay in float, and the loss is {chosen.loss:.3g} "
            f"instead of {chosen.loss_quantized:.3g}"
        )
        return frozenset(name for unit in chosen.in_float for name in unit.nodes)

    def _corrected(self, draft: _Draft, floating: Collection[str], detail: dict[str, Json]) -> _Draft:
        """Return the draft with its biases corrected, or as it is where that does not help."""
        plain = self._scratch / "uncorrected.onnx"
        self._quantizer.quantize(draft.graph, plain, draft.ranges, floating)
        first = onnx.load(draft.graph)
        added = corrections(first, onnx.load(plain), self._batches, self._scratch)
        model, new = correct(first, added)
        file = self._scratch / "corrected.float.onnx"
        save_graph(model, file)
        better = _Draft(file, _with_new(draft.ranges, new))
        before, after = self._reference.loss_of(plain), self._loss(better, floating)
        self._forget(plain)
        detail["bias_correction"] = {
            "maps": len(added),
            "biases_added": len(new),
            "loss": {"before": _told(before), "after": _told(after)},
            "kept": after < before,
        }
        return better if after < before else draft

    def _loss(self, draft: _Draft, floating: Collection[str] = ()) -> float:
        path = self._scratch / "trial.onnx"
        self._quantizer.quantize(draft.graph, path, draft.ranges, floating)
        loss = self._reference.loss_of(path)
        self._forget(path)
        return loss

    def _forget(self, graph: Path) -> None:
        """Remove a temporary graph, so that few copies of a large model lie on the disk at once."""
        if graph != self._graph:
            remove_graph(graph)


def _told(loss: float) -> float | None:
    """Return a loss as the report tells it: nothing where outputs are not finite, which JSON has no number for."""
    return loss if math.isfinite(loss) else None


def _with_new(ranges: GraphRanges | None, new: dict[str, str]) -> GraphRanges | None:
    """Return ranges in which tensors that are new in a graph have those of the tensors whose place they took."""
    if ranges is None:
        return None
    known = dict(ranges.tensors.items())
    known.update({name: known[place] for name, place in new.items() if place in known})
    return replace(ranges, tensors=TensorsData(ranges.tensors.calibration_method, known))
