"""Promises of `hfcompress.pruning.head_patterns`: what each head depends on."""

import pytest
import torch

from hfcompress.pruning.head_patterns import touched

HEADS, TOKENS, SIZE = 6, 5, 4


@pytest.mark.parametrize("group", [1, 2, 6], ids=["own", "shared by two", "shared by all"])
def test_each_head_by_itself(group: int) -> None:
    """The pattern of each head is that of the derivative of this head alone, whether heads share keys or not."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, HEADS, TOKENS, SIZE, generator=generator, requires_grad=True)
    key = torch.randn(2, HEADS // group, TOKENS, SIZE, generator=generator, requires_grad=True)
    unused = torch.randn(3, requires_grad=True)
    scores = query @ key.repeat_interleave(group, 1).mT
    found = touched(scores, [query, key, unused], generator)

    for head in range(HEADS):
        slopes = torch.autograd.grad(scores[:, head].square().sum(), [query, key], retain_graph=True)
        for pattern, slope in zip(found, slopes, strict=False):
            assert torch.equal(pattern[head], slope != 0)
    assert not found[2].any()


def test_masked_scores() -> None:
    """Scores that a mask sets to minus infinity say nothing, and hide no head."""
    query = torch.randn(1, HEADS, TOKENS, SIZE, requires_grad=True)
    mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
    (found,) = touched(query @ query.detach().mT + mask, [query], torch.Generator().manual_seed(0))
    expected = torch.eye(HEADS, dtype=torch.bool)[:, None, :, None, None].expand(-1, 1, -1, TOKENS, SIZE)

    assert torch.equal(found, expected)
