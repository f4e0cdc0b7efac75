"""OpenVINO: exports by optimum-intel's exporter, loaded with optimum-intel's stock classes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import optimum.intel.openvino
import torch
import transformers
from optimum.exporters.openvino import export_from_model
from optimum.exporters.openvino.utils import clear_class_registry, load_preprocessors
from optimum.exporters.tasks import TasksManager
from optimum.intel.openvino import OVConfig, OVModelForCustomTasks
from optimum.intel.openvino.modeling_visual_language import MODEL_TYPE_TO_CLS_MAPPING, OVModelForVisualCausalLM
from optimum.utils import DEFAULT_DUMMY_SHAPES

from hfcompress.anatomy import copy_processor, load_config, load_model, model_class
from hfcompress.contracts import Checkpoint, Format, Model, Runtime
from hfcompress.errors import CheckpointError, QuantizationError
from hfcompress.inputs import load_processor
from hfcompress.narrowing import with_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from optimum.intel.openvino.modeling_base import OVBaseModel
    from transformers import PretrainedConfig

__all__ = ["OpenVino", "StockExport", "load_stock", "stock_export"]

_GENERAL_TASK = "feature-extraction"
_GENERALITY = {"text-generation": 1, _GENERAL_TASK: 2}
"""Tasks that leave out towers or heads of a multimodal model: taken where nothing more specific is there."""

_REFUSALS = (
    AttributeError,
    AssertionError,
    ImportError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What exporter and model classes raise on a model that they cannot take."""


@dataclass(frozen=True)
class StockExport:
    """How optimum-intel exports and loads an architecture.

    Attributes:
        task: The exporter's task ("automatic-speech-recognition-with-past").
        stock: The class that loads the export.
    """

    task: str
    stock: type[OVBaseModel]


class _OpenVinoModel(Model):
    def __init__(self, path: Path, threads: int | None) -> None:
        self.stock = load_stock(path, threads)
        self.config = self.stock.config
        self.processor = load_processor(path)
        single = self.stock._ov_model_names == ["model"]  # noqa: SLF001 - the only sign that it is one graph
        taken = self.stock.input_names if single else inspect.signature(self.stock.forward).parameters
        self.inputs = frozenset(taken)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        outputs = self.stock(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}


class OpenVino(Runtime):
    """Runs OpenVINO exports on the CPU."""

    format: ClassVar[Format] = "openvino"
    extra: ClassVar[str | None] = "openvino"

    def load(self, path: Path, threads: int | None = None) -> Model:
        """Load an export with the optimum-intel class for its architecture."""
        return _OpenVinoModel(path, threads)

    def export(self, checkpoint: Checkpoint, output: Path) -> Checkpoint:
        """Export to OpenVINO in float32: graphs, configuration and processor in one folder, no tokenizer graphs."""
        config = load_config(checkpoint.path)
        task = stock_export(config).task
        model = load_model(checkpoint.path)
        # the layers are as the record says by now, and OpenVINO takes whoever has such a field for quantized weights
        model.config = with_record(model.config, None)
        try:
            export_from_model(
                model,
                output,
                task=task,
                preprocessors=load_preprocessors(str(checkpoint.path), model_type=config.model_type),
                ov_config=OVConfig(dtype="fp32"),
                **_shapes(config),
            )
        except _REFUSALS as error:
            msg = f"optimum-intel cannot export this {config.model_type!r} model as {task}: {error}"
            raise QuantizationError(msg) from error
        finally:
            clear_class_registry()  # or everything that was traced stays in memory
        described = load_config(output)  # with what the classes that load the graphs read beside the source's
        for file in output.iterdir():
            if not file.name.startswith("openvino") and file.name != "generation_config.json":
                file.unlink()
        copy_processor(checkpoint.path, output)
        # the graphs have their shapes, and need no one to narrow them
        with_record(described, None).save_pretrained(output)
        return Checkpoint(output, "openvino")

    def describe(self, config: PretrainedConfig) -> str:
        """Say under which task optimum-intel exports the model."""
        return f"exported by optimum-intel as {stock_export(config).task}"

    def load_class(self, path: Path) -> str:
        """Return optimum-intel's class for the architecture."""
        return f"optimum.intel.openvino.{stock_export(load_config(path)).stock.__name__}"


