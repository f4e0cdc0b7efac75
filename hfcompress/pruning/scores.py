"""Scores of the units of a coupling from what calibration measured; the units with the lowest go first.

A unit is a row of a matrix of shape (units, k), one matrix for each layer that shares the units, or it is a row of
channel indices of shape (units, unit_size) into the matrices of the map that reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["activation_norm", "gradient_norm", "taylor"]


def activation_norm(weight: Tensor, covariance: Tensor, channels: Tensor) -> Tensor:
    """Return the size of what each unit adds to the output, √(Σ_j H_jj ‖w_j‖²) over its channels.

    For units of one channel it is the norm of the activations times that of the outgoing weights, the score of Wanda
    (Sun et al. 2024) for a whole column. Correlations between channels do not count; `greedy_obs` is for that.

    Args:
        weight: W of the map that reads the channels, of shape (out, channels).
        covariance: H = Σ x xᵀ, of shape (channels, channels).
        channels: The channels of each unit, of shape (units, unit_size).

    Returns:
        Float64 tensor of shape (units,), at least 0.
    """
    energy = covariance.diagonal().to(torch.float64) * weight.to(torch.float64).square().sum(dim=0)
    return energy[channels].sum(dim=1).sqrt()


def gradient_norm(gradients: Sequence[Tensor], power: Literal[1, 2]) -> Tensor:
    """Return Σ |g| or Σ g² over all weights of each unit.

    Args:
        gradients: For each layer, the gradients of the weights of each unit, of shape (units, k).
        power: 1 for |g|, 2 for g².

    Returns:
        Float64 tensor of shape (units,), at least 0.
    """
    return torch.stack([matrix.to(torch.float64).abs().pow(power).sum(dim=1) for matrix in gradients]).sum(dim=0)


def taylor(gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return |Σ g w| over all weights of each unit: to first order, how much the loss changes when the unit goes.

    This is the root of the group criterion of Molchanov et al., "Importance estimation for neural network pruning"
    (2019), which ranks units alike.

    Args:
        gradients: For each layer, the gradients of the weights of each unit, of shape (units, k).
        weights: The weights themselves, in the same order and shapes.

    Returns:
        Float64 tensor of shape (units,), at least 0.
    """
    changes = [
        (gradient.to(torch.float64) * matrix.to(torch.float64)).sum(dim=1)
        for gradient, matrix in zip(gradients, weights, strict=True)
    ]
    return torch.stack(changes).sum(dim=0).abs()
