"""All that a model puts out on probes, by path: what proofs compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

    from hfcompress.probes import Probe

__all__ = ["run"]


@torch.no_grad()
def run(model: PreTrainedModel, probes: Iterable[Probe]) -> dict[str, torch.Tensor]:
    """Run forward passes and return every floating-point output by its path ("vision_model_output.pooler_output").

    Args:
        model: The model; inputs are cast to its type.
        probes: Inputs of the model, or of its parts.

    Returns:
        Path → output, in float32.
    """
    found: dict[str, torch.Tensor] = {}

    def collect(path: str, item: object) -> None:
        if isinstance(item, torch.Tensor):
            if item.is_floating_point():
                found[path] = item.detach().float()
        elif isinstance(item, dict):
            for key, value in item.items():
                collect(f"{path}.{key}" if path else str(key), value)
        elif isinstance(item, (list, tuple)):
            for index, value in enumerate(item):
                collect(f"{path}[{index}]", value)

    for probe in probes:
        inputs = {
            name: value.to(model.dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in probe.inputs.items()
        }
        torch.manual_seed(0)  # some models draw a permutation of their patches
        collect(probe.module, model.get_submodule(probe.module)(**inputs))
    return found
