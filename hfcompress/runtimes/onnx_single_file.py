"""An export that needs no table: inputs made from the configuration, axes found by trying, and the result compared."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from optimum.exporters.onnx import OnnxConfig
from optimum.utils import NormalizedConfig

from hfcompress.anatomy import model_class
from hfcompress.errors import CheckpointError, QuantizationError
from hfcompress.inputs import audio_inputs, load_processor
from hfcompress.probes import example_inputs
from hfcompress.runtimes.onnx_export import Export, is_dual_encoder
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS, session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    Inputs: TypeAlias = dict[str, Tensor]
    Axes: TypeAlias = dict[str, dict[int, str]]
    Adapt: TypeAlias = Callable[[PretrainedConfig, Inputs], Inputs]

__all__ = ["TOLERANCE", "SingleFileConfig", "single_file", "with_image_tokens"]

TOLERANCE = 1e-3
"""Largest difference between a graph and its model, as a fraction of the largest output, that is accepted."""

_TEXT = ("input_ids", "attention_mask", "decoder_input_ids")
_ROWS, _TOKENS = 2, 12
_SAMPLES = 16_000


class SingleFileConfig(OnnxConfig):  # type: ignore[misc] # optimum has no types
    """optimum's description of a model that becomes one graph.

    Args:
        config: The model's configuration.
        arguments: Inputs that the model is traced with.
        inputs: Name of an input → its axes that vary, with their names.
        outputs: The same of the outputs, in the model's order.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedConfig

    def __init__(self, config: PretrainedConfig, arguments: Inputs, inputs: Axes, outputs: Axes) -> None:
        super().__init__(config)
        self._arguments, self._inputs, self._outputs = arguments, inputs, outputs

    @property
    def inputs(self) -> Axes:
        """The axes of the inputs that vary."""
        return self._inputs

    @property
    def outputs(self) -> Axes:
        """The axes of the outputs that vary."""
        return self._outputs

    def generate_dummy_inputs(self, framework: str = "pt", **shapes: int) -> dict[str, Any]:
        """Return the inputs that the model is traced with, in the one shape that is known to work."""
        del shapes
        return {name: tensor if framework == "pt" else tensor.numpy() for name, tensor in self._arguments.items()}


def single_file(config: PretrainedConfig) -> Export:
    """Export a model as one graph that takes what its forward pass takes.

    The graph is run beside the model on inputs of other sizes than those it was traced with, and thrown away if the
    outputs differ by more than 1e-3 of their scale.
    """
    return _export(config, lambda _, inputs: inputs)


def with_image_tokens(config: PretrainedConfig) -> Export:
    """Export a model as one graph whose texts begin with the tokens that stand for the queries of the image."""
    return _export(config, _begin_with_image)


def _export(config: PretrainedConfig, adapt: Adapt) -> Export:
    is_zero_shot = is_dual_encoder(config) and hasattr(model_class(config), "get_image_features")
    return Export(
        task="zero-shot-image-classification" if is_zero_shot else "feature-extraction",
        stock_class="ORTModelForZeroShotImageClassification" if is_zero_shot else "ORTModelForCustomTasks",
        parts=partial(_parts, adapt=adapt),
        check=partial(_check, adapt=adapt),
    )


def _begin_with_image(config: PretrainedConfig, inputs: Inputs) -> Inputs:
    """Put the tokens of the image before each text."""
    ids = inputs["input_ids"]
    image = ids.new_full((len(ids), config.num_query_tokens), config.image_token_index)
    return {**inputs, "input_ids": torch.cat([image, ids], dim=1)}


