"""The torch runtime: a transformers checkpoint, run as it is."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from hfcompress.anatomy import load_config, load_model, model_class
from hfcompress.contracts import Checkpoint, Format, Model, Runtime
from hfcompress.inputs import load_processor
from hfcompress.quantized import quantization_method, require_readers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from transformers import PretrainedConfig

__all__ = ["PyTorch"]


class _PyTorchModel(Model):
    def __init__(self, path: Path) -> None:
        require_readers(quantization_method(load_config(path)))
        self.stock = load_model(path, "auto")
        self.config = self.stock.config
        self.processor = load_processor(path)
        self.inputs = frozenset(inspect.signature(self.stock.forward).parameters)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        outputs = self.stock(**{name: self._as_input(array) for name, array in inputs.items()})
        return {name: _as_array(value) for name, value in outputs.items() if isinstance(value, torch.Tensor)}

    def _as_input(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.to(self.stock.dtype) if tensor.is_floating_point() else tensor


def _as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return an output as numpy knows it: it has no bfloat16, and a sum in float16 loses digits."""
    array: np.ndarray[Any, Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


class PyTorch(Runtime):
    """Runs transformers checkpoints in torch."""

    format: ClassVar[Format] = "transformers"

    def load(self, path: Path, threads: int | None = None) -> Model:
        """Load a checkpoint in the type that its configuration says; `threads` is set for the whole process."""
        if threads is not None:
            torch.set_num_threads(threads)
        return _PyTorchModel(path)

    def export(self, checkpoint: Checkpoint, output: Path) -> Checkpoint:
        """Return the checkpoint as it is: it is already what torch runs."""
        del output
        return checkpoint

    def describe(self, config: PretrainedConfig) -> str:
        """Say that nothing has to be done."""
        del config
        return "as it is"

    def load_class(self, path: Path) -> str:
        """Return the class that the configuration names."""
        return f"transformers.{model_class(load_config(path)).__name__}"
