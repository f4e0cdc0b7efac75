"""Units that exist in several layers at once and can only be removed from all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from hfcompress.pruning.axes import Axis

__all__ = ["Coupling", "Member", "Role", "common_module", "enclosing_stack", "joint", "layer_parameters", "siblings"]

Role: TypeAlias = Literal["produces", "consumes", "carries", "follows"]


@dataclass(frozen=True)
class Member:
    """One side of a layer that holds the units of a coupling.

    Attributes:
        module: Dotted name of the layer.
        role: Whether the channels are the layer's outputs ("produces"), its inputs ("consumes"), pass through it one by
            one ("carries": a normalisation over the channels), or only have to go with the units ("follows": a table of
            relative position biases with a column for each head).
        parameters: Name and dimension of each parameter of the layer that has the channels.
        start: First channel of unit 0.
        width: Channels of a unit.
        stride: Channels from the start of one unit to the start of the next.
    """

    module: str
    role: Role
    parameters: tuple[tuple[str, int], ...]
    start: int = 0
    width: int = 1
    stride: int = 1

    def channels(self, units: torch.Tensor) -> torch.Tensor:
        """Return the channels of these units, of shape (units, width)."""
        return self.start + units[:, None] * self.stride + torch.arange(self.width)

    @property
    def transposed(self) -> bool:
        """Whether the layer keeps its weight as (inputs, outputs), as GPT-2 does."""
        return dict(self.parameters).get("weight", 0) != (1 if self.role == "consumes" else 0)


@dataclass(frozen=True)
class Coupling:
    """Units that can only be removed from several layers at once.

    Attributes:
        name: Dotted name of the first layer that produces the units.
        axis: What the units are.
        size: Number of units.
        members: Every layer side that holds the units; a layer that holds them twice, as a fused gate-and-up
            projection does, is there twice.
        heads: Attention heads in a unit, those that share a key and a value.
    """

    name: str
    axis: Axis
    size: int
    members: tuple[Member, ...]
    heads: int = 1

    @property
    def producers(self) -> tuple[Member, ...]:
        """The layers whose outputs are the units."""
        return self._with_role("produces")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The layers that read the units."""
        return self._with_role("consumes")

    @property
    def carriers(self) -> tuple[Member, ...]:
        """The layers that the units pass through."""
        return self._with_role("carries")

    def _with_role(self, role: Role) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == role)

    @property
    def container(self) -> str:
        """Dotted name of the innermost module that holds every producer and consumer."""
        return common_module([member.module for member in self.members if member.role != "follows"])

    def moved(self, container: str) -> Coupling:
        """Return the same coupling inside another module of the same kind."""
        here = self.container

        def there(module: str) -> str:
            return container + module[len(here) :] if f"{module}.".startswith(f"{here}.") else module

        members = tuple(replace(member, module=there(member.module)) for member in self.members)
        return replace(self, name=there(self.name), members=members)


def common_module(names: Iterable[str]) -> str:
    """Return the dotted name of the innermost module that holds all of these."""
    shared = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def layer_parameters(layer: torch.nn.Module, role: Role) -> tuple[tuple[str, int], ...]:
    """Return name and dimension of each parameter of a layer that has its outputs (or inputs) as channels."""
    transposed = isinstance(layer, (Conv1D, torch.nn.Embedding))
    if role == "consumes":
        return (("weight", 0 if transposed else 1),)
    held = {*dict(layer.named_parameters(recurse=False)), *dict(layer.named_buffers(recurse=False))}
    beside = tuple((name, 0) for name in ("bias", "running_mean", "running_var") if name in held)
    return (("weight", 1 if transposed else 0), *beside)


def enclosing_stack(name: str, modules: Mapping[str, torch.nn.Module]) -> str | None:
    """Return the outermost list of blocks around a module, `None` where it lies in no block."""
    parts = name.split(".")
    paths = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((path for path in paths if isinstance(modules[path], torch.nn.ModuleList)), None)


def siblings(coupling: Coupling, modules: Mapping[str, torch.nn.Module]) -> tuple[Coupling, ...]:
    """Return the coupling in every other module of its container's class whose layers have the same shapes."""
    container = modules[coupling.container]
    found = []
    for name, module in modules.items():
        if type(module) is not type(container) or name == coupling.container:
            continue
        moved = coupling.moved(name)
        pairs = zip(coupling.members, moved.members, strict=True)
        if all(
            there.module in modules and _shapes(modules[here.module]) == _shapes(modules[there.module])
            for here, there in pairs
        ):
            found.append(moved)
    return tuple(found)


def joint(
    couplings: Iterable[Coupling], places: Callable[[Coupling], AbstractSet[Hashable]]
) -> list[tuple[Coupling, ...]]:
    """Bring together the couplings that have a place in common, and so must keep the same units."""
    groups: list[tuple[set[Hashable], tuple[Coupling, ...]]] = []
    for coupling in couplings:
        here = places(coupling)
        sharing = [group for group in groups if group[0] & here]
        groups = [group for group in groups if not group[0] & here]
        merged = tuple(one for group in sharing for one in group[1])
        groups.append((set(here).union(*(group[0] for group in sharing)), (*merged, coupling)))
    return [group[1] for group in groups]


def _shapes(module: torch.nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, parameter.shape) for name, parameter in module.named_parameters()]
