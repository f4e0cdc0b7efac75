"""ONNX Runtime: exports by optimum's exporter, loaded with optimum's stock classes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnxruntime
from optimum.onnxruntime import ORTModelForCustomTasks

from hfcompress.anatomy import copy_processor, load_config, model_class
from hfcompress.contracts import Checkpoint, Format, Model, Runtime
from hfcompress.errors import CheckpointError, QuantizationError
from hfcompress.graph_names import ONNX_FOLDER
from hfcompress.inputs import load_processor, with_masks
from hfcompress.narrowing import with_record
from hfcompress.remote_code import is_trusted
from hfcompress.runtimes.onnx_export import export_graphs, export_task, is_dual_encoder, route
from hfcompress.runtimes.onnx_files import check_external_data
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS
from hfcompress.runtimes.onnx_towers import Layout, lay_out, tower_graphs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optimum.onnxruntime import ORTModel
    from transformers import PretrainedConfig

__all__ = ["OnnxRuntime", "check_layout", "export_task", "load_stock"]

_DECODER_IDS = "decoder_input_ids"
_REFUSALS: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ArithmeticError, AttributeError, LookupError, TypeError)
"""What optimum and ONNX Runtime raise on an export that they cannot load."""


class _OnnxRuntimeModel(Model):
    """A model of one graph, or of an encoder and its decoders, in the stock class for it."""

    def __init__(self, path: Path, threads: int | None) -> None:
        way = route(load_config(path))
        self.stock = load_stock(path, threads)
        self.config = self.stock.config
        self.processor = load_processor(path)
        # the source may know its decoder's tokens by another name
        forward = inspect.signature(model_class(self.config).forward).parameters
        self._ids = _DECODER_IDS if _DECODER_IDS in forward else "input_ids"
        self._fixed = {"use_cache": False} if way.has_several_files else {}
        self.inputs = frozenset(
            [*self.stock.encoder.input_names, self._ids] if way.has_several_files else self.stock.input_names
        )

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        given = with_masks(inputs, self.inputs)
        if self._fixed and self._ids in given:
            given[_DECODER_IDS] = given.pop(self._ids)
        outputs = self.stock(**given, **self._fixed)
        return {name: value for name, value in outputs.items() if isinstance(value, np.ndarray)}


class _Towers(Model):
    """A dual encoder whose towers are graphs of their own, each in a stock class."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.config = load_config(path)
        self.stock = {
            output: _load(ORTModelForCustomTasks, path, threads, file_name=graph.name)
            for output, graph in tower_graphs(path / ONNX_FOLDER).items()
        }
        self.processor = load_processor(path)
        self.inputs = frozenset(name for tower in self.stock.values() for name in tower.input_names)

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run each tower whose inputs are given."""
        given = with_masks(inputs, self.inputs)
        found: dict[str, np.ndarray[Any, Any]] = {}
        for output, tower in self.stock.items():
            if given.keys() >= set(tower.input_names):
                found[output] = tower(**{name: given[name] for name in tower.input_names})[output]
        return found


class OnnxRuntime(Runtime):
    """Runs ONNX exports in ONNX Runtime on the CPU."""

    format: ClassVar[Format] = "onnx"
    extra: ClassVar[str | None] = "onnxruntime"

    def load(self, path: Path, threads: int | None = None) -> Model:
        """Load an export with the optimum class for its architecture; towers that stand alone each with one."""
        return _Towers(path, threads) if _is_towers(path) else _OnnxRuntimeModel(path, threads)

    def export(self, checkpoint: Checkpoint, output: Path, layout: Layout = "combined") -> Checkpoint:
        """Export to ONNX in float32: graphs under `onnx/`, configuration and processor beside them.

        Args:
            checkpoint: A transformers checkpoint, its weights in any type.
            output: The folder for the export.
            layout: A dual encoder in one graph, in one for each tower, or both.

        Raises:
            QuantizationError: Nobody exports the architecture, or it has no towers.
        """
        config = load_config(checkpoint.path)
        check_layout(config, layout)
        described = export_graphs(checkpoint.path, config, output / ONNX_FOLDER)
        lay_out(output / ONNX_FOLDER, config, layout)
        # the graphs have the shapes of the record, and need no one to narrow them
        with_record(described, None).save_pretrained(output)
        copy_processor(checkpoint.path, output)
        return Checkpoint(output, "onnx")

    def describe(self, config: PretrainedConfig) -> str:
        """Say under which task the model is exported, and by whose configuration."""
        way = route(config)
        by = "optimum" if way.export is None else "optimum, with an export of hfcompress's registry,"
        return f"exported by {by} as {way.task}"

    def load_class(self, path: Path) -> str:
        """Return optimum's class for the architecture."""
        stock = ORTModelForCustomTasks if _is_towers(path) else route(load_config(path)).stock
        return f"optimum.onnxruntime.{stock.__name__}"


def load_stock(path: Path, threads: int | None = None) -> ORTModel:
    """Load the graphs of an export that stand for the whole model, with the optimum class for its architecture.

    Args:
        path: The export: graphs under `onnx/`, configuration beside them.
        threads: Threads that a call may use; all that the runtime wants by default.

    Raises:
        CheckpointError: The class cannot load the graphs.
    """
    way = route(load_config(path))
    combined = sorted((path / ONNX_FOLDER).glob("model*.onnx"))
    named = {"file_name": combined[0].name} if combined and not way.has_several_files else {}
    return _load(way.stock, path, threads, **named)


def check_layout(config: PretrainedConfig, layout: Layout) -> None:
    """Check that a model can be exported in a layout, from its configuration alone.

    Raises:
        QuantizationError: It has no towers to export apart.
    """
    if layout != "combined" and not is_dual_encoder(config):
        msg = (
            f"`layout: {layout}` is for dual encoders, and a {model_class(config).__name__} is none; "
            f"use `layout: combined`"
        )
        raise QuantizationError(msg)


def _is_towers(path: Path) -> bool:
    graphs = path / ONNX_FOLDER
    return bool(tower_graphs(graphs)) and not any(graphs.glob("model*.onnx"))


def _load(stock: type[ORTModel], path: Path, threads: int | None, **files: str) -> ORTModel:
    check_external_data(path)  # not every version of ONNX Runtime stays in the folder
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
        # idle workers that spin would slow down whatever runs beside this session
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return stock.from_pretrained(
            path,
            provider="CPUExecutionProvider",
            session_options=options,
            trust_remote_code=is_trusted(path),
            **files,
        )
    except _REFUSALS as error:
        msg = f"{stock.__name__} cannot load {path}: {error}"
        raise CheckpointError(msg) from error
