"""Values of 4 bits in a safetensors file: two in a byte, where torchao would keep each in a byte of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["pack", "pack_described", "unpack"]


def pack(values: torch.Tensor) -> torch.Tensor:
    """Return two values in each byte, the first of a pair in its lower half.

    Args:
        values: int8 in [-8, 7], of shape (rows, an even number).

    Returns:
        uint8 of shape (rows, half as many).
    """
    halves = (values + 8).to(torch.uint8)
    return halves[:, ::2] | (halves[:, 1::2] << 4)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Return the values that `pack` was given."""
    halves = torch.stack([packed & 15, packed >> 4], dim=-1)
    return halves.flatten(1).to(torch.int8) - 8


def pack_described(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Pack those tensors of a checkpoint that hold 4 bits by torchao's description of them.

    Args:
        tensors: Name in the file → tensor.
        metadata: Name of a parameter → its description, as JSON.
    """
    packed = dict(tensors)
    for name, text in metadata.items():
        described: Any = json.loads(text)
        if isinstance(described, dict) and described["_data"].get("target_dtype", {}).get("_data") == "int4":
            module, _, parameter = name.rpartition(".")
            values = f"{module}._{parameter}_qdata"
            packed[values] = pack(packed[values])
    return packed
