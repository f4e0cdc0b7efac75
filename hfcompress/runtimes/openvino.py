"""OpenVINO: exports by optimum-intel's exporter, loaded with optimum-intel's stock classes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import optimum.intel.openvino
from optimum.exporters.openvino import export_from_model
from optimum.exporters.openvino.utils import clear_class_registry, load_preprocessors
from optimum.exporters.tasks import TasksManager
from optimum.intel.openvino import OVConfig, OVModelForCustomTasks
from optimum.intel.openvino.modeling_visual_language import MODEL_TYPE_TO_CLS_MAPPING, OVModelForVisualCausalLM

from hfcompress.anatomy import copy_processor, has_own_classes, load_config, load_model, model_class
from hfcompress.contracts import Checkpoint, Format, Model, Runtime
from hfcompress.errors import CheckpointError, QuantizationError
from hfcompress.inputs import load_processor
from hfcompress.narrowing import with_record
from hfcompress.remote_code import is_trusted
from hfcompress.runtimes.openvino_proof import call, check_sample, first_words, inputs_of, sample
from hfcompress.runtimes.tasks import classes_of, described, modalities_of, model_types, tracing_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from optimum.intel.openvino.modeling_base import OVBaseModel
    from transformers import PretrainedConfig

__all__ = ["OpenVino", "StockExport", "load_stock", "stock_export"]

_GENERAL_TASK = "feature-extraction"
_MULTIMODAL = ("zero-shot-image-classification", "image-text-to-text", "automatic-speech-recognition")
"""Tasks whose models are told of where one cannot be exported."""
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
        self.inputs = inputs_of(self.stock)

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        return call(self.stock, inputs)


class OpenVino(Runtime):
    """Runs OpenVINO exports on the CPU."""

    format: ClassVar[Format] = "openvino"
    extra: ClassVar[str | None] = "openvino"

    def load(self, path: Path, threads: int | None = None) -> Model:
        """Load an export with the optimum-intel class for its architecture."""
        return _OpenVinoModel(path, threads)

    def export(self, checkpoint: Checkpoint, output: Path) -> Checkpoint:
        """Export to OpenVINO in float32: graphs, configuration and processor in one folder, no tokenizer graphs.

        Raises:
            QuantizationError: optimum-intel cannot export the model, or the export does not compute what the model
                does: each is run on the same noise, in float32.
        """
        config = load_config(checkpoint.path)
        way = stock_export(config)
        model = load_model(checkpoint.path)
        # the layers are as the record says by now, and OpenVINO takes whoever has such a field for quantized weights
        model.config = with_record(model.config, None)
        made = sample(model, checkpoint.path, way.stock)
        try:
            export_from_model(
                model,
                output,
                task=way.task,
                preprocessors=load_preprocessors(
                    str(checkpoint.path),
                    trust_remote_code=is_trusted(checkpoint.path),
                    model_type=config.model_type,
                ),
                ov_config=OVConfig(dtype="fp32"),
                **tracing_shapes(config),
            )
        except _REFUSALS as error:
            msg = f"optimum-intel cannot export this {config.model_type!r} model as {way.task}: {first_words(error)}"
            raise QuantizationError(msg) from error
        finally:
            clear_class_registry()  # or everything that was traced stays in memory
        written = load_config(output)  # with what the classes that load the graphs read beside the source's
        for file in output.iterdir():
            if not file.name.startswith("openvino") and file.name != "generation_config.json":
                file.unlink()
        copy_processor(checkpoint.path, output)
        # the graphs have their shapes, and need no one to narrow them
        with_record(written, None).save_pretrained(output)
        check_sample(made, load_stock(output, precision="f32"))
        return Checkpoint(output, "openvino")

    def describe(self, config: PretrainedConfig) -> str:
        """Say under which task optimum-intel exports the model."""
        return f"exported by optimum-intel as {stock_export(config).task}"

    def load_class(self, path: Path) -> str:
        """Return optimum-intel's class for the architecture."""
        return f"optimum.intel.openvino.{stock_export(load_config(path)).stock.__name__}"


