"""The residual stream of a tower made narrower: which channels stay, what the layers become, and the proof.

The masked model is the original with the channels that go silenced: whatever writes them writes zeros, and every
normalisation over them takes its statistics from those that stay. The narrower model must give what it gives.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from hfcompress.errors import ProofError, PruningError
from hfcompress.outputs import run
from hfcompress.probes import Probe, find_probes
from hfcompress.pruning.compensation import complement
from hfcompress.pruning.coupling import layer_parameters
from hfcompress.pruning.importance import UnitStatistics
from hfcompress.pruning.refitting import LINEAR, matrix_of, refit_layers, second_moments
from hfcompress.pruning.surgery import (
    compare_outputs,
    layer_matrix,
    mask,
    narrow_norm,
    removed_channels,
    unit_rows,
)
from hfcompress.registry import IMPORTANCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from hfcompress.pruning.coupling import Member
    from hfcompress.pruning.refitting import Batches
    from hfcompress.pruning.surgery import Removal
    from hfcompress.pruning.width import HeadCut, WidthPlan


__all__ = ["Narrowed", "apply_width", "prove_width"]

_PER_CHANNEL = (
    torch.nn.modules.batchnorm._NormBase,  # noqa: SLF001 - the base of all
    torch.nn.GroupNorm,
)
"""Normalisations that do not mix the channels, and one that mixes only some: zeros are enough, or nothing is."""


@dataclass(frozen=True)
class Narrowed:
    """What a narrower tower is made of.

    Attributes:
        state: State dict of the narrower model.
        masked: The original in its full width, silenced and refitted; see `prove_width`.
        channels: Channels of the residual stream that stay, in ascending order.
        heads: For each cut of heads of the plan, the units that stay.
    """

    state: dict[str, Tensor]
    masked: PreTrainedModel
    channels: Tensor
    heads: tuple[Tensor, ...]


def apply_width(
    model: PreTrainedModel,
    plan: WidthPlan,
    importance: str,
    compensate: str,
    batches: Batches | None,
    generator: torch.Generator,
) -> Narrowed:
    """Choose the channels and heads that stay and refit the layers around them.

    Args:
        model: The model that was planned for, with weights; left as it is.
        plan: How much goes.
        importance: Name of the importance: "magnitude" and "random" as they are; any other scores heads by itself, and
            channels by the activations that reach the layers which read them.
        compensate: "none", or "least_squares": each linear layer of the tower is refitted on what it gets now, towards
            what it gave in the original, one after the other; or "bias": its bias alone is.
        batches: Calibration inputs of the model, gone through many times; `None` where there are none.
        generator: Source of randomness.

    Raises:
        PruningError: Compensation is asked for without calibration rows.
    """
    if batches is None and compensate != "none":
        msg = f"`compensate: {compensate}` is not possible without calibration rows"
        raise PruningError(msg)
    scores = _channel_scores(model, plan, importance, batches, generator)
    channels = scores.topk(plan.keep).indices.sort().values
    heads = tuple(_kept_heads(model, cut, importance, batches, generator) for cut in plan.heads)
    removals = [removal for cut, kept in zip(plan.heads, heads, strict=True) for removal in cut.removals(kept)]
    gone = _gone(plan, channels, removals)
    masked = copy.deepcopy(model)
    _silence(masked, plan, channels, removals)
    if compensate != "none" and batches is not None:
        refit_layers(model, masked, gone, batches, only_biases=compensate == "bias")
    state = dict(masked.state_dict())
    for (name, dimension), indices in gone.items():
        kept = complement(indices, plan.shapes[name][dimension])
        state[name] = state[name].index_select(dimension, kept)
    return Narrowed(state, masked, channels, heads)


def prove_width(
    narrowed: Narrowed,
    pruned: PreTrainedModel,
    plan: WidthPlan,
    batch: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> float:
    """Return the largest difference between the narrower and the masked model, relative to the scale of the output.

    Where an output is as wide as the residual stream, the channels that stay are compared.

    Args:
        narrowed: What `apply_width` gave.
        pruned: The model that was rebuilt from its state and the configuration of the plan.
        plan: The plan.
        batch: Calibration inputs of the whole model, compared as well: inputs that are made from a configuration run
            some models only part by part, and then nothing shows that the parts still fit together.
        seed: Seeds the inputs that are made.

    Raises:
        ProofError: The models differ.
    """

    def narrow(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tensor.dim() != len(shape):
            return tensor
        for dimension, (before, after) in enumerate(zip(tensor.shape, shape, strict=True)):
            blocks, rest = divmod(before, plan.width)
            if before != after == blocks * plan.keep and not rest:
                tensor = tensor.index_select(dimension, plan.blocks(narrowed.channels, blocks))
        return tensor

    probes = find_probes(narrowed.masked, seed=seed)
    joint = [] if batch is None else [Probe("", dict(batch))]
    here = {probe.module: probe.inputs for probe in find_probes(pruned, seed=seed)}
    if missing := [probe.module for probe in probes if probe.module not in here]:
        msg = f"the narrower model no longer runs where the original does ({missing[0] or 'as a whole'})"
        raise ProofError(msg)
    narrower = [
        replace(
            probe,
            inputs={
                name: narrow(value, here[probe.module][name].shape) if isinstance(value, torch.Tensor) else value
                for name, value in probe.inputs.items()
            },
        )
        for probe in probes
    ]
    largest = 0.0
    for one, other in ((probes, narrower), (joint, joint)):
        expected = run(narrowed.masked, one)
        try:
            got = run(pruned, other)
            kept = {
                name: narrow(output, got[name].shape) if name in got else output for name, output in expected.items()
            }
            largest = max(largest, compare_outputs(kept, got))
        except (RuntimeError, ValueError) as error:
            msg = f"the narrower model does not run where the original does: {error}"
            raise ProofError(msg) from error
        except ProofError as error:
            msg = f"{error}; something in this model depends on its width beyond its weights, such as a scale of √width"
            raise ProofError(msg) from error
    return largest


def _gone(plan: WidthPlan, channels: Tensor, removals: list[Removal]) -> dict[tuple[str, int], Tensor]:
    """Return (parameter, dimension) → indices that go, for the residual stream and the heads."""
    lost = complement(channels, plan.width)
    gone = {place: plan.blocks(lost, blocks) for place, blocks in plan.places.items()}
    return gone | {place: indices for place, indices in removed_channels(removals).items() if place[0] in plan.shapes}


@torch.no_grad()
def _silence(model: PreTrainedModel, plan: WidthPlan, channels: Tensor, removals: list[Removal]) -> None:
    """Make a model write zeros to the channels that go, and read nothing from them, in place."""
    mask(model, removals)
    lost = complement(channels, plan.width)
    entries = model.state_dict()
    norms: dict[str, int] = {}
    for (name, dimension), blocks in plan.places.items():
        entries[name].index_fill_(dimension, plan.blocks(lost, blocks), 0)
        owner = name.rpartition(".")[0]
        module = model.get_submodule(owner)
        if "Norm" in type(module).__name__ and not isinstance(module, _PER_CHANNEL):
            norms[owner] = blocks
    for owner, blocks in norms.items():
        narrow_norm(model.get_submodule(owner), plan.blocks(channels, blocks))


def _readers(model: PreTrainedModel, plan: WidthPlan) -> dict[str, int]:
    """Return the linear layers that read the residual stream, and how many times side by side they do."""
    return {
        name: plan.places[place]
        for name, module in model.named_modules()
        if isinstance(module, LINEAR)
        and (place := (f"{name}.weight", layer_parameters(module, "consumes")[0][1])) in plan.places
    }


def _channel_scores(
    model: PreTrainedModel, plan: WidthPlan, importance: str, batches: Batches | None, generator: torch.Generator
) -> Tensor:
    """Return how much each channel of the residual stream matters, of shape (width,)."""
    if importance == "random":
        return torch.rand(plan.width, generator=generator)
    if batches is None or importance == "magnitude":
        state = model.state_dict()
        return sum(
            (
                state[name]
                .detach()
                .double()
                .movedim(dimension, 0)
                .reshape(blocks, plan.width, -1)
                .square()
                .sum(dim=(0, 2))
                for (name, dimension), blocks in plan.places.items()
            ),
            torch.zeros(plan.width, dtype=torch.float64),
        ).sqrt()
    readers = _readers(model, plan)
    scores = torch.zeros(plan.width, dtype=torch.float64)
    for name, energy in _energies(model, readers, batches).items():
        weight = matrix_of(model.get_submodule(name)).double()
        reach = (energy * weight.square().sum(dim=0)).view(readers[name], -1).sum(dim=0)
        scores += reach / reach.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return scores


@torch.no_grad()
def _energies(model: PreTrainedModel, layers: Iterable[str], batches: Batches) -> dict[str, Tensor]:
    """Return Σ x² of the inputs of these layers, of shape (inputs,), for those that the forward pass reaches."""
    found: dict[str, Tensor] = {}

    def hear(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        def add(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            rows = arguments[0].detach().double().flatten(0, -2).square().sum(dim=0)
            found[name] = found[name] + rows if name in found else rows

        return add

    handles = [model.get_submodule(name).register_forward_pre_hook(hear(name)) for name in layers]
    try:
        for batch in batches:
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _kept_heads(
    model: PreTrainedModel, cut: HeadCut, importance: str, batches: Batches | None, generator: torch.Generator
) -> Tensor:
    """Return the heads of a cut that stay, in ascending order."""

    def matrix(member: Member) -> Tensor:
        if hasattr(model.get_submodule(member.module), "weight"):
            return layer_matrix(model, member)
        return model.get_parameter(f"{member.module}.{member.parameters[0][0]}").detach()

    scores = torch.zeros(cut.size, dtype=torch.float64)
    for coupling in cut.couplings:
        consumer = coupling.consumers[0]
        statistics = UnitStatistics(*unit_rows(coupling, matrix), consumer.width)
        if batches is not None:
            seen = second_moments(model, consumer.module, batches)
            if seen is not None:
                here = consumer.channels(torch.arange(cut.size)).flatten()
                covariance, total = seen.covariance[here][:, here], seen.total[here]
                statistics = replace(statistics, covariance=covariance, total=total, count=seen.count)
        scores += IMPORTANCES.get(importance)(statistics, cut.size - cut.keep, generator).double()
    return scores.topk(cut.keep).indices.sort().values
