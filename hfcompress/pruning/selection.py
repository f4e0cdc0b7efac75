"""Which units of a coupling stay, and what the layers that read them become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.pruning.compensation import fold_mean, least_squares
from hfcompress.pruning.importance import RIDGE, UnitStatistics
from hfcompress.pruning.surgery import Removal, assign_consumer, consumer_weight, unit_weights
from hfcompress.registry import IMPORTANCES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfcompress.contracts import Progress
    from hfcompress.pruning.calibration import Calibration
    from hfcompress.pruning.plan import Cut

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """How units are chosen and how the rest makes up for them.

    Attributes:
        importance: Name of the importance.
        compensate: "none", "bias" or "least_squares".
        calibration: Runs the calibration rows; `None` where neither needs them.
        seed: Seeds the random importance.
    """

    importance: str
    compensate: str
    calibration: Calibration | None
    seed: int

    def apply(self, model: PreTrainedModel, cuts: tuple[Cut, ...], progress: Progress) -> list[Removal]:
        """Choose layer after layer, each on the inputs that the layers chosen before now produce.

        The layers that read the units are refitted in place; nothing changes its shape.
        """
        importance = IMPORTANCES.get(self.importance)
        generator = torch.Generator().manual_seed(self.seed)
        removals = []
        for cut in progress.track(cuts, len(cuts), "layers"):
            statistics = self._statistics(model, cut)
            scores = importance(statistics, cut.coupling.size - cut.keep, generator)
            removal = Removal(cut.coupling, scores.topk(cut.keep).indices.sort().values)
            self._compensate(model, removal, statistics)
            removals.append(removal)
        return removals

    def _statistics(self, model: PreTrainedModel, cut: Cut) -> UnitStatistics:
        """Gather weights and, where there are calibration rows, activations of the units of a coupling."""
        weights = unit_weights(model, cut.coupling)
        if self.calibration is None:
            return weights
        consumer = cut.coupling.consumers[0]
        seen = self.calibration.covariance(consumer.module)
        if not seen.count:
            return weights
        here = slice(consumer.offsets[0], consumer.offsets[0] + cut.coupling.size)
        return UnitStatistics(
            weights.incoming, weights.outgoing, seen.covariance[here, here], seen.total[here], seen.count
        )

    def _compensate(self, model: PreTrainedModel, removal: Removal, seen: UnitStatistics) -> None:
        """Refit every layer that reads the units."""
        if self.compensate == "none" or seen.covariance is None or seen.total is None:
            return
        for consumer in removal.coupling.consumers:
            weight, bias = consumer_weight(model, consumer, removal.coupling.size)
            kept = removal.kept
            if self.compensate == "bias":
                shifted = None if bias is None else fold_mean(weight, bias, seen.total, seen.count, kept)
                fitted = weight[:, kept]
            else:
                fitted, shifted = least_squares(weight, bias, seen.covariance, seen.total, seen.count, kept, RIDGE)
            assign_consumer(model, consumer, removal, fitted, shifted)
