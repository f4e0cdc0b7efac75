"""What optimum's exporters know of an architecture under a task, for ONNX and for OpenVINO."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from optimum.exporters.tasks import TasksManager
from transformers import CONFIG_MAPPING

from hfcompress.anatomy import model_class

if TYPE_CHECKING:
    from collections.abc import Collection

    from optimum.exporters.onnx import OnnxConfig
    from transformers import PretrainedConfig

__all__ = ["classes_of", "described", "modalities_of", "model_types", "tracing_shapes"]

_MODALITIES = frozenset({"pixel_values", "input_features", "input_values", "flattened_patches"})


def classes_of(auto: Any, config: PretrainedConfig) -> set[str]:  # noqa: ANN401 - an auto class or a model's
    """Return the names of the classes that a class of transformers makes from a configuration."""
    mapping = getattr(auto, "_model_mapping", None)
    if mapping is None:
        return {auto.__name__}
    found = mapping.get(type(config), ())
    return {made.__name__ for made in (found if isinstance(found, tuple) else (found,))}


def described(config: PretrainedConfig, task: str, exporter: Literal["onnx", "openvino"]) -> OnnxConfig:
    """Return an exporter's own description of a model under a task: the inputs and outputs of what it would write."""
    make = TasksManager.get_exporter_config_constructor(
        exporter=exporter, task=task, model_type=config.model_type, library_name="transformers"
    )
    return make(config)


def model_types(tasks: Collection[str], exporter: Literal["onnx", "openvino"]) -> list[str]:
    """Return the model types of transformers that an exporter knows under any of some tasks.

    optimum's own list of a task fails as soon as another exporter has registered a type that this one does not know.
    """
    found = []
    for name in CONFIG_MAPPING:
        with suppress(KeyError):
            known = TasksManager.get_supported_tasks_for_model_type(name, exporter, library_name="transformers")
            if known.keys() & set(tasks):
                found.append(name)
    return sorted(found)


def modalities_of(config: PretrainedConfig) -> frozenset[str]:
    """Return the names of the images and sounds that an architecture takes."""
    return _MODALITIES & inspect.signature(model_class(config).forward).parameters.keys()


def tracing_shapes(config: PretrainedConfig) -> dict[str, int]:
    """Return the sizes of the inputs that the exporters trace with, where their own do not fit the model."""
    positions = getattr(config, "max_source_positions", None)
    if positions is None:
        return {}
    # a Whisper reads exactly as many frames as its encoder has places for, two a place
    return {"nb_max_frames": 2 * positions}
