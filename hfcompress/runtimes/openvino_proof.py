"""That an OpenVINO export computes what the model in torch does, in the stock class that loads it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from optimum.intel.openvino.modeling_visual_language import MODEL_TYPE_TO_CLS_MAPPING, OVModelForVisualCausalLM
from PIL import Image

from hfcompress.errors import QuantizationError
from hfcompress.inputs import load_processor, load_tokenizer, with_masks
from hfcompress.probes import find_probes
from hfcompress.runtimes.equality import check_equal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optimum.intel.openvino.modeling_base import OVBaseModel
    from transformers import PreTrainedModel

    Arrays = Mapping[str, np.ndarray[Any, Any]]

__all__ = ["Sample", "call", "check_sample", "first_words", "inputs_of", "sample"]

_ROWS, _TOKENS = 3, 12
"""Other sizes than those that optimum traces with."""

_IMAGE, _TEXT = (48, 64, 3), "What is this?"


@dataclass(frozen=True)
class Sample:
    """What a model in torch makes of some inputs.

    Attributes:
        kind: The model's class.
        inputs: Inputs by name.
        outputs: Its outputs that are arrays of numbers, but for a loss.
    """

    kind: str
    inputs: Arrays
    outputs: Arrays


def sample(model: PreTrainedModel, path: Path, stock: type[OVBaseModel]) -> Sample:
    """Run a model on noise; a vision-language model on an image of noise and a text, as its processor joins them.

    Args:
        model: The model in float32, before it is exported, for exporters change it.
        path: Its folder.
        stock: The class that will load the export.

    Raises:
        QuantizationError: It runs on no inputs that can be made from its configuration.
        CheckpointError: A vision-language model has no processor.
    """
    if issubclass(stock, OVModelForVisualCausalLM):
        given = _prompt(model, path)
    else:
        probe, *_ = find_probes(model, batch_size=_ROWS, tokens=_TOKENS)
        if probe.module:  # its parts alone can be run
            msg = (
                f"no inputs on which a {type(model).__name__} runs can be made from its configuration, so its export "
                f"could not be compared with it"
            )
            raise QuantizationError(msg)
        given = probe.inputs
    fixed = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    with torch.no_grad():
        outputs = model(**{**given, **fixed})
    return Sample(type(model).__name__, _arrays(given), _arrays(outputs, floating=True))


def check_sample(made: Sample, stock: OVBaseModel) -> None:
    """Compare a loaded export with its model.

    Args:
        made: Inputs, and what the model makes of them.
        stock: The export, loaded to compute in float32.

    Raises:
        QuantizationError: The export does not run, or gives something else.
    """
    taken = inputs_of(stock)
    try:
        found = call(stock, {name: array for name, array in made.inputs.items() if name in taken})
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        msg = f"the export of the {made.kind} does not run in {type(stock).__name__}: {first_words(error)}"
        raise QuantizationError(msg) from error
    common = {name: array for name, array in made.outputs.items() if name in found}
    if not common:
        msg = (
            f"the export of the {made.kind} gives {', '.join(found) or 'nothing'}, none of which the model itself "
            f"gives ({', '.join(made.outputs)})"
        )
        raise QuantizationError(msg)
    check_equal(made.kind, common, found)


def inputs_of(stock: OVBaseModel) -> frozenset[str]:
    """Return the names of the inputs that a loaded export takes."""
    return frozenset(stock.input_names if _is_one_graph(stock) else inspect.signature(stock.forward).parameters)


@torch.inference_mode()
def call(stock: OVBaseModel, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Run a loaded export; returns its outputs by name."""
    given = with_masks(inputs, inputs_of(stock)) if _is_one_graph(stock) else inputs
    outputs = stock(**{name: torch.from_numpy(array) for name, array in given.items()})
    return _arrays(outputs)


def _is_one_graph(stock: OVBaseModel) -> bool:
    return bool(stock._ov_model_names == ["model"])  # noqa: SLF001 - the only sign of it


def _prompt(model: PreTrainedModel, path: Path) -> dict[str, Any]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, _IMAGE, dtype=np.uint8))
    inputs: dict[str, Any] = MODEL_TYPE_TO_CLS_MAPPING[model.config.model_type].preprocess_inputs(
        text=_TEXT,
        image=image,
        processor=load_processor(path),
        tokenizer=load_tokenizer(path),
        config=model.config,
    )
    return dict(inputs)


def _arrays(values: Mapping[str, Any], *, floating: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: value.numpy()
        for name, value in values.items()
        if isinstance(value, torch.Tensor) and (not floating or (value.is_floating_point() and value.ndim > 0))
    }


def first_words(error: BaseException) -> str:
    """Return the lines of an error that tell something: OpenVINO's begin with places in its source."""
    words, *_ = str(error).partition("Please check correctness")
    lines = [line.strip() for line in words.splitlines() if line.strip() and not line.startswith("Exception")]
    return " ".join(lines[:2]) or type(error).__name__