def load_stock(path: Path, threads: int | None = None, *, compiled: bool = True) -> OVBaseModel:
    """Load an export with its stock class.

    Args:
        path: The folder.
        threads: Threads that a call may use; all that OpenVINO wants by default.
        compiled: Whether it is made ready to run, and not only read.

    Raises:
        CheckpointError: The files are missing, or OpenVINO cannot read them.
        QuantizationError: optimum-intel has no class for the architecture.
    """
    stock = stock_export(load_config(path)).stock
    settings = {"CACHE_DIR": ""} | ({} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)})
    try:
        return stock.from_pretrained(str(path), export=False, compile=compiled, device="CPU", ov_config=settings)
    except (OSError, *_REFUSALS) as error:
        msg = f"{stock.__name__} cannot load {path}: {error}"
        raise CheckpointError(msg) from error


def stock_export(config: PretrainedConfig) -> StockExport:
    """Return how optimum-intel exports and loads an architecture, the most specific way that it has.

    Raises:
        QuantizationError: It has none; the text names what it does export.
    """
    supported = _supported_tasks(config)
    architecture = model_class(config).__name__
    found = list(_candidates(config, architecture, supported))
    if not found:
        tasks = ", ".join(supported)
        msg = (
            f"optimum-intel exports {config.model_type!r} models ({tasks}), but has no class that loads a "
            f"{architecture}"
        )
        raise QuantizationError(msg)
    return min(found, key=lambda way: _GENERALITY.get(way.task.removesuffix("-with-past"), 0))


def _shapes(config: PretrainedConfig) -> dict[str, int]:
    """Return the sizes of the inputs that the exporter traces with, where its own do not fit the model."""
    positions = getattr(config, "max_source_positions", None)
    if positions is None:
        return {}
    # a Whisper reads exactly as many frames as its encoder has places for, two a place
    return {"nb_max_frames": min(2 * positions, DEFAULT_DUMMY_SHAPES["nb_max_frames"])}


def _candidates(config: PretrainedConfig, architecture: str, supported: list[str]) -> Iterator[StockExport]:
    """Yield the ways to export and load an architecture; those with a class of their own before the general class."""
    for stock in _stock_classes():
        task: str = stock.export_feature
        if task not in supported or architecture not in _taken_by(stock.auto_model_class, config):
            continue
        if issubclass(stock, OVModelForVisualCausalLM) and config.model_type not in MODEL_TYPE_TO_CLS_MAPPING:
            continue
        if task == _GENERAL_TASK and "last_hidden_state" not in _outputs(config, task):
            continue  # the general class reads nothing else
        with_past = f"{task}-with-past"  # a decoder that need not read its whole past at every token
        yield StockExport(with_past if with_past in supported else task, stock)
    for task in supported:
        if task in TasksManager.get_all_tasks():
            auto = TasksManager.get_model_class_for_task(task, model_type=config.model_type, library="transformers")
            if architecture in _taken_by(auto, config):
                yield StockExport(task, OVModelForCustomTasks)


def _outputs(config: PretrainedConfig, task: str) -> Mapping[str, Any]:
    """Return the outputs of an export by name."""
    make = TasksManager.get_exporter_config_constructor(
        exporter="openvino", task=task, model_type=config.model_type, library_name="transformers"
    )
    outputs: Mapping[str, Any] = make(config).outputs
    return outputs


def _taken_by(auto: Any, config: PretrainedConfig) -> set[str]:  # noqa: ANN401 - an auto class or a model's
    """Return the names of the classes that a class of transformers makes from a configuration."""
    mapping = getattr(auto, "_model_mapping", None)
    if mapping is None:
        return {auto.__name__}
    found = mapping.get(type(config), ())
    return {made.__name__ for made in (found if isinstance(found, tuple) else (found,))}


def _stock_classes() -> Iterator[type[OVBaseModel]]:
    """Yield optimum-intel's model classes, those for one class of transformers before those for an auto class."""
    classes = [
        stock
        for name in dir(optimum.intel.openvino)
        if name.startswith("OVModelFor")
        and (stock := getattr(optimum.intel.openvino, name)).export_feature is not None
        and stock.auto_model_class is not None
    ]
    return iter(sorted(classes, key=lambda stock: hasattr(stock.auto_model_class, "_model_mapping")))


def _supported_tasks(config: PretrainedConfig) -> list[str]:
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(
            config.model_type, "openvino", library_name="transformers"
        )
    except KeyError as error:
        known = sorted(
            {
                name
                for task in ("zero-shot-image-classification", "image-text-to-text", "automatic-speech-recognition")
                for name in TasksManager.get_supported_model_type_for_task(task, "openvino")
                if name in transformers.CONFIG_MAPPING
            }
        )
        msg = (
            f"optimum-intel's OpenVINO exporter has no export for {config.model_type!r} models; of the multimodal ones "
            f"it exports {', '.join(known)}"
        )
        raise QuantizationError(msg) from error
    return sorted(tasks)
