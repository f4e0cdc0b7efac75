"""Int8 for ONNX Runtime, through optimum's exporter and `ORTQuantizer`."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hfcompress.contracts import CalibratedOptions, Checkpoint, Forecast, Format, Json, Step
from hfcompress.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from onnxruntime.quantization import CalibraterBase, TensorsData

    from hfcompress.contracts import Rows, StepContext

__all__ = ["OnnxRuntimeOptions", "OnnxRuntimeQuantizer"]

_OPERATORS: dict[str, tuple[str, ...]] = {
    "dynamic": ("MatMul", "Gemm", "Gather"),
    "static": ("MatMul", "Gemm", "Conv", "Gather"),
}
"""The operators that hold a model's weights; ONNX Runtime has no fast dynamic convolution, so that is static only."""


class OnnxRuntimeOptions(CalibratedOptions):
    """What a recipe can say of `use: quantize` with `runtime: onnxruntime`."""

    runtime: Literal["onnxruntime"] = Field(description="Where the result will run: ONNX Runtime on the CPU.")
    mode: Literal["dynamic", "static"] = Field(
        description="dynamic: activation ranges are taken at run time; static: from calibration rows."
    )
    per_channel: bool = Field(
        default=True, description="One scale per output channel of a weight instead of one per weight."
    )
    batch_size: int = Field(16, ge=1, description="Calibration rows that go through the model at once.")

    @model_validator(mode="after")
    def _calibrated_when_static(self) -> OnnxRuntimeOptions:
        if self.mode == "static" and self.calibration is None:
            msg = "`mode: static` needs `calibration`, the name of an entry of `data`"
            raise ValueError(msg)
        if self.mode == "dynamic" and self.calibration is not None:
            msg = "`mode: dynamic` looks at no `calibration` rows; remove it, or use `mode: static`"
            raise ValueError(msg)
        return self


class OnnxRuntimeQuantizer(Step):
    """Exports to ONNX and quantizes the weights, and the activations that meet them, to 8 bits.

    Products of two activations (attention scores, the final similarity) stay in float. Weights use 7 of the 8 bits, so
    that products do not saturate on processors without VNNI instructions and the artifact is right everywhere.
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
        """Check that optimum exports the architecture, and count what becomes one byte."""
        import torch

        from hfcompress.anatomy import meta_model
        from hfcompress.runtimes.onnxruntime import export_task

        task = export_task(before.config)
        quantized = sum(
            module.weight.numel()
            for module in meta_model(before.config).modules()
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding))
        )
        return replace(
            before,
            format="onnx",
            size_bytes=quantized + 4 * (before.parameters - quantized),
            changes=(
                f"export to ONNX ({task})",
                f"{self.options.mode} int8: {quantized:,} of {before.parameters:,} weights from 4 bytes to 1",
            ),
        )

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Export, calibrate where the mode is static, and quantize each graph."""
        from hfcompress.runtimes.onnxruntime import ONNX_FOLDER, OnnxRuntime

        with tempfile.TemporaryDirectory(dir=output) as scratch:
            exported = OnnxRuntime().export(checkpoint, Path(scratch) / "float32")
            graphs = sorted((exported.path / ONNX_FOLDER).glob("*.onnx"))
            detail: dict[str, Json] = {
                graph.name: self._quantize(graph, exported, output / ONNX_FOLDER, context) for graph in graphs
            }
            for file in exported.path.iterdir():
                if file.is_file():
                    shutil.copyfile(file, output / file.name)
        return {
            "mode": self.options.mode,
            "per_channel": self.options.per_channel,
            **_calibration(context.calibration),
            "graphs": detail,
        }

    def _quantize(self, graph: Path, exported: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Quantize one graph into `output` and return what was and what was not quantized."""
        from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import QuantizationConfig

        from hfcompress.anatomy import load_config
        from hfcompress.quantization.onnx_graph import survey

        static = self.options.mode == "static"
        operators = list(_OPERATORS[self.options.mode])
        nodes = survey(graph, operators)
        settings = QuantizationConfig(
            is_static=static,
            format=QuantFormat.QDQ if static else QuantFormat.QOperator,
            mode=QuantizationMode.QLinearOps if static else QuantizationMode.IntegerOps,
            activations_dtype=QuantType.QUInt8,
            weights_dtype=QuantType.QInt8,
            weights_symmetric=True,
            per_channel=self.options.per_channel,
            reduce_range=True,
            nodes_to_quantize=[],
            nodes_to_exclude=list(nodes.unweighted),
            operators_to_quantize=operators,
        )
        ranges = self._calibrate(graph, exported, operators, context) if static else None
        quantizer = ORTQuantizer(graph, config=load_config(exported.path))
        with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
            quantizer.quantize(settings, scratch, calibration_tensors_range=ranges)
            output.mkdir(exist_ok=True)
            for file in Path(scratch).glob("*.onnx*"):
                shutil.move(file, output / file.name)
            shutil.move(Path(scratch) / "ort_config.json", output.parent / "ort_config.json")
        return {"quantized_nodes": len(nodes.weighted), "float_nodes": len(nodes.unweighted)}

    def _calibrate(self, graph: Path, exported: Checkpoint, operators: list[str], context: StepContext) -> TensorsData:
        """Return the range of every tensor, from rows that pass through the float32 graph batch by batch.

        Raises:
            QuantizationError: An activation is not finite.
            DataError: The rows lack what the model reads.
        """
        import numpy as np
        from onnxruntime.quantization import CalibrationMethod
        from optimum.onnxruntime.configuration import CalibrationConfig

        from hfcompress.quantization.feeds import feeds

        rows = context.calibration
        if rows is None:
            msg = "static quantization needs calibration rows"
            raise QuantizationError(msg)
        with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
            calibrator: CalibraterBase = CalibrationConfig(
                rows.name, "", rows.split, len(rows), CalibrationMethod.MinMax, moving_average=False
            ).create_calibrator(graph, operators, augmented_model_name=str(Path(scratch) / "augmented.onnx"))
            for name, inputs in feeds(exported, rows, self.options.batch_size, context.progress):
                if name == graph.name:
                    calibrator.collect_data(_OneBatch(inputs))
            ranges = calibrator.compute_data()
        broken = [name for name, data in ranges.items() if not np.isfinite(data.range_value).all()]
        if broken:
            msg = f"the activation {broken[0]} is not finite on the calibration rows, so it has no range to quantize to"
            raise QuantizationError(msg)
        return ranges


def _calibration(rows: Rows | None) -> dict[str, Json]:
    """Return which rows the ranges come from, if they come from rows."""
    if rows is None:
        return {}
    return {
        "calibration": {"dataset": rows.name, "revision": rows.revision, "split": rows.split, "rows": len(rows)},
    }


class _OneBatch:
    """Hands one batch to ONNX Runtime's calibrator, which asks until there is none."""

    def __init__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._batches: Iterator[Mapping[str, np.ndarray[Any, Any]]] = iter([inputs])

    def get_next(self) -> Mapping[str, np.ndarray[Any, Any]] | None:
        return next(self._batches, None)
