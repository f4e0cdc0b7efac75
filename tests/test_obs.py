"""What greedy optimal brain surgeon promises: the choice and the weights of the brute-force search, only faster."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from hfcompress.errors import PruningError
from hfcompress.pruning.compensation import complement, least_squares
from hfcompress.pruning.obs import ObsResult, greedy_obs


def correlated_rows(rows: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Return activations whose channels overlap, so that a removal changes the worth of the others."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, channels, generator=generator) @ torch.randn(channels, channels, generator=generator)
    return (mixed + torch.randn(rows, 1, generator=generator)).double()


def refitted(weight: torch.Tensor, damped: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the best weights that are zero outside `kept`, by the normal equations of the whole problem."""
    fitted = torch.zeros_like(weight)
    fitted[:, kept] = torch.linalg.solve(damped[kept][:, kept], (weight @ damped)[:, kept].T).T
    return fitted


def repaired(
    weight: torch.Tensor, covariance: torch.Tensor, channels: torch.Tensor, result: ObsResult, ridge: float
) -> torch.Tensor:
    """Return the weights as least squares refits them once the units of a result are gone, zero where they were."""
    kept = complement(channels[result.order].flatten(), weight.shape[1])
    fitted, _ = least_squares(weight, None, covariance, covariance.new_zeros(len(covariance)), 1, kept, ridge)
    whole = torch.zeros_like(weight)
    whole[:, kept] = fitted
    return whole


def loss(weight: torch.Tensor, fitted: torch.Tensor, damped: torch.Tensor) -> float:
    """Return tr(ΔW H ΔWᵀ)."""
    change = fitted - weight
    return float((change @ damped * change).sum())


def brute_force(
    weight: torch.Tensor, damped: torch.Tensor, channels: torch.Tensor, remove: int
) -> tuple[list[int], list[float], torch.Tensor]:
    """Try every unit at every step, each with a refit of all that would remain; return order, losses and weights."""
    order: list[int] = []
    totals = [0.0]
    for _ in range(remove):
        trials = {}
        for unit in set(range(len(channels))) - set(order):
            kept = complement(channels[[*order, unit]].flatten(), weight.shape[1])
            trials[unit] = loss(weight, refitted(weight, damped, kept), damped)
        order.append(min(trials, key=trials.__getitem__))
        totals.append(trials[order[-1]])
    kept = complement(channels[order].flatten(), weight.shape[1])
    return (
        order,
        [after - before for before, after in pairwise(totals)],
        refitted(weight, damped, kept),
    )


