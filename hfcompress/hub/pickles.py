"""Weights from pickle files, for those who allow it: read as tensors alone, and from then on safetensors."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import time
from typing import TYPE_CHECKING

from hfcompress.cache import About, Cache, cache_home
from hfcompress.errors import CheckpointError, CorruptEntryError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PICKLES", "WEIGHTS", "as_safetensors"]

WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]


def as_safetensors(folder: Path, revision: str) -> Path:
    """Return a folder with the same checkpoint in safetensors, an entry of the cache that is made once for a revision.

    One that was damaged since is made again.

    Args:
        folder: Checkpoint with `pytorch_model.bin`, or with its shards.
        revision: Commit or fingerprint of the checkpoint.

    Raises:
        CheckpointError: The file holds more than tensors, or not those of the configuration.
        CacheError: The result cannot be kept.
    """
    cache = Cache(cache_home())
    key = hashlib.sha256(f"safetensors of {revision}".encode()).hexdigest()
    with cache.hold(key, waiting=lambda _: None):
        if key in cache.keys():  # noqa: SIM118 - no dictionary
            try:
                cache.check(key)
            except CorruptEntryError:
                cache.drop(key)
            else:
                return cache.files(key)
        start = time.perf_counter()
        with cache.workspace(key) as written:
            _convert(folder, written)
            seconds = round(time.perf_counter() - start, 1)
            cache.store(key, written, About("weights", "safetensors", _name(folder), seconds))
    return cache.files(key)


def _convert(folder: Path, written: Path) -> None:
    """Write a checkpoint in safetensors into an empty folder."""
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
    model.save_pretrained(written)
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith("pytorch_model") and not (written / file.name).exists():
            shutil.copyfile(file, written / file.name)
    shutil.copyfile(folder / "config.json", written / "config.json")


def _name(folder: Path) -> str:
    """Return the repository that a snapshot of the client's cache is of, or the name of a folder."""
    if folder.parent.name != "snapshots":
        return folder.name
    return folder.parents[1].name.removeprefix("models--").replace("--", "/")
