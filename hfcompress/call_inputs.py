"""Inputs of the calls that a benchmark makes: the same for every model that reads the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from hfcompress.anatomy import load_config, meta_model
from hfcompress.errors import CheckpointError
from hfcompress.evaluation.prompts import prompted_inputs
from hfcompress.inputs import audio_inputs, load_processor
from hfcompress.probes import example_inputs
from hfcompress.twin import probes_of, zero_twin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

__all__ = ["call_inputs"]

_TOKENS = 77
"""Length of the texts: what CLIP pads to. A model that takes fewer gets fewer."""
_IMAGE, _TEXT = (384, 384, 3), "What is this?"
_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, CheckpointError)
"""What processors raise on an image and a text that they cannot join."""


def call_inputs(folder: Path, rows: int) -> Arrays:
    """Return random inputs on which a model runs, in the most usual shape of each.

    They are made from the configuration; where a model wants image tokens in just the right places, its processor
    makes them from an image of noise and a short question. What a model hears is made by its processor from a second
    of noise, because no configuration tells how many frames that is padded to.

    Args:
        folder: A checkpoint of any format; its configuration and processor are read.
        rows: Rows of each input.

    Raises:
        CheckpointError: Neither makes inputs on which the model runs.
    """
    model = meta_model(load_config(folder))
    if _runs_whole(model):
        made = {name: tensor.numpy() for name, tensor in example_inputs(model, rows, _TOKENS).items()}
        return {**made, **_sound(folder, rows, made)}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, _IMAGE, dtype=np.uint8))
    try:
        processor: Any = load_processor(folder)
        asked = prompted_inputs(processor, [image] * rows, [_text(processor)] * rows)
    except _REFUSALS as error:
        msg = (
            f"{type(model).__name__} runs on no inputs that its configuration tells, and its processor makes none of "
            f"an image and a text, so it cannot be timed: {error}"
        )
        raise CheckpointError(msg) from error
    return {name: tensor.numpy() for name, tensor in asked.items()}


def _text(processor: Any) -> str:  # noqa: ANN401 - any processor
    """Return the question, after the word that stands for the image where no chat template puts it there."""
    has_template = getattr(processor, "chat_template", None) is not None
    word = getattr(processor, "image_token", None)
    return f"{word} {_TEXT}" if isinstance(word, str) and not has_template else _TEXT


def _sound(folder: Path, rows: int, made: Arrays) -> Arrays:
    """Return what the model hears of a second of noise, where it hears anything and has a processor."""
    if "input_features" not in made:
        return {}
    try:
        processor: Any = load_processor(folder)
    except CheckpointError:
        return {}
    rate = processor.feature_extractor.sampling_rate
    noise = np.random.default_rng(0).normal(scale=0.1, size=rate).astype(np.float32)
    heard = audio_inputs(processor, [{"array": noise, "sampling_rate": rate}] * rows)
    return {name: array for name, array in heard.items() if name in made}


def _runs_whole(model: PreTrainedModel) -> bool:
    try:
        first, *_ = probes_of(zero_twin(model), batch_size=1, tokens=_TOKENS)
    except CheckpointError:
        return False
    return not first.module
