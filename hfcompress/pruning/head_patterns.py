"""Which channels depend on which attention head, told from derivatives."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Spans", "head_units", "joined_channels", "leaves_of", "over", "spans_of", "touched"]

Spans: TypeAlias = "tuple[tuple[int, int, int], ...]"
"""Start, width and stride of each run of channels that the units have in a layer."""


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """Return the leaves of autograd that a tensor was made from."""
    waiting, seen, found = [tensor.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def touched(outputs: Tensor, leaves: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return, for each leaf, which of its entries each head depends on: bool, of shape (heads, *leaf)."""
    totals = []
    for head in outputs.unbind(-3):
        weights = torch.randn(head.shape, generator=generator).to(head.dtype)
        totals.append(torch.where(head.isfinite(), head * weights, 0.0).sum())
    found = _told_apart(totals, leaves)
    shared = [index for index, pattern in enumerate(found) if pattern is None]
    if shared:
        rest = [leaves[index] for index in shared]
        slopes = [_slopes(total, rest) for total in totals]
        for index, of_heads in zip(shared, zip(*slopes, strict=True), strict=True):
            found[index] = torch.stack(of_heads) != 0
    return [pattern for pattern in found if pattern is not None]


def _told_apart(totals: list[Tensor], leaves: list[Tensor]) -> list[Tensor | None]:
    """Return the patterns of those leaves each of whose entries one head depends on at most, `None` for the others.

    Three derivatives tell, however many heads there are: of the sum over heads, of the sum in which each head counts
    by a power of two of its own, and by the inverse of that. Powers of two leave the digits as they are, so where the
    other two are the first one times the factors of one head, that head is the only one.
    """
    powers = torch.arange(len(totals)) - len(totals) // 2
    plain, up, down = (
        _slopes(torch.stack(totals) @ factors.to(totals[0].dtype), leaves)
        for factors in (torch.ones(len(totals)), 2.0**powers, 2.0**-powers)
    )
    found: list[Tensor | None] = []
    for slope, more, less in zip(plain, up, down, strict=True):
        power = (more / slope).abs().log2().nan_to_num(0.0, 0.0, 0.0).round().clamp(powers[0], powers[-1])
        if torch.equal(slope * 2.0**power, more) and torch.equal(slope * 2.0**-power, less):
            is_touched = slope != 0
            found.append(torch.stack([is_touched & (power == one) for one in powers]))
        else:
            found.append(None)
    return found


def _slopes(total: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return the derivatives by each leaf, zeros where there is no way to it."""
    slopes = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, slopes, strict=True)]


def over(pattern: Tensor, dimension: int) -> Tensor:
    """Reduce a pattern of shape (heads, ...) to (heads, channels) with the channels of one dimension."""
    return pattern.movedim(dimension, -1).flatten(1, -2).any(dim=1) if pattern.dim() > 2 else pattern  # noqa: PLR2004


def joined_channels(units: Tensor, pattern: Tensor) -> Tensor:
    """Return which channels each unit has, from those that each head has."""
    return (units.double() @ pattern.double()) > 0


def head_units(patterns: list[Tensor]) -> Tensor | None:
    """Group heads that share a channel of some layer, but not one that all heads share.

    Args:
        patterns: Which channels each head depends on, of shape (heads, channels); the first is that of the layer that
            reads the heads, in which no channel may be shared.

    Returns:
        Bool tensor of shape (units, heads), in the order of the units' channels in the reading layer; `None` where
        heads are mixed or there is only one unit.
    """
    heads = len(patterns[0])
    joined = torch.eye(heads, dtype=torch.bool)
    if not torch.equal(joined_channels(patterns[0], patterns[0].T), joined):
        return None
    for pattern in patterns[1:]:
        own = pattern & ~pattern.all(dim=0)
        joined |= joined_channels(own, own.T)
    for _ in range(math.ceil(math.log2(heads))):
        joined = joined_channels(joined, joined)
    units = joined.unique(dim=0)
    order = joined_channels(units, patterns[0]).double().argmax(dim=1).argsort()
    return units[order] if len(units) > 1 and len(set(units.sum(dim=1).tolist())) == 1 else None


def spans_of(channels: Tensor) -> Spans | None:
    """Return start, width and stride of each run of channels that the units have, if they are laid out regularly.

    Args:
        channels: Which channels each unit has, of shape (units, channels).
    """
    if bool((channels.sum(dim=0) > 1).any()) or not bool(channels.any(dim=1).all()):
        return None
    edges = torch.nn.functional.pad(channels.int(), (1, 1)).diff(dim=1)
    starts = [(row == 1).nonzero().flatten().tolist() for row in edges]
    stops = [(row == -1).nonzero().flatten().tolist() for row in edges]
    if len({len(row) for row in starts}) != 1:
        return None
    spans = []
    for firsts, lasts in zip(zip(*starts, strict=True), zip(*stops, strict=True), strict=True):
        widths = {last - first for first, last in zip(firsts, lasts, strict=True)}
        strides = {after - before for before, after in pairwise(firsts)}
        if len(widths) != 1 or len(strides) != 1:
            return None
        spans.append((firsts[0], widths.pop(), strides.pop()))
    return tuple(spans)
