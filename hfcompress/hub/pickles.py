"""Weights from pickle files, for those who allow it: read as tensors alone, and from then on safetensors."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING

from hfcompress.errors import CheckpointError
from hfcompress.space import require_space

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PICKLES", "WEIGHTS", "write_safetensors"]

WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]


def write_safetensors(folder: Path, output: Path) -> None:
    """Write a checkpoint whose weights are in `pytorch_model.bin`, or in its shards, once more in safetensors.

    Args:
        folder: The checkpoint.
        output: A folder that does not exist yet.

    Raises:
        CheckpointError: The file holds more than tensors, or not those of the configuration.
        SpaceError: There is too little room for the weights.
    """
    from hfcompress.anatomy import load_config, model_class

    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    require_space({output: size}, "write the weights of the pickle in safetensors")
    config = load_config(folder)
    try:
        model, loading = model_class(config).from_pretrained(
            folder, config=config, dtype="auto", use_safetensors=False, weights_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        msg = f"the pickle weights in {folder} cannot be read as tensors alone: {error}"
        raise CheckpointError(msg) from error
    if missing := [*loading["missing_keys"], *loading["mismatched_keys"]]:
        msg = f"the weights in {folder} are incomplete: {len(missing)} tensors are missing, {missing[0]} first"
        raise CheckpointError(msg)
    model.save_pretrained(output)
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith("pytorch_model") and not (output / file.name).exists():
            shutil.copyfile(file, output / file.name)
    shutil.copyfile(folder / "config.json", output / "config.json")
