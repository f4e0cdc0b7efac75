"""Ways of quantizing one checkpoint: ours as a recipe would say it, and optimum's own as its documentation says it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors
from optimum.intel import OVConfig, OVModelForZeroShotImageClassification, OVQuantizationConfig, OVQuantizer
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

import hfcompress
from hfcompress.errors import HfcompressError
from hfcompress.inputs import load_processor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from datasets import Dataset
    from optimum.onnxruntime.configuration import CalibrationConfig

__all__ = ["REFUSALS", "Maker", "Material", "Mode", "Way", "first_line", "optimum_ways", "ours", "write_optimum_intel"]

Maker = Literal["ours", "optimum", "optimum-intel"]
Mode = Literal["static", "dynamic", "weight_only"]

REFUSALS = (
    HfcompressError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidArgument,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.NotImplemented,
)
"""What optimum, onnxruntime, OpenVINO and nncf raise where they cannot quantize or load a model."""

TARGETS: dict[str, Callable[..., Any]] = {
    "avx2": AutoQuantizationConfig.avx2,
    "avx512": AutoQuantizationConfig.avx512,
    "avx512_vnni": AutoQuantizationConfig.avx512_vnni,
    "arm64": AutoQuantizationConfig.arm64,
}
CALIBRATIONS: dict[str, Callable[[Dataset], CalibrationConfig]] = {
    "minmax": AutoCalibrationConfig.minmax,
    "percentile": AutoCalibrationConfig.percentiles,
    "entropy": AutoCalibrationConfig.entropy,
}


@dataclass(frozen=True)
class Material:
    """What every way starts from.

    Attributes:
        checkpoint: The float32 checkpoint of transformers.
        onnx: Folder of its float32 graphs, as optimum exports them.
        openvino: Folder of its float32 OpenVINO graph; `None` where no way asks for it.
        rows: Calibration rows, under the names that hfcompress knows.
        inputs: File name of a graph → the same rows as its inputs.
    """

    checkpoint: Path
    onnx: Path
    openvino: Path | None
    rows: Dataset
    inputs: Mapping[str, Dataset]


@dataclass(frozen=True)
class Way:
    """One way of quantizing.

    Attributes:
        label: What the table calls it.
        maker: Whose it is.
        runtime: Where the result runs: `onnxruntime` or `openvino`.
        mode: Whether the ranges of activations come from calibration rows, are taken at run time, or are not needed.
        write: Writes the result into a folder that does not exist yet.
    """

    label: str
    maker: Maker
    runtime: str
    mode: Mode
    write: Callable[[Material, Path], Any]


def ours(runtime: str, mode: Mode, calibration_method: str | None = None) -> Way:
    """Return our way with nothing tuned: the runtime, the mode, and calibration rows where the mode wants them.

    Args:
        runtime: Value of the step's `runtime`.
        mode: Value of its `mode`.
        calibration_method: Value of its option of that name; left to its default where it is `None`.
    """
    label = f"ours: {runtime}, {mode}" + ("" if calibration_method is None else f", {calibration_method}")
    options = {} if calibration_method is None else {"calibration_method": calibration_method}
    return Way(label, "ours", runtime, mode, partial(_write_ours, runtime=runtime, mode=mode, options=options))


def _write_ours(material: Material, output: Path, runtime: str, mode: Mode, options: Mapping[str, str]) -> None:
    rows = material.rows if mode == "static" else None
    hfcompress.quantize(material.checkpoint, output=output, runtime=runtime, mode=mode, calibration=rows, **options)


def optimum_ways(methods: tuple[str, ...] = tuple(CALIBRATIONS)) -> Iterator[Way]:
    """Yield the defaults of optimum-onnx, those that are the same under several names once.

    Args:
        methods: How static ranges are calibrated; keys of `CALIBRATIONS`.
    """
    for mode in ("dynamic", "static"):
        for target, names in _distinct_targets(is_static=mode == "static").items():
            if mode == "dynamic":
                write = partial(_write_optimum_dynamic, target=target)
                yield Way(f"optimum: {names}, dynamic", "optimum", "onnxruntime", "dynamic", write)
                continue
            for method in methods:
                write = partial(_write_optimum_static, target=target, method=method)
                yield Way(f"optimum: {names}, static, {method}", "optimum", "onnxruntime", "static", write)


def _distinct_targets(*, is_static: bool) -> dict[str, str]:
    """Return one of `TARGETS` for each distinct configuration → all names of that configuration."""
    configs = {name: target(is_static=is_static) for name, target in TARGETS.items()}
    found: dict[str, str] = {}
    for name, config in configs.items():
        same = next((known for known in found if configs[known] == config), None)
        if same is None:
            found[name] = name
        else:
            found[same] += f"/{name}"
    return found


def _write_optimum_dynamic(material: Material, output: Path, target: str) -> None:
    """Quantize every graph on its own, for optimum has no quantizer of several."""
    settings = TARGETS[target](is_static=False)
    for graph in sorted(material.onnx.glob("*.onnx")):
        quantizer = ORTQuantizer.from_pretrained(material.onnx, file_name=graph.name)
        quantizer.quantize(save_dir=output, quantization_config=settings)


def _write_optimum_static(material: Material, output: Path, target: str, method: str) -> None:
    """Calibrate and quantize every graph on its own."""
    settings = TARGETS[target](is_static=True)
    for graph in sorted(material.onnx.glob("*.onnx")):
        inputs = material.inputs[graph.name]
        quantizer = ORTQuantizer.from_pretrained(material.onnx, file_name=graph.name)
        ranges = quantizer.fit(
            dataset=inputs,
            calibration_config=CALIBRATIONS[method](inputs),
            onnx_augmented_model_name=output.with_suffix(".augmented"),
            operators_to_quantize=settings.operators_to_quantize,
        )
        quantizer.quantize(save_dir=output, calibration_tensors_range=ranges, quantization_config=settings)


def write_optimum_intel(material: Material, output: Path) -> None:
    """Quantize a dual encoder with the default of `OVQuantizer`, on all rows as ours; it takes 128 unless told."""
    (inputs,) = material.inputs.values()
    quantizer = OVQuantizer.from_pretrained(OVModelForZeroShotImageClassification.from_pretrained(material.openvino))
    quantizer.quantize(
        calibration_dataset=inputs,
        ov_config=OVConfig(quantization_config=OVQuantizationConfig(num_samples=len(inputs))),
        save_directory=output,
    )
    load_processor(material.checkpoint).save_pretrained(output)


def first_line(error: BaseException) -> str:
    """Return what a table says of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
