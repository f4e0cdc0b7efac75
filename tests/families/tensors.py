"""Inputs of a tiny model: two rows, the same ones at every call."""

import torch
from torch import Tensor

ROWS = 2
IMAGE = 110  # the id of the token that stands for a piece of an image, or of a sound


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal values of the shape, after the rows' axis."""
    return torch.randn((ROWS, *shape), generator=torch.Generator().manual_seed(seed))


def pixels(side: int = 32, *, seed: int = 0) -> Tensor:
    """Return one RGB image a row, as image processors normalise it: shape (rows, 3, side, side)."""
    return noise(3, side, side, seed=seed)


def words(length: int, *, low: int = 10, high: int = 90, seed: int = 0) -> Tensor:
    """Return token ids in [low, high), clear of the special ones: shape (rows, length)."""
    return torch.randint(low, high, (ROWS, length), generator=torch.Generator().manual_seed(seed))


def closed(ids: Tensor, begin: int, end: int) -> Tensor:
    """Return the ids between a begin and an end token."""
    edge = ids.new_ones(len(ids), 1)
    return torch.cat([edge * begin, ids, edge * end], dim=1)


def with_images(token: int, count: int, *, before: int = 2, after: int = 5) -> Tensor:
    """Return ids with a run of `count` image (or audio) tokens between words."""
    ids = words(before + count + after)
    ids[:, before : before + count] = token
    return ids


def with_mask(ids: Tensor) -> dict[str, Tensor]:
    """Return the ids, and a mask that attends to all of them."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def placed_patches(width: int) -> Tensor:
    """Return 3 by 4 flattened patches a row, each behind its row and column, which count from one."""
    rows, columns = torch.meshgrid(torch.arange(1, 4), torch.arange(1, 5), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=-1).expand(ROWS, 12, 2)
    return torch.cat([places, noise(12, width)], dim=-1)
