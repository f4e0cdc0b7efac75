"""Shapes that no stock configuration can say: the record of them in `config.json`, and the model that is built from it.

The record stands under `quantization_config`, transformers' own place for "the layers are not the stock ones"::

    {"quant_method": "hfcompress", "version": 1, "modules": {
        "encoder.layers.0.mlp.fc1":           {"shapes": {"weight": [96, 64], "bias": [96]}},
        "encoder.layers.0.self_attn.v_proj":  {"shapes": {"weight": [32, 64], "bias": [32]}, "outputs": [[16, 48]]},
        "encoder.layers.0.self_attn.out_proj": {"shapes": {"weight": [64, 32]}, "inputs": [[16, 48]]}}}
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from hfcompress.errors import CheckpointError
from hfcompress.narrow_layers import NARROW_CLASSES
from hfcompress.quantized import QUANT_METHOD, quantization_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig

    from hfcompress.narrow_layers import ChannelRanges, NarrowConv1D, NarrowLinear

__all__ = ["NarrowModule", "NarrowRecord", "narrow", "record_in", "with_record"]

_VERSION = 1


def _ascending(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Check that channel ranges are neither empty nor out of order."""
    edges = [edge for pair in ranges for edge in pair]
    if any(start >= stop for start, stop in ranges) or any(after < before for before, after in pairwise(edges)):
        msg = "channel ranges must be pairs [start, stop) in ascending order that do not overlap"
        raise ValueError(msg)
    return ranges


_Shape = tuple[Annotated[int, Field(gt=0, strict=True)], ...]
_Channel = Annotated[int, Field(ge=0, strict=True)]
_Ranges = Annotated[tuple[tuple[_Channel, _Channel], ...], Field(min_length=1), AfterValidator(_ascending)]


class NarrowModule(BaseModel):
    """What is left of one module.

    Attributes:
        shapes: Name of a parameter or buffer ("weight") → its shape.
        outputs: Ranges [start, stop) of the original output channels that are computed; the module writes zeros at the
            others. `None`: it has as many outputs as its shapes say.
        inputs: Ranges of the original input channels that are read. `None`: it is given as many as its shapes say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shapes: dict[str, _Shape]
    outputs: _Ranges | None = None
    inputs: _Ranges | None = None


class NarrowRecord(BaseModel):
    """What stands in the place of a quantization config, which is the only one that a configuration has.

    Attributes:
        modules: Every module whose shapes are not those of the stock model of the configuration, by its dotted name.
        weights: The quantization config of transformers that would stand here without the record, where the weights
            are quantized.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modules: dict[str, NarrowModule]
    weights: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> NarrowRecord:
        """Read a record as it stands in `config.json`.

        Raises:
            CheckpointError: It is of another version, or not a record.
        """
        fields = dict(fields)
        fields.pop("quant_method", None)
        version = fields.pop("version", None)
        if version != _VERSION:
            msg = (
                f"quantization_config of config.json is of version {version!r}, and this hfcompress reads version "
                f"{_VERSION}; upgrade hfcompress"
            )
            raise CheckpointError(msg)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, ("quantization_config", *first["loc"])))
            msg = f"config.json: {place}: {first['msg']}; got {first['input']!r}"
            raise CheckpointError(msg) from error

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in `config.json`."""
        fields = self.model_dump(mode="json", exclude_none=True)
        return {"quant_method": QUANT_METHOD, "version": _VERSION, **fields}


def record_in(config: PretrainedConfig) -> NarrowRecord | None:
    """Return the record that a configuration carries, `None` where it carries none.

    Raises:
        CheckpointError: It carries one that cannot be read.
    """
    fields = quantization_fields(config)
    return NarrowRecord.from_dict(fields) if fields.get("quant_method") == QUANT_METHOD else None


def with_record(config: PretrainedConfig, record: NarrowRecord | None) -> PretrainedConfig:
    """Return a copy of a configuration that carries this record in place of the one it had; `None` takes it away.

    Raises:
        CheckpointError: The configuration is of a model that somebody else's method quantized.
    """
    method = quantization_fields(config).get("quant_method", QUANT_METHOD)
    if method != QUANT_METHOD:
        msg = f"this model is quantized with {method!r}, and a configuration has one place for what was quantized"
        raise CheckpointError(msg)
    config = copy.deepcopy(config)
    if record is not None:
        config.quantization_config = record.to_dict()
    elif hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def narrow(model: torch.nn.Module, record: NarrowRecord) -> None:
    """Give the modules of a stock model the shapes of a record. Changes the model in place.

    Each new parameter is zero, on the device and of the dtype of the one it stands for: weights are loaded afterwards.
    Names are taken as transformers takes those of weights: with or without the prefix of the base model, and a part
    that this class does not have, as a head or a tower, is left aside.

    Raises:
        CheckpointError: The model lacks a module or parameter of the record, or cannot have these shapes.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    done: dict[torch.nn.Module, NarrowModule] = {}
    renewed: _Renewed = {}
    found = {name: _find(model, modules, name, wanted) for name, wanted in record.modules.items()}
    for name, wanted in record.modules.items():
        module = found[name]
        if module is None:
            if any(found.values()) and not _holds_part(model, modules, name):
                continue  # transformers leaves the weights of such a part aside as well, and says so
            msg = f"config.json: quantization_config.modules: a {type(model).__name__} has no module {name!r}"
            raise CheckpointError(msg)
        if done.get(module) == wanted:  # the model holds it under two names
            continue
        try:
            _narrow_module(module, wanted, renewed)
        except ValueError as error:
            msg = f"config.json: quantization_config.modules.{name}: {error}"
            raise CheckpointError(msg) from error
        done[module] = wanted


