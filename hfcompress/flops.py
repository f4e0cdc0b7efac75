"""Floating-point operations of checkpoints, by tower."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfcompress.anatomy import find_towers, load_config, meta_model
from hfcompress.errors import CheckpointError
from hfcompress.twin import FLOP_TOKENS, count_flops, flops_of, probes_of, zero_twin

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
        total: Those of the whole model; the sum of its towers' where it takes no inputs that a configuration tells.
        towers: Tower → its operations.
        is_whole: Whether the whole model was run, and not each of its parts alone.
    """

    total: int
    towers: Mapping[str, int]
    is_whole: bool


def flops_by_tower(folder: Path) -> FlopCount:
    """Count the operations of a transformers checkpoint with torch's counter; reads its configuration, no weights.

    Weights of 8 or 4 bits change no count: the operations are the same, with other numbers.

    Args:
        folder: The checkpoint.

    Raises:
        CheckpointError: The model, or one of its towers, does not run on inputs made from its configuration.
    """
    model = meta_model(load_config(folder))
    twin = zero_twin(model)
    probes = probes_of(twin, batch_size=1, tokens=FLOP_TOKENS)
    try:
        counted = count_flops(twin, probes)
    except _REFUSALS as error:
        msg = f"{type(model).__name__} failed while its operations were counted: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error
    is_whole = not probes[0].module
    modules: dict[str, list[str]] = defaultdict(list)
    for tower in find_towers(model):
        modules[tower.name].append(tower.module)

    def of(module: str) -> int:
        return flops_of(counted, module) if module else counted[""] * is_whole

    towers = {name: sum(map(of, parts)) for name, parts in modules.items()}
    if missing := [name for name, operations in towers.items() if not operations]:
        msg = f"no inputs made from the configuration run through {' and '.join(missing)} of {type(model).__name__}"
        raise CheckpointError(msg)
    return FlopCount(counted[""] if is_whole else sum(towers.values()), towers, is_whole)
