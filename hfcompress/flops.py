"""Floating-point operations of checkpoints, by tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfcompress.anatomy import find_towers, load_config, meta_model
from hfcompress.errors import CheckpointError
from hfcompress.twin import count_flops, flops_of, zero_twin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["FlopCount", "flops_by_tower"]

_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)
"""What a model raises that runs on its inputs, and not while its operations are counted."""


@dataclass(frozen=True)
class FlopCount:
    """Operations of one row, two for each product.

    Attributes:
        total: Those of the whole model, or of its parts where it takes no inputs that a configuration tells.
        towers: Tower → its operations; `None` where none of its modules was called.
    """

    total: int
    towers: Mapping[str, int | None]


def flops_by_tower(folder: Path) -> FlopCount:
    """Count the operations of a transformers checkpoint with torch's counter; reads its configuration, no weights.

    Weights of 8 or 4 bits change no count: the operations are the same, with other numbers.

    Args:
        folder: The checkpoint.

    Raises:
        CheckpointError: The model does not run on inputs made from its configuration.
    """
    model = meta_model(load_config(folder))
    try:
        counted = count_flops(zero_twin(model))
    except _REFUSALS as error:
        msg = f"{type(model).__name__} failed while its operations were counted: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error

    def of(module: str) -> int | None:
        called = any(not module or f"{name}.".startswith(f"{module}.") for name in counted if name)
        return flops_of(counted, module) if called else None

    return FlopCount(counted[""], {tower.name: of(tower.module) for tower in find_towers(model)})