@pytest.mark.parametrize("unit_size", [1, 2, 5])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_result_is_that_of_the_brute_force_search(unit_size: int, *, shuffled: bool) -> None:
    """Order, losses and weights are those of a refit of every candidate at every step, for any layout of the units."""
    rows = correlated_rows(60, 20)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(7, 20, generator=generator, dtype=torch.float64)
    layout = torch.randperm(20, generator=generator) if shuffled else torch.arange(20)
    channels = layout.view(-1, unit_size)
    covariance = rows.T @ rows
    damped = covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(20)

    result = greedy_obs(weight, covariance, channels, len(channels) - 1, ridge=1e-3)
    got = repaired(weight, covariance, channels, result, ridge=1e-3)

    order, losses, fitted = brute_force(weight, damped, channels, len(channels) - 1)
    assert order == result.order.tolist()
    torch.testing.assert_close(result.losses, torch.tensor(losses, dtype=torch.float64), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(got, fitted, rtol=1e-9, atol=1e-9)


def one_by_one(weight: torch.Tensor, damped: torch.Tensor, remove: int) -> tuple[list[int], list[float]]:
    """Remove channels by the textbook: after each, the whole of W and of the inverse is updated at once."""
    weight, inverse = weight.clone(), torch.linalg.inv(damped)
    order: list[int] = []
    losses = []
    for _ in range(remove):
        worth = weight.square().sum(dim=0) / inverse.diagonal()
        worth[order] = torch.inf
        channel = int(worth.argmin())
        order.append(channel)
        losses.append(float(worth[channel]))
        column = inverse[:, channel] / inverse[channel, channel]
        weight -= torch.outer(weight[:, channel], column)
        inverse = inverse - torch.outer(column, inverse[channel])
        inverse[order, order] = 1.0
    return order, losses


def test_postponing_the_updates_changes_nothing() -> None:
    """Updates that wait, and rows that are dropped on the way, leave order and losses as the textbook has them."""
    rows = correlated_rows(600, 240)
    covariance = rows.T @ rows
    weight = torch.randn(11, 240, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    result = greedy_obs(weight, covariance, torch.arange(240).view(240, 1), 220, ridge=1e-4)
    order, losses = one_by_one(weight, covariance + 1e-4 * covariance.diagonal().mean() * torch.eye(240), 220)
    assert order == result.order.tolist()
    torch.testing.assert_close(result.losses, torch.tensor(losses, dtype=torch.float64), rtol=1e-7, atol=1e-7)


def test_the_losses_add_up_to_the_error_of_the_result() -> None:
    """Without a ridge, the losses sum to the squared error of the outputs on the calibration activations."""
    rows = correlated_rows(400, 64)
    weight = torch.randn(9, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    result = greedy_obs(weight, rows.T @ rows, torch.arange(64).view(16, 4), 9, ridge=0.0)
    fitted = repaired(weight, rows.T @ rows, torch.arange(64).view(16, 4), result, ridge=0.0)
    torch.testing.assert_close(result.losses.sum(), (rows @ (fitted - weight).T).square().sum())


def test_removed_channels_are_zero_and_the_type_stays() -> None:
    """The weights come back in their shape and type, zero exactly where a unit was removed."""
    rows = correlated_rows(100, 12)
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(4)).bfloat16()
    result = greedy_obs(weight, rows.T @ rows, torch.arange(12).view(6, 2), 2, ridge=1e-4)
    fitted = repaired(weight, rows.T @ rows, torch.arange(12).view(6, 2), result, ridge=1e-4)
    empty = (fitted == 0).all(dim=0).nonzero().flatten()
    assert fitted.dtype == torch.bfloat16
    assert sorted(empty.tolist()) == sorted(torch.arange(12).view(6, 2)[result.order].flatten().tolist())


def test_silent_channels_go_first_at_no_loss() -> None:
    """Channels that are never active cost nothing whatever their weights, and a silent one that stays is left alone."""
    rows = correlated_rows(100, 12)
    rows[:, [2, 7, 9]] = 0.0
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weight[:, [2, 7, 9]] *= 1e6
    result = greedy_obs(weight, rows.T @ rows, torch.arange(12).view(12, 1), 2, ridge=1e-4)
    fitted = repaired(weight, rows.T @ rows, torch.arange(12).view(12, 1), result, ridge=1e-4)
    assert result.order.tolist() == [2, 7]
    assert result.losses.tolist() == [0.0, 0.0]
    torch.testing.assert_close(fitted[:, [0, 1, 3, 9]], weight[:, [0, 1, 3, 9]])


def test_activations_that_are_all_zero_are_no_error() -> None:
    """A layer that never fires can be pruned: everything in it costs nothing."""
    result = greedy_obs(torch.ones(3, 6), torch.zeros(6, 6), torch.arange(6).view(6, 1), 4, ridge=1e-4)
    assert result.order.tolist() == [0, 1, 2, 3]
    assert result.losses.tolist() == [0.0] * 4


def test_fewer_rows_than_channels_are_enough() -> None:
    """A singular covariance is no error even without a ridge, and what others imply goes at next to no loss."""
    rows = correlated_rows(10, 40)
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    result = greedy_obs(weight, rows.T @ rows, torch.arange(40).view(40, 1), 30, ridge=0.0)
    fitted = repaired(weight, rows.T @ rows, torch.arange(40).view(40, 1), result, ridge=0.0)
    error = (rows @ (fitted - weight).T).norm() / (rows @ weight.T).norm()
    assert error < 1e-4


def test_it_beats_magnitude_with_the_same_refit() -> None:
    """At the same number of units, and both refitted, what the search keeps explains more than the largest weights."""
    rows = correlated_rows(500, 64)
    covariance = rows.T @ rows
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    result = greedy_obs(weight, covariance, torch.arange(64).view(64, 1), 48, ridge=0.0)
    fitted = repaired(weight, covariance, torch.arange(64).view(64, 1), result, ridge=0.0)
    largest = refitted(weight, covariance, weight.norm(dim=0).topk(16).indices)
    assert loss(weight, fitted, covariance) < 0.9 * loss(weight, largest, covariance)


def test_removing_nothing_leaves_the_weights() -> None:
    """With nothing to remove the weights come back as they are."""
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(8))
    result = greedy_obs(weight, torch.eye(12), torch.arange(12).view(12, 1), 0, ridge=1e-4)
    fitted = repaired(weight, torch.eye(12), torch.arange(12).view(12, 1), result, ridge=1e-4)
    torch.testing.assert_close(fitted, weight)
    assert result.order.numel() == 0


def test_more_than_there_is_cannot_be_removed() -> None:
    """A number of units that the map does not have is an error that names both."""
    with pytest.raises(PruningError, match="cannot remove 5 of 4 units"):
        greedy_obs(torch.ones(3, 4), torch.eye(4), torch.arange(4).view(4, 1), 5, ridge=1e-4)