def _parts(model: PreTrainedModel, path: Path, adapt: Adapt) -> Mapping[str, tuple[torch.nn.Module, SingleFileConfig]]:
    """Trace what varies with the number of rows and with the length of the texts, and describe the model by it."""
    make = partial(_inputs, model, path, adapt)
    arguments = make(_ROWS, _ROWS, _TOKENS)
    if is_dual_encoder(model.config):
        others = {
            "text_batch_size": make(_ROWS, _ROWS + 1, _TOKENS),
            "batch_size": make(_ROWS + 1, _ROWS, _TOKENS),
        }
    else:
        others = {"batch_size": make(_ROWS + 1, _ROWS + 1, _TOKENS)}
    others["sequence_length"] = make(_ROWS, _ROWS, _TOKENS + 3)
    outputs = _run(model, arguments)
    found = {axis: _run(model, inputs) for axis, inputs in others.items()}
    config = SingleFileConfig(model.config, arguments, _axes(arguments, others), _axes(outputs, found))
    return {"model": (model, config)}


def _axes(base: Inputs, others: Mapping[str, Inputs]) -> Axes:
    """Name each axis by the change under which its size changed."""
    return {
        name: {
            axis: what
            for what, changed in others.items()
            for axis, (size, other) in enumerate(zip(tensor.shape, changed[name].shape, strict=True))
            if size != other
        }
        for name, tensor in base.items()
    }


def _inputs(model: PreTrainedModel, path: Path, adapt: Adapt, rows: int, texts: int, tokens: int) -> Inputs:
    """Return inputs for a number of images or sounds, a number of texts, and their length."""
    made = example_inputs(model, rows, tokens)
    names = inspect.signature(model.forward).parameters
    made |= {name: tensor for name, tensor in example_inputs(model, texts, tokens).items() if name in _TEXT}
    if not getattr(getattr(model.config, "audio_config", None), "enable_fusion", True):
        made.pop("is_longer", None)  # only models that fuse views of a long sound look at it
    if "input_features" in made:
        made["input_features"] = _features(path, made["input_features"])
    made = adapt(model.config, made)
    if "input_ids" in made and "attention_mask" in names:
        made["attention_mask"] = torch.ones_like(made["input_ids"])
    return {name: made[name] for name in names if name in made}


def _features(path: Path, example: Tensor) -> Tensor:
    """Return features of as many frames as the checkpoint's own extractor makes, for that number is in the graph."""
    try:
        processor: Any = load_processor(path)
    except CheckpointError:
        return example
    extractor = processor.feature_extractor
    sound = {"array": np.zeros(_SAMPLES, np.float32), "sampling_rate": extractor.sampling_rate}
    shape = audio_inputs(processor, [sound])["input_features"].shape[1:]
    return torch.randn((len(example), *shape), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _run(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Return the outputs that are arrays of numbers, but for a loss."""
    fixed = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    outputs: Mapping[str, Any] = model(**inputs, **fixed)
    return {
        name: value
        for name, value in outputs.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 0
    }


def _check(model: PreTrainedModel, path: Path, graphs: Path, adapt: Adapt) -> None:
    """Run graph and model on inputs of another size than those that were traced.

    Raises:
        QuantizationError: The graph does not run, or gives something else.
    """
    rows = _ROWS + 2
    inputs = _inputs(model, path, adapt, rows, rows, _TOKENS + 1)
    running = session(graphs / "model.onnx")
    names = [put.name for put in running.get_outputs()]
    wanted = {put.name for put in running.get_inputs()}
    given = {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted}
    try:
        found = dict(zip(names, running.run(names, given), strict=True))
    except RUNTIME_ERRORS as error:
        msg = f"the exported graph of a {type(model).__name__} runs with no other number of rows or tokens: {error}"
        raise QuantizationError(msg) from error
    outputs = _run(model, inputs)
    if missing := sorted(outputs.keys() - found.keys()):
        msg = (
            f"the exported graph is not the {type(model).__name__}: it lacks the outputs {', '.join(missing)}; it has "
            f"{', '.join(names)}"
        )
        raise QuantizationError(msg)
    for name, expected in outputs.items():
        scale = max(float(expected.abs().max()), 1e-6)
        off = float(np.abs(found[name] - expected.numpy()).max()) / scale
        if not off <= TOLERANCE:
            msg = (
                f"the exported graph is not the {type(model).__name__}: its output {name!r} differs by {off:.3g} of "
                f"its scale (at most {TOLERANCE:g} is accepted)"
            )
            raise QuantizationError(msg)
