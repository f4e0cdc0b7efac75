"""The same model with few blocks, on small inputs: what can be said of its heads, units and width is found in seconds.

A stack is shortened where all its blocks have the same shapes, so that those that stay stand for those that go. Images
and sounds are made smaller where the same parts of the model still run on them: no head, unit or channel depends on how
many positions there are.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfcompress.anatomy import meta_model
from hfcompress.errors import CheckpointError, PruningError
from hfcompress.pruning.config_edits import Edit
from hfcompress.pruning.dependence import REFUSALS, reread, sub_parts
from hfcompress.pruning.depth import blocks_of, find_stacks
from hfcompress.pruning.depth_pass import Shortening, fit_depth, last_blocks
from hfcompress.twin import probes_of, zero_twin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.pruning.depth import Stack
    from hfcompress.pruning.passes import Outcome

__all__ = ["Shallow", "shallow"]

_FEW = 2
"""Blocks that stay; a single one is no stack any more."""

_SIDES = (4, 16)
"""Patches along a side of a small image, the fewest first: some models pool several into one."""


@dataclass(frozen=True)
class Shallow:
    """A model with fewer blocks.

    Attributes:
        config: Its configuration.
        depths: Name of each stack of the source → its number of blocks there.
        left: Name of each stack that is shorter here → its number of blocks here.
        edits: Name of each stack that some stock configuration says shorter → how it does.
        obstacles: Name of each other stack → why none does.
    """

    config: PretrainedConfig
    depths: Mapping[str, int]
    left: Mapping[str, int]
    edits: Mapping[str, tuple[Edit, ...]]
    obstacles: Mapping[str, str]


def shallow(config: PretrainedConfig) -> Shallow:
    """Shorten every stack of a model as far as a stock configuration can say it.

    Args:
        config: The configuration of the model; left as it is.
    """
    stacks = find_stacks(meta_model(config))
    found = Shallow(config, {stack.name: stack.size for stack in stacks}, {}, {}, {})
    for stack in stacks:
        found = _shorter(found, [stack])
    if len(found.obstacles) > 1:
        # one field may say of several stacks how deep they are
        found = _shorter(found, [stack for stack in stacks if stack.name in found.obstacles])
    return replace(found, config=_with_small_inputs(found.config))


def _with_small_inputs(config: PretrainedConfig) -> PretrainedConfig:
    """Return a configuration of smaller images and shorter sounds on which the same parts of the model run, if any."""
    whole: set[str] | None = None
    for side in _SIDES:
        if not (edits := list(_smaller_inputs(config, side))):
            return config
        with suppress(*REFUSALS):
            small = reread(config, edits)
            whole = _probed(config) if whole is None else whole
            if _probed(small) == whole:
                return small
    return config


def _smaller_inputs(config: PretrainedConfig, side: int) -> Iterator[Edit]:
    for part, holder in sub_parts(config):
        image, patch = getattr(holder, "image_size", None), getattr(holder, "patch_size", None)
        if isinstance(image, int) and isinstance(patch, int) and image > side * patch:
            yield Edit(part, "image_size", image, side * patch)
        positions = getattr(holder, "max_source_positions", None)
        if isinstance(positions, int) and positions > side**2:
            yield Edit(part, "max_source_positions", positions, side**2)


def _probed(config: PretrainedConfig) -> set[str]:
    """Return the parts of a model that run on inputs made from its configuration."""
    return {probe.module for probe in probes_of(zero_twin(meta_model(config)))}


def _shorter(found: Shallow, group: Sequence[Stack]) -> Shallow:
    """Shorten some more stacks, all at once."""
    names = [stack.name for stack in group]
    model = meta_model(found.config)
    try:
        outcome, kept = _without_most(found.config, model, group)
    except (PruningError, CheckpointError) as error:
        return replace(found, obstacles={**dict.fromkeys(names, str(error)), **found.obstacles})
    edits = {**found.edits, **dict.fromkeys(names, outcome.edits)}
    obstacles = {name: why for name, why in found.obstacles.items() if name not in names}
    found = replace(found, edits=edits, obstacles=obstacles)
    if not all(_alike(model, stack) for stack in group):
        return found
    left = {**found.left, **dict(zip(names, map(len, kept), strict=True))}
    return replace(found, config=outcome.config, left=left)


def _without_most(
    config: PretrainedConfig, model: PreTrainedModel, group: Sequence[Stack]
) -> tuple[Outcome, list[tuple[int, ...]]]:
    """Remove from some stacks as many blocks as can go: all but a few, half, or one.

    Raises:
        CheckpointError: There is no model with fewer.
        PruningError: No configuration says fewer.
    """
    for least in (lambda size: min(_FEW, size - 1), lambda size: size - size // 2):
        with suppress(PruningError, CheckpointError):
            return _with(config, model, group, [least(stack.size) for stack in group])
    return _with(config, model, group, [stack.size - 1 for stack in group])


def _with(
    config: PretrainedConfig, model: PreTrainedModel, group: Sequence[Stack], keep: Sequence[int]
) -> tuple[Outcome, list[tuple[int, ...]]]:
    kept = [last_blocks(config, stack, stack.size - count) for stack, count in zip(group, keep, strict=True)]
    shorter = [Shortening("", stack, some) for stack, some in zip(group, kept, strict=True)]
    return fit_depth(config, model, shorter), kept


def _alike(model: PreTrainedModel, stack: Stack) -> bool:
    """Whether all blocks have the same shapes."""
    shapes = [{name: tensor.shape for name, tensor in block.state_dict().items()} for block in blocks_of(model, stack)]
    return all(some == shapes[0] for some in shapes)
