"""Weights from pickle files, for those who allow it: read as tensors alone, and from then on safetensors."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from pathlib import Path

from hfcompress.cache import cache_home
from hfcompress.errors import CheckpointError

__all__ = ["PICKLES", "WEIGHTS", "as_safetensors"]

WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]


def as_safetensors(folder: Path, revision: str) -> Path:
    """Return a folder with the same checkpoint in safetensors, which is written once for each revision.

    Args:
        folder: Checkpoint with `pytorch_model.bin`, or with its shards.
        revision: Commit or fingerprint of the checkpoint.

    Raises:
        CheckpointError: The file holds more than tensors, or not those of the configuration.
    """
    home = cache_home() / "safetensors"
    target = home / revision
    if (target / "config.json").is_file():
        return target
    from hfcompress.anatomy import load_config, model_class

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
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=home) as scratch:
        written = Path(scratch, "checkpoint")
        model.save_pretrained(written)
        for file in folder.iterdir():
            if file.is_file() and not file.name.startswith("pytorch_model") and not (written / file.name).exists():
                shutil.copyfile(file, written / file.name)
        shutil.copyfile(folder / "config.json", written / "config.json")
        if not target.exists():
            written.rename(target)
    return target
