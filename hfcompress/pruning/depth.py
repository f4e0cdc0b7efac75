"""Stacks of blocks: where a model repeats itself, and what is left of it without some of the repeats.

No table of names: a stack is an outermost list of blocks, each with the weight matrices of an attention and a
feed-forward layer at least. The stages of a hierarchical tower are no blocks, for the width changes from one to the
next; the blocks inside each of them are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from transformers.pytorch_utils import Conv1D

from hfcompress.errors import PruningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    T = TypeVar("T")

__all__ = ["Blocks", "Stack", "blocks_of", "drop_blocks", "find_stacks", "traits", "varying_traits"]

_MATRICES = 4
"""Weight matrices of the leanest block: fused query-key-value, its output, and the two of a feed-forward layer."""

_FEW = 2
"""Blocks in a stack so short that values which count up need not be numbers of blocks."""

Traits: TypeAlias = "dict[str, object]"


@dataclass(frozen=True)
class Stack:
    """A list of blocks that the hidden states pass one after the other.

    Attributes:
        name: Dotted name of the list.
        size: Number of blocks.
    """

    name: str
    size: int


Blocks: TypeAlias = "tuple[Stack, Sequence[int]]"
"""A stack, and the blocks of it that stay, in ascending order."""


def find_stacks(model: torch.nn.Module) -> tuple[Stack, ...]:
    """Return the stacks of two blocks or more, in the order of the model's modules.

    Args:
        model: A model; on the meta device is enough.
    """
    return tuple(
        Stack(name, len(blocks))
        for name, blocks in _lists(model, "")
        if len(blocks) > 1 and all(map(_is_block, blocks))
    )


def blocks_of(model: torch.nn.Module, stack: Stack | str) -> torch.nn.ModuleList:
    """Return the list of blocks itself."""
    name = stack if isinstance(stack, str) else stack.name
    blocks = model.get_submodule(name)
    if not isinstance(blocks, torch.nn.ModuleList):
        msg = f"{name} is no list of blocks but a {type(blocks).__name__}"
        raise PruningError(msg)
    return blocks


def _lists(module: torch.nn.Module, path: str) -> Iterator[tuple[str, torch.nn.ModuleList]]:
    """Yield the outermost lists of modules that are no lists of stages."""
    for key, child in module.named_children():
        name = f"{path}.{key}" if path else key
        if isinstance(child, torch.nn.ModuleList) and not _holds_stages(child):
            yield name, child
        else:
            yield from _lists(child, name)


def _holds_stages(modules: torch.nn.ModuleList) -> bool:
    """Whether the modules of a list differ in their shapes and hold blocks of one class each, or are lists themselves.

    The blocks of a language model may hold lists as well (of experts, say), but they are alike then; the two halves of
    a T5 block are a list of two classes.
    """
    if any(isinstance(module, torch.nn.ModuleList) for module in modules):
        return True
    if len({_signature(module) for module in modules}) < len(modules):
        return False
    return all(
        any(
            len({type(block) for block in inner}) == 1 and all(map(_is_block, inner)) for _, inner in _lists(module, "")
        )
        for module in modules
    )


def _is_block(module: torch.nn.Module) -> bool:
    maps = sum(isinstance(inner, (torch.nn.Linear, Conv1D)) for inner in module.modules())
    return maps > 1 and sum(parameter.dim() > 1 for parameter in module.parameters()) >= _MATRICES


def _signature(module: torch.nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())


def drop_blocks(state: Mapping[str, T], stack: Stack, kept: Sequence[int]) -> dict[str, T]:
    """Return a state dict, or the shapes of one, without the blocks that do not stay, the others numbered anew.

    Args:
        state: Name of a parameter → its tensor or its shape; left as it is.
        stack: The stack.
        kept: Numbers of the blocks that stay, ascending.
    """
    places = {block: place for place, block in enumerate(kept)}
    prefix = f"{stack.name}."
    dropped: dict[str, T] = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix) or not number.isdecimal():
            dropped[name] = value
        elif int(number) in places:
            dropped[f"{prefix}{places[int(number)]}.{rest}"] = value
    return dropped


def traits(block: torch.nn.Module) -> Traits:
    """Return what a block is beside its shapes: its class, and the plain attributes of its modules.

    What dropout and stochastic depth do is left out: they do nothing at inference.
    """
    found: Traits = {"class": type(block).__name__}
    for name, module in block.named_modules():
        for key, value in vars(module).items():
            if not key.startswith("_") and "drop" not in key and _plain(value):
                found[f"{name}.{key}" if name else key] = value
    return found


def _plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def varying_traits(blocks: Sequence[torch.nn.Module]) -> tuple[dict[str, object], ...]:
    """Return, for each block, those of its traits that its siblings do not share, its own number left out.

    A shifted window, a layer that attends to all where others see a window: what a block must still be wherever it is
    moved to, and what no shape tells.
    """
    all_traits = [traits(block) for block in blocks]
    shared = set.intersection(*(set(some) for some in all_traits))
    varying = sorted(name for name in shared if _varies(name, [some[name] for some in all_traits]))
    return tuple({name: some[name] for name in varying} for some in all_traits)


def _varies(name: str, values: Sequence[object]) -> bool:
    """Whether the values differ, and not only as the numbers of their blocks do.

    Two blocks can have 0 and 1 for other reasons (the shift of a window); there the name must say that it is a number.
    """
    numbered = all(type(value) is int and value == place for place, value in enumerate(values))
    if numbered and (len(values) > _FEW or name.endswith(("idx", "index", "id", "number"))):
        return False
    return any(value != values[0] for value in values)
