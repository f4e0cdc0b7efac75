"""The `cast` step: weights of 16 bits for the runtime that the recipe names."""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from hfcompress.contracts import Checkpoint, Forecast, Format, Json, Options, Step
from hfcompress.errors import QuantizationError
from hfcompress.registry import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    import torch
    from transformers import PreTrainedModel

    from hfcompress.contracts import StepContext
    from hfcompress.rounding import Rounding

__all__ = ["Cast", "CastOptions", "rounding"]

_WIDER = "use `dtype: bfloat16`, which has the range of float32, with `runtime: torch`"
_GRAPH = re.compile(r"\.onnx(_data)?$|^openvino.*\.(xml|bin)$")
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
            QuantizationError: A weight, or an output of the cast model or of a graph in float16, is beyond the type.
        """
        import torch

        from hfcompress.anatomy import copy_processor, load_model

        source = load_model(checkpoint.path)
        dtype = getattr(torch, self.options.dtype)
        _check_range(source, dtype)
        # a graph keeps no module in float32 as transformers does
        is_onnx = self.options.runtime == "onnxruntime"
        cast = load_model(checkpoint.path).to(dtype) if is_onnx else load_model(checkpoint.path, dtype)
        _check_outputs(source, cast, context.seed)
        kept = {name for name, parameter in cast.named_parameters() if parameter.dtype != dtype}
        detail: dict[str, Json] = {"dtype": self.options.dtype, "runtime": self.options.runtime}
        if self.options.runtime == "torch":
            cast.save_pretrained(output)
            copy_processor(checkpoint.path, output)
            detail["kept_in_float32"] = sum(cast.get_parameter(name).numel() for name in kept)
            return {**detail, **vars(rounding(source, dtype, kept))}
        return {**detail, **_export(self.options.runtime, checkpoint, output, source)}


def rounding(model: PreTrainedModel, dtype: torch.dtype, kept: AbstractSet[str] = frozenset()) -> Rounding:
    """Tell what rounding does to the weights of a model.

    Args:
        model: The model in float32.
        dtype: What they are rounded to.
        kept: Names of parameters that are not rounded.
    """
    from hfcompress.rounding import rounded

    return rounded(
        (name, parameter.detach().numpy(), parameter.detach().to(dtype).float().numpy())
        for name, parameter in model.named_parameters()
        if name not in kept
    )


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


def _export(runtime: str, checkpoint: Checkpoint, output: Path, source: PreTrainedModel) -> dict[str, Json]:
    """Export in float32, write the folder again with graphs in float16, and return what that did to the weights."""
    with tempfile.TemporaryDirectory(dir=output) as scratch:
        exported = RUNTIMES.get(runtime)().export(checkpoint, Path(scratch) / "float32").path
        for file in (file for file in exported.rglob("*") if file.is_file() and not _GRAPH.search(file.name)):
            place = output / file.relative_to(exported)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        return {"onnxruntime": _cast_onnx, "openvino": _cast_openvino}[runtime](exported, output, source)


def _cast_onnx(exported: Path, output: Path, source: PreTrainedModel) -> dict[str, Json]:
    """Write each graph in float16 and run it once."""
    from hfcompress.graph_names import ONNX_FOLDER
    from hfcompress.probes import example_inputs
    from hfcompress.rounding import rounded
    from hfcompress.runtimes.onnx_float16 import (
        check_finite,
        kept_in_float32,
        outputs_of,
        rounded_weights,
        write_float16,
    )

    inputs = example_inputs(source)
    expected = outputs_of(exported, inputs)
    graphs, written = exported / ONNX_FOLDER, output / ONNX_FOLDER
    write_float16(graphs, written)
    check_finite(expected, outputs_of(output, inputs))
    found = rounded(rounded_weights(graphs, written))
    return {"kept_in_float32": kept_in_float32(graphs, written), **vars(found)}


def _cast_openvino(exported: Path, output: Path, source: PreTrainedModel) -> dict[str, Json]:
    """Write each graph with weights in float16 under its own name, and make it ready to run.

    OpenVINO computes with such weights in float32, or in bfloat16, where no value is beyond the type that was not
    before. The figures are those of rounding the weights of the checkpoint.
    """
    import openvino
    import torch

    core = openvino.Core()
    for graph in sorted(exported.glob("openvino*.xml")):
        openvino.save_model(core.read_model(graph), output / graph.name, compress_to_fp16=True)
        try:
            core.compile_model(output / graph.name, "CPU")
        except RuntimeError as error:
            msg = f"OpenVINO cannot make {graph.name} ready to run in float16: {error}"
            raise QuantizationError(msg) from error
    return {**vars(rounding(source, torch.float16))}