_KEEPERS = " and ".join(kind.__name__ for kind in NARROW_CLASSES)
_Renewed: TypeAlias = dict[int, tuple[torch.Tensor, torch.nn.Parameter]]
"""Id of a parameter that was replaced → it (so that its id stays its own) and the new one: what was tied stays tied."""


def _find(
    model: torch.nn.Module, modules: Mapping[str, torch.nn.Module], name: str, wanted: NarrowModule
) -> torch.nn.Module | None:
    """Return the module of a name, with or without the prefix of the base model, also after it was renamed."""
    prefix = getattr(model, "base_model_prefix", "")
    # version 4 has no prefix for the base models of LLaVA and its kin, whose classes with a head hold them as `model`
    for alias in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."), name.removeprefix("model.")):
        if alias in modules:
            return modules[alias]
    parameter = next(iter(wanted.shapes), "")
    renamed = _as_loaded(model, f"{name}.{parameter}").removesuffix(f".{parameter}")
    return modules.get(renamed)


def _holds_part(model: torch.nn.Module, modules: Mapping[str, torch.nn.Module], name: str) -> bool:
    """Whether the model has the outermost module of a name."""
    prefix = getattr(model, "base_model_prefix", "")
    return name.removeprefix(f"{prefix}.").partition(".")[0] in modules


def _as_loaded(model: torch.nn.Module, name: str) -> str:
    """Return the name under which transformers loads a tensor: its version 5 renamed modules of many models."""
    try:
        from transformers.conversion_mapping import (  # type: ignore[import-not-found]
            get_model_conversion_mapping,
        )
        from transformers.core_model_loading import (  # type: ignore[import-not-found]
            WeightRenaming,
            rename_source_key,
        )
    except ImportError:  # version 4
        return name
    prefix = getattr(model, "base_model_prefix", None)
    if prefix is None:  # no model of transformers
        return name
    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
    renamed: str = rename_source_key(name, renamings, [], prefix, model.state_dict())[0]
    return renamed


def _narrow_module(module: torch.nn.Module, wanted: NarrowModule, renewed: _Renewed) -> None:
    """Give one module its shapes.

    Raises:
        ValueError: The module cannot have them.
    """
    _check_shapes(module, wanted.shapes)
    if isinstance(module, (torch.nn.Linear, Conv1D)):
        _narrow_linear(module, wanted)
    elif wanted.inputs is not None or wanted.outputs is not None:
        msg = f"a {type(module).__name__} cannot keep a part of its channels; {_KEEPERS} can"
        raise ValueError(msg)
    elif "weight" in wanted.shapes:
        _set_sizes(module, wanted.shapes["weight"])
    for name, shape in wanted.shapes.items():
        built: torch.Tensor = getattr(module, name)
        fresh = torch.zeros(shape, dtype=built.dtype, device=built.device)
        if isinstance(built, torch.nn.Parameter):
            _, tied = renewed.get(id(built), (None, None))
            if tied is None or tied.shape != fresh.shape:
                tied = torch.nn.Parameter(fresh, requires_grad=built.requires_grad)
                renewed[id(built)] = (built, tied)
            fresh = tied
        setattr(module, name, fresh)


