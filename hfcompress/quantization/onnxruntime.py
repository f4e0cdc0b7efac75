"""Low precision for ONNX Runtime, through optimum's exporter and ONNX Runtime's quantizers."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hfcompress.contracts import Checkpoint, Forecast, Format, Json, Step
from hfcompress.errors import QuantizationError
from hfcompress.graph_names import ONNX_FOLDER, graph_file
from hfcompress.processes import together
from hfcompress.quantization.onnx_options import SATURATING_TARGETS, OnnxRuntimeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfcompress.contracts import Progress, Rows, StepContext
    from hfcompress.quantization.graph_quantizer import GraphSettings
    from hfcompress.quantization.node_choice import NodeChoice
    from hfcompress.quantization.ranges import GraphRanges, Uncalibrated

__all__ = ["OnnxRuntimeOptions", "OnnxRuntimeQuantizer"]


class OnnxRuntimeQuantizer(Step):
    """Exports to ONNX and quantizes the weights, and the activations that meet them.

    Products with a weight compute in low precision, their results stay in float. Convolutions and look-up tables are
    stored in 8 bits and compute in float, and so is the product that makes a decoder's logits. Products of two
    activations (attention scores, the final similarity) stay in float.
    """

    Options: ClassVar[type[OnnxRuntimeOptions]] = OnnxRuntimeOptions
    options: OnnxRuntimeOptions

    @property
    def accepts(self) -> frozenset[Format]:
        """Only a transformers checkpoint can be exported."""
        return frozenset({"transformers"})

    @property
    def produces(self) -> Format:
        """An ONNX export."""
        return "onnx"

    @property
    def extra(self) -> str | None:
        """Exporter, quantizer and runtime come with one extra."""
        return "onnxruntime"

    def forecast(self, before: Forecast) -> Forecast:
        """Check that optimum exports (and optimizes) the architecture, and count the bytes of the weights."""
        from hfcompress.quantization.graph_quantizer import quantizable_operators
        from hfcompress.quantization.weight_bytes import weight_bytes
        from hfcompress.registry import did_you_mean
        from hfcompress.runtimes.onnxruntime import check_layout, export_task

        options = self.options
        known = quantizable_operators(options.mode)
        for operator in options.operators:
            if operator not in known:
                msg = (
                    f"operators: ONNX Runtime quantizes no {operator!r} in mode {options.mode}"
                    f"{did_you_mean(operator, known)}; it quantizes {', '.join(sorted(known))}"
                )
                raise QuantizationError(msg)
        task = export_task(before.config)
        check_layout(before.config, options.layout)
        if options.layout == "towers" and options.sensitivity and options.sensitivity.metric == "top1_agreement":
            msg = (
                "`metric: top1_agreement` compares logits, and towers give embeddings alone; use `metric: cosine`, or "
                "`layout: combined`"
            )
            raise QuantizationError(msg)
        changes = [f"export to ONNX ({task})"]
        if options.optimize is not None:
            from hfcompress.quantization.onnx_optimizer import check_optimizable

            check_optimizable(before.config)
            changes.append(f"fuse nodes ({options.optimize})")
        count = weight_bytes(before.config, options)
        changes.append(
            f"{options.mode} {options.weights}: {count.weights:,} of {before.parameters:,} weights from "
            f"{4 * count.weights:,} bytes to {count.size_bytes:,}"
        )
        changes.extend(options.correction_words())
        if options.exclude:
            changes.append(f"but for the nodes that `exclude` names ({', '.join(options.exclude)})")
        copies = 2 if options.layout == "both" else 1
        return replace(
            before,
            format="onnx",
            size_bytes=copies * (count.size_bytes + count.other_bytes),
            changes=tuple(changes),
        )

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Export, calibrate where the mode is static, and quantize each graph."""
        from hfcompress.quantization.node_choice import choose
        from hfcompress.quantization.onnx_graph import check_weights, prepare
        from hfcompress.runtimes.onnxruntime import OnnxRuntime

        options = self.options
        if options.mode == "static" and context.calibration is None:
            msg = "static quantization needs calibration rows"
            raise QuantizationError(msg)
        with tempfile.TemporaryDirectory(dir=output) as scratch:
            exported = OnnxRuntime().export(checkpoint, Path(scratch) / "float32", options.layout)
            graphs = {graph.name: graph for graph in sorted((exported.path / ONNX_FOLDER).glob("*.onnx"))}
            self._optimize(exported, graphs)
            for graph in graphs.values():
                prepare(graph)
            choices = choose(
                graphs,
                options.operators,
                options.exclude,
                products=options.products_of_activations,
                # where activations are in float, all products are
                logits_in_float=options.mode != "weight_only" and not options.products_of_activations,
            )
            for name, choice in choices.items():
                check_weights(graphs[name], choice.computed | choice.stored)
            (output / ONNX_FOLDER).mkdir()
            if options.corrects:
                detail = self._correct(exported, graphs, choices, output / ONNX_FOLDER, context)
            else:
                ranges = self._calibrate(exported, graphs, choices, context)
                detail = {
                    name: self._quantize(graphs[name], choice, ranges.get(name), output / ONNX_FOLDER)
                    for name, choice in choices.items()
                }
            for file in exported.path.iterdir():
                if file.is_file():
                    shutil.copyfile(file, output / file.name)
        rows = context.calibration
        calibrated: dict[str, Json] = {} if rows is None else {"calibration": rows.record()}
        return {**self._summary(), **calibrated, "graphs": detail}

    def settings(self, choice: NodeChoice) -> GraphSettings:
        """Return how the options ask one graph to be quantized."""
        from hfcompress.quantization.graph_quantizer import GraphSettings

        options = self.options
        return GraphSettings(
            mode=options.mode,
            weights=options.weights,
            activations=options.activations,
            per_channel=options.per_channel,
            reduce_range=options.target in SATURATING_TARGETS,
            block_size=options.block_size,
            computed=choice.computed,
            stored=choice.stored,
        )

    def _optimize(self, exported: Checkpoint, graphs: Mapping[str, Path]) -> None:
        if self.options.optimize is not None:
            from hfcompress.anatomy import load_config
            from hfcompress.quantization.onnx_optimizer import optimize

            optimize(graphs.values(), load_config(exported.path), self.options.optimize)

    def _calibrate(
        self,
        exported: Checkpoint,
        graphs: Mapping[str, Path],
        choices: Mapping[str, NodeChoice],
        context: StepContext,
    ) -> dict[str, GraphRanges]:
        """Return the ranges of each graph's activations, from rows that pass through the float32 graphs."""
        from hfcompress.quantization.onnx_graph import activations
        from hfcompress.quantization.ranges import Uncalibrated

        rows = context.calibration
        if rows is None or self.options.mode != "static":
            return {}
        wanted = {name: Uncalibrated(path, activations(path, choices[name].computed)) for name, path in graphs.items()}
        return together(_ranges, context.progress, wanted, exported, rows, self.options)

    def _quantize(self, graph: Path, choice: NodeChoice, ranges: GraphRanges | None, output: Path) -> dict[str, Json]:
        """Quantize one graph into `output` and return what was and what was not quantized."""
        from hfcompress.quantization.graph_quantizer import quantize_graph

        external = quantize_graph(
            graph,
            self.settings(choice),
            None if ranges is None else ranges.tensors,
            output / graph_file(graph.stem, self.options.weights),
        )
        return self._found(choice, ranges, external=external)

    def _correct(
        self,
        exported: Checkpoint,
        graphs: Mapping[str, Path],
        choices: Mapping[str, NodeChoice],
        output: Path,
        context: StepContext,
    ) -> dict[str, Json]:
        """Quantize each graph with error correction into `output`, and return what was done and what it brought."""
        from hfcompress.quantization.corrected_graphs import quantize_corrected
        from hfcompress.quantization.feeds import feeds

        rows = context.calibration
        if rows is None:
            msg = "error correction needs calibration rows"
            raise QuantizationError(msg)
        made = quantize_corrected(
            {name: (path, self.settings(choices[name])) for name, path in graphs.items()},
            self.options,
            lambda: feeds(exported, rows, self.options.batch_size, context.progress),
            output,
            exported.path / "corrections",
            context.progress,
        )
        return {
            name: {
                **self._found(choices[name].without(graph.in_float), graph.ranges, external=graph.external),
                **graph.detail,
            }
            for name, graph in made.items()
        }

    def _found(self, choice: NodeChoice, ranges: GraphRanges | None, *, external: bool) -> dict[str, Json]:
        """Return what was and what was not quantized."""
        found: dict[str, Json] = {
            "quantized_nodes": len(choice.computed) + len(choice.stored),
            "computed_in_low_precision": len(choice.computed),
            "stored_in_8_bits": len(choice.stored),
            "float_nodes": len(choice.excluded) + len(choice.too_sensitive) + len(choice.products),
            "external_data": external,
        }
        if choice.logits:
            found["logits_in_float"] = [*sorted(choice.logits)]
        if choice.excluded:
            found["excluded"] = [*sorted(choice.excluded)]
        if ranges is not None and self.options.calibration_method != "minmax":
            found["exact_ranges"] = len(ranges.exact)
            found["exact_range_tensors"] = [*ranges.exact]
        return found

    def _summary(self) -> dict[str, Json]:
        """Return the options as the report tells them."""
        options = self.options
        summary: dict[str, Json] = {
            "mode": options.mode,
            "weights": options.weights,
            "per_channel": options.per_channel,
            "operators": [*options.operators],
        }
        if options.mode == "weight_only":
            return {**summary, "activations": "float32", "block_size": options.block_size, **self._fused()}
        summary["target"] = options.target
        summary["weight_bits"] = 7 if options.target in SATURATING_TARGETS else 8
        if options.mode == "static":
            summary["activations"] = options.activations
            summary["calibration_method"] = options.calibration_method
            if options.calibration_method == "percentile":
                summary["percentile"] = options.percentile
        else:
            summary["activations"] = "uint8, ranges taken at run time"
        return {**summary, **self._fused()}

    def _fused(self) -> dict[str, Json]:
        return {} if self.options.optimize is None else {"optimize": self.options.optimize}


def _ranges(
    progress: Progress,
    graphs: Mapping[str, Uncalibrated],
    exported: Checkpoint,
    rows: Rows,
    options: OnnxRuntimeOptions,
) -> dict[str, GraphRanges]:
    """Return the ranges of each graph's activations; where there are several processes, each runs its own batches."""
    from hfcompress.quantization.feeds import feeds
    from hfcompress.quantization.ranges import calibrate

    return calibrate(
        graphs,
        lambda: feeds(exported, rows, options.batch_size, progress),
        options.calibration_method,
        options.percentile,
        exported.path,
    )
