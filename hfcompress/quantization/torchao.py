"""Weights of 8 or 4 bits that stay in torch, through torchao and transformers' own loader for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from hfcompress.contracts import Forecast, Format, Json, Options, Step

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Checkpoint, StepContext

__all__ = ["TorchAoOptions", "TorchAoQuantizer"]

_INT4_GROUP = 32
"""Inputs that share a scale of 4-bit values: one scale for a whole channel leaves too little of them."""


class TorchAoOptions(Options):
    """What a recipe can say of `use: quantize` with `runtime: torchao`."""

    runtime: Literal["torchao"] = Field(description="Where the result will run: torch, with torchao installed.")
    mode: Literal["weight_only", "dynamic"] = Field(
        description="weight_only: products are computed in floating point. dynamic: the activations are rounded to "
        "8 bits as well, with a scale for each row that is taken at run time."
    )
    weights: Literal["int8", "int4"] = Field(
        "int8",
        description="What the weights of linear layers become. int4, with `mode: weight_only` alone, is half as large "
        "on disk, takes one byte each in memory, and loads once hfcompress is imported.",
    )
    group_size: int | None = Field(
        None,
        ge=8,
        multiple_of=8,
        description="Inputs of a layer that share one scale. By default 32 for int4, and all of a layer's for int8; "
        "`mode: weight_only` alone can have several. Layers whose inputs it does not divide are left as they are.",
    )
    exclude: tuple[str, ...] = Field(
        (),
        description="Linear layers that are left as they are: patterns of dotted module names, as `*.out_proj`.",
    )

    @property
    def inputs_of_a_scale(self) -> int | None:
        """Inputs of a layer that share one scale, `None` for all."""
        return _INT4_GROUP if self.group_size is None and self.weights == "int4" else self.group_size

    @property
    def bits(self) -> int:
        """Bits of a weight on disk."""
        return {"int8": 8, "int4": 4}[self.weights]

    @model_validator(mode="after")
    def _grouped_when_weight_only(self) -> TorchAoOptions:
        if self.mode == "dynamic" and self.group_size is not None:
            msg = "`mode: dynamic` has one scale for each output channel; remove `group_size`, or use `weight_only`"
            raise ValueError(msg)
        if self.mode == "dynamic" and self.weights == "int4":
            msg = "`mode: dynamic` multiplies weights of 8 bits; use `weights: int8`, or `mode: weight_only`"
            raise ValueError(msg)
        return self


class TorchAoQuantizer(Step):
    """Quantizes the weights of linear layers; the result is a transformers checkpoint in safetensors.

    Embeddings, norms, convolutions, and linear layers that share their weight with an embedding keep their type.
    `dynamic` uses 7 of the 8 bits, so that sums of products do not saturate on processors without VNNI instructions and
    the artifact is right everywhere.
    """

    Options: ClassVar[type[TorchAoOptions]] = TorchAoOptions
    options: TorchAoOptions

    @property
    def accepts(self) -> frozenset[Format]:
        """Only a transformers checkpoint has modules to quantize."""
        return frozenset({"transformers"})

    @property
    def produces(self) -> Format:
        """A transformers checkpoint again."""
        return "transformers"

    @property
    def extra(self) -> str | None:
        """The library comes with an extra."""
        return "torchao"

    def forecast(self, before: Forecast) -> Forecast:
        """Check that the weights can be kept in safetensors here, and count what becomes one byte."""
        from hfcompress.anatomy import meta_model
        from hfcompress.quantization.torchao_weights import choose_layers, forecast_bytes, with_settings
        from hfcompress.quantized import require_float, require_readers

        require_readers("torchao")
        require_float(before.config)
        model = meta_model(before.config)
        layers = choose_layers(model, self.options.exclude, self.options.inputs_of_a_scale)
        quantized, less_bytes = forecast_bytes(model, layers, before, self.options.bits)
        return replace(
            before,
            config=with_settings(before.config, self.options, layers),
            size_bytes=before.size_bytes - less_bytes,
            changes=(
                f"{self.options.mode}: {quantized:,} of {before.parameters:,} weights to {self.options.bits} bits",
            ),
        )

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Quantize the linear layers, save, and make sure that what was saved is what is loaded.

        Raises:
            QuantizationError: A weight is not finite, or the model reads a quantized weight in a way that torchao's
                tensors do not have.
            ProofError: The saved folder does not compute what the quantized model computes.
        """
        from hfcompress.anatomy import copy_processor, load_config, load_model, stored_dtype
        from hfcompress.probes import find_probes
        from hfcompress.quantization.torchao_weights import (
            choose_layers,
            outputs_of,
            quantize_layers,
            same_outputs,
            save,
            weights_of,
        )
        from hfcompress.quantized import require_float, require_readers

        require_readers("torchao")
        require_float(load_config(checkpoint.path))
        model = load_model(checkpoint.path)
        probes = find_probes(model, seed=context.seed)
        dtype = stored_dtype(checkpoint.path)
        if model.dtype != dtype:
            model = load_model(checkpoint.path, dtype)
        layers = choose_layers(model, self.options.exclude, self.options.inputs_of_a_scale)
        quantize_layers(model, layers, self.options)
        outputs = outputs_of(model, probes)
        save(model, output, layers, self.options)
        copy_processor(checkpoint.path, output)
        same_outputs(outputs, outputs_of(load_model(output, "auto"), probes))
        return {
            "runtime": "torchao",
            "mode": self.options.mode,
            "weights": self.options.weights,
            "group_size": self.options.inputs_of_a_scale,
            "quantized_layers": len(layers.quantized),
            "quantized_weights": sum(weight.numel() for weight in weights_of(model, layers)),
            "left_as_they_are": {
                why: [name for name, reason in layers.left.items() if reason == why]
                for why in dict.fromkeys(layers.left.values())
            },
        }
