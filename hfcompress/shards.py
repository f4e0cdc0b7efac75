"""The files that hold a checkpoint's weights, and the index that says which of several holds which tensor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from hfcompress.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_shards", "check_weights"]

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def check_shards(folder: Path) -> None:
    """Make sure that the index of a checkpoint names files of its own folder, all of which are there.

    transformers reads whatever path an index names. Beside weights in one file, nobody reads an index, and it passes.

    Raises:
        CheckpointError: The index is not one, or names a file that is elsewhere or missing.
    """
    index = folder / _INDEX
    if (folder / _WHOLE).is_file() or not index.is_file():
        return
    for tensor, name in _weight_map(index).items():
        if not isinstance(name, str) or name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
            msg = (
                f"{index}: weight_map.{tensor}: got {name!r}, expected the name of a file in the same folder, which "
                "no path leads out of; fetch the checkpoint again from somebody you trust"
            )
            raise CheckpointError(msg)
        if not (folder / name).is_file():
            msg = f"{index}: weight_map.{tensor}: there is no {name} in {folder}; fetch the checkpoint again"
            raise CheckpointError(msg)


def check_weights(folder: Path) -> None:
    """Make sure that the weights of a checkpoint can be opened, by their index and their headers alone.

    A folder without weights passes.

    Raises:
        CheckpointError: A file is damaged or no safetensors, or the index is not one, see `check_shards`.
    """
    check_shards(folder)
    whole, index = folder / _WHOLE, folder / _INDEX
    names = {_WHOLE} if whole.is_file() else set(_weight_map(index).values()) if index.is_file() else set()
    for name in sorted(names):
        try:
            with safe_open(folder / name, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            msg = f"the weights in {folder} cannot be loaded: {name}: {error}; fetch or save the checkpoint again"
            raise CheckpointError(msg) from error


def _weight_map(index: Path) -> dict[str, Any]:
    try:
        rows = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{index} is not JSON: {error}; fetch the checkpoint again"
        raise CheckpointError(msg) from error
    found = rows.get("weight_map") if isinstance(rows, dict) else None
    if not isinstance(found, dict) or not found:
        msg = f"{index} has no mapping `weight_map` of tensors to files; fetch the checkpoint again"
        raise CheckpointError(msg)
    return found
