"""Quantizes the graphs of an export with error correction, one after the other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx

from hfcompress.errors import QuantizationError
from hfcompress.graph_names import graph_file
from hfcompress.quantization.correction import Corrector
from hfcompress.quantization.graph_quantizer import quantize_graph
from hfcompress.quantization.onnx_graph import activations, is_logits
from hfcompress.quantization.ranges import Uncalibrated, calibrate
from hfcompress.quantization.spool import spool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from hfcompress.contracts import Progress
    from hfcompress.quantization.correction import Corrected
    from hfcompress.quantization.graph_quantizer import GraphSettings
    from hfcompress.quantization.onnx_options import OnnxRuntimeOptions
    from hfcompress.quantization.probing import Batches
    from hfcompress.quantization.ranges import Feeds, GraphRanges

__all__ = ["quantize_corrected"]


def quantize_corrected(
    graphs: Mapping[str, tuple[Path, GraphSettings]],
    options: OnnxRuntimeOptions,
    feeds: Feeds,
    output: Path,
    scratch: Path,
    progress: Progress,
) -> dict[str, Corrected]:
    """Quantize each graph into `output`, under the name that transformers.js looks for.

    Args:
        graphs: Name → a float32 graph in the form that `prepare` gives, and how to quantize it.
        options: What to correct.
        feeds: Begins a pass over the calibration rows; called once.
        output: The folder of the quantized graphs.
        scratch: An empty folder for what is needed on the way.
        progress: Hears what is found.

    Raises:
        QuantizationError: A graph cannot be quantized, an accuracy budget not be reached, or no graph has what the
            budget's metric compares.
    """
    if options.sensitivity is not None and options.sensitivity.metric == "top1_agreement":
        _check_logits([path for path, _ in graphs.values()])
    batches = spool(scratch / "rows", feeds(), graphs)
    found = {}
    for name, (path, settings) in graphs.items():
        folder = scratch / f"{name}.corrections"
        folder.mkdir()
        quantizer = _Quantizer(settings, options, batches[name])
        kinds = onnx.load(path, load_external_data=False).graph.node
        nodes = [node.name for node in kinds if node.name in settings.computed | settings.stored]
        corrector = Corrector(path, nodes, options, quantizer, batches[name], folder, progress)
        found[name] = corrector.run(output / graph_file(path.stem, options.weights))
        shutil.rmtree(folder)
        shutil.rmtree(scratch / "rows" / name)
    return found


def _check_logits(graphs: Iterable[Path]) -> None:
    outputs = {
        path.name: [put.name for put in onnx.load(path, load_external_data=False).graph.output] for path in graphs
    }
    if not any(is_logits(name) for names in outputs.values() for name in names):
        told = "; ".join(f"{graph} gives {', '.join(names)}" for graph, names in outputs.items())
        msg = f"`metric: top1_agreement` compares logits, and no graph has any ({told}); use `metric: cosine`"
        raise QuantizationError(msg)


class _Quantizer:
    """Quantizes one graph, or a graph derived from it, in the way that the recipe says."""

    def __init__(self, settings: GraphSettings, options: OnnxRuntimeOptions, batches: Batches) -> None:
        self._settings, self._options, self._batches = settings, options, batches

    def ranges(self, graph: Path) -> GraphRanges | None:
        if self._settings.mode != "static":
            return None
        wanted = {"graph": Uncalibrated(graph, activations(graph, self._settings.computed))}
        options = self._options
        return calibrate(
            wanted,
            lambda: (("graph", batch) for batch in self._batches()),
            options.calibration_method,
            options.percentile,
            graph.parent,
        )["graph"]

    def quantize(self, graph: Path, output: Path, ranges: GraphRanges | None, floating: Collection[str]) -> bool:
        settings = replace(
            self._settings,
            computed=self._settings.computed - set(floating),
            stored=self._settings.stored - set(floating),
        )
        return quantize_graph(graph, settings, None if ranges is None else ranges.tensors, output)
