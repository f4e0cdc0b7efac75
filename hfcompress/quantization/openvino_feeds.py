"""What each graph of an OpenVINO export is given when rows pass through the real pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from openvino import Tensor
from optimum.intel.openvino.modeling_visual_language import OVModelForVisualCausalLM
from optimum.intel.openvino.quantization import InferRequestWrapper

from hfcompress.errors import DataError, QuantizationError
from hfcompress.inputs import load_processor, load_tokenizer, row_inputs
from hfcompress.runtimes.openvino import load_stock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optimum.intel.openvino.modeling_base import OVBaseModel

    from hfcompress.contracts import Progress, Rows

__all__ = ["GraphInputs", "graph_inputs"]

_NEW_TOKENS = 32
"""Tokens that a decoder writes for each batch, so that it is calibrated on what it reads later in a text too."""


class GraphInputs:
    """The inputs of one graph, made anew from the rows at every iteration, so that no more than a batch is in memory.

    Args:
        pipeline: Makes the inputs of all graphs from a batch of rows.
        graph: Name of the graph, as optimum-intel has it ("lm_model").
        rows: Calibration rows.
        batch_size: Rows that go through the pipeline at once.
        progress: Hears how many batches are done.
    """

    def __init__(self, pipeline: Pipeline, graph: str, rows: Rows, batch_size: int, progress: Progress) -> None:
        self._pipeline, self._graph = pipeline, graph
        self._rows, self._progress = rows, progress
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over what the graph is given, in order."""
        size = self._batch_size
        batches = self._progress.track(self._rows.batches(size), -(-len(self._rows) // size), f"{self._graph} batches")
        for batch in batches:
            yield from self._pipeline.inputs_of(self._graph, batch)


class Pipeline:
    """The float32 model at work: tells what each of its graphs is given for a batch of rows.

    Args:
        path: The float32 export.
    """

    def __init__(self, path: Path) -> None:
        self._stock = load_stock(path)
        self._processor = load_processor(path)
        self._tokenizer = None
        if isinstance(self._stock, OVModelForVisualCausalLM):
            self._tokenizer = load_tokenizer(path)
        self.graphs: tuple[str, ...] = tuple(self._stock._ov_model_names)  # noqa: SLF001 - nowhere else are they named

    def inputs_of(self, graph: str, batch: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """Return each set of inputs that a graph is called with while a batch passes through.

        Args:
            graph: Name of the graph.
            batch: Columns of rows.

        Raises:
            DataError: The rows lack what the model reads.
        """
        if self.graphs == ("model",):
            return [dict(row_inputs(self._processor, set(self._stock.input_names), batch))]
        with _recorded(self._stock, graph) as calls:
            if isinstance(self._stock, OVModelForVisualCausalLM):
                self._answer(batch)
            else:
                self._write(batch)
        for call in calls:
            _check_finite(graph, call)
        return calls

    def check(self, batch: dict[str, list[Any]]) -> None:
        """Check that a model of one graph gives finite outputs; NNCF takes infinite activations for absent ones.

        Raises:
            QuantizationError: It does not.
            DataError: The rows lack what the model reads.
        """
        if self.graphs == ("model",):
            (inputs,) = self.inputs_of("model", batch)
            outputs = self._stock(**{name: torch.from_numpy(array) for name, array in inputs.items()})
            _check_finite("model", outputs)

    def _answer(self, batch: dict[str, list[Any]]) -> None:
        """Let a vision-language model read each row's image and text together, in the form that it was trained on.

        Raises:
            DataError: The rows have no texts or no images.
        """
        if missing := {"image", "text"} - batch.keys():
            msg = (
                f"the model reads images and texts together, and the rows have no column {', '.join(sorted(missing))}; "
                f"map the dataset's columns with `columns: {{image: ..., text: ...}}`"
            )
            raise DataError(msg)
        for image, text in zip(batch["image"], batch["text"], strict=True):
            inputs = self._stock.preprocess_inputs(
                text=text,
                image=image.convert("RGB"),
                processor=self._processor,
                tokenizer=self._tokenizer,
                config=self._stock.config,
            )
            self._stock(**inputs)

    def _write(self, batch: dict[str, list[Any]]) -> None:
        """Let an encoder read the rows, and its decoder write what comes of them."""
        inputs = row_inputs(self._processor, {self._stock.main_input_name}, batch)
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        places = getattr(self._stock.config, "max_target_positions", None) or 2 * _NEW_TOKENS
        self._stock.generate(**tensors, max_new_tokens=min(_NEW_TOKENS, places // 2))


def graph_inputs(path: Path, rows: Rows, batch_size: int, progress: Progress) -> dict[str, GraphInputs]:
    """Return the calibration inputs of every graph of a float32 export, by optimum-intel's names of the graphs.

    Args:
        path: The export.
        rows: Calibration rows.
        batch_size: Rows that go through the pipeline at once.
        progress: Hears how many batches are done.

    Raises:
        QuantizationError: An activation is not finite.
        DataError: The rows lack what the model reads.
    """
    pipeline = Pipeline(path)
    for batch in progress.track(rows.batches(batch_size), -(-len(rows) // batch_size), "float32 batches"):
        pipeline.check(batch)
    return {graph: GraphInputs(pipeline, graph, rows, batch_size, progress) for graph in pipeline.graphs}


def _check_finite(graph: str, values: Any) -> None:  # noqa: ANN401 - by name, or the one that there is
    for name, value in values.items() if isinstance(values, Mapping) else [("input", values)]:
        array = np.asarray(value.data if isinstance(value, Tensor) else value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            msg = (
                f"the activation {name} of {graph} is not finite on the calibration rows, so it has no range to "
                f"quantize to"
            )
            raise QuantizationError(msg)


@contextmanager
def _recorded(stock: OVBaseModel, graph: str) -> Iterator[list[dict[str, Any]]]:
    """Note what a graph is called with inside the block."""
    owner, attribute = _place(stock, graph)
    calls: list[dict[str, Any]] = []
    request = getattr(owner, attribute)
    setattr(owner, attribute, InferRequestWrapper(request, calls))
    try:
        yield calls
    finally:
        setattr(owner, attribute, request)


def _place(stock: OVBaseModel, graph: str) -> tuple[Any, str]:
    """Return the object that runs a graph, and its attribute that holds the request."""
    if graph == "lm_model":
        return stock.language_model, "request"
    if graph == "text_embeddings_model":
        return stock.language_model, "text_emb_request"
    part = stock.components.get(graph) or stock.components[graph.removesuffix("_model")]
    return part, "request"
