"""Refitting the linear map that reads pruned channels, in closed form, from the second moments of its inputs.

The map is y = W x + b with W of shape (out, channels); maps that read the same channels are stacked along `out`. All it
takes of the calibration data is Σ x xᵀ, Σ x and the number of rows, so memory does not grow with the data.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from hfcompress.errors import PruningError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CovarianceAccumulator",
    "centre",
    "complement",
    "damp",
    "fold_mean",
    "least_squares",
    "refit",
    "row_weights",
]

_LARGEST_RIDGE = 1.0
"""Where even this share of the mean variance gives no positive definite matrix, the matrix itself is broken."""
_TILE = 512
"""Rows of a covariance that are computed at once, up to its diagonal; the other half is their mirror image."""


_NOISE = 1e-13
"""Share of a channel's second moment below which its variance is what rounding leaves of nothing."""


class CovarianceAccumulator:
    """Sums Σ w x xᵀ, Σ w x and Σ w over rows x that come in batches, in float64.

    The weights w are one where none are given; then the sums are Σ x xᵀ, Σ x and the number of rows.

    What is multiplied are the distances from the mean of the first batch, so that channels which hardly vary around a
    large mean lose no digits.

    Rows are collected to chunks of a fixed size before they are multiplied, so that the speed does not depend on the
    size of the batches, nor the memory on their number: (chunk, channels) in float32 and one float64 matrix of
    (channels, channels).

    Args:
        channels: Number of channels, the length of a row.
        exact: Multiply in float64. Otherwise each chunk is multiplied in float32 and only the chunks are added in
            float64; that is twice as fast, and entries are off by up to 3e-7 of √(Hᵢᵢ Hⱼⱼ).
        chunk: Number of rows that are multiplied at once.
    """

    def __init__(self, channels: int, *, exact: bool = True, chunk: int = 2048) -> None:
        self.count = 0.0
        self._covariance = torch.zeros(channels, channels, dtype=torch.float64)
        self._total = torch.zeros(channels, dtype=torch.float64)
        self._buffer = torch.empty(chunk, channels, dtype=torch.float64 if exact else torch.float32)
        self._roots = self._buffer.new_empty(chunk)
        self._filled = 0
        self._shift: Tensor | None = None

    def add(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """Add a batch of activations.

        Args:
            rows: The activations, of shape (..., channels).
            weights: How much each row counts, at least 0, of shape (...); `None` for one each. See `row_weights`.
        """
        rows = rows.detach().reshape(-1, rows.shape[-1])
        if not len(rows):
            return
        shift = rows.mean(dim=0).to(self._buffer.dtype) if self._shift is None else self._shift
        self._shift = shift
        weights = rows.new_ones(len(rows)) if weights is None else weights.detach().reshape(-1)
        self.count += float(weights.sum(dtype=torch.float64))
        while len(rows):
            space = len(self._buffer) - self._filled
            taken, rows = rows.tensor_split([space])
            counted, weights = weights.tensor_split([space])
            here = slice(self._filled, self._filled + len(taken))
            self._roots[here] = counted.to(self._roots.dtype).sqrt()
            self._buffer[here] = taken
            self._buffer[here] -= shift
            self._buffer[here] *= self._roots[here, None]
            self._filled += len(taken)
            if self._filled == len(self._buffer):
                self._flush()

    @property
    def covariance(self) -> Tensor:
        """Σ x xᵀ over all rows so far: (channels, channels), float64."""
        self._flush()
        for rows in _tiles(len(self._covariance)):
            self._covariance[: rows.start, rows] = self._covariance[rows, : rows.start].T
        if self._shift is None:
            return self._covariance
        shift = self._shift.to(torch.float64)
        left = torch.stack([shift, self._total + self.count * shift], dim=1)
        return torch.addmm(self._covariance, left, torch.stack([self._total, shift]))

    @property
    def total(self) -> Tensor:
        """Σ x over all rows so far: (channels,), float64."""
        self._flush()
        return self._total if self._shift is None else self._total + self.count * self._shift.to(torch.float64)

    def _flush(self) -> None:
        """Add the collected rows to the sums."""
        rows, roots = self._buffer[: self._filled], self._roots[: self._filled]
        self._filled = 0
        for tile in _tiles(rows.shape[1]):
            self._covariance[tile, : tile.stop] += rows[:, tile].T @ rows[:, : tile.stop]
        self._total += roots.to(torch.float64) @ rows.to(torch.float64)


def _tiles(size: int) -> list[slice]:
    return [slice(start, min(start + _TILE, size)) for start in range(0, size, _TILE)]


def row_weights(sensitivity: Tensor, floor: float = 0.05) -> Tensor:
    """Return how much each row of activations should count in a refit: how much the model's result depends on it.

    The tokens of a sequence differ widely in that. In the last layer of a tower that pools one token, the others do
    not matter at all, and a refit that counts them all alike spends itself on them.

    Args:
        sensitivity: For each row, the squared norm of the gradient of the result with respect to what the refitted map
            puts out there, at least 0, of shape (...). With a random projection of the model's outputs as the result
            it is an unbiased estimate of ‖∂outputs/∂row‖² (Hutchinson).
        floor: Weight of a row that nothing depends on, where the mean row has a weight of 1 + `floor`.

    Returns:
        Float64 tensor of shape (...), at least `floor`.
    """
    energy = sensitivity.to(torch.float64)
    return energy / energy.mean().clamp_min(torch.finfo(torch.float64).tiny) + floor


def centre(covariance: Tensor, total: Tensor, count: float) -> Tensor:
    """Return Σ (x - x̄)(x - x̄)ᵀ: what is left to explain once a free bias has absorbed the means.

    It is exactly zero for channels that vary by no more than rounding does.

    Args:
        covariance: Σ x xᵀ, of shape (channels, channels), float64.
        total: Σ x, of shape (channels,), float64.
        count: Number of rows in both sums, or the sum of their weights; above 0.
    """
    spread = covariance - torch.outer(total, _mean(total, count))
    constant = spread.diagonal() <= _NOISE * covariance.diagonal()
    spread[constant, :] = 0.0
    spread[:, constant] = 0.0
    return spread


def damp(covariance: Tensor, ridge: float, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return a covariance made positive definite by a ridge, and its lower Cholesky factor, both in float64.

    A channel without any activation has a row and a column of zeros; it gets a one on the diagonal, so that it neither
    matters to the others nor spoils the factor. Where rounding leaves the matrix indefinite, the ridge grows tenfold
    until it is not.

    Args:
        covariance: Σ x xᵀ, of shape (channels, channels).
        ridge: Share of the mean of the diagonal that is added to it, at least 0.
        kept: Channels whose part of the matrix is factorised and must be positive definite; all by default.

    Raises:
        PruningError: The covariance is not finite, or not one of activations: no ridge makes it positive definite.
    """
    damped = covariance.to(torch.float64, copy=True)
    diagonal = damped.diagonal()
    if not bool(torch.isfinite(diagonal).all()):
        msg = (
            "the calibration activations are not finite; run the model on the calibration rows and look for inf or nan"
        )
        raise PruningError(msg)
    silent = silent_channels(covariance)
    damped[silent, :] = 0.0
    damped[:, silent] = 0.0
    scale = float(diagonal.sum()) / max(1, len(diagonal) - int(silent.sum()))
    plain = diagonal.clone()
    while True:
        diagonal.copy_(plain + ridge * scale)
        diagonal[silent] = 1.0
        factor, info = torch.linalg.cholesky_ex(damped if kept is None else damped[kept[:, None], kept])
        if int(info) == 0:
            return damped, factor
        ridge = max(10 * ridge, torch.finfo(torch.float64).eps)
        if ridge > _LARGEST_RIDGE:
            msg = "the calibration covariance is not positive semidefinite: it is no sum of x xᵀ, or it has overflowed"
            raise PruningError(msg)


def silent_channels(covariance: Tensor) -> Tensor:
    """Return which channels have no activation to speak of, as a mask of shape (channels,)."""
    energy = covariance.diagonal()
    return energy <= energy.max() * torch.finfo(torch.float64).eps if len(energy) else energy.bool()


def complement(kept: Tensor, size: int) -> Tensor:
    """Return the indices below `size` that are not in `kept`, in ascending order."""
    removed = torch.ones(size, dtype=torch.bool)
    removed[kept] = False
    return removed.nonzero().squeeze(1)


def refit(weight: Tensor, damped: Tensor, factor: Tensor, kept: Tensor) -> Tensor:
    """Return the weights W' on the kept channels that minimise tr((W - W') H (W - W')ᵀ), W' zero on the others.

    With a ridge in H this is ridge regression that pulls towards the weights as they are, not towards zero.

    Args:
        weight: W, of shape (out, channels), float64.
        damped: H with its ridge, of shape (channels, channels), float64.
        factor: Lower Cholesky factor of its part for the kept channels, as `damp` gives it.
        kept: Indices of the channels that stay.

    Returns:
        Float64 tensor of shape (out, kept).
    """
    removed = complement(kept, weight.shape[1])
    lost = damped[kept[:, None], removed] @ weight.index_select(1, removed).T
    return weight.index_select(1, kept) + torch.cholesky_solve(lost, factor).T


def least_squares(
    weight: Tensor, bias: Tensor | None, covariance: Tensor, total: Tensor, count: float, kept: Tensor, ridge: float
) -> tuple[Tensor, Tensor | None]:
    """Return the linear map of the kept channels that is nearest to the old one on the calibration activations.

    It minimises Σ ‖W x + b - W' x_kept - b'‖² + λ ‖W_kept - W'‖² over W', and over b' too where there is a bias.

    Args:
        weight: W, of shape (out, channels).
        bias: b, of shape (out,), or `None` where the map has none.
        covariance: Σ x xᵀ, of shape (channels, channels), float64.
        total: Σ x, of shape (channels,), float64.
        count: Number of rows in both sums, or the sum of their weights; above 0.
        kept: Indices of the channels that stay, of shape (kept,).
        ridge: λ as a share of the mean variance of a channel, at least 0.

    Returns:
        W' of shape (out, kept) and b' of shape (out,) or `None`, in the types of the weight and the bias.

    Raises:
        PruningError: There are no rows, or the activations are not finite.
    """
    exact = weight.to(torch.float64)
    spread = covariance if bias is None else centre(covariance, total, count)
    fitted = refit(exact, *damp(spread, ridge, kept), kept)
    if bias is None:
        return fitted.to(weight.dtype), None
    mean = _mean(total, count)
    shifted = bias.to(torch.float64) + exact @ mean - fitted @ mean[kept]
    return fitted.to(weight.dtype), shifted.to(bias.dtype)


def fold_mean(weight: Tensor, bias: Tensor, total: Tensor, count: float, kept: Tensor) -> Tensor:
    """Return the bias with the mean contribution of the removed channels added to it; the weights stay as they are.

    Args:
        weight: W, of shape (out, channels).
        bias: b, of shape (out,).
        total: Σ x, of shape (channels,), float64.
        count: Number of rows in the sum, or the sum of their weights; above 0.
        kept: Indices of the channels that stay.

    Raises:
        PruningError: There are no rows.
    """
    removed = complement(kept, weight.shape[1])
    lost = weight[:, removed].to(torch.float64) @ _mean(total, count)[removed]
    return (bias.to(torch.float64) + lost).to(bias.dtype)


def _mean(total: Tensor, count: float) -> Tensor:
    if not 0 < count < math.inf:
        msg = "compensation needs calibration activations, and there are none; give the step calibration rows"
        raise PruningError(msg)
    return total.to(torch.float64) / count
