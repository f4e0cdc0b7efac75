"""What a recipe can say of `use: quantize` with `runtime: onnxruntime`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from hfcompress.contracts import CalibratedOptions
from hfcompress.quantization.correction_options import CorrectionOptions

__all__ = ["SATURATING_TARGETS", "OnnxRuntimeOptions"]

SATURATING_TARGETS = frozenset({"auto", "avx2", "avx512"})
"""Processors whose 8-bit products are added in pairs to 16 bits and saturate there, and `auto`, which must suit all."""

_BELONGS_TO = {
    "activations": ("static",),
    "calibration_method": ("static",),
    "percentile": ("static",),
    "target": ("static", "dynamic"),
    "block_size": ("weight_only",),
}
"""Which modes read an option that not all modes read."""


class OnnxRuntimeOptions(CalibratedOptions, CorrectionOptions):
    """What a recipe can say of `use: quantize` with `runtime: onnxruntime`."""

    runtime: Literal["onnxruntime"] = Field(description="Where the result will run: ONNX Runtime on the CPU.")
    mode: Literal["dynamic", "static", "weight_only"] = Field(
        description="dynamic: 8-bit arithmetic, activation ranges taken at run time; static: the same with ranges from "
        "calibration rows; weight_only: small weights, arithmetic in float."
    )
    weights: Literal["int8", "int4"] = Field(
        "int8",
        description="Width of the weights of products; int4 needs `mode: weight_only`. Convolutions and look-up tables "
        "are stored in 8 bits either way.",
    )
    activations: Literal["uint8", "int8", "uint16"] = Field(
        "uint8",
        description="Width of activations in static mode. ONNX Runtime computes uint16 in float on CPUs, so it is "
        "exact and not fast.",
    )
    per_channel: bool = Field(
        default=True, description="One scale per output channel of a weight instead of one per weight."
    )
    calibration_method: Literal["minmax", "percentile", "entropy"] = Field(
        "minmax", description="How static mode finds ranges: the extremes, a percentile, or least divergence."
    )
    percentile: float = Field(
        99.999,
        gt=50,
        le=100,
        description="Percentage of values inside the range, with `calibration_method: percentile`.",
    )
    target: Literal["auto", "avx2", "avx512", "avx512_vnni", "arm64"] = Field(
        "auto",
        description="Processor. Without VNNI, 8-bit products saturate, so weights get 7 bits there, and with `auto`, "
        "which is right everywhere; avx512_vnni and arm64 use all 8.",
    )
    operators: tuple[str, ...] = Field(
        ("MatMul", "Gemm", "Conv", "Gather"),
        description="ONNX operator types that are quantized; by default those that hold the weights.",
    )
    products_of_activations: bool = Field(
        default=False,
        description="Quantize also products of two activations: attention scores and the final similarity, whose 8 "
        "bits tie in rankings; and compute the product that makes logits in 8 bits, whose weight is by default only "
        "stored in 8 bits, for the same reason. `exclude` can leave some of them in float.",
    )
    exclude: tuple[str, ...] = Field(
        (), description="Patterns of node names (`*/mlp/fc2/*`) that stay in float; each must match a node."
    )
    layout: Literal["combined", "towers", "both"] = Field(
        "combined", description="A dual encoder as one graph, as one for each tower, or both."
    )
    optimize: Literal["O1", "O2", "O3"] | None = Field(
        None,
        description="Fuse nodes before quantization with optimum's ORTOptimizer: O1 general, O2 for transformers, O3 "
        "with an approximate GELU.",
    )
    block_size: int = Field(
        32, ge=16, le=256, description="Weights that share a scale in mode weight_only: 16, 32, 64, 128 or 256."
    )
    batch_size: int = Field(16, ge=1, description="Calibration rows that go through the model at once.")

    @field_validator("operators")
    @classmethod
    def _some_operators(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            msg = "names no operator, so nothing would be quantized; remove the key for the default"
            raise ValueError(msg)
        return value

    @field_validator("block_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            msg = f"{value} is not a power of two; expected 16, 32, 64, 128 or 256"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _agree(self) -> OnnxRuntimeOptions:
        if self.mode == "static" and self.calibration is None:
            msg = "`mode: static` needs `calibration`, the name of an entry of `data`"
            raise ValueError(msg)
        if self.corrects and self.calibration is None:
            msg = "error correction needs `calibration`, the name of an entry of `data`"
            raise ValueError(msg)
        if self.mode != "static" and not self.corrects and self.calibration is not None:
            msg = f"`mode: {self.mode}` looks at no `calibration` rows; remove it, or use `mode: static`"
            raise ValueError(msg)
        if self.mode == "weight_only" and self.smooth is not None:
            msg = "`mode: weight_only` keeps activations in float, so they have no outliers to smooth; remove `smooth`"
            raise ValueError(msg)
        for name, modes in _BELONGS_TO.items():
            if name in self.model_fields_set and self.mode not in modes:
                msg = f"`mode: {self.mode}` does not read `{name}`; remove it, or use `mode: {modes[0]}`"
                raise ValueError(msg)
        if self.weights == "int4" and self.mode != "weight_only":
            msg = f"`mode: {self.mode}` computes in 8 bits; `weights: int4` needs `mode: weight_only`"
            raise ValueError(msg)
        if "percentile" in self.model_fields_set and self.calibration_method != "percentile":
            msg = f"`calibration_method: {self.calibration_method}` does not read `percentile`; remove it"
            raise ValueError(msg)
        if self.products_of_activations and self.mode == "weight_only":
            msg = "`mode: weight_only` computes in float, products of two activations too; remove the key"
            raise ValueError(msg)
        return self
