"""Inputs of a model: made from its configuration, or from rows through its processor."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from transformers import AutoProcessor, AutoTokenizer

from hfcompress.audio import waveform
from hfcompress.errors import CheckpointError, DataError
from hfcompress.remote_code import REFUSAL, is_trusted, wants_code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

_PIL_ONLY = {"use_fast": False} if transformers.__version__.startswith("4.") else {}
"""Version 5 of transformers chooses by what is installed, and warns of the argument."""

_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What transformers raises on files of a processor that it cannot read."""

_SHORT_TEXT = 128
"""Tokens to which texts are padded at most."""

__all__ = [
    "audio_inputs",
    "image_inputs",
    "load_processor",
    "load_tokenizer",
    "possible_inputs",
    "row_inputs",
    "text_inputs",
    "with_masks",
]


def load_processor(path: Path) -> ProcessorMixin:
    """Load the processor of a checkpoint folder, with the image processor that needs PIL alone.

    Raises:
        CheckpointError: The folder has no processor files that transformers can read.
    """
    try:
        processor: ProcessorMixin = AutoProcessor.from_pretrained(path, trust_remote_code=is_trusted(path), **_PIL_ONLY)
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, _REFUSALS):  # tokenizers raises `Exception` itself
            raise
        refused = f"; {REFUSAL}" if wants_code(path) and not is_trusted(path) else ""
        msg = f"no processor can be loaded from {path}: {_broken_file(path) or f'{error}{refused}'}"
        raise CheckpointError(msg) from error
    return processor


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer alone of a checkpoint folder whose processor loads."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=is_trusted(path))
    return tokenizer


def _broken_file(path: Path) -> str | None:
    """Return the first file of a folder that should be a JSON object and is none, in words; `None` if all are."""
    for file in sorted(path.glob("*.json")):
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            return f"{file.name} is not JSON: {error}; fetch the checkpoint again"
        if not isinstance(content, dict):
            return f"{file.name}: expected a JSON object, got {type(content).__name__}; fetch the checkpoint again"
    return None


def image_inputs(
    processor: Any,  # noqa: ANN401 - whichever class the model has
    images: Sequence[Image],
) -> dict[str, np.ndarray[Any, Any]]:
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


def text_inputs(
    processor: Any,  # noqa: ANN401 - whichever class the model has
    texts: Sequence[str],
) -> dict[str, np.ndarray[Any, Any]]:
    """Turn texts into the model's inputs: `input_ids` and `attention_mask`, int64 of shape (texts, tokens).

    Texts are padded to the tokenizer's maximum where that is short, as the text towers of dual encoders were trained,
    and to the longest of the batch where it is not. A tokenizer without a padding token pads with the end of the text.
    """
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    is_short = tokenizer.model_max_length <= _SHORT_TEXT
    padding = "max_length" if is_short else "longest"
    prepared = tokenizer(list(texts), padding=padding, truncation=True, return_tensors="np")
    return {name: np.asarray(values, dtype=np.int64) for name, values in prepared.items()}


def audio_inputs(
    processor: Any,  # noqa: ANN401 - whichever class the model has
    sounds: Sequence[Mapping[str, Any]],
) -> dict[str, np.ndarray[Any, Any]]:
    """Turn sounds into the model's inputs, as its feature extractor makes them (`input_features`, float32).

    The same sounds give the same inputs at every call, also where the extractor draws parts of long ones (CLAP).
    Extractors that do not pad by themselves pad to the longest of the batch.

    Raises:
        DataError: A row holds no sound.
    """
    extractor = processor.feature_extractor
    waves = [waveform(sound, extractor.sampling_rate) for sound in sounds]
    pads_itself = inspect.signature(extractor.__call__).parameters["padding"].default is not False
    padding = {} if pads_itself else {"padding": True}
    state = np.random.get_state()  # noqa: NPY002 - the generator that extractors draw from
    np.random.seed(0)  # noqa: NPY002
    try:
        prepared = extractor(waves, sampling_rate=extractor.sampling_rate, return_tensors="np", **padding)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return {name: np.asarray(values) for name, values in prepared.items()}


def possible_inputs(processor: ProcessorMixin, rows: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Turn a column-wise batch of rows into every input that its columns `image`, `audio` and `text` give.

    Of a row with a list of texts, the captions of one image, the first is taken.
    """
    made: dict[str, np.ndarray[Any, Any]] = {}
    if "image" in rows and hasattr(processor, "image_processor"):
        made |= image_inputs(processor, rows["image"])
    if "audio" in rows and hasattr(processor, "feature_extractor"):
        made |= audio_inputs(processor, rows["audio"])
    if "text" in rows and hasattr(processor, "tokenizer"):
        made |= text_inputs(processor, [text if isinstance(text, str) else text[0] for text in rows["text"]])
    return made


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
    made = possible_inputs(processor, rows)
    if missing := wanted - made.keys():
        msg = (
            f"the model reads {', '.join(sorted(missing))}, which the columns {', '.join(sorted(rows))} do not give; "
            f"map the dataset's columns with `columns: {{image: ..., text: ...}}`"
        )
        raise DataError(msg)
    return {name: array for name, array in made.items() if name in wanted}


def with_masks(inputs: Mapping[str, np.ndarray[Any, Any]], wanted: AbstractSet[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Attend to everything where a mask is wanted and none is given, as torch models do."""
    given = dict(inputs)
    if "attention_mask" in wanted and "attention_mask" not in given:
        masked = next((given[name] for name in ("input_ids", "input_features", "input_values") if name in given), None)
        if masked is not None:
            given["attention_mask"] = np.ones(masked.shape[:2], np.int64)
    return given