def _check_shapes(module: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the module has these tensors, and that each is to become a part of what it is."""
    held = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    for name, shape in shapes.items():
        if name not in held:
            msg = f"a {type(module).__name__} has no parameter {name!r}; it has {', '.join(held) or 'none'}"
            raise ValueError(msg)
        built = tuple(held[name].shape)
        if len(shape) != len(built) or any(size > most for size, most in zip(shape, built, strict=True)):
            msg = f"{name} is to have the shape {list(shape)}, which is no part of {list(built)}"
            raise ValueError(msg)


def _narrow_linear(layer: torch.nn.Linear | Conv1D, wanted: NarrowModule) -> None:
    """Set the widths of a linear layer; on a side where it keeps a part of its channels, the width stays as it was."""
    is_transposed = isinstance(layer, Conv1D)
    built = tuple(layer.weight.shape)
    shape = wanted.shapes.get("weight", built)
    rows = shape[1] if is_transposed else shape[0]
    if layer.bias is not None and wanted.shapes.get("bias", tuple(layer.bias.shape)) != (rows,):
        msg = f"a weight {list(shape)} has {rows} outputs, and its bias has another number of them"
        raise ValueError(msg)
    sides = (
        ("outputs", wanted.outputs, "nf" if is_transposed else "out_features", 1 if is_transposed else 0),
        ("inputs", wanted.inputs, "nx" if is_transposed else "in_features", 0 if is_transposed else 1),
    )
    for side, ranges, attribute, dimension in sides:
        if ranges is None:
            setattr(layer, attribute, shape[dimension])
        else:
            _check_ranges(f"{side} {[list(pair) for pair in ranges]}", ranges, built[dimension], shape[dimension])
    if wanted.inputs is None and wanted.outputs is None:
        return
    if type(layer) not in NARROW_CLASSES:
        msg = f"a {type(layer).__name__} cannot keep a part of its channels; {_KEEPERS} can"
        raise ValueError(msg)
    # torch's own way to make a layer another one (lazy modules, parametrizations): whoever holds it keeps holding it
    narrowed = cast("NarrowLinear | NarrowConv1D", layer)
    narrowed.__class__ = NARROW_CLASSES[type(layer)]
    narrowed.kept_inputs, narrowed.kept_outputs = wanted.inputs, wanted.outputs


def _check_ranges(named: str, ranges: ChannelRanges, width: int, kept: int) -> None:
    if ranges[-1][1] > width:
        msg = f"{named} go beyond the {width} channels of the stock layer"
        raise ValueError(msg)
    if (count := sum(stop - start for start, stop in ranges)) != kept:
        msg = f"{named} are {count} channels, and the weight has {kept}"
        raise ValueError(msg)


def _set_sizes(module: torch.nn.Module, weight: tuple[int, ...]) -> None:
    """Keep torch's own attributes in step with a weight; modules of other classes hold nothing but the weight.

    Raises:
        ValueError: A grouped convolution cannot have such a weight.
    """
    if isinstance(module, (torch.nn.LayerNorm, torch.nn.RMSNorm)):
        module.normalized_shape = weight
    elif isinstance(module, _NormBase):
        module.num_features = weight[0]
    elif isinstance(module, torch.nn.GroupNorm):
        module.num_channels = weight[0]
    elif isinstance(module, torch.nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight
    elif isinstance(module, _ConvNd):
        outer, inner = (1, 0) if module.transposed else (0, 1)
        module.groups = _groups(module, weight)
        widths = {outer: module.groups, inner: 1} if module.transposed else {outer: 1, inner: module.groups}
        module.out_channels = weight[outer] * widths[outer]
        module.in_channels = weight[inner] * widths[inner]


def _groups(module: _ConvNd, weight: tuple[int, ...]) -> int:
    """Return the groups of a convolution after whole groups, as a depthwise one's channels, were removed from it.

    Raises:
        ValueError: Some group would be left with a part of its outputs.
    """
    per_group = module.weight.shape[0] // module.groups
    if module.groups == 1 or weight[1] != module.weight.shape[1]:
        return module.groups
    if weight[0] % per_group:
        msg = f"a weight {list(weight)} has no whole groups of {per_group} channels"
        raise ValueError(msg)
    return weight[0] // per_group
