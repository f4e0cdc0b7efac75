"""Where checkpoints run: one module for each runtime, and the runtime that a folder is for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hfcompress.contracts import Checkpoint, Format, Runtime
from hfcompress.errors import UsageError
from hfcompress.extras import EXTRAS, require_extra
from hfcompress.registry import RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["checkpoint_at", "runtime_of"]

# Importing OpenVINO or NNCF sends usage statistics over the network, unless this optional module of theirs is absent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # how Python marks a module as absent

_RUNTIMES: dict[Format, str] = {"transformers": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


def runtime_of(checkpoint_format: Format) -> Runtime:
    """Return the runtime that checkpoints of a format are for.

    Raises:
        MissingExtraError: It is not installed; the text holds the command that installs it.
    """
    name = _RUNTIMES[checkpoint_format]
    try:
        return RUNTIMES.get(name)()
    except UsageError:
        if name in EXTRAS:
            require_extra(name)
        raise


def checkpoint_at(folder: Path) -> Checkpoint:
    """Tell from its files what kind of checkpoint a folder holds."""
    if any(folder.rglob("*.onnx")):
        return Checkpoint(folder, "onnx")
    if any(folder.rglob("openvino*.xml")):
        return Checkpoint(folder, "openvino")
    return Checkpoint(folder, "transformers")
