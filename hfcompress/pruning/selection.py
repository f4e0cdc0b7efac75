"""Which units of a coupling stay, and what the layers that read them become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from hfcompress.pruning.compensation import fold_mean, least_squares
from hfcompress.pruning.importance import RIDGE, UnitStatistics
from hfcompress.pruning.surgery import assign_consumer, consumer_weight, unit_weights
from hfcompress.registry import IMPORTANCES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfcompress.contracts import Progress
    from hfcompress.pruning.calibration import Calibration
    from hfcompress.pruning.coupling import Coupling
    from hfcompress.pruning.plan import Cut
    from hfcompress.pruning.surgery import Removal

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

    def apply(self, model: PreTrainedModel, cuts: tuple[Cut, ...], progress: Progress) -> list[torch.Tensor]:
        """Choose layer after layer, each on the inputs that the layers chosen before now produce.

        The layers that read the units are refitted in place; nothing changes its shape.

        Returns:
            For each cut, the units that stay, in ascending order.
        """
        generator = torch.Generator().manual_seed(self.seed)
        chosen = []
        for cut in progress.track(cuts, len(cuts), "layers"):
            scores = self.scores(model, cut, cut.size - cut.keep, generator)
            kept = scores.topk(cut.keep).indices.sort().values
            for removal in cut.removals(kept):
                self._compensate(model, removal, self._statistics(model, removal.coupling))
            chosen.append(kept)
        return chosen

    def scores(self, model: PreTrainedModel, cut: Cut, remove: int, generator: torch.Generator) -> torch.Tensor:
        """Return how much each unit of a cut matters, of shape (units,): the sum over the layers that share them."""
        importance = IMPORTANCES.get(self.importance)
        found = [importance(self._statistics(model, coupling), remove, generator) for coupling in cut.couplings]
        return torch.stack([scores.double() for scores in found]).sum(dim=0)

    def _statistics(self, model: PreTrainedModel, coupling: Coupling) -> UnitStatistics:
        """Gather weights and, where there are calibration rows, activations of the units of a coupling."""
        weights = unit_weights(model, coupling)
        if self.calibration is None:
            return weights
        consumer = coupling.consumers[0]
        seen = self.calibration.covariance(consumer.module)
        if not seen.count:
            return weights
        here = consumer.channels(torch.arange(coupling.size)).flatten()
        return replace(weights, covariance=seen.covariance[here][:, here], total=seen.total[here], count=seen.count)

    def _compensate(self, model: PreTrainedModel, removal: Removal, seen: UnitStatistics) -> None:
        """Refit every layer that reads the units."""
        if self.compensate == "none" or seen.covariance is None or seen.total is None:
            return
        kept = seen.channels[removal.kept].flatten()
        for consumer in removal.coupling.consumers:
            weight, bias = consumer_weight(model, consumer, removal.coupling.size)
            if self.compensate == "bias":
                shifted = None if bias is None else fold_mean(weight, bias, seen.total, seen.count, kept)
                fitted = weight[:, kept]
            else:
                fitted, shifted = least_squares(weight, bias, seen.covariance, seen.total, seen.count, kept, RIDGE)
            assign_consumer(model, consumer, removal, fitted, shifted)