def load_stock(
    path: Path, threads: int | None = None, *, compiled: bool = True, precision: str | None = None
) -> OVBaseModel:
    """Load an export with its stock class.

    Args:
        path: The folder.
        threads: Threads that a call may use; all that OpenVINO wants by default.
        compiled: Whether it is made ready to run, and not only read.
        precision: OpenVINO's name of the type to compute in ("f32"); by default what it finds fastest, which is
            bfloat16 on processors with AMX or AVX-512 BF16, even of float32 weights.

    Raises:
        CheckpointError: The files are missing, or OpenVINO cannot read them.
        QuantizationError: optimum-intel has no class for the architecture.
    """
    stock = stock_export(load_config(path)).stock
    settings = {"CACHE_DIR": ""} | ({} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)})
    settings |= {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    try:
        return stock.from_pretrained(
            str(path),
            export=False,
            compile=compiled,
            device="CPU",
            ov_config=settings,
            trust_remote_code=is_trusted(path),
        )
    except (OSError, *_REFUSALS) as error:
        msg = f"{stock.__name__} cannot load {path}: {error}"
        raise CheckpointError(msg) from error


def stock_export(config: PretrainedConfig) -> StockExport:
    """Return how optimum-intel exports and loads an architecture, the most specific way that it has.

    Raises:
        QuantizationError: It has none; the text names what it does export.
    """
    if has_own_classes(config):
        msg = (
            f"the classes of this {config.model_type!r} model are code of its own (`auto_map`), which optimum-intel "
            "exports by fetching and running more code, from where no commit of the recipe pins it; quantize it with "
            "`runtime: torchao`"
        )
        raise QuantizationError(msg)
    supported = _supported_tasks(config)
    architecture = model_class(config).__name__
    found = list(_candidates(config, architecture, supported))
    if not found:
        tasks = ", ".join(supported)
        msg = (
            f"optimum-intel exports {config.model_type!r} models ({tasks}), but has no class that loads a "
            f"{architecture} and gives it all that it reads"
        )
        raise QuantizationError(msg)
    return min(found, key=lambda way: _GENERALITY.get(way.task.removesuffix("-with-past"), 0))


def _candidates(config: PretrainedConfig, architecture: str, supported: list[str]) -> Iterator[StockExport]:
    """Yield the ways to export and load an architecture; those with a class of their own before the general class."""
    for stock in _stock_classes():
        task: str = stock.export_feature
        if task not in supported or architecture not in classes_of(stock.auto_model_class, config):
            continue
        if issubclass(stock, OVModelForVisualCausalLM) and config.model_type not in MODEL_TYPE_TO_CLS_MAPPING:
            continue
        if not modalities_of(config) <= inspect.signature(stock.forward).parameters.keys():
            continue  # it would be run without its images or sounds
        if task == _GENERAL_TASK and "last_hidden_state" not in described(config, task, "openvino").outputs:
            continue  # the general class reads nothing else
        with_past = f"{task}-with-past"  # a decoder that need not read its whole past at every token
        yield StockExport(with_past if with_past in supported else task, stock)
    for task in () if config.is_encoder_decoder else supported:  # the general class loads one graph
        if task in TasksManager.get_all_tasks():
            auto = TasksManager.get_model_class_for_task(task, model_type=config.model_type, library="transformers")
            taken = described(config, task, "openvino").inputs
            if architecture in classes_of(auto, config) and modalities_of(config) <= taken.keys():
                yield StockExport(task, OVModelForCustomTasks)


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
        known = model_types(_MULTIMODAL, "openvino")
        msg = (
            f"optimum-intel's OpenVINO exporter has no export for {config.model_type!r} models; of the multimodal ones "
            f"it exports {', '.join(known)}"
        )
        raise QuantizationError(msg) from error
    return sorted(tasks)
