"""Which linear layers torchao quantizes, how they are saved in safetensors, and the check of what was saved."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from hfcompress.anatomy import dtype_of
from hfcompress.errors import ProofError, QuantizationError
from hfcompress.narrowing import NarrowRecord, record_in
from hfcompress.nibbles import pack_described
from hfcompress.outputs import run
from hfcompress.quantization.exclusion import excluded
from hfcompress.quantized import described_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torchao.core.config import AOBaseConfig
    from transformers import PretrainedConfig, PreTrainedModel, TorchAoConfig

    from hfcompress.contracts import Forecast
    from hfcompress.probes import Probe
    from hfcompress.quantization.torchao import TorchAoOptions

__all__ = [
    "Layers",
    "choose_layers",
    "forecast_bytes",
    "outputs_of",
    "quantize_layers",
    "same_outputs",
    "save",
    "weights_of",
    "with_settings",
]


@dataclass(frozen=True)
class Layers:
    """The linear layers of a model by dotted name.

    Attributes:
        quantized: Those whose weight is quantized.
        left: The others → why they are left as they are.
        group_size: Inputs that share a scale; all of a layer's where it is `None`.
    """

    quantized: tuple[str, ...]
    left: Mapping[str, str]
    group_size: int | None


def choose_layers(model: PreTrainedModel, exclude: Sequence[str], group_size: int | None) -> Layers:
    """Tell the linear layers that are quantized from those that are not.

    Args:
        model: The model; its weights are not looked at.
        exclude: Patterns of dotted module names.
        group_size: Inputs that share a scale.

    Raises:
        QuantizationError: A pattern matches no linear layer, or no layer is left to quantize.
    """
    holders = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    named = excluded(exclude, linear, f"linear layers of this {type(model).__name__}")
    left: dict[str, str] = {}
    for name, layer in linear.items():
        if name in named:
            left[name] = "excluded"
        elif holders[id(layer.weight)] > 1:
            left[name] = "shares its weight"
        elif isinstance(layer, NonDynamicallyQuantizableLinear):
            left[name] = "is read by torch's own attention"
        elif group_size is not None and layer.weight.shape[1] % group_size:
            left[name] = f"its {layer.weight.shape[1]} inputs are no multiple of group_size {group_size}"
    quantized = tuple(name for name in linear if name not in left)
    if not quantized:
        why = f": {next(iter(left))} {next(iter(left.values()))}" if left else ""
        msg = f"this {type(model).__name__} has no linear layer to quantize{why}"
        raise QuantizationError(msg)
    return Layers(quantized, left, group_size)


def weights_of(model: PreTrainedModel, layers: Layers) -> list[torch.Tensor]:
    """Return the weights that are quantized, each of shape (outputs, inputs)."""
    return [model.get_parameter(f"{name}.weight") for name in layers.quantized]


def forecast_bytes(model: PreTrainedModel, layers: Layers, before: Forecast, bits: int) -> tuple[int, int]:
    """Return the number of weights that are quantized, and how many bytes less they take than before."""
    weights = weights_of(model, layers)
    count = sum(weight.numel() for weight in weights)
    scales = sum(len(weight) * (weight.shape[1] // (layers.group_size or weight.shape[1])) for weight in weights)
    # scales of 4-bit values have the type of the weights; all zero points are one byte, and kept though they are 0
    scale_bytes = 1 + (4 if bits == 8 else dtype_of(before.config).itemsize)  # noqa: PLR2004 - or 4
    return count, round(count * before.size_bytes / before.parameters) - count * bits // 8 - scale_bytes * scales


def with_settings(config: PretrainedConfig, options: TorchAoOptions, layers: Layers) -> PretrainedConfig:
    """Return a copy of a configuration that says what its model's weights are, beside our record where it has one."""
    config = copy.deepcopy(config)
    fields = _transformers_settings(options, layers).to_dict()
    record = record_in(config)
    if record is None and options.weights == "int4":
        record = NarrowRecord(modules={})  # transformers alone would read a byte for each value
    config.quantization_config = fields if record is None else record.model_copy(update={"weights": fields}).to_dict()
    return config


def quantize_layers(model: PreTrainedModel, layers: Layers, options: TorchAoOptions) -> None:
    """Quantize the weights of the chosen layers. Changes the model in place.

    Raises:
        QuantizationError: A weight is not finite.
    """
    from torchao.quantization import quantize_

    for name, weight in zip(layers.quantized, weights_of(model, layers), strict=True):
        if not weight.isfinite().all():
            msg = f"{name}.weight holds values that are not finite, so it has no range to quantize to"
            raise QuantizationError(msg)
    chosen = set(layers.quantized)
    quantize_(model, _settings(options), filter_fn=lambda _, name: name in chosen)


def save(model: PreTrainedModel, output: Path, layers: Layers, options: TorchAoOptions) -> None:
    """Save a quantized model as transformers does, in safetensors."""
    from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

    class Writer(TorchAoHfQuantizer):
        def get_state_dict_and_metadata(
            self,
            model: PreTrainedModel,
            safe_serialization: bool | None = True,  # noqa: ARG002, FBT001, FBT002 - version 4's form
        ) -> tuple[dict[str, Any], dict[str, str]]:
            tensors, metadata = super().get_state_dict_and_metadata(model)
            described = described_tensors(metadata)
            return pack_described(tensors, described), described

    model.config = with_settings(model.config, options, layers)
    vars(model)["hf_quantizer"] = Writer(_transformers_settings(options, layers), pre_quantized=True)
    model.save_pretrained(output)


def _transformers_settings(options: TorchAoOptions, layers: Layers) -> TorchAoConfig:
    from transformers import TorchAoConfig

    return TorchAoConfig(_settings(options), modules_to_not_convert=list(layers.left))


def _settings(options: TorchAoOptions) -> AOBaseConfig:
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
        PerRow,
    )

    if options.weights == "int4":
        four_bits = torch.int4  # type: ignore[attr-defined] # torch has it, and does not say so
        return IntxWeightOnlyConfig(four_bits, PerGroup(options.inputs_of_a_scale))
    if options.mode == "dynamic":
        return Int8DynamicActivationInt8WeightConfig(reduce_range=True, set_inductor_config=False)
    granularity = PerRow() if options.group_size is None else PerGroup(options.group_size)
    return Int8WeightOnlyConfig(granularity=granularity, set_inductor_config=False)


@torch.inference_mode()
def outputs_of(model: PreTrainedModel, probes: Iterable[Probe]) -> dict[str, torch.Tensor]:
    """Run a quantized model, or its parts, and return every floating-point output by its path.

    Raises:
        QuantizationError: The model reads a weight in a way that torchao's tensors do not have.
    """
    try:
        return run(model, probes)
    except NotImplementedError as error:
        msg = (
            f"this {type(model).__name__} reads a weight otherwise than in a linear product, which torchao's tensors "
            f"do not have; put that layer into `exclude`: {error}"
        )
        raise QuantizationError(msg) from error


def same_outputs(expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]) -> None:
    """Check that the saved model computes what the quantized model computed.

    Raises:
        ProofError: It does not.
    """
    for name, reference in expected.items():
        if name not in got or not torch.allclose(got[name], reference, rtol=1e-4, atol=1e-5, equal_nan=True):
            msg = f"the saved folder does not give the output {name!r} of the quantized model; nothing of it is kept"
            raise ProofError(msg)
