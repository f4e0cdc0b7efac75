"""From a transformers checkpoint to float32 ONNX graphs, through optimum's exporter.

Most architectures have an export configuration in optimum. Those that have none get one of ours, or of a third party,
from the registry of exports, and go through the same exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import optimum.onnxruntime
import torch
from optimum.exporters.onnx import export_models, onnx_export_from_model
from optimum.exporters.tasks import TasksManager
from optimum.exporters.utils import get_encoder_decoder_models_for_export
from optimum.onnxruntime import ORTModelForCustomTasks
from optimum.onnxruntime.modeling_seq2seq import ORTModelForConditionalGeneration
from optimum.utils.save_utils import maybe_load_preprocessors
from transformers.modeling_outputs import BaseModelOutput

from hfcompress.anatomy import has_own_classes, load_model, model_class
from hfcompress.errors import QuantizationError
from hfcompress.registry import EXPORTS
from hfcompress.remote_code import is_trusted
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS
from hfcompress.runtimes.tasks import classes_of, described, modalities_of, model_types, tracing_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optimum.exporters.onnx import OnnxConfig
    from optimum.onnxruntime import ORTModel
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["PAST", "Export", "Exporter", "Route", "export_graphs", "export_task", "is_dual_encoder", "route"]

_REFUSALS: tuple[type[Exception], ...] = (
    *RUNTIME_ERRORS,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
)
"""What tracing or running a model raises where it cannot be traced or run."""

_GENERAL_TASK = "feature-extraction"
PAST = "-with-past"
"""How the tasks end whose decoder has a second file, for the tokens after the first."""
_DECODER, _CONTINUING = "decoder_model", "decoder_with_past_model"


def _unchanged(config: PretrainedConfig) -> PretrainedConfig:
    return config


@dataclass(frozen=True)
class Export:
    """How a model goes to ONNX where optimum has no configuration for it.

    Attributes:
        task: What optimum would call the task.
        stock_class: Name of the class of `optimum.onnxruntime` that loads the result.
        parts: From a loaded model and its folder to the graphs: file name without suffix → the module that becomes the
            graph, and optimum's description of its inputs and outputs.
        describe: From the model's configuration to the one that the stock class needs beside the graphs.
        check: Compares the graphs in a folder with the model, and raises a `QuantizationError` where they differ.
    """

    task: str
    stock_class: str
    parts: Callable[[PreTrainedModel, Path], Mapping[str, tuple[torch.nn.Module, OnnxConfig]]]
    describe: Callable[[PretrainedConfig], PretrainedConfig] = _unchanged
    check: Callable[[PreTrainedModel, Path, Path], None] | None = None


Exporter: TypeAlias = Callable[["PretrainedConfig"], "Export | None"]
"""What is registered for a model type: the export of a configuration, `None` where optimum's own is to be used."""


@dataclass(frozen=True)
class Route:
    """The way of a configuration to ONNX.

    Attributes:
        task: optimum's name of the task.
        stock: The class that loads the result.
        export: The registered export; `None` where optimum has its own.
    """

    task: str
    stock: type[ORTModel]
    export: Export | None = None

    @property
    def has_several_files(self) -> bool:
        """Whether encoder and decoder become files of their own."""
        return issubclass(self.stock, ORTModelForConditionalGeneration)


def route(config: PretrainedConfig) -> Route:
    """Choose how a model goes to ONNX: a registered export first, then the most specific task that optimum knows.

    Raises:
        QuantizationError: Nobody exports the architecture; the text names what is exported.
    """
    if config.model_type in EXPORTS and (export := EXPORTS.get(config.model_type)(config)) is not None:
        return Route(export.task, getattr(optimum.onnxruntime, export.stock_class), export)
    supported = _supported_tasks(config)
    if has_own_classes(config):
        msg = (
            f"the classes of this {config.model_type!r} model are code of its own (`auto_map`), and optimum's ONNX "
            "exporter describes the stock class alone; quantize it with `runtime: torchao`"
        )
        raise QuantizationError(msg)
    ways = (*_by_class(config, supported), *_by_task(config, supported))
    found = [way for way in ways if _takes_everything(config, way.task)]
    if not found:
        msg = (
            f"optimum exports {config.model_type!r} models ({', '.join(supported)}), but has no class that loads a "
            f"{model_class(config).__name__}"
        )
        raise QuantizationError(msg)
    return min(found, key=lambda way: way.task == _GENERAL_TASK)


