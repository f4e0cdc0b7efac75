"""What will be removed from a model, settled on its configuration before any weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import Tower, find_towers, meta_model, select_towers, shapes_of, split_tower
from hfcompress.errors import PruningError
from hfcompress.pruning.config_surgery import fit_config
from hfcompress.pruning.graph import enclosing_stack, feed_forward_couplings
from hfcompress.pruning.surgery import Removal, slice_shapes, sliced_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.pruning.config_surgery import Edit
    from hfcompress.pruning.graph import Coupling
    from hfcompress.pruning.step import TowerRatios

__all__ = ["Cut", "PruningPlan", "kept_units", "plan_pruning", "tower_couplings"]


@dataclass(frozen=True)
class Cut:
    """A coupling of a tower, and how many of its units stay."""

    tower: str
    coupling: Coupling
    keep: int


@dataclass(frozen=True)
class PruningPlan:
    """What will be removed, and the stock configuration that says it.

    Attributes:
        cuts: Every coupling that shrinks.
        config: The configuration of the pruned model.
        edits: How it differs from that of the source.
        removed_parameters: Number of parameters that go.
        left: Towers that `all` would have covered, and that no stock configuration can say narrower.
    """

    cuts: tuple[Cut, ...]
    config: PretrainedConfig
    edits: tuple[Edit, ...]
    removed_parameters: int
    left: tuple[str, ...] = ()


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
    """Return the feed-forward layers of each tower of a model on the meta device, towers without one included."""
    modules = dict(model.named_modules())
    whole = Tower("model", "", "", model.num_parameters())
    parts = find_towers(model)
    members: dict[Tower, dict[str, list[Coupling]]] = {part: {} for part in parts}
    loose: list[tuple[Tower, Coupling]] = []
    for coupling in feed_forward_couplings(model):
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


def _distinct(found: dict[Tower, tuple[Coupling, ...]]) -> dict[Tower, tuple[Coupling, ...]]:
    """Give towers that one part of the configuration built twice names that differ."""
    names = [tower.name for tower in found]
    return {
        tower if names.count(tower.name) == 1 else replace(tower, name=tower.module.replace(".", "_")): couplings
        for tower, couplings in found.items()
    }


def plan_pruning(config: PretrainedConfig, ratios: Mapping[str, TowerRatios], multiple_of: int) -> PruningPlan:
    """Settle what goes from each tower and prove, on the meta device, that a stock configuration can say it.

    Args:
        config: The configuration of the model; left as it is.
        ratios: Tower name or `all` → what is removed there; `all` passes over towers without feed-forward layers, and
            over those that no stock configuration can say narrower.
        multiple_of: Kept sizes are rounded up to a multiple of this.

    Raises:
        CheckpointError: A tower is not one of the model's.
        PruningError: A tower has no feed-forward layer, nothing would be removed, or no configuration says the result.
    """
    model = meta_model(config)
    couplings = tower_couplings(model)
    cuts: dict[str, list[Cut]] = {}
    for name, tower in select_towers(couplings, ratios).items():
        if not couplings[tower]:
            if name not in ratios:
                continue
            msg = (
                f"the tower {name!r} has no feed-forward layer to prune; `hfcompress inspect` shows what each tower has"
            )
            raise PruningError(msg)
        ratio = ratios[name].ffn if name in ratios else ratios["all"].ffn
        kept = kept_units((coupling.size for coupling in couplings[tower]), ratio, multiple_of)
        narrowed = [Cut(name, coupling, kept[coupling.size]) for coupling in couplings[tower]]
        cuts[name] = [cut for cut in narrowed if cut.keep < cut.coupling.size]
    if not any(cuts.values()):
        msg = (
            f"nothing would be removed: every size that these ratios leave rounds up to itself "
            f"(multiple_of: {multiple_of})"
        )
        raise PruningError(msg)
    return _fitted(config, shapes_of(model), cuts, frozenset(cuts) - frozenset(ratios))


def _fitted(
    config: PretrainedConfig,
    shapes: Mapping[str, tuple[int, ...]],
    cuts: Mapping[str, list[Cut]],
    optional: frozenset[str],
) -> PruningPlan:
    """Find the configuration of the pruned model.

    Where there is none for all the cuts, `optional` towers that stand in the way are left out; the plan tells which.

    Raises:
        PruningError: A tower that is not optional stands in the way, or nothing would be left to prune.
    """
    left: list[str] = []
    while True:
        chosen = {name: some for name, some in cuts.items() if name not in left}
        removals = {
            name: [Removal(cut.coupling, torch.arange(cut.keep)) for cut in some] for name, some in chosen.items()
        }
        wanted = slice_shapes(shapes, [removal for some in removals.values() for removal in some])
        fit = fit_config(config, wanted)
        in_the_way = {name for name in optional & removals.keys() if fit.wrong & sliced_parameters(removals[name])}
        if not in_the_way or not any(some for name, some in chosen.items() if name not in in_the_way):
            break
        left += sorted(in_the_way)
    fit.require_exact(wanted)
    removed = sum(math.prod(shapes[name]) - math.prod(shape) for name, shape in wanted.items())
    return PruningPlan(
        tuple(cut for some in chosen.values() for cut in some), fit.config, fit.edits, removed, tuple(left)
    )
