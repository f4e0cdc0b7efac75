"""Slicing a model: the one place where pruning changes weights, and the proof that nothing else changed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import model_class
from hfcompress.errors import ProofError
from hfcompress.pruning.compensation import complement
from hfcompress.pruning.importance import UnitStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.pruning.coupling import Coupling, Member

__all__ = [
    "TOLERANCE",
    "Removal",
    "assign_consumer",
    "compare_outputs",
    "consumer_weight",
    "layer_matrix",
    "mask",
    "narrow_norm",
    "parameter_matrix",
    "rebuild",
    "removed_channels",
    "slice_shapes",
    "slice_state",
    "sliced_parameters",
    "unit_rows",
    "unit_weights",
]

TOLERANCE = 1e-4
"""Largest accepted difference between the sliced and the masked model, relative to the scale of the output."""


@dataclass(frozen=True)
class Removal:
    """The units of a coupling that stay, in ascending order; all others go.

    Attributes:
        coupling: The units.
        kept: Numbers of those that stay.
        padded: Whether the code around the layers goes on seeing all channels, zero where a unit is gone. What carries
            or follows the units keeps its shape then.
    """

    coupling: Coupling
    kept: torch.Tensor
    padded: bool = False

    @property
    def gone(self) -> torch.Tensor:
        """Numbers of the units that go."""
        return complement(self.kept, self.coupling.size)

    @property
    def members(self) -> tuple[Member, ...]:
        """The layer sides that lose the units."""
        return tuple(
            member for member in self.coupling.members if not self.padded or member.role in {"produces", "consumes"}
        )


def removed_channels(removals: Iterable[Removal]) -> dict[tuple[str, int], torch.Tensor]:
    """Return (parameter, dimension) → channels that go, in ascending order, for everything that is sliced."""
    gone: dict[tuple[str, int], list[torch.Tensor]] = {}
    for removal in removals:
        for member in removal.members:
            channels = member.channels(removal.gone).flatten()
            for name, dimension in member.parameters:
                gone.setdefault((f"{member.module}.{name}", dimension), []).append(channels)
    return {place: torch.cat(channels).unique() for place, channels in gone.items()}


def sliced_parameters(removals: Iterable[Removal]) -> set[str]:
    """Return the names of the parameters that are sliced."""
    return {name for name, _ in removed_channels(removals)}


def slice_state(state: Mapping[str, torch.Tensor], removals: Iterable[Removal]) -> dict[str, torch.Tensor]:
    """Return the state dict without the removed units; what is not sliced is shared, not copied."""
    sliced = dict(state)
    for (name, dimension), gone in removed_channels(removals).items():
        if name in sliced:
            kept = complement(gone, sliced[name].shape[dimension])
            sliced[name] = sliced[name].index_select(dimension, kept.to(sliced[name].device))
    return sliced


def slice_shapes(shapes: Mapping[str, tuple[int, ...]], removals: Iterable[Removal]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `slice_state` gives, without touching a weight."""
    sliced = dict(shapes)
    for (name, dimension), gone in removed_channels(removals).items():
        if name in sliced:
            shape = sliced[name]
            sliced[name] = (*shape[:dimension], shape[dimension] - len(gone), *shape[dimension + 1 :])
    return sliced


def layer_matrix(model: PreTrainedModel, member: Member) -> torch.Tensor:
    """Return a view of a layer's weight of shape (outputs, inputs)."""
    return parameter_matrix(member, model.get_parameter(f"{member.module}.weight").detach())


def parameter_matrix(member: Member, weight: torch.Tensor) -> torch.Tensor:
    """Return a view of a tensor in a weight's shape as (outputs, inputs), a convolution's taps as inputs."""
    return weight.T if member.transposed else weight.flatten(1)


def unit_weights(model: PreTrainedModel, coupling: Coupling) -> UnitStatistics:
    """Return the weights of a coupling, one row for each unit."""
    incoming, outgoing = unit_rows(coupling, lambda member: layer_matrix(model, member))
    return UnitStatistics(incoming, outgoing, coupling.consumers[0].width)


