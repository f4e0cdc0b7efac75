"""A stand-in for a model of any size, on which forward passes can be followed: same modules, all weights zero."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from hfcompress.probes import find_probes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from hfcompress.probes import Probe

__all__ = ["FLOP_TOKENS", "SkippedProducts", "count_flops", "flops_of", "probes_of", "zero_twin"]

_LARGE = 1 << 16
"""Weights of at least this many entries share their memory in a twin."""

FLOP_TOKENS = 64
"""Length of the text for which FLOPs are counted."""


def zero_twin(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a meta model on the CPU whose weights are all zero.

    All large weights are views of the same zeros, so the twin of a model of any size takes little memory; write into
    none of them.
    """
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, Conv1D):
            parent = twin.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], torch.nn.Linear(module.nx, module.nf, device="meta"))
    shared: dict[torch.dtype, torch.Tensor] = {}
    for tensor in (*twin.parameters(), *twin.buffers()):
        if tensor.numel() >= _LARGE and tensor.numel() > len(shared.get(tensor.dtype, ())):
            shared[tensor.dtype] = torch.zeros(tensor.numel(), dtype=tensor.dtype)
    for module in twin.modules():
        # parameters, buffers, and the few tensors that modules keep as plain attributes
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))  # noqa: SLF001
        for tensors in holders:
            for name, tensor in list(tensors.items()):
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    if len(shared.get(tensor.dtype, ())) >= tensor.numel() >= _LARGE:
                        zeros = shared[tensor.dtype][: tensor.numel()].view(tensor.shape)
                    else:
                        zeros = torch.zeros(tensor.shape, dtype=tensor.dtype)
                    tensors[name] = torch.nn.Parameter(zeros) if isinstance(tensor, torch.nn.Parameter) else zeros
    twin.eval()
    return twin


class _ZeroMap(torch.autograd.Function):
    """A linear map with weights of zero, at no cost: it only says what it was made from.

    Like a product, it fails with a `RuntimeError` on inputs of another width than its own.
    """

    @staticmethod
    def forward(_: Any, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch's context
        if inputs.shape[-1] != weight.shape[-1]:
            msg = f"a linear map of {weight.shape[-1]} channels is given {inputs.shape[-1]}"
            raise RuntimeError(msg)
        return inputs.new_zeros(*inputs.shape[:-1], weight.shape[0])


class SkippedProducts(TorchFunctionMode):
    """Computes no linear map.

    Args:
        is_counted: Let a counter of operations see each map nevertheless.
    """

    def __init__(self, *, is_counted: bool = False) -> None:
        super().__init__()
        self._is_counted = is_counted

    def __torch_function__(  # noqa: D105 - torch's own protocol
        self,
        func: Any,  # noqa: ANN401 - whatever torch calls
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        if func is torch.nn.functional.linear:
            if self._is_counted:
                func(*(torch.empty(tensor.shape, device="meta") for tensor in args[:2]))
            return _ZeroMap.apply(*args[:2])
        return func(*args, **(kwargs or {}))


def probes_of(twin: PreTrainedModel, part: str = "", **sizes: int) -> tuple[Probe, ...]:
    """Return inputs on which a twin, or a part of it, runs. See `find_probes`."""
    with SkippedProducts():
        return find_probes(twin, part, **sizes)


def count_flops(twin: PreTrainedModel, probes: Sequence[Probe] = ()) -> dict[str, int]:
    """Count the operations of one row of inputs with texts of `FLOP_TOKENS` tokens, two for each product.

    Where the model takes no inputs that a configuration tells, those of its parts are counted.

    Args:
        twin: The twin of a model; its parameters need no gradients afterwards.
        probes: What is run; by default inputs of one row on which the model, or each of its parts, runs.

    Returns:
        Dotted name of a module → its operations, those of the modules inside of it included; "" is the whole.

    Raises:
        CheckpointError: No inputs can be made on which the model, or a part of it, runs.
    """
    twin.requires_grad_(requires_grad=False)  # the counter follows no leaf that is passed between modules
    found: dict[str, int] = {"": 0}
    for probe in probes or probes_of(twin, batch_size=1, tokens=FLOP_TOKENS):
        part = twin.get_submodule(probe.module)
        with FlopCounterMode(display=False) as counter, SkippedProducts(is_counted=True), torch.no_grad():
            part(**probe.inputs)
        found[""] += counter.get_total_flops()
        for path, operations in counter.get_flop_counts().items():
            inner = path.partition(".")[2]
            name = ".".join(filter(None, (probe.module, inner)))
            if path != "Global" and name:
                found[name] = sum(operations.values())
    return found


def flops_of(counted: Mapping[str, int], module: str) -> int:
    """Return the operations of a module, or of the outermost modules inside of it that were called."""
    total, outer = 0, ""
    for name in sorted(counted):
        here = not module or f"{name}.".startswith(f"{module}.")
        if name and here and not (outer and name.startswith(f"{outer}.")):
            total, outer = total + counted[name], name
    return total
