"""What the scores promise: the formula of each, over whole units."""

from __future__ import annotations

import torch

from hfcompress.pruning.scores import activation_norm, gradient_norm, taylor


def test_activation_norm_is_the_size_of_what_a_unit_adds_to_the_output() -> None:
    """For channels that do not overlap it is the norm of the unit's share of the outputs over all rows."""
    rows = torch.diag(torch.tensor([1.0, -2.0, 3.0, 0.0, 5.0, 6.0]))
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    channels = torch.tensor([[5, 0], [1, 3], [2, 4]])
    expected = [(rows[:, unit] @ weight[:, unit].T).norm().item() for unit in channels]
    torch.testing.assert_close(
        activation_norm(weight, rows.T @ rows, channels), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_gradient_norm_sums_over_all_layers_of_a_unit() -> None:
    """Both powers sum over every weight of a unit, in all layers that share it."""
    layers = [torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([[-4.0], [0.5]])]
    assert gradient_norm(layers, 1).tolist() == [7.0, 3.5]
    assert gradient_norm(layers, 2).tolist() == [21.0, 9.25]


def test_taylor_is_the_change_of_a_linear_loss() -> None:
    """Where the loss is linear in the weights, the score is exactly how much it changes when the unit goes."""
    weights = [torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([[-4.0], [0.5]])]
    gradients = [torch.tensor([[2.0, 1.0], [5.0, -1.0]]), torch.tensor([[0.5], [2.0]])]
    assert taylor(gradients, weights).tolist() == [2.0, 2.0]
