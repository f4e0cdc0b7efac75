"""Slicing a model: the one place where pruning changes weights, and the proof that nothing else changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import model_class
from hfcompress.errors import ProofError
from hfcompress.pruning.importance import UnitStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.probes import Probe
    from hfcompress.pruning.graph import Coupling, Member

__all__ = [
    "TOLERANCE",
    "Removal",
    "assign_consumer",
    "compare_outputs",
    "consumer_weight",
    "mask",
    "rebuild",
    "run",
    "slice_shapes",
    "slice_state",
    "sliced_parameters",
    "unit_weights",
]

TOLERANCE = 1e-4
"""Largest accepted difference between the sliced and the masked model, relative to the scale of the output."""


@dataclass(frozen=True)
class Removal:
    """The units of a coupling that stay, in ascending order; all others go."""

    coupling: Coupling
    kept: torch.Tensor

    def channels(self, member: Member) -> torch.Tensor:
        """Return the kept units as channels of one of the coupling's layers."""
        return torch.cat([self.kept + offset for offset in member.offsets])


def _cuts(removals: Iterable[Removal]) -> dict[str, list[tuple[int, torch.Tensor]]]:
    """Return parameter name → (dimension, kept channels) for everything that is sliced."""
    cuts: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for removal in removals:
        for member in removal.coupling.members:
            channels = removal.channels(member)
            dimension = 1 if (member.role == "consumes") != member.transposed else 0
            cuts.setdefault(f"{member.module}.weight", []).append((dimension, channels))
            if member.role != "consumes":
                cuts.setdefault(f"{member.module}.bias", []).append((0, channels))
    return cuts


def sliced_parameters(removals: Iterable[Removal]) -> set[str]:
    """Return the names of the parameters that are sliced."""
    return set(_cuts(removals))


def slice_state(state: Mapping[str, torch.Tensor], removals: Iterable[Removal]) -> dict[str, torch.Tensor]:
    """Return the state dict without the removed units; what is not sliced is shared, not copied."""
    sliced = dict(state)
    for name, cuts in _cuts(removals).items():
        if name in sliced:
            for dimension, channels in cuts:
                sliced[name] = sliced[name].index_select(dimension, channels.to(sliced[name].device))
    return sliced


