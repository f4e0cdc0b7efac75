"""What will be removed from a model, settled on its configuration before any weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import find_towers, meta_model, select_towers, shapes_of
from hfcompress.errors import PruningError
from hfcompress.inputs import example_inputs
from hfcompress.pruning.config_surgery import fit_config
from hfcompress.pruning.graph import feed_forward_couplings
from hfcompress.pruning.surgery import Removal, slice_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.anatomy import Tower
    from hfcompress.pruning.config_surgery import Edit
    from hfcompress.pruning.graph import Coupling
    from hfcompress.pruning.step import TowerRatios

__all__ = ["Cut", "PruningPlan", "kept_units", "plan_pruning", "tower_couplings"]


@dataclass(frozen=True)
class Cut:
    """A coupling of a tower, and how many of its units stay."""

    tower: str
    coupling: Coupling
    keep: int


@dataclass(frozen=True)
class PruningPlan:
    """What will be removed, and the stock configuration that says it.

    Attributes:
        cuts: Every coupling that shrinks.
        config: The configuration of the pruned model.
        edits: How it differs from that of the source.
        removed_parameters: Number of parameters that go.
    """

    cuts: tuple[Cut, ...]
    config: PretrainedConfig
    edits: tuple[Edit, ...]
    removed_parameters: int


def kept_units(size: int, ratio: float, multiple_of: int) -> int:
    """Return how many of `size` units stay when `ratio` of them go, rounded up to a multiple, never more than `size`."""
    keep = size - math.floor(size * ratio)
    return min(size, math.ceil(keep / multiple_of) * multiple_of)


def tower_couplings(model: PreTrainedModel) -> dict[Tower, tuple[Coupling, ...]]:
    """Return the feed-forward layers of each tower of a model on the meta device."""
    inputs = {name: tensor.to("meta") for name, tensor in example_inputs(model).items()}
    couplings = feed_forward_couplings(model, inputs)
    return {
        tower: tuple(
            coupling for coupling in couplings if not tower.module or coupling.name.startswith(f"{tower.module}.")
        )
        for tower in find_towers(model)
    }


def plan_pruning(config: PretrainedConfig, ratios: Mapping[str, TowerRatios], multiple_of: int) -> PruningPlan:
    """Settle what goes from each tower and prove, on the meta device, that a stock configuration can say it.

    Args:
        config: The configuration of the model; left as it is.
        ratios: Tower name or `all` → what is removed there.
        multiple_of: Kept sizes are rounded up to a multiple of this.

    Raises:
        CheckpointError: A tower is not one of the model's.
        PruningError: A tower has no feed-forward layer, nothing would be removed, or no configuration says the result.
    """
    model = meta_model(config)
    couplings = tower_couplings(model)
    cuts: list[Cut] = []
    for name, tower in select_towers(couplings, ratios).items():
        if not couplings[tower]:
            msg = (
                f"the tower {name!r} has no feed-forward layer to prune; `hfcompress inspect` shows what each tower has"
            )
            raise PruningError(msg)
        ratio = ratios[name].ffn if name in ratios else ratios["all"].ffn
        cuts += [Cut(name, coupling, kept_units(coupling.size, ratio, multiple_of)) for coupling in couplings[tower]]
    cuts = [cut for cut in cuts if cut.keep < cut.coupling.size]
    if not cuts:
        msg = f"nothing would be removed: every size that these ratios leave rounds up to itself (multiple_of: {multiple_of})"
        raise PruningError(msg)
    shapes = shapes_of(model)
    wanted = slice_shapes(shapes, [Removal(cut.coupling, torch.arange(cut.keep)) for cut in cuts])
    fitted, edits = fit_config(config, wanted)
    removed = sum(math.prod(shapes[name]) - math.prod(shape) for name, shape in wanted.items())
    return PruningPlan(tuple(cuts), fitted, edits, removed)
