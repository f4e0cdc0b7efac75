"""Slicing a model: the one place where pruning changes weights, and the proof that nothing else changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import model_class
from hfcompress.errors import ProofError
from hfcompress.pruning.importance import UnitWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.pruning.graph import Coupling, Member

__all__ = [
    "TOLERANCE",
    "Removal",
    "compare_outputs",
    "mask",
    "rebuild",
    "run",
    "slice_shapes",
    "slice_state",
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
            cuts.setdefault(f"{member.module}.weight", []).append((0 if member.produces else 1, channels))
            if member.produces:
                cuts.setdefault(f"{member.module}.bias", []).append((0, channels))
    return cuts


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


def unit_weights(model: PreTrainedModel, coupling: Coupling) -> UnitWeights:
    """Return the weights of a coupling, one row for each unit."""

    def rows(member: Member) -> torch.Tensor:
        weight = model.get_submodule(member.module).weight.detach()
        matrix = weight if member.produces else weight.T
        return torch.cat([matrix[offset : offset + coupling.size] for offset in member.offsets], dim=1)

    return UnitWeights(
        incoming=tuple(rows(member) for member in coupling.producers),
        outgoing=tuple(rows(member) for member in coupling.consumers),
    )


@torch.no_grad()
def mask(model: PreTrainedModel, removals: Iterable[Removal]) -> None:
    """Silence the removed units in place: nothing reads them any more, every shape stays."""
    for removal in removals:
        for member in removal.coupling.consumers:
            weight = model.get_submodule(member.module).weight
            silenced = torch.zeros(weight.shape[1], dtype=torch.bool)
            for offset in member.offsets:
                silenced[offset : offset + removal.coupling.size] = True
            silenced[removal.channels(member)] = False
            weight[:, silenced] = 0.0


def rebuild(config: PretrainedConfig, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Build the stock model of a configuration around a state dict.

    Raises:
        ProofError: The model has parameters that the state lacks, or the other way round.
    """
    model, loading = model_class(config).from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True
    )
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        msg = f"the pruned weights do not fit the pruned configuration: {', '.join(str(name) for name in wrong[:5])}"
        raise ProofError(msg)
    return model.eval()


@torch.no_grad()
def run(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run a forward pass and return every floating-point output by its path ("vision_model_output.pooler_output")."""
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

    collect("", model(**inputs))
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