def export_task(config: PretrainedConfig) -> str:
    """Return the task under which a model is exported, the most specific one that there is a class for.

    Raises:
        QuantizationError: Nobody exports the architecture; the text names what is exported.
    """
    return route(config).task


def is_dual_encoder(config: PretrainedConfig) -> bool:
    """Whether the architecture gives texts and images, or texts and sounds, embeddings of their own."""
    architecture = model_class(config)
    others = ("get_image_features", "get_audio_features")
    return hasattr(architecture, "get_text_features") and any(hasattr(architecture, other) for other in others)


def export_graphs(path: Path, config: PretrainedConfig, graphs: Path) -> PretrainedConfig:
    """Write the float32 graphs of a checkpoint, whatever type its weights are stored in.

    Args:
        path: The checkpoint folder.
        config: Its configuration.
        graphs: The folder for the graphs.

    Returns:
        The configuration that the class which loads the graphs needs.

    Raises:
        QuantizationError: Nobody exports the architecture, or what was exported differs from the model.
    """
    way = route(config)
    model = load_model(path)
    graphs.mkdir(parents=True, exist_ok=True)
    try:
        if way.export is None:
            _by_optimum(way, model, path, graphs)
        else:
            _by_registered(way.export, model, path, graphs)
    except _REFUSALS as error:
        msg = f"optimum's ONNX exporter cannot export this {type(model).__name__} as {way.task}: {error}"
        raise QuantizationError(msg) from error
    if way.export is None:
        return config
    if way.export.check is not None:
        try:
            way.export.check(model, path, graphs)
        except _REFUSALS as error:
            msg = f"the exported graphs of this {type(model).__name__} cannot be compared with it: {error}"
            raise QuantizationError(msg) from error
    return way.export.describe(config)


def _by_registered(export: Export, model: PreTrainedModel, path: Path, graphs: Path) -> None:
    """Export with a registered description of each part."""
    parts = dict(export.parts(model, path))
    export_models(
        models_and_onnx_configs=parts,
        output_dir=graphs,
        output_names=[f"{name}.onnx" for name in parts],
        opset=max(part.DEFAULT_ONNX_OPSET for _, part in parts.values()),
    )


def _by_optimum(way: Route, model: PreTrainedModel, path: Path, graphs: Path) -> None:
    """Export with optimum's own configuration, as its command line does."""
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = way.task.endswith(PAST)
    preprocessors = maybe_load_preprocessors(str(path), trust_remote_code=is_trusted(path))
    onnx_export_from_model(
        model,
        graphs,
        task=way.task,
        do_validation=False,
        no_post_process=True,  # it would put decoder and decoder with past into one graph with branches
        custom_onnx_configs=_continuing(way, model, preprocessors),
        preprocessors=preprocessors,
        **tracing_shapes(model.config),
    )
    for file in graphs.iterdir():
        if not file.name.endswith((".onnx", ".onnx_data")):
            file.unlink()


