"""What the passes of the prune step have in common: each makes a smaller model of one, and proves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.contracts import Json, Progress
    from hfcompress.pruning.calibration import Calibration
    from hfcompress.pruning.config_edits import Edit

__all__ = ["Outcome", "Pass", "Pruned", "Workbench"]


@dataclass(frozen=True)
class Outcome:
    """What a pass makes of a model.

    Attributes:
        config: The configuration afterwards.
        removed_parameters: Number of parameters that go.
        changes: One sentence for each thing that changes.
        edits: How the configuration differs from the one before.
    """

    config: PretrainedConfig
    removed_parameters: int
    changes: tuple[str, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Pruned:
    """A model after a pass.

    Attributes:
        model: The model.
        outcome: What the pass did.
        difference: Largest difference of any output from that of the masked source, relative to the output's scale.
        detail: What the report keeps beside.
    """

    model: PreTrainedModel
    outcome: Outcome
    difference: float
    detail: dict[str, Json]


@dataclass(frozen=True)
class Workbench:
    """What a pass works with.

    Attributes:
        calibration: Makes the calibration rows ready for a model; gives `None` where there are none.
        progress: Hears how far the pass is.
        seed: Seeds everything random.
    """

    calibration: Callable[[PreTrainedModel], Calibration | None]
    progress: Progress
    seed: int


class Pass(ABC):
    """One kind of removal."""

    @abstractmethod
    def plan(self, config: PretrainedConfig) -> Outcome:
        """Say what the pass makes of a model of this configuration, without its weights.

        Raises:
            CheckpointError: A tower is not one of the model's.
            PruningError: The pass cannot be made.
        """

    @abstractmethod
    def apply(self, model: PreTrainedModel, bench: Workbench) -> Pruned:
        """Prune a model. What is left of the one that is given is of no use.

        Raises:
            PruningError: The pass cannot be made.
            ProofError: The pruned model is not the masked model.
        """
