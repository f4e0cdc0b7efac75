"""Inputs of a model: made from its configuration, or from rows through its processor."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import AutoProcessor

from hfcompress.anatomy import sub_configs
from hfcompress.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

_PIL_ONLY = {"use_fast": False} if transformers.__version__.startswith("4.") else {}
"""Version 5 of transformers chooses by what is installed, and warns of the argument."""

__all__ = ["example_inputs", "image_inputs", "load_processor", "row_inputs", "text_inputs"]


def example_inputs(
    model: PreTrainedModel, batch_size: int = 2, tokens: int = 16, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Make random inputs for a forward pass from the model's configuration alone.

    Args:
        model: Any model; its weights are not looked at.
        batch_size: Rows of each input.
        tokens: Length of the texts, or the longest that the model takes if that is less.
        seed: Seeds the values.

    Returns:
        The arguments of `model.forward` that have no default or that carry a modality, on the CPU: `pixel_values` of
        shape (batch, channels, height, width), `input_ids` of shape (batch, tokens).

    Raises:
        CheckpointError: The model takes no input that a configuration tells how to make.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = inspect.signature(model.forward).parameters
    inputs: dict[str, torch.Tensor] = {}
    if "input_ids" in parameters:
        inputs["input_ids"] = _token_ids(_part(model.config, "vocab_size"), batch_size, tokens, generator)
    if "pixel_values" in parameters:
        part = _part(model.config, "image_size", "patch_size")
        size = part.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(part, "num_channels", 3)
        inputs["pixel_values"] = torch.randn(batch_size, channels, height, width, generator=generator)
    if not inputs:
        msg = (
            f"{type(model).__name__}.forward takes {', '.join(parameters)}, none of which this version of hfcompress "
            f"can make from a configuration (it makes input_ids and pixel_values)"
        )
        raise CheckpointError(msg)
    return inputs


def _part(config: PretrainedConfig, *keys: str) -> PretrainedConfig:
    """Return the first part of the configuration that has all the keys, the whole configuration before its parts."""
    for part in (config, *sub_configs(config).values()):
        if all(getattr(part, key, None) is not None for key in keys):
            return part
    msg = f"the {config.model_type!r} configuration has no part with {' and '.join(keys)}"
    raise CheckpointError(msg)


def _token_ids(part: PretrainedConfig, batch_size: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Random token ids that end with the end-of-text token, at which several text towers pool."""
    tokens = min(tokens, getattr(part, "max_position_embeddings", None) or tokens)
    ids = torch.randint(0, part.vocab_size, (batch_size, tokens), generator=generator)
    end = part.eos_token_id
    if isinstance(end, int) and end < part.vocab_size:
        ids[ids == end] = (end + 1) % part.vocab_size
        ids[:, -1] = end
    return ids


def load_processor(path: Path) -> ProcessorMixin:
    """Load the processor of a checkpoint folder, with the image processor that needs PIL alone.

    Raises:
        CheckpointError: The folder has no processor files that transformers can read.
    """
    try:
        return AutoProcessor.from_pretrained(path, **_PIL_ONLY)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        msg = f"no processor can be loaded from {path}: {error}"
        raise CheckpointError(msg) from error


def image_inputs(processor: ProcessorMixin, images: Sequence[Image]) -> dict[str, np.ndarray[Any, Any]]:
    """Turn images into the model's inputs: `pixel_values`, float32 of shape (images, channels, height, width).

    Raises:
        DataError: A row holds no image.
    """
    for row, image in enumerate(images):
        if not hasattr(image, "convert"):
            msg = f"row {row} of this batch holds {type(image).__name__} where an image was expected"
            raise DataError(msg)
    prepared = processor.image_processor(images=[image.convert("RGB") for image in images], return_tensors="np")
    return {name: np.asarray(values) for name, values in prepared.items()}


def text_inputs(processor: ProcessorMixin, texts: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Turn texts into the model's inputs: `input_ids` and `attention_mask`, int64 of shape (texts, tokens).

    Texts are padded to the tokenizer's maximum, as the text towers of dual encoders were trained.
    """
    tokenizer = processor.tokenizer
    prepared = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="np")
    return {name: np.asarray(values, dtype=np.int64) for name, values in prepared.items()}


def row_inputs(
    processor: ProcessorMixin, wanted: AbstractSet[str], rows: Mapping[str, Sequence[Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Turn a column-wise batch of rows into the inputs that a model wants.

    Args:
        processor: The model's processor.
        wanted: Names of the model's inputs.
        rows: Columns `image` and `text`, as far as the model reads images and texts.

    Raises:
        DataError: The model wants an input that no column gives.
    """
    made: dict[str, np.ndarray[Any, Any]] = {}
    if "image" in rows and "pixel_values" in wanted:
        made |= image_inputs(processor, rows["image"])
    if "text" in rows and "input_ids" in wanted:
        made |= text_inputs(processor, rows["text"])
    if missing := wanted - made.keys():
        msg = (
            f"the model reads {', '.join(sorted(missing))}, which the columns {', '.join(sorted(rows))} do not give; "
            f"map the dataset's columns with `columns: {{image: ..., text: ...}}`"
        )
        raise DataError(msg)
    return {name: array for name, array in made.items() if name in wanted}