def _continuing(way: Route, model: PreTrainedModel, preprocessors: list[Any]) -> dict[str, OnnxConfig]:
    """Return optimum's description of a decoder with past, traced with a cache that the model itself has filled.

    optimum makes one from the number of heads of the encoder, which need not be that of the decoder, and which a pruned
    layer does not have.
    """
    if not (way.has_several_files and way.task.endswith(PAST)):
        return {}
    make = TasksManager.get_exporter_config_constructor(
        model=model, exporter="onnx", task=way.task, library_name="transformers"
    )
    parts = get_encoder_decoder_models_for_export(model, make(model.config, preprocessors=preprocessors))
    first, continuing = parts[_DECODER][1], parts[_CONTINUING][1]
    guessed = continuing.generate_dummy_inputs

    def generate_dummy_inputs(framework: str = "pt", **shapes: int) -> dict[str, Any]:
        inputs: dict[str, Any] = guessed(framework=framework, **shapes)
        beginning = first.generate_dummy_inputs(framework="pt", **shapes)
        beginning["encoder_outputs"] = BaseModelOutput(last_hidden_state=beginning["encoder_outputs"][0])
        with torch.no_grad():
            begun = model(**beginning, use_cache=True)
        kinds = len(inputs["past_key_values"][0])
        inputs["past_key_values"] = [
            tuple(states if framework == "pt" else states.numpy() for states in layer[:kinds])
            for layer in begun.past_key_values.to_legacy_cache()
            if layer[0] is not None  # a cache may hold places for layers that the decoder does not have
        ]
        return inputs

    continuing.generate_dummy_inputs = generate_dummy_inputs
    return {_CONTINUING: continuing}


def _by_class(config: PretrainedConfig, supported: list[str]) -> Iterator[Route]:
    """Yield every way that ends with an optimum class made for the architecture."""
    architecture = model_class(config).__name__
    for stock in _stock_classes():
        task = TasksManager.infer_task_from_model(stock.auto_model_class, library_name="transformers")
        if task not in supported or architecture not in classes_of(stock.auto_model_class, config):
            continue
        if issubclass(stock, ORTModelForConditionalGeneration) and task + PAST in supported:
            task += PAST
        if task == _GENERAL_TASK and "last_hidden_state" not in described(config, task, "onnx").outputs:
            continue  # the general class reads nothing else
        yield Route(task, stock)


def _by_task(config: PretrainedConfig, supported: list[str]) -> Iterator[Route]:
    """Yield every way to a single file that optimum exports without having a class for its task."""
    if config.is_encoder_decoder:
        return
    architecture = model_class(config).__name__
    for task in supported:
        try:
            auto = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
        except (KeyError, ValueError):
            continue
        if not task.endswith(PAST) and architecture in classes_of(auto, config):
            yield Route(task, ORTModelForCustomTasks)


def _takes_everything(config: PretrainedConfig, task: str) -> bool:
    """Whether optimum's export under a task takes every image and sound that the model takes.

    As a plain language model, a model that sees would be exported without its eyes.
    """
    taken: Mapping[str, Any] = described(config, task, "onnx").inputs
    return modalities_of(config) <= taken.keys()


def _supported_tasks(config: PretrainedConfig) -> list[str]:
    try:
        return sorted(
            TasksManager.get_supported_tasks_for_model_type(config.model_type, "onnx", library_name="transformers")
        )
    except KeyError as error:
        msg = (
            f"optimum's ONNX exporter has no export for {config.model_type!r} models; of those that its classes load "
            f"it exports {', '.join(_known_types())}, and hfcompress adds {', '.join(EXPORTS)}; another package can "
            f"add one through the entry-point group {EXPORTS.group!r}"
        )
        raise QuantizationError(msg) from error


def _known_types() -> list[str]:
    """Return the model types that optimum exports under any task that a stock class is for."""
    tasks = {
        TasksManager.infer_task_from_model(stock.auto_model_class, library_name="transformers")
        for stock in _stock_classes()
    }
    return model_types(tasks, "onnx")


def _stock_classes() -> Iterator[type[ORTModel]]:
    """Yield optimum's model classes that stand for one of transformers' auto classes."""
    for name in dir(optimum.onnxruntime):
        if name.startswith("ORTModelFor"):
            stock = getattr(optimum.onnxruntime, name)
            if getattr(stock.auto_model_class, "_model_mapping", None) is not None:
                yield stock
