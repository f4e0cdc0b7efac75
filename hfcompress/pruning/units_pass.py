"""Removing attention heads and feed-forward units from the blocks of a model."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hfcompress.anatomy import meta_model, shapes_of
from hfcompress.errors import PruningError
from hfcompress.narrowing import record_in, with_record
from hfcompress.outputs import run
from hfcompress.probes import Probe, find_probes
from hfcompress.pruning import surgery
from hfcompress.pruning.allocation import (
    Place,
    by_rank,
    by_threshold,
    least_kept,
    place_of,
    spend,
    thinned,
)
from hfcompress.pruning.axes import AXIS_UNITS
from hfcompress.pruning.block_choice import relative_error
from hfcompress.pruning.passes import Outcome, Pass, Pruned
from hfcompress.pruning.plan import PruningPlan, find_cuts, fit_cuts, require_own_units
from hfcompress.pruning.proof import rebuilt_and_proven
from hfcompress.pruning.selection import Selection
from hfcompress.twin import count_flops, zero_twin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.contracts import Json
    from hfcompress.pruning.axes import Axis
    from hfcompress.pruning.passes import Workbench
    from hfcompress.pruning.plan import Cut
    from hfcompress.pruning.selection import Method

__all__ = ["Allocation", "Budget", "UnitsPass"]

_SHARES = (1 / 3, 2 / 3, 1.0)
"""Shares of what could go at which the sensitivity of a tower is measured."""
_ROUNDS = 12
"""Targets that are tried so that a budget is met by whole heads and multiples, and by no more than needed."""


@dataclass(frozen=True)
class Budget:
    """How much less a model has to be.

    Attributes:
        of: What is counted.
        less: Fraction of it that goes, in (0, 1).
    """

    of: Literal["parameters", "flops"]
    less: float


@dataclass(frozen=True)
class Allocation:
    """How what goes is split.

    Attributes:
        kind: "uniform": every layer of a tower loses alike; "global": one ranking across a tower's layers.
        threshold: Units below it go, but no more than the ratios say; `None` where the ratios alone say it.
        budget: Splits what goes over towers, the ratios being the most that may; `None` for the ratios themselves.
        multiple_of: Kept numbers of feed-forward units are rounded up to a multiple of this.
    """

    kind: Literal["uniform", "global"]
    threshold: float | None
    budget: Budget | None
    multiple_of: int

    @property
    def needs_weights(self) -> bool:
        """Whether the number of units that stay is only known once the weights are read."""
        return self.kind == "global" or self.threshold is not None or self.budget is not None


class UnitsPass(Pass):
    """Removes attention heads and feed-forward units.

    Args:
        towers: Tower name or `all` → axis → the fraction that goes.
        method: How units are chosen and made up for.
        allocation: How what goes is split.
    """

    def __init__(self, towers: Mapping[str, Mapping[Axis, float]], method: Method, allocation: Allocation) -> None:
        self._towers = towers
        self._method = method
        self._allocation = allocation

    def plan(self, config: PretrainedConfig) -> Outcome:
        """Settle what goes and find the configuration that says it; the most that may go, where weights decide."""
        model = meta_model(config)
        cuts = find_cuts(model, self._towers, self._allocation.multiple_of)
        plan = fit_cuts(config, shapes_of(model), cuts)
        outcome = _outcome(plan, plan.first_units)
        if not self._allocation.needs_weights:
            return outcome
        changes = tuple(f"at most: {change}; how much of it is decided on the weights" for change in outcome.changes)
        return Outcome(outcome.config, outcome.removed_parameters, changes, outcome.edits)

    def apply(self, model: PreTrainedModel, bench: Workbench) -> Pruned:
        """Choose and remove the units, layer after layer."""
        config = model.config
        meta = meta_model(config)
        cuts = find_cuts(meta, self._towers, self._allocation.multiple_of)
        require_own_units(model, cuts)
        cuts = self._allocated(model, cuts, bench)
        plan = fit_cuts(config, shapes_of(meta), cuts)
        selection = Selection.on(model, plan.cuts, self._method, bench.calibration(model), bench.seed)
        kept = selection.apply(plan.cuts, bench.progress)
        removals = plan.removals(kept)
        probes = find_probes(model, seed=bench.seed)
        state = surgery.slice_state(model.state_dict(), removals)
        surgery.mask(model, removals)
        pruned, difference = rebuilt_and_proven(model, plan.config_of(kept), state, probes)
        layers: list[Json] = [
            {"name": coupling.name, "axis": cut.axis, "before": cut.size, "after": cut.keep}
            for cut in plan.cuts
            for coupling in cut.couplings
        ]
        return Pruned(pruned, _outcome(plan, kept), difference, {"layers": layers})

    def _allocated(self, model: PreTrainedModel, cuts: tuple[Cut, ...], bench: Workbench) -> tuple[Cut, ...]:
        """Settle how many units of each layer stay.

        Raises:
            PruningError: A threshold or a budget cannot be kept, or nothing would be removed.
        """
        how = self._allocation
        scores = self._ranked(model, cuts, bench) if how.kind == "global" or how.threshold is not None else ()
        if how.budget is None:
            cuts = self._settled(cuts, scores)
        else:
            cuts = self._within_budget(model, cuts, scores, how.budget, bench)
        shrinking = _shrinking(cuts)
        if not shrinking:
            msg = f"nothing would be removed: every layer rounds up to what it has (multiple_of: {how.multiple_of})"
            raise PruningError(msg)
        return shrinking

    def _ranked(self, model: PreTrainedModel, cuts: tuple[Cut, ...], bench: Workbench) -> list[Tensor]:
        """Return how much each unit of each cut matters."""
        how = self._allocation
        selection = Selection.on(model, cuts, self._method, bench.calibration(model), bench.seed)
        least = [least_kept(cut, how.multiple_of) for cut in cuts]
        if how.threshold is not None:
            least = [0] * len(cuts) if self._method.importance != "obs" else [1] * len(cuts)
        return selection.rank(cuts, least, bench.progress)

    def _settled(self, cuts: tuple[Cut, ...], scores: Sequence[Tensor]) -> tuple[Cut, ...]:
        """Split what each tower and axis loses over its layers."""
        how = self._allocation
        if how.threshold is not None:
            is_uniform = how.kind == "uniform"
            return by_threshold(cuts, scores, how.threshold, how.multiple_of, is_uniform=is_uniform)
        return by_rank(cuts, scores, how.multiple_of) if how.kind == "global" else cuts

    def _within_budget(
        self, model: PreTrainedModel, cuts: tuple[Cut, ...], scores: Sequence[Tensor], budget: Budget, bench: Workbench
    ) -> tuple[Cut, ...]:
        """Split a budget over towers and axes so that least is lost, and meet it with whole heads and multiples.

        Raises:
            PruningError: All that may go is less than the budget asks for.
        """
        scale = _Scale.of(model.config, budget)
        found = self._settled(cuts, scores)
        if (most := scale.saving(found, is_fitted=True)) < budget.less:
            msg = (
                f"the budget asks for {budget.less:.1%} less {budget.of}, and all that `towers` allows to remove is "
                f"{most:.1%}; raise the ratios there"
            )
            raise PruningError(msg)
        curves, savings = self._curves(model, cuts, scale, bench)
        high = sum(savings.values())
        low = target = min(budget.less, high)
        for _ in range(_ROUNDS):
            trial = self._settled(thinned(cuts, spend(target, curves, savings), self._allocation.multiple_of), scores)
            if scale.saving(trial) < budget.less:
                low = target
            elif target == budget.less:
                return trial
            else:
                found, high = trial, target
            target = (low + high) / 2
        return found

    def _curves(
        self, model: PreTrainedModel, cuts: tuple[Cut, ...], scale: _Scale, bench: Workbench
    ) -> tuple[dict[Place, list[tuple[float, float]]], dict[Place, float]]:
        """Measure what the outputs lose when some of each tower and axis goes, and what all of it saves."""
        calibration = bench.calibration(model)
        batches = calibration.batches if calibration is not None else ()
        probes = [Probe("", dict(batch)) for batch in batches] or list(find_probes(model, seed=bench.seed))
        reference = [run(model, [probe]) for probe in probes]
        curves: dict[Place, list[tuple[float, float]]] = {}
        savings: dict[Place, float] = {}
        for place in dict.fromkeys(map(place_of, cuts)):
            here = [cut for cut in cuts if place_of(cut) == place]
            savings[place] = scale.saving(here)
            curves[place] = []
            for share in _SHARES:
                some = _shrinking(thinned(here, {place: share}, self._allocation.multiple_of))
                lost = self._lost(model, some, probes, reference, bench) if some else 0.0
                curves[place].append((share, lost))
        return curves, savings

    def _lost(
        self,
        model: PreTrainedModel,
        cuts: Sequence[Cut],
        probes: Sequence[Probe],
        reference: Sequence[Mapping[str, Tensor]],
        bench: Workbench,
    ) -> float:
        """Return how far the outputs are off when these units alone are gone: the mean relative error."""
        trial = copy.deepcopy(model)
        selection = Selection.on(trial, cuts, self._method, bench.calibration(trial), bench.seed)
        kept = selection.apply(cuts, bench.progress)
        surgery.mask(trial, [removal for cut, units in zip(cuts, kept, strict=True) for removal in cut.removals(units)])
        errors = [
            relative_error(expected, run(trial, [probe])) for probe, expected in zip(probes, reference, strict=True)
        ]
        return sum(errors) / len(errors)


@dataclass(frozen=True)
class _Scale:
    """Tells what cuts save of a model, in what a budget counts.

    Attributes:
        config: The model's configuration.
        counted: What is counted.
        shapes: Shape of each entry of the model's state dict.
        before: How much of it the model has.
    """

    config: PretrainedConfig
    counted: Literal["parameters", "flops"]
    shapes: Mapping[str, tuple[int, ...]]
    before: int

    @classmethod
    def of(cls, config: PretrainedConfig, budget: Budget) -> _Scale:
        """Count what the model has."""
        model = meta_model(config)
        shapes = shapes_of(model)
        before = model.num_parameters() if budget.of == "parameters" else count_flops(zero_twin(model))[""]
        return cls(config, budget.of, shapes, before)

    def saving(self, cuts: Sequence[Cut], *, is_fitted: bool = False) -> float:
        """Return the fraction that goes at least when all that these cuts take goes.

        Args:
            cuts: The cuts.
            is_fitted: Look for the configuration that says it, which takes long; else all shapes are recorded beside
                that of the source, which saves no more.
        """
        shrinking = _shrinking(cuts)
        if not shrinking:
            return 0.0
        if is_fitted:
            plan = fit_cuts(self.config, self.shapes, shrinking)
        else:
            earlier = record_in(self.config)
            stock = self.config if earlier is None else with_record(self.config, None)
            padded = tuple(replace(cut, padded=cut.axis == "heads") for cut in shrinking)
            plan = PruningPlan(padded, stock, (), frozenset(range(len(padded))), self.shapes, earlier)
        if self.counted == "parameters":
            return plan.removed_parameters / self.before
        return 1 - count_flops(zero_twin(meta_model(plan.config_of(plan.first_units))))[""] / self.before


def _shrinking(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    return tuple(cut for cut in cuts if cut.keep < cut.size)


def _outcome(plan: PruningPlan, kept: Sequence[torch.Tensor]) -> Outcome:
    """Say what goes: one sentence for each tower and axis."""
    found: dict[tuple[str, Axis, int, bool], list[int]] = {}
    for index, cut in enumerate(plan.cuts):
        key = (cut.tower, cut.axis, cut.size, index in plan.recorded)
        found.setdefault(key, []).extend([cut.keep] * len(cut.couplings))
    changes = tuple(
        f"{tower}: {before} → {_range(after)} {AXIS_UNITS[axis]} in {len(after)} layers"
        + (", which loads once hfcompress is imported: no stock configuration says it" if recorded else "")
        for (tower, axis, before, recorded), after in found.items()
    )
    return Outcome(plan.config_of(kept), plan.removed_parameters, changes, plan.edits)


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
