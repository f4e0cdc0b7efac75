"""What compensation promises: the closed form is the least squares solution on the rows themselves."""

from __future__ import annotations

import pytest
import torch

from hfcompress.errors import PruningError
from hfcompress.pruning.compensation import (
    CovarianceAccumulator,
    centre,
    complement,
    damp,
    fold_mean,
    least_squares,
    row_weights,
)

KEPT = torch.tensor([0, 3, 4, 8])
RIDGE = 1e-2


def activations(rows: int = 200, channels: int = 10) -> torch.Tensor:
    """Return correlated activations with means far from zero."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(rows, channels, generator=generator) @ torch.randn(channels, channels, generator=generator)
    return mixed.double() + torch.arange(channels)


def linear_map(channels: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight of shape (6, channels) and a bias of shape (6,)."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(6, channels, generator=generator, dtype=torch.float64),
        torch.randn(6, generator=generator, dtype=torch.float64),
    )


def sums(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return Σ x xᵀ, Σ x and the number of rows."""
    return rows.T @ rows, rows.sum(dim=0), len(rows)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_add_up_to_the_sums_over_all_rows(batch: int, *, exact: bool) -> None:
    """Sums are the same for any size of the batches, whether it divides the chunk or exceeds it."""
    rows = activations().float()
    accumulator = CovarianceAccumulator(10, exact=exact, chunk=16)
    for part in rows.split(batch):
        accumulator.add(part)
    tolerance = 1e-12 if exact else 1e-6
    torch.testing.assert_close(accumulator.covariance, rows.double().T @ rows.double(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(accumulator.total, rows.double().sum(dim=0), rtol=tolerance, atol=20 * tolerance)
    assert accumulator.count == 200


def test_rows_after_a_reading_still_count() -> None:
    """Reading the sums early changes nothing; tokens of a batch are rows."""
    tokens = activations(60).float().view(3, 20, 10)
    accumulator = CovarianceAccumulator(10, exact=True)
    accumulator.add(tokens[:2])
    assert accumulator.covariance.shape == (10, 10)
    accumulator.add(tokens[2:])
    rows = tokens.flatten(0, 1).double()
    torch.testing.assert_close(accumulator.covariance, rows.T @ rows)
    assert accumulator.count == 60


def test_a_weight_counts_as_that_many_rows() -> None:
    """A row of weight k adds what k copies of it add, and one of weight zero adds nothing."""
    rows = activations(50).float()
    copies = torch.arange(50) % 4
    weighted = CovarianceAccumulator(10, chunk=16)
    weighted.add(rows, copies)
    repeated = CovarianceAccumulator(10, chunk=16)
    repeated.add(rows.repeat_interleave(copies, dim=0))
    torch.testing.assert_close(weighted.covariance, repeated.covariance)
    torch.testing.assert_close(weighted.total, repeated.total)
    assert weighted.count == pytest.approx(repeated.count)


def test_rows_weigh_by_what_depends_on_them() -> None:
    """The mean row weighs one above the floor, a row without any effect the floor, twice the gradient four times."""
    gradients = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[6.0, 8.0], [0.0, 5.0]]])
    weights = row_weights(gradients.square().sum(dim=-1), floor=0.5) - 0.5
    torch.testing.assert_close(weights * 37.5, torch.tensor([[0.0, 25.0], [100.0, 25.0]], dtype=torch.float64))
    assert row_weights(torch.zeros(3), floor=0.5).tolist() == [0.5] * 3


def test_with_a_bias_the_fit_is_that_of_the_rows_with_a_constant() -> None:
    """W' and b' minimise the error on the rows plus the ridge on the change of the weights, by one stacked lstsq."""
    rows = activations()
    weight, bias = linear_map()
    covariance, total, count = sums(rows)
    strength = (RIDGE * centre(covariance, total, count).diagonal().mean()).sqrt()
    kept = rows[:, KEPT]
    design = torch.cat(
        [torch.cat([kept, torch.ones(200, 1)], dim=1), torch.cat([strength * torch.eye(4), torch.zeros(4, 1)], dim=1)]
    )
    target = torch.cat([rows @ weight.T + bias, strength * weight[:, KEPT].T])
    expected = torch.linalg.lstsq(design, target).solution.T

    fitted, shifted = least_squares(weight, bias, covariance, total, count, KEPT, RIDGE)

    torch.testing.assert_close(fitted, expected[:, :4], rtol=1e-8, atol=1e-8)
    assert shifted is not None
    torch.testing.assert_close(shifted, expected[:, 4], rtol=1e-8, atol=1e-8)


