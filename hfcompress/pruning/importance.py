"""How much each unit of a coupling matters. Every importance is a pure function of what is known of the units.

An importance returns one score for each unit; the lowest are removed. All are on a scale that layers share: those that
add up over a layer are divided by the layer's mean, so 1 is a unit like any other, and `obs` is an error relative to
the layer's output. Another distribution adds one through the entry-point group `hfcompress.importances`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from hfcompress.pruning import scores
from hfcompress.pruning.compensation import centre
from hfcompress.pruning.obs import greedy_obs
from hfcompress.pruning.scores import activation_norm, gradient_norm

__all__ = ["RIDGE", "Importance", "UnitStatistics", "activation", "gradient", "magnitude", "obs", "random", "taylor"]

RIDGE = 1e-3
"""Ridge of all closed-form fits, as a share of the mean variance of a channel."""

_HAIR = 1e-12
"""Keeps units of one loss in the order in which they go."""


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
        gradients: For each producing and each consuming layer, Σ g of the weights of each unit over the calibration
            batches, in the shapes of `incoming` and `outgoing`; none where the importance needs none or the objective
            does not depend on the layer.
        gradient_powers: The same of |g| or g².
    """

    incoming: tuple[torch.Tensor, ...]
    outgoing: tuple[torch.Tensor, ...]
    width: int = 1
    covariance: torch.Tensor | None = None
    total: torch.Tensor | None = None
    count: float = 0
    gradients: tuple[torch.Tensor, ...] = ()
    gradient_powers: tuple[torch.Tensor, ...] = ()

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
    return _relative(torch.stack(squares).sum(dim=0).sqrt())


def activation(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return the norm of each unit's activations times that of the weights that read it (Sun et al. 2024, Wanda).

    Units that the forward pass does not reach are scored by magnitude.

    Returns:
        Float tensor of shape (units,), at least 0.
    """
    if units.covariance is None:
        return magnitude(units, remove, generator)
    return _relative(activation_norm(units.readers, units.covariance, units.channels))


def gradient(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return Σ |g| or Σ g² over all weights of each unit, g being the gradient of the model's own objective.

    Units that the objective does not depend on are scored by magnitude.

    Returns:
        Float tensor of shape (units,), at least 0.
    """
    if not units.gradient_powers:
        return magnitude(units, remove, generator)
    return _relative(gradient_norm(units.gradient_powers, 1))


def taylor(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return |Σ g w| over all weights of each unit (Molchanov et al. 2019, over the whole coupled group).

    Units that the objective does not depend on are scored by magnitude.

    Returns:
        Float tensor of shape (units,), at least 0.
    """
    if not units.gradients:
        return magnitude(units, remove, generator)
    return _relative(scores.taylor(units.gradients, (*units.incoming, *units.outgoing)))


gradient.needs_gradients = True  # type: ignore[attr-defined]
taylor.needs_gradients = True  # type: ignore[attr-defined]


def obs(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return what each unit costs when it goes in the order of greedy optimal brain surgery (Hassibi & Stork 1993).

    At each step the unit goes whose loss, after the best refit of all that stay, adds least to the squared error of the
    layer's output. Units that the forward pass does not reach are scored by magnitude.

    Returns:
        Float64 tensor of shape (units,): the largest loss of any step up to the one at which the unit goes, relative to
        the layer's squared output, and a hair more at each step; infinity for those that stay.
    """
    if units.covariance is None or units.total is None:
        return magnitude(units, remove, generator)
    spread = centre(units.covariance, units.total, units.count)
    readers = units.readers
    result = greedy_obs(readers, spread, units.channels, remove, RIDGE)
    energy = ((readers.double() @ spread) * readers.double()).sum().clamp_min(torch.finfo(torch.float64).tiny)
    losses = (result.losses / energy).cummax(dim=0).values if remove else result.losses
    steps = torch.arange(1, remove + 1, dtype=torch.float64)
    found = torch.full((len(units.channels),), torch.inf, dtype=torch.float64)
    found[result.order] = losses * (1 + _HAIR * steps) + torch.finfo(torch.float64).tiny * steps
    return found


def _relative(found: torch.Tensor) -> torch.Tensor:
    """Divide the scores of a layer by their mean."""
    return found / found.mean().clamp_min(torch.finfo(found.dtype).tiny)


def random(units: UnitStatistics, remove: int, generator: torch.Generator) -> torch.Tensor:
    """Return random scores: the baseline that every other importance has to beat.

    Returns:
        Float tensor of shape (units,), uniform in [0, 1).
    """
    del remove
    return torch.rand(units.outgoing[0].shape[0], generator=generator)
