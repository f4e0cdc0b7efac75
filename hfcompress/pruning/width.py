"""How a tower becomes narrower, and the stock configuration that says it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from hfcompress.anatomy import shapes_of
from hfcompress.errors import PruningError
from hfcompress.narrowing import record_in
from hfcompress.pruning.config_surgery import fit_config
from hfcompress.pruning.coupling import joint
from hfcompress.pruning.dependence import (
    Unfit,
    field_choices,
    find_dependence,
    model_of,
    named,
    places_of,
    reread,
    source_of,
)
from hfcompress.pruning.surgery import Removal, slice_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PretrainedConfig

    from hfcompress.anatomy import Tower
    from hfcompress.pruning.config_surgery import Edit
    from hfcompress.pruning.coupling import Coupling
    from hfcompress.pruning.dependence import Dependence, Place, Shapes, Source

__all__ = ["HeadCut", "WidthPlan", "plan_width"]


@dataclass(frozen=True)
class HeadCut:
    """Attention heads that go in step with the width.

    Attributes:
        couplings: One, or all that share a table or a layer, and so must keep the same heads.
        keep: Number of units that stay.
    """

    couplings: tuple[Coupling, ...]
    keep: int

    @property
    def size(self) -> int:
        """Number of units before."""
        return self.couplings[0].size

    def removals(self, kept: torch.Tensor) -> list[Removal]:
        """Return what goes when these units stay."""
        return [Removal(coupling, kept) for coupling in self.couplings]


@dataclass(frozen=True)
class WidthPlan:
    """How much narrower a residual stream becomes, and the configuration that says it.

    Attributes:
        width: Channels of the residual stream before.
        keep: Channels that stay.
        step: What a kept width must be a multiple of: heads that it is tied to stay whole.
        places: Dimension of each entry of the state dict that holds channels of the stream → how many times it holds
            all of them, side by side.
        heads: Attention heads that go in step.
        config: The stock configuration of the narrower model.
        edits: How it differs from that of the source.
        shapes: Shape of each entry of the source's state dict.
    """

    width: int
    keep: int
    step: int
    places: Mapping[Place, int]
    heads: tuple[HeadCut, ...]
    config: PretrainedConfig
    edits: tuple[Edit, ...]
    shapes: Shapes

    def blocks(self, channels: torch.Tensor, count: int) -> torch.Tensor:
        """Return where these channels of the stream lie in a dimension that holds all of them `count` times."""
        return (torch.arange(count)[:, None] * self.width + channels).flatten()

    @property
    def removed_parameters(self) -> int:
        """Number of parameters that go."""
        after = _sliced(self.shapes, self.places, self.width - self.keep, self.heads)
        return sum(math.prod(self.shapes[name]) - math.prod(shape) for name, shape in after.items())


def plan_width(config: PretrainedConfig, tower: Tower, ratio: float, multiple_of: int = 8) -> WidthPlan:
    """Settle how much narrower a tower becomes, and prove on the meta device that a stock configuration says it.

    Towers that share a width become narrower together: the plan of either is the same.

    Args:
        config: The configuration of the model; left as it is.
        tower: The tower.
        ratio: Fraction of the channels of its residual stream that go.
        multiple_of: The kept width is rounded up to a multiple of this, and of the heads that it is tied to.

    Raises:
        PruningError: No stock configuration says a narrower tower, or nothing would be removed.
    """
    if record_in(config) is not None:
        msg = (
            f"the width of the tower {tower.name!r} cannot change once another pruning has left shapes that stand "
            f"beside the configuration; remove `width` first"
        )
        raise PruningError(msg)
    source = source_of(reread(config))
    reasons: list[str] = []
    if not any(
        isinstance(module, torch.nn.ModuleList) for module in source.model.get_submodule(tower.module).modules()
    ):
        msg = f"the tower {tower.name!r} has no blocks, so it has no residual stream to make narrower"
        raise PruningError(msg)
    for fields in field_choices(source, tower):
        try:
            return _plan(source, find_dependence(source, fields), ratio, multiple_of)
        except Unfit as error:
            reasons.append(str(error))
    why = reasons[0] if reasons else "no field of its configuration is a dimension of most of its parameters"
    msg = f"the width of the tower {tower.name!r} cannot change: {why}"
    raise PruningError(msg)


def _plan(source: Source, found: Dependence, ratio: float, multiple_of: int) -> WidthPlan:
    """Find the narrower configuration."""
    width = found.fields[0].value
    step = math.lcm(multiple_of, *(width // math.gcd(width, coupling.size) for coupling in found.tied))
    keep = math.ceil((width - math.floor(width * ratio)) / step) * step
    if keep >= width:
        msg = (
            f"nothing would be removed: {named(found.fields)} is {width}, can only become a multiple of {step} "
            f"(multiple_of: {multiple_of}, and whole attention heads where it is tied to them), and a ratio of {ratio} "
            f"leaves {math.ceil(width * (1 - ratio))}, which rounds up"
        )
        raise PruningError(msg)
    share = Fraction(keep, width)
    edits = [slot.scaled(share) for slot in (*found.fields, *found.heads)]
    heads = tuple(
        HeadCut(together, int(together[0].size * share)) for together in joint(found.tied, lambda one: places_of([one]))
    )
    wanted = _sliced(source.shapes, found.places, width - keep, heads)
    model_of(source.config, edits)  # refuses where it cannot be built
    fit = fit_config(reread(source.config, edits), wanted)
    config = reread(fit.config)
    if shapes_of(model_of(config, ())) != wanted:
        example = min(fit.wrong, default="a parameter")
        msg = f"with {', '.join(map(str, edits))}, {example} has a shape that no other field sets right"
        raise Unfit(msg)
    return WidthPlan(width, keep, step, found.places, heads, config, (*edits, *fit.edits), source.shapes)


def _sliced(
    shapes: Shapes, places: Mapping[Place, int], gone: int, heads: Sequence[HeadCut]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes once `gone` channels of the residual stream and the heads in step are removed."""
    sliced = slice_shapes(shapes, [removal for cut in heads for removal in cut.removals(torch.arange(cut.keep))])
    for (name, dimension), blocks in places.items():
        shape = sliced[name]
        sliced[name] = (*shape[:dimension], shape[dimension] - blocks * gone, *shape[dimension + 1 :])
    return sliced
