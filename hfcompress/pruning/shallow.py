"""The same model with few blocks: what can be said of its heads, hidden units and width is found there in seconds.

A stack is shortened where all its blocks have the same shapes, so that those that stay stand for those that go.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfcompress.anatomy import meta_model
from hfcompress.errors import CheckpointError, PruningError
from hfcompress.pruning.depth import blocks_of, find_stacks
from hfcompress.pruning.depth_pass import Shortening, fit_depth, last_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.pruning.config_edits import Edit
    from hfcompress.pruning.depth import Stack
    from hfcompress.pruning.passes import Outcome

__all__ = ["Shallow", "shallow"]

_FEW = 2
"""Blocks that stay; a single one is no stack any more."""


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
    return found


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
