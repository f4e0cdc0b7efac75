"""Skipping blocks of a whole model, so that it is what it will be when they are gone."""

from __future__ import annotations

import functools
import inspect
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from hfcompress.errors import PruningError
from hfcompress.outputs import run
from hfcompress.probes import Probe
from hfcompress.pruning.depth import blocks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from transformers import PreTrainedModel

    from hfcompress.pruning.depth import Stack

__all__ = ["hidden_states", "run_features", "shared_outputs", "skip_blocks", "skipped"]


_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)
"""What methods of models raise on inputs that they cannot take."""


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


class _Methods:
    """A model whose methods stand in for its modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.dtype = model.dtype

    def get_submodule(self, name: str) -> Callable[..., object]:
        return cast("Callable[..., object]", getattr(self._model, name))


def run_features(model: PreTrainedModel, probes: Iterable[Probe]) -> dict[str, torch.Tensor]:
    """Run the model's own `get_image_features` and the like, and return their outputs by path, as `surgery.run` does.

    Where only the parts of a model can be probed, nothing else reads hidden states by the number that the whole
    configuration gives ("vision_feature_layer"). What refuses the inputs is missing from the outputs; an output that
    one model gives and another does not is a difference for `surgery.compare_outputs`.

    Args:
        model: The model.
        probes: Inputs of the model or of its parts; those that a method takes by the same name are used.
    """
    found: dict[str, torch.Tensor] = {}
    names = [name for name in dir(type(model)) if re.fullmatch(r"get_\w+_features", name)]
    for probe in probes:
        for name in names:
            parameters = inspect.signature(getattr(model, name)).parameters.values()
            inputs = {p.name: probe.inputs[p.name] for p in parameters if p.name in probe.inputs}
            needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
            if any(isinstance(value, torch.Tensor) for value in inputs.values()) and inputs.keys() >= set(needed):
                try:
                    found |= run(cast("PreTrainedModel", _Methods(model)), [Probe(name, inputs)])
                except _REFUSALS:
                    continue
    return found
