"""Size of checkpoints on disk and in parameters, read without loading them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Checkpoint, Format

__all__ = ["files_of", "parameters_of", "size_bytes"]

_WEIGHTS: dict[Format, tuple[str, ...]] = {
    "transformers": ("model.safetensors", "model-*-of-*.safetensors"),
    "onnx": ("**/*.onnx", "**/*.onnx_data"),
    "openvino": ("**/openvino*.xml", "**/openvino*.bin"),
}
_DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja")
_ABOUT = "report.json"
"""The one of these files that tells about a checkpoint and that nobody needs to run it."""

_VALUES = "._weight_qdata"
"""How torchao names the values of a quantized weight, between the module's name and nothing."""


def files_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the bytes of each file that loading a checkpoint takes: weights in its format, configuration, processor.

    Whatever else lies in a folder, such as weights for another library, does not count.
    """
    patterns = (*_WEIGHTS[checkpoint.format], *_DESCRIPTION)
    files = {file for pattern in patterns for file in checkpoint.path.glob(pattern) if file.name != _ABOUT}
    return {file.relative_to(checkpoint.path).as_posix(): file.stat().st_size for file in sorted(files)}


def size_bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes of what is needed to load a checkpoint."""
    return sum(files_of(checkpoint).values())


def parameters_of(folder: Path) -> int:
    """Return the number of weights of a transformers checkpoint, from the headers of its safetensors files alone.

    The scales and zero points that torchao keeps beside the values of a quantized weight are no weights.
    """
    counts: dict[str, int] = {}
    for file in (file for pattern in _WEIGHTS["transformers"] for file in folder.glob(pattern)):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                part = tensors.get_slice(name)
                packed = name.endswith(_VALUES) and part.get_dtype() == "U8"  # ours: two values of 4 bits in a byte
                counts[name] = int(np.prod(part.get_shape())) * (2 if packed else 1)
    quantized = {name.removesuffix(_VALUES) for name in counts if name.endswith(_VALUES)}
    return sum(count for name, count in counts.items() if _quantized_weight(name) not in quantized or _VALUES in name)


def _quantized_weight(name: str) -> str:
    """Return the module of `module._weight_scale` and the like, the whole name where it has no such form."""
    return name.partition("._weight_")[0]