def unit_rows(
    coupling: Coupling, matrix_of: Callable[[Member], torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return the rows of matrices of shape (outputs, inputs) that belong to each unit.

    Returns:
        For each producing and for each consuming layer a tensor of shape (units, width * k).
    """
    units = torch.arange(coupling.size)

    def rows(member: Member) -> torch.Tensor:
        matrix = matrix_of(member) if member.role == "produces" else matrix_of(member).T
        return matrix[member.channels(units)].flatten(1)

    return tuple(map(rows, coupling.producers)), tuple(map(rows, coupling.consumers))


def consumer_weight(model: PreTrainedModel, consumer: Member, units: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weight (outputs, units * width) and bias (outputs,) of a layer that reads the units."""
    bias = getattr(model.get_submodule(consumer.module), "bias", None)
    channels = consumer.channels(torch.arange(units)).flatten()
    return layer_matrix(model, consumer)[:, channels], None if bias is None else bias.detach()


@torch.no_grad()
def assign_consumer(
    model: PreTrainedModel, consumer: Member, removal: Removal, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """Write refitted weights of the kept units into a layer in place, and zeros for the removed ones."""
    matrix = layer_matrix(model, consumer)
    matrix[:, consumer.channels(removal.gone).flatten()] = 0.0
    matrix[:, consumer.channels(removal.kept).flatten()] = weight.to(matrix.dtype)
    if bias is not None:
        model.get_parameter(f"{consumer.module}.bias").copy_(bias)


@torch.no_grad()
def mask(model: PreTrainedModel, removals: Iterable[Removal]) -> None:
    """Silence the removed units in place: nothing reads them any more, every shape stays.

    A normalisation over the units is made to see the kept ones alone; where the units are padded, it sees zeros.
    """
    for removal in removals:
        for member in removal.coupling.consumers:
            layer_matrix(model, member)[:, member.channels(removal.gone).flatten()] = 0.0
        if removal.padded:
            for member in removal.coupling.producers:
                channels = member.channels(removal.gone).flatten()
                layer_matrix(model, member)[channels] = 0.0
                if "bias" in dict(member.parameters):
                    model.get_parameter(f"{member.module}.bias")[channels] = 0.0
        else:
            for member in removal.coupling.carriers:
                if isinstance(model.get_submodule(member.module), (torch.nn.BatchNorm2d, torch.nn.Conv2d)):
                    continue  # channel by channel: nothing is mixed that would have to be kept apart
                narrow_norm(model.get_submodule(member.module), member.channels(removal.kept).flatten())


def narrow_norm(norm: torch.nn.Module, kept: torch.Tensor) -> None:
    """Make a normalisation take its statistics from the kept channels alone, and give zeros for the others."""

    def narrowed(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        narrow = copy.copy(module)
        narrow._parameters = {  # noqa: SLF001 - a shallow copy shares this dict with the module it was made of
            name: None if parameter is None else torch.nn.Parameter(parameter[kept])
            for name, parameter in module.named_parameters(recurse=False)
        }
        narrow._forward_hooks = OrderedDict()  # noqa: SLF001 - it would call this function again
        if hasattr(narrow, "normalized_shape"):
            vars(narrow)["normalized_shape"] = (len(kept),)
        widened = torch.zeros_like(output)
        widened[..., kept] = narrow(arguments[0][..., kept])
        return widened

    norm.register_forward_hook(narrowed)


def rebuild(config: PretrainedConfig, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Build the stock model of a configuration around a state dict.

    Raises:
        ProofError: The model has parameters that the state lacks or has in another shape, or the other way round.
    """
    model: PreTrainedModel
    try:
        model, loading = model_class(config).from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (RuntimeError, ValueError) as error:
        msg = f"the pruned weights do not fit the pruned configuration: {error}"
        raise ProofError(msg) from error
    misshapen = [
        f"{name} ({list(got)}, and the configuration says {list(wanted)})"
        for name, got, wanted in loading["mismatched_keys"]
    ]
    wrong = [*misshapen, *loading["missing_keys"], *loading["unexpected_keys"]]
    if wrong:
        msg = f"the pruned weights do not fit the pruned configuration: {', '.join(map(str, wrong[:5]))}"
        raise ProofError(msg)
    model.eval()
    return model


def compare_outputs(
    expected: Mapping[str, torch.Tensor],
    got: Mapping[str, torch.Tensor],
    names: tuple[str, str] = ("the sliced model", "the masked model"),
) -> float:
    """Return the largest absolute difference of any output, relative to that output's largest magnitude.

    Args:
        expected: Outputs of the reference, as `run` names them.
        got: Outputs of the model that is looked at.
        names: What the model that is looked at and the reference are called in an error.

    Raises:
        ProofError: An output is missing, not finite, or further off than `TOLERANCE`.
    """
    largest = 0.0
    model, source = names
    for name, reference in expected.items():
        if name not in got or got[name].shape != reference.shape:
            msg = f"{model} does not give the output {name!r} in the shape {tuple(reference.shape)}, as {source} does"
            raise ProofError(msg)
        finite = reference.isfinite()  # some models put out ±inf for what they rule out
        if not torch.equal(reference[~finite].nan_to_num(), got[name][~finite].nan_to_num()) or not finite.any():
            msg = f"the output {name!r} of {model} is not finite where that of {source} is"
            raise ProofError(msg)
        scale = reference[finite].abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        difference = float((got[name][finite] - reference[finite]).abs().max() / scale)
        if not difference <= TOLERANCE:
            msg = (
                f"{model} is not {source}: output {name!r} differs by {difference:.3g} of its scale "
                f"(at most {TOLERANCE:g} is accepted); nothing of it is kept"
            )
            raise ProofError(msg)
        largest = max(largest, difference)
    return largest
