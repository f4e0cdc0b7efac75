"""Removing whole blocks from the towers of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfcompress.anatomy import meta_model, select_towers, shapes_of
from hfcompress.errors import CheckpointError, PruningError
from hfcompress.narrowing import NarrowRecord, record_in, with_record
from hfcompress.probes import find_probes
from hfcompress.pruning.axes import AXIS_UNITS
from hfcompress.pruning.block_choice import Pattern, block_pattern, choose_blocks, take_out
from hfcompress.pruning.config_surgery import fit_config
from hfcompress.pruning.depth import drop_blocks, find_stacks
from hfcompress.pruning.layer_fields import indexed_blocks
from hfcompress.pruning.passes import Outcome, Pass, Pruned
from hfcompress.pruning.plan import tower_couplings
from hfcompress.pruning.proof import rebuilt_and_proven
from hfcompress.pruning.sharing import require_own
from hfcompress.pruning.skipping import skip_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.anatomy import Tower
    from hfcompress.contracts import Json
    from hfcompress.pruning.depth import Stack
    from hfcompress.pruning.passes import Workbench

__all__ = ["DepthPass", "Shortening", "fit_depth", "last_blocks", "tower_stacks"]


@dataclass(frozen=True)
class Shortening:
    """A stack of a tower, and the blocks of it that stay."""

    tower: str
    stack: Stack
    kept: tuple[int, ...]

    @property
    def gone(self) -> tuple[int, ...]:
        """The blocks that go."""
        return tuple(block for block in range(self.stack.size) if block not in self.kept)


def tower_stacks(model: PreTrainedModel) -> dict[Tower, tuple[Stack, ...]]:
    """Return the stacks of blocks of each tower of a model on the meta device."""
    towers = list(tower_couplings(model))
    found: dict[Tower, list[Stack]] = {tower: [] for tower in towers}
    for stack in find_stacks(model):
        around = [tower for tower in towers if not tower.module or f"{stack.name}.".startswith(f"{tower.module}.")]
        if around:
            found[max(around, key=lambda tower: len(tower.module))].append(stack)
    return {tower: tuple(stacks) for tower, stacks in found.items()}


class DepthPass(Pass):
    """Removes whole blocks.

    Args:
        ratios: Tower name or `all` → the fraction of its blocks that goes; `all` passes over towers without any, and
            over those that no configuration can say shorter.
    """

    def __init__(self, ratios: Mapping[str, float]) -> None:
        self._ratios = ratios

    def plan(self, config: PretrainedConfig) -> Outcome:
        """Settle how many blocks go; which ones is settled on the weights."""
        model = meta_model(config)
        return fit_depth(config, model, *self._shortenings(config, model, last_blocks))

    def apply(self, model: PreTrainedModel, bench: Workbench) -> Pruned:
        """Choose the blocks that change the outputs least, and build the model without them."""
        config = model.config
        calibration = bench.calibration(model)
        batches = calibration.batches if calibration is not None else ()

        def choose(stack: Stack, remove: int) -> tuple[int, ...]:
            kept = choose_blocks(model, stack, remove, batches, *_bounds(config, stack, stack.size - remove))
            skip_blocks(model, stack, sorted(set(range(stack.size)) - set(kept)))
            return kept

        meta = meta_model(config)
        planned, asked = self._shortenings(config, meta, last_blocks)
        chosen = [
            Shortening(one.tower, one.stack, choose(one.stack, len(one.gone)))
            for one in bench.progress.track(planned, len(planned), "stacks")
        ]
        outcome = fit_depth(config, meta, chosen, asked)
        probes = find_probes(model, seed=bench.seed)
        state = model.state_dict()
        for one in chosen:
            state = drop_blocks(state, one.stack, one.kept)
        pruned, difference = rebuilt_and_proven(model, outcome.config, state, probes)
        detail: dict[str, Json] = {
            "blocks": {one.stack.name: list(one.gone) for one in chosen},
            "block_counts": {
                one.stack.name: {"before": one.stack.size, "after": one.stack.size - len(one.gone)} for one in chosen
            },
        }
        return Pruned(pruned, outcome, difference, detail)

    def _shortenings(
        self, config: PretrainedConfig, model: PreTrainedModel, choose: Callable[..., tuple[int, ...]]
    ) -> tuple[list[Shortening], list[Shortening]]:
        """Return what goes from each tower, and what was asked for.

        Raises:
            PruningError: A named tower has no blocks that can go, or nothing would be removed from it or at all.
        """
        towers = tower_stacks(model)
        found: dict[str, list[Shortening]] = {}
        for name, tower in select_towers(towers, self._ratios).items():
            ratio = self._ratios.get(name, self._ratios.get("all", 0.0))
            if not towers[tower] and name in self._ratios and ratio > 0:
                msg = f"the tower {name!r} has no stack of blocks; `hfcompress inspect` shows what each tower has"
                raise PruningError(msg)
            removed = [(stack, math.floor(stack.size * ratio)) for stack in towers[tower]]
            found[name] = [
                Shortening(name, stack, choose(config, stack, remove)) for stack, remove in removed if remove
            ]
            if name in self._ratios and ratio > 0 and not found[name]:
                sizes = " and ".join(str(stack.size) for stack in towers[tower])
                msg = (
                    f"no block would be removed from the tower {name!r}: {ratio:g} of its {sizes} blocks is less than "
                    f"one; raise the ratio or leave the axis out"
                )
                raise PruningError(msg)
        if not any(found.values()):
            sizes = ", ".join(f"{tower.name} {stack.size}" for tower, stacks in towers.items() for stack in stacks)
            msg = f"no block would be removed: these ratios are less than one block of any stack ({sizes})"
            raise PruningError(msg)
        asked = [one for some in found.values() for one in some]
        return self._possible(config, model, found), asked

    def _possible(
        self, config: PretrainedConfig, model: PreTrainedModel, found: Mapping[str, Sequence[Shortening]]
    ) -> list[Shortening]:
        """Return what some configuration can say; what `all` alone asks for may be left out."""
        everything = [one for some in found.values() for one in some]
        try:
            fit_depth(config, model, everything)
        except (PruningError, CheckpointError):
            optional = [name for name, some in found.items() if some and name not in self._ratios]
            for name in optional:
                rest = [one for one in everything if one.tower != name]
                try:
                    fit_depth(config, model, [one for one in everything if one.tower == name])
                except (PruningError, CheckpointError):
                    everything = rest
            fit_depth(config, model, everything)
        return everything


def fit_depth(
    config: PretrainedConfig,
    model: PreTrainedModel,
    shortened: Sequence[Shortening],
    asked: Sequence[Shortening] = (),
) -> Outcome:
    """Find the configuration that says what stays of some stacks.

    Args:
        config: The configuration of the source; left as it is.
        model: Its model on the meta device.
        shortened: What stays.
        asked: What was asked for: what of it is not among `shortened` is told to be left as it is.

    Raises:
        PruningError: There is none, or nothing is left to remove.
    """
    if not shortened:
        msg = "no block can be removed: no stock configuration says any of these stacks shorter"
        raise PruningError(msg)
    for one in shortened:
        inside = [name for name, _ in model.named_parameters() if name.startswith(f"{one.stack.name}.")]
        require_own(model, inside, f"removing blocks of the tower {one.tower!r}", one.stack.name)
    earlier = record_in(config)
    stock = config if earlier is None else with_record(config, None)
    before = shapes_of(meta_model(stock))
    wanted = before
    for one in shortened:
        wanted = drop_blocks(wanted, one.stack, one.kept)
    fit = fit_config(stock, wanted, [(one.stack, one.kept) for one in shortened])
    fit.require_exact(wanted)
    kept_names = shapes_of(model)
    left = kept_names
    modules = {} if earlier is None else dict(earlier.modules)
    for one in shortened:
        left = drop_blocks(left, one.stack, one.kept)
        modules = drop_blocks(modules, one.stack, one.kept)
    final = fit.config if earlier is None else with_record(fit.config, NarrowRecord(modules=modules))
    removed = _count(kept_names) - _count(left)
    done = {one.tower for one in shortened}
    changes = tuple(
        f"{one.tower}: {one.stack.size} → {len(one.kept)} {AXIS_UNITS['layers']}"
        + (f" in {one.stack.name}" if sum(other.tower == one.tower for other in shortened) > 1 else "")
        for one in shortened
    ) + tuple(
        f"{name}: left as deep as it is, for no stock configuration can say it shorter"
        for name in dict.fromkeys(one.tower for one in asked)
        if name not in done
    )
    return Outcome(final, removed, changes, fit.edits)


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _bounds(config: PretrainedConfig, stack: Stack, size: int) -> tuple[frozenset[int], Pattern]:
    return indexed_blocks(config, stack), block_pattern(config, stack, size)


def last_blocks(config: PretrainedConfig, stack: Stack, remove: int) -> tuple[int, ...]:
    """Choose the last blocks that can go: a choice without weights.

    Returns:
        The blocks that stay, ascending.

    Raises:
        PruningError: So many cannot go.
    """
    return take_out(stack, remove, *_bounds(config, stack, stack.size - remove), lambda can_go, _: can_go[-1])
