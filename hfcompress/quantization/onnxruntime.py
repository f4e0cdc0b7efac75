"""Int8 for ONNX Runtime, through optimum's exporter and `ORTQuantizer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from hfcompress.contracts import CalibratedOptions, Forecast, Format, Json, Step

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Checkpoint, StepContext

__all__ = ["OnnxRuntimeOptions", "OnnxRuntimeQuantizer"]


class OnnxRuntimeOptions(CalibratedOptions):
    """What a recipe can say of `use: quantize` with `runtime: onnxruntime`."""

    runtime: Literal["onnxruntime"]
    mode: Literal["dynamic", "static"] = Field(
        description="dynamic: activation ranges are taken at run time; static: from calibration rows."
    )
    per_channel: bool = Field(True, description="One scale per output channel of a weight instead of one per weight.")
    batch_size: int = Field(16, ge=1, description="Calibration rows that go through the model at once.")

    @model_validator(mode="after")
    def _static_needs_calibration(self) -> OnnxRuntimeOptions:
        if self.mode == "static" and self.calibration is None:
            msg = "`mode: static` needs `calibration`, the name of an entry of `data`"
            raise ValueError(msg)
        return self


class OnnxRuntimeQuantizer(Step):
    """Exports to ONNX and quantizes the weights, and the activations that meet them, to 8 bits."""

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
