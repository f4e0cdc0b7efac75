"""ONNX Runtime: exports by optimum's exporter, loaded with optimum's stock classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import onnxruntime
import optimum.onnxruntime
from optimum.exporters.onnx import main_export
from optimum.exporters.tasks import TasksManager

from hfcompress.anatomy import copy_processor, load_config, model_class
from hfcompress.contracts import Checkpoint, Format, Model, Runtime
from hfcompress.errors import CheckpointError, QuantizationError
from hfcompress.inputs import load_processor
from hfcompress.narrowing import with_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from optimum.onnxruntime import ORTModel
    from transformers import PretrainedConfig

__all__ = ["ONNX_FOLDER", "OnnxRuntime", "export_task"]

ONNX_FOLDER = "onnx"
"""Folder of the graphs inside a checkpoint, where transformers.js and optimum look for them."""

_GENERAL_TASK = "feature-extraction"


class _OnnxRuntimeModel(Model):
    def __init__(self, path: Path, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
            # idle workers that spin would slow down whatever runs beside this session
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        stock = _stock_class(load_config(path))
        try:
            self.stock = stock.from_pretrained(path, provider="CPUExecutionProvider", session_options=options)
        except (OSError, ValueError, RuntimeError) as error:
            msg = f"{stock.__name__} cannot load {path}: {error}"
            raise CheckpointError(msg) from error
        self.config = self.stock.config
        self.processor = load_processor(path)
        self.inputs = frozenset(self.stock.input_names)

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        return {name: value for name, value in self.stock(**inputs).items() if value is not None}


class OnnxRuntime(Runtime):
    """Runs ONNX exports in ONNX Runtime on the CPU."""

    format: ClassVar[Format] = "onnx"
    extra: ClassVar[str | None] = "onnxruntime"

    def load(self, path: Path, threads: int | None = None) -> Model:
        """Load an export with the optimum class for its architecture."""
        return _OnnxRuntimeModel(path, threads)

    def export(self, checkpoint: Checkpoint, output: Path) -> Checkpoint:
        """Export to ONNX in float32: graphs under `onnx/`, configuration and processor beside them."""
        config = load_config(checkpoint.path)
        task = export_task(config)
        graphs = output / ONNX_FOLDER
        main_export(
            str(checkpoint.path),
            graphs,
            task=task,
            library_name="transformers",
            do_validation=False,
        )
        for file in graphs.iterdir():
            if not file.name.endswith((".onnx", ".onnx_data")):
                file.unlink()
        with_record(config, None).save_pretrained(
            output
        )  # the graphs have their shapes, and need no one to narrow them
        copy_processor(checkpoint.path, output)
        return Checkpoint(output, "onnx")

    def describe(self, config: PretrainedConfig) -> str:
        """Say under which task optimum exports the model."""
        return f"exported by optimum as {export_task(config)}"

    def load_class(self, path: Path) -> str:
        """Return optimum's class for the architecture."""
        return f"optimum.onnxruntime.{_stock_class(load_config(path)).__name__}"


def export_task(config: PretrainedConfig) -> str:
    """Return the task under which optimum exports a model, the most specific one it has a class for.

    Raises:
        QuantizationError: optimum has no export for the architecture; the text names what it does export.
    """
    return _candidates(config)[0][0]


def _stock_class(config: PretrainedConfig) -> type[ORTModel]:
    return _candidates(config)[0][1]


def _candidates(config: PretrainedConfig) -> list[tuple[str, type[ORTModel]]]:
    """Return every (task, class) under which optimum exports and loads the architecture, most specific first."""
    supported = _supported_tasks(config)
    architecture = model_class(config).__name__
    found = [
        (task, stock)
        for stock in _stock_classes()
        if stock.auto_model_class._model_mapping.get(type(config), type).__name__ == architecture  # noqa: SLF001
        and (task := TasksManager.infer_task_from_model(stock.auto_model_class, library_name="transformers"))
        in supported
    ]
    if not found:
        tasks = ", ".join(supported)
        msg = f"optimum exports {config.model_type!r} models ({tasks}), but has no class that loads a {architecture}"
        raise QuantizationError(msg)
    return sorted(found, key=lambda pair: pair[0] == _GENERAL_TASK)


def _supported_tasks(config: PretrainedConfig) -> list[str]:
    try:
        return sorted(
            TasksManager.get_supported_tasks_for_model_type(config.model_type, "onnx", library_name="transformers")
        )
    except KeyError as error:
        known = TasksManager.get_supported_model_type_for_task("zero-shot-image-classification", "onnx")
        msg = (
            f"optimum's ONNX exporter has no export for {config.model_type!r} models; of the dual encoders it exports "
            f"{', '.join(sorted(known))}"
        )
        raise QuantizationError(msg) from error


def _stock_classes() -> Iterator[type[ORTModel]]:
    """Yield optimum's model classes that stand for one of transformers' auto classes."""
    for name in dir(optimum.onnxruntime):
        if name.startswith("ORTModelFor"):
            stock = getattr(optimum.onnxruntime, name)
            if getattr(stock.auto_model_class, "_model_mapping", None) is not None:
                yield stock
