"""Refitting the layers of a tower on what they get once it is narrower, towards what they gave before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from transformers.pytorch_utils import Conv1D

from hfcompress.pruning.compensation import CovarianceAccumulator, complement, least_squares
from hfcompress.pruning.coupling import layer_parameters
from hfcompress.pruning.importance import RIDGE
from hfcompress.pruning.replay import Reached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    Batches: TypeAlias = Iterable[Mapping[str, Any]]

__all__ = ["LINEAR", "matrix_of", "refit_layers", "second_moments"]

LINEAR = (torch.nn.Linear, Conv1D)
"""Layers with a weight matrix over their inputs."""


def matrix_of(layer: torch.nn.Module) -> Tensor:
    """Return a view of a layer's weight of shape (outputs, inputs)."""
    weight = layer.get_parameter("weight").detach()
    return weight.T if isinstance(layer, Conv1D) else weight


@torch.no_grad()
def _input_of(model: PreTrainedModel, layer: str, batch: Mapping[str, Any]) -> Tensor | None:
    """Return the input of a layer as rows, `None` where the forward pass does not reach it."""

    def hear(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        raise Reached(arguments[0])

    handle = model.get_submodule(layer).register_forward_pre_hook(hear)
    try:
        model(**batch)
    except Reached as reached:
        return reached.inputs.detach().float().flatten(0, -2)
    finally:
        handle.remove()
    return None


def second_moments(model: PreTrainedModel, layer: str, batches: Batches) -> CovarianceAccumulator | None:
    """Accumulate the inputs of a layer, `None` where the forward pass does not reach it."""
    accumulated: CovarianceAccumulator | None = None
    for batch in batches:
        rows = _input_of(model, layer, batch)
        if rows is None:
            return None
        accumulated = accumulated or CovarianceAccumulator(rows.shape[1])
        accumulated.add(rows)
    return accumulated


@torch.no_grad()
def _groups(model: PreTrainedModel, layers: Sequence[str], batch: Mapping[str, Any]) -> list[list[str]]:
    """Return the layers that a forward pass reaches, in that order, those that read the same tensor together."""
    groups: list[list[str]] = []
    seen: list[Tensor] = []

    def hear(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        def note(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if any(name in group for group in groups):
                return
            if seen and seen[-1] is arguments[0]:
                groups[-1].append(name)
            else:
                groups.append([name])
                seen.append(arguments[0])

        return note

    handles = [model.get_submodule(name).register_forward_pre_hook(hear(name)) for name in layers]
    try:
        model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return groups


@dataclass(frozen=True)
class _Layer:
    """A linear layer in the original and in the masked model, and what of it stays."""

    name: str
    before: torch.nn.Linear
    after: torch.nn.Linear
    inputs: Tensor
    outputs: Tensor


def refit_layers(
    model: PreTrainedModel,
    masked: PreTrainedModel,
    gone: Mapping[tuple[str, int], Tensor],
    batches: Batches,
    *,
    only_biases: bool = False,
) -> None:
    """Refit every linear layer that lost inputs or outputs, in the order of the forward pass, in place.

    Layers that share their weights with another, as a head does with the embeddings, stay as they are.

    Args:
        model: The original.
        masked: The original with what goes silenced; its layers are refitted.
        gone: Parameter and dimension → indices that go.
        batches: Calibration inputs, gone through once for each group of layers that read the same tensor.
        only_biases: Leave the weights, and fold the mean of what goes into the biases.
    """
    layers: dict[str, _Layer] = {}
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        if not isinstance(module, LINEAR) or owners[id(module.weight)] > 1:
            continue
        places = [(f"{name}.weight", layer_parameters(module, role)[0][1]) for role in ("consumes", "produces")]
        if any(place in gone for place in places):
            inputs, outputs = (
                complement(gone.get(place, torch.empty(0, dtype=torch.long)), size)
                for place, size in zip(places, reversed(matrix_of(module).shape), strict=True)
            )
            layers[name] = _Layer(
                name,
                cast("torch.nn.Linear", module),
                cast("torch.nn.Linear", masked.get_submodule(name)),
                inputs,
                outputs,
            )
    for group in _groups(model, list(layers), next(iter(batches))):
        _refit_group(model, masked, [layers[name] for name in group], batches, only_biases=only_biases)


@torch.no_grad()
def _refit_group(
    model: PreTrainedModel,
    masked: PreTrainedModel,
    group: Sequence[_Layer],
    batches: Batches,
    *,
    only_biases: bool,
) -> None:
    """Refit the layers that read the same tensor."""
    first = group[0]
    kept = first.inputs
    weights = torch.cat([matrix_of(layer.before)[layer.outputs] for layer in group])
    biases = [layer.before.bias for layer in group]
    bias = (
        None if any(one is None for one in biases) else torch.cat([layer.before.bias[layer.outputs] for layer in group])
    )
    # the error to make up for is W d for the change d of the inputs; whichever of the two is narrower is accumulated
    by_input = weights.shape[1] <= weights.shape[0]
    accumulated = CovarianceAccumulator(len(kept) + min(weights.shape))
    for batch in batches:
        before, after = (_input_of(one, first.name, batch) for one in (model, masked))
        if before is None or after is None:
            return
        change = before.clone()
        change[:, kept] -= after[:, kept]
        accumulated.add(torch.cat([after[:, kept], change if by_input else change @ weights.T], dim=1))
    error = weights if by_input else torch.eye(len(weights))
    if only_biases:
        mean = accumulated.total[len(kept) :] / accumulated.count
        fitted, shifted = weights[:, kept], None if bias is None else bias + (error.double() @ mean).to(bias.dtype)
    else:
        fitted, shifted = least_squares(
            torch.cat([weights[:, kept], error], dim=1),
            bias,
            accumulated.covariance,
            accumulated.total,
            accumulated.count,
            torch.arange(len(kept)),
            RIDGE,
        )
    sizes = [len(layer.outputs) for layer in group]
    for layer, weight in zip(group, fitted.split(sizes), strict=True):
        matrix_of(layer.after)[layer.outputs[:, None], layer.inputs] = weight
    if shifted is not None:
        for layer, values in zip(group, shifted.split(sizes), strict=True):
            layer.after.bias[layer.outputs] = values
