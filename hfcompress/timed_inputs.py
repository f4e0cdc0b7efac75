"""What a timed call is given: made from the configuration, or by the processor where that alone tells the shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

__all__ = ["timed_inputs"]

_IMAGE_TOKENS = ("image_token_id", "image_token_index")
_SIDE = 224
"""Pixels of an image where the configuration does not tell."""
_QUESTION = "What is in this image?"


def timed_inputs(path: Path, rows: int, tokens: int) -> dict[str, np.ndarray[Any, Any]]:
    """Make the inputs of a timed call: random ones, sounds as they are heard, or a question about an image.

    A model that reads images among words takes as many image tokens as its processor makes of the image, and one that
    hears takes as many frames as its feature extractor makes, so no configuration alone tells their shapes.

    Args:
        path: Folder with a configuration and, for such models, a processor.
        rows: Rows of each input.
        tokens: Length of random texts, or the longest that the model takes if that is less.

    Raises:
        CheckpointError: No inputs can be made from the configuration, or there is no processor.
    """
    from hfcompress.anatomy import load_config, meta_model
    from hfcompress.probes import example_inputs

    config = load_config(path)
    if any(isinstance(getattr(config, name, None), int) for name in _IMAGE_TOKENS):
        return _question(path, config, rows)
    made = {name: tensor.numpy() for name, tensor in example_inputs(meta_model(config), rows, tokens).items()}
    if "input_features" in made:
        made |= {name: array for name, array in _sound(path, rows).items() if name in made}
    return made


def _sound(path: Path, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a model hears of a second of noise: of as many frames as its feature extractor pads that to."""
    from hfcompress.inputs import audio_inputs, load_processor

    processor: Any = load_processor(path)
    rate = processor.feature_extractor.sampling_rate
    noise = np.random.default_rng(0).normal(scale=0.1, size=rate).astype(np.float32)
    return audio_inputs(processor, [{"array": noise, "sampling_rate": rate}] * rows)


def _question(path: Path, config: PretrainedConfig, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    from PIL import Image

    from hfcompress.evaluation.prompts import prompted
    from hfcompress.inputs import load_processor

    processor: Any = load_processor(path)
    side = getattr(getattr(config, "vision_config", None), "image_size", None)
    side = side if isinstance(side, int) else _SIDE
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    chats = getattr(processor, "chat_template", None)
    text = _QUESTION if chats else f"{getattr(processor, 'image_token', '')}\n{_QUESTION}"
    return {name: values.numpy() for name, values in prompted(processor, [image] * rows, [text] * rows).items()}
