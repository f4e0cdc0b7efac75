"""The `cast` step: weights of 16 bits for the runtime that the recipe names."""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from hfcompress.contracts import Checkpoint, Forecast, Format, Json, Options, Step
from hfcompress.errors import QuantizationError
from hfcompress.graph_names import graph_file
from hfcompress.registry import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    import torch
    from transformers import PreTrainedModel

    from hfcompress.contracts import StepContext

__all__ = ["Cast", "CastOptions", "Rounding", "rounding"]

_WIDER = "use `dtype: bfloat16`, which has the range of float32, with `runtime: torch`"
_FORMATS: dict[str, Format] = {"torch": "transformers", "onnxruntime": "onnx", "openvino": "openvino"}


class CastOptions(Options):
    """What a recipe can say of `use: cast`."""

    dtype: Literal["float16", "bfloat16"] = Field(
        description="What the weights become. float16 is finer and ends at 65504; bfloat16 is coarser and has the "
        "range of float32."
    )
    runtime: Literal["torch", "onnxruntime", "openvino"] = Field(
        "torch",
        description="Where the result will run. torch computes in the type of the weights; inputs and outputs of an "
        "export to ONNX or OpenVINO stay float32.",
    )

    @model_validator(mode="after")
    def _float16_in_exports(self) -> CastOptions:
        if self.runtime != "torch" and self.dtype != "float16":
            msg = f"`runtime: {self.runtime}` runs exports in float16; use `dtype: float16`, or `runtime: torch`"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class Rounding:
    """What rounding did to the weights of a model.

    Attributes:
        weights: Number of weights that were rounded.
        changed: Number of those that have another value than before.
        largest_error: Largest difference of any weight.
        largest_error_of: Name of the tensor that holds it.
    """

    weights: int
    changed: int
    largest_error: float
    largest_error_of: str


class Cast(Step):
    """Stores the weights in 16 bits; where the result runs in torch, it computes in them too.

    Modules that transformers keeps in float32 whatever a model is loaded in stay so.
    """

    Options: ClassVar[type[CastOptions]] = CastOptions
    options: CastOptions

    @property
    def accepts(self) -> frozenset[Format]:
        """A transformers checkpoint is cast as it is, or exported first."""
        return frozenset({"transformers"})

    @property
    def produces(self) -> Format:
        """The format of the runtime."""
        return _FORMATS[self.options.runtime]

    @property
    def extra(self) -> str | None:
        """Exports take the extra of their runtime."""
        return None if self.options.runtime == "torch" else self.options.runtime

    def forecast(self, before: Forecast) -> Forecast:
        """Count two bytes for each weight that is cast."""
        import torch

        from hfcompress.anatomy import meta_model

        dtype = getattr(torch, self.options.dtype)
        kept = 0
        changes = [f"{before.parameters:,} weights to {self.options.dtype}"]
        config = before.config
        if self.options.runtime == "torch":
            kept = _kept_in_float32(meta_model(config), dtype)
            config = copy.deepcopy(config)
            config.dtype = dtype
            if kept:
                changes.append(f"{kept:,} of them stay float32, as transformers has it")
        else:
            changes.insert(0, RUNTIMES.get(self.options.runtime)().describe(config))
        return replace(
            before,
            config=config,
            format=self.produces,
            size_bytes=2 * before.parameters + 2 * kept,
            changes=tuple(changes),
        )

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Round the weights, make sure that the model still computes finite numbers, and save.

        Raises:
            QuantizationError: A weight, or an output of the cast model, is beyond the type.
        """
        import torch

        from hfcompress.anatomy import copy_processor, load_model

        source = load_model(checkpoint.path)
        dtype = getattr(torch, self.options.dtype)
        _check_range(source, dtype)
        cast = load_model(checkpoint.path, dtype)
        _check_outputs(source, cast, context.seed)
        kept = {name for name, parameter in cast.named_parameters() if parameter.dtype != dtype}
        detail: dict[str, Json] = {"dtype": self.options.dtype, "runtime": self.options.runtime}
        if self.options.runtime == "torch":
            cast.save_pretrained(output)
            copy_processor(checkpoint.path, output)
            detail["kept_in_float32"] = sum(cast.get_parameter(name).numel() for name in kept)
        else:
            kept = set()
            _export(self.options.runtime, checkpoint, output)
        return {**detail, **vars(rounding(source, dtype, kept))}


def rounding(model: PreTrainedModel, dtype: torch.dtype, kept: AbstractSet[str] = frozenset()) -> Rounding:
    """Tell what rounding does to the weights of a model.

    Args:
        model: The model in float32.
        dtype: What they are rounded to.
        kept: Names of parameters that are not rounded.
    """
    weights = changed = 0
    largest, largest_of = 0.0, "none"
    for name, parameter in model.named_parameters():
        if name not in kept and parameter.numel():
            error = (parameter.detach().to(dtype).float() - parameter.detach()).abs()
            weights += error.numel()
            changed += int(error.count_nonzero())
            if float(error.max()) > largest:
                largest, largest_of = float(error.max()), name
    return Rounding(weights, changed, largest, largest_of)


def _check_range(model: PreTrainedModel, dtype: torch.dtype) -> None:
    import torch

    named = str(dtype).removeprefix("torch.")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            msg = f"{name} holds values that are not finite; repair the checkpoint before it is compressed"
            raise QuantizationError(msg)
        if not parameter.to(dtype).isfinite().all():
            most, end = float(parameter.detach().abs().max()), torch.finfo(dtype).max
            msg = f"{name} holds {most:g}, and {named} ends at {end:g}; {_WIDER}"
            raise QuantizationError(msg)


def _check_outputs(source: PreTrainedModel, cast: PreTrainedModel, seed: int) -> None:
    """Check that whatever the source puts out as finite numbers the cast model does too."""
    import torch

    from hfcompress.outputs import run
    from hfcompress.probes import find_probes

    probes = find_probes(source, seed=seed)
    named = str(cast.dtype).removeprefix("torch.")
    with torch.inference_mode():
        expected = run(source, probes)
        try:
            got = run(cast, probes)
        except RuntimeError as error:
            msg = f"torch cannot run this {type(cast).__name__} in {named}: {error}"
            raise QuantizationError(msg) from error
    for name, reference in expected.items():
        if reference.isfinite().all() and not got[name].isfinite().all():
            msg = f"the output {name!r} is not finite in {named}, for some value inside is beyond the type; {_WIDER}"
            raise QuantizationError(msg)


def _kept_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Return how many weights transformers keeps in float32 when it loads the model in this type."""
    import torch

    patterns = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        patterns |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    found = [re.compile(rf"(^|\.){pattern}($|\.)") for pattern in patterns]
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if any(pattern.search(name) for pattern in found)
    )


