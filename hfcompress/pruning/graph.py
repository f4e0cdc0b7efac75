"""Which parameters must be sliced together, found by tracing the model and not by knowing it.

torch-pruning follows autograd through a forward pass on the meta device and tells, for an output channel of a layer,
every other layer that shares it. A feed-forward layer is a set of channels that lies between linear maps with nothing
but pointwise operations in between: no attention product, no normalisation over the channel, no output of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch_pruning
from torch_pruning import ops

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

__all__ = ["Coupling", "Member", "feed_forward_couplings"]

_MIXING = ("Bmm", "Softmax", "ScaledDotProduct", "Norm", "Cumsum", "Sum", "Mean", "Embedding", "Index", "Convolution")
"""Autograd operations that mix channels, or tell that the channels are not a feed-forward layer's."""


@dataclass(frozen=True)
class Member:
    """One side of a linear map that shares the coupled channels.

    Attributes:
        module: Dotted name of the layer.
        produces: Whether the channels are the layer's outputs (else its inputs).
        offsets: Unit j of the coupling is channel `j + offset` for each of these; a fused gate-and-up projection has
            two.
    """

    module: str
    produces: bool
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Coupling:
    """Channels that exist in several layers at once and can only be removed from all of them.

    Attributes:
        name: Dotted name of the first layer that produces the channels.
        size: Number of units.
        members: Every layer side that holds the units.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    @property
    def producers(self) -> tuple[Member, ...]:
        """The layers whose outputs are the units."""
        return tuple(member for member in self.members if member.produces)

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The layers that read the units."""
        return tuple(member for member in self.members if not member.produces)


def feed_forward_couplings(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> tuple[Coupling, ...]:
    """Return the feed-forward layers that a forward pass reaches, in the order of the model's modules.

    Args:
        model: A model on the meta device.
        inputs: Arguments of a forward pass, on the meta device.
    """
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(model, dict(inputs), verbose=False, output_transform=_differentiable)
    names = {module: name for name, module in model.named_modules()}
    couplings: dict[str, Coupling] = {}
    taken: set[str] = set()
    for module, name in names.items():
        if not isinstance(module, torch.nn.Linear) or module not in graph.module2node or name in taken:
            continue
        coupling = _coupling(graph, names, module)
        if coupling is not None:
            couplings[coupling.name] = coupling
            taken.update(member.module for member in coupling.producers)
    return tuple(couplings.values())


def _differentiable(outputs: object) -> list[torch.Tensor]:
    """Collect the tensors of a model's output that autograd can be followed from."""

    def tensors(item: object) -> Iterator[torch.Tensor]:
        if isinstance(item, torch.Tensor):
            if item.grad_fn is not None:
                yield item
        elif isinstance(item, dict):
            for value in item.values():
                yield from tensors(value)
        elif isinstance(item, (list, tuple)):
            for value in item:
                yield from tensors(value)

    return list(tensors(outputs))


def _coupling(
    graph: torch_pruning.DependencyGraph, names: Mapping[torch.nn.Module, str], root: torch.nn.Linear
) -> Coupling | None:
    """Return what shares the outputs of `root`, or `None` where that is not a feed-forward layer."""
    first = _sharers(graph, names, root, 0)
    last = _sharers(graph, names, root, root.out_features - 1)
    if first is None or last is None or first.keys() != last.keys():
        return None
    span = root.out_features - 1
    if any(tuple(index + span for index in first[side]) != last[side] for side in first):
        return None
    members = tuple(Member(module, produces, offsets) for (module, produces), offsets in first.items())
    coupling = Coupling(names[root], root.out_features, members)
    return coupling if coupling.consumers else None


def _sharers(
    graph: torch_pruning.DependencyGraph, names: Mapping[torch.nn.Module, str], root: torch.nn.Linear, channel: int
) -> dict[tuple[str, bool], tuple[int, ...]] | None:
    """Return (layer, is output) → channels there, for one output channel of `root`; `None` where channels are mixed."""
    found: dict[tuple[str, bool], tuple[int, ...]] = {}
    for dependency, channels in graph.get_pruning_group(root, torch_pruning.prune_linear_out_channels, idxs=[channel]):
        target = dependency.target
        if isinstance(target.module, torch.nn.Linear):
            produces = graph.is_out_channel_pruning_fn(dependency.handler)
            found[names[target.module], produces] = tuple(sorted(channels))
        elif not _pointwise(target):
            return None
    return found


def _pointwise(node: torch_pruning.dependency.Node) -> bool:
    """Whether a node of the graph keeps every channel to itself."""
    if node.type not in {ops.OPTYPE.ELEMENTWISE, ops.OPTYPE.RESHAPE, ops.OPTYPE.SPLIT, ops.OPTYPE.SLICE}:
        return False
    return not any(kind in str(node.name) for kind in _MIXING)