def slice_shapes(shapes: Mapping[str, tuple[int, ...]], removals: Iterable[Removal]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `slice_state` gives, without touching a weight."""
    sliced = dict(shapes)
    for name, cuts in _cuts(removals).items():
        if name in sliced:
            for dimension, channels in cuts:
                shape = sliced[name]
                sliced[name] = (*shape[:dimension], len(channels), *shape[dimension + 1 :])
    return sliced


def _matrix(model: PreTrainedModel, member: Member) -> torch.Tensor:
    """Return a view of a layer's weight of shape (outputs, inputs)."""
    weight = model.get_parameter(f"{member.module}.weight").detach()
    return weight.T if member.transposed else weight


def unit_weights(model: PreTrainedModel, coupling: Coupling) -> UnitStatistics:
    """Return the weights of a coupling, one row for each unit."""

    def rows(member: Member) -> torch.Tensor:
        matrix = _matrix(model, member)
        matrix = matrix if member.role == "produces" else matrix.T
        return torch.cat([matrix[offset : offset + coupling.size] for offset in member.offsets], dim=1)

    return UnitStatistics(
        incoming=tuple(rows(member) for member in coupling.producers),
        outgoing=tuple(rows(member) for member in coupling.consumers),
    )


def consumer_weight(model: PreTrainedModel, consumer: Member, size: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weight (outputs, units) and bias (outputs,) of a layer that reads the units."""
    start = consumer.offsets[0]
    bias = getattr(model.get_submodule(consumer.module), "bias", None)
    return _matrix(model, consumer)[:, start : start + size], None if bias is None else bias.detach()


@torch.no_grad()
def assign_consumer(
    model: PreTrainedModel, consumer: Member, removal: Removal, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """Write refitted weights of the kept units into a layer in place, and zeros for the removed ones."""
    matrix = _matrix(model, consumer)
    start = consumer.offsets[0]
    matrix[:, start : start + removal.coupling.size] = 0.0
    matrix[:, removal.kept + start] = weight.to(matrix.dtype)
    if bias is not None:
        model.get_parameter(f"{consumer.module}.bias").copy_(bias)


@torch.no_grad()
def mask(model: PreTrainedModel, removals: Iterable[Removal]) -> None:
    """Silence the removed units in place: nothing reads them any more, every shape stays.

    A normalisation over the units is made to see the kept ones alone.
    """
    for removal in removals:
        for member in removal.coupling.consumers:
            matrix = _matrix(model, member)
            silenced = torch.zeros(matrix.shape[1], dtype=torch.bool)
            for offset in member.offsets:
                silenced[offset : offset + removal.coupling.size] = True
            silenced[removal.channels(member)] = False
            matrix[:, silenced] = 0.0
        for member in removal.coupling.carriers:
            _narrow(model.get_submodule(member.module), removal.channels(member))


def _narrow(norm: torch.nn.Module, kept: torch.Tensor) -> None:
    """Make a normalisation take its statistics from the kept channels alone."""

    def narrowed(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        weight = module.get_parameter("weight")[kept]
        shift = getattr(module, "bias", None)
        bias = None if shift is None else shift[kept]
        seen = arguments[0][..., kept]
        if isinstance(module, torch.nn.LayerNorm):
            seen = torch.nn.functional.layer_norm(seen, (len(kept),), weight, bias, module.eps)
        else:
            seen = torch.nn.functional.rms_norm(seen, (len(kept),), weight, module.eps)  # type: ignore[arg-type]
        narrow = torch.zeros_like(output)
        narrow[..., kept] = seen
        return narrow

    norm.register_forward_hook(narrowed)


def rebuild(config: PretrainedConfig, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Build the stock model of a configuration around a state dict.

    Raises:
        ProofError: The model has parameters that the state lacks, or the other way round.
    """
    model: PreTrainedModel
    model, loading = model_class(config).from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True
    )
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        msg = f"the pruned weights do not fit the pruned configuration: {', '.join(str(name) for name in wrong[:5])}"
        raise ProofError(msg)
    model.eval()
    return model


@torch.no_grad()
def run(model: PreTrainedModel, probes: Iterable[Probe]) -> dict[str, torch.Tensor]:
    """Run forward passes and return every floating-point output by its path ("vision_model_output.pooler_output")."""
    found: dict[str, torch.Tensor] = {}

    def collect(path: str, item: object) -> None:
        if isinstance(item, torch.Tensor):
            if item.is_floating_point():
                found[path] = item.detach().float()
        elif isinstance(item, dict):
            for key, value in item.items():
                collect(f"{path}.{key}" if path else str(key), value)
        elif isinstance(item, (list, tuple)):
            for index, value in enumerate(item):
                collect(f"{path}[{index}]", value)

    for probe in probes:
        torch.manual_seed(0)  # some models draw a permutation of their patches
        collect(probe.module, model.get_submodule(probe.module)(**probe.inputs))
    return found


def compare_outputs(expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]) -> float:
    """Return the largest absolute difference of any output, relative to that output's largest magnitude.

    Raises:
        ProofError: An output is missing, not finite, or further off than `TOLERANCE`.
    """
    largest = 0.0
    for name, reference in expected.items():
        if name not in got or got[name].shape != reference.shape:
            msg = f"the pruned model does not give the output {name!r} in the shape {tuple(reference.shape)}"
            raise ProofError(msg)
        scale = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        difference = float((got[name] - reference).abs().max() / scale)
        if not difference <= TOLERANCE:
            msg = (
                f"the sliced model is not the masked model: output {name!r} differs by {difference:.3g} of its scale "
                f"(at most {TOLERANCE:g} is accepted); nothing was saved"
            )
            raise ProofError(msg)
        largest = max(largest, difference)
    return largest
