"""Which units of a coupling stay, and what the layers that read them become."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from hfcompress.pruning.compensation import fold_mean, least_squares
from hfcompress.pruning.importance import RIDGE, UnitStatistics
from hfcompress.pruning.surgery import assign_consumer, consumer_weight, parameter_matrix, unit_rows, unit_weights
from hfcompress.registry import IMPORTANCES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from hfcompress.contracts import Progress
    from hfcompress.pruning.calibration import Calibration
    from hfcompress.pruning.coupling import Coupling, Member
    from hfcompress.pruning.objective import Gradients
    from hfcompress.pruning.plan import Cut
    from hfcompress.pruning.surgery import Removal

__all__ = ["Method", "Selection"]


@dataclass(frozen=True)
class Method:
    """How units are chosen and how the rest makes up for them.

    Attributes:
        importance: Name of the importance.
        compensate: "none", "bias" or "least_squares".
        power: What the importance `gradient` raises gradients to.
    """

    importance: str
    compensate: str
    power: Literal[1, 2]


@dataclass(frozen=True)
class Selection:
    """Chooses units of one model.

    What is measured on the source, gradients and how much each token counts, is measured when this is made.

    Attributes:
        model: The model; the layers that read the units are refitted in place, nothing changes its shape.
        method: How.
        calibration: Runs the calibration rows; `None` where nothing needs them.
        seed: Seeds the random importance, and what gradients are measured with.
    """

    model: PreTrainedModel
    method: Method
    calibration: Calibration | None
    seed: int
    gradients: dict[str, Gradients] = field(default_factory=dict)
    weights: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    @classmethod
    def on(
        cls, model: PreTrainedModel, cuts: Sequence[Cut], method: Method, calibration: Calibration | None, seed: int
    ) -> Selection:
        """Measure on the source what the method needs of it.

        Raises:
            DataError: The rows lack what the model's objective needs.
        """
        if calibration is None:
            return cls(model, method, None, seed)
        couplings = [coupling for cut in cuts for coupling in cut.couplings]
        gradients = {}
        if getattr(IMPORTANCES.get(method.importance), "needs_gradients", False):
            sides = {f"{member.module}.weight" for one in couplings for member in (*one.producers, *one.consumers)}
            gradients = calibration.gradients(sorted(sides), method.power, seed)
        # measured: it gains 2 to 8 points of recall with heads, and nothing with feed-forward units
        readers = [coupling.consumers[0].module for coupling in couplings if coupling.axis == "heads"]
        weights = calibration.sensitivities(readers, seed=seed) if readers else {}
        return cls(model, method, calibration, seed, gradients, weights)

    def apply(self, cuts: Sequence[Cut], progress: Progress) -> list[Tensor]:
        """Choose layer after layer, each on the inputs that the layers chosen before now produce.

        Returns:
            For each cut, the units that stay, in ascending order.
        """
        generator = torch.Generator().manual_seed(self.seed)
        chosen = []
        for cut in progress.track(cuts, len(cuts), "layers"):
            seen = [self._statistics(coupling) for coupling in cut.couplings]
            scores = self._scores(seen, cut.size - cut.keep, generator)
            kept = scores.topk(cut.keep).indices.sort().values
            for removal, statistics in zip(cut.removals(kept), seen, strict=True):
                for index, consumer in enumerate(removal.coupling.consumers):
                    # another reader may see the units later: pooled, say, for the gate of a squeeze
                    own = statistics if index == 0 else self._activations(statistics, removal.coupling, consumer)
                    self._compensate(removal, consumer, own)
            chosen.append(kept)
        return chosen

    def rank(self, cuts: Sequence[Cut], least: Sequence[int], progress: Progress) -> list[Tensor]:
        """Return how much each unit of each cut matters on the source, of shape (units,).

        Args:
            cuts: The cuts.
            least: For each, how many units stay at least.
            progress: Hears how far it is.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return [
            self._scores([self._statistics(coupling) for coupling in cut.couplings], cut.size - stay, generator)
            for cut, stay in progress.track(list(zip(cuts, least, strict=True)), len(cuts), "layers")
        ]

    def _scores(self, seen: Sequence[UnitStatistics], remove: int, generator: torch.Generator) -> Tensor:
        """Return how much each unit matters: the sum over the couplings that share the units."""
        importance = IMPORTANCES.get(self.method.importance)
        if len(seen) > 1:  # a sum needs the score of every unit, and some give none to those that would stay
            remove = len(seen[0].channels) - 1
        return torch.stack([importance(statistics, remove, generator).double() for statistics in seen]).sum(dim=0)

    def _statistics(self, coupling: Coupling) -> UnitStatistics:
        """Gather weights and, where there are calibration rows, gradients and activations of a coupling's units."""
        known = unit_weights(self.model, coupling)
        if self.calibration is None:
            return known
        sides = [f"{member.module}.weight" for member in (*coupling.producers, *coupling.consumers)]
        if all(side in self.gradients for side in sides):

            def total(member: Member) -> Tensor:
                return parameter_matrix(member, self.gradients[f"{member.module}.weight"].total)

            def power(member: Member) -> Tensor:
                return parameter_matrix(member, self.gradients[f"{member.module}.weight"].power)

            known = replace(known, gradients=sum(unit_rows(coupling, total), ()))
            known = replace(known, gradient_powers=sum(unit_rows(coupling, power), ()))
        return self._activations(known, coupling, coupling.consumers[0])

    def _activations(self, known: UnitStatistics, coupling: Coupling, consumer: Member) -> UnitStatistics:
        """Add what one of the layers that read the units sees of them."""
        if self.calibration is None:
            return known
        seen = self.calibration.covariance(consumer.module, self.weights.get(consumer.module))
        if not seen.count:
            return replace(known, covariance=None, total=None, count=0)
        here = consumer.channels(torch.arange(coupling.size)).flatten()
        return replace(known, covariance=seen.covariance[here][:, here], total=seen.total[here], count=seen.count)

    def _compensate(self, removal: Removal, consumer: Member, seen: UnitStatistics) -> None:
        """Refit a layer that reads the units."""
        if self.method.compensate == "none" or seen.covariance is None or seen.total is None:
            return
        kept = seen.channels[removal.kept].flatten()
        weight, bias = consumer_weight(self.model, consumer, removal.coupling.size)
        if self.method.compensate == "bias":
            shifted = None if bias is None else fold_mean(weight, bias, seen.total, seen.count, kept)
            fitted = weight[:, kept]
        else:
            fitted, shifted = least_squares(weight, bias, seen.covariance, seen.total, seen.count, kept, RIDGE)
        assign_consumer(self.model, consumer, removal, fitted, shifted)
