"""Greedy optimal brain surgeon: which units to remove, when every removal is followed by the best repair of the rest.

Hassibi & Stork, "Second order derivatives for network pruning: optimal brain surgeon" (1993), applied to one linear map
and whole units of its input channels, as in ZipLM (Kurtic et al. 2023) and SlimGPT (Ling et al. 2024).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.errors import PruningError
from hfcompress.pruning.compensation import complement, damp, silent_channels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["ObsResult", "greedy_obs"]

_PENDING = 64
"""Rank that the postponed updates reach before a matrix product brings the matrices up to date."""

_COMPACTION = 0.9
"""Rows of removed units are dropped once fewer than this share of the rows are of units that stay."""


@dataclass(frozen=True)
class ObsResult:
    """What greedy removal chose.

    Attributes:
        order: Units in the order in which they went, of shape (removed,).
        losses: How much each removal adds to the squared error Σ ‖ΔW x‖² (with its ridge), (removed,), float64.
    """

    order: Tensor
    losses: Tensor


@torch.no_grad()
def greedy_obs(weight: Tensor, covariance: Tensor, channels: Tensor, remove: int, ridge: float) -> ObsResult:
    """Remove units one by one, each time the one whose loss is least after the best refit of those that remain.

    The loss of the unit with the channels B is tr(W_B (H⁻¹_BB)⁻¹ W_Bᵀ). H is inverted once; a removal subtracts a
    term of the unit's rank from H⁻¹ and two from WᵀW, which together give every loss. Silent channels cost nothing, so
    units made of them go first. The refit itself, for those that stay, is `compensation.least_squares`.

    Args:
        weight: W of the map that reads the channels, of shape (out, channels).
        covariance: H = Σ x xᵀ of the channels, of shape (channels, channels); centred where the map has a bias that is
            refitted too.
        channels: The channels of each unit, of shape (units, unit_size); channels of no unit stay.
        remove: Number of units to remove, in [0, units].
        ridge: Share of the mean of H's diagonal that is added to it, at least 0.

    Raises:
        PruningError: `remove` is out of range, or the covariance is not one of finite activations.
    """
    units, unit_size = channels.shape
    if not 0 <= remove <= units:
        msg = f"cannot remove {remove} of {units} units"
        raise PruningError(msg)
    damped, factor = damp(covariance, ridge)
    exact = weight.to(torch.float64)
    heard = exact.masked_fill(silent_channels(covariance), 0.0)
    layout = torch.cat([channels.flatten(), complement(channels.flatten(), len(damped))])
    # cholesky_inverse is four times as slow; what comes is in columns
    inverse = torch.cholesky_solve(torch.eye(len(damped), dtype=torch.float64), factor).T
    del damped, factor
    state = _State(_permuted(inverse, layout), _permuted(heard.T @ heard, layout), units, unit_size)
    del inverse
    order = torch.empty(remove, dtype=torch.long)
    losses = torch.empty(remove, dtype=torch.float64)
    with _threads(1):  # a step is many small operations; threads that meet after each cost more than they bring
        for step in range(remove):
            order[step], losses[step] = state.remove_cheapest()
    return ObsResult(order, losses)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _permuted(matrix: Tensor, layout: Tensor) -> Tensor:
    if len(layout) == len(matrix) and torch.equal(layout, torch.arange(len(layout))):
        return matrix
    return matrix.index_select(0, layout).index_select(1, layout)


class _State:
    """H⁻¹ and WᵀW of the units that remain, with the latest updates still pending.

    The matrices are `inverse - uᵀu` and `gram - uᵀv - vᵀu`, where `u` and `v` hold one row for each removed channel
    since the last flush. Only the diagonal blocks, which the losses need, are always up to date.

    Unit i has the rows `i * unit_size` to `(i + 1) * unit_size`; the rows of channels of no unit come last.
    """

    def __init__(self, inverse: Tensor, gram: Tensor, units: int, unit_size: int) -> None:
        self.inverse, self.gram = inverse, gram
        self.unit_size = unit_size
        self.names = torch.arange(units)
        self.gone = torch.zeros(units, dtype=torch.bool)
        self.inverse_blocks = self._blocks(inverse)
        self.gram_blocks = self._blocks(gram)
        self.pending = torch.empty(2, max(_PENDING, unit_size), len(inverse), dtype=torch.float64)
        self.rank = 0
        self.threads = torch.get_num_threads()
        self.losses = self._losses()

    def remove_cheapest(self) -> tuple[int, float]:
        """Remove the unit of the least loss; return its number and the loss."""
        unit = int(self.losses.argmin())
        loss = float(self.losses[unit])
        if self.rank + self.unit_size > self.pending.shape[1]:
            unit = self._flush(unit)
        rows = slice(unit * self.unit_size, (unit + 1) * self.unit_size)
        u, v = self.pending[0, : self.rank], self.pending[1, : self.rank]
        inverse = torch.addmm(self.inverse[rows], u[:, rows].T, u, alpha=-1)
        gram = torch.addmm(self.gram[rows], u[:, rows].T, v, alpha=-1).addmm_(v[:, rows].T, u, alpha=-1)
        lower = torch.linalg.cholesky(inverse[:, rows])
        new_u = torch.linalg.solve_triangular(lower, inverse, upper=False)
        new_v = torch.linalg.solve_triangular(lower, gram, upper=False)
        energy = torch.linalg.solve_triangular(lower, new_v[:, rows].T, upper=False)
        new_v -= energy @ new_u / 2
        self.pending[:, self.rank : self.rank + self.unit_size] = torch.stack([new_u, new_v])
        self.rank += self.unit_size
        self.gone[unit] = True
        self._update_blocks(new_u, new_v)
        self.losses = self._losses()
        return int(self.names[unit]), loss

    def _blocks(self, matrix: Tensor) -> Tensor:
        """Return the diagonal block of each unit, of shape (units, unit_size, unit_size)."""
        units, size = len(self.names), self.unit_size
        square = matrix[: units * size, : units * size]
        return square.view(units, size, units, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()

    def _update_blocks(self, u: Tensor, v: Tensor) -> None:
        covered = len(self.names) * self.unit_size
        left = u[:, :covered].T.reshape(len(self.names), self.unit_size, -1)
        right = v[:, :covered].T.reshape(len(self.names), self.unit_size, -1)
        self.inverse_blocks -= left @ left.mT
        cross = left @ right.mT
        self.gram_blocks -= cross + cross.mT

    def _losses(self) -> Tensor:
        """Return the loss of each unit, of shape (units,), infinite for those that are gone."""
        if self.unit_size == 1:
            losses = (self.gram_blocks / self.inverse_blocks).flatten()
        else:
            here = ~self.gone
            losses = torch.empty(len(self.gone), dtype=torch.float64)
            solved = torch.linalg.solve(self.inverse_blocks[here], self.gram_blocks[here])
            losses[here] = solved.diagonal(dim1=1, dim2=2).sum(dim=1)
        return losses.clamp_min_(0.0).masked_fill_(self.gone, torch.inf)

    def _flush(self, unit: int) -> int:
        """Apply the pending updates, drop the rows of removed units where many are; return where `unit` is now."""
        here = (~self.gone).nonzero().squeeze(1)
        u, v = self.pending[0, : self.rank], self.pending[1, : self.rank]
        if len(here) < _COMPACTION * len(self.gone):
            size, covered = self.unit_size, len(self.gone) * self.unit_size
            rows = (here[:, None] * size + torch.arange(size)).flatten()
            rows = torch.cat([rows, torch.arange(covered, len(self.inverse))])
            self.inverse, self.gram = _permuted(self.inverse, rows), _permuted(self.gram, rows)
            u, v = u[:, rows], v[:, rows]
            self.names, self.gone = self.names[here], self.gone[here]
            self.inverse_blocks, self.gram_blocks = self.inverse_blocks[here], self.gram_blocks[here]
            self.pending = torch.empty(2, self.pending.shape[1], len(rows), dtype=torch.float64)
            unit = int((here == unit).nonzero())
        left, right = torch.cat([u, v]), torch.cat([v, u])
        with _threads(self.threads):
            self.inverse.addmm_(u.T, u, alpha=-1)
            self.gram.addmm_(left.T, right, alpha=-1)
        self.rank = 0
        return unit
