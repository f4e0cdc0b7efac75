"""How much each unit of a coupling matters. Every importance is a pure function of what is known of the units.

An importance returns one score for each unit; the lowest are removed. Another distribution adds one through the
entry-point group `hfcompress.importances`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from hfcompress.pruning.compensation import centre
from hfcompress.pruning.obs import greedy_obs
from hfcompress.pruning.scores import activation_norm

__all__ = ["RIDGE", "Importance", "UnitStatistics", "activation", "magnitude", "obs", "random"]

RIDGE = 1e-3
"""Ridge of all closed-form fits, as a share of the mean variance of a channel."""


@dataclass(frozen=True)
class UnitStatistics:
    """What is known of the units of one coupling.

    Attributes:
        incoming: For each producing layer, the weights of each unit: (units, width * fan_in), a unit being `width`
            channels of the layer.
        outgoing: For each consuming layer, the weights of each unit: (units, width * fan_out).
        width: Channels of a unit in the consuming layers.
        covariance: Σ x xᵀ of the channels' activations on calibration rows, (channels, channels), unit after unit,
            float64; `None` where there are no rows or the forward pass does not reach the units.
        total: Σ x, (channels,), float64.
        count: Number of rows in both sums.
    """

    incoming: tuple[torch.Tensor, ...]
    outgoing: tuple[torch.Tensor, ...]
    width: int = 1
    covariance: torch.Tensor | None = None
    total: torch.Tensor | None = None
    count: float = 0

    @property
    def channels(self) -> torch.Tensor:
        """Channels of each unit in the covariance, of shape (units, width)."""
        return torch.arange(len(self.outgoing[0]) * self.width).view(-1, self.width)

    @property
    def readers(self) -> torch.Tensor:
        """The consuming layers as one map, of shape (all their outputs, channels)."""
        channels = self.channels.numel()
        return torch.cat([matrix.reshape(channels, -1).T for matrix in self.outgoing])


Importance: TypeAlias = Callable[[UnitStatistics, int, torch.Generator], torch.Tensor]
"""Takes the statistics, the number of units that will be removed, and a source of randomness."""


def magnitude(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return the Euclidean norm of all weights of each unit (Li et al. 2017, over the whole coupled group).

    Returns:
        Float tensor of shape (units,), at least 0.
    """
    del remove, generator
    squares = [matrix.float().square().sum(dim=1) for matrix in (*units.incoming, *units.outgoing)]
    return torch.stack(squares).sum(dim=0).sqrt()


def activation(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return the norm of each unit's activations times that of the weights that read it (Sun et al. 2024, Wanda).

    Units that the forward pass does not reach are scored by magnitude.

    Returns:
        Float tensor of shape (units,), at least 0.
    """
    if units.covariance is None:
        return magnitude(units, remove, generator)
    return activation_norm(units.readers, units.covariance, units.channels)


def obs(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return the place of each unit in the order of greedy optimal brain surgery (Hassibi & Stork 1993).

    At each step the unit goes whose loss, after the best refit of all that stay, adds least to the squared error of the
    layer's output. Units that the forward pass does not reach are scored by magnitude.

    Returns:
        Float tensor of shape (units,): the step at which the unit goes, infinity for those that stay.
    """
    if units.covariance is None or units.total is None:
        return magnitude(units, remove, generator)
    spread = centre(units.covariance, units.total, units.count)
    result = greedy_obs(units.readers, spread, units.channels, remove, RIDGE)
    scores = torch.full((len(units.channels),), torch.inf)
    scores[result.order] = torch.arange(remove, dtype=scores.dtype)
    return scores


def random(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return random scores: the baseline that every other importance has to beat.

    Returns:
        Float tensor of shape (units,), uniform in [0, 1).
    """
    del remove
    return torch.rand(units.outgoing[0].shape[0], generator=generator)
