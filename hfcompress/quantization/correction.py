"""Quantizes one graph with error correction and within an accuracy budget: smooth, measure, choose, correct."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import onnx
from onnxruntime.quantization import TensorsData

from hfcompress.quantization.bias_correction import correct, corrections
from hfcompress.quantization.fidelity import Reference
from hfcompress.quantization.probing import save_model
from hfcompress.quantization.sensitivity import costs, fit, units
from hfcompress.quantization.smoothing import Smoother

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from hfcompress.contracts import Json, Progress
    from hfcompress.quantization.correction_options import CorrectionOptions, SensitivityOptions
    from hfcompress.quantization.probing import Batches
    from hfcompress.quantization.ranges import GraphRanges

__all__ = ["Corrector", "GraphQuantizer"]

_STRENGTHS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""The alphas that `smooth: auto` tries."""


class GraphQuantizer(Protocol):
    """Quantizes a float graph, whichever way the recipe says."""

    def ranges(self, graph: Path) -> GraphRanges | None:
        """Return the range of each tensor on the calibration rows; `None` where ranges are taken at run time."""

    def quantize(self, graph: Path, output: Path, ranges: GraphRanges | None, floating: Collection[str]) -> None:
        """Write the quantized graph, in which the nodes named in `floating` are not quantized."""


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
        scratch: An empty folder for temporary graphs, on a disk with room for several of them.
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

    def run(self, output: Path) -> dict[str, Json]:
        """Write the quantized graph, and return what was done and what it brought.

        Raises:
            QuantizationError: The budget cannot be reached, an activation is not finite, or the graph's outputs have
                not what the metric compares.
            ProofError: Smoothing would change what the graph computes.
        """
        detail: dict[str, Json] = {}
        draft = _Draft(self._graph, None)
        if self._options.smooth is None:
            draft = _Draft(self._graph, self._quantizer.ranges(self._graph))
        else:
            draft = self._smoothed(self._options.smooth, detail)
        if self._options.sensitivity is None:
            path = self._quantized(draft, (), "all", detail)
        else:
            path = self._within_budget(draft, self._options.sensitivity, detail)
        save_model(onnx.load(path), output)
        return {**detail, "loss": {"metric": self._reference.metric, "value": self._reference.loss_of(output)}}

    def _smoothed(self, smooth: float | str, detail: dict[str, Json]) -> _Draft:
        """Return the graph smoothed with the given alpha, or with the best of several, which may be none."""
        smoother = Smoother(self._graph, self._nodes, self._batches, self._scratch)
        if not isinstance(smooth, str):
            file = self._scratch / "smooth.onnx"
            done = smoother.smooth(smooth, file)
            detail["smooth"] = {"alpha": smooth, "activations": done.activations, "left": done.left}
            return _Draft(file, self._quantizer.ranges(file))
        best = _Draft(self._graph, self._quantizer.ranges(self._graph))
        losses: dict[str, Json] = {"none": (least := self._loss(best))}
        found: dict[str, Json] = {"alpha": None}
        for strength in _STRENGTHS:
            file = self._scratch / f"smooth_{strength}.onnx"
            done = smoother.smooth(strength, file)
            found |= {"activations": done.activations, "left": done.left}
            if done.activations == 0:
                break
            draft = _Draft(file, self._quantizer.ranges(file))
            losses[f"{strength:g}"] = loss = self._loss(draft)
            if loss < least:
                best, least, found["alpha"] = draft, loss, strength
        detail["smooth"] = {**found, "losses": losses}
        self._progress.note(f"smooth: alpha {found['alpha']}" if found["alpha"] else "smooth: no alpha helps")
        return best

    def _loss(self, draft: _Draft) -> float:
        path = self._scratch / "trial.quantized.onnx"
        self._quantizer.quantize(draft.graph, path, draft.ranges, ())
        return self._reference.loss_of(path)

    def _within_budget(self, draft: _Draft, budget: SensitivityOptions, detail: dict[str, Json]) -> Path:
        """Quantize all but the nodes that the budget cannot afford."""
        everything = self._scratch / "everything.onnx"
        self._quantizer.quantize(draft.graph, everything, draft.ranges, ())
        parts = units(self._nodes, budget.by)
        cost = costs(draft.graph, everything, parts, self._reference, self._scratch, self._progress)
        details: dict[Path, dict[str, Json]] = {}

        def build(floating: Collection[str], label: str) -> Path:
            found: dict[str, Json] = {}
            path = self._quantized(draft, floating, label, found)
            details[path] = found
            return path

        chosen = fit(parts, cost, budget.max_drop, build, self._reference)
        detail.update(details[chosen.path])
        floating = {unit.name for unit in chosen.floating}
        ranked = sorted(parts, key=lambda unit: -cost[unit.name])
        detail["sensitivity"] = {
            "metric": budget.metric,
            "max_drop": budget.max_drop,
            "loss": {"before": chosen.loss_quantized, "after": chosen.loss},
            "in_float": [{"name": unit.name, "cost": cost[unit.name]} for unit in chosen.floating],
            "costs": [
                {"name": unit.name, "cost": cost[unit.name], "in_float": unit.name in floating} for unit in ranked
            ],
        }
        self._progress.note(
            f"sensitivity: {len(floating)} of {len(parts)} stay in float, which brings the loss from "
            f"{chosen.loss_quantized:.3g} to {chosen.loss:.3g}"
        )
        return chosen.path

    def _quantized(self, draft: _Draft, floating: Collection[str], label: str, detail: dict[str, Json]) -> Path:
        """Quantize a draft, with its biases corrected if the recipe asks and it helps."""
        path = self._scratch / f"{label}.onnx"
        self._quantizer.quantize(draft.graph, path, draft.ranges, floating)
        if not self._options.bias_correction:
            return path
        first = onnx.load(draft.graph)
        added = corrections(first, onnx.load(path), self._batches, self._scratch)
        model, new = correct(first, added)
        source, better = self._scratch / "corrected.float.onnx", self._scratch / f"{label}.corrected.onnx"
        save_model(model, source)
        self._quantizer.quantize(source, better, _with_new(draft.ranges, new), floating)
        before, after = self._reference.loss_of(path), self._reference.loss_of(better)
        detail["bias_correction"] = {
            "maps": len(added),
            "biases_added": len(new),
            "loss": {"before": before, "after": after},
            "kept": after < before,
        }
        return better if after < before else path


def _with_new(ranges: GraphRanges | None, new: dict[str, str]) -> GraphRanges | None:
    """Return ranges in which tensors that are new in a graph have those of the tensors whose place they took."""
    if ranges is None:
        return None
    known = dict(ranges.tensors.items())
    known.update({name: known[place] for name, place in new.items() if place in known})
    return replace(ranges, tensors=TensorsData(ranges.tensors.calibration_method, known))
