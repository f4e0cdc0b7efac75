"""How much each unit of a coupling matters. Every importance is a pure function of the unit's weights.

An importance takes the weights of a coupling and returns one score for each unit; the lowest are removed. Another
distribution adds one through the entry-point group `hfcompress.importances`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

__all__ = ["Importance", "UnitWeights", "magnitude", "random"]


@dataclass(frozen=True)
class UnitWeights:
    """The weights that belong to the units of one coupling.

    Attributes:
        incoming: For each producing layer, its weights: (units, fan_in).
        outgoing: For each consuming layer, its weights: (units, fan_out).
    """

    incoming: tuple[torch.Tensor, ...]
    outgoing: tuple[torch.Tensor, ...]


Importance: TypeAlias = Callable[[UnitWeights, torch.Generator], torch.Tensor]


def magnitude(weights: UnitWeights, generator: torch.Generator) -> torch.Tensor:
    """Return the Euclidean norm of all weights of each unit (Li et al. 2017, over the whole coupled group).

    Returns:
        Float tensor of shape (units,), at least 0.
    """
    del generator
    squares = [matrix.float().square().sum(dim=1) for matrix in (*weights.incoming, *weights.outgoing)]
    return torch.stack(squares).sum(dim=0).sqrt()


def random(weights: UnitWeights, generator: torch.Generator) -> torch.Tensor:
    """Return random scores: the baseline that every other importance has to beat.

    Returns:
        Float tensor of shape (units,), uniform in [0, 1).
    """
    return torch.rand(weights.outgoing[0].shape[0], generator=generator)
