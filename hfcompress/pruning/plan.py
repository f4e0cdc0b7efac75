"""What will be removed from a model, settled on its configuration before any weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import Tower, find_towers, meta_model, select_towers, shapes_of, split_tower
from hfcompress.errors import PruningError
from hfcompress.narrow_layers import NARROW_CLASSES
from hfcompress.narrowing import record_in, with_record
from hfcompress.pruning.attention import attention_couplings
from hfcompress.pruning.axes import AXIS_UNITS
from hfcompress.pruning.config_surgery import fit_config
from hfcompress.pruning.coupling import enclosing_stack, joint
from hfcompress.pruning.graph import feed_forward_couplings
from hfcompress.pruning.records import record_of
from hfcompress.pruning.sharing import require_own
from hfcompress.pruning.surgery import Removal, slice_shapes, sliced_parameters
from hfcompress.twin import zero_twin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.narrowing import NarrowRecord
    from hfcompress.pruning.axes import Axis
    from hfcompress.pruning.config_surgery import Edit, Fit
    from hfcompress.pruning.coupling import Coupling

__all__ = [
    "Cut",
    "PruningPlan",
    "find_cuts",
    "fit_cuts",
    "kept_units",
    "plan_pruning",
    "require_own_units",
    "tower_couplings",
]

_AXES: tuple[Axis, ...] = ("heads", "ffn")


@dataclass(frozen=True)
class Cut:
    """Couplings of a tower that must keep the same units, and how many those are.

    Attributes:
        tower: Name of the tower.
        couplings: One, or all that share a table or a layer.
        keep: Number of units that stay.
        padded: Whether the code around goes on seeing all channels; see `Removal`.
    """

    tower: str
    couplings: tuple[Coupling, ...]
    keep: int
    padded: bool = False

    @property
    def axis(self) -> Axis:
        """What the units are."""
        return self.couplings[0].axis

    @property
    def size(self) -> int:
        """Number of units before."""
        return self.couplings[0].size

    def removals(self, kept: torch.Tensor) -> list[Removal]:
        """Return what goes when these units stay."""
        return [Removal(coupling, kept, self.padded) for coupling in self.couplings]


@dataclass(frozen=True)
class PruningPlan:
    """What will be removed, and the configuration that says it.

    Attributes:
        cuts: Everything that shrinks, in the order of the model's modules.
        config: The stock configuration of the pruned model, as far as one can say it.
        edits: How it differs from that of the source.
        recorded: Indices of the cuts that no stock configuration can say: their shapes are recorded beside it.
        shapes: Shape of each entry of the source's state dict.
        earlier: What the source's configuration could not say.
    """

    cuts: tuple[Cut, ...]
    config: PretrainedConfig
    edits: tuple[Edit, ...]
    recorded: frozenset[int]
    shapes: Mapping[str, tuple[int, ...]]
    earlier: NarrowRecord | None = None

    @property
    def first_units(self) -> list[torch.Tensor]:
        """As many units of each cut as stay, the first ones: any would give the same shapes."""
        return [torch.arange(cut.keep) for cut in self.cuts]

    @property
    def removed_parameters(self) -> int:
        """Number of parameters that go."""
        sliced = slice_shapes(self.shapes, self.removals(self.first_units))
        return sum(math.prod(self.shapes[name]) - math.prod(shape) for name, shape in sliced.items())

    def removals(self, kept: Sequence[torch.Tensor]) -> list[Removal]:
        """Return what goes when these units of each cut stay."""
        return [removal for cut, units in zip(self.cuts, kept, strict=True) for removal in cut.removals(units)]

    def config_of(self, kept: Sequence[torch.Tensor]) -> PretrainedConfig:
        """Return the whole configuration of the model in which these units of each cut stay."""
        recorded = [
            removal
            for index, (cut, units) in enumerate(zip(self.cuts, kept, strict=True))
            if index in self.recorded
            for removal in cut.removals(units)
        ]
        if not recorded and self.earlier is None:
            return self.config
        shapes = slice_shapes(self.shapes, self.removals(kept))
        return with_record(self.config, record_of(self.shapes, shapes, recorded, self.earlier))


def kept_units(sizes: Iterable[int], ratio: float, multiple_of: int) -> dict[int, int]:
    """Return how many units of each size stay when `ratio` of them go, rounded up to a multiple.

    A size that is a multiple of a smaller one that shrinks keeps the same share, so that one field of a configuration
    (a ratio to the width, say) can say both.
    """
    kept: dict[int, int] = {}
    for size in sorted(set(sizes)):
        keep = min(size, math.ceil((size - math.floor(size * ratio)) / multiple_of) * multiple_of)
        smaller = next((other for other in kept if kept[other] < other and size % other == 0), None)
        kept[size] = keep if smaller is None else size // smaller * kept[smaller]
    return kept


def tower_couplings(model: PreTrainedModel) -> dict[Tower, tuple[Coupling, ...]]:
    """Return the prunable units of each tower of a model on the meta device, towers without any included."""
    modules = dict(model.named_modules())
    whole = Tower("model", "", "", model.num_parameters())
    parts = find_towers(model)
    members: dict[Tower, dict[str, list[Coupling]]] = {part: {} for part in parts}
    loose: list[tuple[Tower, Coupling]] = []
    for coupling in _couplings(model):
        inside = [part for part in parts if not part.module or f"{coupling.name}.".startswith(f"{part.module}.")]
        part = max(inside, key=lambda tower: len(tower.module), default=whole)
        stack = enclosing_stack(coupling.container, modules)
        if stack is None:
            loose.append((part, coupling))
        else:
            members.setdefault(part, {}).setdefault(stack, []).append(coupling)
    for part, coupling in loose:
        if stacks := members.get(part):
            next(iter(stacks.values())).append(coupling)
    found: dict[Tower, tuple[Coupling, ...]] = {}
    for part, stacks in members.items():
        if not stacks:
            found[part] = ()
            continue
        towers = split_tower(model, part, list(stacks))
        found |= {towers[stack]: tuple(couplings) for stack, couplings in stacks.items()}
    return _distinct(found)


def _couplings(model: PreTrainedModel) -> list[Coupling]:
    """Return the units of every axis, in the order of the modules that produce them."""
    described = f"{type(model).__name__} {model.config.to_json_string(use_diff=False)}"
    if described not in _FOUND:
        _FOUND[described] = _trace(model)
    return _FOUND[described]


_FOUND: dict[str, list[Coupling]] = {}
"""Class and configuration of a model → its couplings: names and numbers, which the same model has again and again."""


def _trace(model: PreTrainedModel) -> list[Coupling]:
    twin = zero_twin(model)
    found = (*feed_forward_couplings(model, twin), *attention_couplings(model, twin))
    modules = dict(model.named_modules())
    whole = [
        coupling
        for coupling in found
        if not any(isinstance(modules[member.module], tuple(NARROW_CLASSES.values())) for member in coupling.members)
    ]
    order = {name: index for index, name in enumerate(modules)}
    return sorted(whole, key=lambda coupling: order[coupling.name])


def _distinct(found: dict[Tower, tuple[Coupling, ...]]) -> dict[Tower, tuple[Coupling, ...]]:
    """Give towers that one part of the configuration built twice names that differ."""
    names = [tower.name for tower in found]
    return {
        tower if names.count(tower.name) == 1 else replace(tower, name=tower.module.replace(".", "_")): couplings
        for tower, couplings in found.items()
    }


def find_cuts(model: PreTrainedModel, towers: Mapping[str, Mapping[Axis, float]], multiple_of: int) -> tuple[Cut, ...]:
    """Return what these ratios remove from a model on the meta device, in the order of its modules.

    Args:
        model: The model.
        towers: Tower name or `all` → axis → the fraction that goes; `all` passes over what a tower lacks.
        multiple_of: Kept numbers of feed-forward units are rounded up to a multiple of this.

    Raises:
        CheckpointError: A tower is not one of the model's.
        PruningError: A tower lacks an axis or shares its units with another one, or nothing would be removed.
    """
    couplings = tower_couplings(model)
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    cuts: list[Cut] = []
    for name, tower in select_towers(couplings, towers).items():
        wanted = towers[name] if name in towers else towers["all"]
        for axis in _AXES:
            if axis not in wanted:
                continue
            ratio = wanted[axis]
            found = [coupling for coupling in couplings[tower] if coupling.axis == axis]
            if not found and name in towers:
                msg = (
                    f"the tower {name!r} has no {AXIS_UNITS[axis]} that can be removed; "
                    f"`hfcompress inspect` shows what each tower has (heads that an earlier pruning removed beside the "
                    f"configuration leave none: remove all of them in one step)"
                )
                raise PruningError(msg)
            kept = kept_units((coupling.size for coupling in found), ratio, multiple_of if axis == "ffn" else 1)
            here = [Cut(name, together, kept[together[0].size]) for together in joint(found, _places)]
            cuts += [cut for cut in here if cut.keep < cut.size]
            if name in towers and ratio > 0 and all(cut.keep == cut.size for cut in here):
                sizes = " or ".join(map(str, sorted(kept)))
                step = f", kept in multiples of {multiple_of}" if axis == "ffn" else ""
                msg = (
                    f"nothing would be removed from the tower {name!r}: {ratio:g} of {sizes} {AXIS_UNITS[axis]} a "
                    f"layer{step} is none; raise the ratio or leave the axis out"
                )
                raise PruningError(msg)
    if not cuts:
        msg = (
            f"nothing would be removed: every number of units that these ratios leave rounds up to what there is "
            f"(multiple_of: {multiple_of})"
        )
        raise PruningError(msg)
    require_own_units(model, cuts)
    _require_apart(couplings, cuts)
    return tuple(sorted(cuts, key=lambda cut: order[cut.couplings[0].name]))


def require_own_units(model: PreTrainedModel, cuts: Iterable[Cut]) -> None:
    """Make sure that what these cuts slice is held by no other module.

    Raises:
        PruningError: Another module holds one of the parameters.
    """
    for cut in cuts:
        what = f"removing {AXIS_UNITS[cut.axis]} of the tower {cut.tower!r}"
        require_own(model, sliced_parameters(cut.removals(torch.arange(cut.keep))), what)


def _require_apart(couplings: Mapping[Tower, tuple[Coupling, ...]], cuts: Iterable[Cut]) -> None:
    """Make sure that no unit that goes is one of another tower as well.

    Raises:
        PruningError: Two towers share a layer that holds the units.
    """
    owners: dict[str, dict[str, None]] = {}
    for tower, some in couplings.items():
        for coupling in some:
            for place in _places(coupling):
                owners.setdefault(place, {})[tower.name] = None
    for cut in cuts:
        for place in sorted(set().union(*map(_places, cut.couplings))):
            if others := [name for name in owners[place] if name != cut.tower]:
                msg = (
                    f"the towers {cut.tower!r} and {others[0]!r} share {place.partition(':')[0]}, so removing "
                    f"{AXIS_UNITS[cut.axis]} of one would change the other; leave this axis out"
                )
                raise PruningError(msg)


def _places(coupling: Coupling) -> set[str]:
    """Return where a coupling holds its units: layer, parameters and first channel."""
    return {f"{member.module}:{member.parameters}:{member.start}" for member in coupling.members}


def plan_pruning(config: PretrainedConfig, towers: Mapping[str, Mapping[Axis, float]], multiple_of: int) -> PruningPlan:
    """Settle what goes from each tower and prove, on the meta device, that a configuration says it.

    Args:
        config: The configuration of the model; left as it is.
        towers: See `find_cuts`.
        multiple_of: See `find_cuts`.

    Raises:
        CheckpointError: A tower is not one of the model's.
        PruningError: A tower lacks an axis, or nothing would be removed.
    """
    model = meta_model(config)
    return fit_cuts(config, shapes_of(model), find_cuts(model, towers, multiple_of))


def fit_cuts(config: PretrainedConfig, shapes: Mapping[str, tuple[int, ...]], cuts: tuple[Cut, ...]) -> PruningPlan:
    """Find the configuration of a pruned model; what no stock configuration can say will be recorded beside it.

    Args:
        config: The configuration of the source; left as it is.
        shapes: Shape of each entry of the source's state dict.
        cuts: What goes.
    """
    earlier = record_in(config)
    stock = config if earlier is None else with_record(config, None)
    beside = {} if earlier is None else shapes_of(meta_model(stock))
    known = frozenset() if earlier is None else earlier.modules.keys()
    recorded = {
        index
        for index, cut in enumerate(cuts)
        if any(member.module in known for coupling in cut.couplings for member in coupling.members)
    }

    def wanted(indices: Iterable[int]) -> dict[str, tuple[int, ...]]:
        first = [removal for index in indices for removal in cuts[index].removals(torch.arange(cuts[index].keep))]
        here = {name: shape for name, shape in beside.items() if name.rpartition(".")[0] in known}
        return slice_shapes(shapes, first) | here

    def unsaid(fit: Fit, indices: set[int]) -> set[int]:
        """Return the cuts of every tower and axis that the configuration fails."""
        failed = {index for index in indices if fit.wrong & sliced_parameters(cuts[index].removals(torch.arange(1)))}
        places = {(cuts[index].tower, cuts[index].axis) for index in failed or indices} if fit.wrong else set()
        return {index for index in indices if (cuts[index].tower, cuts[index].axis) in places}

    heads = {index for index, cut in enumerate(cuts) if cut.axis == "heads"} - recorded
    while failed := unsaid(fit := fit_config(stock, wanted(heads), numbers=_head_numbers(cuts, heads)), heads):
        heads -= failed
    units = {index for index, cut in enumerate(cuts) if cut.axis != "heads"} - recorded
    while failed := unsaid(whole := fit_config(fit.config, wanted(heads | units)), units):
        units -= failed
    recorded = set(range(len(cuts))) - heads - units
    settled = tuple(
        replace(cut, padded=True) if index in recorded and cut.axis == "heads" else cut
        for index, cut in enumerate(cuts)
    )
    return PruningPlan(settled, whole.config, fit.edits + whole.edits, frozenset(recorded), shapes, earlier)


def _head_numbers(cuts: Sequence[Cut], heads: Iterable[int]) -> set[tuple[int, int]]:
    """Return every number of heads, or of groups of them, that changes, before and after."""
    return {
        (cut.size * share, cut.keep * share)
        for cut in (cuts[index] for index in heads)
        for share in (1, cut.couplings[0].heads)
    }
