"""Skipping blocks of a whole model, so that it is what it will be when they are gone."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from hfcompress.errors import PruningError
from hfcompress.pruning.depth import blocks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from transformers import PreTrainedModel

    from hfcompress.pruning.depth import Stack

__all__ = ["hidden_states", "shared_outputs", "skip_blocks", "skipped"]


def skip_blocks(model: PreTrainedModel, stack: Stack, removed: Iterable[int]) -> None:
    """Make blocks of a model hand on the hidden states that they are given, in place.

    The forward code stays as it is and so does every number of a block, which is what a shortened model with its
    numbers changed is compared with. Each skipped block still runs, for its output tells how it returns hidden states:
    alone, first in a tuple, two streams of them. What else it returns (attention weights, a position bias) stays.

    Args:
        model: The model.
        stack: The stack.
        removed: Numbers of the blocks that are skipped.
    """
    blocks = blocks_of(model, stack)
    for number in removed:
        block = blocks[number]
        # the forward method and no hook: transformers collects hidden states in hooks of its own
        block.forward = _identity(block.forward, f"{stack.name}.{number}")


@contextmanager
def skipped(model: PreTrainedModel, stack: Stack, removed: Iterable[int]) -> Iterator[None]:
    """Skip blocks within a `with` statement."""
    blocks = blocks_of(model, stack)
    numbers = list(removed)
    held = [vars(blocks[number]).get("forward") for number in numbers]
    skip_blocks(model, stack, numbers)
    try:
        yield
    finally:
        for number, forward in zip(numbers, held, strict=True):
            del blocks[number].forward
            if forward is not None:
                blocks[number].forward = forward


def _identity(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a forward function that runs the other one and puts what it was given in the place of what it returns."""

    @functools.wraps(forward)
    def identity(*arguments: object, **named: object) -> object:
        # copies, for a block may write into what it is given
        given = [tensor.clone() for tensor in hidden_states([*arguments, *named.values()])]
        output = forward(*arguments, **named)
        first = next(hidden_states([output]), None)
        if first is None or not any(tensor.shape == first.shape for tensor in given):
            msg = (
                f"{name} does not return hidden states in the shape in which it takes them, so the model cannot do "
                f"without it"
            )
            raise PruningError(msg)
        return _put(output, given)

    return identity


def hidden_states(items: Iterable[object]) -> Iterator[torch.Tensor]:
    """Yield the floating-point tensors with a width among arguments or outputs, those inside of tuples included."""
    for item in items:
        if isinstance(item, torch.Tensor):
            if item.is_floating_point() and item.dim() > 1:
                yield item
        elif isinstance(item, (tuple, list)):
            yield from hidden_states(item)


def _put(output: object, given: list[torch.Tensor]) -> object:
    """Replace each tensor of an output with the next given one of its shape; a given one is used once."""
    if isinstance(output, torch.Tensor):
        place = next((place for place, tensor in enumerate(given) if tensor.shape == output.shape), None)
        return output if place is None or not output.is_floating_point() else given.pop(place)
    if isinstance(output, (tuple, list)):
        return type(output)(_put(item, given) for item in output)
    return output


def shared_outputs(
    expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return those outputs of two models that mean the same: all but lists that are not equally long in both.

    A model with fewer blocks gives fewer hidden states, and they are not those of the same numbers.

    Args:
        expected: Outputs of one model, as `surgery.run` names them.
        got: Outputs of the other.
    """

    def lists(outputs: Mapping[str, torch.Tensor]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name in outputs:
            opened = name.find("[")
            while opened >= 0:
                found.setdefault(name[:opened], set()).add(name[opened + 1 : name.index("]", opened)])
                opened = name.find("[", opened + 1)
        return found

    one, other = lists(expected), lists(got)
    unequal = {f"{path}[" for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
    kept = [name for name in expected if not any(name.startswith(path) for path in unequal)]
    return {name: expected[name] for name in kept}, {name: got[name] for name in kept if name in got}