def test_without_a_bias_the_fit_is_that_of_the_plain_rows() -> None:
    """A map without bias gets none, and its weights carry the means as well as they can."""
    rows = activations()
    weight, _ = linear_map()
    covariance, total, count = sums(rows)
    strength = (RIDGE * covariance.diagonal().mean()).sqrt()
    design = torch.cat([rows[:, KEPT], strength * torch.eye(4)])
    target = torch.cat([rows @ weight.T, strength * weight[:, KEPT].T])

    fitted, shifted = least_squares(weight, None, covariance, total, count, KEPT, RIDGE)

    assert shifted is None
    torch.testing.assert_close(fitted, torch.linalg.lstsq(design, target).solution.T, rtol=1e-8, atol=1e-8)


def test_keeping_everything_changes_nothing() -> None:
    """The ridge pulls towards the weights as they are, so a fit that loses nothing gives them back."""
    weight, bias = linear_map()
    fitted, shifted = least_squares(weight, bias, *sums(activations()), torch.arange(10), ridge=0.5)
    torch.testing.assert_close(fitted, weight)
    torch.testing.assert_close(shifted, bias)


def test_channels_that_the_kept_ones_imply_are_removed_without_loss() -> None:
    """Copies and constants among the removed channels are made up for exactly."""
    rows = activations()
    rows[:, 1] = 2 * rows[:, 0] - rows[:, 3]
    rows[:, 2] = 5.0
    weight, bias = linear_map()
    kept = complement(torch.tensor([1, 2]), 10)
    fitted, shifted = least_squares(weight, bias, *sums(rows), kept, ridge=1e-12)
    assert shifted is not None
    torch.testing.assert_close(rows[:, kept] @ fitted.T + shifted, rows @ weight.T + bias, rtol=1e-6, atol=1e-6)


def test_silent_channels_do_not_spoil_the_fit() -> None:
    """A kept channel without activations keeps its weights, and the others are fitted as if it were not there."""
    rows = activations()
    rows[:, 4] = 0.0
    weight, bias = linear_map()
    fitted, shifted = least_squares(weight, bias, *sums(rows), KEPT, ridge=1e-12)
    audible = torch.tensor([0, 3, 8])
    design = torch.cat([rows[:, audible], torch.ones(200, 1)], dim=1)
    expected = torch.linalg.lstsq(design, rows @ weight.T + bias).solution.T
    torch.testing.assert_close(fitted[:, [0, 1, 3]], expected[:, :3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fitted[:, 2], weight[:, 4])
    assert shifted is not None


def test_types_stay() -> None:
    """Weights and biases come back in their own types."""
    weight, bias = linear_map()
    fitted, shifted = least_squares(weight.half(), bias.float(), *sums(activations()), KEPT, RIDGE)
    assert shifted is not None
    assert (fitted.dtype, shifted.dtype) == (torch.float16, torch.float32)


def test_folding_the_mean_keeps_the_mean_output() -> None:
    """With the mean of the removed channels in the bias, the mean output is what it was."""
    rows = activations()
    weight, bias = linear_map()
    folded = fold_mean(weight, bias, rows.sum(dim=0), len(rows), KEPT)
    before = (rows @ weight.T + bias).mean(dim=0)
    torch.testing.assert_close((rows[:, KEPT] @ weight[:, KEPT].T + folded).mean(dim=0), before)


def test_an_indefinite_rounding_error_is_ridged_away() -> None:
    """A covariance that rounding left slightly indefinite gets the ridge that it needs; garbage is refused."""
    direction = torch.ones(6, dtype=torch.float64)
    nearly = torch.outer(direction, direction) - 1e-9 * torch.eye(6)
    damped, factor = damp(nearly, ridge=0.0)
    torch.testing.assert_close(factor @ factor.T, damped)
    torch.testing.assert_close(damped, nearly, rtol=0, atol=1e-6)
    with pytest.raises(PruningError, match="not positive semidefinite"):
        damp(torch.ones(6, 6) - 5 * torch.eye(6).flip(0), ridge=0.0)


def test_infinite_activations_are_an_error() -> None:
    """Activations that overflowed are named, not fitted."""
    covariance = torch.eye(4)
    covariance[1, 1] = torch.inf
    with pytest.raises(PruningError, match="not finite"):
        damp(covariance, ridge=1e-4)


def test_no_calibration_rows_are_an_error() -> None:
    """Compensation without data says what it needs."""
    weight, bias = linear_map()
    with pytest.raises(PruningError, match="needs calibration activations"):
        fold_mean(weight, bias, torch.zeros(10), 0, KEPT)
