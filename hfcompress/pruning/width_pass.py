"""Narrowing the residual stream of towers, attention heads in step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import meta_model, select_towers
from hfcompress.errors import PruningError
from hfcompress.pruning.axes import AXIS_UNITS
from hfcompress.pruning.passes import Outcome, Pass, Pruned
from hfcompress.pruning.plan import tower_couplings
from hfcompress.pruning.residual import apply_width, prove_width
from hfcompress.pruning.surgery import rebuild
from hfcompress.pruning.width import plan_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.pruning.passes import Workbench
    from hfcompress.pruning.selection import Method
    from hfcompress.pruning.width import WidthPlan

__all__ = ["WidthPass"]


class WidthPass(Pass):
    """Narrows residual streams, one tower after the other.

    Args:
        ratios: Tower name or `all` → the fraction of the channels that goes; `all` passes over towers that no stock
            configuration says narrower.
        method: How channels and heads are chosen and made up for.
        multiple_of: Kept widths are rounded up to a multiple of this.
    """

    def __init__(self, ratios: Mapping[str, float], method: Method, multiple_of: int) -> None:
        self._ratios = ratios
        self._method = method
        self._multiple_of = multiple_of

    def plan(self, config: PretrainedConfig) -> Outcome:
        """Settle how wide each tower stays."""
        return _outcome(*self._plans(config))

    def apply(self, model: PreTrainedModel, bench: Workbench) -> Pruned:
        """Choose the channels, refit what reads them, and build the narrower model."""
        plans, left = self._plans(model.config)
        generator = torch.Generator().manual_seed(bench.seed)
        difference = 0.0
        for _, plan in bench.progress.track(plans, len(plans), "towers"):
            calibration = bench.calibration(model)
            batches = None if calibration is None else calibration.batches
            narrowed = apply_width(model, plan, self._method.importance, self._method.compensate, batches, generator)
            model = rebuild(plan.config, narrowed.state)
            batch = None if batches is None else batches[0]
            difference = max(difference, prove_width(narrowed, model, plan, batch, bench.seed))
        return Pruned(model, _outcome(plans, left), difference, {"widths": {name: plan.keep for name, plan in plans}})

    def _plans(self, config: PretrainedConfig) -> tuple[list[tuple[str, WidthPlan]], list[str]]:
        """Return how each tower becomes narrower, each planned on what the ones before leave, and what cannot.

        Raises:
            PruningError: A named tower cannot become narrower, or none can.
        """
        plans: list[tuple[str, WidthPlan]] = []
        narrowed: set[str] = set()
        refused: list[str] = []
        for name in select_towers(tower_couplings(meta_model(config)), self._ratios):
            ratio = self._ratios.get(name, self._ratios.get("all", 0.0))
            if ratio == 0.0:
                continue
            tower = next(tower for tower in tower_couplings(meta_model(config)) if tower.name == name)
            try:
                plan = plan_width(config, tower, ratio, self._multiple_of)
            except PruningError as error:
                if name in self._ratios:
                    raise
                refused.append(f"{name}: left as wide as it is: {error}")
                continue
            if narrowed >= {edit.place for edit in plan.edits}:
                continue  # the tower shares its width with one that is narrower already
            narrowed |= {edit.place for edit in plan.edits}
            plans.append((name, plan))
            config = plan.config
        if not plans:
            msg = "\n".join(["no tower can be made narrower:", *refused])
            raise PruningError(msg)
        return plans, refused


def _outcome(plans: list[tuple[str, WidthPlan]], left: list[str]) -> Outcome:
    changes = []
    for name, plan in plans:
        heads = sorted({(cut.size, cut.keep) for cut in plan.heads})
        in_step = f", {', '.join(f'{before} → {after}' for before, after in heads)} attention heads" if heads else ""
        changes.append(f"{name}: {plan.width} → {plan.keep} {AXIS_UNITS['width']}{in_step}")
    return Outcome(
        plans[-1][1].config,
        sum(plan.removed_parameters for _, plan in plans),
        (*changes, *left),
        tuple(edit for _, plan in plans for edit in plan.edits),
    )