def _export(runtime: str, checkpoint: Checkpoint, output: Path) -> None:
    """Export in float32 and write the folder again with graphs in float16."""
    with tempfile.TemporaryDirectory(dir=output) as scratch:
        exported = RUNTIMES.get(runtime)().export(checkpoint, Path(scratch) / "float32").path
        convert = {"onnxruntime": _cast_onnx, "openvino": _cast_openvino}[runtime]
        done = set(convert(exported, output))
        for file in (file for file in exported.rglob("*") if file.is_file() and file not in done):
            place = output / file.relative_to(exported)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)


def _cast_onnx(exported: Path, output: Path) -> Iterable[Path]:
    """Write each graph in float16 under the name that transformers.js knows, and yield what it was made from."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for graph in sorted(exported.rglob("*.onnx")):
        place = output / graph.relative_to(exported).with_name(graph_file(graph.stem, "float16"))
        place.parent.mkdir(exist_ok=True)
        typed = graph.with_stem(f"{graph.stem}_typed")
        # by path, for a model of more than 2 GB has no other way; the conversion looks types up where it casts back
        onnx.shape_inference.infer_shapes_path(str(graph), str(typed))
        model = convert_float_to_float16(onnx.load(typed), keep_io_types=True, disable_shape_infer=True)
        beside = f"{place.name}_data"
        onnx.save(
            model, place, save_as_external_data=model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF, location=beside
        )
        yield from (typed, *graph.parent.glob(f"{graph.name}*"))


def _cast_openvino(exported: Path, output: Path) -> Iterable[Path]:
    """Write each graph with weights in float16 under its own name, and yield what it was made from."""
    import openvino

    for graph in sorted(exported.glob("openvino*.xml")):
        openvino.save_model(openvino.Core().read_model(graph), output / graph.name, compress_to_fp16=True)
        yield from (graph, graph.with_suffix(".bin"))
